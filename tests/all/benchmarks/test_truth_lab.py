import json
import math
from dataclasses import replace

import numpy as np
import pytest
import sympy
import torch

from helpers import seeded
from kan_diffusion.denoisers.formula import formula_denoiser
from kan_diffusion.formulas.views import default_levels
from kan_diffusion.processes import get_process
from kan_diffusion.study.config import EvaluationConfig
from kan_diffusion.study.named import single_trial
from truth_lab import lab
from truth_lab.lab import LAB, LabResult, run_lab_case
from truth_lab.page import summary, write_lab
from truth_lab.truth import Recovered, recovered_constants, standardised

X, Y, A, S = sympy.symbols("x0 x1 alpha sigma", real=True)
PROCESS = get_process("cosine")
LEVELS = default_levels(PROCESS)
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
        "outcome": "One formula holds.",
        "formula": ["- x"],
        "constants": [Recovered("m", 0.5, 2.0, 2.1), Recovered("v", 0.5, -1.0, -1.01)],
        "has_form": True,
        "separate": toy != "correlated-gaussian",
        "edges": 7,
        "curves": 0,
        "excess": {"network": 0.0123, "formula": 0.00456},
        "energy_ratio": 1.5,
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


def _modes(x, *, m=1.0):
    """The score of two standardised modes; m is by what factor their distance is wrong.

    Modes at -1 and 1 of variance 1/4 have variance 5/4.
    """
    mean, variance = sympy.Float(m * math.sqrt(0.8)), sympy.Float(0.2)
    below = A**2 * variance + S**2
    return (A * mean * sympy.tanh(A * mean * x / below) - x) / below


def _score(toy, off=1.0):
    """The score of a density, from its numbers; ``off`` is how wrong the bend is, if it has one."""
    if toy == "correlated-gaussian":  # of unit variances, which standardising leaves
        rho, square = sympy.Float(0.8), sympy.Float(0.8 * 0.8)
        below = (1 - square * A**4) / sympy.Float(off)
        return [(A**2 * rho * Y - X) / below, (A**2 * rho * X - Y) / below]
    if toy in ("two-modes", "four-modes"):
        return [_modes(x, m=off) for x in ((X,) if toy == "two-modes" else (X, Y))]
    density = standardised(toy)
    first, second = density.means.numpy()
    low, high = density.weights.numpy()
    xs = (X, Y)[: len(first)]
    below = [A**2 * sympy.Float(v) + S**2 for v in density.covariances[0].diagonal().tolist()]
    half = [sympy.Float(h * off) for h in (second - first) / 2]
    moved = [x - A * sympy.Float(c) for x, c in zip(xs, (first + second) / 2, strict=True)]
    inner = sum(A * h * x / b for h, x, b in zip(half, moved, below, strict=True))
    bend = sympy.tanh(inner + sympy.Float(math.log(high / low) / 2))
    return [(A * h * bend - x) / b for h, x, b in zip(half, moved, below, strict=True)]


@pytest.mark.parametrize(("toy", "by_level"), NUM_CONSTANTS.items())
def test_the_exact_formula_has_no_error_and_one_of_five_per_cent_is_one(toy, by_level):
    formula, density = _formula(*_score(toy)), standardised(toy)
    points = density.sample(50, seeded())
    alpha, sigma = torch.tensor([0.6]).double(), torch.tensor([0.8]).double()
    with torch.no_grad():
        torch.testing.assert_close(
            formula.score(points, alpha, sigma), density.score(points, 0.6, 0.8)
        )
    has_form, constants = recovered_constants(formula, toy, PROCESS, LEVELS)
    assert has_form
    assert max(constant.error for constant in constants) < 1e-6
    assert len({(c.name, c.sigma) for c in constants}) == len(constants) == by_level * len(LEVELS)
    has_form, constants = recovered_constants(_formula(*_score(toy, 1.05)), toy, PROCESS, LEVELS)
    assert has_form
    bent = [c for c in constants if c.name.startswith(("factor", "coefficient of x0 within"))]
    wrong = bent or constants
    assert all(0.045 < constant.error < 0.055 for constant in wrong)
    straight = [c for c in constants if "tanh" not in c.name and c not in wrong]
    assert all(constant.error < 1e-6 for constant in straight)


def test_a_tanh_written_the_other_way_round_is_the_same():
    (score,) = _score("uneven-modes")
    (bend,) = score.atoms(sympy.tanh)
    turned = sympy.Float(-1) * sympy.tanh(sympy.Float(-1) * bend.args[0])
    formula = _formula(score.subs(bend, turned))
    has_form, constants = recovered_constants(formula, "uneven-modes", PROCESS, LEVELS)
    assert has_form
    assert max(constant.error for constant in constants) < 1e-6


def test_one_wrong_coordinate_is_seen_beside_a_right_one():
    formula = _formula(_modes(X), _modes(Y, m=1.05))
    _, constants = recovered_constants(formula, "four-modes", PROCESS, LEVELS)
    assert {c.name for c in constants if c.error > 0.01} == {
        "factor of tanh, score 1",
        "coefficient of x1 within tanh, score 1",
    }


OTHERS = {
    **{
        f"not odd, {toy}": (toy, [_score(toy)[0] + 0.3, *_score(toy)[1:]])
        for toy in ("correlated-gaussian", "two-modes", "four-modes", "oblique-modes")
    },
    "quadratic": ("correlated-gaussian", [-X + 0.01 * Y**2, -Y]),
    "product": ("correlated-gaussian", [-X, -Y + 0.01 * X * Y]),
    "tanh of a Gaussian": ("correlated-gaussian", [sympy.tanh(X) - X, -Y]),
    "two tanh": ("two-modes", [_modes(X) + 0.01 * sympy.tanh(0.3 * X)]),
    "tanh squared": ("two-modes", [sympy.tanh(0.9 * X) ** 2 - X]),
    "cube": ("two-modes", [_modes(X) - 0.01 * X**3]),
    "sine": ("two-modes", [sympy.sin(X) - X]),
    "cross term": ("four-modes", [_modes(X) + 0.1 * Y, _modes(Y)]),
    "of the other coordinate": ("four-modes", [_modes(Y), _modes(X)]),
    "one coordinate only": ("four-modes", [_modes(X), -1.0 * Y]),
    "a square of its own": ("uneven-modes", [_score("uneven-modes")[0] + 0.01 * X**2]),
    "a straight one": ("uneven-modes", [0.3 - X]),
    "a square within": ("uneven-modes", [sympy.tanh(0.9 * X**2) - X]),
    "a factor that is none": ("uneven-modes", [X * sympy.tanh(0.9 * X) - X]),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_form_is_not_taken_for_it(name):
    toy, score = OTHERS[name]
    assert recovered_constants(_formula(*score), toy, PROCESS, LEVELS) == (False, [])


def test_the_worst_constant_and_how_many_seeds_are_within_the_bound():
    shapeless = make_result(seed=1, has_form=False, constants=[])
    assert make_result().worst == pytest.approx(0.05)
    assert shapeless.worst == math.inf
    close = make_result(constants=[Recovered("m", 0.5, 2.0, 2.02)])
    ((toy, _, answer),) = summary([close, make_result(seed=2), shapeless])
    assert toy == "two-modes"
    assert "within 3% in 1 of 3 (worst 5.00%, form not found in 1)" in answer


def test_the_truth_is_recovered_from_points_by_an_explanation_with_its_defaults(
    tmp_path, monkeypatch
):
    def judged_quickly(toy, **options):
        trial = single_trial(toy, **options)
        return trial.model_copy(update={"evaluation": EvaluationConfig(effort="quick")})

    monkeypatch.setattr(lab, "single_trial", judged_quickly)
    case = replace(LAB["two-modes"], steps=400, num_points=20_000)
    result = run_lab_case(case, 0, tmp_path)
    assert result.has_form
    assert result.worst <= case.bound
    assert result.energy_ratio > 0
    assert "One formula holds at all noise levels" in result.outcome
    (path,) = tmp_path.glob("runs/*/result.json")
    before = path.stat().st_mtime_ns
    assert run_lab_case(case, 0, tmp_path) == result
    assert path.stat().st_mtime_ns == before


def test_tables_and_numbers_have_every_run(tmp_path):
    lost = {"formula": [], "constants": [], "has_form": False, "excess": {}, "energy_ratio": None}
    results = [make_result(), make_result("four-modes", **lost)]
    written = write_lab(results, tmp_path).read_text(encoding="utf-8")
    assert "| 3 | form not found |" in written
    assert "- seed 3: $- x$" in written
    numbers = json.loads((tmp_path / "truth-lab.json").read_text())
    assert [each["worst"] for each in numbers] == [pytest.approx(0.05), None]
    assert np.isclose(numbers[0]["constants"][0]["found"], 2.1)
    assert (tmp_path / "figures" / "constants.png").stat().st_size > 5_000
