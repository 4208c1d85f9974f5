"""What the charts share: scales, rows of dots, panels by kind and legends."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.markers import CARETLEFT, CARETRIGHT
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator
from numpy.typing import NDArray

from kan_diffusion.report.contents import MANY_MODELS, ReportContents
from kan_diffusion.report.style import INK, MUTED, SEED_ALPHA, ModelStyle
from kan_diffusion.study.results.statistics import mean_interval

__all__ = [
    "MEASURE_LABELS",
    "dot_rows",
    "kind_panels",
    "legend_below",
    "legend_beside",
    "measure_of",
    "setting_label",
    "step_axis",
    "value_axis",
]

MEASURE_LABELS = {
    "excess": "excess (squared distance to the oracle, as predicted noise)",
    "heldout_loss": "held-out loss",
}
"""What the axis of a judged measure says."""

_KIND_TITLES = {"kan": "KANs", "mlp": "MLPs", "other": "Others"}
_MARGIN = 1.3
_WIDE_NAME = 22


def setting_label(contents: ReportContents, label: str | None) -> str:
    """The label that was given, or that of the study's first setting."""
    if label is not None:
        return label
    settings = contents.results.settings()
    return settings[0].label if settings else ""


def measure_of(contents: ReportContents, label: str) -> str:
    """The judged measure of a setting, ``excess`` or ``heldout_loss``."""
    return contents.results.judged(label)


def kind_panels(contents: ReportContents, label: str) -> list[tuple[str, list[str]]]:
    """The models that share a panel: all, or those of a kind where there are many.

    Returns:
        A title, empty where all models share one panel, and names of models, a pair a panel.
    """
    names = contents.model_names(label)
    if len(names) <= MANY_MODELS:
        return [("", names)]
    kinds = contents.results.models(label)
    groups = [(title, [n for n in names if kinds[n] == k]) for k, title in _KIND_TITLES.items()]
    return [group for group in groups if group[1]]


def dot_rows(
    axes: Axes,
    values: dict[str, NDArray[np.float64]],
    styles: dict[str, ModelStyle],
    also: Iterable[float] = (),
    log: bool = True,
) -> None:
    """One row a model: a pale dot a seed, the mean and its interval."""
    kept = {name: v[np.isfinite(v)] for name, v in values.items()}
    intervals = {name: mean_interval(v) for name, v in kept.items()}
    flat = [*(float(v) for group in kept.values() for v in group), *also]
    ends = [end for i in intervals.values() for end in (i.low, i.high) if end is not None]
    low_edge, high_edge = value_axis(axes, "x", flat, log, ends)
    for row, (name, seeds) in enumerate(kept.items()):
        style, interval = styles[name], intervals[name]
        if not len(seeds):
            axes.text(
                *(0.02, row, "no result"), color=MUTED, fontsize=9, va="center",
                transform=axes.get_yaxis_transform(),
            )  # fmt: skip
            continue
        # Just below the interval, so that no seed hides behind it.
        axes.scatter(
            *(seeds, row + 0.24 + 0.05 * (np.arange(len(seeds)) % 3 - 1)),
            s=20, color=style.colour, marker=style.marker, alpha=SEED_ALPHA, linewidths=0,
        )  # fmt: skip
        if interval.low is not None and interval.high is not None:
            shown = max(interval.low, low_edge), min(interval.high, high_edge)
            axes.plot(shown, (row, row), color=style.colour, linewidth=2.2, solid_capstyle="butt")
            for edge, marker, cut in (
                (low_edge, CARETLEFT, interval.low < low_edge),
                (high_edge, CARETRIGHT, interval.high > high_edge),
            ):
                if cut:
                    axes.plot(edge, row, marker=marker, color=style.colour, markersize=7)
        axes.scatter(
            *(interval.mean, row),
            s=70, color=style.colour, marker=style.marker, edgecolors="white", linewidths=1.0,
            zorder=3,
        )  # fmt: skip
    axes.set_yticks(range(len(kept)), list(kept))
    axes.set_ylim(len(kept) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0, labelcolor=INK, labelsize=9.5)
    axes.grid(axis="y", visible=False)


def value_axis(
    axes: Axes,
    which: Literal["x", "y"],
    values: Sequence[float],
    log: bool = True,
    wishes: Sequence[float] = (),
) -> tuple[float, float]:
    """Scales an axis to positive values on a log axis, to others on a linear one.

    Args:
        axes: Whose axis to scale.
        which: The axis along x or along y.
        values: What must be seen.
        log: Whether a log axis is wanted at all.
        wishes: What should be seen where it costs no more than a doubling of the range.

    Returns:
        The limits that were set.
    """
    finite = np.array([value for value in values if math.isfinite(value)])
    if not len(finite):
        finite = np.array([0.1, 1.0])
    low, high = float(finite.min()), float(finite.max())
    axis = axes.xaxis if which == "x" else axes.yaxis
    set_limits = axes.set_xlim if which == "x" else axes.set_ylim
    inside = [wish for wish in wishes if math.isfinite(wish)]
    if not log or low <= 0:
        span = high - low
        low = min([low, *(max(wish, low - span) for wish in inside)])
        high = max([high, *(min(wish, high + span) for wish in inside)])
        margin = 0.12 * (high - low) or 0.1 * abs(high) or 1.0
        axis.set_major_locator(MaxNLocator(5))
        set_limits(low - margin, high + margin)
        return low - margin, high + margin
    low = min([low, *(max(wish, low / 2) for wish in inside)])
    high = max([high, *(min(wish, high * 2) for wish in inside)])
    # At least a factor of 4 in all, so that the axis always has two labels and noise looks small.
    widen = max(_MARGIN, math.sqrt(4 / (high / low)))
    low, high = low / widen, high * widen
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    decades = math.log10(high / low)
    subs = (1, 2, 3, 5, 7) if decades < 1.0 else (1, 2, 5) if decades < 1.4 else (1, 3)
    axis.set_major_locator(LogLocator(subs=subs if decades < 2.5 else (1,), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
    axis.set_minor_locator(NullLocator())
    set_limits(low, high)
    return low, high


def step_axis(axes: Axes, end: float) -> None:
    """An axis of training steps up to ``end``, logarithmic where there are many."""
    axes.set_xlabel("training step")
    axes.set_xscale("log" if end > 100 else "linear")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())


def legend_below(figure: Figure, panels: Sequence[Axes], each: bool = False) -> None:
    """One legend for all panels below them, or one below each."""
    if each:
        for axes in panels:
            handles, labels = axes.get_legend_handles_labels()
            wide = max((len(label) for label in labels), default=0) > _WIDE_NAME
            axes.legend(
                handles, labels, ncols=1 if wide else 2, fontsize=9,
                loc="upper center", bbox_to_anchor=(0.5, -0.17), borderaxespad=0.0,
                handlelength=2.4, columnspacing=1.0, markerscale=0.8,
            )  # fmt: skip
        return
    legend = _handles(panels)
    if legend:
        figure.legend(
            list(legend.values()), list(legend),
            loc="outside lower center", ncols=min(4, len(legend)), markerscale=0.8,
        )  # fmt: skip


def legend_beside(figure: Figure, panels: Sequence[Axes], strong: Iterable[str] = ()) -> None:
    """One legend to the right of all panels; the labels in ``strong`` are bold."""
    legend = _handles(panels)
    if not legend:
        return
    drawn = figure.legend(
        list(legend.values()), list(legend), loc="outside right center", markerscale=0.8
    )
    chosen = set(strong)
    for text in drawn.get_texts():
        if text.get_text() in chosen:
            text.set_fontweight("bold")


def _handles(panels: Sequence[Axes]) -> dict[str, Artist]:
    handles: dict[str, Artist] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    return handles
