"""Columns of times of day in text, such as 08:30: numbers of minutes or seconds since midnight."""

from __future__ import annotations

from kan_diffusion.tables.dates import is_clock
from kan_diffusion.tables.kinds.base import Cells
from kan_diffusion.tables.kinds.date import Date

__all__ = ["Time"]


class Time(Date):
    """A column of times of day, which come back as they were written."""

    @classmethod
    def suits(cls, cells: Cells) -> bool:
        """Tells whether a column holds times of day."""
        return super().suits(cells) and is_clock(cells.storage.written)

    @classmethod
    def problem(cls, cells: Cells) -> str | None:
        """Says what is no time of day: other types, and dates."""
        if reason := super().problem(cells):
            return reason
        return None if is_clock(cells.storage.written) else "holds dates"
