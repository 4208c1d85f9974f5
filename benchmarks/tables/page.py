"""The results as Markdown: every measure by table and method, beside what papers report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from kan_diffusion.files import read_json, write_text
from markdown_table import markdown_table
from tables.bench import METHODS, Result, read_results
from tables.generators import REFERENCE
from tables.sources import TABLES

_PUBLISHED = pd.DataFrame(
    [
        ("adult", "CTGAN", 0.000, 0.809, 0.758, 3798),
        ("adult", "TVAE", 0.000, 0.762, 0.666, 1310),
        ("adult", "TabSyn", 0.794, 0.992, 0.980, 3082),
        ("adult", "TabDiff", 0.841, 0.993, 0.985, 11605),
        ("adult", "TabPC", 0.855, 0.994, 0.986, 272),
        ("adult", "shallow mixture", 0.773, 0.992, 0.981, 60),
        ("adult", "independent columns", 0.016, 0.996, 0.925, 1),
        ("magic", "CTGAN", 0.103, 0.944, 0.945, 1797),
        ("magic", "TVAE", 0.298, 0.954, 0.953, 835),
        ("magic", "TabSyn", 0.760, 0.990, 0.992, 2271),
        ("magic", "TabDiff", 0.773, 0.992, 0.992, 11643),
        ("magic", "TabPC", 0.860, 0.990, 0.983, 39),
        ("magic", "shallow mixture", 0.626, 0.984, 0.979, 15),
        ("magic", "independent columns", 0.005, 0.994, 0.870, 1),
    ],
    columns=["table", "method", "detection", "shapes", "trends", "seconds of one GPU"],
)
_SOURCE = (
    "Means of five runs, from the results that Scassola et al. 2026 (arXiv:2603.23016) keep beside "
    "their code (april-tools/tabpc), on graphics cards. Their adult has 32,561 training rows."
)


_MEASURES: Mapping[str, tuple[Callable[[Result], float | None], Callable[[float], float]]] = {
    "Detection score by XGBoost (1: not told apart)": (
        lambda one: one.scores.get("detection"),
        lambda v: 1 - v,
    ),
    "Least detection score of a column by itself": (
        lambda one: min(one.columns.values(), default=None),
        lambda v: 1 - v,
    ),
    "Column shapes": (lambda one: one.scores.get("shapes"), lambda v: 1 - v),
    "Pair trends": (lambda one: one.scores.get("trends"), lambda v: 1 - v),
    "C2ST": (lambda one: one.scores.get("c2st"), lambda v: abs(v - 0.5)),
    "Usefulness": (lambda one: one.scores.get("usefulness"), lambda v: -v),
    "Closest-record share": (lambda one: one.scores.get("closest"), lambda v: abs(v - 0.5)),
    "Error of filled numbers": (lambda one: one.gaps.get("error"), lambda v: v),
    "Accuracy of filled categories": (lambda one: one.gaps.get("accuracy"), lambda v: -v),
    "Coverage of 90 % intervals": (lambda one: one.gaps.get("coverage"), lambda v: abs(v - 0.9)),
    "Seconds of fits": (lambda one: one.fit_seconds or None, lambda v: v),
    "Seconds of sampling": (lambda one: one.sample_seconds or None, lambda v: v),
}
"""For each measure what gives it, None where a result has none, and how bad a value is."""

_REAL = {"Detection score by XGBoost (1: not told apart)": "detection", "Column shapes": "shapes"}
_REAL |= {"Pair trends": "trends", "C2ST": "c2st", "Usefulness": "usefulness"}


def measured(results: Iterable[Result], of: Callable[[Result], float | None]) -> pd.DataFrame:
    """Computes a measure's mean over seeds: a row a table, a column a method, NaN without any."""
    values = [(one.table, one.method, of(one)) for one in results]
    frame = pd.DataFrame(values, columns=["table", "method", "value"]).astype({"value": float})
    means = frame.pivot_table(index="table", columns="method", values="value", dropna=False)
    means = means.dropna(axis=1, how="all").dropna(how="all")
    return means.reindex(
        index=[name for name in TABLES if name in means.index],
        columns=[name for name in METHODS if name in means.columns],
    )


def _number(value: float) -> str:
    if np.isnan(value):
        return "–"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.0f}"


def _section(results: Sequence[Result], label: str) -> str:
    """One measure: a row a table, a column a method, the best one in bold, then real rows."""
    of, badness = _MEASURES[label]
    values, key = measured(results, of), _REAL.get(label)
    best = values.drop(columns=REFERENCE, errors="ignore").map(badness).min(axis=1)
    real = measured(results, lambda one: one.perfect.get(str(key))).mean(axis=1)
    rows = []
    for table, of_table in values.iterrows():
        cells = [str(table)]
        for name, value in of_table.items():
            won = name != REFERENCE and badness(value) == best[table]
            cells.append(f"**{_number(value)}**" if won else _number(value))
        rows.append([*cells, *([_number(real[table])] if key else [])])
    return markdown_table(["table", *values.columns, *(["real rows"] if key else [])], rows)


def results_markdown(results: Sequence[Result], environment: Mapping[str, object]) -> str:
    """Writes all results.

    Args:
        results: At least one.
        environment: Versions and hardware by name.
    """
    asked = results[0].asked
    seeds = pd.Series([one.seed for one in results]).groupby([one.method for one in results])
    counts = ", ".join(f"{name} {count}" for name, count in seeds.nunique().items())
    parts = [
        "# Tables: results",
        "Written by `make tables`; what is measured, and how, is in "
        "[docs/tables.md](../../docs/tables.md). Means over seeds; most seeds of a table: "
        f"{counts}; at most {asked.seconds:g} seconds of one core a fit. Bold: the best, `rows` "
        "(the training rows themselves) left out.",
    ]
    for label, (of, _) in _MEASURES.items():
        if any(of(one) is not None for one in results):
            parts += [f"## {label}", _section(results, label)]
    published = [
        [table, method, *map(_number, numbers)] for table, method, *numbers in _PUBLISHED.to_numpy()
    ]
    parts += ["## What papers report", _SOURCE, markdown_table([*_PUBLISHED], published)]
    first = {one.key[:2]: one for one in reversed(results) if one.held}
    trained = [[*key, one.held, f"{one.fit_seconds:.1f}"] for key, one in first.items()]
    columns = ["table", "method", "trained", "seconds"]
    parts += ["## How much each was trained, one seed", markdown_table(columns, trained)]
    if failed := [one for one in results if one.error]:
        rows = [[*map(str, one.key), one.error.replace("|", "\\|")] for one in failed]
        parts += ["## Failed", markdown_table(["table", "method", "seed", "why"], rows)]
    rows = [[name, str(value)] for name, value in environment.items()]
    parts += ["## Made with", markdown_table(["what", "which"], rows)]
    return "\n\n".join(map(str.strip, parts)) + "\n"


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
    page = folder / "README.md"
    write_text(page, results_markdown(read_results(folder), made_with))
    return page
