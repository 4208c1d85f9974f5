"""The critical-difference diagram of Demšar (2006): mean ranks over the data sets of one budget."""

from __future__ import annotations

from matplotlib.figure import Figure

from kan_diffusion.report.contents import ReportContents
from kan_diffusion.report.style import INK, MUTED, model_styles, report_style
from kan_diffusion.study.results.comparison import Ranking

__all__ = ["ranks_figure"]

_LINE = 0.27
_LEFT, _WIDTH, _TOTAL = 2.3, 5.4, 10.0


@report_style()
def ranks_figure(contents: ReportContents, ranking: Ranking) -> Figure:
    """Models on a scale of mean ranks, the best on the left, bars joining those not told apart.

    Args:
        contents: The study.
        ranking: Mean ranks with the critical difference and its cliques.
    """
    styles = model_styles(contents.complete_rows())
    order = sorted(range(len(ranking.models)), key=lambda index: ranking.mean_ranks[index])
    models = [ranking.models[index] for index in order]
    ranks = dict(zip(ranking.models, ranking.mean_ranks, strict=True))
    cliques = sorted(
        (min(ranks[name] for name in clique), max(ranks[name] for name in clique))
        for clique in ranking.cliques
        if len(clique) > 1
    )
    levels = _levels(cliques)
    bars = 0.16 * (max(levels, default=-1) + 1)
    half = -(-len(models) // 2)
    top = 0.75  # of the critical difference and the scale
    height = top + 0.25 + bars + _LINE * half + 0.1
    figure = Figure(figsize=(_TOTAL, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, _TOTAL), ylim=(height, 0))
    axes.set_axis_off()
    count = len(models)

    def place(rank: float) -> float:
        return _LEFT + _WIDTH * (rank - 1) / max(count - 1, 1)

    axes.plot((place(1), place(count)), (top, top), color=INK, linewidth=1.0)
    for rank in range(1, count + 1):
        axes.plot((place(rank),) * 2, (top - 0.06, top), color=INK, linewidth=1.0)
        axes.text(*(place(rank), top - 0.16, str(rank)), ha="center", va="center", fontsize=9)
    axes.text(*(place(1) - 0.2, top, "best"), ha="right", va="center", fontsize=9, color=MUTED)
    axes.text(*(place(count) + 0.2, top, "worst"), ha="left", va="center", fontsize=9, color=MUTED)
    width = min(_WIDTH * ranking.critical_difference / max(count - 1, 1), _WIDTH)
    axes.plot((_LEFT, _LEFT + width), (0.2, 0.2), color=INK, linewidth=1.4)
    for end in (_LEFT, _LEFT + width):
        axes.plot((end, end), (0.14, 0.26), color=INK, linewidth=1.4)
    axes.text(
        *(_LEFT + width + 0.12, 0.2, f"critical difference {ranking.critical_difference:.2f}"),
        ha="left", va="center", fontsize=9,
    )  # fmt: skip
    for (low, high), level in zip(cliques, levels, strict=True):
        y = top + 0.18 + 0.16 * level
        axes.plot(
            (place(low) - 0.04, place(high) + 0.04), (y, y),
            color=INK, linewidth=3.2, solid_capstyle="round",
        )  # fmt: skip
    for index, name in enumerate(models):
        left = index < half
        line = index if left else count - 1 - index
        y = top + 0.25 + bars + _LINE * (line + 0.5)
        edge = _LEFT - 0.35 if left else _LEFT + _WIDTH + 0.35
        colour = styles[name].colour
        axes.plot(
            (place(ranks[name]), place(ranks[name]), edge), (top, y, y), color=colour, linewidth=1.1
        )
        axes.scatter(*(edge, y), s=36, color=colour, marker=styles[name].marker, zorder=3)
        text = f"{name}  {ranks[name]:.2f}" if left else f"{ranks[name]:.2f}  {name}"
        side = "right" if left else "left"
        axes.text(*(edge + (-0.13 if left else 0.13), y, text), ha=side, va="center", fontsize=9.5)
    return figure


def _levels(cliques: list[tuple[float, float]]) -> list[int]:
    """A height for every bar, so that no two that overlap share one."""
    ends: list[float] = []
    levels = []
    for low, high in cliques:
        level = next((index for index, end in enumerate(ends) if end < low), len(ends))
        ends[level : level + 1] = [high]
        levels.append(level)
    return levels
