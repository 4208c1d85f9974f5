"""What is missing where: cells of one column say in which rows another one has a gap.

An open order has no date of delivery, a house without a garage no year in which it was built. The
first column has values that many rows share, and those ask for a gap with which most rows have one;
a number that is not among them asks as the nearest does. Or its gaps go with those of the second,
or just one of the two is missing.

**Chance.** Of n rows with a share p of gaps and a share q that is asked for one,
:math:`n (p (1 - q) + q (1 - p))` would differ from what is asked if the two were independent. At
least 20 have to, and four times as many as do. Of columns that say where another has gaps, the one
with the fewest rows that differ counts, then one without gaps, and one with few values. Of columns
that are missing together, the first says it of the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, Self

import numpy as np
from annotated_types import Len
from pydantic import FailFast, Field

from kan_diffusion.limits import MOST_CODES
from kan_diffusion.tables.kinds import Kind
from kan_diffusion.tables.kinds.number import Number
from kan_diffusion.tables.numbers import SHARING
from kan_diffusion.tables.rules.base import (
    FEWEST_ROWS,
    MOST_SOUGHT,
    Broken,
    Rows,
    Rule,
    is_beyond_chance,
    share_kept,
)
from kan_diffusion.tables.rules.coded import (
    Code,
    Coded,
    are_held,
    coded_columns,
    codes_of,
    nearest,
)

_GLANCE = 2_000  # rows that most pairs do not survive
_LUCK = 0.02  # by which few rows may differ more often than all


class Absent(Rule):
    """The second of two columns is missing where the first has some values, and only there.

    Attributes:
        codes: Values of the first that many rows share, as whole numbers in order.
        asks: Whether the second is missing with each of them.
        beside_gaps: Whether it is missing where the first is.
        beside_values: Whether it is missing where the first is not, if no values are listed.
    """

    is_of_gaps: ClassVar[bool] = True

    places: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Len(2, 2)]
    codes: Annotated[tuple[Code, ...], FailFast(), Len(0, MOST_CODES)] = ()
    asks: Annotated[tuple[bool, ...], FailFast(), Len(0, MOST_CODES)] = ()
    beside_gaps: bool = False
    beside_values: bool = False

    @property
    def size(self) -> int:
        """Number of values that are listed."""
        return len(self.codes)

    def names(self, columns: Sequence[Kind]) -> list[str]:
        """Writes it, such as "status->delivered is missing"."""
        return ["{}->{} is missing".format(*(columns[place].name for place in self.places))]

    def fits(self, columns: Sequence[Kind]) -> bool:
        """Whether there are such columns, and the second has gaps."""
        if not super().fits(columns) or not columns[self.places[1]].has_gaps:
            return False
        if len(self.asks) != len(self.codes) or [*self.codes] != sorted({*self.codes}):
            return False
        return not self.codes or are_held(columns[self.places[0]], self.codes)

    @classmethod
    def find(cls, rows: Rows) -> Iterator[Self]:
        """Finds for each column with gaps the column that says best where these are."""
        gaps = [place for place, (_, missing) in enumerate(rows.cells) if missing.any()]
        gaps = gaps[:MOST_SOUGHT]
        if not gaps:
            return
        # Of columns with too many values the gaps say something.
        nothing = np.zeros(0, int)
        asking = {place: Coded(nothing, -rows.cells[place][1].astype(int)) for place in gaps}
        asking |= coded_columns(rows)
        behind: dict[int, int] = {}
        for place in gaps:
            found = [cls._asked(rows, asking[first], (first, place)) for first in asking]
            for rule in sorted(filter(None, found), key=lambda rule: rule._rank(gaps)):
                root = first = rule.places[0]
                while root in behind:
                    root = behind[root]
                if root != place and (rule.codes or first < place):
                    behind[place] = first
                    yield rule
                    break

    def _rank(self, gaps: Sequence[int]) -> tuple[float, bool, int, int]:
        """Sorts rules of one column, some of which follow from columns with gaps."""
        return -self.kept, self.places[0] in gaps, self.size, self.places[0]

    @classmethod
    def _asked(cls, rows: Rows, first: Coded, places: tuple[int, int]) -> Self | None:
        """Returns the rule of two columns; None if too many rows break it, or it is chance."""
        missing = rows.cells[places[1]][1]
        if places[0] == places[1] or (num := len(missing)) < FEWEST_ROWS:
            return None
        for some in (slice(_GLANCE), slice(None)):
            ranks = first.dense[some] + 1  # 0 is a gap
            counts = np.bincount(ranks, minlength=max(first.num, 1) + 1)
            empty = np.bincount(ranks[missing[some]], minlength=len(counts))
            asks, often = 2 * empty > counts, counts >= SHARING
            differ = np.minimum(empty, counts - empty)[often].sum()
            if differ > (1 - cls.least + (_LUCK if some.stop else 0)) * len(ranks):
                return None
        asked = asks[1:][often[1:]]
        about: dict[str, object] = {"beside_values": bool(asked.any())}
        if first.num and asked.any() and not asked.all():
            about = {"codes": first.codes[often[1:]].tolist(), "asks": asked.tolist()}
        about |= {"kind": "absent", "places": places, "beside_gaps": bool(asks[0] and often[0])}
        rule = cls.model_validate(about)
        share, broken = missing.mean(), int((~rule.holds(rows)).sum())
        wanted = rule._asks(rows).mean()
        by_chance = num * (share * (1 - wanted) + wanted * (1 - share))
        if broken > (1 - cls.least) * num or not is_beyond_chance(broken, by_chance):
            return None
        return rule.model_copy(update={"kept": share_kept(broken, num)})

    def _asks(self, rows: Rows) -> np.ndarray:
        """Tells in which rows the second column has to be missing, (n,)."""
        missing = rows.cells[self.places[0]][1]
        asks = np.full(len(missing), self.beside_values)
        if self.codes:
            codes, known = codes_of(rows, self.places[0])[0], np.array(self.codes)
            ranks = nearest(known, codes)
            is_number = isinstance(rows.columns[self.places[0]], Number)
            asks = np.array(self.asks)[ranks] & (is_number | (known[ranks] == codes))
        return np.where(missing, self.beside_gaps, asks)

    def holds(self, rows: Rows) -> np.ndarray:
        """Tells where the second is missing as asked."""
        return np.asarray(self._asks(rows) == rows.cells[self.places[1]][1])

    def broken(self, rows: Rows, told: np.ndarray) -> np.ndarray:
        """Tells where it holds and should not, or the other way round."""
        return np.asarray(self.holds(rows) != (told > 0))

    def untell(self, rows: Rows, broken: Broken) -> None:
        """Makes cells missing, or values of what their gap hides.

        They are those of the second column. Where it has to stay whether these are missing, they
        are those of the first, if its gaps alone ask.
        """
        stay_first, stay_last = broken.stays[:, self.places].T
        changes = ~stay_last, stay_last & ~stay_first & (not self.codes)
        for place, some in zip(reversed(self.places), changes, strict=True):
            rows.cells[place][1][broken.rows[some]] ^= True
