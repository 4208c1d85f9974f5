"""Rules that rows keep, all of them or most, and that drawn rows keep as often."""

from __future__ import annotations

import logging
from collections.abc import Set as AbstractSet
from itertools import chain
from typing import Annotated

from pydantic import SerializeAsAny

from kan_diffusion.errors import DataError, listed
from kan_diffusion.settings import of_kind
from kan_diffusion.tables.rules.absent import Absent
from kan_diffusion.tables.rules.age import Age
from kan_diffusion.tables.rules.base import MOST_SOUGHT, Broken, Rows, Rule
from kan_diffusion.tables.rules.cycle import Cycle
from kan_diffusion.tables.rules.linear import Linear
from kan_diffusion.tables.rules.mending import obey, settle
from kan_diffusion.tables.rules.numeric import beyond
from kan_diffusion.tables.rules.order import Order
from kan_diffusion.tables.rules.part import Part
from kan_diffusion.tables.rules.product import Product
from kan_diffusion.tables.rules.rated import Rated
from kan_diffusion.tables.rules.selection import select
from kan_diffusion.tables.rules.together import Implied, Together

logger = logging.getLogger("kan_diffusion.tables")

__all__ = ["RULES", "AnyRule", "Broken", "Rows", "Rule", "beyond", "find_rules", "obey", "settle"]

RULES: dict[str, type[Rule]] = {
    "linear": Linear,
    "product": Product,
    "part": Part,
    "age": Age,
    "implied": Implied,
    "rated": Rated,
    "order": Order,
    "together": Together,
    "cycle": Cycle,
    "absent": Absent,
}
"""Rules by name, in the order in which they are found."""

AnyRule = Annotated[SerializeAsAny[Rule], of_kind("rule", RULES)]
"""A rule of any kind, which a file tells by its name."""


def find_rules(rows: Rows, without: AbstractSet[str] = frozenset()) -> tuple[Rule, ...]:
    """Finds the rules that rows keep, but for those with a name in ``without``.

    Raises:
        DataError: There is no rule of such a name.
    """
    if (num := len(rows.columns)) > MOST_SOUGHT:
        logger.warning(
            f"rules are sought among the first {MOST_SOUGHT} columns of numbers and of categories "
            f"alone, of {num:,}"
        )
    found = [rule for kind in RULES.values() for rule in kind.find(rows)]
    names = [rule.names(rows.columns) for rule in found]
    for name in without:
        if name not in (known := [*chain.from_iterable(names)]):
            raise DataError(f"there is no rule '{name}'; known: {listed(known) or 'none'}")
    wanted = (r for r, said in zip(found, names, strict=True) if without.isdisjoint(said))
    return tuple(select(wanted, rows))
