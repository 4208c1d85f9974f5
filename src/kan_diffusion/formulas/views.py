"""Views of a KAN denoiser: its network, the curves of its edges, its score.

They are plain numbers and words, which :mod:`kan_diffusion.report.explanation` draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kan_diffusion.denoisers.base import Denoiser
from kan_diffusion.denoisers.edges import Edge, ReadableLayer
from kan_diffusion.denoisers.library import LINEAR
from kan_diffusion.denoisers.readable import ReadableDenoiser
from kan_diffusion.formulas.context import Context, Importance
from kan_diffusion.processes import Process

Array = NDArray[np.float64]

EXACT = "exact"
"""Name of the exact score."""
_POINTS = 2000
"""Number of noised points at a level."""
_CURVE_POINTS = 31
_FIELD_SIDE = 17
_LINE_POINTS = 201
_LEVEL_SIGMAS = (0.1, 0.3, 0.5, 0.7, 0.9, 0.98)
_TAIL = 0.002
"""Share of the points at either end of a curve that is not drawn."""


class EdgeView(NamedTuple):
    """An edge at all noise levels.

    Attributes:
        edge: The edge.
        source: Name of the input or unit it leaves.
        target: Name of the unit or output it enters.
        text: The function in words, such as ``"1.2 tanh(0.9 x + 0.1)"``; empty for curves.
        importance: Share of the network's outputs that goes back to it, over all levels: from 0 to
            about the number of outputs.
        importance_by_level: The same share at each level, with shape (L,).
        curves: At each level its values (m,) over the inputs there, minus their mean.
    """

    edge: Edge
    source: str
    target: str
    text: str
    importance: float
    importance_by_level: Array
    curves: Sequence[Array]


class NetworkView(NamedTuple):
    """A network at some noise levels.

    Attributes:
        units: Names of inputs, hidden units and outputs, layer by layer.
        num_point_inputs: Number of inputs that come from the points; the others come from the time.
        sigmas: The noise levels.
        inputs: For each layer, each of its inputs and each level, inputs in increasing order and
            their density, scaled to a maximum of 1, with shape (2, m).
        edges: Its edges.
    """

    units: Sequence[Sequence[str]]
    num_point_inputs: int
    sigmas: Sequence[float]
    inputs: Sequence[Sequence[Sequence[Array]]]
    edges: Sequence[EdgeView]

    @classmethod
    def of(
        cls,
        units: Sequence[Sequence[str]],
        num_point_inputs: int,
        texts: Mapping[Edge, str],
        overall: Importance,
        by_level: Mapping[float, Importance],
    ) -> NetworkView:
        """Makes a view of edges, given in words, from their importance and that at each level."""
        measured = by_level.values()
        inputs = [
            [
                [_inputs(part.inputs[layer][:, unit]) for part in measured]
                for unit in range(len(names))
            ]
            for layer, names in enumerate(units[:-1])
        ]
        edges = []
        for edge, text in texts.items():
            shares = np.array([part.share(edge) for part in measured])
            curves = []
            for part, (places, _) in zip(measured, inputs[edge.layer][edge.input], strict=True):
                x, y = part.samples(edge)
                order = np.argsort(x)
                curves.append(np.interp(places, x[order], y[order] - y.mean()))
            ends = units[edge.layer][edge.input], units[edge.layer + 1][edge.output]
            edges.append(EdgeView(edge, *ends, text, overall.share(edge), shares, curves))
        return cls(units, num_point_inputs, list(by_level), inputs, edges)


class ScoreView(NamedTuple):
    """The score at some noise levels, in standardised coordinates.

    Attributes:
        points: Places for each level, (n, d): increasing points for one coordinate, a grid over the
            noised points for two, noised points for more.
        fields: Scores at these places for each level, (n, d), by the name of the denoiser; the
            exact one last, under ``EXACT``, where the density is known.
        density: Density of the noised points there for each level, (n,), scaled to a maximum of 1;
            None where it is not known.
    """

    points: Sequence[Array]
    fields: Mapping[str, Sequence[Array]]
    density: Sequence[Array] | None


def default_levels(process: Process) -> list[int]:
    """Finds the timesteps of a few noise levels, from little noise to nearly nothing else."""
    of_steps = process.levels()[1].numpy()
    return sorted({int(np.abs(of_steps - sigma).argmin()) for sigma in _LEVEL_SIGMAS})


def _inputs(inputs: Tensor) -> Array:
    """Spreads places over inputs (n,) of a unit, and estimates the density there."""
    x = inputs.double().numpy()
    low, high = np.quantile(x, [_TAIL, 1 - _TAIL])
    if high - low < 1e-9:
        return np.array([[low], [1.0]])
    counts, _ = np.histogram(x, bins=np.linspace(low, high, _CURVE_POINTS + 1))
    kernel = np.exp(-0.5 * (np.arange(-6, 7) / 2.0) ** 2)
    smooth = np.convolve(counts, kernel / kernel.sum(), mode="same")
    return np.stack([np.linspace(low, high, _CURVE_POINTS), smooth / max(smooth.max(), 1e-12)])


def _edge_text(layer: ReadableLayer, edge: Edge) -> str:
    """Writes the function of an edge; nothing for a curve."""

    def signed(value: float) -> str:
        return f"{'-' if value < 0 else '+'} {abs(value):.3g}"

    function, a, b, c, slope = layer.formula_of(edge)
    has_slope = edge.has_slope or edge.kind == LINEAR
    text = f"{slope:.3g} x" * has_slope
    if function is not None:
        inside = f"{a:.3g} x" + f" {signed(b)}" * (abs(b) >= 5e-4)
        text = f"{c:.3g} {function.name}({inside})" + f" {signed(slope)} x" * has_slope
    return text.replace("-", "−")


@torch.no_grad()
def view_network(
    denoiser: ReadableDenoiser, context: Context, timesteps: Sequence[int]
) -> NetworkView:
    """Makes a view of a network at some noise levels."""
    sigmas = context.process.levels()[1].tolist()
    return NetworkView.of(
        denoiser.unit_names(),
        sum(feature.coordinate is not None for feature in denoiser.input_features()),
        {edge: _edge_text(denoiser.kan_layers[edge.layer], edge) for edge in denoiser.edges},
        context.importance(denoiser),
        {
            sigmas[t]: context.importance(denoiser, (context.noised(t, _POINTS), t))
            for t in timesteps
        },
    )


def _places(points: Tensor) -> Tensor:
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


@torch.no_grad()
def view_score(
    denoisers: Mapping[str, Denoiser], context: Context, timesteps: Sequence[int]
) -> ScoreView:
    """Evaluates the scores of named denoisers and the exact score at some noise levels."""
    process, density = context.process, context.dataset.density
    levels = [tuple(float(level[t]) for level in process.levels()) for t in timesteps]
    places = [_places(context.noised(t, _POINTS)) for t in timesteps]

    def score(denoiser: Denoiser, t: int, x: Tensor) -> Array:
        alpha, sigma = (level[[t], None] for level in process.levels())
        prediction = denoiser(x.to(denoiser.dtype), t).sample.double()
        return np.asarray((-process.predicted_noise(prediction, x, alpha, sigma) / sigma).numpy())

    fields = {
        name: [score(denoiser, t, x) for t, x in zip(timesteps, places, strict=True)]
        for name, denoiser in denoisers.items()
    }
    heights = None
    if density is not None:
        by_level = list(zip(places, levels, strict=True))
        fields[EXACT] = [density.score(x, *level).numpy() for x, level in by_level]
        logs = [density.log_density(x, *level) for x, level in by_level]
        heights = [(log - log.max()).exp().numpy() for log in logs]
    return ScoreView([x.numpy() for x in places], fields, heights)
