"""How an explanation looks: colours of edges, noise levels, denoisers and inputs.

An edge is a learned curve, a straight line or a formula; line styles tell them apart where colours
do not. Noise levels run from dark to light along a scale whose lightness alone orders them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.colors import to_hex

from kan_diffusion.denoisers.edges import CURVE
from kan_diffusion.denoisers.library import LINEAR
from kan_diffusion.formulas.views import EdgeView, LevelView, NetworkView
from kan_diffusion.report.style import PALETTES, shortened

__all__ = [
    "FAINTEST", "INPUT_COLOURS", "KINDS", "KindStyle", "denoiser_style", "edge_title", "fading",
    "kind_of", "level_colours", "level_label",
]  # fmt: skip

FAINTEST = 0.14
"""The opacity of an edge without importance."""
_BRIGHTEST_LEVEL = 0.86
"""End of the colour scale of levels: the yellow beyond it is lost on white."""
_BLUES, _ORANGES, _OTHERS = (PALETTES[kind] for kind in ("kan", "mlp", "other"))


@dataclass(frozen=True)
class KindStyle:
    """The look of one kind of edge, or of one denoiser.

    Attributes:
        label: Its name in a legend.
        colour: Its colour.
        dashes: Lengths of dashes and gaps in multiples of the line's width; empty for a solid line.
    """

    label: str
    colour: str
    dashes: tuple[float, ...]

    @property
    def line(self) -> str | tuple[int, tuple[float, ...]]:
        """The dashes as Matplotlib's line style."""
        return (0, self.dashes) if self.dashes else "-"


KINDS = {
    "curve": KindStyle("learned curve", _BLUES[0], ()),
    "linear": KindStyle("straight line", _ORANGES[0], (4.0, 1.6)),
    "formula": KindStyle("formula", _OTHERS[0], (7.0, 1.6, 1.4, 1.6)),
}
"""The three kinds of edges."""

_DENOISERS = {
    "network": KindStyle("network", _BLUES[0], ()),
    "simplified": KindStyle("simplified", _BLUES[1], (5.0, 1.5)),
    "with formulas": KindStyle("with formulas", _OTHERS[0], (5.0, 1.5, 1.5, 1.5)),
    "formula": KindStyle("formula", _OTHERS[3], (1.5, 1.0)),
}

INPUT_COLOURS = (
    *(_BLUES[0], _ORANGES[1], _OTHERS[0], _OTHERS[3]),
    *(_BLUES[1], _ORANGES[0], _ORANGES[9], _OTHERS[2]),
)
"""Colours of inputs, in their order; only the last is near the grey of others to some readers."""


def kind_of(kind: str) -> str:
    """Gives the key in ``KINDS`` of an edge's kind: a function is a ``"formula"``."""
    return {CURVE: "curve", LINEAR: "linear"}.get(kind, "formula")


def fading(importance: float) -> float:
    """Gives the opacity of an edge: from faint but visible at importance 0 to 1 at importance 1.

    The square root keeps the many small shares of a wide network apart. Where importances exceed
    1, callers divide all of them by the largest.
    """
    share = float(np.clip(np.nan_to_num(importance), 0.0, 1.0))
    return FAINTEST + (1.0 - FAINTEST) * share**0.5


def level_colours(levels: Sequence[LevelView]) -> list[str]:
    """Gives every noise level a colour, dark where there is little noise."""
    scale = mpl.colormaps["viridis"]
    return [to_hex(scale(_BRIGHTEST_LEVEL * float(np.clip(x.sigma, 0.0, 1.0)))) for x in levels]


def level_label(level: LevelView) -> str:
    """Names a noise level by its sigma."""
    return f"σ = {level.sigma:.2f}"


def edge_title(view: NetworkView, edge: EdgeView) -> str:
    """Names an edge by the units that it connects."""
    source, target = view.units[edge.layer][edge.input], view.units[edge.layer + 1][edge.output]
    return f"{shortened(source)} to {shortened(target)}"


def denoiser_style(name: str) -> KindStyle:
    """Gives the look of a denoiser's score."""
    return _DENOISERS.get(name) or KindStyle(name, _ORANGES[4], (3.0, 1.0))
