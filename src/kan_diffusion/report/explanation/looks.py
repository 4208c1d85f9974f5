"""How an explanation looks: colours of edges, of noise levels, of denoisers and of inputs.

An edge is a learned curve, a straight line or a formula; line styles tell them apart where colours
do not. Noise levels run from dark to light along a scale whose lightness alone orders them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.colors import to_hex

from kan_diffusion.denoisers.edges import CURVE
from kan_diffusion.denoisers.library import LINEAR
from kan_diffusion.report.style import REAL, report_style
from kan_diffusion.symbolic.views import LevelView

__all__ = [
    "FAINTEST",
    "INPUT_COLOURS",
    "KINDS",
    "OTHERS",
    "KindStyle",
    "denoiser_style",
    "explanation_style",
    "fading",
    "kind_of",
    "level_colours",
    "level_label",
    "shortened",
    "spread_out",
]

FAINTEST = 0.14
"""How opaque an edge without importance is."""
_BRIGHTEST_LEVEL = 0.86
"""Where the scale of levels ends: its yellow is lost on white."""


@dataclass(frozen=True)
class KindStyle:
    """How one kind of edge is drawn.

    Attributes:
        label: What the legend says.
        colour: Its colour.
        dashes: Lengths of dashes and gaps in multiples of the line's width; empty for a solid line.
    """

    label: str
    colour: str
    dashes: tuple[float, ...]

    @property
    def line(self) -> str | tuple[int, tuple[float, ...]]:
        """The same as Matplotlib's line style."""
        return (0, self.dashes) if self.dashes else "-"


KINDS = {
    "curve": KindStyle("learned curve", "#0072b2", ()),
    "linear": KindStyle("straight line", "#d55e00", (4.0, 1.6)),
    "formula": KindStyle("formula", "#009e73", (7.0, 1.6, 1.4, 1.6)),
}
"""The three kinds of edges."""

_DENOISERS = {
    "network": KindStyle("network", "#0072b2", ()),
    "simplified": KindStyle("simplified", "#5aa9e6", (5.0, 1.5)),
    "with formulas": KindStyle("with formulas", "#009e73", (5.0, 1.5, 1.5, 1.5)),
    "formula": KindStyle("formula", "#882255", (1.5, 1.0)),
}
_OTHER_DENOISER = ("#b07a00", (3.0, 1.0))

INPUT_COLOURS = (
    *("#0072b2", "#e69f00", "#009e73", "#cc79a7"),
    *("#4aa3df", "#d55e00", "#8a8500", "#882255"),
)
"""Colours of inputs, in their order."""
OTHERS = REAL
"""Colour of all inputs that have none of their own."""


@contextmanager
def explanation_style() -> Iterator[None]:
    """Matplotlib's settings for an explanation: a report's, and ``$`` in names is just that."""
    with report_style(), mpl.rc_context({"text.parse_math": False}):
        yield


def shortened(name: str, most: int = 20) -> str:
    """A name on one line of at most ``most`` letters, for figures."""
    name = " ".join(name.split())
    return name if len(name) <= most else f"{name[: most - 1]}…"


def kind_of(kind: str) -> str:
    """The key in ``KINDS`` of an edge's kind: a function is a ``"formula"``."""
    return {CURVE: "curve", LINEAR: "linear"}.get(kind, "formula")


def fading(importance: float) -> float:
    """How opaque an edge is: from faint but visible at importance 0 to 1 at importance 1.

    The root keeps apart the many small shares of a wide network.
    """
    share = float(np.clip(np.nan_to_num(importance), 0.0, 1.0))
    return FAINTEST + (1.0 - FAINTEST) * share**0.5


def level_colours(levels: Sequence[LevelView]) -> list[str]:
    """A colour a noise level, dark where there is little noise."""
    scale = mpl.colormaps["viridis"]
    return [to_hex(scale(_BRIGHTEST_LEVEL * float(np.clip(x.sigma, 0.0, 1.0)))) for x in levels]


def level_label(level: LevelView) -> str:
    """What a noise level is called everywhere."""
    return f"σ = {level.sigma:.2f}"


def denoiser_style(name: str) -> KindStyle:
    """How a denoiser's score is drawn."""
    return _DENOISERS.get(name) or KindStyle(name, *_OTHER_DENOISER)


def spread_out(count: int, most: int) -> list[int]:
    """At most ``most`` numbers below ``count``, from first to last, evenly apart."""
    if count <= most:
        return list(range(count))
    return sorted({round(float(place)) for place in np.linspace(0, count - 1, most)})
