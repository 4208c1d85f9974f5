"""Figures of a study's points: the data, the process in both directions, and generated points."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from kan_diffusion.report.contents import ReportContents
from kan_diffusion.report.points import (
    PointView,
    bins,
    panel_figure,
    side_by_side_figure,
    strips_figure,
)
from kan_diffusion.report.style import REAL, report_style

__all__ = [
    "corruption_figure", "data_figure", "point_view", "reverse_figure", "samples_figure",
]  # fmt: skip


@report_style()
def data_figure(contents: ReportContents, data: str, width: float = 6.5) -> Figure:
    """Draws the real points of a data set, with the distribution of each drawn coordinate.

    Args:
        contents: The study.
        data: The data set.
        width: Largest width in inches.
    """
    points = contents.originals[data]
    view = PointView.of(points, contents.columns.get(data))
    limits = view.limits([points])
    if view.flat:
        figure, ((axes,),) = panel_figure([1], width, 0.45, (0, 0), (0.8, 0.6, 0.4), 5.7)
        view.draw(axes, points, REAL, limits)
        axes.set(xlabel=view.labels[0], ylabel="density", title=data)
        return figure
    side = min((width - 0.8) / 1.18, 4.4)
    figure, ((axes,),) = panel_figure([1], width, 1.0, (0, 0), (0.8, 0.6, 1.0), side)
    view.draw(axes, points, REAL, limits, size=1.5)
    axes.set(xlabel=view.labels[0], ylabel=view.labels[1])
    drawn = view.project(points)
    above, beside = axes.inset_axes((0, 1.02, 1, 0.16)), axes.inset_axes((1.02, 0, 0.16, 1))
    above.hist(drawn[:, 0], bins=bins(limits[0]), color=REAL)
    beside.hist(drawn[:, 1], bins=bins(limits[1]), color=REAL, orientation="horizontal")
    above.set_xlim(limits[0])
    beside.set_ylim(limits[1])
    for margin in (above, beside):
        margin.set_axis_off()
    above.set_title(f"{data}: {len(points):,} points")
    return figure


def corruption_figure(contents: ReportContents, data: str, width: float = 11.0) -> Figure:
    """Draws the forward process: the same points at growing t, from data to noise.

    Args:
        contents: The study.
        data: The data set.
        width: Largest width in inches.
    """
    panels = contents.corruption[data]
    view = _view(contents, data)
    limits = view.limits([points for _, points in panels])
    return strips_figure([("", panels)], REAL, view, limits, width)


def reverse_figure(contents: ReportContents, label: str, name: str, width: float = 11.0) -> Figure:
    """Draws the reverse process of a model, from noise to data, at moments of its training.

    Args:
        contents: The study.
        label: The data set.
        name: The model.
        width: Largest width in inches.
    """
    colour = contents.styles[name].colour
    view, limits = point_view(contents, label)
    return strips_figure(contents.trajectories[label, name], colour, view, limits, width)


def point_view(contents: ReportContents, label: str) -> tuple[PointView, NDArray[np.float64]]:
    """Chooses the view and the axis limits of the reverse processes of a data set.

    Args:
        contents: The study.
        label: The data set.
    """
    view = _view(contents, label, label)
    # A model that diverges must not shrink the others: the start and the data set the limits.
    real = contents.originals.get(label)
    starts = [
        panels[0][1]
        for (of, _), moments in contents.trajectories.items()
        if of == label
        for _, panels in moments
    ]
    return view, view.limits(starts if real is None else [real, *starts])


def samples_figure(
    contents: ReportContents, label: str | None = None, width: float = 10.5
) -> Figure:
    """Draws fresh real points beside those that each model generates, on the same axes.

    Args:
        contents: The study.
        label: The data set; the study's first one when None.
        width: Largest width in inches.
    """
    label = next(iter(contents.samples))[0] if label is None else label
    original = contents.originals.get(label)
    pictures = [] if original is None else [("real", REAL, original)]
    pictures += [
        (name, contents.styles[name].colour, contents.samples[label, name])
        for name in contents.model_names(label)
        if (label, name) in contents.samples
    ]
    view = _view(contents, label, label)
    shown = [points for *_, points in pictures] if original is None else [original]
    return side_by_side_figure(pictures, view, view.limits(shown), width)


def _view(contents: ReportContents, data: str, label: str = "") -> PointView:
    """Chooses one view for a data set, from real points or, without any, from generated ones."""
    candidates = [contents.originals[data]] if data in contents.originals else []
    candidates += [points for _, points in contents.corruption.get(data, [])[:1]]
    candidates += [points for (of, _), points in contents.samples.items() if of == label]
    candidates += [
        moments[-1][1][-1][1] for (of, _), moments in contents.trajectories.items() if of == label
    ]
    return PointView.of(candidates[0], contents.columns.get(data))
