"""One formula for all noise levels: what it is fitted to, and how often it is the right one."""

import time
from itertools import pairwise

import numpy as np
import pytest
import torch

from gaussian_levels import PROCESS, formula, noised, require_the_score_is_found
from helpers import seeded
from kan_diffusion.data.toys import make_toy
from kan_diffusion.formulas.averaged import draw_averaged
from kan_diffusion.formulas.levels.search import best_forms


@pytest.mark.parametrize(("prediction_type", "effort"), [("epsilon", "quick"), ("sample", "full")])
def test_the_score_of_a_gaussian_is_found_at_all_levels(prediction_type, effort):
    require_the_score_is_found(prediction_type, effort)


def test_a_needless_constant_seldom_pays_and_a_true_one_always_does():
    # Of standard normal points -x is the score; where the variance is 0.5, it is not.
    needless, needed = [], []
    for pair in pairwise(range(7)):
        for variance, constants in ((1.0, needless), (0.5, needed)):
            halves = [noised(seed, variance) for seed in pair]
            found = best_forms(formula(0.5, 0.3), halves, PROCESS, time.monotonic() + 60, sweeps=1)
            constants.append(len(found.constants))
    assert np.mean(np.array(needless) > 0) < 0.2
    assert set(needed) == {1}


def test_averages_of_a_few_points_are_right_because_the_source_is_among_them():
    """Of batches of three, one noised point each, so that all errors are independent."""
    process = PROCESS.model_copy(update={"num_timesteps": 100})
    density = make_toy("two-modes")
    points = density.sample(36_000, seeded())
    drawn = draw_averaged(points, process, 12_000, seeded(1), batch=3, num_noised=1)
    assert drawn.num_clean == 36_000
    levels = drawn.alpha, drawn.sigma

    def best(noised):
        mean = density.posterior_mean(noised, drawn.alpha[:, 0], drawn.sigma[:, 0])
        return process.prediction_of_mean(mean, noised, *levels)

    off = drawn.target - best(drawn.noised)
    for weight in (torch.ones_like(off), drawn.noised, drawn.noised**3, drawn.noised.tanh()):
        product = off * weight
        assert abs(float(product.mean())) < 4 * float(product.std()) / 12_000**0.5
    # What a single target has more of it is their distance.
    clean = density.sample(len(off), seeded(2))
    noise = torch.randn(clean.shape, generator=seeded(3), dtype=torch.float64)
    noised_points = drawn.alpha * clean + drawn.sigma * noise
    single = process.target(clean, noise, *levels) - best(noised_points)
    expected = float(single.square().mean())
    assert float(off.square().mean()) + drawn.spread == pytest.approx(expected, rel=0.06)
