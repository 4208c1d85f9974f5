r"""Formulas as LaTeX, and as programs that need NumPy and nothing else.

A program has exactly the numbers of its source. The source is a formula (for the score in x, alpha
and sigma) or a network with formulas (for the prediction in x and the timestep). Curves left in a
network are B-splines, written exactly, as a polynomial for each interval.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from kan_diffusion.denoisers.edges import CURVE, Edge, ReadableLayer
from kan_diffusion.denoisers.formula import FormulaDenoiser
from kan_diffusion.denoisers.readable import InputFeature, ReadableDenoiser
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.formulas.combination import Atom, Combination
from kan_diffusion.kan.bases import BSpline

if TYPE_CHECKING:
    import sympy

__all__ = [
    "formula_program",
    "level_latex",
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
"""LaTeX code of characters that have a special meaning in LaTeX's formulas."""


def tidy(expression: sympy.Expr, digits: int = _DIGITS) -> sympy.Expr:
    """Rounds the numbers of an expression to some digits and drops terms that become zero."""
    import sympy

    def rounded(number: sympy.Float) -> sympy.Expr:
        value = float(f"{float(number):.{digits}g}")
        if abs(value) < 10.0**-digits:
            return sympy.Integer(0)
        if abs(value - round(value)) < 0.5 * 10.0**-digits and abs(value) < 1000:
            return sympy.Integer(round(value))
        return sympy.Float(f"{value:.{digits}g}", digits)

    def may_be_large(product: sympy.Expr) -> bool:
        levels = {sympy.Symbol("alpha", real=True), sympy.Symbol("sigma", real=True)}
        return product.has(sympy.exp) or any(
            power.exp.is_number and power.exp > 1 and power.base.free_symbols - levels
            for power in product.atoms(sympy.Pow)
        )

    # A number near zero is dropped from a sum, but not where it bounds a logarithm's argument or is
    # the factor of something large, as in c exp(b) exp(a x).
    holders = expression.atoms(sympy.Max, sympy.Min)
    holders |= {product for product in expression.atoms(sympy.Mul) if may_be_large(product)}
    kept = {
        part: sympy.Float(f"{float(part):.{digits}g}", digits)
        for held in holders
        for part in held.args
        if part.is_Float and abs(part) < 10.0**-digits
    }
    replaced = {number: rounded(number) for number in expression.atoms(sympy.Float)} | kept
    made = expression.xreplace(replaced)
    return min(made, sympy.together(made), key=sympy.count_ops)


def _latex(expression: sympy.Expr, columns: Sequence[str]) -> str:
    import sympy

    symbols = (sympy.Symbol(f"x{i}", real=True) for i in range(len(columns)))
    names = dict(zip(symbols, map(_latex_name, columns), strict=True))
    return str(sympy.latex(expression, symbol_names=names))


def _latex_name(column: str) -> str:
    if match := re.fullmatch(r"([A-Za-z])(\d*)", column):
        return f"{match[1]}_{{{match[2]}}}" if match[2] else column
    plain = "".join(_LATEX.get(letter, letter) for letter in " ".join(column.split()))
    return rf"\mathrm{{{plain}}}"


def score_latex(formula: FormulaDenoiser, columns: Sequence[str]) -> tuple[str, ...]:
    """Writes the score's coordinates in LaTeX, with constants of four digits."""
    return tuple(_latex(tidy(part), columns) for part in formula.expressions())


def noise_latex(formula: FormulaDenoiser, columns: Sequence[str]) -> tuple[str, ...]:
    r"""Writes the predicted noise in LaTeX: minus :math:`\sigma` times the score."""
    import sympy

    sigma = sympy.Symbol("sigma", real=True)
    return tuple(_latex(-sigma * tidy(part), columns) for part in formula.expressions())


def level_latex(
    score: Sequence[Combination], level: int, columns: Sequence[str]
) -> tuple[str, ...]:
    """Writes a score in LaTeX at the level with a given index, like :func:`score_latex`."""
    import sympy

    def number(part: Combination, atom: Atom | None) -> sympy.Expr:
        return sympy.Float(float((part.constant if atom is None else part.terms[atom])[level]))

    def coordinate(index: int) -> sympy.Expr:
        return sympy.Symbol(f"x{index}", real=True)

    zero = sympy.Integer(0)
    expressions = (part.fold(zero, number, coordinate, Atom.write) for part in score)
    return tuple(_latex(tidy(expression), columns) for expression in expressions)


def _code(expression: sympy.Expr) -> str:
    """Writes an expression in NumPy, with all digits."""
    from sympy.printing.numpy import NumPyPrinter

    class Printer(NumPyPrinter):
        """Writes maxima and minima elementwise."""

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
    """Writes a formula as a module with ``score`` and ``predicted_noise``, under a title."""
    lines = [f"s{i} = {_code(expression)}" for i, expression in enumerate(formula.expressions())]
    unpacked = "".join(f"x{i}, " for i in range(formula.data_dim)).strip()
    body = textwrap.indent("\n".join(lines), "    ")
    parts = ", ".join(f"s{i}" for i in range(formula.data_dim))
    return f'''"""{_one_line(title)}: a formula for the score at every noise level.

Points are standardised and noised: alpha * clean + sigma * noise.
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
    """Expected noise in noised points x (n, {formula.data_dim})."""
    return -np.asarray(sigma, dtype=float)[..., None] * score(x, alpha, sigma)
'''


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("\\", "/").replace('"', "'")


_HELPERS = '''
def silu(x):
    return x / (1 + np.exp(-x))


def spline(x, origin, step, pieces, with_base):
    """A curve: a polynomial in each interval, straight outside, plus SiLU."""
    low, high = 0.0, float(len(pieces))
    u = (x - origin) / step
    inside = np.clip(u, low, high)
    k = np.clip(np.floor(inside).astype(int), 0, len(pieces) - 1)
    z = inside - k
    c = np.asarray(pieces)[k]
    value = sum(c[..., p] * z**p for p in range(c.shape[-1]))
    slope = sum(p * c[..., p] * z ** (p - 1) for p in range(1, c.shape[-1]))
    return value + (u - inside) * slope + with_base * silu(x)
'''


def _pieces(layer: ReadableLayer, edge: Edge) -> tuple[float, float, list[list[float]], float]:
    """Computes origin, step, the polynomial of each interval and the weight of the base."""
    basis = layer.basis
    if not isinstance(basis, BSpline) or basis.extrapolation != "linear":
        raise KanDiffusionError(
            "a program can be written for curves that are B-splines, straight outside their grid, "
            f"not for basis '{basis.name}' with extrapolation '{basis.extrapolation}'"
        )
    weights = layer.edge_weights()[edge.output, edge.input].detach().double()
    base, coefficients = float(weights[0]), weights[1:]
    origin, step = float(basis.grid_origin[edge.input]), float(basis.grid_step[edge.input])
    pieces = coefficients.unfold(0, basis.order + 1, 1) @ basis.pieces(torch.float64)
    return origin, step, pieces.tolist(), base


def _edge_code(layer: ReadableLayer, edge: Edge, source: str) -> str:
    """Writes the value of an edge whose input is the variable ``source``."""
    if edge.kind == CURVE:
        origin, step, pieces, base = _pieces(layer, edge)
        return f"spline({source}, {origin!r}, {step!r}, {pieces!r}, {base!r})"
    function, a, b, c, slope = layer.formula_of(edge)
    linear = f"{slope!r} * {source}"
    if function is None:
        return linear
    import sympy

    value = _code(function.expression(sympy.Symbol("z", real=True)))
    inside = f"({a!r} * {source} + {b!r})"
    made = f"{c!r} * ({re.sub(r'(?<![A-Za-z_.])z(?![A-Za-z_])', inside, value)})"
    return f"{made} + {linear}" if edge.has_slope else made


def _feature_code(feature: InputFeature) -> str:
    code = "tau" if feature.coordinate is None else f"x[..., {feature.coordinate}]"
    return f"np.{feature.wave}({np.pi * feature.frequency!r} * {code})" if feature.wave else code


@torch.no_grad()
def network_program(denoiser: ReadableDenoiser, title: str) -> str:
    """Writes a network with formulas as a module with ``prediction``, under a title.

    Raises:
        KanDiffusionError: A curve is left that is no B-spline.
    """
    config = denoiser.config
    lines = [f"tau = (np.asarray(t, dtype=float) + 1) / {config.num_train_timesteps}"]
    if config.modulated:
        time = ", ".join(_feature_code(feature) for feature in denoiser.time_inputs())
        lines.append(f"code = np.stack([{time}, np.ones_like(tau)], axis=-1)")
    scale = denoiser.input_scale
    if scale is not None:
        lines.append(f"factor = 1 + code @ np.array({scale.double().tolist()!r})")
    for index, feature in enumerate(denoiser.input_features()):
        factor = f" * factor[..., {index}]" if scale is not None else ""
        lines.append(f"u0_{index} = {_feature_code(feature)}{factor}")
    layers = denoiser.kan_layers
    modulated = zip(layers, denoiser.unit_modulations, strict=True)
    for number, (layer, modulation) in enumerate(modulated):
        if modulation is not None:
            scales, shifts = (part.tolist() for part in modulation.double().unbind(1))
            lines.append(f"factor = 1 + code @ np.array({scales!r})")
            lines.append(f"shift = code @ np.array({shifts!r})")
        for output in range(layer.out_features):
            edges = [edge for edge in layer.edges if edge.output == output]
            parts = [_edge_code(layer, edge, f"u{number}_{edge.input}") for edge in edges]
            value = " + ".join([repr(float(layer.bias[output])), *parts])
            if modulation is not None:
                value = f"factor[..., {output}] * ({value}) + shift[..., {output}]"
            lines.append(f"u{number + 1}_{output} = {value}")
    outputs = ", ".join(f"u{len(layers)}_{i}" for i in range(denoiser.data_dim))
    lines.append(f"return np.stack(np.broadcast_arrays({outputs}), axis=-1)")
    helpers = _HELPERS if any(edge.kind == CURVE for edge in denoiser.edges) else ""
    body = textwrap.indent("\n".join(lines), "    ")
    return f'''"""{_one_line(title)}: a network with formulas, and its prediction.

Points are standardised and noised; t is the timestep, from 0 to {config.num_train_timesteps - 1}.
"""

import numpy as np
{helpers}

def prediction(x, t):
    """The prediction for noised points x (n, {denoiser.data_dim}) of timesteps t (n,) or one."""
    x = np.asarray(x, dtype=float)
{body}
'''
