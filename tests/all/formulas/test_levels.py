"""One formula for all noise levels: what it is fitted to, and how often it is the right one."""

import time
from itertools import pairwise

import numpy as np

from gaussian_levels import PROCESS, formula, noised
from kan_diffusion.formulas.levels.search import best_forms


def test_a_needless_constant_seldom_pays_and_a_true_one_always_does():
    # Of standard normal points -x is the score; where the variance is 0.5, it is not.
    def constants(variance, num):
        draws, first = [noised(seed, variance) for seed in range(num + 1)], formula(0.5, 0.3)
        searches = (
            best_forms(first, halves, PROCESS, time.monotonic() + 60, sweeps=1)
            for halves in pairwise(draws)
        )
        return [len(found.constants) for found in searches]

    assert np.mean(np.array(constants(1.0, 6)) > 0) < 0.2
    assert set(constants(0.5, 3)) == {1}
