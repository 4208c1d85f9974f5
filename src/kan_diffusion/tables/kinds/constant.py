"""Columns with one value in all rows, which is not learned."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Len

from kan_diffusion.tables.dtypes import Scalar
from kan_diffusion.tables.kinds.base import Cells, Kind

__all__ = ["Constant"]


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
    def states(self) -> tuple[str, ...]:
        """The state "missing", unless all cells are: then it tells nothing."""
        return super().states if self.value else ()

    def values(self, scores: np.ndarray) -> np.ndarray:
        """Repeats the value, or a placeholder where there is none."""
        return np.repeat(self.known if self.value else self.storage.empty(1), len(scores))

    def gaps(self, cells: np.ndarray) -> np.ndarray:
        """Tells which cells are missing: all if none has a value."""
        return super().gaps(cells) if self.value else np.ones(len(cells), dtype=bool)
