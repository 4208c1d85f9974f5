r"""Formulas as LaTeX, and as programs that need NumPy and nothing else.

A program has the very numbers of what it was written from. It is written from a formula (its score
in x, alpha and sigma) or from a network with formulas (its prediction in x and the timestep).
Curves that are left in a network are B-splines, written as polynomials an interval, exactly.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from kan_diffusion.denoisers.formula import FormulaDenoiser
from kan_diffusion.denoisers.readable import CURVE, Edge, ReadableDenoiser, ReadableLayer
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.kan.bases import BSpline
from kan_diffusion.symbolic.combination import Combination

if TYPE_CHECKING:
    import sympy

__all__ = [
    "formula_program",
    "level_expressions",
    "network_program",
    "noise_latex",
    "score_latex",
    "tidy",
]

_DIGITS = 4

_LATEX = {letter: f"\\{letter}" for letter in "{}$&#%_ "} | {
    "\\": r"\backslash{}",
    "~": r"\sim{}",
    "^": r"{}^{\wedge}",
}
"""Letters that mean something else in LaTeX's formulas."""


def tidy(expression: sympy.Expr, digits: int = _DIGITS) -> sympy.Expr:
    """An expression with its numbers rounded, and terms that vanish by that left out.

    Args:
        expression: The expression.
        digits: Significant digits.
    """
    import sympy

    def rounded(number: sympy.Float) -> sympy.Expr:
        value = float(f"{float(number):.{digits}g}")
        if abs(value) < 10.0**-digits:
            return sympy.Integer(0)
        if abs(value - round(value)) < 0.5 * 10.0**-digits and abs(value) < 1000:
            return sympy.Integer(round(value))
        return sympy.Float(f"{value:.{digits}g}", digits)

    # A number next to zero vanishes from a sum, but not as the bound a logarithm is held at.
    bounds = {
        part: sympy.Float(f"{float(part):.{digits}g}", digits)
        for held in expression.atoms(sympy.Max, sympy.Min)
        for part in held.args
        if part.is_Float
    }
    replaced = {number: rounded(number) for number in expression.atoms(sympy.Float)} | bounds
    made: sympy.Expr = expression.xreplace(replaced)
    joined: sympy.Expr = sympy.together(made)
    return min(made, joined, key=sympy.count_ops)


def _latex(expression: sympy.Expr, columns: Sequence[str]) -> str:
    import sympy

    names = {
        sympy.Symbol(f"x{i}", real=True): _latex_name(column) for i, column in enumerate(columns)
    }
    text: str = sympy.latex(expression, symbol_names=names)
    return text


def _latex_name(column: str) -> str:
    if re.fullmatch(r"[A-Za-z]", column):
        return column
    match = re.fullmatch(r"([A-Za-z])(\d+)", column)
    if match:
        return f"{match[1]}_{{{match[2]}}}"
    plain = "".join(_LATEX.get(letter, letter) for letter in " ".join(column.split()))
    return rf"\mathrm{{{plain}}}"


def score_latex(formula: FormulaDenoiser, columns: Sequence[str]) -> tuple[str, ...]:
    """The score's coordinates in LaTeX, constants to four digits."""
    return tuple(_latex(tidy(part), columns) for part in formula.expressions())


def noise_latex(formula: FormulaDenoiser, columns: Sequence[str]) -> tuple[str, ...]:
    r"""The predicted noise's coordinates in LaTeX: minus :math:`\sigma` times the score."""
    import sympy

    sigma = sympy.Symbol("sigma", real=True)
    return tuple(_latex(-sigma * tidy(part), columns) for part in formula.expressions())


def _expression(part: Combination, level: int) -> sympy.Expr:
    import sympy

    total: sympy.Expr = sympy.Float(float(part.constant[level]))
    for atom, coefficient in part.terms.items():
        if atom.coordinate is not None:
            value: sympy.Expr = sympy.Symbol(f"x{atom.coordinate}", real=True)
        else:
            assert atom.inner is not None
            inside = _expression(atom.inner, level)
            if atom.function is None:
                value = sympy.Function(f"\\varphi_{{{atom.name}}}")(inside)
            else:
                value = atom.function.expression(inside)
        total = total + sympy.Float(float(coefficient[level])) * value
    return total


def level_expressions(score: Sequence[Combination], level: int) -> list[sympy.Expr]:
    """A score at one of its levels in SymPy, with all digits.

    Args:
        score: The score's coordinates over levels.
        level: Number of the level.
    """
    return [_expression(part, level) for part in score]


def level_latex(
    score: Sequence[Combination], level: int, columns: Sequence[str]
) -> tuple[str, ...]:
    """The same in LaTeX, constants to four digits."""
    return tuple(_latex(tidy(part), columns) for part in level_expressions(score, level))


def _code(expression: sympy.Expr) -> str:
    """An expression in NumPy, with all digits."""
    from sympy.printing.numpy import NumPyPrinter

    class Printer(NumPyPrinter):
        """NumPy under its usual name, maxima elementwise."""

        def _print_Max(self, expr: sympy.Expr) -> str:  # noqa: N802
            return self._elementwise("maximum", expr)

        def _print_Min(self, expr: sympy.Expr) -> str:  # noqa: N802
            return self._elementwise("minimum", expr)

        def _elementwise(self, name: str, expr: sympy.Expr) -> str:
            first, *rest = (self._print(part) for part in expr.args)
            for part in rest:
                first = f"numpy.{name}({first}, {part})"
            return first

    text: str = Printer({"precision": 17}).doprint(expression)
    return re.sub(r"\bnumpy\.", "np.", text)


def formula_program(formula: FormulaDenoiser, title: str) -> str:
    """A formula as a module with ``score`` and ``predicted_noise``.

    Args:
        formula: The formula.
        title: What it is of, one line.
    """
    lines = []
    for number, expression in enumerate(formula.expressions()):
        lines.append(f"s{number} = {_code(expression)}")
    unpacked = "".join(f"x{i}, " for i in range(formula.data_dim)).strip()
    body = textwrap.indent("\n".join(lines), "    ")
    parts = ", ".join(f"s{i}" for i in range(formula.data_dim))
    return f'''"""{_one_line(title)}: a formula for the score at every noise level.

Points are standardised and noised: alpha * clean + sigma * noise with alpha^2 + sigma^2 = 1.
"""

import numpy as np


def score(x, alpha, sigma):
    """Gradient of the log-density of noised points x (n, {formula.data_dim})."""
    x = np.asarray(x, dtype=float)
    alpha, sigma = np.asarray(alpha, dtype=float), np.asarray(sigma, dtype=float)
    {unpacked} = np.moveaxis(x, -1, 0)
{body}
    return np.stack(np.broadcast_arrays({parts}, x0)[:-1], axis=-1)


def predicted_noise(x, alpha, sigma):
    """What the noise in the points x is expected to be."""
    return -np.asarray(sigma, dtype=float)[..., None] * score(x, alpha, sigma)
'''


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("\\", "/").replace('"', "'")


_HELPERS = '''
def silu(x):
    return x / (1 + np.exp(-x))


def spline(x, origin, step, pieces, with_base):
    """A curve: polynomials an interval, straight lines (or constants) outside, SiLU beside it."""
    low, high = 0.0, float(len(pieces))
    u = (x - origin) / step
    inside = np.clip(u, low, high)
    k = np.clip(np.floor(inside).astype(int), 0, len(pieces) - 1)
    z = inside - k
    c = np.asarray(pieces)[k]
    value = sum(c[..., p] * z**p for p in range(c.shape[-1]))
    slope = sum(p * c[..., p] * z ** (p - 1) for p in range(1, c.shape[-1]))
    return value + LINEAR * (u - inside) * slope + with_base * silu(x)
'''


def _pieces(layer: ReadableLayer, edge: Edge) -> tuple[float, float, list[list[float]], float]:
    """Origin, step, polynomials an interval and weight of the base of a curve."""
    curves = layer.curves
    assert curves is not None
    basis = curves.basis
    if not isinstance(basis, BSpline) or basis.extrapolation not in ("linear", "clamp"):
        raise KanDiffusionError(
            "a program can be written for curves that are B-splines, straight or constant outside "
            f"their grid, not for basis '{basis.name}'"
        )
    packed = curves.weight.view(curves.out_features, curves.in_features, -1)
    weights = packed[edge.output, edge.input].detach().double()
    base = float(weights[0]) if curves.base_activation is not None else 0.0
    coefficients = weights[1:] if curves.base_activation is not None else weights
    one = basis.one_input(edge.input).double()
    origin, step = float(one.grid_origin[0]), float(one.grid_step[0])
    z = torch.linspace(0.05, 0.95, basis.order + 1, dtype=torch.float64)
    powers = z[:, None] ** torch.arange(basis.order + 1)
    pieces = []
    for k in range(basis.num_intervals):
        values = one(origin + step * (k + z)[:, None])[:, 0] @ coefficients
        pieces.append(torch.linalg.solve(powers, values).tolist())
    return origin, step, pieces, base


def _edge_code(layer: ReadableLayer, edge: Edge, source: str) -> str:
    slope = float(layer.slope[edge.output, edge.input] * layer.slope_mask[edge.output, edge.input])
    linear = f"{slope!r} * {source}"
    if edge.kind == CURVE:
        origin, step, pieces, base = _pieces(layer, edge)
        return f"spline({source}, {origin!r}, {step!r}, {pieces!r}, {base!r})"
    for group in layer.groups():
        for index, other in enumerate(group.edges):
            if other.place == edge.place:
                import sympy

                a, b, c = (float(p[index]) for p in (group.inner, group.shift, group.outer))
                z = sympy.Symbol("z", real=True)
                value = _code(group.function.expression(z))
                inside = f"({a!r} * {source} + {b!r})"
                made = f"{c!r} * ({re.sub(r'(?<![A-Za-z_.])z(?![A-Za-z_])', inside, value)})"
                return f"{made} + {linear}" if edge.has_slope else made
    return linear


@torch.no_grad()
def network_program(denoiser: ReadableDenoiser, title: str) -> str:
    """A network with formulas as a module with ``prediction``.

    Args:
        denoiser: The network.
        title: What it is of, one line.

    Raises:
        KanDiffusionError: A curve is left that is no B-spline.
    """
    config = denoiser.config
    lines = [f"tau = (np.asarray(t, dtype=float) + 1) / {config.num_train_timesteps}"]
    frequencies = config.num_time_frequencies
    if config.time_encoding == "raw":
        lines.append("time = tau[..., None]")
    else:
        lines.append(f"angles = tau[..., None] * np.pi * 2.0 ** (np.arange({frequencies}) - 1)")
        lines.append("time = np.concatenate([np.cos(angles), np.sin(angles)], axis=-1)")
    features = [f"x[..., {i}]" for i in range(denoiser.data_dim)]
    count = config.num_input_frequencies
    for wave in ("cos", "sin") if count else ():
        features += [
            f"np.{wave}({np.pi * 2.0 ** (m - 2)!r} * x[..., {i}])"
            for i in range(denoiser.data_dim)
            for m in range(count)
        ]
    modulation = denoiser.modulation
    if modulation is None:
        features += [f"time[..., {k}]" for k in range(denoiser.time_features.num_features)]
    kept = [features[index] for index in denoiser.input_index.tolist()]
    total = sum(config.hidden)
    if modulation is not None:
        lines.append(f"weight = np.array({modulation.weight.double().tolist()!r})")
        lines.append(f"shift = np.array({modulation.bias.double().tolist()!r})")
        lines.append("m = time @ weight.T + shift")
    for index, feature in enumerate(kept):
        factor = f" * (1 + m[..., {2 * total + index}])" if config.scaled_inputs else ""
        lines.append(f"u0_{index} = {feature}{factor}")
    unit = 0
    for number, layer in enumerate(denoiser.layers):
        for output in range(layer.out_features):
            parts = [repr(float(layer.bias[output]))]
            parts += [
                _edge_code(layer, edge, f"u{number}_{edge.input}")
                for edge in layer.edges
                if edge.output == output
            ]
            value = " + ".join(parts)
            if modulation is not None and number < len(config.hidden):
                value = f"(1 + m[..., {unit}]) * ({value}) + m[..., {total + unit}]"
                unit += 1
            lines.append(f"u{number + 1}_{output} = {value}")
    last = len(denoiser.layers)
    outputs = ", ".join(f"u{last}_{i}" for i in range(denoiser.data_dim))
    lines.append(f"return np.stack(np.broadcast_arrays({outputs}), axis=-1)")
    curves = any(edge.kind == CURVE for edge in denoiser.edges)
    helpers = ""
    if curves:
        straight = float(config.extrapolation == "linear")
        helpers = f"\nLINEAR = {straight!r}\n\n" + _HELPERS
    body = textwrap.indent("\n".join(lines), "    ")
    return f'''"""{_one_line(title)}: a network with formulas, and what it predicts.

Points are standardised and noised; t is the timestep, from 0 to {config.num_train_timesteps - 1}.
"""

import numpy as np
{helpers}

def prediction(x, t):
    """The prediction for noised points x (n, {denoiser.data_dim}) of timesteps t (n,) or one."""
    x = np.asarray(x, dtype=float)
{body}
'''
