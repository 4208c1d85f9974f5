"""Views of a KAN denoiser: its network, the curves of its edges, its score.

They are plain numbers and words, which :mod:`kan_diffusion.report.explanation` draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from kan_diffusion.denoisers.base import Denoiser
from kan_diffusion.denoisers.edges import Edge, ReadableLayer
from kan_diffusion.denoisers.library import LINEAR
from kan_diffusion.denoisers.readable import ReadableDenoiser
from kan_diffusion.formulas.context import Context
from kan_diffusion.processes import Process

__all__ = [
    "EdgeCurve",
    "EdgeView",
    "LevelView",
    "NetworkView",
    "ScoreView",
    "default_levels",
    "view_network",
    "view_score",
]

Array = NDArray[np.float64]

_POINTS = 2000
"""Number of noised points at a level."""
_CURVE_POINTS = 61
_FIELD_SIDE = 17
_LINE_POINTS = 201
_LEVEL_SIGMAS = (0.1, 0.3, 0.5, 0.7, 0.9, 0.98)
_TAIL = 0.002
"""Share of the points at either end of a curve that is not drawn."""


@dataclass(frozen=True)
class LevelView:
    """A noise level: a timestep with its alpha and sigma."""

    timestep: int
    alpha: float
    sigma: float


@dataclass(frozen=True)
class EdgeCurve:
    """An edge at one noise level, over the range of its inputs there.

    Attributes:
        x: Inputs in increasing order, with shape (m,).
        y: Values of the edge minus their mean over the points, with shape (m,).
        density: Density of the inputs there, scaled to a maximum of 1, with shape (m,).
    """

    x: Array
    y: Array
    density: Array


@dataclass(frozen=True)
class EdgeView:
    """An edge at all noise levels.

    Attributes:
        layer: Number of its layer, from 0.
        input: Number of the input or unit it leaves.
        output: Number of the unit or output it enters.
        kind: ``"curve"``, ``"linear"`` or the name of its function.
        text: The function in words, such as ``"1.2 tanh(0.9 x + 0.1)"``; empty for curves.
        importance: Share of the network's outputs that goes back to it, over all levels: from 0 to
            about the number of outputs.
        size: Mean absolute deviation of its values.
        importance_by_level: The same share at each level, with shape (L,).
        curves: The curve at each level.
    """

    layer: int
    input: int
    output: int
    kind: str
    text: str
    importance: float
    size: float
    importance_by_level: Array
    curves: tuple[EdgeCurve, ...]


@dataclass(frozen=True)
class NetworkView:
    """A network at some noise levels.

    Attributes:
        units: Names of inputs, hidden units and outputs, layer by layer.
        num_point_inputs: Number of inputs that come from the points; the others come from the time.
        levels: The noise levels.
        edges: Its edges.
    """

    units: tuple[tuple[str, ...], ...]
    num_point_inputs: int
    levels: tuple[LevelView, ...]
    edges: tuple[EdgeView, ...]


@dataclass(frozen=True)
class ScoreView:
    """The score at some noise levels, in standardised coordinates.

    Attributes:
        levels: The levels.
        points: Places for each level, (n, d): increasing points for one coordinate, a grid over the
            noised points for two, noised points for more.
        scores: Scores at these places for each level, (n, d), by the name of the denoiser.
        exact: Exact scores for each level, (n, d); None where the density is not known.
        density: Density of the noised points there for each level, (n,), scaled to a maximum of 1;
            None where it is not known.
    """

    levels: tuple[LevelView, ...]
    points: tuple[Array, ...]
    scores: dict[str, tuple[Array, ...]]
    exact: tuple[Array, ...] | None
    density: tuple[Array, ...] | None

    @property
    def fields(self) -> dict[str, tuple[Array, ...]]:
        """All scores by name, the exact one last, under ``"exact"``, where it is known."""
        return self.scores | ({} if self.exact is None else {"exact": self.exact})


def default_levels(process: Process, sigmas: Sequence[float] = _LEVEL_SIGMAS) -> list[int]:
    """Finds the timesteps whose noise levels are nearest to given ones."""
    of_steps = process.levels()[1].numpy()
    return sorted({int(np.abs(of_steps - sigma).argmin()) for sigma in sigmas})


def _level_views(process: Process, timesteps: Sequence[int]) -> tuple[LevelView, ...]:
    alpha, sigma = process.levels()
    return tuple(LevelView(t, float(alpha[t]), float(sigma[t])) for t in timesteps)


def _curve(x: Array, y: Array) -> EdgeCurve:
    """Draws a curve through samples (n,) of an edge."""
    low, high = np.quantile(x, [_TAIL, 1 - _TAIL])
    order = np.argsort(x)
    x, y = x[order], y[order] - y.mean()
    if high - low < 1e-9:
        return EdgeCurve(np.array([low]), np.zeros(1), np.ones(1))
    places = np.linspace(low, high, _CURVE_POINTS)
    counts, _ = np.histogram(x, bins=np.linspace(low, high, _CURVE_POINTS + 1))
    kernel = np.exp(-0.5 * (np.arange(-6, 7) / 2.0) ** 2)
    smooth = np.convolve(counts, kernel / kernel.sum(), mode="same")
    return EdgeCurve(places, np.interp(places, x, y), smooth / max(smooth.max(), 1e-12))


def _number(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")


def _signed(value: float) -> str:
    return f"{'−' if value < 0 else '+'} {_number(abs(value))}"


def _edge_text(layer: ReadableLayer, edge: Edge) -> str:
    """Writes the function of an edge; nothing for a curve."""
    function, a, b, c, slope = layer.formula_of(edge)
    has_slope = edge.has_slope or edge.kind == LINEAR
    if function is None:
        return f"{_number(slope)} x" if has_slope else ""
    inside = f"{_number(a)} x"
    if abs(b) >= 5e-4:
        inside += f" {_signed(b)}"
    text = f"{_number(c)} {function.name}({inside})"
    return f"{text} {_signed(slope)} x" if has_slope else text


@torch.no_grad()
def view_network(
    denoiser: ReadableDenoiser, context: Context, timesteps: Sequence[int]
) -> NetworkView:
    """Makes a view of a network at some noise levels."""
    overall = context.importance(denoiser)
    by_level = [context.importance(denoiser, at=(context.noised(t, _POINTS), t)) for t in timesteps]
    edges = [
        EdgeView(
            layer=edge.layer,
            input=edge.input,
            output=edge.output,
            kind=edge.kind,
            text=_edge_text(denoiser.kan_layers[edge.layer], edge),
            importance=overall.share(edge),
            size=float(overall.sizes[edge.layer][edge.output, edge.input]),
            importance_by_level=np.array([part.share(edge) for part in by_level]),
            curves=tuple(_curve(*part.samples(edge)) for part in by_level),
        )
        for edge in denoiser.edges
    ]
    return NetworkView(
        units=tuple(tuple(layer) for layer in denoiser.unit_names()),
        num_point_inputs=sum(f.coordinate is not None for f in denoiser.input_features()),
        levels=_level_views(context.process, timesteps),
        edges=tuple(edges),
    )


@torch.no_grad()
def _score(denoiser: Denoiser, process: Process, points: torch.Tensor, level: LevelView) -> Array:
    """Computes a denoiser's score at points (n, d) of one noise level."""
    alpha, sigma = (torch.full((1, 1), v, dtype=torch.float64) for v in (level.alpha, level.sigma))
    prediction = denoiser(points.to(denoiser.dtype), level.timestep).sample.double()
    return np.asarray((-process.predicted_noise(prediction, points, alpha, sigma) / sigma).numpy())


def _places(points: torch.Tensor) -> torch.Tensor:
    """Chooses where a score is drawn: over the noised points of a level."""
    dim = points.shape[1]
    if dim > 2:
        return points[:_LINE_POINTS]
    low, high = torch.quantile(points, torch.tensor([0.005, 0.995], dtype=torch.float64), dim=0)
    margin = 0.05 * (high - low)
    low, high = low - margin, high + margin
    side = _LINE_POINTS if dim == 1 else _FIELD_SIDE
    share = torch.linspace(0, 1, side, dtype=torch.float64)
    return low + (high - low) * torch.cartesian_prod(*[share] * dim).reshape(-1, dim)


def view_score(
    denoisers: dict[str, Denoiser], context: Context, timesteps: Sequence[int]
) -> ScoreView:
    """Evaluates the scores of named denoisers and the exact score at some noise levels."""
    process, density = context.process, context.dataset.density
    levels = _level_views(process, timesteps)
    places = [_places(context.noised(t, _POINTS)) for t in timesteps]
    by_level = list(zip(places, levels, strict=True))
    exact, heights = None, None
    if density is not None:
        exact = tuple(density.score(x, v.alpha, v.sigma).numpy() for x, v in by_level)
        logs = [density.log_density(x, v.alpha, v.sigma) for x, v in by_level]
        heights = tuple((log - log.max()).exp().numpy() for log in logs)
    return ScoreView(
        levels=levels,
        points=tuple(x.numpy() for x in places),
        scores={
            name: tuple(_score(denoiser, process, x, level) for x, level in by_level)
            for name, denoiser in denoisers.items()
        },
        exact=exact,
        density=heights,
    )
