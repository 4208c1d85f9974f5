import math

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from helpers import randn, refused, seeded
from kan_diffusion.data.toys import make_toy
from kan_diffusion.errors import DataError
from kan_diffusion.evaluation.metrics import (
    SAMPLE_METRICS,
    c2st,
    energy_distance,
    frechet_distance,
    mmd,
    real_against_real,
    sample_metrics,
    sliced_wasserstein2,
    wasserstein2,
)


def normal(count, dimension=2, seed=0, shift=0.0, scale=1.0):
    return shift + scale * torch.randn(count, dimension, generator=seeded(seed))


@given(
    st.lists(st.floats(-50, 50), min_size=1, max_size=30),
    st.lists(st.floats(-50, 50), min_size=1, max_size=30),
)
@settings(max_examples=50, deadline=None)
def test_energy_distance_is_the_square_of_scipys(first, second):
    ours = energy_distance(torch.tensor(first)[:, None], torch.tensor(second)[:, None])
    theirs = scipy.stats.energy_distance(
        torch.tensor(first).double().numpy(), torch.tensor(second).double().numpy()
    )
    assert ours == pytest.approx(theirs**2, rel=1e-5, abs=1e-10)


def test_energy_distance_in_chunks_equals_one_matrix(monkeypatch):
    x, y = normal(137, 3, 0), normal(91, 3, 1, shift=0.3)
    whole = energy_distance(x, y)
    monkeypatch.setattr("kan_diffusion.evaluation.metrics._PAIRS_PER_CHUNK", 500)
    assert energy_distance(x, y) == pytest.approx(whole, rel=1e-12)
    a, b = x.double().numpy(), y.double().numpy()
    direct = 2 * cdist(a, b).mean() - cdist(a, a).mean() - cdist(b, b).mean()
    assert whole == pytest.approx(direct, rel=1e-9)


def test_energy_distance_of_two_real_samples_is_what_its_docstring_says():
    count = 400
    values = [
        energy_distance(normal(count, 2, 2 * i), normal(count, 2, 2 * i + 1)) for i in range(60)
    ]
    expected = 2 * math.sqrt(math.pi) / count  # E|X - X'| of a standard normal plane is sqrt(pi)
    error = np.std(values, ddof=1) / math.sqrt(len(values))
    assert abs(np.mean(values) - expected) < 4 * error
    assert error < 0.1 * expected


def test_wasserstein2_equals_the_best_assignment():
    x, y = normal(80, 3, 0), normal(80, 3, 1, shift=0.5)
    cost = cdist(x.double().numpy(), y.double().numpy(), "sqeuclidean")
    rows, columns = linear_sum_assignment(cost)
    assert wasserstein2(x, y, 0) == pytest.approx(math.sqrt(cost[rows, columns].mean()), rel=1e-6)


def test_transport_in_one_dimension_is_sorting():
    x, y = normal(500, 1, 0), normal(500, 1, 1, shift=1.0, scale=2.0)
    gaps = x.double().sort(dim=0).values - y.double().sort(dim=0).values
    expected = float(gaps.square().mean().sqrt())
    assert wasserstein2(x, y, 0) == pytest.approx(expected, rel=1e-6)
    assert sliced_wasserstein2(x, y, 0) == pytest.approx(expected, rel=1e-6)


def test_sliced_wasserstein2_of_a_shift_is_the_shift_over_root_d():
    x = normal(300, 3, 0)
    shift = torch.tensor([3.0, -1.0, 2.0])
    value = sliced_wasserstein2(x, x + shift, 0, num_directions=4_000)
    assert value == pytest.approx(float(shift.norm()) / math.sqrt(3), rel=0.04)


def test_mmd_equals_its_definition():
    x, y = normal(60, 2, 0), normal(45, 2, 1, shift=1.0)
    a, b = x.double().numpy(), y.double().numpy()

    def kernel(p, q):
        return np.mean(
            [
                np.exp(-cdist(p, q, "sqeuclidean") / (2 * (f * 0.8) ** 2))
                for f in (0.25, 0.5, 1, 2, 4)
            ]
        )

    expected = kernel(a, a) + kernel(b, b) - 2 * kernel(a, b)
    assert mmd(x, y, 0, bandwidth=0.8) == pytest.approx(expected, rel=1e-9)


def test_the_default_bandwidth_of_mmd_depends_on_the_fresh_points_alone():
    fresh = normal(200, 2, 0)
    distances = torch.pdist(fresh.double())
    generated = normal(150, 2, 1, scale=30.0)
    assert mmd(generated, fresh, 0) == mmd(generated, fresh, 0, bandwidth=float(distances.median()))


def test_c2st_is_a_half_for_one_distribution_and_one_for_two_apart():
    scores = [c2st(normal(800, 2, 2 * i), normal(800, 2, 2 * i + 1), i) for i in range(4)]
    assert np.mean(scores) == pytest.approx(0.5, abs=0.03)
    assert c2st(normal(400), normal(400, seed=1, shift=10.0), 0) > 0.995


def test_c2st_comes_near_the_best_accuracy_there_is():
    # The best classifier of N(0, 1) and N(2, 1) is right with probability Phi(1).
    score = c2st(normal(2_000, 1, 0), normal(2_000, 1, 1, shift=2.0), 0)
    assert score == pytest.approx(scipy.stats.norm.cdf(1.0), abs=0.04)


def test_c2st_is_not_fooled_by_unequal_sizes():
    assert c2st(normal(1_200, 2, 0), normal(300, 2, 1), 0) == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize("key", ["energy", "sliced_w2", "w2", "mmd"])
def test_distances_are_symmetric_zero_on_the_same_points_and_grow_with_a_shift(key):
    function = SAMPLE_METRICS[key].function
    x, y = normal(300, 2, 0), normal(300, 2, 1, shift=0.5)

    def value(a, b):
        return function(a, b, np.random.default_rng(3))

    assert value(x, x) == pytest.approx(0.0, abs=1e-6)
    if key != "mmd":  # its bandwidth is that of the second sample
        assert value(x, y) == pytest.approx(value(y, x), rel=1e-6)
    same, near, far = (value(normal(300, 2, 5), normal(300, 2, 1, shift=s)) for s in (0, 0.5, 2))
    assert 0 < same < near < far


@pytest.mark.parametrize("key", SAMPLE_METRICS)
def test_a_common_shift_changes_nothing(key):
    function = SAMPLE_METRICS[key].function
    x, y = normal(200, 2, 0).double(), normal(150, 2, 1).double()
    there, here = (function(x + s, y + s, np.random.default_rng(0)) for s in (1e6, 0.0))
    assert there == pytest.approx(here, rel=1e-4, abs=0.02 if key == "c2st" else 1e-9)


@pytest.mark.parametrize(
    ("generated", "fresh"),
    [
        (torch.zeros(20, 2), torch.zeros(20, 2)),
        (torch.zeros(20, 1), torch.ones(7, 1)),
        (torch.ones(30, 3).cumsum(0) // 10, normal(25, 3)),
        (normal(2, 2), normal(2, 2, seed=1)),
    ],
    ids=["all the same", "two constants", "duplicates", "two points"],
)
def test_degenerate_points_give_finite_numbers(generated, fresh):
    scores = sample_metrics(generated, fresh, np.random.default_rng(0))
    assert all(math.isfinite(score) and score >= 0 for score in scores.values())
    if torch.equal(generated, fresh):
        expected = {"energy": 0, "sliced_w2": 0, "w2": 0, "mmd": 0, "c2st": 0.5}
        assert {key: scores[key] for key in expected} == expected
    else:
        assert scores["w2"] > 0
    if generated.shape[1] == 1:  # constants one apart
        expected = {"energy": 2.0, "w2": 1.0, "sliced_w2": 1.0, "c2st": 1.0}
        assert {key: scores[key] for key in expected} == pytest.approx(expected)


def test_one_generator_gives_one_answer_and_no_other_is_touched():
    x, y = normal(300, 2, 0), normal(300, 2, 1)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    first, second, other = (sample_metrics(x, y, np.random.default_rng(s)) for s in (4, 4, 5))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert first == second
    assert list(first) == list(SAMPLE_METRICS)
    assert first["sliced_w2"] != other["sliced_w2"]
    assert first["energy"] == other["energy"]


def test_real_against_real_is_the_mean_over_its_pairs():
    pairs = [(normal(100, 2, 2 * i), normal(100, 2, 2 * i + 1)) for i in range(3)]
    means = real_against_real(pairs.__getitem__, 3, np.random.default_rng(0))
    assert means["energy"] == pytest.approx(np.mean([energy_distance(*pair) for pair in pairs]))
    assert means["w2"] == pytest.approx(np.mean([wasserstein2(*pair, 0) for pair in pairs]))


def test_points_that_cannot_be_compared_are_named():
    with pytest.raises(DataError, match=r"\(5, 2\) and \(5, 3\)"):
        energy_distance(normal(5, 2), normal(5, 3))
    broken = normal(5, 2)
    broken[1, 0] = math.nan
    with pytest.raises(DataError, match="1 of the 5 points of the first sample"):
        mmd(broken, normal(5, 2), 0)
    with pytest.raises(DataError, match="at least 2 points"):
        c2st(normal(1, 2), normal(5, 2), 0)
    with pytest.raises(DataError, match="at least 1"):
        real_against_real(lambda _: (normal(5), normal(5)), 0, np.random.default_rng(0))


def test_frechet_distance_is_that_of_the_matrix_root() -> None:
    x, y = randn(300, 5), randn(400, 5, seed=1) @ randn(5, 5, seed=2) + 0.5
    s, t = (np.cov(side.numpy().T) for side in (x, y))
    means = (x.mean(dim=0) - y.mean(dim=0)).square().sum()
    direct = float(means) + np.trace(s + t - 2 * scipy.linalg.sqrtm(s @ t).real)
    assert frechet_distance(x, y) == pytest.approx(direct, rel=1e-8)
    assert frechet_distance(x, x) == pytest.approx(0.0, abs=1e-8)
    # Fewer points than dimensions: covariances without an inverse.
    assert frechet_distance(randn(3, 8), randn(3, 8)) == pytest.approx(0.0, abs=1e-8)


def test_frechet_distance_is_as_much_too_large_as_is_said() -> None:
    n, d = 2000, 8
    found = [frechet_distance(randn(n, d, seed=k), randn(n, d, seed=k + 50)) for k in range(20)]
    assert np.mean(found) == pytest.approx((d**2 + 5 * d) / (2 * n), rel=0.1)


def test_frechet_distance_of_shifted_and_scaled_normals() -> None:
    x = randn(1000, 1)
    std = float(x.std())
    assert frechet_distance(x, 3 * x + 2 - 2 * x.mean()) == pytest.approx(4 + 4 * std**2, rel=1e-9)
    with refused("at least 2 points a side", DataError):
        frechet_distance(x[:1], x)


def test_metrics_within_classes_see_classes_that_are_exchanged() -> None:
    density = make_toy("two-modes")
    modes = torch.arange(600) % 2
    real, right, wrong = (
        density.sample_given(which, seeded(seed))
        for seed, which in enumerate((modes, modes, 1 - modes))
    )
    labels = modes.clone()
    labels[0] = 2  # a class of a single point says nothing
    energy = {"energy": SAMPLE_METRICS["energy"]}

    def score(points: torch.Tensor, classes: torch.Tensor | None) -> float:
        generator = np.random.default_rng(0)
        return sample_metrics(points, real, generator, energy, classes)["energy"]

    assert score(wrong, None) < 0.02
    assert score(wrong, labels) > 100 * score(right, labels) > 0
    parts = [labels == label for label in (0, 1)]
    by_hand = [energy_distance(right[rows], real[rows]) for rows in parts]
    assert score(right, labels) == pytest.approx(np.average(by_hand, weights=[299, 300]))
    with refused("no class has two points", DataError):
        score(right, torch.arange(600))
