import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from kan_diffusion.errors import DataError
from kan_diffusion.study.statistics import (
    Interval,
    difference_interval,
    mean_interval,
    summarise,
)

values = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=12)


@settings(max_examples=40, deadline=None)
@given(values, st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_mean_interval_is_scipys(sample, confidence):
    interval = mean_interval(sample, confidence)
    if np.ptp(sample) <= 1e-6 * (1 + np.abs(sample).max()):
        assert interval.low == pytest.approx(interval.mean, abs=1e-3)
        return
    expected = scipy.stats.ttest_1samp(sample, 0.0).confidence_interval(confidence)
    scale = 1e-9 * (1 + np.abs(sample).max())
    assert interval.low == pytest.approx(expected.low, abs=scale)
    assert interval.high == pytest.approx(expected.high, abs=scale)
    assert interval.mean == pytest.approx(np.mean(sample), abs=scale)


@settings(max_examples=40, deadline=None)
@given(values, values)
def test_difference_interval_is_welchs(first, second):
    interval = difference_interval(first, second)
    assert interval.mean == pytest.approx(np.mean(first) - np.mean(second), abs=1e-9)
    if min(np.ptp(first), np.ptp(second)) < 1e-3:
        return
    test = scipy.stats.ttest_ind(first, second, equal_var=False)
    expected = test.confidence_interval(0.95)
    assert interval.low == pytest.approx(expected.low, rel=1e-7, abs=1e-7)
    assert interval.high == pytest.approx(expected.high, rel=1e-7, abs=1e-7)


def test_intervals_of_three_seeds_cover_the_truth_as_often_as_they_say():
    samples = np.random.default_rng(0).normal(2.0, 0.7, (4_000, 3))
    intervals = [mean_interval(sample, 0.9) for sample in samples]
    covered = np.mean([i.low <= 2.0 <= i.high for i in intervals])
    assert covered == pytest.approx(0.9, abs=4 * math.sqrt(0.09 / 4_000))


def test_one_value_has_no_interval_and_none_has_no_mean():
    assert mean_interval([0.25, math.nan, None, math.inf]) == Interval(0.25, None, None, 1)
    nothing = mean_interval([None, math.nan])
    assert math.isnan(nothing.mean)
    assert (nothing.low, nothing.high, nothing.n) == (None, None, 0)
    assert difference_interval([1.0], [2.0, 3.0]) == Interval(-1.5, None, None, 1)


def test_equal_values_give_an_interval_of_no_width():
    assert mean_interval([0.5, 0.5, 0.5]) == Interval(0.5, 0.5, 0.5, 3)
    assert difference_interval([0.5, 0.5], [0.25, 0.25]) == Interval(0.25, 0.25, 0.25, 2)


def test_overlap():
    low, middle, high = (Interval(m, m - 1, m + 1, 3) for m in (0.0, 1.5, 3.0))
    assert low.overlaps(middle)
    assert middle.overlaps(high)
    assert low.overlaps(high) is False
    assert low.overlaps(Interval(0.0, None, None, 1)) is None


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_impossible_confidence_is_refused(confidence):
    with pytest.raises(DataError, match="between 0 and 1"):
        mean_interval([1.0, 2.0], confidence)


def test_summarise_keeps_order_and_leaves_out_what_is_missing():
    rows = pd.DataFrame(
        {
            "data": ["b", "b", "b", "a", "a"],
            "name": ["mlp", "kan", "mlp", "kan", "kan"],
            "excess": [1.0, 5.0, 3.0, None, math.nan],
        }
    )
    table = summarise(rows, ["data", "name"], ["excess", "absent"])
    assert table[["data", "name"]].values.tolist() == [["b", "mlp"], ["b", "kan"], ["a", "kan"]]
    assert table["excess_n"].tolist() == [2, 1, 0]
    assert table["excess_mean"].tolist()[:2] == [2.0, 5.0]
    expected = mean_interval([1.0, 3.0])
    assert table.loc[0, ["excess_low", "excess_high"]].tolist() == [expected.low, expected.high]
    assert table[["excess_low", "absent_mean"]].iloc[1:].isna().all(axis=None)
    assert table["absent_n"].tolist() == [0, 0, 0]


def test_summarise_of_no_rows_and_of_a_column_that_is_not_there():
    table = summarise(pd.DataFrame(columns=["name", "excess"]), ["name"], ["excess"])
    assert list(table) == ["name", "excess_mean", "excess_low", "excess_high", "excess_n"]
    assert table.empty
    with pytest.raises(DataError, match="no column 'family'"):
        summarise(pd.DataFrame({"name": ["kan"]}), ["family"], [])
