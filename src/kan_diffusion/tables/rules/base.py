"""What holds between the cells of a row: a rule is a class, and says all that a table asks of it.

A rule *holds* in a row or does not. One that some rows break *tells* which by a coordinate of its
own, -1 or +1 for "is kept", which a network learns as it does two categories; a rule that no row
breaks needs none. *Untelling* makes drawn rows keep it: the columns that the rule tells follow from
its others, in rows whose coordinate says so; in the other rows they are as drawn. So what 99 % of
the rows keep is kept about as often, and of the rows that break a rule a table knows only how many
there are. How rules that share columns are kept together is in
:mod:`kan_diffusion.tables.rules.mending`.

**Chance.** A rule is claimed if at least 200 rows have no gap in its columns and enough of them
keep it, and if, with the cells of any one column shuffled, at least 20 rows and four times as many
as in the data would break it; with those of one column, at least 5 %.

Given cells are never changed. A new rule is a subclass of :class:`Rule` in a module of its own and
an entry of ``RULES`` (:mod:`kan_diffusion.tables.rules`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, NamedTuple, Self

import numpy as np
import pandas as pd
from annotated_types import Len
from pydantic import Field

from kan_diffusion.data.coordinates import CoordinateMap
from kan_diffusion.errors import DataError, listed
from kan_diffusion.limits import MOST_COLUMNS
from kan_diffusion.settings import Settings
from kan_diffusion.tables.dates import is_clock
from kan_diffusion.tables.dtypes import Values
from kan_diffusion.tables.kinds import Kind
from kan_diffusion.tables.numbers import Share, rounded_shares

_GLANCE, _SHUFFLED = 1_000, 10_000  # rows that most candidates do not survive, and are shuffled
_LUCK = 0.03  # by which few rows may break a rule more often than all
FEWEST_ROWS = 200  # without a gap
_MOST_BROKEN = 0.05  # share of rows that shuffling one of the columns breaks
_EVIDENCE, _TIMES = 20, 4  # rows that break a rule by chance, and times as many as in the data
_NEARLY_ALWAYS = 0.95  # share of rows that keep a rule beside which another says nothing new

MOST_SOUGHT = 200
"""Columns of numbers, and of categories, among which rules are sought."""

Place = Annotated[int, Field(ge=0)]
Places = tuple[int, ...]


class Rows(NamedTuple):
    """The cells of a table, which rules change.

    Attributes:
        columns: The columns, all of the table.
        cells: The values of each, (n,), placeholders where they are missing, and which are, (n,).
    """

    columns: Sequence[Kind]
    cells: Sequence[Values]

    def take(self, rows: np.ndarray, places: Sequence[int] | None = None) -> Rows:
        """Returns some rows, (m,); of ``places`` alone, if there are any, and others unchanged."""
        taken = range(len(self.cells)) if places is None else places
        cells = [*self.cells]
        for place in taken:
            values, gaps = cells[place]
            cells[place] = values[rows], gaps[rows]
        return Rows(self.columns, cells)

    def values(self, place: int) -> np.ndarray:
        """Returns the values of a column, shape (n,)."""
        return self.cells[place][0]

    def known(self, places: Sequence[int]) -> np.ndarray:
        """Tells in which rows no cell of some columns is missing, shape (n,)."""
        return ~np.any([self.cells[place][1] for place in places], axis=0)

    def sample(self, most: int, random: np.random.Generator) -> Rows:
        """Returns at most so many rows, at random, in their order."""
        count = len(self.values(0))
        return self.take(np.sort(random.permutation(count)[:most]))

    def change(self, place: int, rows: np.ndarray, values: np.ndarray) -> None:
        """Changes the values of a column in some rows, both (m,)."""
        kept = self.values(place)
        kept[rows] = self.columns[place].existing(values.astype(kept.dtype))

    def replace(self, rows: np.ndarray, others: Rows) -> None:
        """Replaces the cells of some rows, (m,), by those of m others."""
        for place, (_, missing) in enumerate(self.cells):
            self.change(place, rows, others.values(place))
            missing[rows] = others.cells[place][1]


class Broken(NamedTuple):
    """Rows that break a rule, and what may change in them.

    Attributes:
        rows: Their numbers, (m,).
        stays: Which cells have to stay, (m, columns of the table); for a rule of gaps, of which it
            has to stay whether they are missing.
        given: Which cells are given, or follow from such, (m, columns of the table): as a last
            resort columns go beyond their ranges then. None while they keep within.
    """

    rows: np.ndarray
    stays: np.ndarray
    given: np.ndarray | None = None


def can_be(column: Kind, values: np.ndarray) -> np.ndarray:
    """Tells which values (m,) a column can have: those that it knows, or that its dtype holds."""
    if len(column.known):
        return np.isin(values, column.known)
    if column.storage.unit is not None:
        return np.ones(len(values), dtype=bool)
    low, high = column.storage.limits
    return (low <= values) & (values <= high)


def is_beyond_chance(broken: float, by_chance: float) -> bool:
    """Whether a rule is no chance that some rows break, and by chance so many would."""
    return bool(by_chance >= max(_EVIDENCE, _TIMES * broken))


def share_kept(broken: int, num: int) -> float:
    """Returns the share of rows that keep a rule, in four digits, and 1 only if none breaks it."""
    (kept,) = rounded_shares(np.array([1 - broken / num]))
    return min(kept, 0.9999) if broken else 1.0


class Rule(Settings):
    """What holds between the cells of some columns.

    Attributes:
        kind: Its name in ``RULES``.
        places: Places of its columns in the table.
        kept: Share of the rows that keep it, 1 where all do.
        dependent: Places of the columns that follow from the others.
    """

    least: ClassVar[float] = 0.99
    """Least share of the rows that keep a rule."""

    is_relation: ClassVar[bool] = True
    """Whether it is one of several columns, which drawn rows keep or break."""

    is_partial: ClassVar[bool] = False
    """Whether others of its kind change the same cell after it, as the parts of a date do."""

    is_loose: ClassVar[bool] = False
    """Whether it leaves room where it has changed a cell, as orders and parts of dates do."""

    is_of_gaps: ClassVar[bool] = False
    """Whether it says which cells are missing, and nothing of the values of others."""

    kind: str
    places: Annotated[tuple[Place, ...], Len(1, MOST_COLUMNS)]
    kept: Share = 1.0
    dependent: Annotated[tuple[Place, ...], Len(0, MOST_COLUMNS)] = ()

    @property
    def size(self) -> int:
        """Number of cells that it lists."""
        return 0

    # Finding.

    @classmethod
    def find(cls, rows: Rows) -> Iterator[Self]:
        """Finds the rules of this kind that rows keep, and not by chance."""
        raise NotImplementedError

    def tested(self, rows: Rows, random: np.random.Generator) -> Self | None:
        """Returns the rule with the share of rows that keep it; None if too few do, or by chance.

        Rows without a gap are looked at, at first some of them.
        """
        known = np.flatnonzero(rows.known(self.places))
        if len(known) < FEWEST_ROWS:
            return None
        for most in (_GLANCE, _SHUFFLED):
            some = known if len(known) <= most else random.choice(known, most)
            few = rows.take(some, self.places)
            broken = 1 - self.holds(few).mean()
            if broken > 1 - self.least + (len(known) > most) * _LUCK:
                return None
        chances = np.array([*self._by_chance(few, random)])
        if not self.is_evident(broken, chances, min(most, len(known))):
            return None
        holds = self.holds(rows.take(known, self.places))
        if holds.mean() < self.least:
            return None
        return self.model_copy(update={"kept": share_kept(int((~holds).sum()), len(holds))})

    def _by_chance(self, rows: Rows, random: np.random.Generator) -> Iterator[float]:
        """Gives the shares of rows that break it if the cells of one column are shuffled."""
        for place in self.places:
            shuffled = rows.take(random.permutation(len(rows.values(place))), [place])
            yield 1 - float(self.holds(shuffled).mean())

    def is_evident(self, broken: float, chances: np.ndarray, num: int) -> bool:
        """Whether so few of ``num`` rows break it by no chance.

        Args:
            broken: Share of rows that break it.
            chances: The same with the cells of each column shuffled.
            num: Number of rows.
        """
        are_enough = is_beyond_chance(num * broken, num * chances.min())
        return bool(chances.max() >= _MOST_BROKEN and are_enough)

    @property
    def is_weak(self) -> bool:
        """Whether so many rows break it that another of its columns may say more."""
        return self.kept < _NEARLY_ALWAYS

    @property
    def is_rounded(self) -> bool:
        """Whether a cell follows from the others only but for its rounding."""
        return False

    def following(self, columns: Sequence[Kind]) -> dict[int, set[int]]:
        """Returns the columns from whose cells each column follows that does."""
        return dict.fromkeys(self.dependent, {*self.places}.difference(self.dependent))

    def choices(self, rows: Rows) -> Sequence[Places]:
        """Returns what it may tell, the best first."""
        return [()]

    # What people and files say of it.

    def names(self, columns: Sequence[Kind]) -> list[str]:
        """Writes each of its parts, such as "start<=end", by all columns of the table."""
        raise NotImplementedError

    def fits(self, columns: Sequence[Kind]) -> bool:
        """Whether the table has columns of which it can hold."""
        distinct = len(set(self.places)) == len(self.places)
        return distinct and max(self.places) < len(columns) and {*self.dependent} <= {*self.places}

    # Coordinates there and back.

    @property
    def is_told(self) -> bool:
        """Whether it has a coordinate: not if all rows keep it."""
        return self.kept < 1

    def coordinate(self, columns: Sequence[Kind]) -> str:
        """Names its coordinate."""
        return f"{self.names(columns)[0]} is kept"

    def map(self, columns: Sequence[Kind]) -> CoordinateMap:
        """How its coordinate follows from a row."""
        return CoordinateMap(f"code of {self.coordinate(columns)}")

    def tell(self, rows: Rows, generator: np.random.Generator | None) -> np.ndarray:
        """Returns its coordinate, (n,).

        Args:
            rows: The rows; where a cell is missing the coordinate does not count.
            generator: Spreads values over what one of them takes of a coordinate.
        """
        return np.where(self.holds(rows), 1.0, -1.0)

    def holds(self, rows: Rows) -> np.ndarray:
        """Tells in which rows it holds, or has no say since a cell is missing, shape (n,)."""
        raise NotImplementedError

    def broken(self, rows: Rows, told: np.ndarray) -> np.ndarray:
        """Tells which rows (n,) break what their coordinates (n,) say."""
        return ~self.holds(rows) & (told > 0)

    def begin(self, rows: Rows, told: np.ndarray, stays: np.ndarray) -> None:
        """Changes cells that need not stay, (n, columns), by coordinates (n,), before mending."""

    def untell(self, rows: Rows, broken: Broken) -> None:
        """Changes broken rows so that they keep to what their coordinates say, if that is possible.

        Raises:
            DataError: A column cannot have what follows from given cells.
        """
        raise NotImplementedError

    def refuse(self, columns: Sequence[Kind], place: int, values: np.ndarray) -> None:
        """Refuses given cells from which values (m,) follow that a column cannot have.

        Raises:
            DataError: There is such a value.
        """
        if not len(values):
            return
        column, value = columns[place], values[0]
        storage, known = column.storage, listed(column.texts(column.known))
        low, high = storage.limits
        held = f"its dtype {storage.dtype} holds {low:g} to {high:g}"
        if known:
            held = f"only {known} are known"
        if storage.unit is None:
            shown = f"{value:g}"
        elif is_clock(storage.written) and not known:
            shown, held = f"{pd.Timedelta(value, storage.unit)}", "a day has 24 hours"
        else:
            (shown,) = column.texts(np.array([value]))
        raise DataError(
            f"column '{column.name}' would have to be {shown}, since {self.names(columns)[0]}, and "
            f"{held}; give other cells, or fit rows that have it"
        )
