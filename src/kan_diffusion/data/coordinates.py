"""What the coordinates of points are, for those who read a formula of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class CoordinateMap:
    """How a coordinate of a point follows from a number x of the data.

    Attributes:
        name: What the coordinate is: "age", if it is standardised, or "normal score of age".
        code: The coordinate and its derivative, a pair of NumPy expressions of an array x; empty
            where the number alone does not decide the coordinate.
        functions: Source of the functions that the code calls.
    """

    name: str
    code: str = ""
    functions: str = ""

    @classmethod
    def standardised(cls, name: str, mean: float, scale: float) -> Self:
        """Makes the map (x - mean) / scale."""
        return cls(name, f"((x - {mean!r}) / {scale!r}, np.full_like(x, {1 / scale!r}))")
