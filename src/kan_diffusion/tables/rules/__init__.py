"""Rules that rows keep, all of them or most, and that drawn rows keep as often."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from collections.abc import Set as AbstractSet
from itertools import chain
from typing import Annotated

import numpy as np
from pydantic import SerializeAsAny

from kan_diffusion.errors import DataError, listed
from kan_diffusion.limits import MOST_CODES, MOST_RULES
from kan_diffusion.settings import of_kind
from kan_diffusion.tables.rules.absent import Absent
from kan_diffusion.tables.rules.base import MOST_SOUGHT, Broken, Places, Rows, Rule
from kan_diffusion.tables.rules.cycle import Cycle
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
    "implied": Implied,
    "rated": Rated,
    "order": Order,
    "together": Together,
    "cycle": Cycle,
    "absent": Absent,
}
"""Rules by name, in the order in which they are found."""

_MOST_SHUFFLED = 2_000  # rows that tell whether one rule implies another
_NEARLY_ALWAYS = 0.95  # share of rows that keep a rule beside which another says nothing new

AnyRule = Annotated[SerializeAsAny[Rule], of_kind("rule", RULES)]
"""A rule of any kind, which a file tells by its name."""


def find_rules(rows: Rows, without: AbstractSet[str] = frozenset()) -> tuple[Rule, ...]:
    """Finds the rules that rows keep, but for those with a name in ``without``.

    Each column depends on others by one rule at most, and not on itself, so that rules come in an
    order in which columns come before those that depend on them. A rule that follows from others
    has no column left to tell. Of rules that tell one column, the surest counts, and what cells
    imply that follow from others counts last.

    Raises:
        DataError: There is no rule of such a name.
    """
    if (num := len(rows.columns)) > MOST_SOUGHT:
        logger.warning(
            f"rules are sought among the first {MOST_SOUGHT} columns of numbers and of categories "
            f"alone, of {num:,}"
        )
    rules: list[Rule] = []
    behind: dict[int, set[int]] = {}  # what each dependent column follows from, and that in turn
    roots = {place: {place} for place in range(len(rows.columns))}  # and what it nearly always does
    known: list[Rule] = []
    names: list[str] = []
    left_out = 0
    found = [rule for kind in RULES.values() for rule in kind.find(rows)]
    found.sort(key=_order_found)
    late: list[Rule] = []
    for number, rule in enumerate(chain(found, late)):
        places = {*rule.places}
        is_of_followers = not behind.keys().isdisjoint(places.difference(rule.dependent))
        if rule.dependent and is_of_followers and number < len(found):
            late.append(rule)
            continue
        names += (said := rule.names(rows.columns))
        if not without.isdisjoint(said):
            continue
        if rule.is_of_gaps:
            has_room = _has_room(rules, rule)
            rules += [rule] if has_room else []
            left_out += not has_room
            continue
        if not rule.is_relation:
            rules += [] if places & {*behind} or not _has_room(rules, rule) else [rule]
            continue
        choices, is_weak = rule.choices(rows), rule.kept < _NEARLY_ALWAYS
        beside = [each for each in known if places.issubset(each.places)]
        if choices[0]:
            is_known = is_weak and bool(beside)
        else:  # it tells no column
            is_known = any(_implies(each, rule, rows) for each in beside)
        if is_known or len(set().union(*(roots[place] for place in places))) < 2:
            continue
        free = (each for each in choices if _is_free(rule, each, behind))
        if (dependent := next(free, None)) is None:
            continue
        if not _has_room(rules, rule):
            left_out += 1
            continue
        rule = rule.model_copy(update={"dependent": dependent})
        rules.append(rule)
        parts = places.difference(dependent)
        _follow(behind, dependent, _behind(parts, behind))
        if dependent and not is_weak:
            known.append(rule)
            if not rule.is_rounded:
                _follow(roots, dependent, set().union(*(roots[place] for place in parts)))
                roots = {place: each.difference(dependent) for place, each in roots.items()}
    if left_out:
        logger.warning(f"{left_out:,} rules more than a table may have are left out")
    for name in without:
        if name not in names:
            raise DataError(f"there is no rule '{name}'; known: {listed(names) or 'none'}")
    return tuple(sorted(joined(rules), key=lambda rule: _order_kept(rule, behind)))


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


def _order_kept(rule: Rule, behind: dict[int, set[int]]) -> int:
    """Sorts rules of columns that nothing tells, or fewer do, before those of others."""
    places = _behind(rule.places, behind)
    adapts = rule.dependent or rule.is_loose or places != {*rule.places}
    return len(places) if adapts else 0


def _order_found(rule: Rule) -> tuple[bool, ...]:
    """Sorts relations first, of these what all or nearly all rows keep, and that exactly.

    What cells imply comes last, as many different sums imply their parts by chance.
    """
    is_weak, is_rounded = rule.kept < _NEARLY_ALWAYS, rule.is_rounded
    is_listed = isinstance(rule, Together)
    return not rule.is_relation, is_weak, rule.kept < 1 and is_rounded, is_listed, is_rounded


def _has_room(rules: Sequence[Rule], rule: Rule) -> bool:
    """Whether one more rule is not too many, nor are the cells that all list."""
    if len(rules) >= MOST_RULES:
        return False
    return not rule.size or sum(each.size for each in [*rules, rule]) <= MOST_CODES


def _follow(those: dict[int, set[int]], dependent: Collection[int], parts: set[int]) -> None:
    """Lets columns follow from ``parts``, and so do all that follow from these columns."""
    for place, others in those.items():
        if not others.isdisjoint(dependent):
            those[place] = others | parts
    those |= dict.fromkeys(dependent, parts)


def _behind(places: Collection[int], behind: dict[int, set[int]]) -> set[int]:
    """Returns columns and all that they follow from."""
    return {*places}.union(*(behind.get(place, ()) for place in places))


def _is_free(rule: Rule, dependent: Places, behind: dict[int, set[int]]) -> bool:
    """Whether no rule tells columns yet, and none of the others follows from them."""
    parts = _behind({*rule.places} - {*dependent}, behind)
    return behind.keys().isdisjoint(dependent) and parts.isdisjoint(dependent)
