"""Tables as the page shows them: cells with what they are sorted by, heads, and lines."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from kan_diffusion.report.tables import MISSING, format_interval, format_number
from kan_diffusion.study.results.statistics import Interval

__all__ = [
    "Anchors",
    "Cell",
    "Head",
    "Line",
    "Table",
    "Trial",
    "interval_cell",
    "number_cell",
    "plain_number",
]


@dataclass(frozen=True)
class Trial:
    """A trial as a cell names it.

    Attributes:
        seed: Its seed.
        id: Its id.
        anchor: The anchor of its row among all trials; empty where it has none.
    """

    seed: str
    id: str
    anchor: str


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: What it says; a dash where nothing was measured.
        note: Its smaller second line.
        key: What it is sorted by, a number written out; its text where empty.
        link: The anchor its text leads to.
        badge: The class of a coloured badge around its text.
        colour: The colour of a swatch before its text.
        trials: The trials behind it.
    """

    text: str
    note: str = ""
    key: str = ""
    link: str = ""
    badge: str = ""
    colour: str = ""
    trials: tuple[Trial, ...] = ()


@dataclass(frozen=True)
class Head:
    """The head of a column.

    Attributes:
        text: Its name.
        title: What it means, shown when a mouse rests on it.
        words: Whether the column holds words, which stand on the left.
    """

    text: str
    title: str = ""
    words: bool = False


@dataclass(frozen=True)
class Line:
    """A row of a table.

    Attributes:
        cells: Its cells, the first being its head.
        anchor: Its id in the page.
        kind: Its class.
    """

    cells: list[Cell]
    anchor: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """A table with its sortable lines and, below them, those that stay where they are.

    Attributes:
        heads: A head a column.
        lines: What is sorted.
        feet: What is not, such as the values to reach.
        caption: What the table holds, for those who cannot see it.
        kind: Its class.
        notes: What to know to read it.
    """

    heads: list[Head]
    lines: list[Line]
    feet: list[Line] = field(default_factory=list)
    caption: str = ""
    kind: str = "summary"
    notes: tuple[str, ...] = ()


class Anchors:
    """Ids within a page, each given once."""

    def __init__(self) -> None:
        self._given: dict[tuple[str, ...], str] = {}

    def __call__(self, *words: str) -> str:
        """The id of something, by the words that tell it from all else."""
        if words not in self._given:
            taken = set(self._given.values())
            slug = re.sub(r"[^a-z0-9]+", "-", "-".join(words).lower()).strip("-") or "part"
            number = 1
            while (unique := slug if number == 1 else f"{slug}-{number}") in taken:
                number += 1
            self._given[words] = unique
        return self._given[words]


def number_cell(value: float | None, text: str = "", note: str = "") -> Cell:
    """A number, sorted by its value; ``text`` is how it is written where not as usual."""
    if value is None or not math.isfinite(value):
        return Cell(MISSING, note)
    return Cell(text or format_number(value), note, f"{value:.12g}")


def interval_cell(interval: Interval, notes: Iterable[str] = (), digits: int = 3) -> Cell:
    """A mean with its interval below it, sorted by the mean."""
    value, _, ends = format_interval(interval, digits).partition(" [")
    lines = [f"[{ends}" if ends else "", *notes]
    return number_cell(interval.mean, value, "\n".join(line for line in lines if line))


def plain_number(value: float) -> str:
    """A raw number to six digits, written so that scripts read it too."""
    if not math.isfinite(value):
        return MISSING
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else f"{value:.6g}"
