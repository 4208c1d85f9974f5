"""Figures of the layer benchmark: ratios to our network, and how its time grows."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from baselines import CONTENDERS, KERNELS, own_network
from kan_diffusion.report.style import INK, MUTED, ModelStyle, model_styles, report_style
from layer_speed.plan import Series
from layer_speed.targets import LIBRARIES, TARGETS, measured
from layer_speed.timing import Row

__all__ = ["growth_figure", "ratio_figure"]

_OURS = "kan-diffusion"
_MARKERS = ("o", "s", "D", "^", "v")
_OFFSETS = 0.24
_MODES = ("-eager", "-recompute", "-compiled")


def _styles() -> dict[str, ModelStyle]:
    """A style for each contender; two modes of one package share its colour."""
    families = {
        name: {"ours": "kan", "mlp": "mlp"}.get(name, contender.package or name)
        for name, contender in CONTENDERS.items()
        if not name.endswith(_MODES)
    }
    rows = pd.DataFrame({"name": list(families), "family": list(families.values())})
    styles = model_styles(rows)
    return {name: styles[own_network(name)] for name in CONTENDERS if own_network(name) in styles}


@report_style()
def ratio_figure(rows: Sequence[Row], threads: int) -> Figure:
    """Time of every contender as a multiple of ours, a panel a size, a marker a number G.

    A contender's target, where it has one, is a tick on its row: it is met by marks at or to the
    right of it.
    """
    rows = [row for row in rows if row["threads"] == threads]
    own = {"ours", *KERNELS}
    rows = [row for row in rows if row["contender"] not in own]
    sizes = list(dict.fromkeys((str(row["layers"]), int(str(row["batch"]))) for row in rows))
    names = list(dict.fromkeys(str(row["contender"]) for row in rows))
    grids = sorted({int(str(row["grid_size"])) for row in rows})
    columns = min(2, len(sizes))
    lines = -(-len(sizes) // columns)
    figure = Figure(
        figsize=(6.0 * columns + 1.0, lines * (0.9 + 0.4 * len(names)) + 1.0), layout="constrained"
    )
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for axes in panels.flat[len(sizes) :]:
        axes.set_visible(False)
    for axes, (layers, batch) in zip(panels.flat, sizes, strict=False):
        shown = [row for row in rows if (row["layers"], row["batch"]) == (layers, batch)]
        _ratio_panel(axes, shown, names, grids)
        axes.set_title(f"{layers}, batch {batch:,}")
        axes.tick_params(labelbottom=True)
    low, high = panels[0, 0].get_xlim()
    panels[0, 0].set_xlim(min(low, 0.45), max(high, 2.2))
    for axes in panels[-1]:
        axes.set_xlabel(f"time of a training step / {_OURS}'s")
    handles = [
        Line2D([], [], linestyle="", marker=marker, color=MUTED, label=f"G = {grid}")
        for grid, marker in zip(grids, _MARKERS, strict=False)
    ]
    handles.append(
        Line2D([], [], linestyle="", marker="|", color=INK, markersize=13, markeredgewidth=1.6,
               label="target (met at or right of it)")
    )  # fmt: skip
    handles.append(Line2D([], [], color=INK, linewidth=1.2, label=f"{_OURS} = 1"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    count = "one thread" if threads == 1 else f"{threads} threads"
    figure.suptitle(
        f"Training step relative to {_OURS}, {count}: further right is slower", fontsize=12,
        color=INK,
    )  # fmt: skip
    return figure


def _ratio_panel(axes: Axes, rows: Sequence[Row], names: Sequence[str], grids: list[int]) -> None:
    styles = _styles()
    batch = int(str(rows[0]["batch"])) if rows else 0
    for place, name in enumerate(names):
        own = {int(str(row["grid_size"])): row for row in rows if row["contender"] == name}
        reasons = {}
        for index, grid in enumerate(grids):
            row = own.get(grid)
            height = place + _OFFSETS * (index - (len(grids) - 1) / 2)
            if row is None or "ratio" not in row:
                reasons[grid] = "" if row is None else str(row.get("reason", ""))
                continue
            colour = styles[name].colour
            axes.plot(
                [row["ratio_low"], row["ratio_high"]], [height, height], color=colour, linewidth=1.4
            )
            axes.plot(
                row["ratio"], height, linestyle="", marker=_MARKERS[index % len(_MARKERS)],
                markersize=6.5, color=colour, markeredgewidth=1.4,
                markerfacecolor="white" if name.endswith("-eager") else colour,
            )  # fmt: skip
        if len(reasons) == len(grids):
            axes.text(
                *(1.15, place, "not measured"), color=MUTED, fontsize=9, va="center", ha="left"
            )
        if (target := _target_of(name, batch)) is not None:
            axes.plot(target, place, linestyle="", marker="|", color=INK, markersize=22,
                      markeredgewidth=1.6, zorder=1.5)  # fmt: skip
    axes.axvline(1, color=INK, linewidth=1.2, zorder=1)
    axes.set_xscale("log")
    axes.set_yticks(range(len(names)), [CONTENDERS[name].label for name in names])
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0, labelcolor=INK, labelsize=9.5)
    axes.grid(axis="y", visible=False)
    _plain_log_axis(axes, "x", subs=(1, 2, 5))


def _target_of(name: str, batch: int) -> float | None:
    """The least multiple of our time that a contender's target asks for at a batch size."""
    key = "libraries" if name in LIBRARIES else name
    if own_network(name) in KERNELS and own_network(name) != "rational":  # which has no kernel
        key = "compiled" if name.endswith("-compiled") else "kernels"
    for target in TARGETS:
        if target.name == key and not (key == "mlp" and batch != 8192):
            return 1 / target.bound if target.at_most else target.bound
    return None


@report_style()
def growth_figure(rows: Sequence[Row], series: Sequence[Series]) -> Figure:
    """Time of a step against the number of intervals, the width and the batch, on log axes."""
    figure = Figure(figsize=(4.4 * len(series), 4.2), layout=ConstrainedLayoutEngine(wspace=0.06))
    panels = figure.subplots(1, len(series), squeeze=False)[0]
    styles = _styles()
    threads = sorted({int(str(row["threads"])) for row in rows})
    labels = {"G": "number of intervals G", "width": "width of the hidden layers", "batch": "batch"}
    for axes, one in zip(panels, series, strict=True):
        sizes = {(case.layers, case.batch, case.grid_size): one.size(case) for case in one.cases}
        for count in threads:
            for name in one.contenders:
                chosen = [
                    row
                    for row in measured(rows, "ms")
                    if (row["series"], row["threads"], row["contender"]) == (one.name, count, name)
                ]
                places = [sizes[row["layers"], row["batch"], row["grid_size"]] for row in chosen]  # type: ignore[index]
                style = styles[name]
                axes.fill_between(
                    places, [row["ms_low"] for row in chosen], [row["ms_high"] for row in chosen],
                    color=style.colour, alpha=0.15, linewidth=0,
                )  # fmt: skip
                axes.plot(
                    places, [row["ms"] for row in chosen], color=style.colour, marker=style.marker,
                    markersize=5, linestyle="-" if count == threads[0] else (0, (4, 1.6)),
                    label=f"{CONTENDERS[name].label}, {count} thread{'s' * (count > 1)}",
                )  # fmt: skip
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.xaxis.set_major_locator(FixedLocator([one.size(case) for case in one.cases]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.xaxis.set_minor_locator(NullLocator())
        _plain_log_axis(axes, "y", subs=(1, 2, 5))
        axes.set_xlabel(labels[one.axis])
        axes.set_ylabel("time of a training step (ms)")
        axes.set_title(_held(one))
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside lower center", ncols=min(4, len(handles)), handlelength=3.4
    )
    return figure


def _held(series: Series) -> str:
    """What a series keeps fixed."""
    case = series.cases[0]
    parts = {
        "width": "3-w-w-w-2" if series.axis == "width" else case.layers,
        "G": f"G = {case.grid_size}",
        "batch": f"batch {case.batch:,}",
    }
    fixed = [text for key, text in parts.items() if key != series.axis or key == "width"]
    return ", ".join(fixed)


def _plain_log_axis(axes: Axes, which: str, subs: tuple[int, ...]) -> None:
    """Ticks at round numbers, written out."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=subs, numticks=20))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())
