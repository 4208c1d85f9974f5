"""The numbers of a report in words: formatted tables and the sentence that answers the question."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from kan_diffusion.evaluation.metrics import SAMPLE_METRICS
from kan_diffusion.report.contents import ReportContents, complete_rows
from kan_diffusion.study.results.comparison import judged_measure
from kan_diffusion.study.results.statistics import Interval, difference_interval, mean_interval

__all__ = [
    "MISSING",
    "REAL_ROW",
    "budget_groups",
    "format_half_width",
    "format_interval",
    "format_number",
    "format_p",
    "format_seconds",
    "headline",
    "listed",
    "summary_table",
    "trial_table",
]

REAL_ROW = "real against real"
"""The row of a summary that holds what a perfect model would score."""

MISSING = "–"
"""What stands where there is no number."""
_FEW_SEEDS = 5
# How far apart two models may be and still count as equal in what the study held equal.
_BUDGETS = {
    "params": ("parameters", "parameters", 1.05),
    "flops": ("flops", "arithmetic", 1.05),
    "flops-per-edge": ("flops_per_edge", "arithmetic by edges", 1.05),
    "time": ("train_seconds", "training time", 1.15),
}
_MEASURES = {"excess": "excess", "heldout_loss": "held-out loss"}


def format_number(value: float | None, digits: int = 3) -> str:
    """A number to ``digits`` significant digits; a dash for a missing one."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value == 0:
        return "0"
    if abs(value) >= 10**digits:
        text = f"{value:,.0f}"
    elif abs(value) < 1e-5:
        text = f"{value:.{digits - 1}e}"
    else:
        text = f"{value:.{_decimals(value, digits)}f}"
    return f"−{text[1:]}" if text.startswith("-") else text


def format_p(value: float) -> str:
    """A p-value, ``0.031`` or ``< 0.001``; a dash for a missing one."""
    if not math.isfinite(value):
        return MISSING
    return f"{value:.2g}" if value >= 0.001 else "< 0.001"


def format_interval(interval: Interval, digits: int = 3) -> str:
    """A mean with its interval, ``mean [low, high]``, all to the decimals of the mean."""
    mean = format_number(interval.mean, digits)
    if interval.low is None or interval.high is None or mean == MISSING:
        return mean
    if 0 < abs(interval.mean) < 1e-5:
        ends = (f"{end:.{digits - 1}e}" for end in (interval.low, interval.high))
    else:
        decimals = 0 if interval.mean == 0 else _decimals(interval.mean, digits)
        ends = (f"{end:,.{decimals}f}" for end in (interval.low, interval.high))
    low, high = (end.replace("-", "−") for end in ends)
    return f"{mean} [{low}, {high}]"


def format_seconds(value: float | None) -> str:
    """A duration as a person says it: ``0.42 s``, ``31 s``, ``12 min``, ``2.1 h``."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value < 100:
        return f"{format_number(value, 2)} s"
    return f"{value / 60:.0f} min" if value < 5_400 else f"{value / 3_600:.1f} h"


def format_half_width(interval: Interval, digits: int = 3) -> str:
    """A mean with half of its interval on a line below it, for narrow tables."""
    mean = format_number(interval.mean, digits)
    if interval.low is None or interval.high is None or not math.isfinite(interval.high):
        return mean
    return f"{mean}\n± {format_number((interval.high - interval.low) / 2, 2)}"


def summary_table(
    rows: pd.DataFrame, show: Callable[[Interval], str] = format_interval
) -> pd.DataFrame:
    """One row a model and setting, each number with its 95 % interval over seeds, as text.

    Args:
        rows: One row a trial, as in `ReportContents.rows`.
        show: How a mean and its interval are written.

    Returns:
        Columns ``data`` (the label of the setting, which is the data set's name where nothing is
        held equal), ``model``, ``parameters``, ``flops`` (of a forward pass for one point),
        ``seeds`` ("2 of 3" where a trial failed), ``heldout_loss``, ``floor``, ``excess``, one for
        each sample metric that was measured, ``train time`` and ``sample time``. The last row of a
        setting, `REAL_ROW`, holds the metrics between two fresh real samples.
    """
    rows = complete_rows(rows)
    metrics = [key for key in SAMPLE_METRICS if rows[key].notna().any()]
    records: list[dict[str, str]] = []
    for data, of_data in rows.groupby("setting", sort=False):
        for name, group in of_data.groupby("name", sort=False):
            good = int((~group["failed"]).sum())
            record = {
                "data": str(data),
                "model": str(name),
                "parameters": _count(group["parameters"]),
                "flops": _count(group["flops"]),
                "seeds": f"{good}" if good == len(group) else f"{good} of {len(group)}",
            }
            record["floor"] = format_number(mean_interval(group["floor"]).mean)
            for column in ("heldout_loss", "excess", *metrics):
                record[column] = show(mean_interval(group[column]))
            record["train time"] = format_seconds(mean_interval(group["train_seconds"]).mean)
            record["sample time"] = format_seconds(mean_interval(group["sample_seconds"]).mean)
            records.append(record)
        real = {key: mean_interval(of_data[f"{key}_real"]).mean for key in metrics}
        if any(math.isfinite(value) for value in real.values()):
            record = dict.fromkeys(records[-1], "") | {"data": str(data), "model": REAL_ROW}
            records.append(record | {key: format_number(value) for key, value in real.items()})
    columns = ["data", "model", "parameters", "flops", "seeds", "heldout_loss", "floor", "excess"]
    return pd.DataFrame(records, columns=[*columns, *metrics, "train time", "sample time"])


def trial_table(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a trial, with the columns worth reading and numbers left as numbers.

    Args:
        rows: One row a trial, as in `ReportContents.rows`.

    Returns:
        Columns ``data``, ``match`` and ``budget`` where something was held equal, ``model``,
        ``seed``, ``state`` ("done" or "failed"), every number that was measured, and ``trial``.
    """
    rows = complete_rows(rows).rename(columns={"name": "model"})
    rows["state"] = np.where(rows["failed"], "failed", "done")
    numbers = (
        *("parameters", "flops", "flops_per_edge", "steps"),
        *("train_cpu_seconds", "train_seconds", "sample_seconds", "out_of_range"),
        *("heldout_loss", "floor", "excess", "excess_se", "nll", "nll_real"),
        *(column for key in SAMPLE_METRICS for column in (key, f"{key}_real")),
    )
    kept = [column for column in numbers if rows[column].notna().any()]
    setting = [column for column in ("match", "budget") if rows[column].notna().any()]
    return rows[["data", *setting, "model", "seed", "state", *kept, "trial"]]


def headline(contents: ReportContents, labels: Sequence[str] | None = None) -> list[str]:
    """The answer, one sentence or two for each setting, from the numbers alone.

    Models are compared where they are equal in what the study held equal. A difference is called
    one only where the 95 % intervals do not overlap; fewer than five seeds are said to be few.

    Args:
        contents: The study.
        labels: The settings to speak of; all when None.

    Returns:
        One paragraph a setting.
    """
    rows = contents.complete_rows()
    several = rows["setting"].nunique() > 1
    paragraphs = []
    for label, of_setting in rows.groupby("setting", sort=False):
        if labels is not None and label not in labels:
            continue
        text = _answer(of_setting, contents.budget)
        paragraphs.append(f"On {label}: {text}" if several else text[0].upper() + text[1:])
    return paragraphs


def budget_groups(rows: pd.DataFrame, budget: str) -> list[list[str]]:
    """Models of one data set that are equal in the study's budget, smallest budget first.

    Args:
        rows: The rows of one data set.
        budget: ``params``, ``flops`` or ``time``.

    Returns:
        Groups of two or more names. Parameters and arithmetic count as equal within 5 %, time
        within 15 %.
    """
    column, _, tolerance = _BUDGETS[budget]
    sizes = complete_rows(rows).groupby("name", sort=False)[column].mean().dropna().sort_values()
    groups: list[list[str]] = []
    start = math.nan
    for name, size in sizes.items():
        if not size <= start * tolerance:
            groups.append([])
            start = float(size)
        groups[-1].append(str(name))
    return [group for group in groups if len(group) > 1]


def _answer(rows: pd.DataFrame, budget: str) -> str:
    """What to say of one setting, from its complete rows."""
    measure = judged_measure(rows)
    match = rows["match"].iloc[0]
    by_name = {
        str(name): group[measure].to_numpy() for name, group in rows.groupby("name", sort=False)
    }
    values = {name: group for name, group in by_name.items() if np.isfinite(group).any()}
    lost = [name for name in by_name if name not in values]
    tail = f" {', '.join(lost)} gave no result." if lost else ""
    if not values:
        return "no trial gave a result."
    if len(values) == 1:
        name = next(iter(values))
        value = format_interval(mean_interval(values[name]))
        has = "an excess" if measure == "excess" else f"a {_MEASURES[measure]}"
        return f"{name} has {has} of {value}; there is no second model to compare.{tail}"
    if match is not None:
        budget, groups = match, [list(values)]
    else:
        groups = [[n for n in group if n in values] for group in budget_groups(rows, budget)]
        groups = [group for group in groups if len(group) > 1]
    word = _MEASURES[measure]
    if groups:
        equal = _BUDGETS[budget][1]
        text = " ".join(f"at equal {equal}, {_comparison(group, values, word)}" for group in groups)
        text = text.replace(". at equal", ". At equal")
    else:
        text = (
            f"no two models here have equal {_BUDGETS[budget][1]}, so size and kind are mixed: "
            f"{_comparison(list(values), values, word)}"
        )
    seeds = min(int(np.isfinite(group).sum()) for group in values.values())
    if seeds < _FEW_SEEDS:
        tail += f" With {seeds} seed{'s' * (seeds != 1)} a model this is an indication, not proof."
    return text + tail


def _comparison(names: list[str], values: dict[str, np.ndarray], measure: str) -> str:
    """The best of some models against each of the others, in words."""
    intervals = {name: mean_interval(values[name]) for name in names}
    best, *others = sorted(names, key=lambda name: intervals[name].mean)
    parts = [
        f"{best} has the lowest mean {measure}, {format_interval(intervals[best])}, against "
        + ", ".join(f"{format_interval(intervals[name])} for {name}" for name in others)
        + "."
    ]
    overlaps = {name: intervals[best].overlaps(intervals[name]) for name in others}
    apart = [name for name in others if overlaps[name] is False]
    level = [name for name in others if overlaps[name] is True]
    unknown = [name for name in others if overlaps[name] is None]
    if apart:
        parts.append(f"Its 95 % interval lies wholly below that of {listed(apart)}.")
    for name in level:
        gap = difference_interval(values[name], values[best])
        if gap.low is not None and gap.low > 0:
            parts.append(
                f"Its interval overlaps that of {name}, although the interval of the difference, "
                f"{format_interval(gap)}, leaves out 0."
            )
        else:
            parts.append(
                f"Its interval overlaps that of {name}, so these seeds do not tell the two apart."
            )
    if unknown:
        parts.append(f"One seed gives no interval, so {listed([best, *unknown])} stay undecided.")
    return " ".join(parts)


def listed(names: Sequence[str]) -> str:
    """Names as a sentence lists them: ``a``, ``a and b``, ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _decimals(value: float, digits: int) -> int:
    return max(0, digits - 1 - math.floor(math.log10(abs(value))))


def _count(values: pd.Series[float]) -> str:
    low, high = values.min(), values.max()
    if not math.isfinite(low):
        return MISSING
    return f"{low:,.0f}" if low == high else f"{low:,.0f} to {high:,.0f}"
