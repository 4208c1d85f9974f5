"""Rules that hold in every row trained on, and are kept in every row that is drawn."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Annotated

import numpy as np
from pydantic import SerializeAsAny

from kan_diffusion.errors import DataError, listed
from kan_diffusion.settings import of_kind
from kan_diffusion.tables.rules.base import Rows, Rule
from kan_diffusion.tables.rules.implied import Implied
from kan_diffusion.tables.rules.numeric import Order, Total

__all__ = ["RULES", "AnyRule", "Rows", "Rule", "find_rules", "obey"]

RULES: dict[str, type[Rule]] = {"implied": Implied, "total": Total, "order": Order}
"""Rules by name, in the order in which they are found."""

_MOST_ROUNDS = 20  # in which a repair may break what another one has repaired


AnyRule = Annotated[SerializeAsAny[Rule], of_kind("rule", RULES)]
"""A rule of any kind, which a file tells by its name."""


def find_rules(rows: Rows, without: Collection[str] = ()) -> tuple[Rule, ...]:
    """Finds the rules that all rows obey, but for those with a name in ``without``.

    Raises:
        DataError: There is no rule of such a name.
    """
    rules: list[Rule] = []
    for kind in RULES.values():
        decided = {place for rule in rules for place in rule.decided}
        known = [decided, *({*rule.places} for rule in rules)]
        # Between columns that others decide, and among those of another rule, nothing is new.
        rules += [
            rule
            for rule in kind.find(rows)
            if not any(each.issuperset(rule.places) for each in known)
        ]
    names = [str(column.name) for column in rows.columns]
    always = [name for rule in rules for name in rule.names(names)]
    for name in without:
        if name not in always:
            raise DataError(f"no rule '{name}' holds in all rows; known: {listed(always)}")
    left = (rule.without(without, names) for rule in rules)
    return tuple(rule for rule in left if rule is not None)


def obey(rows: Rows, rules: Sequence[Rule], given: np.ndarray) -> None:
    """Changes cells that are not ``given``, (n, columns), so that rows obey all rules.

    Raises:
        DataError: A dtype has no room for what follows from given cells.
    """
    decided = {place for rule in rules for place in rule.decided}
    for _ in range(_MOST_ROUNDS):
        broken = [rule for rule in rules if not rule.holds(rows).all()]
        for rule in broken:
            stays = given.copy()
            stays[:, [*decided.difference(rule.decided)]] = True
            rule.repair(rows, stays)
        if not broken:
            break
