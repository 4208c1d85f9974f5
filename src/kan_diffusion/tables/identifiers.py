"""Identifiers: unique in the rows trained on, never learned, drawn anew in the same pattern.

Consecutive whole numbers are counted up from the same start, in 64 bits if the column's dtype ends
too early. Text of one length keeps a character that all rows share at a place, and otherwise draws
one of the same class: digits, hexadecimal digits, small or capital letters, or any of these. Text
of several lengths becomes the shared beginning and a number.
"""

from __future__ import annotations

import math
import string
from typing import Annotated, Self

import numpy as np
import pandas as pd
from annotated_types import Len
from pydantic import Field

from kan_diffusion.limits import LARGEST_SETTING
from kan_diffusion.settings import Settings

__all__ = ["Identifier"]

_CLASSES = (
    string.digits,
    string.digits + "abcdef",
    string.digits + "ABCDEF",
    string.ascii_lowercase,
    string.ascii_uppercase,
    string.ascii_letters + string.digits,
)


class Identifier(Settings):
    """Pattern of the identifiers of a column.

    Attributes:
        start: First of the consecutive whole numbers, also of those after a beginning.
        places: Characters that may stand at each place, for text of one length.
        beginning: Shared beginning, for text of several lengths.
    """

    start: Annotated[int, Field(ge=-(2**63), lt=2**64)] = 1
    places: Annotated[tuple[str, ...], Len(0, 1_000)] = ()
    beginning: str = ""

    @classmethod
    def of(cls, values: np.ndarray) -> Self:
        """Finds the pattern of unique values, whole numbers or text, of shape (n,)."""
        if values.dtype.kind != "O":
            return cls(start=int(values.min()))
        lengths = {len(value) for value in values}
        if len(lengths) > 1 or max(lengths) > 1_000:
            first, last = str(values.min()), str(values.max())
            shared = 0
            while first[shared : shared + 1] == last[shared : shared + 1] != "":
                shared += 1
            return cls(beginning=first[:shared].rstrip(string.digits))
        texts = values.astype(str)
        cells = texts.view("U1").reshape(len(texts), -1)
        return cls(places=tuple(_class(set(np.unique(column))) for column in cells.T))

    def draw(self, count: int, text: bool, generator: np.random.Generator) -> np.ndarray:
        """Draws distinct identifiers.

        Args:
            count: How many.
            text: Whether they are text.
            generator: Draws the characters.

        Returns:
            Shape (count,), text or int64; uint64 where int64 does not reach.
        """
        dtype = np.int64 if self.start + count <= 2**63 else np.uint64
        numbers = np.arange(count, dtype=dtype) + dtype(self.start)
        if not text:
            return numbers
        if not self.places:
            return np.char.add(self.beginning, numbers.astype(str)).astype(object)
        room = math.prod(map(len, self.places))
        if count > min(room // 2, LARGEST_SETTING):  # the pattern allows too few
            shared = "".join(place for place in self.places if len(place) == 1)
            return np.char.add(shared, numbers.astype(str)).astype(object)
        found = np.empty(0, dtype=object)
        while len(found) < count:
            size = 2 * (count - len(found))
            cells = np.stack(
                [np.array(list(p))[generator.integers(len(p), size=size)] for p in self.places],
                axis=1,
            )
            texts = np.ascontiguousarray(cells).view(f"U{len(self.places)}")[:, 0]
            found = pd.unique(np.concatenate([found, texts.astype(object)]))[:count]
        return found


def _class(characters: set[str]) -> str:
    """Returns the class of characters that includes all of these."""
    if len(characters) == 1:
        return characters.pop()
    for known in _CLASSES:
        if characters <= set(known):
            return known
    return "".join(sorted(characters))
