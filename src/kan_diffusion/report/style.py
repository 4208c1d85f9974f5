"""The look of all figures: a colour for each family, grey for real data, one set of fonts.

Colours follow from the registry of families: KANs are blue, MLPs orange and red, all others green
and purple, in the order in which the registry lists them. Markers and line styles change too, so
that models can be told apart in black and white. Blue and orange remain distinct in all common
deficiencies of colour vision (Okabe & Ito 2008).
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import matplotlib as mpl
import pandas as pd

from kan_diffusion.denoisers.families import FAMILIES

INK = "#22262b"
"""Text and axes."""
MUTED = "#6b7280"
"""Secondary text."""
GRID = "#e4e6ea"
"""Grid lines."""
PALE = "#cfd3d9"
"""Models of another kind than the panel's."""
REAL = "#7a7f87"
"""Real data, and everything measured on it."""
SYNTHETIC = "#0072b2"
"""Synthetic rows of a table, beside real ones."""
WIDTH = 4.3
"""Width of a figure in inches: three stand side by side on a screen, one on a telephone."""

PALETTES: Mapping[str, tuple[str, ...]] = {
    "kan": (
        *("#0072b2", "#5aa9e6", "#08306b", "#8a93e8", "#23a6bf"),
        *("#3f3fbf", "#2f6bff", "#4d7ea8", "#7cc7e8", "#1b3f9c"),
    ),
    "mlp": (
        *("#d55e00", "#e69f00", "#7f2704", "#ff8f66", "#b3261e"),
        *("#b07a00", "#f0b860", "#a05a2c", "#e8743b", "#5c2e0e"),
    ),
    "other": (
        *("#009e73", "#6b8e23", "#cc79a7", "#882255", "#8a8500"),
        *("#44aa88", "#9b4f96", "#2e6b3e", "#b48ead", "#4f5b2a"),
    ),
}
"""Colours of each kind of family, in the order of the registry."""
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
_LINES: tuple[str | tuple[int, tuple[float, ...]], ...] = (
    "-",
    (0, (5.0, 1.5)),
    (0, (1.5, 1.0)),
    (0, (5.0, 1.5, 1.5, 1.5)),
)


class ModelStyle(NamedTuple):
    """A model's colour, marker and line style, the same in every figure of a page."""

    colour: str
    marker: str
    line: str | tuple[int, tuple[float, ...]]


def _style(kind: str, number: int) -> ModelStyle:
    """Gives the style of a kind's family of a number; a hundred styles of a kind differ."""
    colours = PALETTES[kind]
    # Colours and markers have coprime lengths; each kind starts elsewhere, for black and white.
    later = number + list(PALETTES).index(kind)
    marker, line = _MARKERS[later % len(_MARKERS)], _LINES[later % len(_LINES)]
    return ModelStyle(colours[number % len(colours)], marker, line)


def model_styles(models: pd.DataFrame) -> dict[str, ModelStyle]:
    """Gives the style of every model of a study.

    Args:
        models: Columns ``name`` and ``family``, and ``kind`` if known; only the first row of each
            name counts.

    Returns:
        Styles by name, in the order of the first rows. The first model of a registered family has
        the family's style; further ones, and families outside the registry, take the next colours
        of their kind.
    """
    counts: Counter[str] = Counter()
    free, styles = {}, {}
    for name, family in FAMILIES.items():
        free[name] = counts[family.kind]
        counts[family.kind] += 1
    for row in models.drop_duplicates("name").to_dict("records"):
        family_name, kind = str(row["family"]), str(row.get("kind"))
        if family_name in FAMILIES:
            kind = FAMILIES[family_name].kind
        kind = kind if kind in PALETTES else "other"
        number = free.pop(family_name, counts[kind])
        counts[kind] += number == counts[kind]
        styles[str(row["name"])] = _style(kind, number)
    return styles


_MATPLOTLIB = {
    # Verdana is as wide as DejaVu Sans, and replaces it in an SVG if need be.
    "font.sans-serif": ["DejaVu Sans", "Verdana"],
    "font.size": 8.5,
    "text.usetex": False,  # a file of the working folder can set it
    "text.parse_math": False,  # names may contain dollar signs
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 6,
    "axes.labelsize": 8.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.titlecolor": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "lines.linewidth": 1.6,
    "figure.facecolor": "white",
}


@contextmanager
def report_style() -> Iterator[None]:
    """Sets Matplotlib's style for the figures of a page, only inside the block.

    Letters missing from its fonts are boxes in a PNG; in an SVG the reader's fonts supply them.
    """
    with warnings.catch_warnings(), mpl.rc_context(_MATPLOTLIB):
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from", UserWarning)
        yield


def shortened(text: str, most: int = 20) -> str:
    """Shortens a text to one line of at most ``most`` letters by leaving out its middle."""
    text = " ".join(text.split())
    ending = (most - 1) // 2
    if len(text) <= most:
        return text
    return f"{text[: most - 1 - ending].rstrip()}…{text[-ending:].lstrip()}"
