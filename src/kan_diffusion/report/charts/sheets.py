"""Figures of pictures: what was asked for, and what was drawn."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from kan_diffusion.report.points import PictureRows, spread, time_name
from kan_diffusion.report.style import report_style

__all__ = ["asked_figure", "mosaic", "process_figure"]

_INCH = 0.42
"""Side of a picture in a figure."""
_LETTERS, _FEW_LETTERS, _GAP = 34, 17, 1
"""Letters on a line of a prompt, fewer on a telephone, and pixels around a picture."""


@report_style()
def asked_figure(
    asked: Sequence[str],
    columns: Sequence[tuple[str, PictureRows]],
    width: float = math.inf,
    names: Sequence[str] = (),
) -> Figure:
    """Draws a row for each prompt or class, with groups of pictures side by side as columns.

    Args:
        asked: What each row asks for; an empty text if nothing is asked for.
        columns: Title and pictures of each column.
        width: Largest width in inches; columns that do not fit go below the others.
        names: Names above the pictures of the first row of each column; empty for none.
    """
    letters = _LETTERS if width == math.inf else _FEW_LETTERS
    lines = [textwrap.fill(each, letters, max_lines=3, placeholder=" …") for each in asked]
    left = _words_width(max((len(line) for each in lines for line in each.split("\n")), default=0))
    mosaics = [mosaic(rows) for _, rows in columns]
    cell = len(mosaics[0]) / len(asked)
    widths = [_INCH * each.shape[1] / cell for each in mosaics]
    above, gap, below = 0.5, 0.18, 0.05
    places = [(left, 0)]  # left edge and line of each mosaic
    for across, following in pairwise(widths):
        start, line = places[-1]
        fits = start + across + gap + following <= width
        places.append((start + across + gap, line) if fits else (left, line + 1))
    height = _INCH * len(asked)
    whole = max(start + across for (start, _), across in zip(places, widths, strict=True))
    tall = (places[-1][1] + 1) * (above + height) + below
    figure = Figure(figsize=(whole, tall))
    for (title, _), drawn, across, (start, line) in zip(
        columns, mosaics, widths, places, strict=True
    ):
        bottom = tall - (line + 1) * (above + height)
        axes = figure.add_axes((start / whole, bottom / tall, across / whole, height / tall))
        axes.imshow(drawn, interpolation="nearest", aspect="auto")
        axes.grid(False)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        axes.set_title("\n".join(textwrap.wrap(title, max(8, int(across / 0.085)))), fontsize=9.5)
        if start == left:
            axes.set_yticks([(row + 0.5) * cell - 0.5 for row in range(len(lines))], lines)
            axes.tick_params(axis="y", length=0, labelsize=8.5)
        for index, name in enumerate(names):
            at = (index + 0.5) * cell, -0.15 * cell
            axes.text(*at, name, ha="center", va="bottom", fontsize=8.5)
    return figure


def process_figure(
    asked: Sequence[str], states: PictureRows, times: Sequence[float], width: float = math.inf
) -> Figure:
    """Draws the reverse process of pictures, a row each, from noise to what is asked for.

    Args:
        asked: What each row asks for.
        states: The pictures at each time, shape (rows, times, C, S, S).
        times: The times, as fractions of T.
        width: Largest width in inches; if it is too small for all times, some are left out.
    """
    most = (width - _words_width(_FEW_LETTERS)) / _INCH
    count = len(times) if most >= len(times) else max(2, int(most))
    picks = spread(len(times), count)
    names = [time_name(times[pick]) for pick in picks]
    return asked_figure(asked, [("", states[:, picks])], width, names)


def _words_width(letters: int) -> float:
    """Width in inches of so many letters beside a row."""
    return 0.1 + 0.075 * letters


def mosaic(samples: PictureRows) -> NDArray[np.uint8]:
    """Tiles pictures (rows, each, C, S, S) into one 8-bit RGB picture, with white lines between."""
    values = ((np.clip(samples, -1, 1) + 1) * 127.5).round()
    if values.shape[2] == 1:
        values = values.repeat(3, axis=2)
    framed = np.pad(values, ((0, 0),) * 3 + ((_GAP, _GAP),) * 2, constant_values=255)
    rows, each, channels, side, _ = framed.shape
    joined = framed.transpose(0, 3, 1, 4, 2).reshape(rows * side, each * side, channels)
    return joined.astype(np.uint8)
