"""Numbers as text, and the frames of text that a terminal, a page and a notebook show."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd

from kan_diffusion.report.page import swatch
from kan_diffusion.report.style import ModelStyle
from kan_diffusion.study.results.rows import COSTS, MEASURES, Results
from kan_diffusion.study.results.statistics import Interval, mean_interval
from kan_diffusion.study.results.verdicts import Decision, Outcome

REAL_ROW = "real against real"
"""Name of the table row that holds what a perfect model would score."""
MISSING = "–"
"""Text in place of a missing number."""
BADGES: dict[Outcome, str] = {
    "KAN better": "kan",
    "MLP better": "mlp",
    "not distinguishable": "level",
    "undecided": "open",
}
"""CSS class of the badge for each outcome of a verdict."""

# Held-out losses contain the floor and NLL the entropy, so that models differ in later digits.
_DIGITS = {"excess": 3, "heldout_loss": 4, "nll": 4}
_TIME = "train_cpu_seconds"
_HEADS = {
    "heldout_loss": "held-out loss",
    "flops": "FLOPs",
    "nll": "NLL",
    _TIME: "train (CPU s)",
    "nll_real": "NLL, exact",
}
"""Heads of columns that are not named as their key is."""


# --- numbers as text --------------------------------------------------------------------------


def _written(values: Sequence[float], digits: int) -> list[str]:
    """Formats numbers, all to the decimals of the first one with ``digits`` significant digits."""
    first = abs(values[0])
    exponent = int(f"{first:.{digits - 1}e}".partition("e")[2])  # rounded: 9.996 is 10.0
    decimals = max(0, digits - 1 - exponent) if first else 0
    form = f".{digits - 1}e" if 0 < first < 1e-5 else f",.{decimals}f"
    texts = (format(value, form) for value in values)
    return [f"−{text[1:]}" if text.startswith("-") else text for text in texts]


def format_number(value: float | None, digits: int = 3) -> str:
    """Formats a number to ``digits`` significant digits; a missing one is a dash."""
    if value is None or not math.isfinite(value):
        return MISSING
    return _written([value or 0.0], digits)[0]  # zero has no sign


def format_p(value: float) -> str:
    """Formats a p-value as ``0.031`` or ``< 0.001``; a missing one is a dash."""
    if not math.isfinite(value):
        return MISSING
    return f"{value:.2g}" if value >= 0.001 else "< 0.001"


def format_interval(interval: Interval, digits: int = 3) -> str:
    """Formats a mean with its interval, ``mean [low, high]``, all to the decimals of the mean."""
    if interval.low is None or interval.high is None or not math.isfinite(interval.mean):
        return format_number(interval.mean, digits)
    mean, low, high = _written([interval.mean, interval.low, interval.high], digits)
    return f"{mean} [{low}, {high}]"


def format_half_width(interval: Interval, digits: int = 3) -> str:
    """Formats a mean with half the width of its interval below it, for narrow tables."""
    mean = format_number(interval.mean, digits)
    if interval.low is None or interval.high is None or not math.isfinite(interval.high):
        return mean
    return f"{mean}\n± {format_number((interval.high - interval.low) / 2, 2)}"


def format_seconds(value: float | None) -> str:
    """Formats a duration as a person says it: ``0.42 s``, ``31 s``, ``12 min``, ``2.1 h``."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value < 100:
        return f"{format_number(value, 2)} s"
    return f"{value / 60:.0f} min" if value < 5_400 else f"{value / 3_600:.1f} h"


def _count(values: pd.Series[float]) -> str:
    low, high = values.min(), values.max()
    if not math.isfinite(low):
        return MISSING
    texts = [f"{end / 1e6:,.1f} M" if high >= 1e7 else f"{end:,.0f}" for end in (low, high)]
    return " to ".join(dict.fromkeys(texts))


def _seeds(group: pd.DataFrame) -> str:
    good = int((~group["failed"]).sum())
    return f"{good}" if good == len(group) else f"{good} of {len(group)}"


def _plain(value: float) -> str:
    """Formats a raw number to six digits, so that scripts can read it too."""
    if not math.isfinite(value):
        return MISSING
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else f"{value:.6g}"


# --- frames of text ---------------------------------------------------------------------------


def summary_table(
    results: Results, show: Callable[[Interval, int], str] = format_interval
) -> pd.DataFrame:
    """Summarises a study as text, each measure with its 95 % interval over seeds.

    Args:
        results: The study.
        show: Formats a mean with its interval to a number of digits.

    Returns:
        One row for each data set and model, with the columns ``data``, ``model``,
        ``parameters``, ``flops`` (of a forward pass for one point), ``seeds`` ("2 of 3" where a
        trial failed), ``heldout_loss``, ``floor``, ``excess``, one for each sample metric that was
        measured, ``train time`` and ``sample time``. The last row of a data set, `REAL_ROW`, holds
        the metrics between two fresh real samples.
    """
    records = [text for label in results.data_sets() for text in _texts(results, label, show)]
    columns = ["data", "model", "parameters", "flops", "seeds", "heldout_loss", "floor"]
    columns += ["excess", *results.metrics, "train time", "sample time"]
    return pd.DataFrame(records, columns=columns).fillna("")


def _texts(
    results: Results, label: str, show: Callable[[Interval, int], str]
) -> list[dict[str, str]]:
    """Writes all numbers of a data set's models, then what a perfect model would score."""
    rows, records = results.of_data(label), []
    for name, group in rows.groupby("name", sort=False):
        record = {"data": label, "model": str(name), "seeds": _seeds(group)}
        record |= {cost: _count(group[cost]) for cost in COSTS}
        record |= {"floor": format_number(group["floor"].mean())}
        for key in (*MEASURES, *results.metrics):
            record[key] = show(mean_interval(group[key]), _DIGITS.get(key, 3))
        record["train time"] = format_seconds(group["train_seconds"].mean())
        record["sample time"] = format_seconds(group["sample_seconds"].mean())
        record[_TIME] = format_number(group[_TIME].mean())
        records.append(record)
    real = {key: rows[f"{key}_real"].mean() for key in results.metrics}
    if scores := {key: format_number(v) for key, v in real.items() if math.isfinite(v)}:
        records.append({"data": label, "model": REAL_ROW, **scores})
    return records


def trial_table(results: Results) -> pd.DataFrame:
    """Lists the trials as texts of raw numbers, which scripts can read, under heads in words.

    Args:
        results: The study.

    Returns:
        One row for each trial: ``data``; ``process`` if there are several; ``match`` and ``budget``
        if the study has them; ``model``, ``seed``, ``state`` ("done" or "failed"), every number
        that was measured in a trial, such as ``FLOPs``, and ``trial``.
    """
    rows = results.rows.rename(columns={"name": "model"})
    rows["state"] = np.where(rows["failed"], "failed", "done")
    numbers = (
        *(*COSTS, "train_cpu_seconds", "train_seconds", "sample_seconds", "out_of_range"),
        *("heldout_loss", "floor", "excess", "excess_se", "nll", "nll_real"),
        *(column for key in results.metrics for column in (key, f"{key}_real")),
    )
    kept = [column for column in numbers if rows[column].notna().any()]
    kept.sort(key=lambda column: column not in MEASURES)  # seen without unfolding
    several = rows["process"].nunique() > 1
    setting = [column for column in ("match", "budget") if rows[column].notna().any()]
    place = ["data", *(["process"] if several else []), *setting]
    shown = rows[[*place, "model", "seed", "state", *kept, "trial"]]
    return number_frame(shown, partial(_head, results), _plain)


# --- frames of a page -------------------------------------------------------------------------


def _in_words(key: str) -> str:
    return key.replace("_", " ")


def number_frame(
    frame: pd.DataFrame,
    head: Callable[[str], str] = _in_words,
    write: Callable[[float], str] = format_number,
    words: Callable[[str], str] = str,
) -> pd.DataFrame:
    """Writes a frame of numbers and words as a frame of texts.

    Args:
        frame: The frame.
        head: Writes the head of a column, by default its key in words.
        write: Writes a number; what is missing is a dash.
        words: Writes a word.
    """

    def text(cell: object) -> str:
        if isinstance(cell, float):
            return write(cell)
        return MISSING if cell is None else words(str(cell))

    return pd.DataFrame({head(name): list(map(text, frame[name])) for name in map(str, frame)})


def _head(results: Results, key: str) -> str:
    name = key.removesuffix("_real")
    if name in results.metrics:
        return results.metrics[name].label + ", real" * (name != key)
    return _HEADS.get(key, _in_words(key))


def lead_table(decision: Decision, styles: Mapping[str, ModelStyle]) -> pd.DataFrame:
    """Lists a study's leads, a row for each model."""
    records = [
        {
            "model": swatch(styles[lead.model].colour, lead.model) if lead.model else "best KAN",
            "ahead on": f"{len(lead.ahead)} of {len(lead.comparisons)}",
            "better on": "\n".join([str(len(lead.better)), *lead.better]),
            "worse on": "\n".join([str(len(lead.worse)), *lead.worse]),
            "median ratio": format_interval(lead.ratio).replace(" [", "\n["),
        }
        for lead in decision.leads
    ]
    return pd.DataFrame(records, dtype=object)


def model_table(
    results: Results, decision: Decision, label: str, styles: Mapping[str, ModelStyle]
) -> tuple[pd.DataFrame, str, int]:
    """Lists the models of a data set: parameters, judged measure, difference, then all else.

    Returns:
        A row for each model, then the optimum and what a perfect model would score, if known; a
        caption; and the number of these last rows.
    """
    rows, measure = results.of_data(label), results.judged(label)
    first, *sizes = [size for size in COSTS if rows[size].notna().any()] or COSTS[:1]
    others = [m for m in (*results.metrics, *MEASURES) if m != measure and rows[m].notna().any()]
    differences = decision.of_data(label)
    baselines = {comparison.baseline for comparison in differences.values()}
    optimum = {"heldout_loss": rows["floor"].mean(), "nll": rows["nll_real"].mean()}
    optimum |= {"excess": 0.0} if math.isfinite(optimum["heldout_loss"]) else {}
    oracle = {
        key: format_number(value, _DIGITS[key])
        for key, value in optimum.items()
        if math.isfinite(value) and key in (measure, *others)
    }
    records, feet = [], [{"model": "exact oracle", **oracle}] if oracle else []
    for texts in _texts(results, label, format_half_width):
        name = texts["model"]
        if name == REAL_ROW:
            feet.append(texts)
            continue
        texts["model"] = swatch(styles[name].colour, f"{name}\nseeds: {texts['seeds']}")
        difference, text, p = differences.get(name), MISSING, MISSING
        if difference is not None:
            ratio = f"\nratio {format_number(difference.ratio, _DIGITS.get(measure, 3))}"
            text = format_interval(difference.interval).replace(" [", "\n[")
            text += ratio * math.isfinite(difference.ratio)
            p = format_p(difference.p_holm)
        elif name in baselines:
            text = f"{MISSING}\nbest MLP"
        note = f"\nsampling {texts['sample time']}" * (texts["sample time"] != MISSING)
        texts |= {"− best MLP": text, "p (Holm)": p, _TIME: texts[_TIME] + note}
        records.append(texts)
    compared = ["− best MLP", "p (Holm)"] if differences else []
    columns = ["model", first, measure, *compared, *others, _TIME, *sizes]
    frame = pd.DataFrame([*records, *feet], columns=columns, dtype=object).fillna("")
    return frame.rename(columns=partial(_head, results)), f"Models, {label}", len(feet)
