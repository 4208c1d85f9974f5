"""What a column is: a kind is a class, and says all that the rest of a table asks of a column.

A kind keeps shares, categories and knots of the cells that it was fitted to, but never a row. Its
coordinates are -1 or +1 for "is missing", if the column has gaps, and one of about N(0, 1), or of
-1 and +1, for the value, if it has one to learn. If a cell has no value, its value coordinate is
fresh N(0, 1) noise, which carries no information and has a known density.

A new kind is a subclass of :class:`Kind` in a module of its own and an entry of ``KINDS``
(:mod:`kan_diffusion.tables.kinds`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import pandas as pd

from kan_diffusion.data.coordinates import CoordinateMap
from kan_diffusion.errors import DataError, listed
from kan_diffusion.settings import Settings
from kan_diffusion.tables.dtypes import WORDS, Holds, Storage, Values, place_among
from kan_diffusion.tables.numbers import Scaling, Share
from kan_diffusion.tables.scales import Names, Scale

_SHOWN = 5


@dataclass(frozen=True)
class Cells:
    """The cells of a column that a kind is found and fitted by.

    Attributes:
        name: Name of the column.
        storage: Its dtype and what its cells hold.
        values: The values, as the storage reads them, shape (n,).
        missing: Which of them are missing, shape (n,).
        scaling: What coordinates numbers become.
    """

    name: str | int
    storage: Storage
    values: np.ndarray
    missing: np.ndarray
    scaling: Scaling = "normal"

    @cached_property
    def present(self) -> np.ndarray:
        """The values that are not missing, shape (m,)."""
        return self.values[~self.missing]

    @cached_property
    def distinct(self) -> np.ndarray:
        """The different values."""
        return np.asarray(pd.unique(self.present))


class Kind(Settings):
    """A column of a table: how its cells are kept, what they are, and how they become coordinates.

    Attributes:
        name: Name of the column.
        storage: Its dtype and what its cells hold.
        kind: Name of its kind, a key of ``KINDS``.
        missing: Share of missing cells, 0 to 1.
    """

    holds: ClassVar[frozenset[Holds]] = frozenset(WORDS)
    """Types of values that columns of the kind can have."""

    is_learned: ClassVar[bool] = True
    """Whether a value has a coordinate."""

    name: str | int
    storage: Storage
    kind: str
    missing: Share = 0.0

    # Finding and fitting.

    @classmethod
    def suits(cls, cells: Cells) -> bool:
        """Tells whether a column is of this kind, if nobody says what it is."""
        raise NotImplementedError

    @classmethod
    def problem(cls, cells: Cells) -> str | None:
        """Says why a column cannot be of this kind, such as "holds text"; None if it can."""
        if cells.storage.values is not None:
            return "has a categorical dtype without room for new values, and may be made another"
        if cells.storage.holds not in cls.holds:
            return f"holds {WORDS[cells.storage.holds]}"
        return None

    @classmethod
    def fitted(cls, cells: Cells) -> dict[str, object]:
        """Returns the fields of the kind itself, for the cells of a column, at least one present.

        Raises:
            DataError: The cells cannot be described.
        """
        raise NotImplementedError

    def warning(self, cells: Cells, given: bool) -> str:
        """Says what a user should know of the fitted cells, whose kind was given or found."""
        return ""

    # Coordinates.

    @property
    def is_discrete(self) -> bool:
        """Whether its values are points of its coordinate, which have no density."""
        return False

    @property
    def known(self) -> np.ndarray:
        """All values that a cell can have, if they are few enough to list; else none."""
        return self.storage.empty(0)

    @property
    def has_gaps(self) -> bool:
        """Whether a coordinate says that a cell is missing."""
        return self.missing > 0

    @property
    def coordinates(self) -> tuple[str, ...]:
        """Names of its coordinates: that of gaps, then that of its value, if it has them."""
        value = (str(self.name),) if self.is_learned else ()
        return (*((f"{self.name} is missing",) if self.has_gaps else ()), *value)

    @property
    def maps(self) -> tuple[CoordinateMap, ...]:
        """How each of its coordinates follows from a cell."""
        return tuple(CoordinateMap(f"code of {name}") for name in self.coordinates)

    def parse(self, series: pd.Series) -> Values:
        """Reads values like those of this column, whether its cells can have them or not.

        Raises:
            DataError: They are of another type.
        """
        return self.storage.read(series, self.name)

    def read(self, series: pd.Series) -> Values:
        """Reads the values of this column in another frame, and which are missing.

        Raises:
            DataError: A cell does not fit this column, or its dtype cannot hold it.
        """
        read, missing = self.parse(series)
        holds, values = self.storage.holds, read
        if holds == "truth":
            values = read.astype(bool)
            self.refuse(read != values, read, "and only truth values were there")
        elif holds == "whole" and read.dtype.kind == "f":
            odd = (read != np.rint(read)) | (np.abs(read) >= 2.0**63)
            self.refuse(odd, read, "and only whole numbers in the rows trained on; round it")
            values = read.astype(np.int64)
        if values.dtype.kind in "iuf":
            low, high = self.storage.limits
            limits = f"its dtype {self.storage.dtype} holds {low:g} to {high:g}"
            numbers = values.astype(np.float64) if values.dtype.kind == "f" else values
            beyond = (numbers < low) | (numbers > high)
            self.refuse(beyond, values, f"and {limits}; change it, or fit a wider dtype")
        return values, missing

    def restore(self, values: np.ndarray, missing: np.ndarray) -> pd.Series:
        """Makes cells (n,) of what :meth:`read` gives."""
        return self.storage.restore(values, missing)

    def refuse(
        self, wrong: np.ndarray, values: np.ndarray, problem: str, rows: np.ndarray | None = None
    ) -> None:
        """Refuses values (n,) of the rows (n,), of all if they are None, of which some are wrong.

        Raises:
            DataError: One is.
        """
        if wrong.any():
            first = int(np.argmax(wrong))
            row = first if rows is None else int(rows[first])
            value, kind = values[first], values.dtype.kind
            shown = f"{value:g}" if kind == "f" else f"'{value}'" if kind == "O" else value
            raise DataError(f"column '{self.name}' has {shown} in row {row + 1}, {problem}")

    def codes(self, values: np.ndarray, missing: np.ndarray) -> np.ndarray:
        """Returns the places of cells, as read, among the known values, (n,); -1 without one."""
        return np.where(missing, -1, place_among(self.known, values))

    def scores(
        self, values: np.ndarray, rows: np.ndarray, generator: np.random.Generator | None
    ) -> np.ndarray:
        """Maps values (m,) of the rows (m,) to coordinates (m,), float64.

        Args:
            values: As :meth:`read` gives them.
            rows: Their rows, for errors.
            generator: Spreads values over what one of them takes of the coordinate; None takes its
                middle.

        Raises:
            DataError: A value does not fit this column.
        """
        raise NotImplementedError

    def values(self, scores: np.ndarray) -> np.ndarray:
        """Maps coordinates (n,), float64, to values as :meth:`read` gives them."""
        raise NotImplementedError

    def existing(self, values: np.ndarray) -> np.ndarray:
        """Returns values (n,), those that no cell can have moved to where restoring moves them."""
        return values

    def encode(
        self, series: pd.Series, generator: np.random.Generator | None, partial: bool
    ) -> np.ndarray:
        """Encodes cells (n,) as coordinates (n, number of coordinates), float32.

        The generator spreads values and fills the coordinates of cells without a value; None takes
        middles and zeros. In a ``partial`` column missing cells are unknown, NaN, since they may
        have a value.

        Raises:
            DataError: A cell does not fit this column, or is missing and none was in training.
        """
        values, missing = self.read(series)
        if missing.any() and not partial and not self.missing:
            raise DataError(
                f"column '{self.name}' has a gap in row {int(np.argmax(missing)) + 1}, and had "
                "none in the rows trained on; fill it or remove the row"
            )
        cells = np.full((len(series), len(self.coordinates)), -1, dtype=np.float32)
        if self.has_gaps and not partial:
            cells[missing, 0] = 1
        if not self.is_learned:
            return cells
        empty = np.full(len(series), np.nan if partial else 0, dtype=np.float32)
        if generator is not None and not partial:
            empty[missing] = generator.standard_normal(int(missing.sum()), dtype=np.float32)
        rows = np.flatnonzero(~missing)
        empty[rows] = self.scores(values[rows], rows, generator)
        cells[:, -1] = empty
        return cells

    def decode(self, cells: np.ndarray) -> Values:
        """Decodes coordinates, (n, number of coordinates); identifiers are 0 or ""."""
        scores = cells[:, -1] if self.is_learned else np.zeros(len(cells))
        return self.values(scores.astype(np.float64)), self.gaps(cells)

    def gaps(self, cells: np.ndarray) -> np.ndarray:
        """Tells from coordinates which cells are missing, shape (n,)."""
        return cells[:, 0] > 0 if self.has_gaps else np.zeros(len(cells), dtype=bool)

    def tempered(self, cells: np.ndarray) -> np.ndarray:
        """Returns drawn coordinates (n, number of coordinates) without too many rare values."""
        return cells

    def log_scale(self, series: pd.Series) -> np.ndarray:
        """Returns log dz/dx of each cell, shape (n,); 0 for a cell without a number."""
        return np.zeros(len(series))

    def numbered(self, drawn: pd.Series, given: pd.Series | None = None) -> pd.Series:
        """Gives new identifiers to drawn cells (n,) that are not given; other cells stay.

        Raises:
            DataError: The column's dtype has no room for so many.
        """
        return drawn

    # Conditions.

    @property
    def is_listed(self) -> bool:
        """Whether the values that a cell can have are known one by one, if it has any."""
        return len(self.known) > 0 or not self.is_learned

    @property
    def reach(self) -> np.ndarray:
        """The known values in order, or else the smallest and the largest that are drawn."""
        return np.sort(self.known)

    def require_possible(self, values: np.ndarray) -> None:
        """Refuses values, shape (m,), that no cell of the column can have.

        Raises:
            DataError: A value is not known, or cells are made anew.
        """
        if self.is_listed and len(unknown := values[~np.isin(values, self.known)]):
            # As it is written among several: one with a comma in double quotes.
            doubled = ((cell, cell.replace('"', '""')) for cell in self.texts(self.reach))
            texts = (f'"{quoted}"' if "," in cell else cell for cell, quoted in doubled)
            raise DataError(
                f"column '{self.name}' is never drawn as '{unknown[0]}'; known: {listed(texts)}"
            )

    def between(self, values: np.ndarray, low: object | None, high: object | None) -> np.ndarray:
        """Tells which values, shape (n,), are from ``low`` to ``high``; None is an open end.

        Raises:
            DataError: The values have no order.
        """
        within = np.ones(len(values), bool)
        if low is not None:
            within &= values >= low
        if high is not None:
            within &= values <= high
        return within

    # What people see.

    def scale(self, present: np.ndarray) -> Scale | None:
        """Returns how cells are compared and drawn, of which ``present`` (n,) are all values.

        None leaves the column out, since its values tell rows apart.
        """
        return Names.of(self.storage, present)

    @property
    def spelled(self) -> str:
        """The kind as a user gives it, of dates in text with their format, "date:%m/%d/%Y"."""
        return self.kind

    def texts(self, values: np.ndarray) -> list[str]:
        """Writes values for people: those of text as it does, a moment at midnight as a day."""
        if self.storage.is_text:
            return [str(cell) for cell in self.restore(values, np.zeros(len(values), dtype=bool))]
        return [re.sub(r"T00:00:00(\.0+)?$", "", str(value)) for value in values]

    def words(self) -> str:
        """Describes the values in a few words."""
        shown = ", ".join(self.texts(self.known[:_SHOWN]))
        return shown + (f", ... ({len(self.known)})" if len(self.known) > _SHOWN else "")
