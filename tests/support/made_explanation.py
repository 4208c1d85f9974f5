"""Explanations made by hand, whose every number is known."""

import numpy as np

from kan_diffusion.denoisers.edges import Edge
from kan_diffusion.formulas.explain import Explanation, Stage
from kan_diffusion.formulas.match import EdgeReport
from kan_diffusion.formulas.views import EXACT, EdgeView, NetworkView, ScoreView

SIGMAS = (0.1, 0.5, 0.98)
_KINDS = (("curve", ""), ("linear", "−0.5 x"), ("tanh", "2 tanh(1.1 x + 0.2)"))


def make_view(widths=(2, 2, 2), time_inputs=0):
    """A network with all edges; the importance of edge k at level l is (k + 1 + l) / 100."""
    last = len(widths) - 1
    names = [[f"h{layer}.{unit}" for unit in range(width)] for layer, width in enumerate(widths)]
    names[0] = [f"x{i}" for i in range(widths[0] - time_inputs)]
    names[0] += [f"cos {i + 1}π t" for i in range(time_inputs)]
    names[last] = [f"out{i}" for i in range(widths[-1])]
    x = np.linspace(-2, 2, 9)
    inputs = [
        [
            [np.stack([x * (unit + 1), np.exp(-((x * (unit + 1)) ** 2))])] * 3
            for unit in range(width)
        ]
        for width in widths[:last]
    ]
    edges = []
    places = [
        (layer, source, output)
        for layer in range(last)
        for output in range(widths[layer + 1])
        for source in range(widths[layer])
    ]
    for number, (layer, source, output) in enumerate(places):
        kind, text = _KINDS[number % 3]
        curves = [np.sin(x * (source + 1) + number) * alpha for alpha in (0.995, 0.866, 0.199)]
        shares = np.array([(number + 1 + k) / 100 for k in range(len(SIGMAS))])
        ends = names[layer][source], names[layer + 1][output]
        edge = Edge(layer, source, output, kind)
        edges.append(EdgeView(edge, *ends, text, float(shares.mean()), shares, curves))
    return NetworkView(names, widths[0] - time_inputs, SIGMAS, inputs, edges)


def make_score(dim=2, exact=True, names=("network",)):
    """The score of a standard normal distribution, -x, and learned scores -1.5 x, -2 x, ..."""
    axis = np.linspace(-2, 2, 5)
    points = np.stack(np.meshgrid(*[axis] * dim, indexing="ij"), -1).reshape(-1, dim)
    count = len(SIGMAS)
    fields = {name: (-(1.5 + 0.5 * i) * points,) * count for i, name in enumerate(names)}
    if exact:
        fields[EXACT] = (-points,) * count
    density = (np.exp(-(points**2).sum(1) / 2),) * count if exact else None
    return ScoreView((points,) * count, fields, density)


def make_explanation(dim=2, **changes):
    """A whole explanation; ``changes`` are fields to set."""
    readable = make_view((dim, 2, dim))
    reports = tuple(
        EdgeReport(
            source,
            target,
            edge.kind,
            has_slope=False,
            r2=0.9 + number / 1000,
            reason="the loss rises" if edge.kind == "curve" else "",
        )
        for number, (edge, source, target, *_) in enumerate(readable.edges)
    )
    metrics, real = {"energy": 0.0123, "c2st": 0.543}, {"energy": 0.0045, "c2st": 0.5}
    fields = {
        "title": "A network that is explained",
        "columns": tuple(f"column {i}" for i in range(dim)),
        "command": "kan-diffusion explain somewhere",
        "stages": {},
        "views": {
            "network": make_view((dim, 3, dim)),
            "simplified": make_view((dim, 2, dim)),
            "with formulas": readable,
        },
        "score": make_score(dim),
        "edges": reports,
        "standings": (
            Stage("network", 12, 1300, 0.61, 0.6, 0.01, metrics, real),
            Stage("formula", None, 9, 0.65, 0.6, 0.05),
        ),
        "sentences": ("Two edges are enough.",),
        "formula": tuple(rf"- 1.5 x_{{{i}}} + \tanh{{\left(x_{{0}} \right)}}" for i in range(dim)),
    }
    return Explanation(**(fields | changes))
