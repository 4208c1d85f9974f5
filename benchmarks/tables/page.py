r"""The results as Markdown: mean ranks, then every measure by table and method.

On each table that all methods were run on, and for each measure, methods are ranked by their mean
over seeds, ties sharing their mean rank, and one that failed coming last. A rank of several
measures is the mean of theirs, and the rank over tables the mean over tables:

- fidelity     column shapes, pair trends, |C2ST - ½|
- usefulness   of the target, learned from synthetic rows
- imputation   error and accuracy under MCAR and MAR, among what fills gaps

``rows``, the training rows themselves, is a reference and has no rank; nor has what is not held to
the time of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from kan_diffusion.files import read_json, write_text
from tables.bench import METHODS, Result, read_results
from tables.generators import REFERENCE, UNTIMED
from tables.sources import TABLES

__all__ = ["mean_ranks", "results_markdown", "write_page"]

_UNRANKED = (REFERENCE, *UNTIMED)


@dataclass(frozen=True)
class _Measure:
    """A number of a result.

    Attributes:
        label: Its name in a heading.
        of: Gives it; None where a result has none.
        badness: What ranks it: the less, the better.
        perfect: Gives what real rows score, if anything.
    """

    label: str
    of: Callable[[Result], float | None]
    badness: Callable[[float], float]
    perfect: Callable[[Result], float | None] = lambda _: None


def _score(key: str, label: str, badness: Callable[[float], float]) -> _Measure:
    return _Measure(
        label, lambda one: one.scores.get(key), badness, lambda one: one.perfect.get(key)
    )


def _filled(key: str, label: str, badness: Callable[[float], float]) -> _Measure:
    return _Measure(label, lambda one: one.gaps.get(key), badness)


def _less(value: float) -> float:
    return value


def _more(value: float) -> float:
    return -value


def _from_half(value: float) -> float:
    return abs(value - 0.5)


def _from_nine_tenths(value: float) -> float:
    return abs(value - 0.9)


def _ratio(one: Result) -> float | None:
    """Usefulness as a share of what training on real rows gives."""
    value, perfect = one.scores.get("usefulness"), one.perfect.get("usefulness")
    return None if value is None or not perfect else value / perfect


_GROUPS: Mapping[str, Sequence[_Measure]] = {
    "fidelity": (
        _score("shapes", "column shapes", _more),
        _score("trends", "pair trends", _more),
        _score("c2st", "C2ST", _from_half),
    ),
    "usefulness": (_Measure("usefulness over that of real rows", _ratio, _more, lambda one: 1.0),),
    "imputation": (
        _filled("mcar error", "error of filled numbers, MCAR", _less),
        _filled("mar error", "error of filled numbers, MAR", _less),
        _filled("mcar accuracy", "accuracy of filled categories, MCAR", _more),
        _filled("mar accuracy", "accuracy of filled categories, MAR", _more),
    ),
}
_OTHERS = (
    _filled("mcar coverage", "coverage of 90 % intervals, MCAR", _from_nine_tenths),
    _filled("mar coverage", "coverage of 90 % intervals, MAR", _from_nine_tenths),
    _score("closest", "closest-record share", _from_half),
    _Measure("seconds of fits", lambda one: one.fit_seconds or None, _less),
    _Measure("seconds of sampling", lambda one: one.sample_seconds or None, _less),
)


def _by_table(results: Iterable[Result], measure: _Measure) -> pd.DataFrame:
    """A measure's mean over seeds: a row a table, a column a method, NaN where there is none."""
    values = [(one.table, one.method, measure.of(one)) for one in results]
    frame = pd.DataFrame(values, columns=["table", "method", "value"]).astype({"value": float})
    means = frame.pivot_table(index="table", columns="method", values="value", dropna=False)
    return means.reindex(
        index=[name for name in TABLES if name in means.index],
        columns=[name for name in METHODS if name in means.columns],
    )


def mean_ranks(results: Sequence[Result]) -> pd.DataFrame:
    """Ranks methods, 1 being the best.

    Args:
        results: Results, of any tables, methods and seeds.

    Returns:
        A row a method, a column a group of measures, and ``all``: for methods that make rows, the
        mean over the groups that they have part in. The best comes first.
    """
    ranked = [one for one in results if one.method not in _UNRANKED]
    groups = {}
    for group, measures in _GROUPS.items():
        able = {one.method for one in ranked for measure in measures if measure.of(one) is not None}
        run = {(one.table, one.method) for one in ranked}
        ranks = []
        for measure in measures:
            values = _by_table([one for one in ranked if one.method in able], measure)
            everywhere = [table for table in values.index if all((table, m) in run for m in able)]
            bad = values.loc[everywhere].map(measure.badness).dropna(how="all")
            ranks.append(bad.rank(axis=1, na_option="bottom"))
        groups[group] = pd.concat(ranks).groupby(level=0).mean().mean()
    frame = pd.DataFrame(groups).dropna(how="all")
    frame["all"] = frame.mean(axis=1).where(frame["fidelity"].notna())
    return frame.sort_values(["all", "imputation"])


def _markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(value: float) -> str:
    if np.isnan(value):
        return "–"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.0f}"


def _measured(results: Sequence[Result], measure: _Measure) -> str:
    """One measure: a row a table, a column a method, the best one in bold."""
    values = _by_table(results, measure).dropna(axis=1, how="all").dropna(how="all")
    perfect = _by_table(results, _Measure("", measure.perfect, _less)).mean(axis=1)
    known = perfect.notna().any()
    ranked = [name for name in values if name not in _UNRANKED]
    best = values[ranked].map(measure.badness).min(axis=1)
    rows = []
    for table, of_table in values.iterrows():
        cells = [str(table)]
        for name, value in of_table.items():
            won = name in ranked and measure.badness(value) == best[table]
            cells.append(f"**{_number(value)}**" if won else _number(value))
        rows.append([*cells, *([_number(perfect[table])] if known else [])])
    return _markdown(["table", *values.columns, *(["real rows"] if known else [])], rows)


def _seeds(results: Sequence[Result]) -> str:
    """How many seeds methods have: from their least to their most on a table."""
    frame = pd.DataFrame([one.key for one in results], columns=["table", "method", "seed"])
    counts = frame.groupby(["method", "table"]).size().groupby("method").agg(["min", "max"])
    spans = {
        name: " to ".join(sorted({str(low), str(high)})) for name, low, high in counts.itertuples()
    }
    alike = {span: [name for name in METHODS if spans.get(name) == span] for span in spans.values()}
    if len(alike) == 1:
        return f"{next(iter(alike))} of each method"
    said = (f"{span} of {', '.join(names)}" for span, names in sorted(alike.items(), reverse=True))
    return "; ".join(said)


def results_markdown(
    results: Sequence[Result], environment: Mapping[str, object], speed: Mapping[str, object]
) -> str:
    """Writes all results.

    Args:
        results: At least one.
        environment: Versions and hardware by name.
        speed: Seconds by name, of the estimator's defaults; empty where not measured.
    """
    seeds = sorted({one.seed for one in results})
    budget = results[0].budget
    parts = [
        "# Tables: results",
        "Written by `make tables`; what is measured, and how, is in "
        "[docs/tables.md](../../docs/tables.md). "
        f"Means over seeds, {_seeds(results)}; {budget:g} seconds of one core a fit. Bold: the "
        "best, `rows` (the training rows themselves) and methods that are not held to the time "
        "left out.",
        "## Mean ranks",
        _markdown(
            ["method", *_GROUPS, "all"],
            [[str(name), *map(_number, row)] for name, row in mean_ranks(results).iterrows()],
        ),
    ]
    for measure in (*(one for group in _GROUPS.values() for one in group), *_OTHERS):
        if any(measure.of(one) is not None for one in results):
            label = measure.label[0].upper() + measure.label[1:]
            parts += [f"## {label}", _measured(results, measure)]
    held = {one.key: one for one in results if one.held and one.seed == seeds[0]}
    parts += [
        f"## How each was held to its time, seed {seeds[0]}",
        _markdown(
            ["table", "method", "held by", "seconds"],
            [[t, m, one.held, f"{one.fit_seconds:.1f}"] for (t, m, _), one in held.items()],
        ),
    ]
    if failed := [one for one in results if one.error]:
        rows = [[one.table, one.method, str(one.seed), _cell(one.error)] for one in failed]
        parts += ["## Failed", _markdown(["table", "method", "seed", "why"], rows)]
    if speed:
        rows = [[name, f"{value} s"] for name, value in speed.items()]
        parts += [
            "## customers by the estimator's defaults alone, all cores, by the clock",
            _markdown(["what", "time"], rows),
        ]
    rows = [[name, str(value)] for name, value in environment.items()]
    parts += ["## Made with", _markdown(["what", "which"], rows)]
    return "\n\n".join(parts) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def write_page(folder: Path) -> Path:
    """Writes ``README.md`` from what is in the folder of the benchmark.

    Args:
        folder: The folder, with at least one result.

    Returns:
        The page.

    Raises:
        RunFolderError: A file is damaged or cannot be written.
    """
    made_with = read_json(folder / "environment.json", "an environment", "run the benchmark again")
    speed = folder / "speed.json"
    taken = read_json(speed, "times", "run it again with --speed") if speed.exists() else {}
    page = folder / "README.md"
    write_text(page, results_markdown(read_results(folder), made_with, taken))
    return page
