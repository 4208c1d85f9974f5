"""The learned score beside the exact one, and generated points beside real ones."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from kan_diffusion.formulas.views import ScoreView
from kan_diffusion.report.explanation.looks import (
    denoiser_style,
    level_colours,
    level_label,
)
from kan_diffusion.report.points import (
    PointView,
    panel_figure,
    row_counts,
    side_by_side_figure,
    spread,
)
from kan_diffusion.report.style import INK, MUTED, REAL, report_style, shortened

__all__ = [
    "arrow_scale", "axis_names", "grid_side", "samples_figure", "score_figure",
    "standardised_view",
]  # fmt: skip

Array = NDArray[np.float64]

_WIDTH = 11.6
_MOST_LEVELS = 4
_MOST_COORDINATES = 4
_REFERENCE = 0.9
"""Quantile of the lengths of a score that an arrow of full length stands for."""
_ARROWS = 9
_EXACT = "exact"


def axis_names(columns: Sequence[str], count: int) -> list[str]:
    """Names ``count`` coordinates; those without a name are ``x0``, ``x1``, ..."""
    return [columns[i] if i < len(columns) else f"x{i}" for i in range(count)]


def standardised_view(columns: Sequence[str], dim: int) -> PointView:
    """Views points (n, dim) in their first two coordinates."""
    drawn = min(dim, 2)
    labels = tuple(f"{shortened(name)} (standardised)" for name in axis_names(columns, drawn))
    return PointView(labels, np.zeros(dim), np.eye(dim)[:, :drawn], 1.0)


def grid_side(points: Array) -> int | None:
    """Counts a side of a square grid (n, 2) whose second coordinate varies fastest; else None."""
    side = math.isqrt(len(points))
    if side < 2 or side * side != len(points):
        return None
    grid = points.reshape(side, side, 2)
    straight = np.allclose(grid[:, :1, 0], grid[:, :, 0]) and np.allclose(
        grid[:1, :, 1], grid[..., 1]
    )
    return side if straight else None


def arrow_scale(score: Array) -> float:
    """Gives the length of a score (n, 2) that an arrow of full length stands for."""
    lengths = np.linalg.norm(np.nan_to_num(score), axis=1)
    scale = float(np.quantile(lengths, _REFERENCE)) if len(lengths) else 0.0
    return scale if scale > 0 else 1.0


@report_style()
def score_figure(score: ScoreView, columns: Sequence[str] = (), width: float = _WIDTH) -> Figure:
    """Draws learned scores and the exact one.

    One coordinate is drawn as curves, two as arrows over the density of the noised points, and more
    as learned against exact, coordinate by coordinate.

    Args:
        score: The scores.
        columns: Names of the coordinates.
        width: Largest width in inches; narrow figures have two panels in a row.

    Returns:
        A figure with a panel for each noise level (d = 1), a row of panels for each level (d = 2),
        or a row for each denoiser with a panel for each coordinate (d > 2). Without an exact score,
        d > 2 compares each denoiser with the first, or shows a single one against the coordinate.
    """
    dim = score.points[0].shape[1]
    names = [shortened(name) for name in axis_names(columns, dim)]
    if dim == 1:
        return _curves(score, names[0], width)
    return _fields(score, names, width) if dim == 2 else _against(score, names, width)


def _shown(score: ScoreView) -> list[int]:
    return spread(len(score.levels), _MOST_LEVELS)


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    most = min(int(figure.get_figwidth() / 1.4), 6)
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), most))


def _curves(score: ScoreView, name: str, width: float) -> Figure:
    shown = _shown(score)
    columns = min(len(shown), int(width / 2.1))
    rows = -(-len(shown) // columns)
    size = (min(max(2.9 * columns, 5.0), width), 2.9 * rows + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    for axes, level in zip(panels, shown, strict=False):
        x = score.points[level][:, 0]
        if score.density is not None:
            axes.fill_between(
                x, 0.0, 0.35 * score.density[level], transform=axes.get_xaxis_transform(),
                color=REAL, alpha=0.25, linewidth=0, label="density",
            )  # fmt: skip
        for denoiser, values in score.scores.items():
            style = denoiser_style(denoiser)
            axes.plot(
                x, values[level][:, 0], color=style.colour, linestyle=style.line, label=denoiser
            )
        if score.exact is not None:
            axes.plot(
                x, score.exact[level][:, 0], color="#5c636d", linestyle=(0, (4.0, 2.0)),
                linewidth=1.4, label=_EXACT, zorder=3,
            )  # fmt: skip
        axes.set(title=level_label(score.levels[level]), xlabel=f"{name} (standardised)")
        axes.locator_params(nbins=5)
        axes.margins(x=0.0)
    panels[0].set_ylabel("score")
    _legend(figure, panels[0])
    return figure


def _fields(score: ScoreView, names: Sequence[str], width: float) -> Figure:
    shown = _shown(score)
    fields = score.fields
    reference = score.exact or next(iter(fields.values()))
    counts = row_counts(len(fields), len(fields) if width >= _WIDTH else 2)
    lines = len(counts)  # of each level
    down = 0.15 if lines == 1 else 0.35
    figure, panels = panel_figure(
        counts * len(shown), width, 1.0, (0.15, down), (0.9, 0.9, 0.35), 2.6
    )
    points = np.concatenate([score.points[level] for level in shown])
    low, high = points.min(axis=0), points.max(axis=0)
    margin = 0.06 * (high - low)
    limits = np.stack((low - margin, high + margin), axis=1)
    for place, level in enumerate(shown):
        rows = panels[place * lines : (place + 1) * lines]
        row = [axes for line in rows for axes in line]
        density = None if score.density is None else score.density[level]
        scale = arrow_scale(reference[level])
        for axes, (denoiser, values) in zip(row, fields.items(), strict=True):
            colour = INK if denoiser == _EXACT else denoiser_style(denoiser).colour
            _field(axes, score.points[level], values[level], density, scale, colour)
            axes.set(xlim=limits[0], ylim=limits[1], aspect="equal")
            first = any(axes is line[0] for line in rows)
            axes.tick_params(labelleft=first, labelbottom=axes in panels[-1])
            if lines > 1 or place == 0:
                axes.set_title(denoiser, loc="center")
            if first:
                axes.set_ylabel(f"{level_label(score.levels[level])}\n{names[1]}")
    for axes in panels[-1]:
        axes.set_xlabel(names[0])
    where = "" if score.density is None else "; grey: density of the noised points"
    note = f"standardised coordinates; arrows of a level have one scale, the longest are cut{where}"
    figure.supxlabel(
        textwrap.fill(note, int(figure.get_figwidth() / 0.07)), fontsize=9, color=MUTED
    )
    return figure


def _field(
    axes: Axes, points: Array, values: Array, density: Array | None, scale: float, colour: str
) -> None:
    """Draws arrows of one score over the density."""
    axes.grid(False)
    side = grid_side(points)
    kept = np.arange(len(points))
    spacing = float(np.ptp(points, axis=0).max()) / _ARROWS
    if side is not None:
        low, high = points[0], points[-1]
        if density is not None:
            half = (high - low) / (2 * (side - 1))
            axes.imshow(
                density.reshape(side, side).T, origin="lower", cmap="Greys", vmin=0.0, vmax=2.4,
                extent=(low[0] - half[0], high[0] + half[0], low[1] - half[1], high[1] + half[1]),
                interpolation="bilinear", zorder=0, rasterized=True,
            )  # fmt: skip
        few = np.array(spread(side, _ARROWS))
        kept = (few[:, None] * side + few[None, :]).ravel()
        spacing = float((high - low).min()) / max(len(few) - 1, 1)
    arrows = np.nan_to_num(values[kept]) / scale
    lengths = np.linalg.norm(arrows, axis=1, keepdims=True)
    arrows = arrows / np.maximum(lengths, 1.0) * spacing * 0.92
    axes.quiver(
        *points[kept].T, *arrows.T, color=colour, angles="xy", scale_units="xy", scale=1.0,
        units="width", width=0.009, headwidth=3.6, headlength=4.2, headaxislength=3.8,
        minlength=0.4, pivot="middle", zorder=2,
    )  # fmt: skip


def _against(score: ScoreView, names: Sequence[str], width: float) -> Figure:
    learned = dict(score.scores)
    first = next(iter(learned))
    reference, label = score.points, "coordinate (standardised)"
    if score.exact is not None:
        reference, label = score.exact, "exact score"
    elif len(learned) > 1:
        reference, label = learned.pop(first), f"score of the {first}"
    count = min(len(names), _MOST_COORDINATES)
    across = count if width >= _WIDTH else min(count, 2)
    lines = -(-count // across)  # of each denoiser
    size = (min(2.7 * across + 0.6, width), 2.7 * lines * len(learned) + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(lines * len(learned), across, squeeze=False)
    colours = level_colours(score.levels)
    for place, (denoiser, values) in enumerate(learned.items()):
        rows = panels[place * lines : (place + 1) * lines]
        for axes in rows.ravel()[count:]:
            axes.set_axis_off()
        for coordinate, axes in enumerate(rows.ravel()[:count]):
            for level in _shown(score):
                axes.scatter(
                    reference[level][:, coordinate], values[level][:, coordinate], s=9,
                    color=colours[level], linewidths=0, alpha=0.75, rasterized=True,
                    label=level_label(score.levels[level]),
                )  # fmt: skip
            if reference is not score.points:
                axes.axline((0.0, 0.0), slope=1.0, color=MUTED, linewidth=1.0, zorder=0.5)
            axes.set_title(names[coordinate])
            axes.locator_params(nbins=5)
        for row in rows:
            row[0].set_ylabel(f"score, {denoiser}")
    for axes in panels[-1]:
        axes.set_xlabel(label)
    _legend(figure, panels[0][0])
    return figure


@report_style()
def samples_figure(
    samples: Mapping[str, Array], columns: Sequence[str] = (), width: float = 10.5
) -> Figure:
    """Draws real and generated points side by side, on the same axes.

    Args:
        samples: Points (n, d) by name; real ones under ``"real"``. The first two coordinates are
            drawn.
        columns: Names of the coordinates.
        width: Largest width in inches.
    """
    names = sorted(samples, key=lambda name: name != "real")
    view = standardised_view(columns, samples[names[0]].shape[1])
    pictures = [
        (name, REAL if name == "real" else denoiser_style(name).colour, samples[name])
        for name in names
    ]
    return side_by_side_figure(pictures, view, view.limits([samples[names[0]]]), width)
