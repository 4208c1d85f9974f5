"""The data that the page's script draws, as JSON.

Curves are the bulk of it. The inputs of edges that leave one unit are the same and written once;
the values of a curve are written in thousandths of the largest; and the more curves there are, the
fewer points each has. Only the most important few hundred edges have curves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from kan_diffusion.formulas.explain import Explanation
from kan_diffusion.formulas.match import EdgeReport
from kan_diffusion.formulas.views import EdgeCurve, LevelView, NetworkView, ScoreView
from kan_diffusion.report.explanation.diagram import curve_height, make_layout
from kan_diffusion.report.explanation.looks import (
    FAINTEST,
    KINDS,
    denoiser_style,
    kind_of,
    level_colours,
    level_label,
)
from kan_diffusion.report.explanation.scores import arrow_scale, axis_names, grid_side
from kan_diffusion.report.html import Json
from kan_diffusion.report.points import spread

__all__ = ["named_views", "page_data"]

Array = NDArray[np.float64]

_MOST_CURVES = 400
"""Largest number of edges of a network whose curves are in the page."""
_POINTS = ((600, 61), (1_800, 31), (10**9, 16))
"""Largest numbers of curves, and the points that each curve then has."""
_LEVELS_OF = 999


def named_views(explanation: Explanation) -> dict[str, NetworkView]:
    """Names the networks of an explanation as its standings do."""
    views = {
        "network": explanation.network,
        "simplified": explanation.simplified,
        "with formulas": explanation.readable,
    }
    return {name: view for name, view in views.items() if view is not None}


def page_data(explanation: Explanation) -> dict[str, Json]:
    """Gathers everything that the page's script draws.

    Args:
        explanation: The explanation.
    """
    views = named_views(explanation)
    curves = sum(min(len(v.edges), _MOST_CURVES) * len(v.levels) for v in views.values())
    points = next(points for most, points in _POINTS if curves <= most)
    searched = explanation.simplified or explanation.readable or explanation.network
    reports = {(report.source, report.target): report for report in explanation.edges}
    return {
        "faintest": FAINTEST,
        "kinds": {
            key: {"label": style.label, "colour": style.colour, "dashes": list(style.dashes)}
            for key, style in KINDS.items()
        },
        "views": [
            # Units are numbered anew when a network shrinks: reports refer to the smaller one.
            _view(name, view, points, reports if view.units == searched.units else {})
            for name, view in views.items()
        ],
        "score": _score(explanation.score, explanation.columns),
    }


def _number(value: float | None, digits: int = 4) -> float | None:
    """Rounds a number; None where JSON cannot hold it."""
    return float(f"{value:.{digits}g}") if value is not None and np.isfinite(value) else None


def _numbers(values: Sequence[float] | Array, digits: int = 4) -> list[float | None]:
    return [_number(float(value), digits) for value in values]


def _levels(levels: Sequence[LevelView]) -> list[Json]:
    return [
        {"label": level_label(level), "sigma": _number(level.sigma, 6), "colour": colour}
        for level, colour in zip(levels, level_colours(levels), strict=True)
    ]


def _view(
    name: str, view: NetworkView, points: int, reports: Mapping[tuple[str, str], EdgeReport]
) -> dict[str, Json]:
    layout = make_layout(view)
    inputs: list[Json] = []
    known: dict[tuple[bytes, bytes], int] = {}
    ranked = sorted(range(len(view.edges)), key=lambda index: -view.edges[index].importance)
    with_curves = set(ranked[:_MOST_CURVES])
    edges: list[Json] = []
    for index, edge in enumerate(view.edges):
        made: dict[str, Json] = {
            **{key: getattr(edge, key) for key in ("layer", "input", "output")},
            **{"kind": kind_of(edge.kind), "function": edge.kind, "text": edge.text},
            "importance": _number(edge.importance),
            "size": _number(edge.size),
            "byLevel": _numbers(edge.importance_by_level),
        }
        if layout.boxes:
            box = layout.boxes[index]
            made["box"] = _numbers((box.x, box.y, box.side))
        ends = view.units[edge.layer][edge.input], view.units[edge.layer + 1][edge.output]
        report = reports.get(ends)
        if report is not None:
            made["r2"] = _number(report.r2, 5)
            made |= {key: getattr(report, key) for key in ("best", "reason", "complexity")}
        if index in with_curves:
            made["curves"] = [_curve(curve, points, inputs, known) for curve in edge.curves]
        edges.append(made)
    return {
        "name": name,
        "width": _number(layout.width),
        "height": _number(layout.height),
        "units": [
            {"names": list(names), "places": [_numbers(place) for place in places], "named": named}
            for names, places, named in zip(view.units, layout.units, layout.named, strict=True)
        ],
        "pointInputs": view.num_point_inputs,
        "leastHeights": _numbers(curve_height(view)),
        "levels": _levels(view.levels),
        "inputs": inputs,
        "edges": edges,
    }


def _curve(
    curve: EdgeCurve, points: int, inputs: list[Json], known: dict[tuple[bytes, bytes], int]
) -> dict[str, Json]:
    """Gives the place of a curve's inputs in ``inputs``, the unit of y, and y in that unit."""
    few = spread(len(curve.x), points)
    x, y, density = curve.x[few], np.nan_to_num(curve.y[few]), curve.density[few]
    key = x.tobytes(), density.tobytes()
    if key not in known:
        known[key] = len(inputs)
        inputs.append({"x": _numbers(x), "density": _numbers(density, 2)})
    unit = float(np.abs(y).max(initial=0.0)) / _LEVELS_OF or 1.0
    return {
        "inputs": known[key],
        "unit": _number(unit, 6),
        "y": [int(part) for part in np.rint(y / unit)],
    }


def _score(score: ScoreView, columns: Sequence[str]) -> dict[str, Json] | None:
    """Gives the scores of one or two coordinates; None for more."""
    dim, fields = score.points[0].shape[1], score.fields
    if dim > 2 or not fields:
        return None
    first = score.exact or next(iter(fields.values()))
    return {
        "dim": dim,
        "columns": axis_names(columns, dim),
        "levels": _levels(score.levels),
        "points": [[_numbers(part) for part in points.T] for points in score.points],
        "side": [grid_side(points) if dim == 2 else None for points in score.points],
        "scales": [_number(arrow_scale(values)) if dim == 2 else None for values in first],
        "density": score.density and [_numbers(density, 3) for density in score.density],
        "fields": [
            {
                "name": name,
                "colour": "" if name == "exact" else denoiser_style(name).colour,
                "dashes": [4.0, 2.0] if name == "exact" else list(denoiser_style(name).dashes),
                "values": [[_numbers(part) for part in level.T] for level in values],
            }
            for name, values in fields.items()
        ],
    }
