"""All figures of a report, in the order in which they are read, each with its caption."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from matplotlib.figure import Figure
from PIL import Image

from kan_diffusion.report.charts import (
    excess_by_level_figure,
    excess_figure,
    loss_figure,
    metrics_figure,
    time_figure,
)
from kan_diffusion.report.contents import ReportContents, complete_rows
from kan_diffusion.report.point_figures import (
    PointView,
    corruption_figure,
    data_figure,
    reverse_figure,
    samples_figure,
)
from kan_diffusion.report.style import report_style

__all__ = [
    "ReportFigure",
    "corruption_figure",
    "data_figure",
    "excess_by_level_figure",
    "excess_figure",
    "figure_png",
    "loss_figure",
    "metrics_figure",
    "report_figures",
    "reverse_figure",
    "samples_figure",
    "time_figure",
]

_DPI = 192


@dataclass(frozen=True)
class ReportFigure:
    """A figure of a report, drawn when it is asked for.

    Attributes:
        section: The part of the report it belongs to.
        name: Its file name without ending, unique within a report.
        alternative: What it shows, for those who cannot see it.
        caption: What to look for and how it was measured.
        draw: Makes it.
    """

    section: str
    name: str
    alternative: str
    caption: str
    draw: Callable[[], Figure]


def report_figures(contents: ReportContents) -> list[ReportFigure]:
    """The figures for which ``contents`` has something to show."""
    rows = complete_rows(contents.rows)
    datas = contents.data_names()
    figures: list[ReportFigure] = []

    def add(section: str, name: str, alternative: str, caption: str, draw: partial[Figure]) -> None:
        taken = {figure.name for figure in figures}
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "figure"
        number = 1
        while (unique := slug if number == 1 else f"{slug}-{number}") in taken:
            number += 1
        figures.append(ReportFigure(section, unique, alternative, caption, draw))

    for data in datas:
        shown = [key for key in contents.samples if key[0] == data]
        if shown:
            add(
                "samples", f"samples {data}", f"Generated points beside real ones, {data}",
                f"{data}: fresh real points, which no model was trained on, beside what each model "
                f"generates, on the same axes.{_view_note(contents, data)}",
                partial(samples_figure, contents, data),
            )  # fmt: skip
    if rows["excess"].notna().any():
        add(
            "excess", "excess", "Excess of each model",
            "Distance of each model's prediction from the best possible one, averaged over t; "
            "further left is better and 0 is perfect. Small marks are seeds, the large mark is "
            "their mean, the line its 95 % interval (Student's t over seeds); an arrowhead says "
            "that the interval goes on beyond the axis.",
            partial(excess_figure, contents),
        )  # fmt: skip
    if rows.loc[rows["train_seconds"] > 0, "excess"].notna().any():
        add(
            "excess", "time", "Excess against training time",
            "What the excess cost: one small mark a seed, the large one their mean. Down and to "
            "the left is better. Times are wall-clock times of training on the machine "
            "named under Environment.",
            partial(time_figure, contents),
        )  # fmt: skip
    if contents.excess_by_level["excess"].notna().any():
        add(
            "levels", "excess by level", "Excess against the noise level",
            "Where on the way from data (left) to noise (right) a model errs: mean over seeds in "
            "bins of t, with the 95 % interval as a band. The upper scale gives the same levels "
            "as the logarithm of the signal-to-noise ratio. Bins whose estimate is not above 0 are "
            "not drawn.",
            partial(excess_by_level_figure, contents),
        )  # fmt: skip
    for data in datas:
        if (contents.curves["data"] == data).any():
            floor = (
                " The dashed line is the floor: the loss of the exact oracle, which no denoiser "
                "can beat on average. The right panel shows what is left above it, where models "
                "differ although their curves on the left coincide; a running mean that dips below "
                "the floor by chance is not drawn there."
            )
            add(
                "losses", f"loss {data}", f"Training losses, {data}",
                f"{data}: training loss as a running mean over windows that grow with the step, "
                "so that late values average many batches. Line: mean over seeds; band: their "
                f"range.{floor if data in contents.floors else ''}",
                partial(loss_figure, contents, data),
            )  # fmt: skip
    for data in datas:
        of_data = rows[rows["data"] == data]
        if of_data[["energy", "sliced_w2", "w2", "mmd", "c2st"]].notna().any(axis=None):
            add(
                "metrics", f"metrics {data}", f"Sample metrics, {data}",
                f"{data}: distance of generated points from fresh real ones. Further left is "
                "better; the dashed line is what two fresh real samples of the same size score "
                "against each other (grey: its range over trials), which no model can be "
                "expected to beat. Marks and lines as in the figure of the excess.",
                partial(metrics_figure, contents, data),
            )  # fmt: skip
    for data in datas:
        if data in contents.originals:
            add(
                "process", f"data {data}", f"Real points, {data}",
                f"{data}: real points.{_view_note(contents, data)}",
                partial(data_figure, contents, data),
            )  # fmt: skip
        if contents.corruption.get(data):
            add(
                "process", f"corruption {data}", f"The forward process, {data}",
                f"{data}, forward process: the same points with more and more noise, from t = 0 "
                "to T. Sampling starts from pure noise, so the last panel must look like it.",
                partial(corruption_figure, contents, data),
            )  # fmt: skip
        for name in contents.model_names(data):
            if contents.trajectories.get((data, name)):
                add(
                    "process", f"reverse {data} {name}", f"The reverse process of {name}, {data}",
                    f"{data}, reverse process of {name}: from noise at t = T to a sample at "
                    "t = 0, one row for each moment of training.",
                    partial(reverse_figure, contents, data, name),
                )  # fmt: skip
    return figures


def figure_png(figure: Figure) -> bytes:
    """A figure as PNG at twice the resolution of a screen, in at most 256 colours.

    The same figure gives the same bytes.
    """
    drawn, small = io.BytesIO(), io.BytesIO()
    with report_style():
        figure.savefig(
            drawn, format="png", dpi=_DPI, bbox_inches="tight", pad_inches=0.08,
            pil_kwargs={"compress_level": 1},
        )  # fmt: skip
    image = Image.open(drawn).convert("RGB")
    image.quantize(256, dither=Image.Dither.NONE).save(small, format="PNG", optimize=True)
    return small.getvalue()


def _view_note(contents: ReportContents, data: str) -> str:
    points = contents.originals.get(data)
    if points is None or points.shape[1] <= 2:
        return ""
    view = PointView.of(points)
    return (
        f" The points have {points.shape[1]} dimensions and are seen in the plane of the first two "
        f"principal components of the real data, which holds {view.explained:.0%} of its variance."
    )
