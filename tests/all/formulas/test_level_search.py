"""How often a search chooses a form that is not needed, and one that is."""

import time
from itertools import pairwise

import numpy as np

from gaussian_levels import PROCESS, formula, noised
from kan_diffusion.formulas.levels.search import best_forms


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
