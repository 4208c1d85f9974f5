import math

import numpy as np
import pytest
import scipy.stats
import torch
from scipy.spatial.distance import cdist

from helpers import refused, seeded
from kan_diffusion.errors import DataError
from kan_diffusion.evaluation.metrics import (
    SAMPLE_METRICS,
    Metric,
    c2st,
    energy_distance,
    metrics_named,
    real_against_real,
    sample_metrics,
    sliced_wasserstein2,
)

QUICK = metrics_named(effort="quick")  # where it does not matter how good a classifier is


def normal(count, dimension=2, seed=0, shift=0.0, scale=1.0):
    return shift + scale * torch.randn(count, dimension, generator=seeded(seed))


def test_energy_distance_is_that_of_all_pairs_and_the_square_of_scipys():
    for dim in (1, 3):
        x, y = normal(1_500, dim, 0), normal(900, dim, 1, shift=0.3)  # more than are held at once
        a, b = x.double().numpy(), y.double().numpy()
        direct = 2 * cdist(a, b).mean() - cdist(a, a).mean() - cdist(b, b).mean()
        assert energy_distance(x, y) == pytest.approx(direct, rel=1e-9)
        if dim == 1:
            theirs = scipy.stats.energy_distance(a[:, 0], b[:, 0])
            assert energy_distance(x, y) == pytest.approx(theirs**2, rel=1e-9)


def test_transport_is_sorting_in_one_dimension_and_of_a_shift_the_shift_over_root_d():
    x, y = normal(500, 1, 0), normal(300, 1, 1, shift=1.0, scale=2.0)
    # Repeated, so that there are as many of both.
    gaps = x.double().repeat(3, 1).sort(dim=0).values - y.double().repeat(5, 1).sort(dim=0).values
    expected = float(gaps.square().mean().sqrt())
    assert sliced_wasserstein2(x, y, 0) == pytest.approx(expected, rel=1e-6)
    x, shift = normal(300, 3, 0), torch.tensor([3.0, -1.0, 2.0])
    value = sliced_wasserstein2(x, x + shift, 0, num_directions=4_000)
    assert value == pytest.approx(float(shift.norm()) / math.sqrt(3), rel=0.04)


def test_c2st_comes_near_the_best_accuracy_there_is():
    scores = [c2st(normal(800, 2, 2 * i), normal(800, 2, 2 * i + 1), i) for i in range(2)]
    assert np.mean(scores) == pytest.approx(0.5, abs=0.04)
    assert c2st(normal(400), normal(400, seed=1, shift=10.0), 0) > 0.995
    assert c2st(normal(1_200, 2, 0), normal(300, 2, 1), 0) == pytest.approx(0.5, abs=0.08)
    # The best classifier of N(0, 1) and N(2, 1) is right with probability Phi(1).
    score = c2st(normal(2_000, 1, 0), normal(2_000, 1, 1, shift=2.0), 0)
    assert score == pytest.approx(scipy.stats.norm.cdf(1.0), abs=0.04)


def test_a_common_shift_changes_nothing_and_degenerate_points_give_finite_numbers():
    x, y = normal(100, 2, 0).double(), normal(80, 2, 1).double()
    for key, metric in QUICK.items():
        there, here = (metric.function(x + s, y + s, np.random.default_rng(0)) for s in (1e6, 0.0))
        assert there == pytest.approx(here, rel=1e-4, abs=0.02 if key == "c2st" else 1e-9)
    for generated, fresh, expected in (
        (torch.zeros(20, 2), torch.zeros(20, 2), {"energy": 0, "sliced_w2": 0, "c2st": 0.5}),
        (torch.zeros(20, 1), torch.ones(7, 1), {"energy": 2, "sliced_w2": 1, "c2st": 1}),
        (torch.ones(30, 3).cumsum(0) // 10, normal(25, 3), {}),  # duplicates
        (normal(2, 2), normal(2, 2, seed=1), {}),
    ):
        scores = sample_metrics(generated, fresh, np.random.default_rng(0), QUICK)
        assert all(math.isfinite(score) and score >= 0 for score in scores.values())
        assert {key: scores[key] for key in expected} == pytest.approx(expected)


def test_each_metric_has_a_stream_of_its_own_and_a_perfect_model_scores_the_mean_over_pairs():
    x, y = normal(60, 2, 0), normal(60, 2, 1)
    first, second, other = (
        sample_metrics(x, y, np.random.default_rng(s), QUICK) for s in (4, 4, 5)
    )
    assert first == second
    assert list(first) == list(QUICK) == list(SAMPLE_METRICS)
    assert first["sliced_w2"] != other["sliced_w2"]
    some = {"c2st": QUICK["c2st"]}
    assert sample_metrics(x, y, np.random.default_rng(4), some)["c2st"] == first["c2st"]
    pairs = [(normal(100, 2, 2 * i), normal(100, 2, 2 * i + 1)) for i in range(3)]
    some = {"energy": SAMPLE_METRICS["energy"]}
    means = real_against_real(pairs, np.random.default_rng(0), some)
    assert means["energy"] == pytest.approx(np.mean([energy_distance(*pair) for pair in pairs]))


def test_a_metric_of_ones_own_that_gives_no_number_is_named():
    def broken(x, y, generator):
        raise ValueError("no\nroot")

    for function, said in ((broken, "ValueError: no root"), (lambda *_: None, "TypeError: float")):
        own = {"own": Metric("own", "Own", "lower", function)}
        with refused(f"metric 'own' gives no number .{said}"):
            sample_metrics(normal(9), normal(9), np.random.default_rng(0), own)


def test_points_that_cannot_be_compared_are_named():
    broken = normal(5, 2)
    broken[1, 0] = math.nan
    for call, message in (
        (lambda: energy_distance(normal(5, 2), normal(5, 3)), r"\(5, 2\) and \(5, 3\)"),
        (lambda: energy_distance(broken, normal(5, 2)), "1 of the 5 points of the first sample"),
        (lambda: c2st(normal(1, 2), normal(5, 2), 0), "at least 2 points"),
    ):
        with refused(message, DataError):
            call()
    pair = normal(5, 2), normal(5, 2), 0
    with refused("num_directions must be a whole number, at least 1, not 0"):
        sliced_wasserstein2(*pair, num_directions=0)
    with refused("num_trees must be a whole number, at least 1, not 0"):
        c2st(*pair, num_trees=0)
