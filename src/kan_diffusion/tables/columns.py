"""Kinds of columns, and what is kept of each: shares, categories and knots, but never a row.

A cell is in one of the states value, missing and zero, if its column has them. A value is

* one of two categories, -1 or +1;
* a level l of K (categories, numbers with few distinct values, or numbers that many rows share and
  that lie on no narrow lattice), spread evenly over the step above it: l + U(0, 1);
* a number on a lattice (whole numbers, decimals, and dates at their resolution), its step k spread
  over the step as well: k + U(0, 1);
* or a number as it is.

A spline then maps levels, lattice steps and numbers to about N(0, 1).

An identifier is unique in the rows trained on and never learned. A new one is the beginning that
all known ones share, and a number above the largest seen there, rounded up, so that it tells no
row.
"""

from __future__ import annotations

import math
import re
import string
from functools import cached_property
from itertools import islice, takewhile
from typing import Annotated, Literal, Self, get_args

import numpy as np
import pandas as pd
from annotated_types import Len
from pydantic import FailFast, Field, FiniteFloat, model_validator

from kan_diffusion.errors import DataError, listed, require_known
from kan_diffusion.limits import LONGEST_CELL, MOST_CATEGORIES
from kan_diffusion.settings import Settings
from kan_diffusion.tables.dtypes import WORDS, Holds, Scalar, Storage, Values, place_among
from kan_diffusion.tables.numbers import SHARING, Lattice, Spline, decimals, fit_levels, fit_numbers

__all__ = ["Column", "Identifier", "Kind", "inspected"]

Kind = Literal["number", "category", "date", "constant", "identifier"]

_FEW = 32  # distinct numbers, at most, that are levels ...
_ROWS_A_LEVEL = 10  # ... if each has this many rows on average
_MOST_LEVELS = 1_000  # scattered numbers, which are levels, too: ...
_STEPS_A_LEVEL = 10  # ... if each has this many steps of their lattice on average
_FEWEST_UNIQUE = 20  # fewest rows of an identifier
_YEARS = (1500, 2200)  # consecutive whole numbers within these are years, not identifiers
_MOSTLY = 0.5
_SOME = 0.02
_SHOWN = 5
_FARTHEST = 1e12  # from the mean, in spreads, that float32 is trusted with
_MARGIN = 0.01  # share of a step left free at each end, so that float32 rarely leaves it
_DIGITS, _WIDEST = 18, 20  # of a number in text, and of one of 64 bits
_MAY_BE: dict[Holds, tuple[Kind, ...]] = {
    "whole": ("number", "category", "identifier"),
    "real": ("number", "category"),
    "truth": ("category",),
    "text": ("category", "identifier"),
    "moment": ("date", "category"),
    "span": ("number", "category"),
}

Share = Annotated[FiniteFloat, Field(ge=0, le=1)]


class Identifier(Settings):
    """What the new identifiers of a column are.

    Attributes:
        prefix: Text before the number.
        digits: Fewest digits of the number, which zeros fill up.
        first: The first number.
    """

    prefix: Annotated[str, Field(max_length=LONGEST_CELL)] = ""
    digits: Annotated[int, Field(ge=0, le=_DIGITS)] = 0
    first: Annotated[int, Field(ge=1, le=10**20)] = 1

    @classmethod
    def of(cls, values: np.ndarray) -> Self:
        """Describes identifiers like unique ones, whole numbers or text, of shape (n,), n > 0."""
        if values.dtype.kind != "O":
            return cls().beyond(values)
        pairs = zip(values.min(), values.max(), strict=False)
        shared = (low for low, high in takewhile(lambda pair: pair[0] == pair[1], pairs))
        prefix = "".join(islice(shared, LONGEST_CELL)).rstrip(string.digits)
        digits = min(min(map(len, values)) - len(prefix), _DIGITS)
        return cls(prefix=prefix, digits=digits).beyond(values)

    def beyond(self, known: np.ndarray) -> Self:
        """Returns the identifiers beyond known ones, too, of shape (m,)."""
        ends = (str(one).removeprefix(self.prefix) for one in known)
        longest = _DIGITS if known.dtype.kind == "O" else _WIDEST
        numbers = (int(end) for end in ends if end.isdecimal() and len(end) <= longest)
        largest = max(numbers, default=0)
        unit = 10 ** max(0, len(str(largest)) - 2)
        return self.model_copy(update={"first": max(self.first, (largest // unit + 1) * unit)})


class Column(Settings):
    """A column of a table: how its cells are kept, what they are, and how they become coordinates.

    Attributes:
        name: Name of the column.
        storage: Its dtype and what its cells hold.
        kind: Its kind.
        missing: Share of missing cells, 0 to 1.
        zero: Share of zeros, if they are a separate state.
        categories: Its ordered values, if they are categories, levels or one constant.
        frequencies: Share of each of them among the cells that have a value.
        lattice: Lattice of its other numbers.
        transform: Map of these to about N(0, 1); for levels it follows from frequencies.
        identifier: What its new identifiers are.
    """

    name: str | int
    storage: Storage
    kind: Kind
    missing: Share = 0.0
    zero: Share = 0.0
    categories: Annotated[tuple[Scalar, ...], FailFast(), Len(0, MOST_CATEGORIES)] = ()
    frequencies: Annotated[tuple[Share, ...], FailFast(), Len(0, MOST_CATEGORIES)] = ()
    lattice: Lattice | None = None
    transform: Spline | None = None
    identifier: Identifier | None = None

    @model_validator(mode="after")
    def _require_parts(self) -> Self:
        if not len(self.frequencies) == len(self.categories) == len(set(self.categories)):
            raise DataError(f"column '{self.name}' needs a frequency for each of its categories")
        return self

    @property
    def is_discrete(self) -> bool:
        """Whether its values are categories without order, or just two."""
        named = self.kind == "category" and not self.storage.ordered
        return named or (self.kind != "constant" and 0 < len(self.categories) <= 2)

    @property
    def _has_steps(self) -> bool:
        """Whether its values are levels or lie on a lattice."""
        return self.lattice is None or not self.lattice.fine

    @cached_property
    def _map(self) -> Spline | None:
        """Map of values to a coordinate; None for constants and identifiers."""
        if self.kind in ("constant", "identifier"):
            return None
        return fit_levels(np.array(self.frequencies)) if self.categories else self.transform

    @property
    def known(self) -> np.ndarray:
        """The categories as values."""
        return self.storage.from_scalars(self.categories)

    @property
    def states(self) -> tuple[str, ...]:
        """States of a cell besides having a value: "missing", "zero"."""
        # If all cells are missing, the state tells nothing.
        missing = self.missing if self.missing < 1 or self.categories else 0
        shares = ("missing", missing), ("zero", self.zero)
        return tuple(state for state, share in shares if share > 0)

    @property
    def coordinates(self) -> tuple[str, ...]:
        """Names of its coordinates: one for each state, then that of its value, if it has any."""
        value = () if self._map is None else (str(self.name),)
        return (*(f"{self.name} is {state}" for state in self.states), *value)

    def in_order(self, places: np.ndarray) -> Self:
        """Returns the column with its categories in another order; ``places`` has shape (K,)."""
        categories = tuple(self.categories[place] for place in places)
        frequencies = tuple(self.frequencies[place] for place in places)
        # A new column, whose cached properties follow the new order.
        return type(self)(**{**dict(self), "categories": categories, "frequencies": frequencies})

    # Reading.

    def read(self, series: pd.Series) -> Values:
        """Reads the values of this column in another frame, and which are missing.

        Raises:
            DataError: A cell does not fit this column, or its dtype cannot hold it.
        """
        values, missing = self.storage.read(series, self.name)
        if self.storage.holds == "whole" and values.dtype.kind == "f":
            odd = (values != np.rint(values)) | (np.abs(values) >= 2.0**63)
            self._refuse(odd, values, "and only whole numbers in the rows trained on; round it")
            values = values.astype(np.int64)
        if values.dtype.kind in "iuf" and self.kind != "identifier":
            low, high = self.storage.limits
            holds = f"its dtype {self.storage.dtype} holds {low:g} to {high:g}"
            numbers = values.astype(np.float64) if values.dtype.kind == "f" else values
            beyond = (numbers < low) | (numbers > high)
            self._refuse(beyond, values, f"and {holds}; change it, or fit a wider dtype")
        return values.astype(bool) if self.storage.holds == "truth" else values, missing

    def as_trained(self, series: pd.Series, drawn: pd.Series) -> pd.Series:
        """Returns cells of this column in the dtype that it had in training, as drawn ones have."""
        if series.dtype == drawn.dtype:
            return series
        return self.storage.restore(*self.read(series)).astype(drawn.dtype)

    def _refuse(self, wrong: np.ndarray, values: np.ndarray, problem: str) -> None:
        """Refuses values (n,) of which some are wrong."""
        if wrong.any():
            row = int(np.argmax(wrong))
            shown = f"{values[row]:g}" if values.dtype.kind == "f" else values[row]
            raise DataError(f"column '{self.name}' has {shown} in row {row + 1}, {problem}")

    def codes(self, series: pd.Series) -> np.ndarray:
        """Returns the places of values among the categories, shape (n,); -1 without a value.

        Raises:
            DataError: A cell does not fit this column.
        """
        _, _, rows, x = self._inputs(series)
        codes = np.full(len(series), -1)
        codes[rows] = x
        return codes

    def _inputs(self, series: pd.Series) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Reads cells (n,): which are missing, and which are zeros that are a state.

        Then the rows (m,) of the others, and the inputs of their map: numbers or middles of steps.
        """
        values, missing = self.read(series)
        zero = (values == 0) & ~missing if self.zero else np.zeros(len(values), bool)
        rows = np.flatnonzero(~missing & ~zero)
        if self._map is None:
            return missing, zero, rows, np.zeros(len(rows))
        if self.lattice is None:
            x: np.ndarray = self._places(values[rows], rows)
        else:
            x = self.lattice.steps(values[rows])
        return missing, zero, rows, np.floor(x) + 0.5 if self._has_steps else x

    def _places(self, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Finds values among the categories; a number between two levels takes the lower one."""
        if not self.is_discrete and self.storage.values is None and values.dtype.kind in "iuf":
            last = len(self.categories) - 1
            return np.clip(np.searchsorted(self.known, values, "right") - 1, 0, last)
        places = place_among(self.known, values)
        unknown = places < 0
        if unknown.any():
            first = int(np.argmax(unknown))
            raise DataError(
                f"column '{self.name}' has '{values[first]}' in row {int(rows[first]) + 1}, "
                f"which is not in the rows trained on; known: {listed(self.known)}"
            )
        return places

    # Coordinates.

    def encode(
        self, series: pd.Series, generator: np.random.Generator | None, partial: bool
    ) -> np.ndarray:
        """Encodes cells (n,) as coordinates (n, number of coordinates), float32.

        The generator spreads levels and lattices over their steps and fills the coordinates of
        cells without a value; None takes the middle of each step and zeros. In a ``partial`` column
        missing cells are unknown, NaN, since they may have a value.

        Raises:
            DataError: A cell does not fit this column, or is missing and none was in training.
        """
        missing, zero, rows, x = self._inputs(series)
        if missing.any() and not partial and not self.missing:
            raise DataError(
                f"column '{self.name}' has a gap in row {int(np.argmax(missing)) + 1}, and had "
                "none in the rows trained on; fill it or remove the row"
            )
        cells = np.full((len(series), len(self.coordinates)), -1, dtype=np.float32)
        for place, state in enumerate(self.states):
            if state == "zero":
                cells[zero, place] = 1
                cells[missing & partial, place] = np.nan
            elif not partial:
                cells[missing, place] = 1
        if self._map is None:
            return cells
        value = np.full(len(series), np.nan if partial else 0, dtype=np.float32)
        if generator is not None:
            empty = zero if partial else zero | missing
            value[empty] = generator.standard_normal(int(empty.sum()), dtype=np.float32)
            if self._has_steps and not 0 < len(self.categories) <= 2:
                x = np.floor(x) + _MARGIN + (1 - 2 * _MARGIN) * generator.random(len(x))
        z = self._map.forward(x)
        if (far := np.abs(z) > _FARTHEST).any():
            row = int(rows[np.argmax(far)])
            raise DataError(
                f"column '{self.name}' has {series.iloc[row]} in row {row + 1}, more than "
                f"{_FARTHEST:g} times the spread of the rows trained on away from them; correct "
                "it or remove the row"
            )
        value[rows] = z
        if generator is not None and self._has_steps:
            # Where a step is hardly wider than float32 is fine, a cell may have left its own.
            back = self._map.inverse(value[rows].astype(np.float64))
            lost = np.floor(back) != np.floor(x)
            value[rows[lost]] = self._map.forward(np.floor(x[lost]) + 0.5)
        cells[:, -1] = value
        return cells

    def decode(self, cells: np.ndarray) -> pd.Series:
        """Decodes coordinates, (n, number of coordinates), into cells; identifiers are 0 or ""."""
        found = {state: cells[:, place] > 0 for place, state in enumerate(self.states)}
        missing = found.get("missing", np.zeros(len(cells), dtype=bool))
        if self._map is None:
            known = self.known if self.categories else self.storage.empty(1)
            values = np.repeat(known, len(cells))
            if not self.categories and self.identifier is None:
                missing = np.ones(len(cells), dtype=bool)
        else:
            x = self._map.inverse(cells[:, -1].astype(np.float64))
            if self.lattice is not None:
                values = self.lattice.values(x, self.storage.value_dtype)
            else:
                last = len(self.categories) - 1
                values = self.known[np.clip(np.floor(x), 0, last).astype(np.int64)]
        if "zero" in found:
            values[found["zero"] & ~missing] = 0
        return self.storage.restore(values, missing)

    def numbered(self, drawn: pd.Series, given: pd.Series | None = None) -> pd.Series:
        """Gives new identifiers to drawn cells (n,) that are neither missing nor given.

        New ones differ from the given ones (n,), too.

        Raises:
            DataError: The column's dtype has no room for so many.
        """
        assert self.identifier is not None
        values, missing = self.read(drawn)
        known, free = (values, ~missing) if given is None else self.read(given)
        new = np.flatnonzero(free & ~missing)
        made = self.identifier.beyond(known[~free])
        numbers = range(made.first, made.first + len(new))
        if self.storage.holds == "text":
            values[new] = [f"{made.prefix}{number:0{made.digits}}" for number in numbers]
        elif numbers.stop <= self.storage.limits[1]:
            values[new] = np.array(numbers, values.dtype)
        else:
            raise DataError(
                f"column '{self.name}' has no room for {len(new):,} new identifiers, since its "
                f"dtype is {self.storage.dtype}; draw fewer rows, or fit a wider dtype"
            )
        return self.storage.restore(values, missing)

    def log_scale(self, series: pd.Series) -> np.ndarray:
        """Returns log dz/dx of each cell, shape (n,); 0 for a cell without a number.

        A cell on a lattice is taken at the middle of its step. x is in the units of the column;
        for levels, moments and spans, it counts levels or steps.
        """
        result = np.zeros(len(series))
        if self._map is not None and not self.is_discrete:
            _, _, rows, x = self._inputs(series)
            _, slope = self._map.with_log_slope(x)
            if self.lattice is not None and self.storage.unit is None:
                slope = slope + math.log(self.lattice.per) - math.log(self.lattice.step)
            result[rows] = slope
        return result

    def describe(self) -> dict[str, object]:
        """Name, kind, dtype, share of gaps, values and number of coordinates."""
        values = self.known
        if self.lattice is not None:
            ends = np.array([self.lattice.low, self.lattice.high], dtype=np.float64)
            values = self.lattice.values(ends, self.storage.value_dtype)
        texts = [re.sub(r"T00:00:00(\.0+)?$", "", str(value)) for value in values[:_SHOWN]]
        shown = ", ".join(texts) if self.categories else " to ".join(texts)
        if len(values) > _SHOWN:
            shown += f", ... ({len(values)})"
        return {
            "name": self.name,
            "kind": self.kind,
            "dtype": self.storage.dtype,
            "gaps": self.missing,
            "values": shown if self.identifier is None else "unique",
            "coordinates": len(self.coordinates),
        }

    # Fitting.

    @classmethod
    def fit(cls, name: str | int, series: pd.Series, kind: Kind | None = None) -> Self:
        """Fits a column to cells (n,), n > 0: finds its kind, if none is told, and what to keep.

        Raises:
            DataError: Its dtype is not supported, or the kind does not fit the cells.
        """
        if kind is not None:
            require_known("kind", kind, get_args(Kind))
        storage, found, (values, missing) = inspected(series, name, kind)
        present = values[~missing]
        kind = kind or found
        _require_fitting(kind, found, present, storage, name)
        parts: dict[str, object] = {}
        if len(present) == 0 or (found == "constant" and kind not in ("identifier", "category")):
            kind = "constant"
        if len(present) and kind == "identifier":
            parts = {"identifier": Identifier.of(present)}
        elif len(present) and kind in ("category", "constant"):
            parts = _categories(name, storage, present)
        elif len(present):
            parts = _numbers(name, storage, present, kind)
        about = {"name": name, "storage": storage, "kind": kind, "missing": _share(missing.mean())}
        return cls.model_validate(about | parts)


def _categories(name: str | int, storage: Storage, present: np.ndarray) -> dict[str, object]:
    """Returns the categories and their shares."""
    codes, found = pd.factorize(present, sort=storage.values is None)
    known, counts = np.asarray(found), np.bincount(codes, minlength=len(found))
    if storage.values is not None:
        order = np.argsort(place_among(storage.from_scalars(storage.values), known))
        known, counts = known[order], counts[order]
    if len(known) > MOST_CATEGORIES:
        raise DataError(
            f"column '{name}' has {len(known):,} different values, and a column has at most "
            f"{MOST_CATEGORIES:,} categories; leave it out or call it an identifier"
        )
    return _levels(storage, known, counts)


def _numbers(
    name: str | int, storage: Storage, present: np.ndarray, kind: Kind
) -> dict[str, object]:
    """Returns the share of zeros, and either levels or a lattice with a transform."""
    parts: dict[str, object] = {}
    if present.dtype.kind in "iuf" and _has_many_zeros(present):
        parts["zero"] = _share((present == 0).mean())
        present = present[present != 0]
    distinct, counts = np.unique(present, return_counts=True)
    lattice = Lattice.of(present, storage.limits)
    if kind != "date" and _are_levels(counts, lattice):
        if len(distinct) > _FEW:  # a rare number, which may tell whose it is, is the next lower
            shared = counts >= SHARING
            counts = np.add.reduceat(counts, np.flatnonzero(shared))
            distinct = distinct[shared]
        return parts | _levels(storage, distinct, counts)
    x = lattice.steps(present)
    if not lattice.fine:  # spread evenly over their steps
        steps = pd.Series(np.floor(x))
        same = steps.groupby(steps)
        x = (steps + (same.cumcount() + 0.5) / same.transform("size")).to_numpy(copy=True)
    transform = fit_numbers(x, *lattice.bounds(present), str(name))
    return parts | {"lattice": lattice, "transform": transform}


def _levels(storage: Storage, known: np.ndarray, counts: np.ndarray) -> dict[str, object]:
    frequencies = tuple(_share(share) for share in counts / counts.sum())
    return {"categories": tuple(storage.scalars(known)), "frequencies": frequencies}


def _are_levels(counts: np.ndarray, lattice: Lattice) -> bool:
    """Tells whether sorted distinct numbers with these counts are levels."""
    if len(counts) > counts.sum() / _ROWS_A_LEVEL:
        return len(counts) <= 2
    if len(counts) <= _FEW:
        return True
    scattered = lattice.fine or len(counts) * _STEPS_A_LEVEL <= lattice.high
    return scattered and len(counts) <= _MOST_LEVELS and counts[[0, -1]].min() >= SHARING


def _share(part: float) -> float:
    """Rounds a share to four decimals, and one that is not 0 to at least 1e-4."""
    return max(round(float(part), 4), 1e-4) if part else 0.0


def inspected(
    series: pd.Series, name: str | int, kind: Kind | None = None
) -> tuple[Storage, Kind, Values]:
    """Reads cells (n,): finds how they are kept, their kind by themselves, and their values.

    Raises:
        DataError: Their dtype is not supported, they mix types, or a value is infinite.
    """
    storage = Storage.of(series, name, kind)
    values, missing = storage.read(series, name)
    return storage, _kind_of(values[~missing], storage), (values, missing)


def _kind_of(present: np.ndarray, storage: Storage) -> Kind:
    """Infers the kind of a column from its values."""
    distinct = pd.unique(present)
    count, num, holds = len(distinct), len(present), storage.holds
    unique = count == num >= _FEWEST_UNIQUE
    if count <= 1:
        return "constant"
    if storage.values is not None or holds == "truth":
        return "category"
    if holds == "text":
        return "identifier" if unique else "category"
    if holds == "moment":
        return "date"
    if holds != "span" and count == 2:
        return "category"
    if unique and holds == "whole" and _has_room(present, storage):
        low, high = int(distinct.min()), int(distinct.max())
        years = _YEARS[0] <= low <= high < _YEARS[1]
        return "identifier" if high - low == num - 1 and not years else "number"
    return "number"


def _has_room(present: np.ndarray, storage: Storage) -> bool:
    """Tells whether identifiers leave half of their dtype's numbers to new ones; text does."""
    return storage.holds == "text" or 2 * int(present.max()) <= storage.limits[1]


def _has_many_zeros(numbers: np.ndarray) -> bool:
    """Tells whether zeros among numbers, shape (n,), are a state of their own, such as "nothing".

    They are if they are half of more than 32 different numbers, or 2 % of numbers without steps.
    """
    share = float((numbers == 0).mean()) if len(numbers) else 0.0
    fine = share >= _SOME and len(np.unique(numbers)) > _FEW
    return fine and (share >= _MOSTLY or decimals(numbers) is None)


def _require_fitting(
    kind: Kind, found: Kind, present: np.ndarray, storage: Storage, name: object
) -> None:
    """Refuses a kind that does not fit a column's values."""
    problem = None
    if kind == "constant":
        if found != "constant":
            problem = f"has {len(pd.unique(present)):,} different values"
    elif kind not in _MAY_BE[storage.holds]:
        problem = f"holds {WORDS[storage.holds]}"
    elif kind == "identifier" and len(present) and not _has_room(present, storage):
        problem = f"holds numbers that leave no room for new ones in {storage.dtype}"
    elif kind != "category" and storage.values is not None:
        problem = "has a categorical dtype without room for new values, and may be made another"
    if problem is not None:
        raise DataError(
            f"column '{name}' cannot be of kind '{kind}': it {problem}; by itself it is '{found}'"
        )
