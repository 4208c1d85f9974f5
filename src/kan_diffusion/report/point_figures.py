"""Figures of points: the data, the process in both directions, and what models generate.

One dimension is drawn as a histogram and two as they are. More are seen in the plane of the two
directions along which the real data varies most (principal components), the same plane for every
picture of a data set.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from kan_diffusion.report.contents import Points, ReportContents
from kan_diffusion.report.style import REAL, model_styles, report_style

__all__ = ["PointView", "corruption_figure", "data_figure", "reverse_figure", "samples_figure"]

_MAX_DRAWN = 4_000
_MAX_COLUMNS = 4
_MOST_COLUMNS = 6
_SMALL_DRAWN = 300
_MAX_ASPECT = 3.0


@dataclass(frozen=True)
class PointView:
    """How the points of one data set are drawn.

    Attributes:
        labels: The names of the axes, one or two.
        centre: What is subtracted first, shape (d,).
        axes: Onto what points are projected, shape (d, 1) or (d, 2).
        explained: The share of the variance that the plane shows; 1 up to two dimensions.
    """

    labels: tuple[str, ...]
    centre: NDArray[np.float64]
    axes: NDArray[np.float64]
    explained: float

    @classmethod
    def of(cls, points: Points, columns: Sequence[str] | None = None) -> PointView:
        """The view that suits some real points.

        Args:
            points: Real points, shape (n, d).
            columns: The names of the d coordinates.
        """
        dimension = points.shape[1]
        names = list(columns or [])
        names += [f"x{index + 1}" for index in range(len(names), dimension)]
        if dimension <= 2:
            return cls(tuple(names[:dimension]), np.zeros(dimension), np.eye(dimension), 1.0)
        centre = points.mean(axis=0, dtype=np.float64)
        _, sizes, directions = np.linalg.svd(points - centre, full_matrices=False)
        # The sign of a principal component is arbitrary: make its largest entry positive.
        planar = np.zeros((2, dimension))
        planar[: len(directions[:2])] = directions[:2]
        largest = planar[[0, 1], np.abs(planar).argmax(axis=1)]
        planar *= np.where(largest < 0, -1.0, 1.0)[:, None]
        total = float((sizes**2).sum())
        shares = [float(size**2) / total if total else 0.0 for size in (*sizes[:2], 0.0, 0.0)][:2]
        labels = tuple(f"principal component {i + 1} ({s:.0%})" for i, s in enumerate(shares))
        return cls(labels, centre, planar.T, sum(shares))

    def project(self, points: Points) -> NDArray[np.float64]:
        """Points (n, d) to what is drawn of the finite ones, shape (m, 1) or (m, 2)."""
        finite = points[np.isfinite(points).all(axis=1)].astype(np.float64)
        return np.asarray((finite - self.centre) @ self.axes)

    def limits(self, points: Sequence[Points]) -> NDArray[np.float64]:
        """Axis limits that hold nearly all of several sets of points, shape (1 or 2, 2).

        Half a percent on each side may fall outside, so that one stray point cannot squeeze the
        rest into a corner.
        """
        spans = []
        for part in points:
            drawn = self.project(part)
            if len(drawn):
                spans.append(np.quantile(drawn, (0.005, 0.995), axis=0))
        if not spans:
            return np.tile([-1.0, 1.0], (len(self.labels), 1))
        low, high = np.min([s[0] for s in spans], axis=0), np.max([s[1] for s in spans], axis=0)
        margin = np.where(high > low, 0.12 * (high - low), 0.5)
        limits = np.stack((low - margin, high + margin), axis=1)
        if len(limits) == 2 and self._equal_aspect(limits):
            half = np.ptp(limits, axis=1).max() / 2
            limits = limits.mean(axis=1, keepdims=True) + half * np.array([[-1.0, 1.0]])
        return limits

    def draw(
        self,
        axes: Axes,
        points: Points,
        colour: str,
        limits: NDArray[np.float64],
        size: float = 1.0,
        opaque: bool = False,
    ) -> None:
        """Draws points (n, d) into ``axes``, within ``limits``."""
        drawn = self.project(points)
        axes.grid(False)
        axes.set_xlim(*limits[0])
        if drawn.shape[1] == 1:
            bins = _bins(limits[0])
            axes.hist(drawn[:, 0], bins=bins, density=True, color=colour, histtype="stepfilled")
            return
        axes.set_ylim(*limits[1])
        if self._equal_aspect(limits):
            axes.set_aspect("equal", adjustable="box")
        else:
            axes.set_box_aspect(1)
        drawn = drawn[:: max(1, -(-len(drawn) // _MAX_DRAWN))]
        area = size * float(np.clip(6_000 / max(len(drawn), 1), 1.5, 9.0))
        axes.scatter(
            drawn[:, 0],
            drawn[:, 1],
            s=area,
            color=colour,
            alpha=None if opaque else 0.45,
            linewidths=0,
            rasterized=True,
        )

    @staticmethod
    def _equal_aspect(limits: NDArray[np.float64]) -> bool:
        spans = np.ptp(limits, axis=1)
        return bool(spans.max() <= _MAX_ASPECT * spans.min())


@report_style()
def data_figure(contents: ReportContents, data: str) -> Figure:
    """The real points of one data set, with the distribution of each drawn coordinate."""
    points = contents.originals[data]
    view = PointView.of(points, contents.columns.get(data))
    limits = view.limits([points])
    if len(view.labels) == 1:
        figure = Figure(figsize=(6.5, 3.2), layout="constrained")
        axes = figure.subplots()
        view.draw(axes, points, REAL, limits)
        axes.set(xlabel=view.labels[0], ylabel="density", title=data)
        return figure
    figure = Figure(figsize=(5.6, 5.6), layout="compressed")
    grid = figure.add_gridspec(2, 2, width_ratios=(5, 1), height_ratios=(1, 5))
    axes = figure.add_subplot(grid[1, 0])
    view.draw(axes, points, REAL, limits, size=1.5)
    axes.set(xlabel=view.labels[0], ylabel=view.labels[1])
    drawn = view.project(points)
    above = figure.add_subplot(grid[0, 0], sharex=axes)
    beside = figure.add_subplot(grid[1, 1], sharey=axes)
    above.hist(drawn[:, 0], bins=_bins(limits[0]), color=REAL)
    beside.hist(drawn[:, 1], bins=_bins(limits[1]), color=REAL, orientation="horizontal")
    for margin in (above, beside):
        margin.set_axis_off()
    above.set_title(f"{data}: {len(points):,} points")
    return figure


@report_style()
def corruption_figure(contents: ReportContents, data: str) -> Figure:
    """The forward process: the same points at growing t, from data to noise."""
    panels = contents.corruption[data]
    view = _view(contents, data)
    limits = view.limits([points for _, points in panels])
    figure, axes = _panel_grid(1, len(panels), view)
    for column, (time, points) in enumerate(panels):
        view.draw(axes[0][column], points, REAL, limits, size=0.5)
        axes[0][column].set_title(
            _time_label(time), loc="center", fontsize=9.5, fontweight="normal"
        )
    _bare(axes)
    return figure


@report_style()
def reverse_figure(contents: ReportContents, label: str, name: str) -> Figure:
    """The reverse process of one model at several moments of its training, from noise to data.

    Rows are moments of training and columns times of the process.

    Args:
        contents: The study.
        label: The setting.
        name: The model.
    """
    data = contents.data_of(label)
    moments = contents.trajectories[label, name]
    view = _view(contents, data, label)
    colour = model_styles(contents.results.rows)[name].colour
    everything = [points for _, panels in moments for _, points in panels]
    # A model that diverges must not shrink the others: the start and the data set the limits.
    real = [contents.originals[data]] if data in contents.originals else []
    starts = [panels[0][1] for _, panels in moments if panels]
    limits = view.limits([*real, *starts] or everything)
    width = max(len(panels) for _, panels in moments)
    figure, axes = _panel_grid(len(moments), width, view)
    for row, (moment, panels) in enumerate(moments):
        for column, (time, points) in enumerate(panels):
            view.draw(axes[row][column], points, colour, limits, size=0.5)
            if row == 0:
                axes[row][column].set_title(
                    _time_label(time), loc="center", fontsize=9.5, fontweight="normal"
                )
        for axis in axes[row][len(panels) :]:
            axis.set_visible(False)
        axes[row][0].set_ylabel(
            moment.replace(" ", "\n", 1), fontsize=9.5, rotation=0, ha="right", va="center"
        )
    _bare(axes)
    return figure


@report_style()
def samples_figure(contents: ReportContents, label: str | None = None) -> Figure:
    """Fresh real points beside what each model generates, on the same axes.

    Args:
        contents: The study.
        label: The setting; the study's first one when None. Many models share the width in small
            panels, which show fewer points.
    """
    label = next(iter(contents.samples))[0] if label is None else label
    data = contents.data_of(label)
    models = [name for name in contents.model_names(label) if (label, name) in contents.samples]
    original = contents.originals.get(data)
    pictures: list[tuple[str, str, Points]] = [] if original is None else [("real", REAL, original)]
    styles = model_styles(contents.results.rows)
    pictures += [(name, styles[name].colour, contents.samples[label, name]) for name in models]
    view = _view(contents, data, label)
    limits = view.limits([picture[2] for picture in pictures] if original is None else [original])
    many = len(pictures) > 2 * _MAX_COLUMNS
    columns = min(_MOST_COLUMNS if many else _MAX_COLUMNS, len(pictures))
    if len(pictures) == _MAX_COLUMNS + 1:
        columns = 3
    rows = -(-len(pictures) // columns)
    flat = len(view.labels) == 1
    side = (11.4 if many else 10.0) / max(columns, 3)
    size = (side * columns, rows * (0.7 * side if flat else side + 0.25) + 0.3)
    figure = Figure(figsize=size, layout="constrained" if flat else "compressed")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axis, (title, colour, points) in zip(axes.flat, pictures, strict=False):
        if many:
            points = points[:_SMALL_DRAWN]
        view.draw(axis, points, colour, limits, size=0.35 if many else 1.2, opaque=many)
        axis.set_title(textwrap.fill(title, 19) if many else title, fontsize=9.5 if many else None)
    for axis in axes.flat[len(pictures) :]:
        axis.set_visible(False)
    for axis in axes.flat[max(0, len(pictures) - columns) : len(pictures)]:
        axis.tick_params(labelbottom=True)
    figure.supxlabel(view.labels[0], fontsize=10)
    figure.supylabel("density" if flat else view.labels[1], fontsize=10)
    return figure


def _view(contents: ReportContents, data: str, label: str = "") -> PointView:
    """One view a data set, from the best real points there are."""
    candidates = [contents.originals[data]] if data in contents.originals else []
    candidates += [points for _, points in contents.corruption.get(data, [])[:1]]
    candidates += [points for (of, _), points in contents.samples.items() if of == label]
    candidates += [
        panels[-1][1]
        for (of, _), moments in contents.trajectories.items()
        for _, panels in moments[-1:]
        if of == label
    ]
    return PointView.of(candidates[0], contents.columns.get(data))


def _bins(limits: NDArray[np.float64]) -> list[float]:
    return [float(edge) for edge in np.linspace(float(limits[0]), float(limits[1]), 61)]


def _panel_grid(rows: int, columns: int, view: PointView) -> tuple[Figure, list[list[Axes]]]:
    """A strip or grid of small panels of one size, close together."""
    width, gap, left, top = 11.0, 0.05, 0.75, 0.35
    side = (width - left) / columns
    flat = len(view.labels) == 1
    height = rows * side * (0.75 if flat else 1.0) + top
    figure = Figure(figsize=(width, height))
    grid = figure.add_gridspec(
        rows, columns,
        left=left / width, right=1.0, bottom=0.0, top=1.0 - top / height, wspace=gap, hspace=gap,
    )  # fmt: skip
    panels = [
        [figure.add_subplot(grid[row, column]) for column in range(columns)] for row in range(rows)
    ]
    return figure, panels


def _bare(axes: list[list[Axes]]) -> None:
    """Leaves only a thin frame: in a strip of small panels only the shape is read."""
    for axis in (axis for row in axes for axis in row):
        axis.set(xticks=[], yticks=[])
        for spine in axis.spines.values():
            spine.set(visible=True, color="#d4d7dc")


def _time_label(time: float) -> str:
    return {0.0: "t = 0", 1.0: "t = T"}.get(round(time, 3), f"{time:.2g} T")
