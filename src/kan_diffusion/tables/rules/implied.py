"""A category implies those of other columns, as a city its region and its country.

The known values of one column, the determinant, each occur with a single one of another, the
dependent. Few rows can agree by chance: of n rows, those beyond the first of each value of the
determinant could contradict, and with shares p of the dependent's values, each of them would with a
probability of 1 - sum(p^2) if the columns were independent. At least 20 must be expected to.

A dependent cell follows from the determinant; where it is given, the determinant takes the nearest
value that agrees with all that is given.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import combinations
from typing import Annotated, Self

import numpy as np
from annotated_types import Len
from pydantic import FailFast, Field

from kan_diffusion.limits import MOST_CATEGORIES, MOST_COLUMNS
from kan_diffusion.tables.kinds import Kind
from kan_diffusion.tables.rules.base import GLANCE, Rows, Rule

_EVIDENCE = 20.0

_Codes = Annotated[tuple[Annotated[int, Field(ge=-1)], ...], FailFast(), Len(1, MOST_CATEGORIES)]


class Implied(Rule):
    """The values of one column, the first, imply those of others.

    Attributes:
        implied: For each other column: the value there of each known value here, counted from 0; -1
            if unknown.
    """

    implied: Annotated[tuple[_Codes, ...], Len(1, MOST_COLUMNS)]

    def names(self, columns: Sequence[str]) -> list[str]:
        """Writes "city->region" for each dependent."""
        here, *others = (columns[place] for place in self.places)
        return [f"{here}->{other}" for other in others]

    def without(self, names: Collection[str], columns: Sequence[str]) -> Self | None:
        """Leaves dependents out."""
        named = zip(self.names(columns), self.places[1:], self.implied, strict=True)
        kept = {place: codes for name, place, codes in named if name not in names}
        places, implied = (self.places[0], *kept), tuple(kept.values())
        return self.model_copy(update={"places": places, "implied": implied}) if kept else None

    def fits(self, columns: Sequence[Kind]) -> bool:
        """Whether the columns have so many known values."""
        if not super().fits(columns) or len(self.implied) != len(self.places) - 1:
            return False
        here, *others = (len(columns[place].known) for place in self.places)
        return here >= 2 and all(
            len(codes) == here and max(codes) < count and count >= 2
            for codes, count in zip(self.implied, others, strict=True)
        )

    @property
    def decided(self) -> tuple[int, ...]:
        """The dependents."""
        return self.places[1:]

    @classmethod
    def find(cls, rows: Rows) -> Iterator[Self]:
        """Finds which columns imply others.

        A column follows from one other at most, the one with the most values of those that follow
        from none; of two columns with equally many, the later follows from the earlier.

        Yields:
            A rule for each determinant.
        """
        codes = {
            place: rows.codes(place)
            for place, column in enumerate(rows.columns)
            if len(column.known) > 1
        }
        counts = {place: len(rows.columns[place].known) for place in codes}
        order = sorted(codes, key=lambda place: -counts[place])
        found: dict[int, dict[int, tuple[int, ...]]] = {}
        following: set[int] = set()
        for here, other in combinations(order, 2):
            if following.isdisjoint((here, other)) and other not in found:
                implied = _implied(codes[here], codes[other], counts[here])
                if implied is not None:
                    found.setdefault(here, {})[other] = implied
                    following.add(other)
        for here, others in found.items():
            yield cls(kind="implied", places=(here, *others), implied=tuple(others.values()))

    def holds(self, rows: Rows) -> np.ndarray:
        """Tells where each dependent is missing or what the determinant implies."""
        here, others, implied = self._codes(rows)
        follows = implied[here]
        unsaid = (here < 0)[:, None] | (others < 0) | (follows < 0)
        return (unsaid | (follows == others)).all(axis=1)

    def _codes(self, rows: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the codes of determinant and dependents, (n,) and (n, m), and what implies what.

        The last has shape (K, m).
        """
        here, *others = map(rows.codes, self.places)
        return here, np.column_stack(others), np.array(self.implied).T

    def repair(self, rows: Rows, given: np.ndarray) -> None:
        """Takes the nearest determinant that agrees with what is given, then what it implies."""
        here, others, implied = self._codes(rows)
        fixed = given[:, self.places[1:]]
        asked = np.where(fixed, others, -1)
        wrong = (here >= 0) & ~given[:, self.places[0]]
        wrong &= ((asked >= 0) & (implied[here] != asked)).any(axis=1)
        here[wrong] = _agreeing(here[wrong], implied, asked[wrong])
        follows = implied[here]
        bound = (here >= 0)[:, None] & (others >= 0) & (follows >= 0) & ~fixed
        changes = [(here, wrong), *zip(follows.T, (bound & (follows != others)).T, strict=True)]
        for place, (codes, changed) in zip(self.places, changes, strict=True):
            if changed.any():
                rows.change(place, changed, rows.columns[place].known[codes[changed]])


def _implied(given: np.ndarray, other: np.ndarray, count: int) -> tuple[int, ...] | None:
    """Returns what each of ``count`` given codes implies; None if they imply nothing."""
    both = (given >= 0) & (other >= 0)
    given, other = given[both], other[both]
    implied = np.full(count, -1)
    for some in (slice(GLANCE), slice(None)):
        implied[given[some]] = other[some]
        if (implied[given[some]] != other[some]).any():
            return None
    shares = np.bincount(other) / max(len(other), 1)
    possible = len(other) - int((implied >= 0).sum())
    if possible * (1 - (shares**2).sum()) < _EVIDENCE:
        return None
    return tuple(implied.tolist())


def _agreeing(places: np.ndarray, implied: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Returns the value nearest to ``places`` (n,) of a determinant that implies what is asked.

    That is a value of each of m dependents, (n, m), or -1; its own K values imply (K, m). Where
    none agrees with all that is asked for, it stays.
    """
    result = places.copy()
    for each in np.unique(asked, axis=0):
        agreeing = np.flatnonzero(((implied == each) | (each < 0)).all(axis=1))
        rows = (asked == each).all(axis=1)
        if len(agreeing):
            middles = (agreeing[1:] + agreeing[:-1]) / 2
            result[rows] = agreeing[np.searchsorted(middles, places[rows])]
    return result
