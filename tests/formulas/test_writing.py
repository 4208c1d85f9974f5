import ast
import re

import numpy as np
import pytest
import sympy
import torch
from matplotlib.mathtext import MathTextParser

from helpers import randn
from kan_diffusion.data.coordinates import CoordinateMap
from kan_diffusion.denoisers.formula import formula_denoiser
from kan_diffusion.denoisers.library import LIBRARY
from kan_diffusion.formulas.writing import formula_program, score_latex, tidy
from kan_diffusion.processes import get_process

X, Y, ALPHA, SIGMA = sympy.symbols("x0 x1 alpha sigma", real=True)
C = sympy.symbols("c0:4", real=True)
HOSTILE = 'a """quoted""" title\\"""\nimport os; os.abort() #\r\n\\N{dash} \\x'


def _run(program):
    """The program's names, after a look at what it imports."""
    tree = ast.parse(program)
    imports = [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]
    assert [ast.unparse(node) for node in imports] == ["import numpy as np"]
    namespace = {}
    with np.errstate(all="raise", under="ignore"):
        exec(compile(program, "program", "exec"), namespace)
    return namespace


FORMULAS = {
    "linear": [-C[0] * X + C[1] * ALPHA**2 * Y, -Y / (1 + C[2] * ALPHA**2)],
    "two modes": [(ALPHA * C[0] * sympy.tanh(ALPHA * C[0] * X / C[1]) - X) / SIGMA**2, -Y],
    "all kinds": [
        sympy.exp(-(X**2)) * C[0] + sympy.Abs(Y) ** 3 - sympy.sin(C[1] * X) / (1 + Y**2),
        sympy.log(sympy.Max(X, C[2] ** 2)) + sympy.sqrt(sympy.Max(Y, C[3] ** 2)) + X**4,
    ],
    "one coordinate": [-X / (C[0] ** 2 * ALPHA**2 + SIGMA**2)],
    "constants": [C[0] + 0 * X, C[1] * ALPHA],
}


def _formula(name):
    values = dict(zip(C, (1 / 3, -0.7123456789012345, 0.123456789, 0.0456789), strict=True))
    used = set().union(*(part.free_symbols for part in FORMULAS[name]))
    constants = {c: value for c, value in values.items() if c in used}
    return formula_denoiser(FORMULAS[name], constants, get_process("cosine")).double()


@pytest.mark.parametrize("name", FORMULAS)
def test_a_formulas_program_has_its_numbers(name):
    formula = _formula(name)
    program = _run(formula_program(formula, name, [CoordinateMap("x")] * formula.data_dim))
    assert "coordinates" not in program
    x = randn(50, formula.data_dim)
    angle = torch.linspace(0.1, 1.5, 50, dtype=torch.float64)
    for alpha, sigma in ((angle.cos(), angle.sin()), (angle.cos()[20:21], angle.sin()[20:21])):
        expected = formula.score(x, alpha, sigma).detach().numpy()
        a, s = alpha.numpy(), sigma.numpy()
        levels = [(a, s)] if len(a) > 1 else [(a, s), (float(a[0]), float(s[0]))]
        for level in levels:
            found = program["score"](x.numpy(), *level)
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
            noise = program["predicted_noise"](x.numpy(), *level)
            np.testing.assert_allclose(noise, -s[:, None] * expected, rtol=1e-12, atol=1e-12)


def test_titles_and_names_are_never_code():
    maps = [CoordinateMap.standardised(HOSTILE, 2.0, 0.5), CoordinateMap.standardised("y", -1, 3)]
    written = formula_program(_formula("linear"), HOSTILE, maps)
    program = _run(written)
    title, *_, first, _ = ast.get_docstring(ast.parse(written)).splitlines()
    assert "import os; os.abort()" in title
    assert "import os; os.abort()" in first
    z, slopes = program["coordinates"]([[3.0, 5.0]])
    assert (z.tolist(), slopes.tolist()) == ([[2.0, 2.0]], [[2.0, 1 / 3]])


def test_tidy_keeps_values_to_its_digits():
    values = np.random.default_rng(0).normal(size=40) * 10.0 ** np.random.default_rng(1).integers(
        -2, 5, 40
    )
    for value in values:
        rounded = float(tidy(sympy.Float(value) * X).subs(X, 1))
        assert abs(rounded - value) <= 0.5001 * max(abs(value) * 1e-3, 1e-4)
    x, a = np.linspace(-2, 2, 41), 0.6
    expression = (
        1.2345678 * sympy.tanh(0.87654321 * ALPHA * X) - 0.012345678 * X**3 - 0.98765432 * X
    ) / (1.0000001 - 0.61234567 * ALPHA**2)
    short = tidy(expression)
    assert all(
        len(str(number).strip("-0.").replace(".", "")) <= 4 for number in short.atoms(sympy.Float)
    )
    exact = sympy.lambdify((X, ALPHA), expression)(x, a)
    np.testing.assert_allclose(sympy.lambdify((X, ALPHA), short)(x, a), exact, atol=2e-3)


def test_tidy_leaves_out_what_vanishes_and_nothing_else():
    assert tidy(1.0 * X + 2e-6 * Y) == X
    assert float(tidy(sympy.Float(0.0012) * Y).subs(Y, 1)) == pytest.approx(0.0012, rel=1e-4)
    assert tidy(2.00000001 * X**2 + 0.5 * Y) - (2 * X**2 + Y / 2) == 0
    # Where a logarithm is held is small, and its value there is not.
    held = LIBRARY["log"].expression(0.5 * X)
    for value in (-1.0, 1.0):
        assert float(tidy(held).subs(X, value)) == pytest.approx(
            float(held.subs(X, value)), rel=1e-4
        )


def test_tidy_keeps_small_factors_of_what_is_large():
    for term in (1.2 * sympy.exp(3 * X - 9.5), 8e-5 * X**4, -5e-5 * sympy.exp(ALPHA * X) * Y):
        exact = 0.5 * X + term
        short = tidy(exact)
        for value in (1.0, 4.0):
            at = {X: value, Y: value, ALPHA: 1}
            assert float(short.subs(at)) == pytest.approx(float(exact.subs(at)), rel=1e-3)
    assert tidy(0.5 * X + 2e-6 * ALPHA**2 * Y / (1 + ALPHA**2)) == tidy(0.5 * X)


def test_latex_names_the_columns():
    mass, age = score_latex(_formula("linear"), ["mass", "a_b%"])
    assert r"\mathrm{mass}" in mass
    assert r"\mathrm{a\_b\%}" in mass
    assert r"\mathrm{a\_b\%}" in age
    assert "mass" not in age
    first, _ = score_latex(_formula("linear"), ["x1", "y"])
    assert "x_{1}" in first
    assert re.search(r"(?<![a-z])y(?![a-z])", first)
    # Columns named like the other coordinate's symbol are not mixed up.
    swapped, _ = score_latex(_formula("linear"), ["x1", "x0"])
    assert re.search(r"0\.3333 x_\{1\}", swapped)


def test_hostile_columns_are_valid_latex():
    for name in ("a_b%", "x^2", "a\\b", "{", "$5 & #6", "~", "in out", "é", "_"):
        for text in score_latex(_formula("two modes"), [name, "y"]):
            # Matplotlib has no backslash before these two.
            shown = text.replace(r"\&", "&").replace(r"\#", "")
            MathTextParser("path").parse(f"${shown}$")
            opened, closed = (text.count(b) - text.count(f"\\{b}") for b in "{}")
            assert opened == closed
