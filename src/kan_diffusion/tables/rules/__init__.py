"""Rules that rows keep, all of them or most, and that drawn rows keep as often."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from collections.abc import Set as AbstractSet
from typing import Annotated

import numpy as np
from pydantic import SerializeAsAny

from kan_diffusion.errors import DataError, listed
from kan_diffusion.limits import MOST_CODES, MOST_RULES
from kan_diffusion.settings import of_kind
from kan_diffusion.tables.rules.base import MOST_SOUGHT, Broken, Places, Rows, Rule
from kan_diffusion.tables.rules.cycle import Cycle
from kan_diffusion.tables.rules.linear import Linear
from kan_diffusion.tables.rules.numeric import numbers
from kan_diffusion.tables.rules.order import Order
from kan_diffusion.tables.rules.part import Part
from kan_diffusion.tables.rules.product import Product
from kan_diffusion.tables.rules.together import Implied, Together, joined

logger = logging.getLogger("kan_diffusion.tables")

__all__ = ["RULES", "AnyRule", "Broken", "Rows", "Rule", "find_rules", "obey", "settle"]

RULES: dict[str, type[Rule]] = {
    "linear": Linear,
    "product": Product,
    "part": Part,
    "implied": Implied,
    "order": Order,
    "together": Together,
    "cycle": Cycle,
}
"""Rules by name, in the order in which they are found."""

_NEARLY_ALWAYS = 0.95  # share of rows that keep a rule beside which another says nothing new
MOST_ROUNDS = 20  # in which a rule may break what another one has mended
_PATIENT_ROUNDS = 2  # in which no rule changes what others tell
_STUBBORN_ROUNDS = 6  # in which cells stay that a rule has changed for its sake
_MOST_OTHERS = 30  # rows whose cells one takes that cannot be mended
_MOST_VAIN = 5  # of them, one after another, that mend no row
_FEW_ROUNDS = 10  # for each of them
_NOBODY = -1

AnyRule = Annotated[SerializeAsAny[Rule], of_kind("rule", RULES)]
"""A rule of any kind, which a file tells by its name."""


def find_rules(rows: Rows, without: AbstractSet[str] = frozenset()) -> tuple[Rule, ...]:
    """Finds the rules that rows keep, but for those with a name in ``without``.

    Each column depends on others by one rule at most, and not on itself, so that rules come in an
    order in which columns come before those that depend on them. A rule that follows from others
    has no column left to tell.

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
    known: list[set[int]] = []
    names: list[str] = []
    left_out = 0
    found = [rule for kind in RULES.values() for rule in kind.find(rows)]
    # What nearly all rows keep, and to the last digit, comes before what says less.
    for rule in sorted(found, key=_order):
        names += (said := rule.names(rows.columns))
        if not without.isdisjoint(said):
            continue
        places = {*rule.places}
        if not rule.is_relation:
            rules += [] if places & {*behind} or not _has_room(rules, rule) else [rule]
            continue
        choices, is_weak = rule.choices(rows), rule.kept < _NEARLY_ALWAYS
        is_known = (is_weak or not choices[0]) and any(each >= places for each in known)
        if is_known or len(set().union(*(roots[place] for place in places))) < 2:
            continue
        free = (each for each in choices if _is_free(rule, each, behind))
        if (dependent := next(free, None)) is None:
            continue
        if not _has_room(rules, rule):
            left_out += 1
            continue
        rules.append(rule.model_copy(update={"dependent": dependent}))
        parts = places.difference(dependent)
        _follow(behind, dependent, _behind(parts, behind))
        if dependent and not is_weak:
            known.append(places)
            if not rule.is_rounded:
                _follow(roots, dependent, set().union(*(roots[place] for place in parts)))
                roots = {place: each.difference(dependent) for place, each in roots.items()}
    if left_out:
        logger.warning(f"{left_out:,} rules more than a table may have are left out")
    for name in without:
        if name not in names:
            raise DataError(f"there is no rule '{name}'; known: {listed(names) or 'none'}")
    return tuple(sorted(joined(rules), key=lambda rule: _rank(rule, behind)))


def _rank(rule: Rule, behind: dict[int, set[int]]) -> int:
    """Returns a number by which columns that nothing tells, or fewer do, come before others."""
    places = _behind(rule.places, behind)
    adapts = rule.dependent or rule.is_loose or places != {*rule.places}
    return len(places) if adapts else 0


def _order(rule: Rule) -> tuple[bool, bool, bool]:
    """Returns what is false of rules that come first."""
    return not rule.is_relation, rule.kept < _NEARLY_ALWAYS, rule.is_rounded


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


def obey(
    rows: Rows,
    rules: Sequence[Rule],
    coordinates: Sequence[np.ndarray],
    given: np.ndarray,
    rounds: int = MOST_ROUNDS,
) -> dict[str, int]:
    """Changes cells that are not given so that rows keep to the coordinates of all rules.

    A row that cannot be mended takes the cells of others instead. One with a settled number beyond
    the range of its column may leave those of others at last.

    Args:
        rows: The rows.
        rules: What they keep.
        coordinates: Those of each rule, (n, how many).
        given: Which cells have to stay, (n, columns).
        rounds: In how many rounds rules are mended that others break.

    Returns:
        How many rows break rules that all rows should keep, by their names, since no way to keep
        them was found; without rows of which all cells of a rule are given.

    Raises:
        DataError: A column cannot have what follows from given cells.
    """
    settled, every = settle(rows, rules, coordinates, given), np.arange(len(given))
    for rule, said in zip(rules, coordinates, strict=True):
        if not rule.is_relation:
            rule.untell(rows, Broken(every, said, settled))
    _mend(rows, rules, coordinates, settled, rounds)
    wrong, vain, further = np.flatnonzero(_unmended(rows, rules, coordinates, settled)), 0, 0
    while len(wrong) and vain < _MOST_VAIN and further < min(_MOST_OTHERS, len(every) - 1):
        further += 1
        part, others = rows.take(wrong), (wrong + further) % len(every)
        parts, stays = [said[wrong] for said in coordinates], settled[wrong]
        for (values, gaps), (theirs, are_gaps), stay in zip(
            part.cells, rows.cells, stays.T, strict=True
        ):
            taken = ~(stay | gaps | are_gaps[others])
            values[taken] = theirs[others[taken]]
        _mend(part, rules, parts, stays, min(rounds, _FEW_ROUNDS))
        for place in range(len(part.cells)):
            rows.change(place, wrong, part.values(place))
        left = wrong[_unmended(part, rules, parts, stays)]
        vain = vain + 1 if len(left) == len(wrong) else 0
        wrong = left
    if len(wrong := wrong[_is_beyond(rows.take(wrong), settled[wrong])]):
        part, parts = rows.take(wrong), [said[wrong] for said in coordinates]
        _mend(part, rules, parts, settled[wrong], rounds, is_beyond=True)
        for place in range(len(part.cells)):
            rows.change(place, wrong, part.values(place))
    broken = {}
    for rule, said in zip(rules, coordinates, strict=True):
        if count := int(_unmended(rows, [rule], [said], given).sum()):
            broken[", ".join(rule.names(rows.columns))] = count
    return broken


def _is_beyond(rows: Rows, settled: np.ndarray) -> np.ndarray:
    """Tells in which rows (n,) a settled number is beyond the range of its column."""
    result = np.zeros(len(settled), dtype=bool)
    for place, column in numbers(rows, exact=False).items():
        low, high = column.lattice.values(np.array([-np.inf, np.inf]), column.storage.value_dtype)
        values = rows.values(place)
        result |= settled[:, place] & ((values < low) | (values > high))
    return result


def _unmended(
    rows: Rows, rules: Sequence[Rule], coordinates: Sequence[np.ndarray], stays: np.ndarray
) -> np.ndarray:
    """Tells which rows (n,) break rules without exceptions of which not all cells have to stay."""
    wrong = np.zeros(len(stays), dtype=bool)
    for rule, said in zip(rules, coordinates, strict=True):
        if rule.kept == 1:
            wrong |= rule.broken(rows, said) & ~stays[:, rule.places].all(axis=1)
    return wrong


def _mend(
    rows: Rows,
    rules: Sequence[Rule],
    coordinates: Sequence[np.ndarray],
    settled: np.ndarray,
    rounds: int,
    is_beyond: bool = False,
) -> None:
    """Mends rules that rows (n,) break, but for cells that are settled, (n, columns).

    Cells that a rule changes although it does not tell them stay for its sake: other rules leave
    them for some rounds. Those that others tell are changed when all else has been tried; columns
    leave their ranges only if ``is_beyond``.
    """
    dependent = {place for rule in rules for place in rule.dependent}
    bound = {place for rule in rules if rule.kept == 1 for place in rule.places}
    holder = np.full(settled.shape, _NOBODY)  # the rule for whose sake a cell stays
    is_loose = np.array([rule.is_loose for rule in rules] + [True])
    for turn in range(rounds):
        is_done, has_moved = True, turn < _PATIENT_ROUNDS
        for number, (rule, said) in enumerate(zip(rules, coordinates, strict=True)):
            broken = first = np.flatnonzero(rule.broken(rows, said))
            before = [rows.values(place)[first] for place in rule.places]
            elsewhere = dependent.difference(rule.dependent)
            # What has exceptions does not meddle with what has none.
            beyond = set() if rule.kept == 1 else bound.difference(rule.dependent)
            ways = ((elsewhere | beyond, False), (beyond, True))
            for others, is_last in ways[: 1 if turn < _PATIENT_ROUNDS else 2]:
                if len(broken):
                    is_done, stays = False, settled[broken]
                    if not rule.is_partial:
                        held = ~np.isin(holder[broken], (_NOBODY, number))
                        if is_last and rule.dependent:  # what follows takes what room there is
                            held &= ~is_loose[holder[broken]] & (turn < _STUBBORN_ROUNDS)
                        stays |= held
                    stays[:, [*others]] = True
                    known = settled[broken] if is_last and is_beyond else None
                    rule.untell(rows, Broken(broken, said[broken], stays, known))
                    broken = broken[rule.broken(rows.take(broken, rule.places), said[broken])]
            for place, values in zip(rule.places, before, strict=True):
                changed = first[rows.values(place)[first] != values]
                has_moved |= len(changed) > 0
                if place in elsewhere or not (rule.is_loose or place in rule.dependent):
                    holder[changed, place] = number
        if is_done or not has_moved:
            break


def settle(
    rows: Rows, rules: Sequence[Rule], coordinates: Sequence[np.ndarray], given: np.ndarray
) -> np.ndarray:
    """Sets cells that follow from given ones by what all rows keep; returns which have to stay.

    Arguments and errors are those of :func:`obey`.
    """
    fixed = given.copy()
    for _ in range(MOST_ROUNDS if given.any() else 0):
        before = fixed.sum()
        for rule, said in zip(rules, coordinates, strict=True):
            following = rule.following(rows.columns) if rule.kept == 1 else {}
            for place, parts in following.items():
                follows = fixed[:, [*parts]].all(axis=1) & ~fixed[:, place]
                follows &= rows.known(rule.places)
                broken = np.flatnonzero(follows & rule.broken(rows, said))
                if len(broken):
                    stays = np.ones((len(broken), given.shape[1]), dtype=bool)
                    stays[:, place] = False
                    rule.untell(rows, Broken(broken, said[broken], stays, stays))
                fixed[:, place] |= follows
        if fixed.sum() == before:
            break
    return fixed
