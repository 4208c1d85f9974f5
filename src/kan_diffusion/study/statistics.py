r"""What a few seeds can say about a mean.

With values v_1..v_n of n independent seeds, mean v̄ and standard deviation s, the interval is
Student's: v̄ ± t(n - 1) s / √n. For the difference of two models the standard error is
√(s_a²/n_a + s_b²/n_b) and the degrees of freedom are Welch's. Both take the seeds as independent
draws that are roughly normal; with three of them the interval is wide, as it should be.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from kan_diffusion.errors import DataError

__all__ = ["Interval", "difference_interval", "mean_interval", "summarise"]


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


def _half_width(standard_error: float, freedom: float, confidence: float) -> float:
    return standard_error * float(stats.t.ppf((1 + confidence) / 2, freedom))
