"""What holds between the cells of a row: a rule is a class, and says all that a table asks of it.

A rule is found in rows, holds or does not hold in a row, and repairs rows that a network has drawn,
which learns it only nearly. Finding one depends on its own columns alone. Given cells are never
changed.

A new rule is a subclass of :class:`Rule` in a module of its own and an entry of ``RULES``
(:mod:`kan_diffusion.tables.rules`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Self

import numpy as np
from annotated_types import Len
from pydantic import Field

from kan_diffusion.limits import MOST_COLUMNS
from kan_diffusion.settings import Settings
from kan_diffusion.tables.dtypes import Values
from kan_diffusion.tables.kinds import Kind

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["GLANCE", "Rows", "Rule"]

GLANCE = 1_000
"""Rows that most pairs of columns contradict, which are looked at first."""

Place = Annotated[int, Field(ge=0)]


class Rows:
    """The cells of a table, each column read once, and changed by rules.

    Args:
        columns: The columns, all of the table.
        frame: Their cells, in the same order, shape (n, columns).
        absent: Places of columns whose cells are not known, whatever the frame has there.

    Attributes:
        columns: The columns.
    """

    def __init__(
        self, columns: Sequence[Kind], frame: pd.DataFrame, absent: Collection[int] = ()
    ) -> None:
        self.columns = columns
        self._absent = frozenset(absent)
        self._frame = frame
        self._read: dict[int, Values] = {}
        self._changed: set[int] = set()

    def __len__(self) -> int:
        """Number of rows n."""
        return len(self._frame)

    def head(self, num: int) -> Rows:
        """Returns the first rows."""
        return Rows(self.columns, self._frame.iloc[:num], self._absent)

    def _cells(self, place: int) -> Values:
        if place not in self._read:
            values, missing = self.columns[place].read(self._frame.iloc[:, place])
            self._read[place] = values.copy(), missing | (place in self._absent)
        return self._read[place]

    def values(self, place: int) -> np.ndarray:
        """Returns the values of a column, shape (n,), placeholders where they are missing."""
        return self._cells(place)[0]

    def known(self, places: Sequence[int]) -> np.ndarray:
        """Tells in which rows no cell of some columns is missing, shape (n,)."""
        return ~np.any([self._cells(place)[1] for place in places], axis=0)

    def codes(self, place: int) -> np.ndarray:
        """Returns the places of cells among the known values of a column, (n,); -1 if missing."""
        return self.columns[place].codes(*self._cells(place))

    def change(self, place: int, rows: np.ndarray, values: np.ndarray) -> None:
        """Changes the values of a column in some rows, both (m,)."""
        kept = self.values(place)
        kept[rows] = values.astype(kept.dtype)
        self._changed.add(place)

    def write(self) -> None:
        """Writes the columns that have changed into the frame."""
        for place in self._changed:
            cells = self.columns[place].restore(*self._cells(place))
            # As a series: of an array of text, pandas would infer another dtype.
            name = self._frame.columns[place]
            self._frame[name] = cells.set_axis(self._frame.index)


class Rule(Settings):
    """What holds between the cells of some columns.

    Attributes:
        kind: Its name in ``RULES``.
        places: Places of its columns in the table.
    """

    kind: str
    places: Annotated[tuple[Place, ...], Len(2, MOST_COLUMNS)]

    def names(self, columns: Sequence[str]) -> dict[str, Self]:
        """Writes it, such as "start<=end", with the part of it that the name stands for."""
        raise NotImplementedError

    def without(self, names: Sequence[str], columns: Sequence[str]) -> Self | None:
        """Returns what is left of it without parts of these names; None if nothing is."""
        return None if {*self.names(columns)} & {*names} else self

    def fits(self, columns: Sequence[Kind]) -> bool:
        """Whether the table has columns of which it can hold."""
        distinct = len(set(self.places)) == len(self.places)
        return distinct and max(self.places) < len(columns)

    @classmethod
    def find(cls, rows: Rows) -> Iterator[Self]:
        """Finds the rules of this kind that hold in all rows, and not by chance."""
        raise NotImplementedError

    @property
    def decided(self) -> tuple[int, ...]:
        """Places of columns that follow from its others, so that other rules leave them alone."""
        return ()

    def holds(self, rows: Rows) -> np.ndarray:
        """Tells in which rows it holds, or has no say since a cell is missing, shape (n,)."""
        raise NotImplementedError

    def repair(self, rows: Rows, given: np.ndarray) -> None:
        """Changes rows in which it does not hold.

        Args:
            rows: The rows.
            given: Which cells have to stay, (n, columns of the table).

        Raises:
            DataError: A dtype has no room for what follows from given cells.
        """
        raise NotImplementedError
