from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import sympy
import torch

from kan_diffusion.data.toys import make_toy
from kan_diffusion.denoisers.formula import FormulaDenoiser, formula_denoiser
from kan_diffusion.processes import get_process
from kan_diffusion.symbolic.views import default_levels
from truth_lab import lab
from truth_lab.lab import LAB, LabResult, LabResults, run_lab_case
from truth_lab.truth import Recovered, recovered_constants

X, Y, A, S = sympy.symbols("x0 x1 alpha sigma", real=True)
PROCESS = get_process("cosine")
LEVELS = default_levels(PROCESS)
TOYS = ("correlated-gaussian", "two-modes", "four-modes")
TWO_GAUSSIANS = ("uneven-modes", "oblique-modes")


def _formula(*score: sympy.Expr) -> FormulaDenoiser:
    """A formula whose numbers are its constants, in double precision."""
    floats = sorted(set().union(*(part.atoms(sympy.Float) for part in score)))
    names = {number: sympy.Symbol(f"c{i}", real=True) for i, number in enumerate(floats)}
    parts = [sympy.sympify(part).xreplace(names) for part in score]
    values = {name: float(number) for number, name in names.items()}
    made = formula_denoiser(parts, values, PROCESS).double()
    if values:
        made.constants.data.copy_(made.constants.new_tensor(list(values.values())))
    return made


def _modes(x: sympy.Symbol, *, m: float = 1.0, v: float = 1.0) -> sympy.Expr:
    """The score of two standardised modes; m and v are by what factors they are wrong.

    Modes at -1 and 1 of variance 1/4 have variance 5/4.
    """
    mean, variance = sympy.Float(m * math.sqrt(0.8)), sympy.Float(0.2)
    below = (A**2 * variance + S**2) * sympy.Float(v)
    return (A * mean * sympy.tanh(A * mean * x / below) - x) / below


def _gaussian(factor: float = 1.0) -> list[sympy.Expr]:
    """Of unit variances, which standardising leaves, and correlation 0.8."""
    off, square = sympy.Float(0.8), sympy.Float(0.8 * 0.8)
    below = (1 - square * A**4) / sympy.Float(factor)
    return [(A**2 * off * Y - X) / below, (A**2 * off * X - Y) / below]


def _two_gaussians(toy: str, off: float = 1.0) -> list[sympy.Expr]:
    """From the density's numbers, for a diagonal covariance; ``off`` is how wrong the bend is."""
    density = make_toy(toy)
    scale, centre = density.std.numpy(), density.mean.numpy()
    first, second = (density.means.numpy() - centre) / scale
    spread = density.covariances[0].diagonal().numpy() / scale**2
    low, high = density.weights.numpy()
    xs = (X, Y)[: len(scale)]
    below = [A**2 * sympy.Float(v) + S**2 for v in spread]
    half = [sympy.Float(h * off) for h in (second - first) / 2]
    moved = [x - A * sympy.Float(c) for x, c in zip(xs, (first + second) / 2, strict=True)]
    inner = sum(A * h * x / b for h, x, b in zip(half, moved, below, strict=True))
    bend = sympy.tanh(inner + sympy.Float(math.log(high / low) / 2))
    return [(A * h * bend - x) / b for h, x, b in zip(half, moved, below, strict=True)]


def _score(toy: str, off: float = 1.0) -> list[sympy.Expr]:
    if toy == "correlated-gaussian":
        return _gaussian(off)
    if toy in TWO_GAUSSIANS:
        return _two_gaussians(toy, off)
    return [_modes(x, m=off) for x in ((X,) if toy == "two-modes" else (X, Y))]


@pytest.mark.parametrize("toy", TOYS)
def test_the_exact_formula_has_no_error(toy: str) -> None:
    assert make_toy(toy).dim == (1 if toy == "two-modes" else 2)
    has_form, constants = recovered_constants(_formula(*_score(toy)), toy, PROCESS, LEVELS)
    assert has_form
    assert max(constant.error for constant in constants) < 1e-6
    by_level = 4 if toy == "correlated-gaussian" else 3 * make_toy(toy).dim
    assert len({(c.name, c.sigma) for c in constants}) == len(constants)
    assert len(constants) == by_level * len(LEVELS)


@pytest.mark.parametrize("toy", TOYS)
def test_an_error_of_five_per_cent_is_one(toy: str) -> None:
    has_form, constants = recovered_constants(_formula(*_score(toy, 1.05)), toy, PROCESS, LEVELS)
    assert has_form
    wrong = [c for c in constants if not c.name.startswith("v of")]
    assert all(0.045 < constant.error < 0.055 for constant in wrong)
    assert all(c.error < 1e-6 for c in constants if c.name.startswith("v of"))


@pytest.mark.parametrize("toy", TWO_GAUSSIANS)
def test_the_exact_score_of_two_gaussians_has_no_error(toy: str) -> None:
    formula = _formula(*_score(toy))
    density = make_toy(toy)
    standardised = density.rescaled(density.mean, density.std)
    points = standardised.sample(50, torch.Generator().manual_seed(0))
    alpha, sigma = torch.tensor([0.6]).double(), torch.tensor([0.8]).double()
    with torch.no_grad():
        torch.testing.assert_close(
            formula.score(points, alpha, sigma), standardised.score(points, 0.6, 0.8)
        )
    has_form, constants = recovered_constants(formula, toy, PROCESS, LEVELS)
    assert has_form
    assert max(constant.error for constant in constants) < 1e-6
    # On a line all five; in the plane, where nothing is moved and all is along the axes, no offset,
    # no coefficient of the other coordinate.
    by_level = 5 if toy == "uneven-modes" else 8
    assert len({(c.name, c.sigma) for c in constants}) == len(constants) == by_level * len(LEVELS)


@pytest.mark.parametrize("toy", TWO_GAUSSIANS)
def test_a_wrong_bend_of_two_gaussians_is_seen(toy: str) -> None:
    has_form, constants = recovered_constants(_formula(*_score(toy, 1.05)), toy, PROCESS, LEVELS)
    assert has_form
    bends = [c for c in constants if "factor" in c.name or "x0 within" in c.name]
    assert bends
    assert all(0.045 < constant.error < 0.055 for constant in bends)
    own = [c for c in constants if c.name == "coefficient of x0, score 0"]
    assert all(constant.error < 1e-6 for constant in own)


def test_a_tanh_written_the_other_way_round_is_the_same() -> None:
    (score,) = _two_gaussians("uneven-modes")
    (bend,) = score.atoms(sympy.tanh)
    formula = _formula(
        score.subs(bend, sympy.Float(-1) * sympy.tanh(sympy.Float(-1) * bend.args[0]))
    )
    has_form, constants = recovered_constants(formula, "uneven-modes", PROCESS, LEVELS)
    assert has_form
    assert max(constant.error for constant in constants) < 1e-6


def test_an_error_of_the_variance_is_not_laid_upon_the_mean() -> None:
    formula = _formula(_modes(X, v=0.95))
    has_form, constants = recovered_constants(formula, "two-modes", PROCESS, LEVELS)
    assert has_form
    for constant in constants:
        expected = 0.05 if constant.name.startswith("v of") else 0.0
        assert constant.error == pytest.approx(expected, abs=1e-6)


def test_one_wrong_coordinate_is_seen_beside_a_right_one() -> None:
    formula = _formula(_modes(X), _modes(Y, m=1.05))
    _, constants = recovered_constants(formula, "four-modes", PROCESS, LEVELS)
    assert {c.name for c in constants if c.error > 0.01} == {
        "m before tanh, coordinate 1",
        "m within tanh, coordinate 1",
    }


OTHERS = {
    "quadratic": ("correlated-gaussian", [-X + 0.01 * Y**2, -Y]),
    "product": ("correlated-gaussian", [-X, -Y + 0.01 * X * Y]),
    "tanh of a Gaussian": ("correlated-gaussian", [sympy.tanh(X) - X, -Y]),
    "linear": ("two-modes", [-1.0 * X]),
    "two tanh": ("two-modes", [_modes(X) + 0.01 * sympy.tanh(0.3 * X)]),
    "tanh alone": ("two-modes", [A * sympy.tanh(0.9 * X)]),
    "tanh squared": ("two-modes", [sympy.tanh(0.9 * X) ** 2 - X]),
    "tanh times x": ("two-modes", [X * sympy.tanh(0.9 * X) - X]),
    "tanh of a square": ("two-modes", [sympy.tanh(0.9 * X**2) - X]),
    "cube": ("two-modes", [_modes(X) - 0.01 * X**3]),
    "sine": ("two-modes", [sympy.sin(X) - X]),
    "cross term": ("four-modes", [_modes(X) + 0.01 * Y, _modes(Y)]),
    "of the other coordinate": ("four-modes", [_modes(Y), _modes(X)]),
    "one coordinate only": ("four-modes", [_modes(X), -1.0 * Y]),
    "offset of symmetric modes": (
        "oblique-modes",
        [p + 0.2 for p in _two_gaussians("oblique-modes")],
    ),
    "a coordinate too many": (
        "oblique-modes",
        [p + 0.1 * X for p in _two_gaussians("oblique-modes")],
    ),
    "a square of its own": ("uneven-modes", [_two_gaussians("uneven-modes")[0] + 0.01 * X**2]),
    "a second tanh": ("uneven-modes", [_two_gaussians("uneven-modes")[0] + sympy.tanh(0.1 * X)]),
    "a straight one": ("uneven-modes", [0.3 - X]),
    "a square within": ("uneven-modes", [sympy.tanh(0.9 * X**2) - X]),
    "a factor that is none": ("uneven-modes", [X * sympy.tanh(0.9 * X) - X]),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_form_is_not_taken_for_it(name: str) -> None:
    toy, score = OTHERS[name]
    assert recovered_constants(_formula(*score), toy, PROCESS, LEVELS) == (False, [])


def _result(**changes: object) -> LabResult:
    content: dict[str, object] = {
        "toy": "two-modes",
        "seed": 3,
        "formula": ("- x",),
        "constants": (Recovered("m", 0.5, 2.0, 2.1), Recovered("v", 0.5, -1.0, -1.01)),
        "has_form": True,
        "separate": True,
        "edges": 4,
        "curves": 0,
        "best_r2": math.nan,
        "excess": {"network": 0.001, "formula": 0.0004},
        "energy": {"network": 0.002, "formula": 0.003},
        "energy_real": 0.002,
        "pykan": {},
        "seconds": 12.5,
    }
    return LabResult(**{**content, **changes})


def test_the_worst_constant_and_the_ratio() -> None:
    assert _result().worst == pytest.approx(0.05)
    assert _result(has_form=False, constants=()).worst == math.inf
    assert _result().energy_ratio == pytest.approx(1.5)
    assert math.isnan(_result(energy={"network": 0.002}).energy_ratio)


def test_a_summary_counts_the_seeds_within_the_bound() -> None:
    close = _result(constants=(Recovered("m", 0.5, 2.0, 2.02),))
    missing = _result(seed=1, has_form=False, constants=())
    ((toy, _, answer),) = LabResults((close, _result(seed=2), missing)).summary()
    assert toy == "two-modes"
    assert "within 3% in 1 of 3" in answer
    ((_, _, answer),) = LabResults((close, _result(seed=2))).summary()
    assert "worst 5.00%" in answer


@pytest.mark.parametrize("best_r2", [math.nan, 0.75])
def test_a_finished_case_is_read_and_not_trained_again(
    best_r2: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = _result(best_r2=best_r2, energy={"network": 0.002, "simplified": math.inf})
    lab._save(result, tmp_path / "runs" / "two-modes-3" / "result.json")
    monkeypatch.setattr(lab, "run_trial", lambda *_, **__: pytest.fail("trained again"))
    assert run_lab_case(LAB["two-modes"], 3, tmp_path) == result


@pytest.mark.slow
def test_the_truth_is_recovered_from_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lab, "_DRAWS", 10)
    case = replace(LAB["two-modes"], steps=1000, num_points=50_000)
    result = run_lab_case(case, 0, tmp_path)
    assert result.has_form
    assert result.worst <= case.bound
    assert result.energy_ratio < 2
    (path,) = tmp_path.glob("runs/*/result.json")
    before = path.stat().st_mtime_ns
    assert run_lab_case(case, 0, tmp_path) == result
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize("toy", TOYS)
def test_a_score_that_is_not_odd_has_another_form(toy: str) -> None:
    first, *others = _score(toy)
    moved = first + sympy.Float(0.3)
    assert recovered_constants(_formula(moved, *others), toy, PROCESS, LEVELS) == (False, [])
