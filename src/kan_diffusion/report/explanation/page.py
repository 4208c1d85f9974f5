"""An explanation as figures and as one page."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from kan_diffusion.evaluation.metrics import SAMPLE_METRICS
from kan_diffusion.files import inside, write_bytes
from kan_diffusion.formulas.explain import Explanation
from kan_diffusion.formulas.match import EdgeReport
from kan_diffusion.report.explanation.curves import curves_figure
from kan_diffusion.report.explanation.data import named_views, page_data
from kan_diffusion.report.explanation.diagram import network_figure
from kan_diffusion.report.explanation.looks import KINDS, kind_of, level_label
from kan_diffusion.report.explanation.scores import axis_names, score_figure
from kan_diffusion.report.html import Page
from kan_diffusion.report.images import embedded, figure_png, figure_svg
from kan_diffusion.report.style import NARROW
from kan_diffusion.report.tables import (
    MISSING,
    REAL_ROW,
    Cell,
    Head,
    Line,
    Table,
    number_cell,
)
from kan_diffusion.study.results.wording import capitalised

__all__ = ["write_explanation"]


def write_explanation(
    explanation: Explanation, folder: str | Path, *, figures: bool = True
) -> Path:
    """Writes ``explanation.html``, and its figures again under ``figures/`` as PNG and SVG.

    Args:
        explanation: The explanation.
        folder: The folder to write to. Existing files are replaced, each whole or not at all.
        figures: Whether to draw figures and animations, beside what the page's script draws.

    Returns:
        The path of the page.

    Raises:
        RunFolderError: A file cannot be written.
    """
    folder = Path(folder)
    names = axis_names(explanation.columns, explanation.score.points[0].shape[1])
    page = Page(
        explanation.title,
        "What the network has learned, from its edges to its score.",
        script="explanation.js",
        data=page_data(explanation),
        drawn=figures,
    )
    page.text(*explanation.sentences, kind="answer")
    page.section("Standings").table(_standing_table(explanation), narrow=True)
    page.section("The network at each noise level", "network-and-levels").template(
        "explorer.html.j2",
        tabs=list(named_views(explanation)),
        levels=[level_label(level) for level in explanation.network.levels],
        field=bool(explanation.score.scores) and len(names) <= 2,
        exact=explanation.score.exact is not None,
    )
    _add_formulas(page, explanation, names)
    page.section("What became of each edge", "edges").table(_edge_table(explanation), narrow=True)
    section = page.section("Figures")
    for name, draw, alternative, caption in _figures(explanation) if section.drawn else ():
        path = inside(folder, "figures", name)
        with section.keeping_going(alternative):
            figure = draw()
            rolls = draw.func is network_figure  # as wide as the network
            svg, narrow = figure_svg(figure), None if rolls else partial(draw, width=NARROW)
            picture = embedded(figure, narrow=narrow, svg=svg)
            for ending, content in (("png", figure_png(figure)), ("svg", svg)):
                write_bytes(path.with_name(f"{name}.{ending}"), content)
            section.figure(picture, caption, alternative)
    page.section("Make it again", "command").code(explanation.command)
    return page.write(folder / "explanation.html")


def _figures(explanation: Explanation) -> Iterator[tuple[str, partial[Figure], str, str]]:
    """Lists all figures, in the order in which they are read.

    Yields:
        File name, drawing function, alternative text and caption of each figure.
    """
    views, columns = named_views(explanation), explanation.columns
    for name, view in views.items():
        yield (
            name.replace(" ", "-"),
            partial(network_figure, view, None, name, columns),
            f"The network's diagram, {name}",
            f"{capitalised(name)}: {len(view.edges)} edges, from the inputs below to the "
            "outputs above. Fainter edges matter less.",
        )
    yield (
        "curves",
        partial(curves_figure, list(views.values())[-1]),
        f"The most important curves, {list(views)[-1]}",
        f"The most important edges ({list(views)[-1]}) over the inputs that they really have at "
        "each noise level. Each curve is drawn around its mean, so curves of one function at two "
        "levels may differ by a constant.",
    )
    if explanation.score.scores:
        beside = "" if explanation.score.exact is None else " beside the exact one"
        yield (
            "score",
            partial(score_figure, explanation.score, columns),
            f"The learned score{beside}",
            f"The learned score{beside}: it points to where points get denser.",
        )


def _add_formulas(page: Page, explanation: Explanation, names: list[str]) -> None:
    """Adds all formulas, those for all noise levels first."""
    of_all = [
        ("The score at all noise levels", "s", explanation.formula or ()),
        ("The predicted noise at all noise levels", r"\hat{\epsilon}", explanation.noise or ()),
    ]
    groups = [(title, symbol, latex) for title, symbol, latex in of_all if latex]
    if not groups:
        return
    section = page.section("The formulas", "formulas")
    symbols = [
        f"x{index}" if name == f"x{index}" else f"x{index} is {name}"
        for index, name in enumerate(names)
    ]
    section.text(
        f"In standardised coordinates: {', '.join(symbols)}; α and σ are the signal and noise "
        "levels.",
        kind="note",
    )
    for title, symbol, latex in groups:
        group = section.section(title)
        for index, coordinate in enumerate(latex):
            group.formula(f"{symbol}_{{{index}}}", coordinate, f"Coordinate {index}")


def _edge_table(explanation: Explanation) -> Table | None:
    """Lists what became of each edge; None if formulas were not searched for."""
    if not explanation.edges:
        return None
    view = list(named_views(explanation).values())[-1]
    edges = {
        (view.units[edge.layer][edge.input], view.units[edge.layer + 1][edge.output]): edge
        for edge in view.edges
    }
    lines = []
    for report in explanation.edges:
        edge = edges.get((report.source, report.target))
        kind = _kind(report)
        best = f"best match: {report.best}" if report.best else ""
        cells = [
            Cell(report.source),
            Cell(report.target),
            Cell(kind, edge.text if edge else "", key=kind),
            number_cell(edge.importance if edge else None),
            number_cell(report.r2, "" if report.r2 is None else f"{report.r2:.5f}"),
            number_cell(report.complexity, str(report.complexity)),
            Cell(report.reason, best) if report.reason else Cell(MISSING),
        ]
        lines.append(Line(cells))
    heads = [
        Head("from", words=True),
        Head("to", words=True),
        Head("what it is", words=True),
        Head("importance", "Share of the outputs that goes back to it, over all noise levels"),
        Head("R² held out", "Of the match that was taken, or of the best one where none was"),
        Head("complexity", "1 for a straight line; 0 for a curve"),
        Head("why it stays a curve", words=True),
    ]
    return Table(heads, lines, caption="Edges", kind="summary edges")


def _kind(report: EdgeReport) -> str:
    kind = kind_of(report.kind)
    if kind != "formula":
        return KINDS[kind].label
    return f"{report.kind} + line" if report.has_slope else report.kind


def _standing_table(explanation: Explanation) -> Table | None:
    """Lists the scores of each denoiser; None if they were not measured."""
    standings = explanation.standings
    if not standings:
        return None
    known = any(standing.excess is not None for standing in standings)
    measured = {key for standing in standings for key in (*standing.metrics, *standing.real)}
    metrics = {key: metric for key, metric in SAMPLE_METRICS.items() if key in measured}
    heads = [
        Head("denoiser", words=True),
        Head("edges"),
        Head("constants", "Parameters that have an effect"),
        Head("held-out loss"),
    ]
    if known:
        heads += [
            Head("floor", "The loss of the exact oracle, which no denoiser can beat on average"),
            Head("excess", "Distance from the oracle as predicted noise; 0 is perfect"),
        ]
    lines = []
    for standing in standings:
        cells = [
            Cell(standing.name),
            number_cell(standing.edges, "" if standing.edges is None else f"{standing.edges:,}"),
            number_cell(standing.constants, f"{standing.constants:,}"),
            number_cell(standing.loss),
        ]
        if known:
            cells += [number_cell(standing.floor), number_cell(standing.excess)]
        lines.append(Line([*cells, *(number_cell(standing.metrics.get(key)) for key in metrics)]))
    feet = []
    real = next((standing.real for standing in standings if standing.real), None)
    if real is not None:
        blank = [Cell(MISSING)] * (len(heads) - 1)
        scores = [number_cell(real.get(key)) for key in metrics]
        feet = [Line([Cell(REAL_ROW), *blank, *scores], kind="real")]
    heads += [Head(metric.label, metric.title) for metric in metrics.values()]
    return Table(heads, lines, feet, caption="Standings", kind="summary")
