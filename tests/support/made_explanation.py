"""Explanations made by hand, whose every number is known."""

import numpy as np

from kan_diffusion.formulas.explain import Explanation, Stage
from kan_diffusion.formulas.match import EdgeReport
from kan_diffusion.formulas.views import EdgeCurve, EdgeView, LevelView, NetworkView, ScoreView

LEVELS = (LevelView(50, 0.995, 0.1), LevelView(500, 0.866, 0.5), LevelView(990, 0.199, 0.98))
_KINDS = (("curve", ""), ("linear", "−0.5 x"), ("tanh", "2 tanh(1.1 x + 0.2)"))


def make_view(widths=(2, 2, 2), time_inputs=0, points=9):
    """A network with all edges; the importance of edge k at level l is (k + 1 + l) / 100."""
    last = len(widths) - 1
    names = [[f"h{layer}.{unit}" for unit in range(width)] for layer, width in enumerate(widths)]
    names[0] = [f"x{i}" for i in range(widths[0] - time_inputs)]
    names[0] += [f"cos {i + 1}π t" for i in range(time_inputs)]
    names[last] = [f"out{i}" for i in range(widths[-1])]
    edges = []
    for layer in range(last):
        for output in range(widths[layer + 1]):
            for source in range(widths[layer]):
                number = len(edges)
                kind, text = _KINDS[number % 3]
                curves = []
                for level in LEVELS:
                    x = np.linspace(-2, 2, points) * (source + 1)
                    y = np.sin(x + number) * level.alpha
                    curves.append(EdgeCurve(x, y, np.exp(-(x**2))))
                byte = np.array([(number + 1 + k) / 100 for k in range(len(LEVELS))])
                edges.append(
                    EdgeView(
                        layer, source, output, kind, text, float(byte.mean()), 0.1 * number, byte,
                        tuple(curves),
                    )
                )  # fmt: skip
    return NetworkView(
        units=tuple(tuple(layer) for layer in names),
        num_point_inputs=widths[0] - time_inputs,
        levels=LEVELS,
        edges=tuple(edges),
    )


def make_score(dim=2, exact=True, names=("network",)):
    """The score of a standard normal distribution, -x, and learned scores -1.5 x, -2 x, ..."""
    axis = np.linspace(-2, 2, 5)
    points = np.stack(np.meshgrid(*[axis] * dim, indexing="ij"), -1).reshape(-1, dim)
    count = len(LEVELS)
    return ScoreView(
        levels=LEVELS,
        points=(points,) * count,
        scores={name: (-(1.5 + 0.5 * i) * points,) * count for i, name in enumerate(names)},
        exact=(-points,) * count if exact else None,
        density=(np.exp(-(points**2).sum(1) / 2),) * count if exact else None,
    )


def make_explanation(dim=2, **changes):
    """A whole explanation; ``changes`` are fields to set."""
    readable = make_view((dim, 2, dim))
    reports = tuple(
        EdgeReport(
            source=readable.units[edge.layer][edge.input],
            target=readable.units[edge.layer + 1][edge.output],
            kind=edge.kind,
            has_slope=False,
            r2=0.9 + number / 1000,
            best="sin" if edge.kind == "curve" else "",
            reason="the loss rises" if edge.kind == "curve" else "",
            complexity=number % 4,
        )
        for number, edge in enumerate(readable.edges)
    )
    metrics, real = {"energy": 0.0123, "c2st": 0.543}, {"energy": 0.0045, "c2st": 0.5}
    fields = {
        "title": "A network that is explained",
        "columns": tuple(f"column {i}" for i in range(dim)),
        "command": "kan-diffusion explain somewhere",
        "network": make_view((dim, 3, dim)),
        "score": make_score(dim),
        "simplified": make_view((dim, 2, dim)),
        "readable": readable,
        "edges": reports,
        "standings": (
            Stage("network", 12, 1300, 0.61, 0.6, 0.01, metrics, real),
            Stage("formula", None, 9, 0.65, 0.6, 0.05),
        ),
        "sentences": ("Two edges are enough.",),
        "formula": tuple(rf"- 1.5 x_{{{i}}} + \tanh{{\left(x_{{0}} \right)}}" for i in range(dim)),
    }
    return Explanation(**(fields | changes))
