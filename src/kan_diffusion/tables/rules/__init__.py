"""Rules that rows keep, all of them or most, and that drawn rows keep as often."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from itertools import chain
from typing import Annotated

import numpy as np
from pydantic import SerializeAsAny

from kan_diffusion.errors import DataError, listed
from kan_diffusion.limits import MOST_CODES, MOST_RULES
from kan_diffusion.settings import of_kind
from kan_diffusion.tables.rules.absent import Absent
from kan_diffusion.tables.rules.age import Age
from kan_diffusion.tables.rules.base import MOST_SOUGHT, Broken, Places, Rows, Rule
from kan_diffusion.tables.rules.cycle import Cycle
from kan_diffusion.tables.rules.dependence import Dependence
from kan_diffusion.tables.rules.linear import Linear
from kan_diffusion.tables.rules.mending import obey, settle
from kan_diffusion.tables.rules.numeric import beyond
from kan_diffusion.tables.rules.order import Order
from kan_diffusion.tables.rules.part import Part
from kan_diffusion.tables.rules.product import Product
from kan_diffusion.tables.rules.rated import Rated
from kan_diffusion.tables.rules.together import Implied, Together, joined

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

_MOST_SHUFFLED = 2_000  # rows that tell whether one rule implies another

AnyRule = Annotated[SerializeAsAny[Rule], of_kind("rule", RULES)]
"""A rule of any kind, which a file tells by its name."""


def find_rules(rows: Rows, without: AbstractSet[str] = frozenset()) -> tuple[Rule, ...]:
    """Finds the rules that rows keep, but for those with a name in ``without``.

    Of rules that tell one column, the surest counts, and what cells imply that follow from others
    counts last. Where one that all rows keep finds no column to tell, another may leave it one.

    Raises:
        DataError: There is no rule of such a name.
    """
    if (num := len(rows.columns)) > MOST_SOUGHT:
        logger.warning(
            f"rules are sought among the first {MOST_SOUGHT} columns of numbers and of categories "
            f"alone, of {num:,}"
        )
    told = Dependence(len(rows.columns))
    names: list[str] = []
    left_out = 0
    found = [rule for kind in RULES.values() for rule in kind.find(rows)]
    found.sort(key=_order_found)
    late: list[Rule] = []
    for number, rule in enumerate(chain(found, late)):
        is_late = number >= len(found)
        if rule.dependent and told.is_of_followers(rule) and not is_late:
            late.append(rule)
            continue
        names += (said := rule.names(rows.columns))
        if not without.isdisjoint(said):
            continue
        choices: Sequence[Places] = [rule.dependent]
        may_move = False
        if rule.is_relation and not rule.is_of_gaps:
            choices = rule.choices(rows)
            beside = [each for each in told.known if {*rule.places} <= {*each.places}]
            if choices[0]:
                is_known = rule.is_weak and bool(beside)
            else:  # it tells no column
                surer = (each for each in beside if each.kept == 1 or rule.kept < 1)
                is_known = any(_implies(each, rule, rows) for each in surer)
            if is_known or told.is_of_one(rule):
                continue
            may_move = rule.kept == 1 and not (is_late or beside or _follows(rule, found, rows))
        elif not (rule.is_relation or told.behind.keys().isdisjoint(rule.places)):
            continue
        if (extended := told.extended(rule, choices, rows, may_move)) is None:
            continue
        if _has_room(told.rules, rule):
            told = extended
        else:
            left_out += 1
    if left_out:
        logger.warning(f"{left_out:,} rules more than a table may have are left out")
    for name in without:
        if name not in names:
            raise DataError(f"there is no rule '{name}'; known: {listed(names) or 'none'}")
    return tuple(sorted(joined(told.rules), key=lambda rule: _order_kept(rule, told)))


def _follows(rule: Rule, others: Sequence[Rule], rows: Rows) -> bool:
    """Whether a column of a rule follows from its others also by what all rows keep exactly."""
    exact = [each for each in others if each.kept == 1 and not each.is_rounded and each != rule]
    steps = [step for each in exact for step in each.following(rows.columns).items()]
    for place in set().union(*rule.choices(rows)):
        known: set[int] = {*rule.places} - {place}
        size = 0
        while size < len(known):
            size = len(known)
            known |= {told for told, parts in steps if parts <= known}
        if place in known:
            return True
    return False


def _implies(relation: Rule, rule: Rule, rows: Rows) -> bool:
    """Whether rows that keep a relation keep a rule of its columns, too, as often as the data.

    The columns of some rows are shuffled, each by itself, and those that depend on them are
    computed, so that nothing but the relation and the range of each column holds.
    """
    random = np.random.default_rng(0)
    known = np.flatnonzero(rows.known(relation.places))
    some = rows.take(random.permutation(known)[:_MOST_SHUFFLED], relation.places)
    num = min(len(known), _MOST_SHUFFLED)
    for place in {*relation.places}.difference(relation.dependent):
        some = some.take(random.permutation(num), [place])
    stays = np.ones((num, len(rows.columns)), dtype=bool)
    stays[:, [*relation.dependent]] = False
    relation.untell(some, Broken(np.arange(num), stays))
    broken = relation.holds(some) & ~rule.holds(some)
    return bool(broken.mean() <= 1 - rule.kept)


def _order_kept(rule: Rule, told: Dependence) -> int:
    """Sorts rules of columns that nothing tells, or fewer do, before those of others."""
    places = told.all_behind(rule.places)
    adapts = rule.dependent or rule.is_loose or places != {*rule.places}
    return len(places) if adapts else 0


def _order_found(rule: Rule) -> tuple[bool, ...]:
    """Sorts relations first, of these what all or nearly all rows keep, and that exactly.

    What cells imply comes last, as many different sums imply their parts by chance.
    """
    has_exceptions = rule.kept < 1
    is_less, is_listed = has_exceptions and rule.is_rounded, isinstance(rule, Together)
    order = rule.is_weak, is_less, is_listed, rule.is_rounded, has_exceptions
    return not rule.is_relation, *order


def _has_room(rules: Sequence[Rule], rule: Rule) -> bool:
    """Whether one more rule is not too many, nor are the cells that all list."""
    if len(rules) >= MOST_RULES:
        return False
    return not rule.size or sum(each.size for each in [*rules, rule]) <= MOST_CODES
