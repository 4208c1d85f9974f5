"""Kinds of columns, and what is kept of each: shares, categories and knots, but never a row.

A cell is in one of the states value, missing and zero, if its column has them. A value is

* one of two categories, -1 or +1;
* a level l of K (ordered categories, numbers with few distinct values, or numbers that many rows
  share and that lie on no narrow lattice), spread evenly over the step above it: l + U(0, 1);
* a number on a lattice, v = (origin + step k) / per with whole k (whole numbers, decimals, and
  dates at their resolution), spread over the step as well: k + U(0, 1);
* or a number as it is.

A transform then maps levels, lattice steps and numbers to about N(0, 1). Bounds are exact if at
least five rows share them; otherwise they are rounded outwards, never across zero.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Literal, Self, get_args

import numpy as np
import pandas as pd
from annotated_types import Len
from pydantic import Field, FiniteFloat, model_validator

from kan_diffusion.data.scaling import FARTHEST, LARGEST, decimals
from kan_diffusion.errors import DataError, listed, require_known
from kan_diffusion.settings import Settings
from kan_diffusion.tables.dtypes import WORDS, Holds, Scalar, Storage, Values, place_among
from kan_diffusion.tables.identifiers import Identifier
from kan_diffusion.tables.lattice import SHARING, Lattice
from kan_diffusion.tables.transforms import (
    Codebook,
    Transform,
    encoding,
    fit_numbers,
)

__all__ = ["KINDS", "OTHER", "Column", "Kind", "kind_of"]

logger = logging.getLogger(__name__)

Kind = Literal[
    "continuous",
    "integer",
    "count",
    "categorical",
    "ordinal",
    "boolean",
    "datetime",
    "constant",
    "identifier",
    "mostly-zero",
]
KINDS: tuple[Kind, ...] = get_args(Kind)

OTHER = "other"
"""The category into which rare ones are merged."""

MOST_CATEGORIES = 10_000
_FEW = 32  # distinct numbers, at most, that are levels ...
_ROWS_A_LEVEL = 10  # ... if each has this many rows on average
_MOST_LEVELS = 1_000  # scattered numbers, which are levels, too: ...
_STEPS_A_LEVEL = 10  # ... if each has this many steps of their lattice on average
_FEWEST_UNIQUE = 20  # fewest rows of an identifier
_MOSTLY = 0.5
_FLOAT32_PRINTED = 10**9  # a printed float32 has nine digits; its steps mean nothing
_SOME = 0.02
_SHOWN = 5
_MARGIN = 0.01  # share of a step left free at each end, so that float32 rarely leaves it

Share = Annotated[FiniteFloat, Field(ge=0, le=1)]


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
        merged: Whether rare categories are merged into "other".
        low: Smallest number, exact if at least five rows have it, else rounded outwards; None for
            levels, lattices and columns without numbers.
        high: Largest number, likewise.
        closed: Whether samples stop at ``low`` and at ``high``, since many rows lie there.
        lattice: Lattice of its numbers; None if they are as fine as float64.
        transform: Map of its numbers to about N(0, 1); for levels it follows from frequencies.
        identifier: Pattern of its identifiers.
    """

    name: str | int
    storage: Storage
    kind: Kind
    missing: Share = 0.0
    zero: Share = 0.0
    categories: Annotated[tuple[Scalar, ...], Len(0, MOST_CATEGORIES)] = ()
    frequencies: Annotated[tuple[Share, ...], Len(0, MOST_CATEGORIES)] = ()
    merged: bool = False
    low: FiniteFloat | None = None
    high: FiniteFloat | None = None
    closed: tuple[bool, bool] = (False, False)
    lattice: Lattice | None = None
    transform: Transform | None = None
    identifier: Identifier | None = None

    @model_validator(mode="after")
    def _require_parts(self) -> Self:
        if len(self.categories) != len(self.frequencies):
            raise DataError(f"column '{self.name}' has categories without frequencies")
        if len(set(self.categories)) != len(self.categories):
            raise DataError(f"column '{self.name}' has a category twice")
        return self

    def require_usable(self) -> None:
        """Checks that the parts of the column fit together by decoding a few cells.

        Raises:
            DataError: They do not fit together.
        """
        try:
            cells = np.repeat(np.linspace(-9, 9, 19)[:, None], self.width, axis=1)
            for sign in (-1, 1):
                states = np.full((len(cells), len(self.states)), sign)
                series = self.decode(states, cells, np.random.default_rng(0))
                self.encode(series, None, partial=True)
            self.describe()
        except Exception as error:
            raise DataError(
                f"codec: column '{self.name}' of kind '{self.kind}' cannot be decoded "
                f"({type(error).__name__}: {error}); fit the codec anew"
            ) from error

    @property
    def is_discrete(self) -> bool:
        """Whether its values are categories without order, or just two."""
        return self.kind in ("categorical", "boolean") or (
            self.kind != "constant" and 0 < len(self.categories) <= 2
        )

    @cached_property
    def _map(self) -> Codebook | Transform | None:
        """Map of values to coordinates; None for constants and identifiers."""
        if self.kind in ("constant", "identifier"):
            return None
        if self.categories:
            return encoding(np.array(self.frequencies))
        return self.transform

    @property
    def width(self) -> int:
        """Number of coordinates of a value."""
        if self._map is None:
            return 0
        return self._map.corners.shape[1] if isinstance(self._map, Codebook) else 1

    @cached_property
    def _known(self) -> np.ndarray:
        """The categories as values."""
        return self.storage.from_scalars(self.categories)

    @property
    def order_is_given(self) -> bool:
        """Whether its categories, if it has any, have an order of their own or are just two."""
        return not self.is_discrete or len(self.categories) <= 2

    def in_order(self, places: np.ndarray) -> Self:
        """Returns the column with its categories in another order; ``places`` has shape (K,)."""
        # A new column, whose cached properties follow the new order.
        ordered = {
            "categories": tuple(self.categories[place] for place in places),
            "frequencies": tuple(self.frequencies[place] for place in places),
        }
        return type(self)(**(dict(self) | ordered))

    def codes(self, series: pd.Series) -> np.ndarray:
        """Returns the places of values among the categories, shape (n,); -1 without a value.

        Raises:
            DataError: A cell does not fit this column.
        """
        values, missing = self.read(series)
        rows = np.flatnonzero(~(missing | ((values == 0) & bool(self.zero))))
        codes = np.full(len(values), -1)
        codes[rows] = self._places(values[rows], rows)
        return codes

    def scores(self, series: pd.Series) -> np.ndarray | None:
        """Returns places of categories, -1 if there is none, or about normal numbers, or NaN."""
        if self._map is None:
            return None
        if self.is_discrete:
            return self.codes(series)
        values, missing = self.read(series)
        rows = np.flatnonzero(~missing)
        numbers = np.full(len(values), np.nan)
        numbers[rows] = self._map.forward(self._numbers(values[rows], rows, None))
        return numbers

    def places(self, cells: np.ndarray) -> np.ndarray:
        """Decodes coordinates with shape (n, width) into places among the categories, (n,)."""
        assert self._map is not None
        x = self._map.inverse(
            cells if isinstance(self._map, Codebook) else cells[:, 0].astype(np.float64)
        )
        return np.clip(np.floor(x), 0, len(self.categories) - 1).astype(np.int64)

    def at_places(self, places: np.ndarray) -> np.ndarray:
        """Returns coordinates, shape (n, width), of categories by their places."""
        assert self._map is not None
        if isinstance(self._map, Codebook):
            return self._map.forward(places)
        return self._map.forward(places + 0.5)[:, None]

    # Reading.

    def read(self, series: pd.Series) -> Values:
        """Reads the values of this column in another frame, and which are missing.

        Raises:
            DataError: A cell does not fit this column.
        """
        values, missing = self.storage.read(series, self.name)
        if self.storage.holds == "whole" and values.dtype.kind == "f":
            self._require_whole(values, missing)
            values = values.astype(np.int64)
        if self.storage.holds == "truth":
            values = values.astype(bool)
        if self.merged:
            values[~missing & (place_among(self._known, values) < 0)] = OTHER
        return values, missing

    def require_room(self, series: pd.Series) -> None:
        """Checks that this column's dtype can hold the cells of another frame.

        Raises:
            DataError: It cannot, or a cell does not fit this column.
        """
        values, missing = self.read(series)
        if values.dtype.kind == "f":
            values = values.astype(np.float64)  # the limits may be beyond those of float16
        low, high = self.storage.limits
        if (
            values.dtype.kind in "iuf"
            and (beyond := ~missing & ((values < low) | (values > high))).any()
        ):
            row = int(np.argmax(beyond))
            raise DataError(
                f"column '{self.name}' has {values[row]} in row {row + 1}, and its dtype "
                f"{self.storage.dtype} holds {low:g} to {high:g}; change it, or fit a wider dtype"
            )

    def _require_whole(self, values: np.ndarray, missing: np.ndarray) -> None:
        wrong = (values != np.rint(values)) & ~missing | (np.abs(values) >= 2.0**63)
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise DataError(
                f"column '{self.name}' has {values[row]:g} in row {row + 1}, and only whole "
                "numbers in the rows trained on; round it or remove the row"
            )

    @property
    def states(self) -> tuple[str, ...]:
        """States of a cell besides having a value: "missing", "zero"."""
        # If all cells are missing, the state tells nothing.
        shares = (
            ("missing", self.missing if self.missing < 1 or self.categories else 0),
            ("zero", self.zero),
        )
        return tuple(state for state, share in shares if share > 0)

    def encode(
        self, series: pd.Series, generator: np.random.Generator | None, partial: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Encodes a column's cells as coordinates.

        Args:
            series: Shape (n,).
            generator: Spreads levels and lattices over their steps and fills the coordinates of
                cells without a value; None takes the middle of each step and zeros.
            partial: Whether missing cells are unknown: NaN, since they may have a value.

        Returns:
            Coordinates of the states, shape (n, number of states), and of values, shape
            (n, width), both float32.

        Raises:
            DataError: A cell does not fit this column, or is missing and none was in training.
        """
        values, missing = self.read(series)
        num = len(values)
        if missing.any() and not partial and not self.missing:
            raise DataError(
                f"column '{self.name}' has a gap in row {int(np.argmax(missing)) + 1}, and had "
                "none in the rows trained on; fill it or remove the row"
            )
        zero = (values == 0) & ~missing if self.zero else np.zeros(num, dtype=bool)
        states = np.full((num, len(self.states)), -1, dtype=np.float32)
        for place, state in enumerate(self.states):
            if state == "zero":
                states[zero, place] = 1
                states[missing & partial, place] = np.nan
            elif not partial:
                states[missing, place] = 1
        rows = np.flatnonzero(~missing & ~zero)
        cells = np.full((num, self.width), np.nan if partial else 0, dtype=np.float32)
        if generator is not None and len(rows) < num and self.width:
            other = np.flatnonzero(zero if partial else zero | missing)
            cells[other] = generator.standard_normal((len(other), self.width), dtype=np.float32)
        x = self._numbers(values[rows], rows, generator)
        if isinstance(self._map, Codebook):
            cells[rows] = self._map.forward(x)
        elif self._map is not None:
            z = self._map.forward(x)
            if (far := np.abs(z) > FARTHEST).any():
                row = int(rows[np.argmax(far)])
                raise DataError(
                    f"column '{self.name}' has {values[row]} in row {row + 1}, more than "
                    f"{FARTHEST:g} times the spread of the rows trained on away from them; correct "
                    "it or remove the row"
                )
            cells[rows, 0] = z
            if generator is not None and (self.categories or self.lattice is not None):
                # Where a step is hardly wider than float32 is fine, a cell may have left its own.
                back = self._map.inverse(cells[rows, 0].astype(np.float64))
                lost = np.floor(back) != np.floor(x)
                cells[rows[lost], 0] = self._map.forward(np.floor(x[lost]) + 0.5)
        return states, cells

    def log_scale(self, series: pd.Series) -> np.ndarray:
        """Returns log dz/dx of each cell, shape (n,); 0 for a cell without a number.

        A cell on a lattice is taken at the middle of its step. x is in the units of the column;
        for levels, moments and spans, it counts levels or steps.
        """
        result = np.zeros(len(series))
        if self._map is not None and not isinstance(self._map, Codebook) and not self.is_discrete:
            values, missing = self.read(series)
            rows = np.flatnonzero(~missing & ~((values == 0) & bool(self.zero)))
            slope = self._map.log_slope(self._numbers(values[rows], rows, None))
            if self.lattice is not None and values.dtype.kind not in "mM":
                slope = slope + math.log(self.lattice.per) - math.log(self.lattice.step)
            result[rows] = slope
        return result

    def decode(
        self, states: np.ndarray, cells: np.ndarray, generator: np.random.Generator
    ) -> pd.Series:
        """Decodes coordinates into a column.

        Args:
            states: Shape (n, number of states).
            cells: Shape (n, width).
            generator: Draws new identifiers.
        """
        num = len(states)
        found = dict(zip(self.states, states.T > 0, strict=True))
        missing = found.get("missing", np.zeros(num, dtype=bool))
        zero = found.get("zero", np.zeros(num, dtype=bool)) & ~missing
        storage = self.storage
        if self.identifier is not None:
            text = storage.holds == "text"
            values = self.identifier.draw(num, text, generator)
            if num and not text:  # more rows than the dtype has numbers
                storage = storage.reaching(int(values[-1]))
        elif self.kind == "constant":
            known = self._known if self.categories else self.storage.empty(1)
            values = np.repeat(known, num)
            missing = missing if self.categories else np.ones(num, dtype=bool)
        else:
            values = self._values(cells)
        if zero.any():
            values[zero] = 0
        return storage.restore(values, missing)

    def draw(self, num: int, generator: np.random.Generator) -> pd.Series:
        """Draws cells of this column alone, in the shares of its gaps, zeros and values.

        Args:
            num: Number of cells.
            generator: Source of the draws.

        Returns:
            The cells, (num,), with the column's dtype.
        """
        of_state = {"missing": self.missing, "zero": self.zero}
        shares = [of_state[state] for state in self.states]
        states = np.where(generator.random((num, len(shares))) < shares, 1.0, -1.0)
        cells = generator.standard_normal((num, self.width))
        if isinstance(self._map, Codebook):
            likely = np.array(self.frequencies) / sum(self.frequencies)
            cells = self._map.forward(generator.choice(len(likely), num, p=likely))
        return self.decode(states, cells, generator)

    def _values(self, cells: np.ndarray) -> np.ndarray:
        """Decodes coordinates of shape (n, width) into values."""
        if self.categories:
            return self._known[self.places(cells)]
        assert self._map is not None
        x = self._map.inverse(cells[:, 0].astype(np.float64))
        if self.lattice is not None:
            return self.lattice.values(x, self.storage.value_dtype)
        assert self.low is not None
        assert self.high is not None
        # Beyond an open end there is room for one more range, but not across zero.
        span = self.high - self.low
        smallest, largest = self.storage.limits
        low = max(self.low - span, 0.0 if self.low >= 0 else smallest)
        high = min(self.high + span, 0.0 if self.high <= 0 else largest)
        return np.clip(
            x, self.low if self.closed[0] else low, self.high if self.closed[1] else high
        )

    def _numbers(
        self, values: np.ndarray, rows: np.ndarray, generator: np.random.Generator | None
    ) -> np.ndarray:
        """Returns the inputs of the map: numbers, or levels and steps spread over one unit."""
        if self._map is None:
            return np.zeros(len(values))
        if self.categories:
            places = self._places(values, rows)
        elif self.lattice is not None:
            places = np.floor(self.lattice.steps(values))
        else:
            return values.astype(np.float64)
        if generator is None:
            return places + 0.5
        return places + _MARGIN + (1 - 2 * _MARGIN) * generator.random(len(values))

    def _places(self, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Finds values among the categories; a number between two levels takes the lower one."""
        if not self.is_discrete and self.storage.values is None and values.dtype.kind in "iuf":
            last = len(self.categories) - 1
            return np.clip(np.searchsorted(self._known, values, "right") - 1, 0, last)
        places = place_among(self._known, values)
        unknown = places < 0
        if unknown.any():
            first = int(np.argmax(unknown))
            raise DataError(
                f"column '{self.name}' has '{values[first]}' in row {int(rows[first]) + 1}, "
                f"which is not in the rows trained on; known: {listed(self._known)}"
            )
        return places

    def describe(self) -> dict[str, object]:
        """Name, kind, dtype, share of gaps, values and number of coordinates."""
        return {
            "name": self.name,
            "kind": self.kind,
            "dtype": self.storage.dtype,
            "gaps": self.missing,
            "values": self._range(),
            "coordinates": len(self.states) + self.width,
        }

    def _range(self) -> str:
        """Writes the bounds, or the first few categories."""
        if self.identifier is not None:
            return "unique"
        if self.categories:
            values = self._known
        elif self.lattice is not None:
            ends = np.array([0.0, self.lattice.last])
            values = self.lattice.values(ends, self.storage.value_dtype)
        elif self.low is not None:
            values = np.array([self.low, self.high])
        else:
            return ""
        texts = [re.sub(r"T00:00:00(\.0+)?$", "", str(value)) for value in values[:_SHOWN]]
        if not self.categories:
            return " to ".join(texts)
        return ", ".join(texts) + (f", ... ({len(values)})" if len(values) > _SHOWN else "")

    # Fitting.

    @classmethod
    def fit(
        cls, name: str | int, series: pd.Series, kind: Kind | None = None, merge_below: int = 0
    ) -> Self:
        """Fits a column: finds its kind and what to keep of it.

        Args:
            name: Its name.
            series: Its cells, shape (n,), n > 0.
            kind: Its kind; inferred when None.
            merge_below: Categories of text in fewer rows than this are merged into "other".

        Raises:
            DataError: Its dtype is not supported, or the kind does not fit the cells.
        """
        if kind is not None:
            require_known("kind", kind, KINDS)
        numbers = kind is not None and "real" in _MAY_HOLD.get(kind, ())
        storage = Storage.of(series, name, numbers)
        values, missing = storage.read(series, name)
        if values.dtype.kind == "f" and storage.limits[1] > LARGEST:
            values = values.astype(np.float64)
        present = values[~missing]
        found = _kind_of(present, storage)
        if kind is None:
            kind = found
        else:
            _require_fitting(kind, found, values, missing, storage, name)
        column = cls.model_construct(name=name, storage=storage, kind=kind, missing=_share(missing))
        if kind == "identifier":
            parts: dict[str, object] = {"identifier": Identifier.of(present)}
        elif len(present) == 0:
            parts = {"kind": "constant"}
        elif kind in ("categorical", "boolean", "constant", "ordinal"):
            parts = column._categories(present, merge_below if kind == "categorical" else 0)
        else:
            parts = column._fit_numbers(present, levels=kind != "continuous" or found == kind)
        return cls(**(dict(column) | parts))

    def _categories(self, present: np.ndarray, merge_below: int) -> dict[str, object]:
        """Returns the categories and their shares, with rare categories merged."""
        known, counts, storage, merged = *_counted(present, self.storage), self.storage, False
        rare = counts < merge_below
        if rare.any():
            if storage.holds != "text":
                raise DataError(
                    f"column '{self.name}' has categories that are no text and in fewer than "
                    f"{merge_below} rows, which cannot be called '{OTHER}'; turn it into text"
                )
            merged = True
            others = rare | (known == OTHER)
            known = np.append(known[~others], OTHER)
            counts = np.append(counts[~others], counts[others].sum())
            if storage.values is not None:
                kept = [v for v in storage.values if v in set(known)]
                kept += [OTHER] if OTHER not in kept else []
                storage = storage.model_copy(update={"values": tuple(kept)})
        if len(known) > MOST_CATEGORIES:
            raise DataError(
                f"column '{self.name}' has {len(known):,} different values, and a column has at "
                f"most {MOST_CATEGORIES:,} categories; leave it out or call it an identifier"
            )
        shares = counts / counts.sum()
        return {
            "storage": storage,
            "merged": merged,
            "categories": tuple(storage.scalars(known)),
            "frequencies": tuple(_digits(share) for share in shares),
        }

    def _fit_numbers(self, present: np.ndarray, levels: bool) -> dict[str, object]:
        """Returns the share of zeros and either levels, or a lattice or bounds with a transform."""
        parts: dict[str, object] = {}
        if self.kind == "mostly-zero":
            zero = present == 0
            if zero.all():
                return self._categories(present, 0) | {"kind": "constant"}
            parts["zero"] = _share(zero)
            present = present[~zero]
        distinct, counts = np.unique(present, return_counts=True)
        lattice = None
        if levels or present.dtype.kind != "f":
            smallest, largest = self.storage.limits
            lattice = Lattice.of(present, (int(smallest), int(largest)))
        if levels and self.kind != "datetime" and _are_levels(counts, lattice):
            if len(distinct) > _FEW:  # a rare number, which may tell whose it is, is the next lower
                shared = counts >= SHARING
                counts = np.add.reduceat(counts, np.flatnonzero(shared))
                distinct = distinct[shared]
            shares = counts / counts.sum()
            return parts | {
                "categories": tuple(self.storage.scalars(distinct)),
                "frequencies": tuple(_digits(share) for share in shares),
            }
        where = str(self.name)
        if lattice is not None:
            x = np.sort(np.floor(lattice.steps(present)))
            _, first, each = np.unique(x, return_index=True, return_counts=True)
            within = np.arange(len(x)) - np.repeat(first, each)
            spread = x + (within + 0.5) / np.repeat(each, each)
            transform = fit_numbers(spread, *lattice.bounds, where)
            _warn_of_lost_steps(self.name, self.storage.unit, lattice, transform, x)
            return parts | {"lattice": lattice, "transform": transform}
        low, high = float(distinct[0]), float(distinct[-1])
        closed = (bool(counts[0] >= SHARING), bool(counts[-1] >= SHARING))
        bounds = (
            low if closed[0] else _outward(low, high - low, math.floor),
            high if closed[1] else _outward(high, high - low, math.ceil),
        )
        transform = fit_numbers(
            present.astype(np.float64),
            0.0 if low > 0 and not closed[0] else None,
            0.0 if high < 0 and not closed[1] else None,
            where,
        )
        return parts | {
            "low": bounds[0],
            "high": bounds[1],
            "closed": closed,
            "transform": transform,
        }


def _are_levels(counts: np.ndarray, lattice: Lattice | None) -> bool:
    """Tells whether sorted distinct numbers with these counts are levels."""
    if len(counts) > counts.sum() / _ROWS_A_LEVEL:
        return len(counts) <= 2
    if len(counts) <= _FEW:
        return True
    scattered = lattice is None or len(counts) * _STEPS_A_LEVEL <= lattice.last
    return scattered and len(counts) <= _MOST_LEVELS and counts[[0, -1]].min() >= SHARING


def _outward(bound: float, span: float, rounding: Callable[[Decimal], int]) -> float:
    """Rounds a bound to two digits of the span."""
    exponent = math.floor(math.log10(span)) - 1
    shifted = Decimal(bound).scaleb(-exponent)
    return float(Decimal(rounding(shifted)).scaleb(exponent))


def _warn_of_lost_steps(
    name: object, unit: str | None, lattice: Lattice, transform: Transform, k: np.ndarray
) -> None:
    """Warns if float32 cannot resolve the steps over the column's range."""
    largest = max(abs(lattice.origin), abs(lattice.origin + lattice.step * lattice.last))
    if lattice.last < 2**20 or largest < _FLOAT32_PRINTED * lattice.step:
        return
    back = transform.inverse(transform.forward(k + 0.5).astype(np.float32).astype(np.float64))
    lost = float(np.abs(back - k - 0.5).max())
    if lost > 1:
        step = lattice.step / lattice.per
        logger.warning(
            "column '%s' has steps of %g%s, and over its range float32, in which networks "
            "compute, is off by up to %.1g; if that matters split it into a coarse and a fine "
            "column",
            name,
            step,
            "" if unit is None else f" {unit}",
            lost * step,
        )


def _share(cells: np.ndarray) -> float:
    """Returns the share of true cells, rounded; at least 1e-4 if any cell is true."""
    return max(_digits(float(cells.mean())), 1e-4) if cells.any() else 0.0


def _digits(share: float) -> float:
    """Rounds a share to four decimals, or to two significant digits below 0.01."""
    return float(f"{share:.4f}") if share >= 0.01 else float(f"{share:.2g}")


def _counted(present: np.ndarray, storage: Storage) -> tuple[np.ndarray, np.ndarray]:
    """Counts the distinct values, in the order of a categorical dtype or sorted."""
    codes, known = pd.factorize(present, sort=storage.values is None)
    counts = np.bincount(codes, minlength=len(known))
    if storage.values is not None and storage.inner is not None:
        order = place_among(storage.inner.from_scalars(storage.values), np.asarray(known))
        return np.asarray(known)[np.argsort(order)], counts[np.argsort(order)]
    return np.asarray(known), counts


def kind_of(series: pd.Series, name: str | int) -> Kind:
    """Finds the kind of a column.

    Args:
        series: Its cells, shape (n,).
        name: Its name in errors.

    Raises:
        DataError: Its dtype is not supported, it mixes types, or a value is infinite.
    """
    storage = Storage.of(series, name)
    values, missing = storage.read(series, name)
    return _kind_of(values[~missing], storage)


def _kind_of(present: np.ndarray, storage: Storage) -> Kind:
    """Infers the kind of a column from its values."""
    distinct = pd.unique(present)
    count, num = len(distinct), len(present)
    if count <= 1:
        return "constant"
    if storage.dtype == "category":
        return "ordinal" if storage.ordered and count > 2 else "categorical"
    holds = storage.holds
    if holds == "truth":
        return "boolean"
    if holds == "text":
        return "identifier" if count == num and num >= _FEWEST_UNIQUE else "categorical"
    if holds == "moment":
        return "datetime"
    if holds == "span":
        return "continuous"
    low, high = distinct.min(), distinct.max()
    if count == 2:
        return "boolean" if low == 0 and high == 1 else "categorical"
    whole = holds == "whole" or _are_whole(distinct)
    if whole and count == num >= _FEWEST_UNIQUE and int(high) - int(low) == num - 1:
        return "identifier"
    zeros = float((present == 0).mean())
    fine = count > _FEW
    if fine and (zeros >= _MOSTLY or (zeros >= _SOME and decimals(present) is None)):
        return "mostly-zero"
    if whole:
        return "count" if low in (0, 1) else "integer"
    return "continuous"


def _are_whole(numbers: np.ndarray) -> bool:
    return bool((numbers == np.rint(numbers)).all() and np.abs(numbers).max() < 2**53)


_MAY_HOLD: dict[Kind, tuple[Holds, ...]] = {
    "continuous": ("whole", "real", "span"),
    "integer": ("whole", "real"),
    "count": ("whole", "real"),
    "mostly-zero": ("whole", "real"),
    "datetime": ("moment",),
    "identifier": ("whole", "text"),
}


def _require_fitting(
    kind: Kind, found: Kind, values: np.ndarray, missing: np.ndarray, storage: Storage, name: object
) -> None:
    """Refuses a kind that does not fit a column's values."""
    problem = None
    count = len(pd.unique(values[~missing]))
    if storage.holds not in _MAY_HOLD.get(kind, (storage.holds,)):
        problem = f"holds {WORDS[storage.holds]}"
    elif kind == "identifier" and storage.values is not None:
        problem = "has a categorical dtype without room for new values, and may be made text"
    elif kind == "ordinal" and storage.holds == "text" and not storage.ordered:
        problem = "is text without an order, and may be made an ordered category"
    elif count > {"boolean": 2, "constant": 1}.get(kind, count):
        problem = f"has {count:,} different values"
    elif kind in ("integer", "count"):
        wrong = ~missing & ((values != np.rint(values)) | ((values < 0) & (kind == "count")))
        if wrong.any():
            row = int(np.argmax(wrong))
            problem = f"has {values[row]:g} in row {row + 1}"
    if problem is not None:
        raise DataError(
            f"column '{name}' cannot be of kind '{kind}': it {problem}; by itself it is '{found}'"
        )
