import math
from dataclasses import replace

import pytest
import sympy
import torch

from helpers import seeded
from html_page import Page
from kan_diffusion.data.toys import make_toy
from kan_diffusion.denoisers.formula import formula_denoiser
from kan_diffusion.formulas.views import default_levels
from kan_diffusion.processes import get_process
from kan_diffusion.study.config import EvaluationConfig
from kan_diffusion.study.named import single_trial
from truth_lab import lab
from truth_lab.lab import LAB, LabResult, LabResults, run_lab_case
from truth_lab.page import write_lab
from truth_lab.truth import Recovered, recovered_constants

X, Y, A, S = sympy.symbols("x0 x1 alpha sigma", real=True)
PROCESS = get_process("cosine")
LEVELS = default_levels(PROCESS)
TOYS = ("correlated-gaussian", "two-modes", "four-modes")
TWO_GAUSSIANS = ("uneven-modes", "oblique-modes")
NUM_CONSTANTS = {
    "correlated-gaussian": 4,
    "two-modes": 3,
    "four-modes": 6,
    # On a line all five; in the plane, where nothing is moved and all is along the axes, no offset,
    # no coefficient of the other coordinate.
    "uneven-modes": 5,
    "oblique-modes": 8,
}
"""Constants of a density at one level."""


def make_result(toy="two-modes", seed=3, **changes):
    """A result whose worst constant is 5 % off."""
    fields = {
        "formula": ("- x",),
        "constants": (Recovered("m", 0.5, 2.0, 2.1), Recovered("v", 0.5, -1.0, -1.01)),
        "has_form": True,
        "separate": toy != "correlated-gaussian",
        "edges": 7,
        "curves": 0,
        "best_r2": math.nan,
        "excess": {"network": 0.0123, "formula": 0.00456},
        "energy": {"network": 0.002, "formula": 0.003},
        "energy_real": 0.002,
        "seconds": 12.5,
    }
    return LabResult(**{"toy": toy, "seed": seed, **fields, **changes})


def _formula(*score):
    """A formula whose numbers are its constants, in double precision."""
    floats = sorted(set().union(*(part.atoms(sympy.Float) for part in score)))
    names = {number: sympy.Symbol(f"c{i}", real=True) for i, number in enumerate(floats)}
    parts = [sympy.sympify(part).xreplace(names) for part in score]
    values = {name: float(number) for number, name in names.items()}
    made = formula_denoiser(parts, values, PROCESS).double()
    if values:
        made.constants.data.copy_(made.constants.new_tensor(list(values.values())))
    return made


def _modes(x, *, m=1.0, v=1.0):
    """The score of two standardised modes; m and v are by what factors they are wrong.

    Modes at -1 and 1 of variance 1/4 have variance 5/4.
    """
    mean, variance = sympy.Float(m * math.sqrt(0.8)), sympy.Float(0.2)
    below = (A**2 * variance + S**2) * sympy.Float(v)
    return (A * mean * sympy.tanh(A * mean * x / below) - x) / below


def _gaussian(factor=1.0):
    """Of unit variances, which standardising leaves, and correlation 0.8."""
    off, square = sympy.Float(0.8), sympy.Float(0.8 * 0.8)
    below = (1 - square * A**4) / sympy.Float(factor)
    return [(A**2 * off * Y - X) / below, (A**2 * off * X - Y) / below]


def _two_gaussians(toy, off=1.0):
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


def _score(toy, off=1.0):
    if toy == "correlated-gaussian":
        return _gaussian(off)
    if toy in TWO_GAUSSIANS:
        return _two_gaussians(toy, off)
    return [_modes(x, m=off) for x in ((X,) if toy == "two-modes" else (X, Y))]


@pytest.mark.parametrize(("toy", "by_level"), NUM_CONSTANTS.items())
def test_the_exact_formula_has_no_error(toy, by_level):
    formula = _formula(*_score(toy))
    density = make_toy(toy)
    standardised = density.rescaled(density.mean, density.std)
    points = standardised.sample(50, seeded())
    alpha, sigma = torch.tensor([0.6]).double(), torch.tensor([0.8]).double()
    with torch.no_grad():
        torch.testing.assert_close(
            formula.score(points, alpha, sigma), standardised.score(points, 0.6, 0.8)
        )
    has_form, constants = recovered_constants(formula, toy, PROCESS, LEVELS)
    assert has_form
    assert max(constant.error for constant in constants) < 1e-6
    assert len({(c.name, c.sigma) for c in constants}) == len(constants) == by_level * len(LEVELS)


@pytest.mark.parametrize("toy", NUM_CONSTANTS)
def test_an_error_of_five_per_cent_is_one(toy):
    has_form, constants = recovered_constants(_formula(*_score(toy, 1.05)), toy, PROCESS, LEVELS)
    assert has_form
    right = [c for c in constants if c.name.startswith("v of")]
    wrong = [c for c in constants if c not in right]
    if toy in TWO_GAUSSIANS:  # only the bend is wrong
        right = [c for c in constants if c.name == "coefficient of x0, score 0"]
        wrong = [c for c in constants if "factor" in c.name or "x0 within" in c.name]
    assert wrong
    assert all(0.045 < constant.error < 0.055 for constant in wrong)
    assert all(constant.error < 1e-6 for constant in right)


def test_a_tanh_written_the_other_way_round_is_the_same():
    (score,) = _two_gaussians("uneven-modes")
    (bend,) = score.atoms(sympy.tanh)
    formula = _formula(
        score.subs(bend, sympy.Float(-1) * sympy.tanh(sympy.Float(-1) * bend.args[0]))
    )
    has_form, constants = recovered_constants(formula, "uneven-modes", PROCESS, LEVELS)
    assert has_form
    assert max(constant.error for constant in constants) < 1e-6


def test_an_error_of_the_variance_is_not_laid_upon_the_mean():
    formula = _formula(_modes(X, v=0.95))
    has_form, constants = recovered_constants(formula, "two-modes", PROCESS, LEVELS)
    assert has_form
    for constant in constants:
        expected = 0.05 if constant.name.startswith("v of") else 0.0
        assert constant.error == pytest.approx(expected, abs=1e-6)


def test_one_wrong_coordinate_is_seen_beside_a_right_one():
    formula = _formula(_modes(X), _modes(Y, m=1.05))
    _, constants = recovered_constants(formula, "four-modes", PROCESS, LEVELS)
    assert {c.name for c in constants if c.error > 0.01} == {
        "m before tanh, coordinate 1",
        "m within tanh, coordinate 1",
    }


OTHERS = {
    **{f"not odd, {toy}": (toy, [_score(toy)[0] + 0.3, *_score(toy)[1:]]) for toy in TOYS},
    "quadratic": ("correlated-gaussian", [-X + 0.01 * Y**2, -Y]),
    "product": ("correlated-gaussian", [-X, -Y + 0.01 * X * Y]),
    "tanh of a Gaussian": ("correlated-gaussian", [sympy.tanh(X) - X, -Y]),
    "two tanh": ("two-modes", [_modes(X) + 0.01 * sympy.tanh(0.3 * X)]),
    "tanh alone": ("two-modes", [A * sympy.tanh(0.9 * X)]),
    "tanh squared": ("two-modes", [sympy.tanh(0.9 * X) ** 2 - X]),
    "cube": ("two-modes", [_modes(X) - 0.01 * X**3]),
    "sine": ("two-modes", [sympy.sin(X) - X]),
    "cross term": ("four-modes", [_modes(X) + 0.01 * Y, _modes(Y)]),
    "of the other coordinate": ("four-modes", [_modes(Y), _modes(X)]),
    "one coordinate only": ("four-modes", [_modes(X), -1.0 * Y]),
    "offset of symmetric modes": ("oblique-modes", [p + 0.2 for p in _score("oblique-modes")]),
    "a coordinate too many": ("oblique-modes", [p + 0.1 * X for p in _score("oblique-modes")]),
    "a square of its own": ("uneven-modes", [_two_gaussians("uneven-modes")[0] + 0.01 * X**2]),
    "a second tanh": ("uneven-modes", [_two_gaussians("uneven-modes")[0] + sympy.tanh(0.1 * X)]),
    "a straight one": ("uneven-modes", [0.3 - X]),
    "a square within": ("uneven-modes", [sympy.tanh(0.9 * X**2) - X]),
    "a factor that is none": ("uneven-modes", [X * sympy.tanh(0.9 * X) - X]),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_form_is_not_taken_for_it(name):
    toy, score = OTHERS[name]
    assert recovered_constants(_formula(*score), toy, PROCESS, LEVELS) == (False, [])


def test_the_worst_constant_the_ratio_and_how_many_seeds_are_within_the_bound():
    shapeless = make_result(seed=1, has_form=False, constants=())
    assert make_result().worst == pytest.approx(0.05)
    assert shapeless.worst == math.inf
    assert make_result().energy_ratio == pytest.approx(1.5)
    assert math.isnan(make_result(energy={"network": 0.002}).energy_ratio)
    close = make_result(constants=(Recovered("m", 0.5, 2.0, 2.02),))
    ((toy, _, answer),) = LabResults((close, make_result(seed=2), shapeless)).summary()
    assert toy == "two-modes"
    assert "within 3% in 1 of 3" in answer
    ((_, _, answer),) = LabResults((close, make_result(seed=2))).summary()
    assert "worst 5.00%" in answer


def test_the_truth_is_recovered_from_points(tmp_path, monkeypatch):
    def judged_quickly(toy, **options):
        trial = single_trial(toy, **options)
        return trial.model_copy(update={"evaluation": EvaluationConfig(effort="quick")})

    monkeypatch.setattr(lab, "single_trial", judged_quickly)
    monkeypatch.setattr(lab, "_DRAWS", 3)
    case = replace(LAB["two-modes"], steps=400, num_points=20_000)
    result = run_lab_case(case, 0, tmp_path)
    assert result.has_form
    assert result.worst <= case.bound
    assert result.energy_ratio < 2
    (path,) = tmp_path.glob("runs/*/result.json")
    before = path.stat().st_mtime_ns
    assert run_lab_case(case, 0, tmp_path) == result
    assert path.stat().st_mtime_ns == before


def test_the_page_shows_constants_and_answers_and_names_stay_text(tmp_path):
    hostile = "</code><script>alert(1)</script>"
    lost = make_result("four-modes", formula=(), constants=(), has_form=False, excess={}, energy={})
    page = Page(
        write_lab(LabResults((make_result(formula=(hostile,)), lost)), tmp_path).read_text()
    )
    assert hostile in " ".join(page.text)
    constants = page.tables["Constants at each noise level, two-modes"]
    assert constants[1] == ["m", "0.50", "2.0000", "2.1000", "2.1000 to 2.1000", "5.00 %"]
    assert page.tables["four-modes"][1][1] == "form not found"
