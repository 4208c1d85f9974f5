"""Panels of samples: clouds of points, seen alone, side by side or as they move.

A :class:`Panel` holds one frame or more, and the panels of a :class:`Motion` move in step. The core
has the panels of points; a wing hands over its own. Points of one dimension are a histogram, of two
a cloud; those of more are projected onto the first two principal components of real points, the
same for every panel of a data set.
"""

from __future__ import annotations

import base64
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from kan_diffusion.report.figures import Json, inline
from kan_diffusion.report.style import INK, MUTED, WIDTH, report_style

Points = NDArray[np.floating]
"""Points, shape (n, d)."""
Array = NDArray[np.float64]

_MAX_DRAWN = 2_000
_MAX_ASPECT = 3.0
_BINS = 60
_ABSENT = 65_535
"""Code for a coordinate that is not finite, in a player's data."""
_LETTER = 0.075
_GAP, _EDGE, _TITLE = 0.1, 0.05, 0.2
"""Inches between panels, around all of them, and for a title above each."""
_SECONDS = 4.0
"""Usual playing time of all frames, without the pauses at both ends."""
_PACES = 2, 15
"""Slowest and fastest pace, in frames a second."""
_STILLS, _STILL_PICTURES = 6, 3


class Panel(ABC):
    """Samples of one model, in one frame or as they move.

    Attributes:
        title: The title above it.
        frames: Its frames.
    """

    title: str
    frames: Sequence[object] | Array

    @property
    def aspect(self) -> float:
        """Its height over its width."""
        return 1.0

    @abstractmethod
    def draw(self, axes: Axes) -> Callable[[int], None]:
        """Prepares axes; returns a function that shows a frame by its number."""

    @abstractmethod
    def content(self, largest: int) -> dict[str, Json]:
        """Gives a player's data, in about ``largest`` bytes at most."""

    def address(self, frame: int, largest: int) -> str | None:
        """Gives a frame as a ``data:`` address if it is a picture; points are drawn."""
        return None


@dataclass(frozen=True)
class PointPanel(Panel):
    """Points in one frame or as they move.

    Attributes:
        title: The title above it.
        colour: The colour of its points.
        frames: Positions in each frame, with shape (F, n, 1) or (F, n, 2); NaN stands for a missing
            point.
        limits: Limits of the axes, with shape (1 or 2, 2).
    """

    title: str
    colour: str
    frames: Array
    limits: Array

    def draw(self, axes: Axes) -> Callable[[int], None]:
        """Prepares axes; returns a function that shows a frame by its number."""
        axes.set(xlim=self.limits[0], xticks=[], yticks=[], box_aspect=1)
        axes.grid(False)
        axes.spines[:].set(visible=True, color=MUTED, linewidth=0.5)
        if len(self.limits) == 1:
            edges = np.linspace(self.limits[0, 0], self.limits[0, 1], _BINS + 1)

            def heights(frame: int) -> Array:
                points = self.frames[frame, :, 0]
                return np.histogram(points[np.isfinite(points)], edges)[0] / max(len(points), 1)

            ends = heights(0).max(), heights(-1).max(), 1e-9
            axes.set_ylim(0.0, 1.15 * max(ends))
            bars = axes.stairs(heights(0), edges, fill=True, color=self.colour)
            return lambda frame: bars.set_data(heights(frame))
        axes.set_ylim(*self.limits[1])
        count = min(self.frames.shape[1], _MAX_DRAWN)
        width = axes.get_position().width * axes.get_figure().get_figwidth()  # type: ignore[union-attr]
        area = float(np.clip(1_500 / max(count, 1), 0.6, 5.0)) * min(width, 2.0)
        marks = axes.scatter(
            [], [], s=area, color=self.colour, alpha=0.6, linewidths=0, rasterized=True
        )
        return lambda frame: marks.set_offsets(self.frames[frame, :count])

    def content(self, largest: int) -> dict[str, Json]:
        """Gives a player's data: 16 bits a coordinate, of fewer points if they are too many."""
        count = max(largest // (len(self.frames) * len(self.limits) * 3), 1)
        few = self.frames[:, :count]
        low, high = self.limits.T
        # Half an axis beyond either end is kept, for points that come from there.
        scaled = np.clip((few - low) / (high - low) / 2 + 0.25, 0.0, 1.0) * (_ABSENT - 1)
        numbers = np.where(np.isfinite(few), np.rint(scaled), _ABSENT).astype("<u2")
        return {
            "kind": "points" if len(self.limits) > 1 else "bars",
            "title": self.title,
            "colour": self.colour,
            "exact": self.colour == INK,
            "count": few.shape[1],
            "places": base64.b64encode(numbers.tobytes()).decode(),
        }


def _plane(points: Points, columns: Sequence[str]) -> tuple[Array, Array, str]:
    """Chooses how to see points (n, d): from what origin, in what directions, and in words."""
    dimension = points.shape[1]
    if dimension <= 2:
        names = [*columns, *(f"x{index + 1}" for index in range(len(columns), dimension))]
        return np.zeros(dimension), np.eye(dimension), f"Axes: {' and '.join(names)}."
    centre = points.mean(axis=0, dtype=np.float64)
    _, sizes, directions = np.linalg.svd(points - centre, full_matrices=False)
    planar = np.zeros((2, dimension))
    planar[: len(directions[:2])] = directions[:2]
    # The sign of a principal component is arbitrary: make its largest entry positive.
    largest = planar[[0, 1], np.abs(planar).argmax(axis=1)]
    planar *= np.where(largest < 0, -1.0, 1.0)[:, None]
    total = float((sizes**2).sum())
    share = float((sizes[:2] ** 2).sum()) / total if total else 0.0
    said = (
        f"The points have {dimension} dimensions and are seen in the plane of the first two "
        f"principal components of the real data, which holds {share:.0%} of its variance."
    )
    return centre, planar.T, said


def _limits(parts: Sequence[Array]) -> Array:
    """Finds axis limits, shape (1 or 2, 2), that hold nearly all of several sets of points.

    Half a percent on each side may fall outside, so that one stray point cannot squeeze the rest
    into a corner.
    """
    finite = [part[np.isfinite(part).all(axis=1)] for part in parts]
    spans = [np.quantile(part, (0.005, 0.995), axis=0) for part in finite if len(part)]
    if not spans:
        return np.tile([-1.0, 1.0], (parts[0].shape[1], 1))
    low, high = np.min([s[0] for s in spans], axis=0), np.max([s[1] for s in spans], axis=0)
    margin = np.where(high > low, 0.12 * (high - low), 0.5)
    limits = np.stack((low - margin, high + margin), axis=1)
    sides = np.ptp(limits, axis=1)
    if sides.max() <= _MAX_ASPECT * sides.min():  # one scale for both axes
        limits = limits.mean(axis=1, keepdims=True) + sides.max() / 2 * np.array([[-1.0, 1.0]])
    return np.asarray(limits)


def point_panels(
    states: Mapping[str, Sequence[Points]],
    colours: Mapping[str, str],
    real: Points | None = None,
    columns: Sequence[str] = (),
) -> tuple[list[Panel], str]:
    """Makes panels of points that are seen from one side, with the same limits.

    Args:
        states: Frames of points (n, d) by title, equally many points in each.
        colours: The colour of each.
        real: Real points (n, d), which choose view and limits; the last states when None.
        columns: Names of the coordinates.

    Returns:
        The panels, and a sentence on what is seen.
    """
    # A model that diverges must not shrink the others: noise and data set the limits.
    lasts = [frames[-1] for frames in states.values()] if real is None else [real]
    firsts = [frames[0] for frames in states.values() if len(frames) > 1]
    centre, directions, said = _plane(lasts[0], columns)
    seen = [(points.astype(np.float64) - centre) @ directions for points in (*firsts, *lasts)]
    limits = _limits(seen)
    return [
        PointPanel(title, colours[title], (np.stack([*frames]) - centre) @ directions, limits)
        for title, frames in states.items()
    ], said


def spread(count: int, most: int) -> list[int]:
    """Picks at most ``most`` of ``count`` indices, evenly spaced, first and last included."""
    return [round(index) for index in np.linspace(0, count - 1, min(count, most)).tolist()]


@report_style()
def clouds(
    panels: Sequence[Panel],
    columns: int = 3,
    *,
    frames: Sequence[int] = (),
    labels: Sequence[str] = (),
    width: float = WIDTH,
) -> Figure:
    """Draws panels side by side, or as strips: a row for each panel, a column for each frame.

    Args:
        panels: The panels; their last frames are drawn.
        columns: Number of panels in a row.
        frames: Numbers of the frames that strips show.
        labels: Names above the columns of strips.
        width: Width in inches.
    """
    cells = [(panel, frame) for panel in panels for frame in frames or (-1,)]
    columns = len(frames) or min(columns, len(cells))
    aspect = max(panel.aspect for panel in panels)
    figure, grid = panel_grid(len(cells), columns, width, aspect)
    for number, ((panel, frame), axes) in enumerate(zip(cells, grid, strict=True)):
        panel.draw(axes)(frame)
        room = axes.get_position().width * width * (columns if frames else 1)
        title = panel.title if not frames or number % columns == 0 else ""
        axes.set_title(textwrap.shorten(title, int(room / _LETTER), placeholder="…"))
        if number < len(labels):
            axes.text(0.5, 0.97, labels[number], transform=axes.transAxes, ha="center", va="top",
                      fontsize=8, color=MUTED)  # fmt: skip
    return figure


def panel_grid(
    count: int, columns: int, width: float, aspect: float = 1.0, below: float = _EDGE
) -> tuple[Figure, list[Axes]]:
    """Makes a figure with rows of panels of one size.

    Args:
        count: Number of panels.
        columns: Number of panels in a row.
        width: Width of the figure in inches.
        aspect: Height of a panel over its width.
        below: Inches left free below.

    Returns:
        The figure, and its panels row by row.
    """
    side = (width - 2 * _EDGE + _GAP) / columns - _GAP
    step = aspect * side + _TITLE + _EDGE
    height = -(-count // columns) * step + below
    figure = Figure(figsize=(width, height))
    axes = []
    for number in range(count):
        row, column = divmod(number, columns)
        left, bottom = _EDGE + column * (side + _GAP), height - (row + 1) * step + _EDGE
        place = left / width, bottom / height, side / width, aspect * side / height
        axes.append(figure.add_axes(place))
    return figure, axes


class Motion(NamedTuple):
    """Panels that move in step.

    Attributes:
        labels: The name of each frame, such as its time; two or more.
        panels: The panels, each with a frame for every label.
    """

    labels: Sequence[str]
    panels: Sequence[Panel]

    @property
    def pace(self) -> float:
        """Frames per second."""
        return float(np.clip((len(self.labels) - 1) / _SECONDS, *_PACES))

    def content(self, largest: int) -> dict[str, Json]:
        """Gives a player's data, in about ``largest`` bytes at most."""
        share = largest // len(self.panels)
        panels = [panel.content(share) for panel in self.panels]
        return {"labels": list(self.labels), "pace": self.pace, "panels": panels}

    def stills(self, name: str, alternative: str, largest: int) -> Markup:
        """Draws a few frames for paper and where no script runs.

        Args:
            name: A name that no other figure of the page has.
            alternative: What they show.
            largest: Approximate size of pictures in bytes.
        """
        if self.panels[0].address(0, 0) is None:
            frames = spread(len(self.labels), _STILLS)
            labels = [self.labels[frame] for frame in frames]
            return inline(clouds(self.panels, frames=frames, labels=labels), name, alternative)
        frames = spread(len(self.labels), _STILL_PICTURES)
        share = largest // (len(frames) * len(self.panels))
        image = Markup('<img src="{}" alt="{}, {}">')
        return Markup(" ").join(
            image.format(panel.address(frame, share), panel.title, self.labels[frame])
            for panel in self.panels
            for frame in frames
        )
