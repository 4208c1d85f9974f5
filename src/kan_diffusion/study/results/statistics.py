r"""What a few seeds can say about a mean, and a few data sets about an order of models.

**One mean.** With values v_1..v_n of n independent seeds, mean v̄ and standard deviation s, the
interval is Student's: v̄ ± t(n - 1) s / √n. For the difference of two models the standard error is
√(s_a²/n_a + s_b²/n_b) and the degrees of freedom are Welch's. Both take the seeds as independent
draws that are roughly normal; with three of them the interval is wide, as it should be.

**Paired seeds.** Two models of one seed share data, noise and order, so the differences d_1..d_n of
a seed are what to look at.

- The *bootstrap interval* (Efron 1987, BCa) draws n of the n values with replacement many times and
  takes quantiles of the means, corrected for bias and skewness. It assumes independent seeds and no
  shape, but n values cannot show the tails they were drawn from: of normal values a 95 % interval
  covers the mean about 82 % of the time with 5 seeds and 89 % with 10.
- The *sign-flip test* asks how many of the 2^n ways to flip the signs of the differences give a
  mean as far from 0 as the one seen. It is exact if the differences are symmetric about 0 where the
  models do not differ, which holds when a seed's two values could as well be swapped. The smallest
  p it can give is 2 / 2^n: 0.0625 with 5 seeds, 0.03125 with 6, 0.00195 with 10.

**Many tests.** Of m true null hypotheses tested at 0.05 each, one is likely rejected by luck.
Holm (1979) sorts p_(1) <= ... <= p_(m) and adjusts p_(i) to the maximum over j <= i of
(m - j + 1) p_(j), at most 1. A rejection at 0.05 of these is wrong anywhere with probability at
most 0.05, whatever the tests depend on.

**Many data sets.** k models on N data sets, ranked on each from 1 (best), with mean ranks R_j
(Demšar 2006). *Friedman's test* rejects that all are alike by chi² = 12 N / (k (k + 1)) Σ_j (R_j -
(k + 1) / 2)² with k - 1 degrees of freedom, corrected for ties; the chi² law is an approximation
that wants N > 10 or k > 5. With two models it is the sign test, which is exact. *Nemenyi's critical
difference* is CD = q √(k (k + 1) / (6 N)), q the 1 - alpha quantile of the studentised range of k
with infinite degrees of freedom, over √2; mean ranks nearer than it are not told apart. Both take
the data sets as independent and count each alike, however near its models are.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from kan_diffusion.errors import DataError
from kan_diffusion.randomness import numpy_generator

__all__ = [
    "SIGNIFICANCE",
    "Interval",
    "average_ranks",
    "bootstrap_interval",
    "difference_interval",
    "friedman_p",
    "holm",
    "mean_interval",
    "nemenyi_critical_difference",
    "paired_permutation_p",
    "smallest_permutation_p",
    "summarise",
]

SIGNIFICANCE = 0.05
"""A p-value below this, corrected for the number of tests, calls a difference one."""

_MOST_EXACT_FLIPS = 2**14
_RANDOM_FLIPS = 99_999
# Random sign flips are made in parts of this many, which keeps 1,000 values below 0.3 GB.
_FLIPS_AT_ONCE = 2**14


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval.

    Attributes:
        mean: The mean; NaN without any value.
        low: Lower end, None where fewer than two values leave it unknown.
        high: Upper end, None where ``low`` is.
        n: How many values there were.
    """

    mean: float
    low: float | None
    high: float | None
    n: int

    def overlaps(self, other: Interval) -> bool | None:
        """Whether the two intervals share a point; None where either is unknown."""
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return None
        return self.low <= other.high and other.low <= self.high


def mean_interval(values: Iterable[float | None], confidence: float = 0.95) -> Interval:
    """The mean of some values and Student's confidence interval of it.

    Args:
        values: One value a seed. Missing and non-finite ones are left out.
        confidence: Coverage of the interval, between 0 and 1.

    Returns:
        The interval, without ends where fewer than two values are left.

    Raises:
        DataError: ``confidence`` is not between 0 and 1.
    """
    _check_confidence(confidence)
    kept = _finite(values)
    if kept.size < 2:
        return Interval(float(kept[0]) if kept.size else float("nan"), None, None, kept.size)
    mean = float(kept.mean())
    half = _half_width(float(kept.std(ddof=1)) / kept.size**0.5, kept.size - 1, confidence)
    return Interval(mean, mean - half, mean + half, kept.size)


def difference_interval(
    first: Iterable[float | None], second: Iterable[float | None], confidence: float = 0.95
) -> Interval:
    """The difference of two means, first minus second, and Welch's interval of it (Welch 1947).

    Args:
        first: One value a seed of one model. Missing and non-finite ones are left out.
        second: The same of the other model; the two need not be equally many.
        confidence: Coverage of the interval, between 0 and 1.

    Returns:
        The interval, without ends where a side has fewer than two values; its ``n`` is the
        smaller of the two numbers of values.

    Raises:
        DataError: ``confidence`` is not between 0 and 1.
    """
    _check_confidence(confidence)
    a, b = _finite(first), _finite(second)
    size = min(a.size, b.size)
    mean = float(a.mean() - b.mean()) if size else float("nan")
    if size < 2:
        return Interval(mean, None, None, size)
    variance_a, variance_b = a.var(ddof=1) / a.size, b.var(ddof=1) / b.size
    variance = float(variance_a + variance_b)
    if variance == 0.0:
        return Interval(mean, mean, mean, size)
    # In shares of the variance, since the square of a small variance may vanish.
    share_a, share_b = variance_a / variance, variance_b / variance
    freedom = 1 / (share_a**2 / (a.size - 1) + share_b**2 / (b.size - 1))
    half = _half_width(variance**0.5, float(freedom), confidence)
    return Interval(mean, mean - half, mean + half, size)


def bootstrap_interval(
    values: Iterable[float | None],
    confidence: float = 0.95,
    resamples: int = 9_999,
    seed: int = 0,
) -> Interval:
    """The mean of some values and its bootstrap interval (BCa, Efron 1987).

    The same values, resamples and seed give the same interval.

    Args:
        values: One value a seed. Missing and non-finite ones are left out.
        confidence: Coverage aimed at, between 0 and 1; see the module on how few values miss it.
        resamples: How many samples are drawn with replacement, 2 or more.
        seed: Names the stream they are drawn from.

    Returns:
        The interval, without ends where fewer than two values are left. Where BCa's correction is
        not defined it is the percentile interval; equal values give one of no width.

    Raises:
        DataError: ``confidence`` is not between 0 and 1, or ``resamples`` is below 2.
    """
    _check_confidence(confidence)
    if resamples < 2:
        raise DataError(f"{resamples} resamples give no interval; give 2 or more, such as 9,999")
    kept = _finite(values)
    if kept.size < 2:
        return mean_interval(kept, confidence)
    if kept.min() == kept.max():
        return Interval(float(kept[0]), float(kept[0]), float(kept[0]), kept.size)
    mean = float(kept.mean())
    # Of order 1, since the third power of a small difference may vanish.
    scale = float(np.abs(kept - mean).max())
    scaled = (kept - mean) / scale
    ends = _bootstrap_ends(scaled, confidence, resamples, seed, "BCa")
    if not all(np.isfinite(ends)):
        ends = _bootstrap_ends(scaled, confidence, resamples, seed, "percentile")
    return Interval(mean, mean + scale * ends[0], mean + scale * ends[1], kept.size)


def _rounded_mean(values: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
    """Means of values of at most 1, such that sums that are equal stay so in any order."""
    return np.asarray(np.round(np.mean(values, axis=axis), 12))


def paired_permutation_p(differences: Iterable[float | None], seed: int = 0) -> float:
    """Two-sided sign-flip test that paired differences have mean 0 (Fisher 1935).

    Exact where there are at most 2^14 ways to flip the signs of the differences that are not 0;
    else from 99,999 random ones and the one seen, which keeps the test valid.

    Args:
        differences: One difference a seed. Missing and non-finite ones are left out.
        seed: Names the stream of the random flips.

    Returns:
        The p-value, above 0 and at most 1: 1 for a single difference or only zeros, NaN for none.
    """
    kept = _finite(differences)
    if not kept.size:
        return float("nan")
    # Flipping a zero changes nothing, so the test without them is the same and smaller.
    kept = kept[kept != 0]
    if kept.size < 2:
        return 1.0
    exact = kept.size <= np.log2(_MOST_EXACT_FLIPS)
    result = stats.permutation_test(
        (kept / np.abs(kept).max(),),
        _rounded_mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf if exact else _RANDOM_FLIPS,
        batch=_FLIPS_AT_ONCE,
        random_state=numpy_generator("sign flips", seed),
    )
    return float(result.pvalue)


def smallest_permutation_p(num_differences: int) -> float:
    """The smallest p the exact sign-flip test can give: 2 / 2^n, 1 for n = 1, NaN for none."""
    return min(1.0, 2.0 ** (1 - num_differences)) if num_differences > 0 else float("nan")


def holm(p_values: Iterable[float]) -> list[float]:
    """P-values adjusted for their number (Holm 1979).

    Args:
        p_values: Values from 0 to 1; NaN stands for a test that was not made.

    Returns:
        The adjusted values in the order given: none below its own p, in the same order of size, at
        most 1. NaN stays NaN and does not count as a test.

    Raises:
        DataError: A value lies outside 0 to 1.
    """
    given = np.array(list(p_values), np.float64)
    for value in given[(given < 0) | (given > 1)]:
        raise DataError(f"a p-value of {value:g} is impossible; give values from 0 to 1")
    made = np.flatnonzero(~np.isnan(given))
    order = made[np.argsort(given[made], kind="stable")]
    factors = np.arange(order.size, 0, -1)
    adjusted = np.full(given.shape, np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * given[order]), 1.0)
    return [float(value) for value in adjusted]


def average_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean rank of each model over data sets; 1 is the lowest value, ties share their ranks.

    Args:
        values: One row a data set and one column a model, shape (N, k).

    Returns:
        Mean ranks with shape (k,), whose mean is (k + 1) / 2.

    Raises:
        DataError: There are no values, or one is not finite.
    """
    return stats.rankdata(_complete(values), axis=1).mean(axis=0)


def friedman_p(values: NDArray[np.float64]) -> float:
    """Friedman's test that all models are alike (Friedman 1937; with two models the sign test).

    Args:
        values: One row a data set and one column a model, shape (N, k); only the order within a
            row counts.

    Returns:
        The p-value; 1 where every data set has all models tied, or there is one model.

    Raises:
        DataError: There are no values, or one is not finite.
    """
    values = _complete(values)
    num_models = values.shape[1]
    if num_models == 2:
        signs = np.sign(values[:, 0] - values[:, 1])
        untied = int(np.count_nonzero(signs))
        return float(stats.binomtest(int((signs > 0).sum()), untied).pvalue) if untied else 1.0
    if num_models < 2 or np.all(values == values[:, :1]):
        return 1.0
    return float(stats.friedmanchisquare(*values.T).pvalue)


@lru_cache
def nemenyi_critical_difference(num_models: int, num_data: int, alpha: float = 0.05) -> float:
    """How far two mean ranks must lie apart to be told apart (Nemenyi 1963; Demšar 2006, 3.2.2).

    Args:
        num_models: Number k of models that are ranked, 2 or more.
        num_data: Number N of data sets they are ranked on, 1 or more.
        alpha: Probability of telling any two apart when all are alike, between 0 and 1.

    Returns:
        CD = q √(k (k + 1) / (6 N)), in ranks.

    Raises:
        DataError: A number is out of its range.
    """
    if num_models < 2 or num_data < 1:
        raise DataError(
            f"{num_models} models on {num_data} data sets have no critical difference; give 2 or "
            "more on 1 or more"
        )
    _check_confidence(1 - alpha)
    quantile = float(stats.studentized_range.ppf(1 - alpha, num_models, np.inf)) / 2**0.5
    return quantile * (num_models * (num_models + 1) / (6 * num_data)) ** 0.5


def summarise(
    rows: pd.DataFrame, by: Sequence[str], columns: Sequence[str], confidence: float = 0.95
) -> pd.DataFrame:
    """Means and intervals of a table's columns over the rows of each group.

    Args:
        rows: One row a trial.
        by: Columns that name a group; groups come in the order of their first row.
        columns: Columns to average. One that is absent is taken as missing throughout.
        confidence: As in `mean_interval`.

    Returns:
        One row a group: the columns ``by``, then ``<column>_mean``, ``<column>_low``,
        ``<column>_high`` (NaN where unknown) and ``<column>_n`` for each of ``columns``.

    Raises:
        DataError: A column of ``by`` is absent.
    """
    absent = [column for column in by if column not in rows]
    if absent:
        raise DataError(f"the table has no column '{absent[0]}'; known: {', '.join(rows.columns)}")
    records: list[dict[str, object]] = []
    for names, group in rows.groupby(list(by), sort=False, dropna=False):
        record: dict[str, object] = dict(zip(by, names, strict=True))
        for column in columns:
            values = group[column].tolist() if column in group else []
            interval = mean_interval(values, confidence)
            record |= {
                f"{column}_mean": interval.mean,
                f"{column}_low": np.nan if interval.low is None else interval.low,
                f"{column}_high": np.nan if interval.high is None else interval.high,
                f"{column}_n": interval.n,
            }
        records.append(record)
    fields = [f"{column}_{part}" for column in columns for part in ("mean", "low", "high", "n")]
    return pd.DataFrame.from_records(records, columns=[*by, *fields])


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise DataError(f"a confidence of {confidence} is impossible; give one between 0 and 1")


def _finite(values: Iterable[float | None]) -> NDArray[np.float64]:
    kept = pd.to_numeric(pd.Series(list(values), dtype=object)).to_numpy(np.float64)
    return kept[np.isfinite(kept)]


def _complete(values: NDArray[np.float64]) -> NDArray[np.float64]:
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise DataError(
            f"models cannot be ranked on values of shape {values.shape} with gaps; give a finite "
            "value for each data set (rows) and model (columns)"
        )
    return values


def _bootstrap_ends(
    values: NDArray[np.float64],
    confidence: float,
    resamples: int,
    seed: int,
    method: Literal["BCa", "percentile"],
) -> tuple[float, float]:
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        # NaN ends say the same.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        interval = stats.bootstrap(
            (values,),
            np.mean,
            confidence_level=confidence,
            n_resamples=resamples,
            method=method,
            vectorized=True,
            random_state=numpy_generator("bootstrap", seed),
        ).confidence_interval
    return float(interval.low), float(interval.high)


def _half_width(standard_error: float, freedom: float, confidence: float) -> float:
    return standard_error * float(stats.t.ppf((1 + confidence) / 2, freedom))
