"""The tables of a report: verdicts, the models of a setting, the time they used, and all trials."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from kan_diffusion.evaluation.metrics import SAMPLE_METRICS
from kan_diffusion.report.cells import (
    Anchors,
    Cell,
    Head,
    Line,
    Table,
    Trial,
    interval_cell,
    number_cell,
    plain_number,
)
from kan_diffusion.report.charts.times import time_column
from kan_diffusion.report.comparisons import Conclusions
from kan_diffusion.report.contents import ReportContents
from kan_diffusion.report.style import model_styles
from kan_diffusion.report.tables import (
    REAL_ROW,
    format_half_width,
    format_number,
    format_p,
    format_seconds,
    trial_table,
)
from kan_diffusion.study.results.comparison import PairedDifference, SettingVerdict, judged_measure
from kan_diffusion.study.results.statistics import mean_interval

__all__ = ["BADGES", "TimeUse", "model_table", "time_use", "trials_table", "verdict_table"]

BADGES = {
    "KAN better": "kan",
    "MLP better": "mlp",
    "not distinguishable": "level",
    "undecided": "open",
}
"""Verdict to the class of its badge."""

ORACLE_ROW = "exact oracle"
"""The line of a table that holds what the exact optimum scores."""

_MEASURES = {"excess": "excess", "heldout_loss": "held-out loss"}
# Held-out losses contain the floor and NLL the entropy, so that models differ in later digits.
_DIGITS = {"excess": 3, "heldout_loss": 4, "nll": 4}
_LARGE_DEVIATION = 0.10
_COLUMNS = {
    "parameters": Head("parameters", "trainable parameters"),
    "flops": Head("FLOPs", "operations of a forward pass for one point, as they are done here"),
    "flops_per_edge": Head("by edge", "FLOPs, counted per edge as by Yu et al. (2024)"),
    "steps": Head("steps", "optimiser steps"),
    "excess": Head("excess", "mean squared distance to the oracle's predicted noise"),
    "heldout_loss": Head("held-out loss", "training loss on points not trained on"),
    "nll": Head("NLL", "negative log-likelihood of held-out points, nats a point"),
    "train_cpu_seconds": Head("train (CPU s)", "CPU seconds of training"),
    "train_seconds": Head("train (s)", "seconds of training"),
    **{key: Head(metric.symbol, metric.title) for key, metric in SAMPLE_METRICS.items()},
}
_TRIAL_HEADS = {
    "heldout_loss": "held-out loss",
    "excess_se": "± SE",
    "train_seconds": "train (s)",
    "train_cpu_seconds": "train (CPU s)",
    "sample_seconds": "sample (s)",
    "flops": "FLOPs",
    "flops_per_edge": "FLOPs by edge",
    "out_of_range": "outside grid",
    "nll": "NLL",
    "nll_real": "NLL, exact",
    **{key: metric.symbol for key, metric in SAMPLE_METRICS.items()},
    **{f"{key}_real": f"{metric.symbol}, real" for key, metric in SAMPLE_METRICS.items()},
}
_TRIAL_WORDS = ("data", "match", "model", "state", "trial")


@dataclass(frozen=True)
class TimeUse:
    """What the models of a setting with a budget of time really used.

    Attributes:
        table: A line a model.
        sentence: The largest deviation in words.
        large: Whether it is above 10 %.
    """

    table: Table
    sentence: str
    large: bool


def verdict_table(
    contents: ReportContents, conclusions: Conclusions, anchors: Anchors
) -> Table | None:
    """Best KAN against best MLP, a line a setting; None for a single verdict or none."""
    if len(conclusions.verdicts) < 2:
        return None
    heads = [
        Head("setting", words=True), Head("best KAN", words=True),
        Head("best MLP", words=True), Head("KAN minus MLP", "paired difference of the means"),
        Head("ratio", "mean of the KAN over mean of the MLP"),
        Head("seeds", "seeds that both finished"), Head("p", "sign-flip test over paired seeds"),
        Head("p (Holm)", "corrected over the data sets at that budget"),
        Head("verdict", words=True),
    ]  # fmt: skip
    styles = model_styles(contents.complete_rows())
    lines = []
    for label, verdict in conclusions.verdicts.items():
        rows = contents.complete_rows(label)
        sides = [
            _side_cell(rows, verdict, name, count, anchors(label, name), styles[name].colour)
            for name, count in (
                (verdict.kan, verdict.num_kans), (verdict.mlp, verdict.num_mlps),
            )
        ]  # fmt: skip
        difference = verdict.difference
        lines.append(
            Line(
                [
                    Cell(label, f"by {_MEASURES[verdict.measure]}", link=anchors("setting", label)),
                    *sides,
                    interval_cell(difference.interval),
                    number_cell(difference.ratio, _ratio_text(difference)),
                    number_cell(difference.interval.n, str(difference.interval.n)),
                    number_cell(difference.p_value, format_p(difference.p_value)),
                    number_cell(difference.p_holm, format_p(difference.p_holm)),
                    Cell(verdict.verdict, badge=BADGES[verdict.verdict]),
                ]
            )
        )
    return Table(heads, lines, caption="Best KAN against best MLP", kind="summary verdicts")


def _side_cell(
    rows: pd.DataFrame, verdict: SettingVerdict, name: str, count: int, anchor: str, colour: str
) -> Cell:
    mean = mean_interval(rows.loc[rows["name"] == name, verdict.measure]).mean
    text = format_number(mean, _DIGITS[verdict.measure])
    return Cell(name, f"{text} (of {count})", link=anchor, colour=colour)


def _ratio_text(difference: PairedDifference) -> str:
    return format_number(difference.ratio, _DIGITS[difference.measure])


def model_table(
    contents: ReportContents, label: str, conclusions: Conclusions, anchors: Anchors
) -> Table:
    """The models of a setting: sizes, judged measure and difference, other measures, time."""
    rows = contents.complete_rows(label)
    measure = judged_measure(rows)
    sizes = [c for c in ("parameters", "flops", "flops_per_edge", "steps") if rows[c].notna().any()]
    others = [m for m in ("excess", "heldout_loss", "nll") if m != measure]
    others = [m for m in (*others, *SAMPLE_METRICS) if rows[m].notna().any()]
    differences = conclusions.differences_of(label)
    time = time_column(rows)
    styles = model_styles(contents.complete_rows())
    heads = [Head("model", words=True), *(_COLUMNS[column] for column in (*sizes, measure))]
    if differences:
        heads.append(Head("− best MLP", f"paired difference of the {_MEASURES[measure]}"))
        heads.append(Head("p (Holm)", "corrected over the data sets at that budget"))
    heads += [_COLUMNS[column] for column in (*others, time)]
    lines = []
    for name in contents.model_names(label):
        group = rows[rows["name"] == name]
        good = int((~group["failed"]).sum())
        count = f"seeds: {good}" if good == len(group) else f"seeds: {good} of {len(group)}"
        trials = _trials(group, anchors)
        cells = [
            Cell(name, count, colour=styles[name].colour, trials=trials),
            *(_count_cell(group[column]) for column in sizes),
            _mean_cell(group, measure),
        ]
        if name in differences:
            cells += _difference_cells(differences[name])
        elif differences:
            is_baseline = name == conclusions.baseline(label)
            cells += [Cell("best MLP", key="0.0") if is_baseline else Cell("–"), Cell("–")]
        cells += [_mean_cell(group, column) for column in others]
        sampling = mean_interval(group["sample_seconds"]).mean
        note = f"sampling {format_seconds(sampling)}" if math.isfinite(sampling) else ""
        cells.append(number_cell(mean_interval(group[time]).mean, note=note))
        lines.append(Line(cells, anchors(label, name)))
    shown = [*sizes, measure, *([""] * 2 if differences else []), *others, ""]
    feet = _feet(rows, shown)
    return Table(heads, lines, feet, caption=f"Models, {label}", kind="summary models")


def _mean_cell(group: pd.DataFrame, column: str) -> Cell:
    """A mean over seeds with half the width of its interval below it."""
    interval = mean_interval(group[column])
    text, _, half = format_half_width(interval, _DIGITS.get(column, 3)).partition("\n")
    return number_cell(interval.mean, text, half)


def _difference_cells(difference: PairedDifference) -> list[Cell]:
    """The difference with its interval and its ratio, and its corrected p-value."""
    notes = [f"ratio {_ratio_text(difference)}"] if math.isfinite(difference.ratio) else []
    return [
        interval_cell(difference.interval, notes),
        number_cell(difference.p_holm, format_p(difference.p_holm)),
    ]


def _count_cell(values: pd.Series[float]) -> Cell:
    low, high, mean = values.min(), values.max(), values.mean()
    text = f"{low:,.0f}" if low == high else f"{low:,.0f} to {high:,.0f}"
    return number_cell(mean, text)


def _trials(group: pd.DataFrame, anchors: Anchors) -> tuple[Trial, ...]:
    return tuple(
        Trial(
            plain_number(float(seed)) if pd.notna(seed) else "–",
            str(trial),
            anchors("trial", str(trial)),
        )
        for seed, trial in zip(group["seed"], group["trial"], strict=True)
        if pd.notna(trial)
    )


def _feet(rows: pd.DataFrame, columns: list[str]) -> list[Line]:
    """What the exact optimum and two real samples score, where that is known.

    Args:
        rows: The complete rows of a setting.
        columns: The columns after the first, ``""`` for those in which they have no score.
    """
    optimum = {"heldout_loss": rows["floor"].mean(), "nll": rows["nll_real"].mean()}
    real = {key: rows[f"{key}_real"].mean() for key in SAMPLE_METRICS}
    feet = []
    for name, values in ((ORACLE_ROW, optimum), (REAL_ROW, real)):
        if not any(math.isfinite(values.get(column, math.nan)) for column in columns):
            continue
        if name == ORACLE_ROW and (rows["oracle"] == "exact").all():
            values["excess"] = 0.0
        texts = (
            format_number(values[column], _DIGITS.get(column, 3))
            if math.isfinite(values.get(column, math.nan))
            else ""
            for column in columns
        )
        feet.append(Line([Cell(name), *(Cell(text) for text in texts)], kind="real"))
    return feet


def time_use(contents: ReportContents, label: str, anchors: Anchors) -> TimeUse | None:
    """What the models of a setting really used of a budget of time; None for other budgets."""
    rows = contents.complete_rows(label)
    used = rows[rows["train_cpu_seconds"].notna()]
    budget = rows["budget"].iloc[0] if len(rows) else math.nan
    if not len(used) or used["match"].iloc[0] != "time" or not budget > 0:
        return None
    styles = model_styles(contents.complete_rows())
    heads = [
        Head("model", words=True), Head("budget (s)"), Head("mean (CPU s)"),
        Head("least (CPU s)"), Head("most (CPU s)"),
        Head("largest deviation", "of a trial from the budget, as a share of it"),
    ]  # fmt: skip
    lines, worst = [], (0.0, "")
    for name in contents.model_names(label):
        seconds = used.loc[used["name"] == name, "train_cpu_seconds"]
        if not len(seconds):
            continue
        shares = seconds.to_numpy(float) / budget - 1
        share = float(shares[abs(shares).argmax()])
        worst = max(worst, (abs(share), name))
        texts = [
            format_number(v, 4) for v in (budget, seconds.mean(), seconds.min(), seconds.max())
        ]
        values = (budget, seconds.mean(), seconds.min(), seconds.max())
        lines.append(
            Line(
                [
                    Cell(name, link=anchors(label, name), colour=styles[name].colour),
                    *(number_cell(v, text) for v, text in zip(values, texts, strict=True)),
                    number_cell(abs(share), f"{share:+.1%}".replace("-", "−").replace("%", " %")),
                ]
            )
        )
    large = worst[0] > _LARGE_DEVIATION
    sentence = f"The largest deviation of a trial from the budget is {worst[0]:.1%} ({worst[1]})."
    sentence = sentence.replace("%", " %")
    if large:
        sentence += (
            " That is more than 10 %: times were not equal here, so read this setting with care."
        )
    return TimeUse(Table(heads, lines, caption=f"Time used, {label}", kind="time"), sentence, large)


def trials_table(contents: ReportContents, anchors: Anchors) -> Table:
    """Every trial with its raw numbers."""
    table = trial_table(contents.rows)
    heads = [
        Head(_TRIAL_HEADS.get(column, column), words=column in _TRIAL_WORDS)
        for column in table.columns
    ]
    lines, seen = [], set()
    for record in table.itertuples(index=False, name=None):
        values = dict(zip(table.columns, record, strict=True))
        trial = str(values["trial"])
        anchor = "" if pd.isna(values["trial"]) or trial in seen else anchors("trial", trial)
        seen.add(trial)
        cells = [_raw_cell(column, value) for column, value in values.items()]
        lines.append(Line(cells, anchor, "failed" if values["state"] == "failed" else ""))
    return Table(heads, lines, caption="All trials", kind="trials")


def _raw_cell(column: str, value: object) -> Cell:
    if value is None or value != value:
        return Cell("–")
    if column in _TRIAL_WORDS or not isinstance(value, (int, float)):
        return Cell(str(value))
    return Cell(plain_number(float(value)))
