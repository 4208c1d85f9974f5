"""Formulas as LaTeX, and as programs that need NumPy and nothing else and have all digits."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING

from kan_diffusion.data.coordinates import CoordinateMap
from kan_diffusion.denoisers.formula import FormulaDenoiser

if TYPE_CHECKING:
    import sympy

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

    levels = {sympy.Symbol("alpha", real=True), sympy.Symbol("sigma", real=True)}

    def rounded(number: sympy.Float) -> sympy.Expr:
        value = float(f"{float(number):.{digits}g}")
        if abs(value) < 10.0**-digits:
            return sympy.Integer(0)
        if abs(value - round(value)) < 0.5 * 10.0**-digits and abs(value) < 1000:
            return sympy.Integer(round(value))
        return sympy.Float(f"{value:.{digits}g}", digits)

    def may_be_large(product: sympy.Expr) -> bool:
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
    numbers = {number: rounded(number) for number in expression.atoms(sympy.Float)} | kept
    short = expression.xreplace(numbers)
    return min(short, sympy.together(short), key=sympy.count_ops)


def score_latex(formula: FormulaDenoiser, columns: Sequence[str]) -> tuple[str, ...]:
    """Writes the score's coordinates in LaTeX, tidied, with names of columns for x0, x1, ..."""
    import sympy

    symbols = (sympy.Symbol(f"x{i}", real=True) for i in range(len(columns)))
    names = dict(zip(symbols, map(_latex_name, columns), strict=True))
    parts = map(tidy, formula.expressions())
    return tuple(str(sympy.latex(part, symbol_names=names)) for part in parts)


def _latex_name(column: str) -> str:
    if match := re.fullmatch(r"([A-Za-z])(\d*)", column):
        return f"{match[1]}_{{{match[2]}}}" if match[2] else column
    plain = "".join(_LATEX.get(letter, letter) for letter in " ".join(column.split()))
    return rf"\mathrm{{{plain}}}"


def _code(expression: sympy.Expr) -> str:
    """Writes an expression in NumPy, with all digits."""
    from sympy.printing.numpy import NumPyPrinter

    class Printer(NumPyPrinter):
        """Writes maxima and minima elementwise."""

        def _print_Max(self, expr: sympy.Expr) -> str:  # noqa: N802
            return reduce("numpy.maximum({}, {})".format, map(self._print, expr.args))

        def _print_Min(self, expr: sympy.Expr) -> str:  # noqa: N802
            return reduce("numpy.minimum({}, {})".format, map(self._print, expr.args))

    return re.sub(r"\bnumpy\.", "np.", Printer({"precision": 17}).doprint(expression))


def formula_program(formula: FormulaDenoiser, title: str, maps: Sequence[CoordinateMap]) -> str:
    """Writes a formula as a module with ``score`` and ``predicted_noise``.

    If numbers of the data decide all coordinates, it also has ``coordinates``, which maps them and
    gives the derivatives, by which a density of coordinates becomes one of the data.

    Args:
        formula: The formula.
        title: The title of the program.
        maps: How each coordinate follows from the data.
    """
    dim, names = formula.data_dim, [_one_line(each.name) for each in maps]
    scores = [f"s{i} = {_code(part)}" for i, part in enumerate(formula.expressions())]
    body, parts = textwrap.indent("\n".join(scores), "    "), [f"s{i}" for i in range(dim)]
    symbols = "\n".join(f"x{i}: {name}" for i, name in enumerate(names))
    unpacked, coordinates = "".join(f"x{i}, " for i in range(dim)).strip(), ""
    if all(each.code for each in maps):
        functions = "\n".join(dict.fromkeys(each.functions for each in maps if each.functions))
        lines = "\n".join(f"    lambda x: {each.code}," for each in maps)
        coordinates = f'''{functions}

MAPS = [
{lines}
]


def coordinates(rows):
    """Coordinates of rows (n, {dim}) of the data, and their derivatives, both (n, {dim})."""
    columns = np.moveaxis(np.asarray(rows, dtype=float), -1, 0)
    pairs = [of(column) for of, column in zip(MAPS, columns)]
    return tuple(np.stack(parts, axis=-1) for parts in zip(*pairs))

'''
    return f'''"""{_one_line(title)}: a formula for the score at every noise level.

Points are coordinates of the data, noised: alpha * clean + sigma * noise. The coordinates are
standardised, (x - mean) / scale, or what their names say:

{symbols}
"""

import numpy as np
{coordinates}

def score(x, alpha, sigma):
    """Gradient of the log-density of noised points x (n, {dim})."""
    x = np.asarray(x, dtype=float)
    alpha, sigma = np.asarray(alpha, dtype=float), np.asarray(sigma, dtype=float)
    {unpacked} = np.moveaxis(x, -1, 0)
{body}
    return np.stack(np.broadcast_arrays({", ".join(parts)}, x0)[:-1], axis=-1)


def predicted_noise(x, alpha, sigma):
    """Expected noise in noised points x (n, {dim})."""
    return -np.asarray(sigma, dtype=float)[..., None] * score(x, alpha, sigma)
'''


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("\\", "/").replace('"', "'")
