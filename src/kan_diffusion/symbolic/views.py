"""What is to be seen of a KAN denoiser: its network, the curves of its edges, its score.

These are plain numbers and words, ready to be drawn; :mod:`kan_diffusion.report.explanation` draws
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from kan_diffusion.denoisers.base import Denoiser
from kan_diffusion.denoisers.readable import ReadableDenoiser
from kan_diffusion.processes import Process
from kan_diffusion.symbolic.context import Context

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
"""Noised points a level."""
_CURVE_POINTS = 61
_FIELD_SIDE = 17
_LINE_POINTS = 201
_LEVEL_SIGMAS = (0.1, 0.3, 0.5, 0.7, 0.9, 0.98)
_TAIL = 0.002
"""Share of the points at either end that a curve is not drawn for."""


@dataclass(frozen=True)
class LevelView:
    """A noise level.

    Attributes:
        timestep: Its timestep.
        alpha: Its signal level.
        sigma: Its noise level.
    """

    timestep: int
    alpha: float
    sigma: float


@dataclass(frozen=True)
class EdgeCurve:
    """An edge at one noise level, over the range that its input really has there.

    Attributes:
        x: Inputs in increasing order, with shape (m,).
        y: What the edge gives, its mean over the points taken out, with shape (m,).
        density: Density of the inputs at them, the largest being 1, with shape (m,).
    """

    x: Array
    y: Array
    density: Array


@dataclass(frozen=True)
class EdgeView:
    """An edge.

    Attributes:
        layer: Its layer, from 0.
        input: Number of the input or unit it leaves.
        output: Number of the unit or output it enters.
        kind: ``"curve"``, ``"linear"`` or the function it is.
        text: What it is in words, such as ``"1.2 tanh(0.9 x + 0.1)"``; empty for curves.
        importance: Share of the network's outputs that goes back to it, over all levels: from 0 to
            about the number of outputs.
        size: Mean absolute deviation of what it gives.
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
    """A network.

    Attributes:
        units: Names of inputs, hidden units and outputs, layer by layer.
        num_point_inputs: How many of the inputs come from the points; the rest are time's.
        levels: The noise levels it was looked at.
        edges: Its edges.
        unit_importance: Share of the outputs that goes back to each unit, layer by layer; 1 for
            outputs.
        input_by_level: Share that goes back to each input at each level, with shape (L, inputs).
        entropies: Entropy of each layer's sizes, in nats.
    """

    units: tuple[tuple[str, ...], ...]
    num_point_inputs: int
    levels: tuple[LevelView, ...]
    edges: tuple[EdgeView, ...]
    unit_importance: tuple[tuple[float, ...], ...]
    input_by_level: Array
    entropies: tuple[float, ...]


@dataclass(frozen=True)
class ScoreView:
    """The score at some noise levels, in standardised coordinates.

    Attributes:
        levels: The levels.
        points: Where it is given: per level (n, d). A grid over what is visited, for two
            coordinates; increasing points for one; points of the data for more.
        scores: Name of a denoiser to its score at the points, (n, d) a level.
        exact: The exact score where the density is known, (n, d) a level; None elsewhere.
        density: Density of the noised points at them, the largest being 1, (n,) a level; None
            where it is not known.
    """

    levels: tuple[LevelView, ...]
    points: tuple[Array, ...]
    scores: dict[str, tuple[Array, ...]]
    exact: tuple[Array, ...] | None
    density: tuple[Array, ...] | None


def default_levels(process: Process, sigmas: Sequence[float] = _LEVEL_SIGMAS) -> list[int]:
    """Timesteps whose noise levels are nearest to given ones.

    Args:
        process: The process.
        sigmas: Noise levels.
    """
    of_steps = process.levels()[1].numpy()
    return sorted({int(np.abs(of_steps - sigma).argmin()) for sigma in sigmas})


def _levels(process: Process, timesteps: Sequence[int]) -> tuple[LevelView, ...]:
    alpha, sigma = process.levels()
    return tuple(LevelView(t, float(alpha[t]), float(sigma[t])) for t in timesteps)


def _curve(x: Array, y: Array) -> EdgeCurve:
    """A curve through samples (n,) of an edge that is a function of x."""
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


def _edge_texts(denoiser: ReadableDenoiser) -> dict[tuple[int, int, int], str]:
    texts = {}
    for layer in denoiser.layers:
        for edge in layer.edges:
            if edge.has_slope or edge.kind == "linear":
                slope = float(layer.slope[edge.output, edge.input])
                texts[edge.place] = f"{_number(slope)} x"
        for group in layer.groups():
            for index, edge in enumerate(group.edges):
                a, b, c = (float(p[index]) for p in (group.inner, group.shift, group.outer))
                inside = f"{_number(a)} x"
                if abs(b) >= 5e-4:
                    inside += f" {'+' if b > 0 else '−'} {_number(abs(b))}"
                text = f"{_number(c)} {group.function.name}({inside})"
                linear = texts.get(edge.place)
                if linear is not None:
                    sign = "−" if linear.startswith("−") else "+"
                    text = f"{text} {sign} {linear.removeprefix('−')}"
                texts[edge.place] = text
    return texts


@torch.no_grad()
def view_network(
    denoiser: ReadableDenoiser, context: Context, timesteps: Sequence[int]
) -> NetworkView:
    """Looks at a network at some noise levels.

    Args:
        denoiser: The network.
        context: Its data and process.
        timesteps: The levels.
    """
    overall = context.importance(denoiser)
    by_level = [context.importance(denoiser, at=(context.noised(t, _POINTS), t)) for t in timesteps]
    texts = _edge_texts(denoiser)
    edges = []
    for edge in denoiser.edges:
        at = edge.layer, (edge.output, edge.input)
        edges.append(
            EdgeView(
                layer=edge.layer,
                input=edge.input,
                output=edge.output,
                kind=edge.kind,
                text=texts.get(edge.place, ""),
                importance=float(overall.attribution.edges[at[0]][at[1]]),
                size=float(overall.sizes[at[0]][at[1]]),
                importance_by_level=np.array(
                    [float(part.attribution.edges[at[0]][at[1]]) for part in by_level]
                ),
                curves=tuple(_curve(*part.samples(edge)) for part in by_level),
            )
        )
    names = denoiser.unit_names()
    importance = [unit.tolist() for unit in overall.attribution.units]
    return NetworkView(
        units=tuple(tuple(layer) for layer in names),
        num_point_inputs=denoiser.num_point_inputs(),
        levels=_levels(context.process, timesteps),
        edges=tuple(edges),
        unit_importance=(*(tuple(unit) for unit in importance), (1.0,) * len(names[-1])),
        input_by_level=np.array([part.attribution.units[0].tolist() for part in by_level]),
        entropies=overall.entropies,
    )


def _score(denoiser: Denoiser, context: Context, x: torch.Tensor, timestep: int) -> Array:
    """A denoiser's score at points (n, d)."""
    process = context.process
    alpha, sigma = (level[timestep].reshape(1, 1) for level in process.levels())
    with torch.no_grad():
        prediction = denoiser(x.to(denoiser.dtype), timestep, return_dict=False)[0].double()
    noise = process.predicted_noise(prediction, x, alpha, sigma)
    return np.asarray((-noise / sigma).numpy())


def _places(points: torch.Tensor) -> torch.Tensor:
    """Where a score is drawn: over what is visited at a level."""
    dim = points.shape[1]
    if dim > 2:
        return points[:_LINE_POINTS]
    low, high = torch.quantile(points, torch.tensor([0.005, 0.995], dtype=torch.float64), dim=0)
    margin = 0.05 * (high - low)
    low, high = low - margin, high + margin
    if dim == 1:
        return torch.linspace(float(low), float(high), _LINE_POINTS, dtype=torch.float64)[:, None]
    axes = [
        torch.linspace(float(a), float(b), _FIELD_SIDE, dtype=torch.float64)
        for a, b in zip(low, high, strict=True)
    ]
    return torch.cartesian_prod(*axes)


def view_score(
    denoisers: dict[str, Denoiser], context: Context, timesteps: Sequence[int]
) -> ScoreView:
    """Evaluates scores beside the exact one.

    Args:
        denoisers: What to evaluate, by name.
        context: Data and process.
        timesteps: The levels.
    """
    levels = _levels(context.process, timesteps)
    places = [_places(context.noised(t, _POINTS)) for t in timesteps]
    density = context.dataset.density
    exact, heights = None, None
    if density is not None:
        exact = tuple(
            density.score(x, level.alpha, level.sigma).numpy()
            for x, level in zip(places, levels, strict=True)
        )
        logs = [
            density.log_density(x, level.alpha, level.sigma)
            for x, level in zip(places, levels, strict=True)
        ]
        heights = tuple((log - log.max()).exp().numpy() for log in logs)
    return ScoreView(
        levels=levels,
        points=tuple(x.numpy() for x in places),
        scores={
            name: tuple(
                _score(denoiser, context, x, t) for x, t in zip(places, timesteps, strict=True)
            )
            for name, denoiser in denoisers.items()
        },
        exact=exact,
        density=heights,
    )
