"""What is missing where: cells of one column say in which rows another one has a gap.

An open order has no date of delivery, a house without a garage no year in which it was built. The
first column has values that many rows share, or gaps, which may go with those of the second. Values
with which most rows have a gap ask for one; others, and those of fewer than five rows, do not.

**Chance.** Of n rows with a share p of gaps and a share q that is asked for one,
:math:`n (p (1 - q) + q (1 - p))` would differ from what is asked if the two were independent. At
least 20 have to, and four times as many as do. Of columns that say where another has gaps, the one
with the fewest rows that differ counts, then one without gaps, and one with few values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, Self

import numpy as np
from annotated_types import Len
from pydantic import FailFast, Field

from kan_diffusion.limits import MOST_CODES
from kan_diffusion.tables.kinds import Kind
from kan_diffusion.tables.numbers import SHARING
from kan_diffusion.tables.rules.base import (
    FEWEST_ROWS,
    MOST_SOUGHT,
    Broken,
    Rows,
    Rule,
    share_kept,
)
from kan_diffusion.tables.rules.coded import Code, Coded, are_held, coded_columns, codes_of

_GLANCE = 2_000  # rows that most pairs do not survive
_LUCK = 0.02  # by which few rows may differ more often than all
_EVIDENCE = 20.0  # rows that would differ by chance
_TIMES = 4  # as many of them as in the data


class Absent(Rule):
    """The second of two columns is missing where the first has some values, and only there.

    Attributes:
        codes: These values, as whole numbers.
        beside_gaps: Whether it is missing where the first is.
    """

    is_of_gaps: ClassVar[bool] = True

    places: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Len(2, 2)]
    codes: Annotated[tuple[Code, ...], FailFast(), Len(0, MOST_CODES)] = ()
    beside_gaps: bool = False

    @property
    def size(self) -> int:
        """Number of values that ask for a gap."""
        return len(self.codes)

    def names(self, columns: Sequence[Kind]) -> list[str]:
        """Writes it, such as "status->delivered is missing"."""
        return ["{}->{} is missing".format(*(columns[place].name for place in self.places))]

    def fits(self, columns: Sequence[Kind]) -> bool:
        """Whether there are such columns, and the second has gaps."""
        if not super().fits(columns) or not columns[self.places[1]].has_gaps:
            return False
        return not self.codes or are_held(columns[self.places[0]], self.codes)

    @classmethod
    def find(cls, rows: Rows) -> Iterator[Self]:
        """Finds for each column with gaps the column that says best where these are."""
        gaps = {place: missing for place, (_, missing) in enumerate(rows.cells) if missing.any()}
        gaps = dict([*gaps.items()][:MOST_SOUGHT])
        if not gaps:
            return
        # Of columns with too many values the gaps say something.
        asking = {
            place: Coded(np.zeros(1, int), -missing.astype(int)) for place, missing in gaps.items()
        }
        asking |= coded_columns(rows)
        behind: dict[int, int] = {}
        for place, missing in gaps.items():
            found = (cls._asked(asking[first], missing, (first, place)) for first in asking)
            for rule in sorted(filter(None, found), key=cls._rank):
                root = first = rule.places[0]
                while root in behind:
                    root = behind[root]
                if root != place:
                    behind[place] = first
                    yield rule
                    break

    def _rank(self) -> tuple[float, bool, int]:
        """Sorts rules of one column: the surest first, then without gaps, then by few values."""
        return -self.kept, self.beside_gaps, self.size

    @classmethod
    def _asked(cls, first: Coded, missing: np.ndarray, places: tuple[int, int]) -> Self | None:
        """Returns the rule of two columns; None if too many rows break it, or it is chance."""
        if places[0] == places[1] or (num := len(missing)) < FEWEST_ROWS:
            return None
        for some in (slice(_GLANCE), slice(None)):
            ranks, gaps = first.dense[some] + 1, missing[some]  # 0 is a gap
            counts = np.bincount(ranks, minlength=first.num + 1)
            empty = np.bincount(ranks[gaps], minlength=first.num + 1)
            asks = (2 * empty > counts) & (counts >= SHARING)
            differ = int(np.where(asks, counts - empty, empty).sum())
            if differ > (1 - cls.least + (_LUCK if some.stop else 0)) * len(ranks):
                return None
        share, asked = missing.mean(), counts[asks].sum() / num
        by_chance = num * (share * (1 - asked) + asked * (1 - share))
        if by_chance < max(_EVIDENCE, _TIMES * differ):
            return None
        codes = tuple(first.codes[asks[1:]].tolist())
        kept = share_kept(differ, num)
        about = {"codes": codes, "beside_gaps": bool(asks[0]), "kept": kept}
        return cls(kind="absent", places=places, **about)

    def _asks(self, rows: Rows) -> np.ndarray:
        """Tells in which rows the second column has to be missing, (n,)."""
        missing = rows.cells[self.places[0]][1]
        asks = missing & self.beside_gaps
        if self.codes:
            asks |= np.isin(codes_of(rows, self.places[0])[0], self.codes) & ~missing
        return np.asarray(asks)

    def holds(self, rows: Rows) -> np.ndarray:
        """Tells where the second is missing as asked."""
        return np.asarray(self._asks(rows) == rows.cells[self.places[1]][1])

    def tell(self, rows: Rows, generator: np.random.Generator | None) -> np.ndarray:
        """Returns +1 where it holds and -1 elsewhere; nothing if it always does."""
        told = np.where(self.holds(rows), 1.0, -1.0)[:, None]
        return told[:, : int(self.kept < 1)]

    def untell(self, rows: Rows, broken: Broken) -> None:
        """Makes cells of the second column missing, or values of what their gap hides."""
        missing = rows.cells[self.places[1]][1]
        missing[broken.rows] = ~missing[broken.rows]
