"""How drawn rows come to keep rules: cells that are not given change until no rule is broken.

1. What follows from given cells by rules without exceptions is *settled*, and stays.
2. In each round cells become missing, or values, where rules of gaps say so, and then the other
   rules are mended in turn. Each solves for the column that depends on its others, then for columns
   that nothing tells, and after some rounds for any. What it changes for its sake stays, at first.
3. A row that cannot be mended takes the cells of other rows, one after another.
4. If a settled number is beyond the range of its column, others may leave theirs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kan_diffusion.tables.rules.base import Broken, Rows, Rule
from kan_diffusion.tables.rules.numeric import numbers

MOST_ROUNDS = 20  # in which a rule may break what another one has mended
_PATIENT_ROUNDS = 2  # in which no rule changes what others tell
_STUBBORN_ROUNDS = 6  # in which cells stay that a rule has changed for its sake
_MOST_OTHERS = 30  # rows whose cells one takes that cannot be mended
_MOST_VAIN = 5  # of them, one after another, that mend no row
_FEW_ROUNDS = 10  # for each of them
_NOBODY = -1


def obey(
    rows: Rows,
    rules: Sequence[Rule],
    coordinates: Sequence[np.ndarray],
    given: np.ndarray,
    gaps: np.ndarray,
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
        gaps: Of which cells it is given whether they are missing, (n, columns).
        rounds: In how many rounds rules are mended that others break.

    Returns:
        How many rows break rules that all rows should keep, by their names, since no way to keep
        them was found; without rows of which all cells of a rule are given.

    Raises:
        DataError: A column cannot have what follows from given cells.
    """
    settled, num = settle(rows, rules, given), len(given)
    for rule, said in zip(rules, coordinates, strict=True):
        if not rule.is_relation:
            rule.untell(rows, Broken(np.arange(num), said, settled))
    _mend(rows, rules, coordinates, settled, gaps, rounds)
    wrong, vain = np.flatnonzero(_unmended(rows, rules, coordinates, settled, gaps)), 0
    for further in range(1, min(_MOST_OTHERS + 1, num)):
        if not len(wrong) or vain == _MOST_VAIN:
            break
        part, asked = _filled_from(rows, wrong, further, settled), [c[wrong] for c in coordinates]
        _mend(part, rules, asked, settled[wrong], gaps[wrong], min(rounds, _FEW_ROUNDS))
        rows.replace(wrong, part)
        left = wrong[_unmended(part, rules, asked, settled[wrong], gaps[wrong])]
        vain = vain + 1 if len(left) == len(wrong) else 0
        wrong = left
    if len(wrong := wrong[_is_beyond(rows.take(wrong), settled[wrong])]):
        part, asked = rows.take(wrong), [c[wrong] for c in coordinates]
        _mend(part, rules, asked, settled[wrong], gaps[wrong], rounds, is_beyond=True)
        rows.replace(wrong, part)
    broken = {}
    for rule, said in zip(rules, coordinates, strict=True):
        count = int(_unmended(rows, [rule], [said], given, given).sum())
        if count and rule.kept == 1:
            broken[", ".join(rule.names(rows.columns))] = count
    return broken


def _filled_from(rows: Rows, some: np.ndarray, further: int, settled: np.ndarray) -> Rows:
    """Copies some rows (m,), whose cells come from rows ``further`` down but for settled ones.

    Gaps stay, and a gap there gives no cell.
    """
    part, others = rows.take(some), (some + further) % len(settled)
    for (values, gaps), (theirs, their_gaps), stays in zip(
        part.cells, rows.cells, settled[some].T, strict=True
    ):
        taken = ~(stays | gaps | their_gaps[others])
        values[taken] = theirs[others[taken]]
    return part


def _is_beyond(rows: Rows, settled: np.ndarray) -> np.ndarray:
    """Tells in which rows (n,) a settled number is beyond the range of its column."""
    result = np.zeros(len(settled), dtype=bool)
    for place, column in numbers(rows, exact=False).items():
        values, reach = rows.values(place), column.reach
        result |= settled[:, place] & ((values < reach[0]) | (values > reach[-1]))
    return result


def _unmended(
    rows: Rows,
    rules: Sequence[Rule],
    coordinates: Sequence[np.ndarray],
    stays: np.ndarray,
    gaps: np.ndarray,
) -> np.ndarray:
    """Tells which rows (n,) break rules of gaps, or others that have no exceptions.

    Args:
        rows: The rows, without those of which all cells of a rule have to stay.
        rules: Their rules.
        coordinates: Those of each rule, (n, how many).
        stays: Which cells have to stay, (n, columns).
        gaps: Of which cells it has to stay whether they are missing, (n, columns).
    """
    wrong = np.zeros(len(stays), dtype=bool)
    for rule, said in zip(rules, coordinates, strict=True):
        if rule.kept == 1 or rule.is_of_gaps:
            *others, last = rule.places
            at_last = (gaps if rule.is_of_gaps else stays)[:, last]
            wrong |= rule.broken(rows, said) & ~(stays[:, others].all(axis=1) & at_last)
    return wrong


def _mend(
    rows: Rows,
    rules: Sequence[Rule],
    coordinates: Sequence[np.ndarray],
    settled: np.ndarray,
    gaps: np.ndarray,
    rounds: int,
    is_beyond: bool = False,
) -> None:
    """Mends rules that rows (n,) break, but for cells and gaps that are known, (n, columns).

    Cells that a rule changes although it does not tell them stay for its sake: other rules leave
    them for some rounds. Those that others tell are changed when all else has been tried; columns
    leave their ranges only if ``is_beyond``.
    """
    dependent = {place for rule in rules for place in rule.dependent}
    exact = (rule for rule in rules if rule.kept == 1 and not rule.is_of_gaps)
    bound = {place for rule in exact for place in rule.places}
    holder = np.full(settled.shape, _NOBODY)  # the rule for whose sake a cell stays
    is_loose = np.array([rule.is_loose for rule in rules] + [True])
    for turn in range(rounds):
        is_done = not _place_gaps(rows, rules, coordinates, gaps)
        has_moved = turn < _PATIENT_ROUNDS or not is_done
        for number, (rule, said) in enumerate(zip(rules, coordinates, strict=True)):
            if rule.is_of_gaps:
                continue
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


def _place_gaps(
    rows: Rows, rules: Sequence[Rule], coordinates: Sequence[np.ndarray], known: np.ndarray
) -> bool:
    """Makes cells missing or not where rules say so and it is not known, (n, columns).

    Returns:
        Whether there was such a cell.
    """
    have_moved = False
    for rule, said in zip(rules, coordinates, strict=True):
        if rule.is_of_gaps:
            broken = np.flatnonzero(rule.broken(rows, said))
            rule.untell(rows, Broken(broken, said[broken], known[broken]))
            left = rule.broken(rows.take(broken, rule.places), said[broken])
            have_moved |= not left.all()
    return have_moved


def settle(rows: Rows, rules: Sequence[Rule], given: np.ndarray) -> np.ndarray:
    """Sets cells that follow from given ones by what all rows keep.

    Args:
        rows: The rows.
        rules: Their rules, of which those without exceptions count.
        given: Which cells have to stay, (n, columns).

    Returns:
        Which cells have to stay then, (n, columns).

    Raises:
        DataError: A column cannot have what follows.
    """
    fixed = given.copy()
    exact = [(rule, rule.following(rows.columns)) for rule in rules if rule.kept == 1]
    for _ in range(MOST_ROUNDS if given.any() else 0):
        before = fixed.sum()
        for rule, following in exact:
            for place, parts in following.items():
                follows = fixed[:, [*parts]].all(axis=1) & ~fixed[:, place]
                follows &= rows.known(rule.places)
                broken = np.flatnonzero(follows & ~rule.holds(rows))
                if len(broken):
                    stays = np.ones((len(broken), given.shape[1]), dtype=bool)
                    stays[:, place] = False
                    asked = np.zeros((len(broken), 0))  # such a rule has no coordinate
                    rule.untell(rows, Broken(broken, asked, stays, stays))
                fixed[:, place] |= follows
        if fixed.sum() == before:
            break
    return fixed
