"""How everything in a report looks: one colour a model, real data in grey, one set of fonts.

The colours follow Okabe & Ito (2008), which people with any of the common colour-vision
deficiencies tell apart; their yellow, lost on white, is left out and their sky blue is darker, so
that it holds on a white page as well as on a dark one. Models differ by marker and
line style too, so that a print in black and white still reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib as mpl
import pandas as pd

from kan_diffusion.report.contents import complete_rows

__all__ = ["GRID", "INK", "MUTED", "REAL", "ModelStyle", "model_styles", "report_style"]

INK = "#22262b"
"""Text and axes."""
MUTED = "#6b7280"
"""Secondary text."""
GRID = "#e4e6ea"
"""Grid lines."""
REAL = "#7a7f87"
"""Real data, and everything measured on it."""

_BLUE, _SKY = "#0072b2", "#4aa3df"
_VERMILION, _ORANGE = "#d55e00", "#e69f00"
_GREEN, _PURPLE = "#009e73", "#cc79a7"
_OLIVE, _WINE = "#8a8500", "#882255"
_PALETTE = (_BLUE, _VERMILION, _GREEN, _PURPLE, _ORANGE, _SKY, _WINE, _OLIVE)
# The two families of most reports look the same in all of them.
_PREFERRED = {"kan": (_BLUE, _SKY), "mlp": (_VERMILION, _ORANGE)}
_MARKERS = ("o", "s", "v", "D", "P", "^", "<", ">")
_LINES: tuple[str | tuple[int, tuple[float, ...]], ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1)))


@dataclass(frozen=True)
class ModelStyle:
    """A model's colour, marker and line style, the same in every figure of a report."""

    colour: str
    marker: str
    line: str | tuple[int, tuple[float, ...]]


def model_styles(rows: pd.DataFrame) -> dict[str, ModelStyle]:
    """Gives every model of a study its style.

    Args:
        rows: One row a trial, with ``name`` and ``family``.

    Returns:
        Name to style, in the order of the names' first rows. Families the project compares most
        keep their colours from report to report; colours repeat after eight models, and then the
        marker tells two models of one colour apart.
    """
    families = complete_rows(rows).drop_duplicates("name").set_index("name")["family"]
    colours: dict[str, str] = {}
    for name, family in families.items():
        free = (c for c in _PREFERRED.get(str(family), ()) if c not in colours.values())
        if (preferred := next(free, None)) is not None:
            colours[str(name)] = preferred
    for index, name in enumerate(map(str, families.index)):
        free = (c for c in _PALETTE if c not in colours.values())
        colours.setdefault(name, next(free, _PALETTE[index % len(_PALETTE)]))
    styles: dict[str, ModelStyle] = {}
    for name in map(str, families.index):
        colour = colours[name]
        repeats = sum(style.colour == colour for style in styles.values())
        place = _PALETTE.index(colour) + repeats
        styles[name] = ModelStyle(
            colour, _MARKERS[place % len(_MARKERS)], _LINES[place % len(_LINES)]
        )
    return styles


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
