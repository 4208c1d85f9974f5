"""Every model against the best MLP of its setting: a table of ratios in colour.

With the mean m of a model and b of the best MLP over their common seeds, the ratio is m / b; below
1 the model is better. The interval of the paired difference, low to high, becomes that of the
ratio by (b + low) / b to (b + high) / b: b is taken as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from kan_diffusion.report.contents import ReportContents
from kan_diffusion.report.style import BETTER, INK, MUTED, WORSE, model_styles, report_style
from kan_diffusion.study.results.rows import Setting
from kan_diffusion.study.results.statistics import SIGNIFICANCE
from kan_diffusion.study.results.verdicts import Comparison

__all__ = ["ratio_figure", "ratio_groups"]

_MOST_COLUMNS = 10
_FEW_COLUMNS = 8
_SCALE = LinearSegmentedColormap.from_list("ratio", [BETTER, "#ffffff", WORSE])
# Held-out losses contain the floor, so their ratios stay near 1; each measure has its own scale.
_LEAST_SPAN = {"excess": math.log(1.5), "heldout_loss": math.log(1.02)}
_MOST_SPAN = math.log(6.0)


def ratio_groups(
    differences: Sequence[Comparison], most: int = _MOST_COLUMNS
) -> list[list[Comparison]]:
    """The differences of one figure each: whole budgets together as long as columns allow.

    Args:
        differences: All differences of a study.
        most: The most settings a figure shows, unless a single budget has more.
    """
    by_budget: dict[tuple[object, ...], dict[str, list[Comparison]]] = {}
    for difference in differences:
        setting = difference.setting
        columns = by_budget.setdefault(setting.budgeted, {})
        columns.setdefault(setting.label, []).append(difference)
    groups: list[list[list[Comparison]]] = []
    for columns in by_budget.values():
        if not groups or len(groups[-1]) + len(columns) > most:
            groups.append([])
        groups[-1] += columns.values()
    return [[difference for column in group for difference in column] for group in groups]


@report_style()
def ratio_figure(contents: ReportContents, differences: Sequence[Comparison]) -> Figure:
    """A table of ratios to the best MLP, models in rows and settings in columns.

    Args:
        contents: The study.
        differences: Those to show, from `Decision.comparisons`.
    """
    settings = list({d.setting.label: d.setting for d in differences}.values())
    cells = {(d.model, d.setting.label): d for d in differences}
    baselines = {d.setting.label: d.baseline for d in differences}
    rows = _rows(contents, {model for model, _ in cells} | set(baselines.values()))
    spans = _spans(differences)
    measures = {d.setting.label: d.measure for d in differences}
    few = len(settings) <= _FEW_COLUMNS
    heads = [setting.amount for setting in settings]
    names = [_column_name(setting, measures[setting.label], settings) for setting in settings]
    slanted = max(len(name) for name in names) > (13 if few else 7)
    width = 1.28 if few else min(1.0, 9.3 / len(settings))
    line = 0.46 if few else 0.34
    above = (1.25 if slanted else 0.34) + 0.3 * (len(set(heads)) > 1 or heads[0] != "")
    left = 0.35 + 0.085 * max(len(name) for name, _ in rows)
    size = (left + width * len(settings) + 0.5, above + line * (rows[-1][1] + 1.0) + 0.1)
    figure = Figure(figsize=size)
    axes = figure.add_axes(
        (
            left / size[0], 0.1 / size[1],
            width * len(settings) / size[0], 1 - (above + 0.1) / size[1],
        )
    )  # fmt: skip
    axes.set(xlim=(-0.5, len(settings) - 0.5), ylim=(rows[-1][1] + 0.5, -0.5))
    axes.grid(False)
    styles = model_styles(contents.results.rows)
    for name, y in rows:
        for x, setting in enumerate(settings):
            if name == baselines[setting.label]:
                _draw_cell(axes, x, y, "#ffffff", "best MLP", "", bold=False, muted=True)
            elif (name, setting.label) in cells:
                difference = cells[name, setting.label]
                _draw_ratio(axes, x, y, difference, spans[difference.measure], few)
        axes.scatter(
            *(-0.5 - 0.14 / width, y),
            s=42, color=styles[name].colour, marker=styles[name].marker, clip_on=False,
        )  # fmt: skip
    axes.set_yticks([y for _, y in rows], [name for name, _ in rows])
    axes.tick_params(axis="both", length=0, labelcolor=INK, labelsize=9.5)
    axes.tick_params(axis="y", pad=0.26 * 72)
    axes.xaxis.tick_top()
    axes.set_xticks(
        range(len(settings)), names,
        rotation=35 if slanted else 0, ha="left" if slanted else "center",
    )  # fmt: skip
    for spine in axes.spines.values():
        spine.set_visible(False)
    _draw_heads(axes, heads, (above - 0.22) / (line * (rows[-1][1] + 1.0)))
    return figure


def _rows(contents: ReportContents, wanted: set[str]) -> list[tuple[str, float]]:
    """The models with their heights, a gap between the kinds."""
    names = [name for name in contents.model_names() if name in wanted]
    kinds = contents.results.models()
    names = sorted(names, key=lambda name: ("kan", "mlp", "other").index(kinds[name]))
    rows: list[tuple[str, float]] = []
    for name in names:
        gap = bool(rows) and kinds[rows[-1][0]] != kinds[name]
        rows.append((name, rows[-1][1] + 1 + 0.3 * gap if rows else 0.0))
    return rows


def _column_name(setting: Setting, measure: str, settings: Sequence[Setting]) -> str:
    judged = {other.data for other in settings}
    name = setting.data if len(judged) > 1 or setting.amount == "" else ""
    return f"{name} (loss)".strip() if measure == "heldout_loss" else name


def _spans(differences: Sequence[Comparison]) -> dict[str, float]:
    """For each measure, the logarithm of the ratio at which the colour is full."""
    spans = dict(_LEAST_SPAN)
    for difference in differences:
        if difference.ratio > 0 and math.isfinite(difference.ratio):
            span = max(spans[difference.measure], abs(math.log(difference.ratio)))
            spans[difference.measure] = min(span, _MOST_SPAN)
    return spans


def _draw_ratio(
    axes: Axes, x: float, y: float, difference: Comparison, span: float, few: bool
) -> None:
    ratio = difference.ratio
    if not (ratio > 0 and math.isfinite(ratio)):
        _draw_cell(axes, x, y, "#ffffff", "–", "", bold=False, muted=True)
        return
    decimals = 3 if difference.measure == "heldout_loss" else 2 if ratio < 10 else 1
    ends = difference.ratio_interval if few else None
    note = "" if ends is None else f"{ends[0]:.{decimals}f} to {ends[1]:.{decimals}f}"
    place = 0.5 + 0.5 * float(np.clip(math.log(ratio) / span, -1, 1))
    colour = _SCALE(place)
    bold = difference.p_holm < SIGNIFICANCE
    _draw_cell(axes, x, y, colour, f"{ratio:.{decimals}f}", note.replace("-", "−"), bold=bold)


def _draw_cell(
    axes: Axes,
    x: float,
    y: float,
    colour: str | tuple[float, ...],
    text: str,
    note: str,
    bold: bool,
    muted: bool = False,
) -> None:
    axes.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, facecolor=colour, edgecolor="none"))
    red, green, blue = to_rgb(colour[:3] if not isinstance(colour, str) else colour)
    dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
    ink = "#ffffff" if dark else MUTED if muted else INK
    axes.text(
        *(x, y - (0.17 if note else 0), text), color=ink, ha="center", va="center",
        fontsize=9 if muted else 10, fontweight="bold" if bold else "normal",
    )  # fmt: skip
    if note:
        axes.text(*(x, y + 0.22, note), color=ink, ha="center", va="center", fontsize=9)


def _draw_heads(axes: Axes, heads: Sequence[str], height: float) -> None:
    """What each run of columns holds equal, above them."""
    start = 0
    for stop in range(1, len(heads) + 1):
        if stop < len(heads) and heads[stop] == heads[start]:
            continue
        if heads[start]:
            transform = axes.get_xaxis_transform()
            middle = (start + stop - 1) / 2
            axes.text(
                *(middle, 1 + height, heads[start]), transform=transform, ha="center", va="center",
                fontweight="bold", color=INK, fontsize=9.5,
            )  # fmt: skip
        start = stop
