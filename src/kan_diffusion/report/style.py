"""The look of all pages: a colour for each family, grey for real data, one set of fonts.

Colours follow from the registry of families: KANs are blue, MLPs orange and red, all others green
and purple, in the order in which the registry lists them. Markers and line styles change too, so
that models can be told apart in black and white. Blue and orange remain distinct in all common
deficiencies of colour vision (Okabe & Ito 2008).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.colors import to_hex, to_rgb

from kan_diffusion.denoisers.families import FAMILIES

__all__ = [
    "GRID", "INK", "MUTED", "NARROW", "PALE", "PALETTES", "REAL", "SEED_ALPHA", "SYNTHETIC",
    "ModelStyle", "family_styles", "model_styles", "report_style", "shortened",
]  # fmt: skip

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
SEED_ALPHA = 0.55
"""The opacity of the mark of a single seed."""
NARROW = 4.3
"""Width of a figure for a telephone, in inches; at 358 pixels its letters are 9 pixels high."""

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


@dataclass(frozen=True)
class ModelStyle:
    """A model's colour, marker and line style, the same in every figure of a page."""

    colour: str
    marker: str
    line: str | tuple[int, tuple[float, ...]]


def _style(kind: str, place: int) -> ModelStyle:
    """Gives the style of the ``place``-th family of a kind; more than a hundred styles differ."""
    colours = PALETTES.get(kind, PALETTES["other"])
    # Marker and line cycles have coprime lengths; each kind starts elsewhere, for black and white.
    later = place + {"kan": 0, "mlp": 1}.get(kind, 2)
    marker, line = _MARKERS[later % len(_MARKERS)], _LINES[later % len(_LINES)]
    return ModelStyle(colours[place % len(colours)], marker, line)


def family_styles() -> dict[str, ModelStyle]:
    """Gives the style of every family of the registry, those added at run time included."""
    styles: dict[str, ModelStyle] = {}
    counts: dict[str, int] = {}
    for name, family in FAMILIES.items():
        styles[name] = _style(family.kind, counts.get(family.kind, 0))
        counts[family.kind] = counts.get(family.kind, 0) + 1
    return styles


def model_styles(models: pd.DataFrame) -> dict[str, ModelStyle]:
    """Gives the style of every model of a study.

    Args:
        models: Columns ``name`` and ``family``, and ``kind`` if known; only the first row of each
            name counts.

    Returns:
        Styles by name, in the order of the first rows. The first model of a registered family has
        the family's style; further ones have lighter or darker shades and other markers. Families
        outside the registry take the next colours of their kind.
    """
    known = family_styles()
    kinds = [family.kind for family in FAMILIES.values()]
    counts = {kind: kinds.count(kind) for kind in ("kan", "mlp", "other")}
    used: dict[str, int] = {}
    styles: dict[str, ModelStyle] = {}
    for row in models.drop_duplicates("name").to_dict("records"):
        family = str(row["family"])
        if family not in known:
            kind = str(row.get("kind"))
            kind = kind if kind in counts else "other"
            known[family] = _style(kind, counts[kind])
            counts[kind] += 1
        number = used.get(family, 0)
        used[family] = number + 1
        style = _variant(known[family], number)
        # A shade may happen to be another family's colour.
        while (style.colour, style.marker) in {(s.colour, s.marker) for s in styles.values()}:
            marker = _MARKERS[(_MARKERS.index(style.marker) + 1) % len(_MARKERS)]
            style = ModelStyle(style.colour, marker, style.line)
        styles[str(row["name"])] = style
    return styles


def _variant(style: ModelStyle, number: int) -> ModelStyle:
    """Changes the look of a family for its ``number``-th further model."""
    if number == 0:
        return style
    # Shares of white (above 0) or black (below) that are mixed in.
    shade = (0.0, 0.4, -0.45)[number % 3]
    mixed = (1 - abs(shade)) * np.array(to_rgb(style.colour)) + max(shade, 0.0)
    marker = _MARKERS[(_MARKERS.index(style.marker) + number) % len(_MARKERS)]
    line = _LINES[(_LINES.index(style.line) + number) % len(_LINES)]
    return ModelStyle(to_hex(mixed.tolist()), marker, line)


@contextmanager
def report_style() -> Iterator[None]:
    """Sets Matplotlib's style for the figures of a page, only inside the block.

    Letters missing from its fonts are boxes in a PNG; in an SVG the reader's fonts supply them.
    """
    with (
        warnings.catch_warnings(),
        mpl.rc_context(
            {
                # Verdana is as wide as DejaVu Sans, and replaces it in an SVG if need be.
                "font.sans-serif": ["DejaVu Sans", "Verdana"],
                "font.size": 10,
                # A file of the working folder can set these, and names programs that are run.
                "animation.ffmpeg_path": "ffmpeg",
                "text.usetex": False,
                "text.parse_math": False,  # names may contain dollar signs
                "axes.titlesize": 10.5,
                "axes.titleweight": "bold",
                "axes.titlelocation": "left",
                "axes.titlepad": 8,
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
                "axes.spines.top": False,
                "axes.spines.right": False,
                "axes.grid": True,
                "axes.axisbelow": True,
                "grid.color": GRID,
                "lines.linewidth": 1.8,
                "figure.facecolor": "white",
            }
        ),
    ):
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from", UserWarning)
        yield


def shortened(text: str, most: int = 20) -> str:
    """Shortens a text to one line of at most ``most`` letters by leaving out its middle."""
    text = " ".join(text.split())
    ending = (most - 1) // 2
    if len(text) <= most:
        return text
    return f"{text[: most - 1 - ending].rstrip()}…{text[-ending:].lstrip()}"
