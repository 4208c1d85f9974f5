"""All figures of a report, in the order in which they are read, each with its caption."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from matplotlib.figure import Figure

from kan_diffusion.report.charts import (
    excess_by_level_figure,
    excess_figure,
    loss_figure,
    metrics_figure,
    ratio_figure,
    ratio_groups,
)
from kan_diffusion.report.charts.axes import kind_panels, measure_of
from kan_diffusion.report.charts.excess import level_measure
from kan_diffusion.report.contents import MANY_MODELS, ReportContents
from kan_diffusion.report.images import figure_png
from kan_diffusion.report.point_figures import (
    PointView,
    corruption_figure,
    data_figure,
    reverse_figure,
    samples_figure,
)
from kan_diffusion.study.results.rows import MEASURES, Setting

__all__ = [
    "ReportFigure",
    "corruption_figure",
    "data_figure",
    "excess_by_level_figure",
    "excess_figure",
    "figure_png",
    "loss_figure",
    "metrics_figure",
    "ratio_figure",
    "report_figures",
    "reverse_figure",
    "samples_figure",
]


@dataclass(frozen=True)
class ReportFigure:
    """A figure of a report, drawn when it is asked for.

    Attributes:
        section: The part of the report it belongs to.
        name: Its file name without ending, unique within a report.
        alternative: What it shows, for those who cannot see it.
        caption: What to look for and how it was measured.
        draw: Makes it.
        data: The data set it is about; empty where it is about the whole study.
        label: The setting it is about; empty where it is about a data set or the whole study.
    """

    section: str
    name: str
    alternative: str
    caption: str
    draw: Callable[[], Figure]
    data: str = ""
    label: str = ""

    @property
    def cloud(self) -> bool:
        """Whether it is of points in their thousands."""
        return self.section in ("samples", "process")


def report_figures(contents: ReportContents) -> list[ReportFigure]:
    """The figures for which ``contents`` has something to show.

    Args:
        contents: The study.
    """
    settings = contents.results.settings()
    found = _overview(contents)
    for data in contents.data_names():
        own = [setting for setting in settings if setting.data == data]
        for setting in own:
            found += _of_setting(contents, setting, len(settings) == 1)
        found += _of_data(contents, data)
        for setting in own:
            found += _reverse(contents, setting)
    return _uniquely_named(found)


def _uniquely_named(figures: list[ReportFigure]) -> list[ReportFigure]:
    """The figures with their names made into file names."""
    taken: set[str] = set()
    named = []
    for figure in figures:
        slug = re.sub(r"[^a-z0-9]+", "-", figure.name.lower()).strip("-") or "figure"
        number = 1
        while (unique := slug if number == 1 else f"{slug}-{number}") in taken:
            number += 1
        taken.add(unique)
        named.append(
            ReportFigure(
                figure.section, unique, figure.alternative, figure.caption, figure.draw,
                figure.data, figure.label,
            )
        )  # fmt: skip
    return named


def _overview(contents: ReportContents) -> list[ReportFigure]:
    found = []
    comparisons = contents.decision.comparisons
    compared = {d.setting.label for d in comparisons}
    models = {d.model for d in comparisons}
    # For two or three models of one setting, the sentence says all that the figure would.
    groups = ratio_groups(comparisons)
    for group in groups if len(compared) > 1 or len(models) >= MANY_MODELS else []:
        amount = group[0].setting.amount if len(groups) > 1 else ""
        measures = {difference.measure for difference in group}
        note = ""
        if "heldout_loss" in measures:
            note = (
                " Where there is no exact oracle the ratio is of held-out losses, which contain "
                "the floor and so lie nearer to 1; they have a colour scale of their own"
                f"{' and are marked (loss)' if len(measures) > 1 else ''}."
            )
        found.append(
            ReportFigure(
                "differences", f"differences {amount}",
                "Ratio of every model to the best MLP of each setting",
                "Mean of the judged measure as a multiple of that of the best MLP of the setting, "
                "over the seeds that both have: below 1 (green) the model is better, above 1 "
                "(brown) worse; the deeper the colour, the further. The small line is the 95 % "
                "bootstrap interval of the paired difference, as a ratio; bold: p below 0.05 after "
                f"Holm's correction over the data sets at that budget.{note}",
                partial(ratio_figure, contents, group),
            )
        )  # fmt: skip
    return found


def _of_setting(contents: ReportContents, setting: Setting, alone: bool) -> list[ReportFigure]:
    """The figures of one setting; where it is the only one, their names are short."""
    label, data = setting.label, setting.data
    rows = contents.results.of_setting(label)
    found: list[ReportFigure] = []
    suffix = "" if alone else f" {label}"

    def add(section: str, name: str, alternative: str, caption: str, draw: partial[Figure]) -> None:
        found.append(ReportFigure(section, name, alternative, caption, draw, data, label))

    several = len(kind_panels(contents, label)) > 1
    behind = "; the models of other kinds are grey behind" if several else ""
    measure = measure_of(contents, label)
    if any(key[0] == label for key in contents.samples):
        add(
            "samples", f"samples {label}", f"Generated points beside real ones, {label}",
            f"{label}: fresh real points, which no model was trained on, beside what each model "
            f"generates (first seed), on the same axes.{_view_note(contents, data)}",
            partial(samples_figure, contents, label),
        )  # fmt: skip
    if rows[measure].notna().any():
        judged = (
            "Distance of each model's prediction from the best possible one, averaged over t; "
            "further left is better and 0 is perfect."
            if measure == "excess"
            else "Held-out loss of each model; further left is better. The best that is possible "
            "is not known here."
        )
        add(
            "excess", f"excess{suffix}", f"{_capital(measure)} of each model, {label}",
            f"{judged} Small marks are seeds, the large mark is "
            "their mean, the line its 95 % interval (Student's t over seeds); an arrowhead says "
            "that the interval goes on beyond the axis.",
            partial(excess_figure, contents, label),
        )  # fmt: skip
    levels = contents.levels_of(label)
    if len(levels) and levels[level_measure(levels)].notna().any():
        shown = MEASURES[level_measure(levels)]
        spread = "" if several else ", with the 95 % interval as a band"
        add(
            "levels", f"excess by level{suffix}", f"{shown.capitalize()} by noise level, {label}",
            f"{shown.capitalize()} on the way from data (left) to noise (right): mean over seeds "
            f"in bins of t{spread}{behind}. The upper scale gives the same levels "
            "as the logarithm of the signal-to-noise ratio. Bins whose estimate is not above 0 are "
            "not drawn.",
            partial(excess_by_level_figure, contents, label),
        )  # fmt: skip
    if len(contents.curves_of(label)):
        floor = (
            " The dashed line is the floor: the loss of the exact oracle, which no denoiser "
            "can beat on average. The right panel shows what is left above it, where models "
            "differ although their curves on the left coincide; a running mean that dips below "
            "the floor by chance is not drawn there."
        )
        above = (
            f" Drawn is what is left above the floor, {contents.floors.get(label, 0.0):.4g}: the "
            "loss of the exact oracle, which no denoiser can beat on average. A running mean that "
            "dips below it by chance is not drawn."
        )
        known = label in contents.floors
        add(
            "losses", f"loss {label}", f"Training losses, {label}",
            f"{label}: training loss as a running mean over windows that grow with the step, "
            "so that late values average many batches. Line: mean over seeds"
            f"{behind if several else '; band: their range'}."
            f"{(above if several else floor) if known else ''}",
            partial(loss_figure, contents, label),
        )  # fmt: skip
    if rows[list(contents.results.metrics)].notna().any(axis=None):
        add(
            "metrics", f"metrics {label}", f"Sample metrics, {label}",
            f"{label}: distance of generated points from fresh real ones. Further left is "
            "better; the dashed line is what two fresh real samples of the same size score "
            "against each other (grey: its range over trials), which no model can be "
            "expected to beat. Marks and lines as in the figure of the "
            f"{MEASURES[measure]}.",
            partial(metrics_figure, contents, label),
        )  # fmt: skip
    return found


def _reverse(contents: ReportContents, setting: Setting) -> list[ReportFigure]:
    label = setting.label
    return [
        ReportFigure(
            "process", f"reverse {label} {name}", f"The reverse process of {name}, {label}",
            f"{label}, reverse process of {name}: from noise at t = T to a sample at "
            "t = 0, one row for each moment of training.",
            partial(reverse_figure, contents, label, name), setting.data, label,
        )
        for name in contents.model_names(label)
        if contents.trajectories.get((label, name))
    ]  # fmt: skip


def _of_data(contents: ReportContents, data: str) -> list[ReportFigure]:
    found = []
    if data in contents.originals:
        found.append(
            ReportFigure(
                "process", f"data {data}", f"Real points, {data}",
                f"{data}: real points.{_view_note(contents, data)}",
                partial(data_figure, contents, data), data,
            )
        )  # fmt: skip
    if contents.corruption.get(data):
        found.append(
            ReportFigure(
                "process", f"corruption {data}", f"The forward process, {data}",
                f"{data}, forward process: the same points with more and more noise, from t = 0 "
                "to T. Sampling starts from pure noise, so the last panel must look like it.",
                partial(corruption_figure, contents, data), data,
            )
        )  # fmt: skip
    return found


def _capital(measure: str) -> str:
    return MEASURES[measure].capitalize()


def _view_note(contents: ReportContents, data: str) -> str:
    points = contents.originals.get(data)
    if points is None or points.shape[1] <= 2:
        return ""
    view = PointView.of(points)
    return (
        f" The points have {points.shape[1]} dimensions and are seen in the plane of the first two "
        f"principal components of the real data, which holds {view.explained:.0%} of its variance."
    )
