"""The page of an explanation: the network that one explores, the formula, edges and scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from kan_diffusion.denoisers.formula import FormulaDenoiser
from kan_diffusion.evaluation.metrics import SAMPLE_METRICS
from kan_diffusion.formulas.explain import Explanation
from kan_diffusion.formulas.match import EdgeReport
from kan_diffusion.formulas.views import EXACT, NetworkView, ScoreView
from kan_diffusion.formulas.writing import tidy
from kan_diffusion.report.clouds import panel_grid, spread
from kan_diffusion.report.figures import Json, inline
from kan_diffusion.report.network import (
    FAINTEST,
    KINDS,
    curve_heights,
    kind_of,
    network_svg,
)
from kan_diffusion.report.page import Page
from kan_diffusion.report.style import INK, MUTED, PALETTES, REAL, WIDTH, report_style, shortened
from kan_diffusion.report.tables import MISSING, REAL_ROW, format_number, number_frame

if TYPE_CHECKING:
    import sympy

Array = NDArray[np.float64]

_MOST_CURVES = 400
"""Largest number of edges of a network whose curves are in the page."""
_LOOKS = {
    "network": (PALETTES["kan"][0], "-"),
    "simplified": (PALETTES["kan"][1], (0, (5.0, 1.5))),
    "with formulas": (PALETTES["other"][0], (0, (5.0, 1.5, 1.5, 1.5))),
    "formula": (PALETTES["other"][3], (0, (1.5, 1.0))),
    EXACT: (INK, (0, (4.0, 2.0))),
}
"""Colour and line of each denoiser's score."""
_ARROWS, _FULL_LENGTH = 9, 0.9
"""Arrows a side, and the quantile of their lengths that an arrow of full length stands for."""


def write_explanation(explanation: Explanation, folder: str | Path) -> Path:
    """Writes ``explanation.html``.

    Args:
        explanation: The explanation.
        folder: The folder to write to. An existing page is replaced whole or not at all.

    Returns:
        The path of the page.

    Raises:
        RunFolderError: The page cannot be written.
    """
    score, views = explanation.score, explanation.views
    dim = score.points[0].shape[1]
    columns = [*explanation.columns, *(f"x{i}" for i in range(len(explanation.columns), dim))]
    page = Page(
        explanation.title,
        "What the network has learned, from its edges to its score.",
        script="explorer.js",
        data=page_data(views, explanation.edges),
    )
    page.say(*explanation.sentences, kind="answer")
    page.section("Standings").table(*_standings(explanation))
    sigmas = explanation.views["network"].sigmas
    levels, middle, last = list(map(_label, sigmas)), len(sigmas) // 2, len(views) - 1
    page.section("The network at each noise level").template(
        "explorer.html.j2",
        tabs=list(views),
        levels=levels,
        middle=middle,
        networks=[
            network_svg(view, middle, columns, hidden=number < last)
            for number, view in enumerate(views.values())
        ],
        scores=[
            inline(score_figure(score, number, columns), f"score-{number}", f"Scores at {level}")
            for number, level in enumerate(levels if dim <= 2 and score.fields else [])
        ],
        exact=EXACT in score.fields,
    )
    formula = explanation.stages.get("formula")
    if isinstance(formula, FormulaDenoiser):
        symbols = [f"x{i}" + f" is {name}" * (name != f"x{i}") for i, name in enumerate(columns)]
        section = page.section("The formula").say(
            f"The score s at all noise levels, in standardised coordinates: {', '.join(symbols)}; "
            "α and σ are the signal and noise levels. The predicted noise is −σ s.",
            kind="note",
        )
        parts = zip(formula.expressions(), explanation.formula or (), strict=True)
        for i, (expression, latex) in enumerate(parts):
            section.formula(f"s_{{{i}}}", _mathml(i, expression), latex, f"Coordinate {i}")
    page.section("What became of each edge").table(
        _edges(explanation.edges, list(views.values())[-1]), "Edges"
    )
    page.section("Make it again").code(explanation.command)
    return page.write(Path(folder) / "explanation.html")


def _label(sigma: float) -> str:
    return f"σ = {sigma:.2f}"


def _mathml(index: int, expression: sympy.Expr) -> str:
    """Writes an equation in MathML; its symbols are x0, x1, ..., alpha and sigma alone."""
    from sympy.printing.mathml import mathml

    text: str = mathml(tidy(expression), printer="presentation")
    return f"<mrow><msub><mi>s</mi><mn>{index}</mn></msub><mo>=</mo>{text}</mrow>"


def _standings(explanation: Explanation) -> tuple[pd.DataFrame, str, int]:
    """Lists the scores of each denoiser."""

    def labelled(scores: Mapping[str, float]) -> dict[str, float]:
        return {m.label: scores[key] for key, m in SAMPLE_METRICS.items() if key in scores}

    records: list[dict[str, object]] = [
        {
            "denoiser": stage.name,
            "edges": None if stage.edges is None else f"{stage.edges:,}",
            "constants": f"{stage.constants:,}",
            "held-out loss": stage.loss,
            "floor": stage.floor,
            "excess": stage.excess,
            **labelled(stage.metrics),
        }
        for stage in explanation.standings
    ]
    real = [labelled(stage.real) for stage in explanation.standings if stage.real][:1]
    records += [{"denoiser": REAL_ROW, **scores} for scores in real]
    frame = pd.DataFrame(records).dropna(axis=1, how="all")
    return number_frame(frame), "Standings", len(real)


def _edges(reports: Sequence[EdgeReport], view: NetworkView) -> pd.DataFrame:
    """Lists what became of each edge."""
    edges, records = {(each.source, each.target): each for each in view.edges}, []
    for report in reports:
        edge = edges.get((report.source, report.target))
        kind = kind_of(report.kind)
        named = report.kind + " + line" * report.has_slope
        records.append({
            "from": report.source,
            "to": report.target,
            "what it is": (named if kind == "formula" else KINDS[kind][0])
            + (f"\n{edge.text}" if edge and edge.text else ""),
            "importance": format_number(edge.importance if edge else None),
            "R² held out": MISSING if report.r2 is None else f"{report.r2:.5f}",
            "why it stays a curve": report.reason or MISSING,
        })  # fmt: skip
    return pd.DataFrame(records)


@report_style()
def score_figure(score: ScoreView, level: int, columns: Sequence[str]) -> Figure:
    """Draws learned scores and the exact one at a noise level.

    Args:
        score: Scores of one coordinate, drawn as curves, or of two, drawn as arrows over the
            density of the noised points.
        level: Number of the noise level.
        columns: Names of the coordinates.
    """
    if score.points[0].shape[1] == 2:
        return _arrows(score, level)
    figure = Figure(figsize=(WIDTH, 3.0), layout="constrained")
    axes = figure.subplots()
    x = score.points[level][:, 0]
    if score.density is not None:
        axes.fill_between(
            x, 0.0, 0.35 * score.density[level], transform=axes.get_xaxis_transform(), color=REAL,
            alpha=0.25, linewidth=0, label="density",
        )  # fmt: skip
    for name, values in score.fields.items():
        colour, line = _LOOKS[name]
        axes.plot(x, values[level][:, 0], color=colour, linestyle=line, label=name)
    axes.set(xlabel=f"{shortened(columns[0])} (standardised)", ylabel="score")
    axes.margins(x=0.0)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def _arrows(score: ScoreView, level: int) -> Figure:
    """Draws a panel of arrows for each denoiser; arrows of a level have one scale."""
    fields, points = score.fields, score.points[level]
    exact = fields.get(EXACT) or next(iter(fields.values()))
    lengths = np.linalg.norm(np.nan_to_num(exact[level]), axis=1)
    scale = float(np.quantile(lengths, _FULL_LENGTH)) if len(lengths) else 0.0
    side = round(len(points) ** 0.5)
    few = np.array(spread(side, _ARROWS))
    kept = (few[:, None] * side + few[None, :]).ravel()
    low, high = points[0], points[-1]
    spacing = float((high - low).min()) / max(len(few) - 1, 1)
    half = (high - low) / (2 * max(side - 1, 1))
    extent = (low[0] - half[0], high[0] + half[0], low[1] - half[1], high[1] + half[1])
    figure, panels = panel_grid(len(fields), 2, WIDTH)
    for axes, (name, values) in zip(panels, fields.items(), strict=True):
        axes.set_title(name)
        axes.set(xticks=[], yticks=[], xlim=extent[:2], ylim=extent[2:])
        axes.spines[:].set(visible=True, color=MUTED, linewidth=0.5)
        if score.density is not None:
            shades = np.zeros((side, side, 4))
            shades[..., :3] = 0.5
            shades[..., 3] = 0.4 * score.density[level].reshape(side, side).T
            axes.imshow(shades, origin="lower", extent=extent, aspect="auto", interpolation="none")
        arrows = np.nan_to_num(values[level][kept]) / (scale or 1.0)
        arrows = arrows / np.maximum(np.linalg.norm(arrows, axis=1, keepdims=True), 1.0) * spacing
        tips, tails = points[kept] + 0.46 * arrows, points[kept] - 0.46 * arrows
        turned = np.stack([-arrows[:, 1], arrows[:, 0]], axis=1)
        wings = [tips - 0.3 * arrows + sign * 0.2 * turned for sign in (1, -1)]
        gap = np.full_like(tips, np.nan)
        path = np.stack([tails, tips, wings[0], gap, tips, wings[1], gap], axis=1).reshape(-1, 2)
        axes.plot(*path.T, color=_LOOKS[name][0], linewidth=1.0)  # a path is smaller than a quiver
    return figure


def page_data(views: Mapping[str, NetworkView], reports: Sequence[EdgeReport]) -> Json:
    """Gathers what the page's script needs to move the networks.

    Args:
        views: The networks by name.
        reports: What the search said of each edge of the last network. Units are numbered anew when
            a network shrinks, so that reports refer to networks with its units alone.
    """
    last, networks = list(views.values())[-1], []
    for view in views.values():
        said = {(r.source, r.target): vars(r) for r in reports if view.units == last.units}
        edges: list[dict[str, object]] = [
            each.edge._asdict() | each._asdict() | said.get((each.source, each.target), {})
            for each in view.edges
        ]
        order = np.argsort([-np.nan_to_num(each.importance) for each in view.edges], kind="stable")
        for index in order[_MOST_CURVES:]:
            edges[index]["curves"] = None
        networks.append({
            "levels": list(map(_label, view.sigmas)), "leastHeights": curve_heights(view),
            "inputs": view.inputs, "edges": edges,
        })  # fmt: skip
    kinds = {key: label for key, (label, *_) in KINDS.items()}
    return _plain({"faintest": FAINTEST, "kinds": kinds, "views": networks})


def _plain(value: object) -> Json:
    """Makes JSON of nested values, with numbers of five digits; None where JSON has none."""
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(each) for each in value]
    assert value is None or isinstance(value, int | str)
    return value
