"""Figures of a synthetic table: each column and pair, real beside synthetic."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from kan_diffusion.report.charts.axes import set_ticks
from kan_diffusion.report.style import REAL, SYNTHETIC, report_style, shortened
from kan_diffusion.tables.marginals import Picture

__all__ = ["column_figure", "dependence_figure"]

_SURE = 1.96
_DAY = 86_400.0  # Matplotlib counts dates in days


@report_style()
def column_figure(name: str, picture: Picture) -> Figure:
    """Draws the shares of one column: a histogram of its values, or lying bars of categories.

    The band around real shares holds 95 % of the shares that chance alone gives to as many rows as
    the synthetic ones.

    Args:
        name: The column.
        picture: Its shares.
    """
    real, synthetic = 100 * picture.real, 100 * picture.synthetic
    # The standard deviation of the difference of two samples' shares.
    each = sum(1 / max(number, 1) for number in picture.numbers)
    spread = _SURE * 100 * np.sqrt(each * picture.real * (1 - picture.real))
    edges = picture.edges / (_DAY if picture.date else 1.0)
    figure = Figure(figsize=(4.6, 3.0), layout="constrained")
    axes = figure.subplots()
    lying: Literal["horizontal", "vertical"] = "horizontal" if picture.labels else "vertical"
    axes.stairs(real, edges, fill=True, color=REAL, alpha=0.5, label="real", orientation=lying)
    axes.stairs(
        real + spread, edges, baseline=np.maximum(real - spread, 0), fill=True, color=REAL,
        alpha=0.35, orientation=lying,
    )  # fmt: skip
    axes.stairs(
        synthetic, edges, color=SYNTHETIC, linewidth=1.6, label="synthetic", orientation=lying
    )
    top = 1.06 * max(1e-9, float(np.max([real + spread, synthetic])))
    if picture.labels:
        axes.set_yticks(edges[:-1] + 0.5, [shortened(label) for label in picture.labels])
        axes.set(ylim=(edges[-1], edges[0]), xlim=(0, top), xlabel="share of values (%)")
    else:
        axes.set(xlim=(edges[0], edges[-1]), ylim=(0, top), ylabel="share of values (%)")
        if picture.date:
            dates = AutoDateLocator(minticks=2, maxticks=7)
            set_ticks(axes, "x", dates, ConciseDateFormatter(dates))
        else:
            round_numbers = MaxNLocator(5, steps=[1, 2, 5, 10])
            locator = LogLocator(numticks=6) if picture.log else round_numbers
            set_ticks(axes, "x", locator, lambda value, _: _short(value), log=picture.log)
        axes.set_xlabel("date" if picture.date else "value (log axis)" if picture.log else "value")
    figure.suptitle(shortened(name, 40), x=0.02, ha="left", fontsize=10.5, fontweight="bold")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _short(value: float) -> str:
    """Formats a tick in a few letters, such as 2,000, 2e8 or 5e−9; its last digits are noise."""
    digits, exponent, power = f"{value:,.6g}".partition("e")
    return f"{digits}{exponent}{int(power) if power else ''}".replace("-", "−")


@report_style()
def dependence_figure(names: list[str], pairs: pd.DataFrame, what: str) -> Figure:
    """Draws how strongly columns depend on each other, as a heat map.

    Args:
        names: The columns, in order.
        pairs: Pairs of columns, see :class:`.TableScores`.
        what: ``"real"``, ``"synthetic"``, or ``"difference"`` for synthetic minus real.
    """
    values = pairs.fillna({"real": 0, "synthetic": 0}) if what == "difference" else pairs
    values = values.assign(difference=values["synthetic"] - values["real"])
    half = values.pivot(index="first", columns="second", values=what).reindex(names, columns=names)
    figure = Figure(figsize=(4.6, 4.3), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(half.fillna(half.T).astype(float), cmap="RdBu_r", vmin=-1, vmax=1)
    labels = [shortened(name, 14) for name in names]
    size = 8.5 if len(names) <= 16 else 6.5
    axes.set_xticks(range(len(names)), labels, rotation=90, fontsize=size)
    axes.set_yticks(range(len(names)), labels, fontsize=size)
    axes.grid(visible=False)
    axes.set_title("synthetic − real" if what == "difference" else what)
    figure.colorbar(image, ax=axes, shrink=0.75, ticks=[-1, -0.5, 0, 0.5, 1])
    return figure
