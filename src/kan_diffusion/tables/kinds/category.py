r"""Columns of categories, of which a constant has but one and nothing to learn.

Two categories are -1 and +1. Three or more are ordered so that neighbours occur with similar other
cells (:mod:`kan_diffusion.tables.seriation`), and lie side by side on a line. Category k with share
:math:`p_k` has room for :math:`\sqrt{p_k}` and is the point in its middle,

.. math:: z_k = \Big(\sum_{j < k} \sqrt{p_j} + \tfrac12 \sqrt{p_k} - \mu\Big) / s,

with :math:`\mu` and s such that z has mean 0 and variance 1, or less if points would be beyond 4. A
coordinate is the category in whose room it is. Points leave a network nothing to learn within a
category; with room in proportion to :math:`p_k` rare ones would be too near to be told apart, and
with equal room frequent ones would be, among thousands.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, ClassVar, Self

import numpy as np
import pandas as pd
from annotated_types import Len
from pydantic import FailFast, Field, model_validator

from kan_diffusion.errors import DataError, listed
from kan_diffusion.limits import MOST_CATEGORIES
from kan_diffusion.tables.dtypes import Scalar, place_among
from kan_diffusion.tables.kinds.base import Cells, Kind
from kan_diffusion.tables.numbers import SHARING, Share, rounded_shares

_MANY_RARE = 20  # categories
_FARTHEST = 4.0  # largest coordinate of a category


class Category(Kind):
    """A column of categories.

    Attributes:
        categories: Its values, in the order in which a number counts them.
        frequencies: Share of each of them among the cells that have a value.
        rare: How many of them fewer than five rows have.
    """

    categories: Annotated[tuple[Scalar, ...], FailFast(), Len(1, MOST_CATEGORIES)]
    frequencies: Annotated[tuple[Share, ...], FailFast(), Len(1, MOST_CATEGORIES)]

    rare: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _require_parts(self) -> Self:
        if not len(self.frequencies) == len(self.categories) == len(set(self.categories)):
            raise DataError(f"column '{self.name}' needs a frequency for each of its categories")
        return self

    @classmethod
    def suits(cls, cells: Cells) -> bool:
        """Tells whether a column holds text or truth values, or two numbers."""
        storage = cells.storage
        named = storage.values is not None or storage.holds in ("text", "truth")
        return named or (len(cells.distinct) == 2 and storage.holds != "span")

    @classmethod
    def problem(cls, cells: Cells) -> str | None:
        """Returns None: whatever has a few values can be categories."""
        return None

    @classmethod
    def fitted(cls, cells: Cells) -> dict[str, object]:
        """Returns the categories and their shares."""
        storage = cells.storage
        codes, unique = pd.factorize(cells.present, sort=storage.values is None)
        known, counts = np.asarray(unique), np.bincount(codes, minlength=len(unique))
        if storage.values is not None:
            order = np.argsort(place_among(storage.from_scalars(storage.values), known))
            known, counts = known[order], counts[order]
        if len(known) > MOST_CATEGORIES:
            raise DataError(
                f"column '{cells.name}' has {len(known):,} different values, and a column has at "
                f"most {MOST_CATEGORIES:,} categories; leave it out or call it an identifier"
            )
        return {
            "categories": tuple(storage.scalars(known)),
            "frequencies": rounded_shares(counts / counts.sum()),
            "rare": int((counts < SHARING).sum()),
        }

    def warning(self, cells: Cells, given: bool) -> str:
        """Says that text is nearly free, so that drawn rows repeat what few people wrote."""
        is_free = self.rare >= max(_MANY_RARE, len(self.categories) / 2)
        if given or not is_free or self.storage.holds != "text":
            return ""
        return (
            f"column '{self.name}' has {self.rare:,} texts that fewer than five rows have, and "
            "rows are drawn with them as they are; if they name persons, leave the column out or "
            "merge them"
        )

    @property
    def is_discrete(self) -> bool:
        """Whether its values are points: all are."""
        return True

    @property
    def known(self) -> np.ndarray:
        """The categories as values."""
        return self.storage.from_scalars(self.categories)

    @cached_property
    def _line(self) -> tuple[np.ndarray, np.ndarray]:
        """The points of K categories, (K,), and the borders of their rooms, (K - 1,)."""
        shares = np.array(self.frequencies) / sum(self.frequencies)
        if len(shares) <= 2:
            return np.array([-1.0, 1.0][: len(shares)]), np.zeros(len(shares) - 1)
        borders = np.append(0, np.cumsum(np.sqrt(shares)))
        points = (borders[1:] + borders[:-1]) / 2
        mean = shares @ points
        away = np.abs(points - mean)
        spread = max(np.sqrt(shares @ away**2), away.max() / _FARTHEST)
        return (points - mean) / spread, (borders[1:-1] - mean) / spread

    def in_order(self, places: np.ndarray) -> Self:
        """Returns the column with its categories in another order; ``places`` has shape (K,)."""
        categories = tuple(self.categories[place] for place in places)
        frequencies = tuple(self.frequencies[place] for place in places)
        # A new column, whose cached properties follow the new order.
        return type(self)(**{**dict(self), "categories": categories, "frequencies": frequencies})

    def scores(
        self, values: np.ndarray, rows: np.ndarray, generator: np.random.Generator | None
    ) -> np.ndarray:
        """Maps categories to their points."""
        codes = place_among(self.known, values)
        problem = f"which is not in the rows trained on; known: {listed(self.known)}"
        self.refuse(codes < 0, values, problem, rows)
        return self._line[0][codes]

    def values(self, scores: np.ndarray) -> np.ndarray:
        """Maps coordinates to categories."""
        return self.known[self._codes_at(scores)]

    def _codes_at(self, scores: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._line[1], scores)

    def tempered(self, cells: np.ndarray) -> np.ndarray:
        """Moves what comes too often of a rare category to the nearest that is not rare.

        A network that puts a little too much where one row was repeats that row's text many times.
        Of n rows, ceil(n p) keep a category that a share p had, in fewer than five rows.
        """
        shares = np.array(self.frequencies)
        is_rare = shares <= np.sort(shares)[self.rare - 1] if self.rare else shares < 0
        common = np.flatnonzero(~is_rare)
        if not is_rare.any() or not len(common):
            return cells
        codes = np.where(self.gaps(cells), -1, self._codes_at(cells[:, -1].astype(np.float64)))
        # How many cells before each one have its category.
        number = pd.Series(codes).groupby(codes).cumcount().to_numpy()
        most = np.where(is_rare, np.ceil(shares * len(cells)), np.inf)
        excess = (codes >= 0) & (number >= most[codes])
        middles = (common[1:] + common[:-1]) / 2
        nearest = common[np.searchsorted(middles, codes[excess])]
        cells = cells.copy()
        cells[excess, -1] = self.scores(self.known[nearest], excess, None)
        return cells

    def words(self) -> str:
        """Names the first categories, and how many are rare."""
        rare = f", {self.rare:,} of them in fewer than {SHARING} rows" if self.rare else ""
        return super().words() + rare

    @property
    def reach(self) -> np.ndarray:
        """The categories in their declared order, if they have one, or by their values."""
        if self.storage.ordered:
            return self.known
        return super().reach

    def between(self, values: np.ndarray, low: object | None, high: object | None) -> np.ndarray:
        """Tells which categories are in a range, in their declared order or by their values."""
        known = self.known
        if self.storage.holds != "text" and (self.reach == np.sort(known)).all():
            return super().between(values, low, high)
        if not self.storage.ordered:
            raise DataError(
                f"column '{self.name}' has categories and no ranges; give a value or a list"
            )
        ends = [end for end in (low, high) if end is not None]
        # All of the dtype, which may have some that no row has.
        declared = self.storage.from_scalars(self.storage.values or self.categories)
        # Not rounded to a whole number, which may be one that there is.
        dtype = None if known.dtype.kind in "iu" else known.dtype
        self.require_possible(np.array([end for end in ends if end not in declared], dtype))
        places = (None if end is None else np.argmax(declared == end) for end in (low, high))
        return super().between(place_among(declared, values), *places)


class Constant(Kind):
    """A column with one value; one without any cell that has a value has none.

    Attributes:
        value: The value.
    """

    is_learned: ClassVar[bool] = False

    value: Annotated[tuple[Scalar, ...], Len(0, 1)] = ()

    @classmethod
    def suits(cls, cells: Cells) -> bool:
        """Tells whether a column has at most one value."""
        return len(cells.distinct) <= 1

    @classmethod
    def problem(cls, cells: Cells) -> str | None:
        """Says how many values there are, if there are several."""
        count = len(cells.distinct)
        return f"has {count:,} different values" if count > 1 else None

    @classmethod
    def fitted(cls, cells: Cells) -> dict[str, object]:
        """Returns the value."""
        return {"value": tuple(cells.storage.scalars(cells.distinct))}

    @property
    def known(self) -> np.ndarray:
        """The value."""
        return self.storage.from_scalars(self.value)

    @property
    def has_gaps(self) -> bool:
        """Whether some cells are missing; that all are tells nothing."""
        return super().has_gaps and len(self.value) > 0

    def values(self, scores: np.ndarray) -> np.ndarray:
        """Repeats the value, or a placeholder where there is none."""
        return np.repeat(self.known if self.value else self.storage.empty(1), len(scores))

    def gaps(self, cells: np.ndarray) -> np.ndarray:
        """Tells which cells are missing: all if none has a value."""
        return super().gaps(cells) if self.value else np.ones(len(cells), dtype=bool)
