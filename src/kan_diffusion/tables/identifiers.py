"""Identifiers: unique in the rows trained on and never learned; new ones are counted on from there.

A new identifier is the beginning that all known ones share, and a number above the largest seen
there, rounded up, so that it tells no row.
"""

from __future__ import annotations

import string
from typing import Annotated, Self

import numpy as np
from pydantic import Field

from kan_diffusion.settings import Settings

__all__ = ["Identifier"]

_DIGITS = 18


class Identifier(Settings):
    """What the new identifiers of a column are.

    Attributes:
        text: Whether they are text.
        prefix: Text before the number.
        digits: Fewest digits of the number, which zeros fill up.
        first: The first number.
    """

    text: bool
    prefix: str = ""
    digits: Annotated[int, Field(ge=0, le=_DIGITS)] = 0
    first: Annotated[int, Field(ge=-(2**63), lt=2**64)] = 1

    @classmethod
    def of(cls, values: np.ndarray) -> Self:
        """Describes identifiers like unique ones, whole numbers or text, of shape (n,), n > 0."""
        if values.dtype.kind != "O":
            return cls(text=False, first=_above(int(values.max())))
        low, high, shared = values.min(), values.max(), 0
        while low[shared : shared + 1] == high[shared : shared + 1] != "":
            shared += 1
        prefix = low[:shared].rstrip(string.digits)
        shortest = min(map(len, values)) - len(prefix)
        first = _above(_largest(values, prefix))
        return cls(text=True, prefix=prefix, digits=min(shortest, _DIGITS), first=first)

    def new(self, count: int, known: np.ndarray) -> np.ndarray:
        """Makes identifiers that are neither among those described nor among others.

        Args:
            count: How many.
            known: The others, shape (m,).

        Returns:
            Shape (count,), text or int64; uint64 where int64 does not reach.
        """
        first = self.first
        if len(known):
            largest = _largest(known, self.prefix) if self.text else int(known.max())
            first = max(first, _above(largest))
        first = min(first, 2**64 - count)
        dtype = np.int64 if first + count <= 2**63 else np.uint64
        numbers = np.arange(count, dtype=dtype) + dtype(first)
        if not self.text:
            return numbers
        return np.array(
            [f"{self.prefix}{n:0{self.digits}}" for n in numbers.tolist()], dtype=object
        )


def _largest(texts: np.ndarray, prefix: str) -> int:
    """Returns the largest number of at most 18 digits that follows a prefix; 0 if none does."""
    ends = (text.removeprefix(prefix) for text in texts if text.startswith(prefix))
    return max((int(end) for end in ends if end.isdecimal() and len(end) <= _DIGITS), default=0)


def _above(largest: int) -> int:
    """Rounds a number up, to a larger one of two digits or the next hundredth of its size."""
    unit = 10 ** max(0, len(str(abs(largest))) - 2)
    return min((largest // unit + 1) * unit, 2**64 - 1)
