r"""Intervals and tests for a few seeds.

**One mean.** With values v_1..v_n of n independent seeds, mean v̄ and standard deviation s, the
interval is Student's: v̄ ± t(n - 1) s / √n. It assumes that seeds are independent draws and roughly
normal; with three of them the interval is wide, as it should be.

**Paired seeds.** Two models with the same seed share data, noise and order, so their differences
d_1..d_n, one per seed, are compared with 0.

- The *bootstrap interval* (Efron 1987, BCa) draws n of the n values with replacement many times and
  takes quantiles of the means, corrected for bias and skewness. It assumes independent seeds and no
  shape of their distribution. Few values cannot show its tails, though: for normal values a 95 %
  interval covers the mean about 82 % of the time with 5 seeds and 89 % with 10.
- The *sign-flip test* flips the signs of the differences in all 2^n ways; its p is the fraction of
  these that give a mean at least as far from 0 as the observed one. It is exact if differences are
  symmetric about 0 when the models do not differ, as they are if a seed's two values could be
  swapped. The smallest p it can give is 2 / 2^n: 0.0625 with 5 seeds, 0.03125 with 6, 0.00195 with
  10.

**Many data sets.** With m_d and b_d the means of two models on data set d, the median over d of
m_d / b_d summarises their comparison. Its interval draws the seeds of each data set with
replacement, the same for both models, and takes quantiles of the medians. The data sets are fixed:
the interval says how certain the median is on these, not on others.

**Many tests.** If many true null hypotheses are tested at 0.05 each, some are rejected by chance.
Holm (1979) sorts p_(1) <= ... <= p_(m) and adjusts p_(i) to the maximum over j <= i of
(m - j + 1) p_(j), at most 1. If hypotheses with an adjusted p of at most 0.05 are rejected, the
probability of any false rejection is at most 0.05, however the tests depend on each other.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from kan_diffusion.randomness import numpy_generator

SIGNIFICANCE = 0.05
"""A difference counts as one if its p-value, corrected for the number of tests, is below this."""

_CONFIDENCE = 1 - SIGNIFICANCE
_MOST_FLIPS = 99_999
# Random sign flips are made in parts of this many, which keeps 1,000 values below 0.3 GB.
_FLIPS_AT_ONCE = 2**14


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % confidence interval.

    Attributes:
        mean: The mean; NaN without any value.
        low: Lower end, None where fewer than two values leave it unknown.
        high: Upper end, None where ``low`` is.
        n: Number of values.
    """

    mean: float
    low: float | None
    high: float | None
    n: int


def mean_interval(values: Iterable[float | None]) -> Interval:
    """Computes the mean of some values and its 95 % confidence interval after Student.

    Args:
        values: One value a seed. Missing and non-finite ones are left out.
    """
    kept = _finite(values)
    if kept.size < 2:
        return Interval(float(kept[0]) if kept.size else math.nan, None, None, kept.size)
    mean = float(kept.mean())
    error = float(kept.std(ddof=1)) / kept.size**0.5
    half = error * float(stats.t.ppf((1 + _CONFIDENCE) / 2, kept.size - 1))
    return Interval(mean, mean - half, mean + half, kept.size)


def bootstrap_interval(values: Iterable[float | None], resamples: int = 9_999) -> Interval:
    """Computes the mean of some values and its 95 % bootstrap interval (BCa, Efron 1987).

    The same values give the same interval. Where BCa's correction is undefined, it is the
    percentile interval; equal values give an interval of width 0.

    Args:
        values: One value a seed. Missing and non-finite ones are left out.
        resamples: Number of samples drawn with replacement, 2 or more.
    """
    kept = _finite(values)
    if kept.size < 2:
        return mean_interval(kept)
    if kept.min() == kept.max():
        return Interval(float(kept[0]), float(kept[0]), float(kept[0]), kept.size)
    mean = float(kept.mean())
    # Scaled to order 1, since the third power of a small difference may vanish.
    scale = float(np.abs(kept - mean).max())
    scaled = (kept - mean) / scale
    ends = _bootstrap_ends(scaled, resamples, "BCa")
    if not all(np.isfinite(ends)):
        ends = _bootstrap_ends(scaled, resamples, "percentile")
    return Interval(mean, mean + scale * ends[0], mean + scale * ends[1], kept.size)


def median_ratio(pairs: Sequence[NDArray[np.float64]], resamples: int = 9_999) -> Interval:
    """Computes the median over data sets of a ratio of means, and its 95 % bootstrap interval.

    Args:
        pairs: For each data set the positive values of two models, shape (seeds, 2).
        resamples: Number of times that the seeds are drawn with replacement.

    Returns:
        An interval whose ``mean`` is the median and whose ``n`` is the number of data sets. The
        mean is NaN without any; the ends are None if a data set has fewer than two seeds.
    """
    if not pairs:
        return Interval(math.nan, None, None, 0)
    means = np.array([values.mean(axis=0) for values in pairs])
    middle = float(np.median(means[:, 0] / means[:, 1]))
    if min(len(values) for values in pairs) < 2:
        return Interval(middle, None, None, len(pairs))
    draws = numpy_generator("median ratio", 0)
    ratios = np.empty((len(pairs), resamples))
    for ratio, values in zip(ratios, pairs, strict=True):
        drawn = values[draws.integers(len(values), size=(resamples, len(values)))].mean(axis=1)
        ratio[:] = drawn[:, 0] / drawn[:, 1]
    tail = (1 - _CONFIDENCE) / 2
    low, high = np.quantile(np.median(ratios, axis=0), [tail, 1 - tail])
    return Interval(middle, float(low), float(high), len(pairs))


def paired_permutation_p(differences: Iterable[float | None]) -> float:
    """Tests by two-sided sign flips whether paired differences have mean 0 (Fisher 1935).

    The test is exact where the signs of the nonzero differences, up to 16, can be flipped in at
    most 99,999 ways. Else it uses so many random flips and the observed signs, which keeps it
    valid.

    Args:
        differences: One difference a seed. Missing and non-finite ones are left out.

    Returns:
        The p-value, above 0 and at most 1: 1 for a single difference or only zeros, NaN for none.
    """
    kept = _finite(differences)
    if not kept.size:
        return math.nan
    # Flipping a zero changes nothing, so leaving zeros out gives the same p-value.
    kept = kept[kept != 0]
    if kept.size < 2:
        return 1.0
    result = stats.permutation_test(
        (kept / np.abs(kept).max(),),
        _rounded_mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=_MOST_FLIPS,
        batch=_FLIPS_AT_ONCE,
        random_state=numpy_generator("sign flips", 0),
    )
    return float(result.pvalue)


def smallest_permutation_p(num_differences: int) -> float:
    """Returns the smallest p of the exact sign-flip test: 2 / 2^n, 1 for n = 1, NaN for none."""
    return min(1.0, 2.0 ** (1 - num_differences)) if num_differences > 0 else math.nan


def holm(p_values: Iterable[float]) -> list[float]:
    """Adjusts p-values for their number (Holm 1979).

    Args:
        p_values: Values from 0 to 1; NaN stands for a test that was not made.

    Returns:
        The adjusted values in the order given: at least their own p, at most 1 and in the same
        order of size. NaN stays NaN and does not count as a test.
    """
    given = np.array(list(p_values), np.float64)
    made = np.flatnonzero(~np.isnan(given))
    order = made[np.argsort(given[made], kind="stable")]
    factors = np.arange(order.size, 0, -1)
    adjusted = np.full(given.shape, np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * given[order]), 1.0)
    return [float(value) for value in adjusted]


def _finite(values: Iterable[float | None]) -> NDArray[np.float64]:
    kept = np.array([np.nan if value is None else value for value in values], np.float64)
    return kept[np.isfinite(kept)]


def _rounded_mean(values: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
    """Averages values of at most 1, rounded so that the order of summation does not matter."""
    return np.asarray(np.round(np.mean(values, axis=axis), 12))


def _bootstrap_ends(
    values: NDArray[np.float64], resamples: int, method: Literal["BCa", "percentile"]
) -> tuple[float, float]:
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        # The warning says no more than NaN ends.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        interval = stats.bootstrap(
            (values,),
            np.mean,
            confidence_level=_CONFIDENCE,
            n_resamples=resamples,
            method=method,
            vectorized=True,
            random_state=numpy_generator("bootstrap", 0),
        ).confidence_interval
    return float(interval.low), float(interval.high)
