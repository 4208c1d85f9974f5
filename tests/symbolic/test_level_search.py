"""What forms cost, and searches that are out of time."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest

from helpers import randn, seeded
from kan_diffusion.processes import get_process
from kan_diffusion.symbolic.averaged import AveragedPoints, draw_averaged
from kan_diffusion.symbolic.combination import Atom, Combination
from kan_diffusion.symbolic.levels.coordinate import CoordinateFormula, first_formula
from kan_diffusion.symbolic.levels.search import _Judge, best_forms, tie_constants

PROCESS = get_process("cosine").model_copy(update={"num_timesteps": 200})
NEVER = float("inf")


def _points(seed: int, variance: float, num: int = 2000) -> AveragedPoints:
    """Noised Gaussian points on a line, with targets averaged over all of them."""
    clean = variance**0.5 * randn(num, 1, seed=seed)
    return draw_averaged(clean, PROCESS, num, seeded(seed + 1000), num_timesteps=180)


def _formula(offset: float, own: float) -> CoordinateFormula:
    """The score offset α - x / (1 - own α²)."""
    alpha = np.linspace(0.05, 0.99, 40)
    terms = {Atom(0, "x0"): -1 / (1 - own * alpha**2)}
    score = Combination(offset * alpha, terms)
    x = np.random.default_rng(0).standard_normal((40, 50, 1))
    return first_formula(0, score, alpha, x, np.ones(40))


def _without_offset(formula: CoordinateFormula) -> CoordinateFormula:
    (number,) = (k for k, slot in enumerate(formula.slots) if slot.atom is None)
    return formula.changed(formula.picks, [], without=number)


def test_a_needless_constant_seldom_pays_and_a_true_one_always_does() -> None:
    draws = [_points(seed, 1.0) for seed in range(7)]
    cheaper, fits_better = [], []
    for fitted, judged in itertools.permutations(draws, 2):
        judge = _Judge((fitted, judged), PROCESS, NEVER)
        with_offset = _formula(0.5, 0.0)
        without = _without_offset(with_offset)
        cost, cost_without = judge.cost(with_offset), judge.cost(without)
        assert len(with_offset.constants) == len(without.constants) + 1
        cheaper.append(cost < cost_without)
        fits_better.append(with_offset.loss(judged, PROCESS) < without.loss(judged, PROCESS))
    assert np.mean(fits_better) > 0.2
    assert np.mean(cheaper) < 0.15
    # The variance of these points is 0.5, of which -x alone does not know.
    for seed in range(2):
        judge = _Judge((_points(seed, 0.5), _points(seed + 50, 0.5)), PROCESS, NEVER)
        assert judge.cost(_without_offset(_formula(0.5, 0.5))) + 0.01 < judge.cost(
            _without_offset(_formula(0.5, 0.0))
        )


def test_a_variance_is_found_and_an_offset_is_not() -> None:
    formula = best_forms(
        _formula(0.5, 0.3), (_points(0, 0.5), _points(1, 0.5)), PROCESS, time.monotonic() + 60
    )
    assert [slot.role for slot in formula.slots] == ["own outside"]
    assert formula.constants == pytest.approx([-0.5], abs=0.05)


def test_a_search_that_is_out_of_time_gives_what_it_has() -> None:
    first = _formula(0.5, 0.3)
    given = best_forms(first, (_points(0, 0.5), _points(1, 0.5)), PROCESS, time.monotonic())
    assert [slot.role for slot in given.slots] == [slot.role for slot in first.slots]
    assert given.picks == first.picks
    tied = tie_constants(given, (_points(0, 0.5), _points(1, 0.5)), PROCESS, time.monotonic())
    assert tied.ties.tolist() == list(range(len(tied.constants)))
