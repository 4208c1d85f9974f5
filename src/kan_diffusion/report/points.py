"""Figures of points: a histogram in one dimension, a scatter plot in two, a projection in more.

Points of more dimensions are projected onto the first two principal components of the real data,
the same for every figure of a data set.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from kan_diffusion.report.style import report_style

__all__ = [
    "Panels", "PictureRows", "PointView", "Points", "bins", "framed", "panel_figure", "row_counts",
    "side_by_side_figure", "spread", "strips_figure", "time_name",
]  # fmt: skip

Points = NDArray[np.floating]
"""Points, shape (n, d)."""
PictureRows = NDArray[np.floating]
"""Samples in [-1, 1], a row for each prompt or class, shape (rows, each, C, S, S)."""
Panels = list[tuple[float, Points]]
"""Points at several times, each with its time as a fraction of T."""

_MAX_DRAWN = 4_000
_MAX_ASPECT = 3.0
_FEW, _FEW_DRAWN = 10, 300
_LEAST_PANEL = 0.8
"""Least width of a panel of a strip, in inches."""


@dataclass(frozen=True)
class PointView:
    """How the points of one data set are drawn.

    Attributes:
        labels: The names of the axes, one or two.
        centre: The point that becomes the origin, shape (d,).
        axes: The directions onto which points are projected, shape (d, 1) or (d, 2).
        explained: The share of the variance that the plane shows; 1 up to two dimensions.
    """

    labels: tuple[str, ...]
    centre: NDArray[np.float64]
    axes: NDArray[np.float64]
    explained: float

    @classmethod
    def of(cls, points: Points, columns: Sequence[str] | None = None) -> PointView:
        """Chooses the view that suits some real points.

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

    @property
    def flat(self) -> bool:
        """Tells whether points have one dimension and are drawn as a histogram."""
        return len(self.labels) == 1

    def project(self, points: Points) -> NDArray[np.float64]:
        """Projects the finite points among (n, d) onto the view, shape (m, 1) or (m, 2)."""
        finite = points[np.isfinite(points).all(axis=1)].astype(np.float64)
        return np.asarray((finite - self.centre) @ self.axes)

    def limits(self, points: Sequence[Points]) -> NDArray[np.float64]:
        """Finds axis limits that hold nearly all of several sets of points, shape (1 or 2, 2).

        Half a percent on each side may fall outside, so that one stray point cannot squeeze the
        rest into a corner.
        """
        drawn = (self.project(part) for part in points)
        spans = [np.quantile(part, (0.005, 0.995), axis=0) for part in drawn if len(part)]
        if not spans:
            return np.tile([-1.0, 1.0], (len(self.labels), 1))
        low, high = np.min([s[0] for s in spans], axis=0), np.max([s[1] for s in spans], axis=0)
        margin = np.where(high > low, 0.12 * (high - low), 0.5)
        limits = np.stack((low - margin, high + margin), axis=1)
        if not self.flat and self._equal_aspect(limits):
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
        axes.locator_params(nbins=4)
        if self.flat:
            axes.hist(
                drawn[:, 0], bins=bins(limits[0]), density=True, color=colour,
                histtype="stepfilled",
            )  # fmt: skip
            return
        axes.set_ylim(*limits[1])
        if self._equal_aspect(limits):
            axes.set_aspect("equal", adjustable="box")
        else:
            axes.set_box_aspect(1)
        drawn = drawn[:: max(1, -(-len(drawn) // _MAX_DRAWN))]
        area = size * float(np.clip(6_000 / max(len(drawn), 1), 1.5, 9.0))
        axes.scatter(
            *(drawn[:, 0], drawn[:, 1]), s=area, color=colour,
            alpha=None if opaque else 0.45, linewidths=0, rasterized=True,
        )  # fmt: skip

    @staticmethod
    def _equal_aspect(limits: NDArray[np.float64]) -> bool:
        spans = np.ptp(limits, axis=1)
        return bool(spans.max() <= _MAX_ASPECT * spans.min())


def bins(limits: NDArray[np.float64]) -> list[float]:
    """Gives the edges of a histogram's bins between two limits."""
    return [float(edge) for edge in np.linspace(float(limits[0]), float(limits[1]), 61)]


@report_style()
def side_by_side_figure(
    pictures: Sequence[tuple[str, str, Points]],
    view: PointView,
    limits: NDArray[np.float64],
    width: float = 10.5,
) -> Figure:
    """Draws several sets of points in panels with the same axes, in rows of nearly equal length.

    Args:
        pictures: Title, colour and points (n, d) of each. More than ten are drawn in small panels
            with fewer points.
        view: The view.
        limits: Limits of all axes, shape (1 or 2, 2).
        width: Largest width in inches.
    """
    count = len(pictures)
    many = count > _FEW
    ratio = 0.75 if view.flat else 1.0
    counts = row_counts(count, int(width / (1.75 if many else 2.1)))
    figure, panels = panel_figure(counts, width, ratio, (0.18, 0.75), (0.75, 0.65, 0.35))
    flat = [axes for row in panels for axes in row]
    for axes, (title, colour, points) in zip(flat, pictures, strict=True):
        shown = points[:_FEW_DRAWN] if many else points
        view.draw(axes, shown, colour, limits, size=0.35 if many else 1.2, opaque=many)
        wide = int(axes.get_position().width * figure.get_figwidth() / 0.085)
        axes.set_title("\n".join(textwrap.wrap(title, wide)[:2]), fontsize=9.5)
    heights = [axes.get_ylim()[1] for axes in flat]
    for row in panels:
        for axes in row:
            if view.flat:
                axes.set_ylim(0, max(heights))
            axes.tick_params(labelleft=axes is row[0])
        row[0].set_ylabel("density" if view.flat else view.labels[1])
    for axes in panels[-1]:
        axes.set_xlabel(view.labels[0])
    return figure


@report_style()
def strips_figure(
    rows: Sequence[tuple[str, Panels]],
    colour: str,
    view: PointView,
    limits: NDArray[np.float64],
    width: float = 11.0,
) -> Figure:
    """Draws points at several times of the process, a column for each time.

    Args:
        rows: Label and panels of each row; the times of all rows are the same.
        colour: The colour of all points.
        view: The view.
        limits: Limits of all axes, shape (1 or 2, 2).
        width: Largest width in inches; if it is too small for all times, some are left out.
    """
    picks = spread(len(rows[0][1]), int((width - 0.75) / _LEAST_PANEL))
    rows = [(label, [panels[pick] for pick in picks]) for label, panels in rows]
    counts = [len(picks)] * len(rows)
    ratio = 0.75 if view.flat else 1.0
    figure, grid = panel_figure(counts, width, ratio, (0.05, 0.05), (0.75, 0.05, 0.35))
    for (label, panels), line in zip(rows, grid, strict=True):
        for axes, (_, points) in zip(line, panels, strict=True):
            view.draw(axes, points, colour, limits, size=0.5)
            framed(axes)
        if label:
            line[0].set_ylabel(
                label.replace(" ", "\n", 1), fontsize=9.5, rotation=0, ha="right", va="center"
            )
    for axes, (time, _) in zip(grid[0], rows[0][1], strict=True):
        axes.set_title(time_name(time), loc="center", fontsize=9.5, fontweight="normal")
    return figure


def time_name(time: float) -> str:
    """Names a time by its fraction of T."""
    return {0.0: "t = 0", 1.0: "t = T"}.get(round(time, 3), f"{time:.2g} T")


def framed(axes: Axes) -> None:
    """Draws a pale frame around a panel of which only the shape is read, without ticks."""
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(visible=True, color="#d4d7dc")


def spread(count: int, most: int) -> list[int]:
    """Picks at most ``most`` of ``count`` places, evenly spaced, first and last included."""
    return [round(place) for place in np.linspace(0, count - 1, min(count, most)).tolist()]


def row_counts(count: int, most: int) -> list[int]:
    """Splits panels into as few rows of at most ``most`` as possible, of nearly equal length."""
    rows = -(-count // most)
    return [count // rows + (row < count % rows) for row in range(rows)]


def panel_figure(
    counts: Sequence[int],
    width: float,
    ratio: float,
    gaps: tuple[float, float],
    margins: tuple[float, float, float],
    most: float = 3.3,
) -> tuple[Figure, list[list[Axes]]]:
    """Makes a figure with rows of panels of one size, aligned left.

    Args:
        counts: Number of panels in each row.
        width: Largest width in inches.
        ratio: Height of a panel over its width.
        gaps: Inches between two panels, across and down.
        margins: Inches to the left, below and above.
        most: Largest width of a panel in inches.

    Returns:
        The figure, and its panels row by row.
    """
    left, bottom, top = margins
    across, down = gaps
    side = min(most, (width - left + across) / max(counts) - across)
    width = left + max(counts) * (side + across) - across
    tall = ratio * side
    height = bottom + top + len(counts) * (tall + down) - down
    figure = Figure(figsize=(width, height))
    panels: list[list[Axes]] = []
    for row, count in enumerate(counts):
        y = height - top - (row + 1) * tall - row * down
        size = y / height, side / width, tall / height
        places = ((left + column * (side + across)) / width for column in range(count))
        panels.append([figure.add_axes((x, *size)) for x in places])
    return figure, panels
