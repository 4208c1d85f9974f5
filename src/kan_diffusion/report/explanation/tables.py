"""The tables of an explanation: what became of each edge, and how each denoiser does."""

from __future__ import annotations

from kan_diffusion.evaluation.metrics import SAMPLE_METRICS
from kan_diffusion.report.explanation.data import named_views
from kan_diffusion.report.explanation.looks import KINDS, kind_of
from kan_diffusion.report.tables import MISSING, REAL_ROW, Cell, Head, Line, Table, number_cell
from kan_diffusion.symbolic.explain import Explanation
from kan_diffusion.symbolic.match import EdgeReport

__all__ = ["edge_table", "standing_table"]


def edge_table(explanation: Explanation) -> Table | None:
    """What became of each edge; None where formulas were not looked for.

    Args:
        explanation: The explanation.
    """
    if not explanation.edges:
        return None
    views = named_views(explanation)
    view = views.get("with formulas") or views.get("simplified") or explanation.network
    texts = {
        (view.units[edge.layer][edge.input], view.units[edge.layer + 1][edge.output]): edge
        for edge in view.edges
    }
    lines = []
    for report in explanation.edges:
        edge = texts.get((report.source, report.target))
        lines.append(
            Line(
                [
                    Cell(report.source),
                    Cell(report.target),
                    Cell(_kind(report), edge.text if edge else "", key=_kind(report)),
                    number_cell(edge.importance if edge else None),
                    number_cell(report.r2, "" if report.r2 is None else f"{report.r2:.5f}"),
                    number_cell(report.complexity, str(report.complexity)),
                    Cell(report.reason, f"best match: {report.best}" if report.best else "")
                    if report.reason
                    else Cell(MISSING),
                ]
            )
        )
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


def standing_table(explanation: Explanation) -> Table | None:
    """How each denoiser does; None where that was not measured.

    Args:
        explanation: The explanation.
    """
    standings = explanation.standings
    if not standings:
        return None
    known = any(standing.excess is not None for standing in standings)
    measured = {key: "" for standing in standings for key in (*standing.metrics, *standing.real)}
    keys = [key for key in SAMPLE_METRICS if key in measured]
    keys += [key for key in measured if key not in SAMPLE_METRICS]
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
    for key in keys:
        metric = SAMPLE_METRICS.get(key)
        heads.append(Head(metric.label, metric.title) if metric else Head(key))
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
        cells += [number_cell(standing.metrics.get(key)) for key in keys]
        lines.append(Line(cells))
    feet = []
    real = next((standing.real for standing in standings if standing.real), None)
    if real is not None:
        blank = [Cell(MISSING) for _ in heads[1 : len(heads) - len(keys)]]
        feet.append(
            Line([Cell(REAL_ROW), *blank, *(number_cell(real.get(k)) for k in keys)], kind="real")
        )
    return Table(heads, lines, feet, caption="Standings", kind="summary")
