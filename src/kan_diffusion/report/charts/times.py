"""What quality costs: the judged measure of a setting against training time."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kan_diffusion.report.charts.axes import (
    legend_below,
    legend_beside,
    measure_of,
    setting_label,
    value_axis,
)
from kan_diffusion.report.contents import MANY_MODELS, ReportContents
from kan_diffusion.report.style import INK, SEED_ALPHA, model_styles, report_style
from kan_diffusion.study.results.comparison import pareto_front

__all__ = ["time_column", "time_figure"]

_LABELS = {"excess": "excess (squared distance to the oracle)", "heldout_loss": "held-out loss"}
_TIMES = {
    "train_cpu_seconds": "training time (CPU seconds)",
    "train_seconds": "training time (s)",
}


def time_column(rows: pd.DataFrame) -> str:
    """The column of training times: CPU seconds, or wall-clock seconds of older studies."""
    return next((c for c in _TIMES if (rows[c] > 0).any()), "train_seconds")


@report_style()
def time_figure(contents: ReportContents, label: str | None = None) -> Figure:
    """The judged measure against training time, with the Pareto front of the models' means.

    Args:
        contents: The study.
        label: The setting; the first one when None.
    """
    label = setting_label(contents, label)
    rows, measure = contents.complete_rows(label), measure_of(contents, label)
    styles, column = model_styles(contents.complete_rows()), time_column(rows)
    good = rows[rows[measure].notna() & (rows[column] > 0)]
    names = [name for name in contents.model_names(label) if name in set(good["name"])]
    many = len(names) > MANY_MODELS
    figure = Figure(figsize=(9.6, 5.2) if many else (7.5, 4.2), layout="constrained")
    axes = figure.subplots()
    texts = {name: name if many else _sized(name, rows) for name in names}
    means = {
        name: good.loc[good["name"] == name, [column, measure]].mean().to_numpy(np.float64)
        for name in names
    }
    for name in names:
        style, group = styles[name], good[good["name"] == name]
        axes.scatter(
            *(group[column], group[measure]),
            s=22, color=style.colour, marker=style.marker, alpha=SEED_ALPHA, linewidths=0,
        )  # fmt: skip
        axes.scatter(
            *(means[name][0], means[name][1]),
            s=85, color=style.colour, marker=style.marker, edgecolors="white", linewidths=1.0,
            label=texts[name], zorder=3,
        )  # fmt: skip
    front = pareto_front(*([float(mean[axis]) for mean in means.values()] for axis in (0, 1)))
    if len(front) > 1:
        steps = [means[names[index]] for index in front]
        axes.step(
            [s[0] for s in steps], [s[1] for s in steps], where="post",
            color=INK, linewidth=1.1, linestyle=(0, (4, 2)), zorder=2, label="Pareto front",
        )  # fmt: skip
    value_axis(axes, "x", good[column].tolist())
    value_axis(axes, "y", good[measure].tolist())
    axes.set(xlabel=_TIMES[column], ylabel=_LABELS[measure])
    if many:
        legend_beside(figure, [axes], strong=[texts[names[index]] for index in front])
    else:
        legend_below(figure, [axes])
    return figure


def _sized(name: str, rows: pd.DataFrame) -> str:
    parameters = rows.loc[rows["name"] == name, "parameters"].dropna()
    if parameters.empty:
        return name
    low, high = parameters.min(), parameters.max()
    text = f"{low:,.0f}" if low == high else f"{low:,.0f} to {high:,.0f}"
    return f"{name} ({text} parameters)"
