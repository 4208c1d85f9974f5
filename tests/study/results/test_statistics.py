import itertools
import math
from functools import partial

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from kan_diffusion.study.results.statistics import (
    Interval,
    bootstrap_interval,
    holm,
    mean_interval,
    median_ratio,
    paired_permutation_p,
    smallest_permutation_p,
)

_bootstrap = partial(bootstrap_interval, resamples=499)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=12))
def test_mean_interval_is_scipys(sample):
    interval = mean_interval(sample)
    if np.ptp(sample) <= 1e-6 * (1 + np.abs(sample).max()):
        assert interval.low == pytest.approx(interval.mean, abs=1e-3)
        return
    expected = scipy.stats.ttest_1samp(sample, 0.0).confidence_interval(0.95)
    scale = 1e-9 * (1 + np.abs(sample).max())
    assert interval.low == pytest.approx(expected.low, abs=scale)
    assert interval.high == pytest.approx(expected.high, abs=scale)
    assert interval.mean == pytest.approx(np.mean(sample), abs=scale)


@pytest.mark.parametrize(
    ("interval", "num", "coverage", "count"),
    [
        (mean_interval, 3, 0.95, 4_000),
        *((_bootstrap, num, share, 600) for num, share in ((5, 0.82), (10, 0.89), (40, 0.94))),
    ],
)
def test_intervals_cover_the_mean_as_often_as_the_module_says(interval, num, coverage, count):
    samples = np.random.default_rng(num).normal(2.0, 0.7, (count, num))
    covered = np.mean([i.low <= 2.0 <= i.high for i in map(interval, samples)])
    assert covered == pytest.approx(coverage, abs=4 * math.sqrt(coverage * (1 - coverage) / count))


@pytest.mark.parametrize("interval", [mean_interval, bootstrap_interval])
def test_intervals_of_too_little(interval):
    assert interval([0.25, math.nan, None, math.inf]) == Interval(0.25, None, None, 1)
    nothing = interval([None, math.nan])
    assert math.isnan(nothing.mean)
    assert (nothing.low, nothing.high, nothing.n) == (None, None, 0)
    assert interval([0.5, 0.5, 0.5]) == Interval(0.5, 0.5, 0.5, 3)


def test_bootstrap_interval_leans_towards_the_long_tail():
    samples = np.random.default_rng(2).exponential(1.0, (50, 20))
    intervals = [_bootstrap(sample) for sample in samples]
    above, below = (sum(i.high - i.mean for i in intervals), sum(i.mean - i.low for i in intervals))
    assert above > 1.2 * below


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(-50, 50, width=16), min_size=2, max_size=12),
    st.sampled_from([2.0**-600, 0.25, 2.0**40]),
)
def test_bootstrap_interval_grows_with_its_values(sample, scale):
    # Powers of two, whose products are exact: not even the cube of a tiny difference may vanish.
    before = bootstrap_interval(sample, resamples=199)
    after = bootstrap_interval([scale * value for value in sample], resamples=199)
    for end in ("mean", "low", "high"):
        assert getattr(after, end) == scale * getattr(before, end)
    slack = 1e-12 * max(map(abs, sample))
    assert min(sample) - slack <= before.low <= before.high <= max(sample) + slack


def test_bootstrap_interval_falls_back_where_bca_is_undefined():
    # Of two resamples both means often lie on one side of the mean: no bias can be told from that.
    for sample in np.random.default_rng(0).exponential(size=(20, 4)):
        interval = bootstrap_interval(sample, resamples=2)
        assert min(sample) <= interval.low <= interval.high <= max(sample)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-9, 9), min_size=1, max_size=8))
def test_permutation_p_counts_all_flips_of_signs(differences):
    flips = np.array(list(itertools.product([-1, 1], repeat=len(differences))))
    sums = np.abs(flips @ np.array(differences))
    assert paired_permutation_p(differences) == (sums >= abs(sum(differences))).mean()


def test_permutation_p_by_hand():
    # |±1 ±2 ±4| >= 5 for 5 and 7 only; zeros and what is missing change nothing.
    assert paired_permutation_p([-1.0, 0.0, 2.0, None, 4.0, math.nan, 0.0]) == 4 / 8
    # A sum of 0 is reached by all flips, whatever the rounding of the order they are added in.
    assert paired_permutation_p([1, 1, 1, -1, -1, -2, -4, 5]) == 1.0
    assert paired_permutation_p([-1e-9] * 10) == 2 / 1_024
    assert paired_permutation_p([0.3]) == paired_permutation_p([0.0, 0.0]) == 1.0
    assert math.isnan(paired_permutation_p([None, math.nan]))


def test_permutation_p_of_many_differences_is_near_the_t_test():
    sample = np.random.default_rng(4).normal(0.4, 1.0, 40)
    p = paired_permutation_p(sample)
    assert p == pytest.approx(scipy.stats.ttest_1samp(sample, 0.0).pvalue, rel=0.15)
    assert p == paired_permutation_p(sample)
    assert p == paired_permutation_p(-sample)
    # Random flips never give 0.
    assert paired_permutation_p(np.ones(40)) == pytest.approx(2 / 100_000)


def test_permutation_p_is_as_small_as_can_be_where_all_signs_agree():
    for num in range(1, 12):
        assert paired_permutation_p(np.arange(1.0, num + 1)) == smallest_permutation_p(num)
    assert smallest_permutation_p(5) == 0.0625
    assert math.isnan(smallest_permutation_p(0))


def test_holm_by_hand():
    # Sorted 0.005, 0.01, 0.03, 0.04; times 4, 3, 2, 1; the last raised to the one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(st.floats(0, 1), st.just(math.nan)), max_size=12))
def test_holm_raises_keeps_order_and_leaves_out_what_was_not_tested(p_values):
    adjusted = holm(p_values)
    assert [math.isnan(value) for value in adjusted] == [math.isnan(value) for value in p_values]
    tested = [(p, q) for p, q in zip(p_values, adjusted, strict=True) if not math.isnan(p)]
    assert [q for _, q in tested] == holm([p for p, _ in tested])
    for (p, q), (other_p, other_q) in itertools.product(tested, repeat=2):
        assert p <= q <= 1
        assert q <= other_q or p > other_p
        # The step-down procedure itself: reject while p_(i) <= level / (m - i + 1).
    for level in (0.05, 0.5):
        rejected = 0
        for p in sorted(p for p, _ in tested):
            if p * (len(tested) - rejected) > level:
                break
            rejected += 1
        assert sum(q <= level for _, q in tested) == rejected


def test_the_median_ratio_takes_data_sets_as_they_are_and_seeds_as_drawn():
    generator = np.random.default_rng(0)
    pairs = [np.exp(generator.normal(size=(10, 2))) for _ in range(5)]
    ratios = [values[:, 0].mean() / values[:, 1].mean() for values in pairs]
    found = median_ratio(pairs)
    assert found.mean == pytest.approx(sorted(ratios)[2])
    assert found.n == 5
    assert found.low < found.mean < found.high
    # The unit of a data set has no say.
    scaled = median_ratio([values * 10.0**power for power, values in enumerate(pairs)])
    assert (scaled.low, scaled.high) == pytest.approx((found.low, found.high))
    # Models that differ by one factor in every seed differ by it in every draw of seeds.
    shared = [values[:, 1:] * [0.8, 1.0] for values in pairs]
    exact = median_ratio(shared)
    assert (exact.low, exact.mean, exact.high) == pytest.approx((0.8, 0.8, 0.8))
    # One seed is no spread, and no data set no number.
    assert median_ratio([values[:1] for values in pairs]).low is None
    assert math.isnan(median_ratio([]).mean)


def test_the_interval_of_a_median_ratio_covers_the_true_one():
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(100):
        # Seeds of a pair share most of their scatter, as models that see the same data do.
        pairs = [
            np.exp(0.3 * generator.normal(size=(10, 1)) + 0.1 * generator.normal(size=(10, 2)))
            * [0.8, 1.0]
            for _ in range(13)
        ]
        found = median_ratio(pairs, resamples=400)
        covered += found.low <= 0.8 <= found.high
    # 95 of 100, less what ten seeds cannot know; 85 is 4.6 standard deviations below 95.
    assert covered >= 85
