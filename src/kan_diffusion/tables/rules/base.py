"""What holds between the cells of a row: a rule is a class, and says all that a table asks of it.

A rule is found in rows, holds or does not hold in a row, and repairs rows that a network has drawn,
which learns it only nearly. Finding one depends on its own columns alone. Given cells are never
changed.

A new rule is a subclass of :class:`Rule` in a module of its own and an entry of ``RULES``
(:mod:`kan_diffusion.tables.rules`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Annotated, NamedTuple, Self

import numpy as np
from annotated_types import Len
from pydantic import Field

from kan_diffusion.limits import MOST_COLUMNS
from kan_diffusion.settings import Settings
from kan_diffusion.tables.dtypes import Values
from kan_diffusion.tables.kinds import Kind

GLANCE = 1_000
"""Rows that most pairs of columns contradict, which are looked at first."""


class Rows(NamedTuple):
    """The cells of a table, which rules change.

    Attributes:
        columns: The columns, all of the table.
        cells: The values of each, (n,), placeholders where they are missing, and which are, (n,).
    """

    columns: Sequence[Kind]
    cells: Sequence[Values]

    def head(self, num: int) -> Rows:
        """Returns the first rows."""
        return Rows(self.columns, [(cells[:num], gaps[:num]) for cells, gaps in self.cells])

    def values(self, place: int) -> np.ndarray:
        """Returns the values of a column, shape (n,)."""
        return self.cells[place][0]

    def known(self, places: Sequence[int]) -> np.ndarray:
        """Tells in which rows no cell of some columns is missing, shape (n,)."""
        return ~np.any([self.cells[place][1] for place in places], axis=0)

    def codes(self, place: int) -> np.ndarray:
        """Returns the places of cells among the known values of a column, (n,); -1 if missing."""
        return self.columns[place].codes(*self.cells[place])

    def change(self, place: int, rows: np.ndarray, values: np.ndarray) -> None:
        """Changes the values of a column in some rows, both (m,)."""
        kept = self.values(place)
        kept[rows] = values.astype(kept.dtype)


class Rule(Settings):
    """What holds between the cells of some columns.

    Attributes:
        kind: Its name in ``RULES``.
        places: Places of its columns in the table.
    """

    kind: str
    places: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Len(2, MOST_COLUMNS)]

    def names(self, columns: Sequence[str]) -> list[str]:
        """Writes each of its parts, such as "start<=end", with the names of all columns."""
        raise NotImplementedError

    def without(self, names: Collection[str], columns: Sequence[str]) -> Self | None:
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
