"""The tables of a report: text for the terminal, cells that sort and link for the page."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, count

import numpy as np
import pandas as pd

from kan_diffusion.report.contents import ReportContents
from kan_diffusion.study.results.rows import COSTS, MEASURES, Results
from kan_diffusion.study.results.statistics import Interval, mean_interval
from kan_diffusion.study.results.verdicts import Comparison, Outcome

__all__ = [
    "BADGES", "MISSING", "REAL_ROW", "Anchors", "Cell", "Head", "Line", "Table", "Trial",
    "format_half_width", "format_interval", "format_number", "format_p", "format_seconds",
    "lead_table", "model_table", "number_cell", "summary_table", "time_use",
    "trial_table", "trials_table", "verdict_table",
]  # fmt: skip

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

_LARGE_DEVIATION = 0.10
# Held-out losses contain the floor and NLL the entropy, so that models differ in later digits.
_DIGITS = {"excess": 3, "heldout_loss": 4, "nll": 4}
_TIME = "train_cpu_seconds"


# --- numbers as text --------------------------------------------------------------------------


def format_number(value: float | None, digits: int = 3) -> str:
    """Formats a number to ``digits`` significant digits; a missing one is a dash."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value == 0:
        return "0"
    if abs(value) < 1e-5:
        text = f"{value:.{digits - 1}e}"
    else:
        text = f"{value:,.{_decimals(value, digits)}f}"
    return f"−{text[1:]}" if text.startswith("-") else text


def format_p(value: float) -> str:
    """Formats a p-value as ``0.031`` or ``< 0.001``; a missing one is a dash."""
    if not math.isfinite(value):
        return MISSING
    return f"{value:.2g}" if value >= 0.001 else "< 0.001"


def format_interval(interval: Interval, digits: int = 3) -> str:
    """Formats a mean with its interval, ``mean [low, high]``, all to the decimals of the mean."""
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


def _decimals(value: float, digits: int) -> int:
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])  # rounded: 9.996 is 10.0
    return max(0, digits - 1 - exponent)


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


# --- tables of text ---------------------------------------------------------------------------


def summary_table(
    results: Results, show: Callable[[Interval], str] = format_interval
) -> pd.DataFrame:
    """Summarises a study as text, each measure with its 95 % interval over seeds.

    Args:
        results: The study.
        show: Formats a mean with its interval.

    Returns:
        One row for each data set and model, with the columns ``data``, ``model``,
        ``parameters``, ``flops`` (of a forward pass for one point), ``seeds`` ("2 of 3" where a
        trial failed), ``heldout_loss``, ``floor``, ``excess``, one for each sample metric that was
        measured, ``train time`` and ``sample time``. The last row of a data set, `REAL_ROW`, holds
        the metrics between two fresh real samples.
    """
    records: list[dict[str, str]] = []
    for label, rows in results.rows.groupby("data", sort=False):
        for name, group in rows.groupby("name", sort=False):
            record = {"data": str(label), "model": str(name), "seeds": _seeds(group)}
            record |= {column: _count(group[column]) for column in ("parameters", "flops")}
            record["floor"] = format_number(group["floor"].mean())
            for column in ("heldout_loss", "excess", *results.metrics):
                record[column] = show(mean_interval(group[column]))
            record["train time"] = format_seconds(group["train_seconds"].mean())
            record["sample time"] = format_seconds(group["sample_seconds"].mean())
            records.append(record)
        real = {key: rows[f"{key}_real"].mean() for key in results.metrics}
        if any(map(math.isfinite, real.values())):
            scores = {key: format_number(value) for key, value in real.items()}
            records.append({"data": str(label), "model": REAL_ROW, **scores})
    columns = ["data", "model", "parameters", "flops", "seeds", "heldout_loss", "floor"]
    columns += ["excess", *results.metrics, "train time", "sample time"]
    return pd.DataFrame(records, columns=columns).fillna("")


def trial_table(results: Results) -> pd.DataFrame:
    """Lists the trials with all columns that hold a value, numbers as numbers.

    Args:
        results: The study.

    Returns:
        One row for each trial: ``data``; ``process`` if there are several; ``match`` and ``budget``
        if the study has them; ``model``, ``seed``, ``state`` ("done" or "failed"), every number
        that was measured, and ``trial``.
    """
    rows = results.rows.rename(columns={"name": "model"})
    rows["state"] = np.where(rows["failed"], "failed", "done")
    numbers = (
        *(*COSTS, "train_cpu_seconds", "train_seconds", "sample_seconds", "out_of_range"),
        *("heldout_loss", "floor", "excess", "excess_se", "nll", "nll_real"),
        *(column for key in results.metrics for column in (key, f"{key}_real")),
    )
    kept = [column for column in numbers if rows[column].notna().any()]
    several = rows["process"].nunique() > 1
    setting = [column for column in ("match", "budget") if rows[column].notna().any()]
    place = ["data", *(["process"] if several else []), *setting]
    return rows[[*place, "model", "seed", "state", *kept, "trial"]]


# --- tables of a page -------------------------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    """A trial named in a cell, with the anchor of its row in the table of all trials."""

    seed: str
    id: str
    anchor: str


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: Its text; a dash where nothing was measured.
        note: Its smaller second line.
        key: The number it is sorted by, as text; if empty, it is sorted by ``text``.
        link: The anchor its text links to.
        badge: The CSS class of a coloured badge around its text.
        colour: The colour of a swatch before its text.
        trials: The trials behind it.
    """

    text: str
    note: str = ""
    key: str = ""
    link: str = ""
    badge: str = ""
    colour: str = ""
    trials: tuple[Trial, ...] = ()


@dataclass(frozen=True)
class Head:
    """The head of a column.

    Attributes:
        text: Its name.
        title: What it means, shown as a tooltip.
        words: Whether the column holds words, which are aligned left.
    """

    text: str
    title: str = ""
    words: bool = False


@dataclass(frozen=True)
class Line:
    """A row of a table.

    Attributes:
        cells: Its cells, the first being its head.
        anchor: Its id in the page.
        kind: Its CSS class.
    """

    cells: list[Cell]
    anchor: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """A table with sortable lines and, below them, lines that stay in place.

    Attributes:
        heads: The head of each column.
        lines: The sortable lines.
        feet: The lines that stay in place, such as the values to reach.
        caption: What the table holds, for those who cannot see it.
        kind: Its CSS class.
    """

    heads: list[Head]
    lines: list[Line]
    feet: list[Line] = field(default_factory=list)
    caption: str = ""
    kind: str = "summary"


class Anchors:
    """Unique ids within a page."""

    def __init__(self) -> None:
        self._given: dict[tuple[str, ...], str] = {}

    def __call__(self, *words: str) -> str:
        """Gives the id that belongs to some words; the same words always have the same id."""
        if words not in self._given:
            taken = set(self._given.values())
            slug = re.sub(r"[^a-z0-9]+", "-", "-".join(words).lower()).strip("-") or "part"
            others = (f"{slug}-{number}" for number in count(2))
            self._given[words] = next(name for name in chain([slug], others) if name not in taken)
        return self._given[words]


def number_cell(value: float | None, text: str = "", note: str = "") -> Cell:
    """Makes the cell of a number, sorted by its value; ``text`` replaces the usual format."""
    if value is None or not math.isfinite(value):
        return Cell(MISSING, note)
    return Cell(text or format_number(value), note, f"{value:.12g}")


def _interval_cell(interval: Interval, notes: Iterable[str] = ()) -> Cell:
    """Makes the cell of a mean with its interval below it, sorted by the mean."""
    value, _, ends = format_interval(interval).partition(" [")
    lines = [f"[{ends}" if ends else "", *notes]
    return number_cell(interval.mean, value, "\n".join(line for line in lines if line))


def _p_cell(value: float) -> Cell:
    return number_cell(value, format_p(value))


def _ratio_text(comparison: Comparison) -> str:
    return format_number(comparison.ratio, _DIGITS.get(comparison.measure, 3))


def _heads(results: Results) -> dict[str, Head]:
    """The head of each column that a table of models can have."""
    return {
        "parameters": Head("parameters", "trainable parameters"),
        "flops": Head("FLOPs", "operations of a forward pass for one point, as done here"),
        "steps": Head("steps", "optimiser steps"),
        "excess": Head("excess", "mean squared distance to the oracle's predicted noise"),
        "heldout_loss": Head("held-out loss", "training loss on points not trained on"),
        "nll": Head("NLL", "negative log-likelihood of held-out points, nats a point"),
        _TIME: Head("train (CPU s)", "CPU seconds of training"),
        **{
            key: Head(metric.label, f"{metric.title}; {metric.better} is better")
            for key, metric in results.metrics.items()
        },
    }


def verdict_table(contents: ReportContents, anchors: Anchors) -> Table | None:
    """Compares best KAN and best MLP, a line for each data set; None below two verdicts."""
    found = [v for v in contents.decision.verdicts.values() if v.outcome is not None]
    if len(found) < 2:
        return None
    heads = [
        Head("data", words=True), Head("verdict", words=True), Head("best KAN", words=True),
        Head("best MLP", words=True), Head("KAN minus MLP", "paired difference of the means"),
        Head("p (Holm)", "corrected over the data sets at that budget"),
        Head("ratio", "mean of the KAN over mean of the MLP"),
        Head("seeds", "seeds that both finished"), Head("p", "sign-flip test over paired seeds"),
    ]  # fmt: skip
    lines = []
    for verdict in found:
        label, difference = verdict.data, verdict.difference
        assert verdict.outcome is not None
        assert difference is not None
        rows = contents.results.of_data(label)
        sides = []
        for name, kind in ((difference.model, "kan"), (difference.baseline, "mlp")):
            mean = rows.loc[rows["name"] == name, verdict.measure].mean()
            text = format_number(mean, _DIGITS[verdict.measure])
            note = f"{text} (of {verdict.count(kind)})"
            colour = contents.styles[name].colour
            sides.append(Cell(name, note, link=anchors(label, name), colour=colour))
        cells = [
            Cell(label, f"by {MEASURES[verdict.measure]}", link=anchors("data", label)),
            Cell(verdict.outcome, badge=BADGES[verdict.outcome]),
            *sides,
            _interval_cell(difference.interval),
            _p_cell(difference.p_holm),
            number_cell(difference.ratio, _ratio_text(difference)),
            number_cell(difference.interval.n, str(difference.interval.n)),
            _p_cell(difference.p_value),
        ]
        lines.append(Line(cells))
    return Table(heads, lines, caption="Best KAN against best MLP", kind="summary verdicts")


def lead_table(contents: ReportContents) -> Table | None:
    """Lists a study's leads, a line for each model at each budget; None if there are none."""
    leads = contents.decision.leads
    if not leads:
        return None
    heads = [
        Head("model", words=True), Head("ahead on", "data sets with the lower mean excess"),
        Head("better on", "data sets on which it is called better", words=True),
        Head("worse on", "data sets on which the best MLP is called better", words=True),
        Head("median ratio", "of its mean excess to that of the best MLP"),
    ]  # fmt: skip
    lines = []
    for lead in leads:
        colour = "" if lead.model is None else contents.styles[lead.model].colour
        cells = [
            Cell(lead.model or "best KAN", lead.amount, colour=colour),
            number_cell(len(lead.ahead), f"{len(lead.ahead)} of {len(lead.comparisons)}"),
            *(
                Cell(f"{len(names)}", ", ".join(names), key=f"{len(names)}")
                for names in (lead.better, lead.worse)
            ),
            _interval_cell(lead.ratio),
        ]
        lines.append(Line(cells))
    return Table(heads, lines, caption="Models over all data sets")


def model_table(contents: ReportContents, label: str, anchors: Anchors) -> Table:
    """Lists the models of a data set: parameters, judged measure, difference, then all else."""
    results = contents.results
    rows, measure = results.of_data(label), results.judged(label)
    known_sizes = [column for column in COSTS if rows[column].notna().any()]
    first, *sizes = known_sizes or COSTS[:1]  # no size is known if all trials failed
    others = [m for m in (*results.metrics, *MEASURES) if m != measure and rows[m].notna().any()]
    differences = contents.decision.of_data(label)
    known = _heads(results)
    heads = [Head("model", words=True), *(known[column] for column in (first, measure))]
    if differences:
        heads.append(Head("− best MLP", f"paired difference of the {MEASURES[measure]}"))
        heads.append(Head("p (Holm)", "corrected over the data sets at that budget"))
    heads += [known[column] for column in (*others, _TIME, *sizes)]
    baselines = {comparison.baseline for comparison in differences.values()}
    lines = []
    for name in contents.model_names(label):
        group = rows[rows["name"] == name]
        trials = tuple(
            Trial(_plain(float(seed)), str(trial), anchors("trial", str(trial)))
            for seed, trial in zip(group["seed"], group["trial"], strict=True)
            if trial is not None
        )
        colour = contents.styles[name].colour
        cells = [Cell(name, f"seeds: {_seeds(group)}", colour=colour, trials=trials)]
        counts = [number_cell(group[s].mean(), _count(group[s])) for s in (first, *sizes)]
        cells += [counts[0], _mean_cell(group, measure)]
        if name in differences:
            difference = differences[name]
            ratio = f"ratio {_ratio_text(difference)}" if math.isfinite(difference.ratio) else ""
            cells += [_interval_cell(difference.interval, [ratio]), _p_cell(difference.p_holm)]
        elif differences:
            best = Cell("best MLP", key="0.0") if name in baselines else Cell(MISSING)
            cells += [best, Cell(MISSING)]
        sampling = group["sample_seconds"].mean()
        note = f"sampling {format_seconds(sampling)}" if math.isfinite(sampling) else ""
        cells += [_mean_cell(group, column) for column in others]
        cells += [number_cell(group[_TIME].mean(), note=note), *counts[1:]]
        lines.append(Line(cells, anchors(label, name)))
    shown = [first, measure, *([""] * 2 if differences else []), *others, "", *sizes]
    feet = _feet(results, label, shown)
    return Table(heads, lines, feet, caption=f"Models, {label}", kind="summary models")


def _mean_cell(group: pd.DataFrame, column: str) -> Cell:
    """Makes the cell of a mean over seeds, with half the width of its interval below it."""
    interval = mean_interval(group[column])
    text, _, half = format_half_width(interval, _DIGITS.get(column, 3)).partition("\n")
    return number_cell(interval.mean, text, half)


def _feet(results: Results, label: str, columns: Sequence[str]) -> list[Line]:
    """Makes the rows of the optimum and of two real samples; column ``""`` is empty."""
    rows = results.of_data(label)
    optimum = {"heldout_loss": rows["floor"].mean(), "nll": rows["nll_real"].mean()}
    if math.isfinite(optimum["heldout_loss"]):
        optimum["excess"] = 0.0
    real = {key: rows[f"{key}_real"].mean() for key in results.metrics}
    feet = []
    for name, values in (("exact oracle", optimum), (REAL_ROW, real)):
        shown = [values.get(column, math.nan) for column in columns]
        if any(math.isfinite(value) for value in shown):
            cells = [
                Cell(format_number(value, _DIGITS.get(column, 3)) if math.isfinite(value) else "")
                for column, value in zip(columns, shown, strict=True)
            ]
            feet.append(Line([Cell(name), *cells], kind="real"))
    return feet


def time_use(
    contents: ReportContents, label: str, anchors: Anchors
) -> tuple[Table, str, bool] | None:
    """Compares the time that each model used with a budget of time.

    Returns:
        A table with a line for each model, the largest deviation in words, and whether it is above
        10 %; None for other budgets.
    """
    rows = contents.results.of_data(label)
    used = rows[rows[_TIME].notna()]
    if not len(used) or used["match"].iloc[0] != "time":
        return None
    budget = float(used["budget"].iloc[0])
    heads = [
        Head("model", words=True), Head("budget (s)"), Head("mean (CPU s)"),
        Head("least (CPU s)"), Head("most (CPU s)"),
        Head("largest deviation", "of a trial from the budget, as a share of it"),
    ]  # fmt: skip
    lines, worst = [], (0.0, "")
    for name in contents.model_names(label):
        seconds = used.loc[used["name"] == name, _TIME]
        if not len(seconds):
            continue
        shares = seconds.to_numpy(float) / budget - 1
        share = float(shares[abs(shares).argmax()])
        worst = max(worst, (abs(share), name))
        values = (budget, seconds.mean(), seconds.min(), seconds.max())
        cells = [Cell(name, link=anchors(label, name), colour=contents.styles[name].colour)]
        cells += [number_cell(value, format_number(value, 4)) for value in values]
        deviation = f"{share:+.1%}".replace("-", "−").replace("%", " %")
        lines.append(Line([*cells, number_cell(abs(share), deviation)]))
    large = worst[0] > _LARGE_DEVIATION
    sentence = f"The largest deviation of a trial from the budget is {worst[0]:.1%} ({worst[1]})."
    sentence = sentence.replace("%", " %")
    if large:
        sentence += " That is more than 10 %: times were not equal here, so read them with care."
    return Table(heads, lines, caption=f"Time used, {label}", kind="time"), sentence, large


def trials_table(results: Results, anchors: Anchors) -> Table:
    """Lists every trial with its raw numbers."""
    names = {
        **{column: head.text for column, head in _heads(results).items()},
        "excess_se": "± SE",
        "train_seconds": "train (s)",
        "sample_seconds": "sample (s)",
        "out_of_range": "outside grid",
        "nll_real": "NLL, exact",
        **{f"{key}_real": f"{metric.label}, real" for key, metric in results.metrics.items()},
    }
    words = ("data", "process", "match", "model", "state", "trial")
    table = trial_table(results)
    known = [column for column in ("excess", "heldout_loss") if column in table]
    first = [*table.columns[: table.columns.get_loc("state")], *known]  # seen without unfolding
    table = table[[*first, *(column for column in table.columns if column not in first)]]
    heads = [Head(names.get(column, column), words=column in words) for column in table.columns]
    lines = []
    for record in table.to_dict("records"):
        cells = [
            Cell(str(value) if column in words else _plain(float(value)))
            if pd.notna(value)
            else Cell(MISSING)
            for column, value in record.items()
        ]
        trial = record["trial"]
        anchor = anchors("trial", str(trial)) if trial is not None else ""
        lines.append(Line(cells, anchor, "failed" if record["state"] == "failed" else ""))
    return Table(heads, lines, caption="All trials", kind="trials")
