"""How everything in a report looks: one colour a family, real data in grey, one set of fonts.

A family looks the same in every report. KANs are blue, MLPs vermilion and orange, other networks
green; within a kind families differ by lightness, marker and line style, so that a print in black
and white still reads. Families the project does not know take the colours of Okabe & Ito (2008),
which people with any of the common colour-vision deficiencies tell apart; their yellow, lost on
white, is left out and their sky blue is darker, so that it holds on a white page as well as on a
dark one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.colors import to_hex, to_rgb

__all__ = [
    "BETTER",
    "FAMILY_STYLES",
    "GRID",
    "INK",
    "KNOWN_COLOURS",
    "MUTED",
    "PALE",
    "REAL",
    "SEED_ALPHA",
    "WORSE",
    "ModelStyle",
    "model_styles",
    "report_style",
]

INK = "#22262b"
"""Text and axes."""
MUTED = "#6b7280"
"""Secondary text."""
GRID = "#e4e6ea"
"""Grid lines."""
PALE = "#cfd3d9"
"""Models of another kind than those a panel is about."""
REAL = "#7a7f87"
"""Real data, and everything measured on it."""
BETTER = "#0f766e"
"""The end of the diverging scale that is better than a baseline; no model has this colour."""
WORSE = "#8a5a12"
"""The end that is worse."""

_BLUE, _SKY = "#0072b2", "#4aa3df"
_VERMILION, _ORANGE = "#d55e00", "#e69f00"
_GREEN, _PURPLE = "#009e73", "#cc79a7"
_OLIVE, _WINE = "#8a8500", "#882255"
_PALETTE = (_BLUE, _VERMILION, _GREEN, _PURPLE, _ORANGE, _SKY, _WINE, _OLIVE)
_MARKERS = ("o", "s", "v", "D", "P", "^", "<", ">")

_Line = str | tuple[int, tuple[float, ...]]
_SOLID, _DASHED = "-", (0, (5.0, 1.5))
_DOTTED, _MIXED = (0, (1.5, 1.0)), (0, (5.0, 1.5, 1.5, 1.5))
_LINES: tuple[_Line, ...] = (_SOLID, _DASHED, _DOTTED)
# Shares of white (above 0) or black (below) mixed into the colour of a family's further models.
_SHADES = (0.0, 0.4, -0.45)


@dataclass(frozen=True)
class ModelStyle:
    """A model's colour, marker and line style, the same in every figure of a report."""

    colour: str
    marker: str
    line: _Line


FAMILY_STYLES: Mapping[str, ModelStyle] = {
    "kan": ModelStyle(_BLUE, "o", _SOLID),
    "kan-rbf": ModelStyle("#5aa9e6", "s", _DASHED),
    "kan-chebyshev": ModelStyle("#08306b", "^", _DOTTED),
    "kan-fourier": ModelStyle("#8a93e8", "D", _MIXED),
    "kan-rational": ModelStyle("#23a6bf", "v", _DASHED),
    "kan-fourier-inputs": ModelStyle("#3f3fbf", "P", _SOLID),
    "residual-kan": ModelStyle("#2f6bff", "X", _DOTTED),
    "modulated-kan": ModelStyle("#4d7ea8", "<", _MIXED),
    "mlp": ModelStyle(_VERMILION, "s", _DASHED),
    "mlp-relu": ModelStyle(_ORANGE, "o", _SOLID),
    "mlp-fourier-inputs": ModelStyle("#7f2704", "^", _DOTTED),
    "residual-mlp": ModelStyle("#ff8f66", "D", _MIXED),
    "modulated-mlp": ModelStyle("#b07a00", "v", _DASHED),
    "spline-mlp": ModelStyle(_GREEN, "P", _SOLID),
    "rbf-2015": ModelStyle("#6b8e23", "X", _DOTTED),
}
"""How the project's families look, by name."""

_OTHER_STYLES: Mapping[str, ModelStyle] = {
    "readable-kan": ModelStyle("#1a5fa8", "D", _SOLID),
    "formula": ModelStyle(_WINE, "p", _DOTTED),
}
"""How denoisers of explanations look, by the name of their family."""

SEED_ALPHA = 0.55
"""The opacity of the mark of a single seed."""

KNOWN_COLOURS = (
    *("#ffffff", INK, MUTED, GRID, PALE, REAL, BETTER, WORSE),
    *(style.colour for style in (*FAMILY_STYLES.values(), *_OTHER_STYLES.values())),
    *(
        to_hex([1 - SEED_ALPHA * (1 - part) for part in to_rgb(style.colour)])
        for style in (*FAMILY_STYLES.values(), *_OTHER_STYLES.values())
    ),
)
"""Colours that a picture in few colours must keep as they are, the most important first."""


def model_styles(rows: pd.DataFrame) -> dict[str, ModelStyle]:
    """Gives every model of a study its style.

    Args:
        rows: One row a trial, with ``name`` and ``family``.

    Returns:
        Name to style, in the order of the names' first rows. The first model of a known family has
        its look, the next ones lighter and darker shades and other markers. Families that are not
        known take free colours of a palette, which repeat after eight; the marker then tells two
        models of one colour apart.
    """
    families = rows.drop_duplicates("name").set_index("name")["family"]
    known = {**FAMILY_STYLES, **_OTHER_STYLES}
    styles: dict[str, ModelStyle] = {}
    for name, family in families.items():
        if str(family) in known:
            earlier = sum(families[other] == family for other in styles)
            styles[str(name)] = _variant(known[str(family)], earlier)
    colours = [style.colour for style in styles.values()]
    for index, name in enumerate(map(str, families.index)):
        if name in styles:
            continue
        free = (c for c in _PALETTE if c not in colours)
        colour = next(free, _PALETTE[index % len(_PALETTE)])
        place = _PALETTE.index(colour) + colours.count(colour)
        colours.append(colour)
        styles[name] = ModelStyle(
            colour, _MARKERS[place % len(_MARKERS)], _LINES[place % len(_LINES)]
        )
    return {name: styles[name] for name in map(str, families.index)}


def _variant(style: ModelStyle, number: int) -> ModelStyle:
    """A family's ``number``-th further model: 24 of them differ in colour or marker."""
    if number == 0:
        return style
    shade = _SHADES[number % len(_SHADES)]
    towards = 1.0 if shade > 0 else 0.0
    mixed = (1 - abs(shade)) * np.array(to_rgb(style.colour)) + abs(shade) * towards
    markers = (style.marker, *(marker for marker in _MARKERS if marker != style.marker))
    lines = (style.line, *(line for line in _LINES if line != style.line))
    return ModelStyle(to_hex(mixed.tolist()), markers[number % 8], lines[number % len(lines)])


@contextmanager
def report_style() -> Iterator[None]:
    """Matplotlib settings of a report's figures, in force inside the block and nowhere else."""
    with mpl.rc_context(
        {
            "font.family": "sans-serif",
            "font.sans-serif": ["DejaVu Sans"],
            "font.size": 10,
            "axes.titlesize": 10.5,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.titlepad": 8,
            "axes.labelsize": 10,
            "xtick.labelsize": 9,
            "ytick.labelsize": 9,
            "legend.fontsize": 9.5,
            "legend.frameon": False,
            "text.color": INK,
            "axes.labelcolor": INK,
            "axes.edgecolor": "#9aa1ab",
            "axes.titlecolor": INK,
            "xtick.color": MUTED,
            "ytick.color": MUTED,
            "axes.linewidth": 0.8,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": GRID,
            "grid.linewidth": 0.8,
            "lines.linewidth": 1.8,
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "axes.unicode_minus": True,
        }
    ):
        yield
