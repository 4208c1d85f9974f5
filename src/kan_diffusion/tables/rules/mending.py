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
from typing import NamedTuple

import numpy as np

from kan_diffusion.tables.rules.base import Broken, Rows, Rule
from kan_diffusion.tables.rules.numeric import beyond

MOST_ROUNDS = 20  # in which a rule may break what another one has mended
_PATIENT_ROUNDS = 2  # in which no rule changes what others tell
_STUBBORN_ROUNDS = 6  # in which cells stay that a rule has changed for its sake
_MOST_OTHERS = 30  # rows whose cells one takes that cannot be mended
_MOST_VAIN = 5  # of them, one after another, that mend no row
_FEW_ROUNDS = 10  # for each of them
_NOBODY = -1


class _Table(NamedTuple):
    """Rows of a table, and what they are mended by.

    Attributes:
        rows: The rows.
        rules: What they keep.
        told: Their coordinates, (n, rules); above 0 where a row keeps a rule.
        stays: Which cells have to stay, (n, columns).
        gaps: Of which cells it has to stay whether they are missing, (n, columns).
    """

    rows: Rows
    rules: Sequence[Rule]
    told: np.ndarray
    stays: np.ndarray
    gaps: np.ndarray

    def take(self, some: np.ndarray) -> _Table:
        """Copies some rows, (m,)."""
        rows = self.rows.take(some)
        return _Table(rows, self.rules, self.told[some], self.stays[some], self.gaps[some])

    def filled_from(self, some: np.ndarray, further: int) -> _Table:
        """Copies some rows (m,), but for cells that have to stay from rows ``further`` down.

        Gaps stay, and a gap there gives no cell.
        """
        part, others = self.take(some), (some + further) % len(self.stays)
        for (values, gaps), (theirs, their_gaps), stays in zip(
            part.rows.cells, self.rows.cells, part.stays.T, strict=True
        ):
            taken = ~(stays | gaps | their_gaps[others])
            values[taken] = theirs[others[taken]]
        return part

    def is_beyond(self) -> np.ndarray:
        """Tells in which rows (n,) a cell that has to stay is beyond the range of its column."""
        return np.asarray((self.stays & beyond(self.rows)).any(axis=1))

    def breaks(self, rule: Rule, told: np.ndarray) -> np.ndarray:
        """Tells which rows (n,) break a rule by its coordinates (n,), unless all its cells stay."""
        *others, last = rule.places
        at_last = (self.gaps if rule.is_of_gaps else self.stays)[:, last]
        return rule.broken(self.rows, told) & ~(self.stays[:, others].all(axis=1) & at_last)

    def unmended(self) -> np.ndarray:
        """Tells which rows (n,) break rules of gaps, or others that have no exceptions."""
        wrong = np.zeros(len(self.stays), dtype=bool)
        for rule, told in zip(self.rules, self.told.T, strict=True):
            if rule.kept == 1 or rule.is_of_gaps:
                wrong |= self.breaks(rule, told)
        return wrong

    def mend(self, rounds: int, may_leave: bool = False) -> None:
        """Mends rules that rows break.

        Cells that a rule changes although it does not tell them stay for its sake: other rules
        leave them for some rounds. Those that others tell are changed when all else has been tried;
        columns leave their ranges only if they ``may_leave`` them.
        """
        rows, rules = self.rows, self.rules
        dependent = {place for rule in rules for place in rule.dependent}
        exact = (rule for rule in rules if rule.kept == 1 and not rule.is_of_gaps)
        bound = {place for rule in exact for place in rule.places}
        holder = np.full(self.stays.shape, _NOBODY)  # the rule for whose sake a cell stays
        is_loose = np.array([rule.is_loose for rule in rules] + [True])
        for turn in range(rounds):
            is_done = not self._place_gaps()
            has_moved = turn < _PATIENT_ROUNDS or not is_done
            for number, (rule, told) in enumerate(zip(rules, self.told.T, strict=True)):
                if rule.is_of_gaps:
                    continue
                broken = first = np.flatnonzero(rule.broken(rows, told))
                before = [rows.values(place)[first] for place in rule.places]
                elsewhere = dependent.difference(rule.dependent)
                # What has exceptions does not meddle with what has none.
                beyond = set() if rule.kept == 1 else bound.difference(rule.dependent)
                ways = ((elsewhere | beyond, False), (beyond, True))
                for others, is_last in ways[: 1 if turn < _PATIENT_ROUNDS else 2]:
                    if len(broken):
                        is_done, stays = False, self.stays[broken]
                        if not rule.is_partial:
                            held = ~np.isin(holder[broken], (_NOBODY, number))
                            if is_last and rule.dependent:  # what follows takes what room there is
                                held &= ~is_loose[holder[broken]] & (turn < _STUBBORN_ROUNDS)
                            stays |= held
                        stays[:, [*others]] = True
                        given = self.stays[broken] if is_last and may_leave else None
                        rule.untell(rows, Broken(broken, stays, given))
                        broken = broken[~rule.holds(rows.take(broken, rule.places))]
                for place, values in zip(rule.places, before, strict=True):
                    changed = first[rows.values(place)[first] != values]
                    has_moved |= len(changed) > 0
                    if place in elsewhere or not (rule.is_loose or place in rule.dependent):
                        holder[changed, place] = number
            if is_done or not has_moved:
                break

    def _place_gaps(self) -> bool:
        """Makes cells missing or not where rules say so; tells whether there was such a cell."""
        have_moved = False
        for rule, told in zip(self.rules, self.told.T, strict=True):
            if rule.is_of_gaps:
                broken = np.flatnonzero(rule.broken(self.rows, told))
                rule.untell(self.rows, Broken(broken, self.gaps[broken]))
                left = rule.broken(self.rows.take(broken, rule.places), told[broken])
                have_moved |= not left.all()
        return have_moved


def obey(
    rows: Rows,
    rules: Sequence[Rule],
    told: np.ndarray,
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
        told: Their coordinates, (n, rules); above 0 where a row keeps a rule.
        given: Which cells have to stay, (n, columns).
        gaps: Of which cells it is given whether they are missing, (n, columns).
        rounds: In how many rounds rules are mended that others break.

    Returns:
        How many rows break rules that all rows should keep, by their names, since given cells do
        or no way to keep them was found.

    Raises:
        DataError: A column cannot have what follows from given cells.
    """
    table = _Table(rows, rules, told, settle(rows, rules, given), gaps)
    for rule, each in zip(rules, told.T, strict=True):
        rule.begin(rows, each, table.stays)
    table.mend(rounds)
    wrong, vain = np.flatnonzero(table.unmended()), 0
    for further in range(1, min(_MOST_OTHERS + 1, len(given))):
        if not len(wrong) or vain == _MOST_VAIN:
            break
        part = table.filled_from(wrong, further)
        part.mend(min(rounds, _FEW_ROUNDS))
        rows.replace(wrong, part.rows)
        left = wrong[part.unmended()]
        vain = vain + 1 if len(left) == len(wrong) else 0
        wrong = left
    wrong = wrong[table.take(wrong).is_beyond()]
    part = table.take(wrong)
    part.mend(rounds, may_leave=True)
    rows.replace(wrong, part.rows)
    broken = {}
    for rule, each in zip(rules, told.T, strict=True):
        if rule.kept == 1 and (count := int(rule.broken(rows, each).sum())):
            broken[", ".join(rule.names(rows.columns))] = count
    return broken


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
                    rule.untell(rows, Broken(broken, stays, stays))
                fixed[:, place] |= follows
        if fixed.sum() == before:
            break
    return fixed
