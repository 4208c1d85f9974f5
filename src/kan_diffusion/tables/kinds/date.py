"""Columns of dates: numbers of days, months, minutes or the like since 1970."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from kan_diffusion.tables.dtypes import Holds
from kan_diffusion.tables.kinds.number import Number
from kan_diffusion.tables.scales import Dates

__all__ = ["Date"]


class Date(Number):
    """A column of dates, at the resolution that all of them have."""

    holds: ClassVar[frozenset[Holds]] = frozenset({"moment"})

    @property
    def spelled(self) -> str:
        """The kind as a user gives it: of dates in text with their format, "date:%m/%d/%Y"."""
        return self.kind + (f":{self.storage.written}" if self.storage.written else "")

    def texts(self, values: np.ndarray) -> list[str]:
        """Writes dates of text as it does."""
        if self.storage.written is None:
            return super().texts(values)
        return list(self.restore(values, np.zeros(len(values), dtype=bool)))

    def scale(self, present: np.ndarray) -> Dates:
        """Compares and draws dates."""
        return Dates()

    def words(self) -> str:
        """Names the first and the last date, and their time zone."""
        return super().words() + (f" ({self.storage.zone})" if self.storage.zone else "")
