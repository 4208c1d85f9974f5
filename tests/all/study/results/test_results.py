"""How often verdicts on equals are wrong."""

import math
from functools import partial

import numpy as np
import pytest

from kan_diffusion.study.results.rows import Results
from kan_diffusion.study.results.statistics import bootstrap_interval
from kan_diffusion.study.results.verdicts import decide
from synthetic_study import rows_of

def _called_apart(names, num_studies, seed):
    """How many studies of models that are all alike, ten seeds each, find a better kind."""
    generator = np.random.default_rng(seed)
    values = np.exp(0.3 * generator.normal(size=(num_studies, len(names), 10)))
    studies = (rows_of({"moons": dict(zip(names, each, strict=True))}) for each in values)
    with pytest.MonkeyPatch.context() as patch:
        fewer = partial(bootstrap_interval, resamples=999)
        patch.setattr("kan_diffusion.study.results.verdicts.bootstrap_interval", fewer)
        found = [decide(Results.of(rows)).verdicts["moons"] for rows in studies]
    return sum(each.outcome != "not distinguishable" for each in found)


def test_a_pair_of_equals_is_told_apart_as_often_as_the_level_says():
    # Binomial: 120 draws at 0.05, four standard deviations above; at none the test would be idle.
    called = _called_apart(("KAN", "MLP"), 120, seed=8)
    assert 0 < called < 120 * 0.05 + 4 * math.sqrt(120 * 0.05 * 0.95)


def test_the_best_of_equals_are_rarely_told_apart():
    # The best are compared on the very seeds that chose them.
    assert _called_apart(("KAN", "modulated KAN", "MLP", "MLP ReLU"), 120, seed=7) < 12
