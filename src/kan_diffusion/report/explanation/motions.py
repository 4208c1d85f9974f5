"""Motion of an explanation: reverse processes of its stages, and edges during training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from kan_diffusion.formulas.explain import Explanation
from kan_diffusion.formulas.views import EdgeCurve, EdgeView
from kan_diffusion.report.explanation.looks import KINDS, denoiser_style, edge_title, level_label
from kan_diffusion.report.explanation.scores import standardised_view
from kan_diffusion.report.motion import Motion, Panel, PointPanel
from kan_diffusion.report.style import INK

__all__ = ["stages_motion", "training_level", "training_motion"]

Array = NDArray[np.float64]

_EDGES = 11
_CURVE_POINTS = 31


def stages_motion(explanation: Explanation) -> Motion | None:
    """Shows the reverse processes of all stages beside the exact one, from the same noise.

    Args:
        explanation: The explanation.

    Returns:
        A frame for each time; None if nothing was sampled.
    """
    if not explanation.reverse:
        return None
    count = len(next(iter(explanation.reverse.values())))
    panels, axes = _clouds(explanation, explanation.reverse)
    labels = tuple(f"t = {time:.1f} T" for time in np.linspace(1, 0, count))
    return Motion(labels, tuple(panels), axes)


def training_motion(explanation: Explanation) -> Motion | None:
    """Shows what the network draws, and its most important edges, at moments of its training.

    Args:
        explanation: The explanation.

    Returns:
        A frame for each moment; None if fewer than two were recorded.
    """
    moments = explanation.training
    if len(moments) < 2:
        return None
    samples = np.stack([moment.samples for moment in moments]).astype(np.float64)
    panels, _ = _clouds(explanation, {"samples": samples})
    networks = [
        {(edge.layer, edge.input, edge.output): edge for edge in moment.network.edges}
        for moment in moments
    ]
    last = moments[-1].network
    order = sorted(networks[-1], key=lambda place: -networks[-1][place].importance)
    for layer, source, target in order[:_EDGES]:
        title = edge_title(last, networks[-1][layer, source, target])
        panels.append(_bending(title, [edges[layer, source, target] for edges in networks]))
    return Motion(tuple(f"step {moment.step:,}" for moment in moments), tuple(panels))


def training_level(explanation: Explanation) -> str:
    """Names the noise level of the edges during training; empty if training was not recorded."""
    levels = [moment.network.levels[0] for moment in explanation.training[-1:]]
    return level_label(levels[0]) if levels else ""


def _clouds(
    explanation: Explanation, states: Mapping[str, Array]
) -> tuple[list[Panel], tuple[str, ...]]:
    """Makes panels of points (F, n, d), seen as in `samples_figure`, and names their axes."""
    view = standardised_view(explanation.columns, len(explanation.columns))
    real = explanation.samples.get("real")
    first = next(iter(states.values()))[0]
    limits = view.limits([first] if real is None else [first, real])
    looks = {name: denoiser_style(name).colour for name in states} | {"exact": INK}
    looks["samples"] = denoiser_style("network").colour
    panels: list[Panel] = [
        PointPanel.of(name, looks[name], list(frames), view, limits)
        for name, frames in states.items()
    ]
    return panels, view.labels


def _bending(title: str, edges: Sequence[EdgeView]) -> Panel:
    """Makes a panel of one edge's curve at each moment, over the inputs it has at that moment."""
    frames = np.stack([_few(edge.curves[0]) for edge in edges])
    low, high = frames.min(axis=(0, 1)), frames.max(axis=(0, 1))
    margin = np.maximum(0.08 * (high - low), 1e-3)
    limits = np.stack((low - margin, high + margin), axis=1)
    return PointPanel(title, KINDS["curve"].colour, frames, limits, joined=True)


def _few(curve: EdgeCurve) -> Array:
    """Resamples a curve to few evenly spaced points (m, 2), all equal if its input is constant."""
    places = np.linspace(0, len(curve.x) - 1, _CURVE_POINTS)
    numbers = np.arange(len(curve.x))
    return np.stack([np.interp(places, numbers, each) for each in (curve.x, curve.y)], axis=1)
