"""Runs the benchmark of tables from a terminal: ``make tables``, or ``python -m tables``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from kan_diffusion.cli.progress import show_phases
from kan_diffusion.errors import KanDiffusionError, require_known
from kan_diffusion.study.executors import default_workers
from tables.bench import METHODS, Asked, run_benchmark
from tables.page import measured, write_page
from tables.sources import TABLES


def _names(given: str, known: Sequence[str], what: str) -> list[str]:
    names = given.split(",")
    for name in names:
        require_known(what, name, known)
    return names


def main() -> None:
    """Compares what makes synthetic rows and fills gaps, on tables that come with packages."""
    parser = argparse.ArgumentParser(prog="make tables", description=main.__doc__)
    parser.add_argument("--tables", default=",".join(TABLES), help="names, with commas (all)")
    parser.add_argument("--methods", default=",".join(METHODS), help="names, with commas (all)")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each (5)")
    parser.add_argument("--first-seed", type=int, default=0, help="the first of the seeds (0)")
    parser.add_argument(
        "--seconds", type=float, default=600.0, help="of one core that a fit may take (600)"
    )
    parser.add_argument("--params", type=int, help="parameters of our families (as suits a table)")
    parser.add_argument("--workers", type=int, help="runs side by side (one for each core)")
    parser.add_argument("--out", type=Path, default=Path("runs/tables"), help="folder to write")
    given = parser.parse_args()
    methods = _names(given.methods, METHODS, "method")
    tables = _names(given.tables, list(TABLES), "table")
    for package in ("xgboost", "statsmodels"):
        if find_spec(package) is None:
            raise KanDiffusionError(
                f"the benchmark needs the package {package}; `make tables` installs it into an "
                "environment of its own"
            )
    with show_phases("tables") as on_progress:
        results = run_benchmark(
            given.out,
            tables=tables,
            methods=methods,
            seeds=range(given.first_seed, given.first_seed + given.seeds),
            asked=Asked(given.seconds, given.params),
            workers=given.workers or default_workers("cpu"),
            on_progress=on_progress,
        )
    scores = measured(results, lambda one: one.scores.get("detection"))
    shown = Table("table", *scores, box=SIMPLE_HEAD, title="detection score by XGBoost")
    for name, row in scores.iterrows():
        shown.add_row(str(name), *("–" if score != score else f"{score:.3f}" for score in row))
    Console(highlight=False).print(shown)
    print(f"\nTables: {write_page(given.out)}")


if __name__ == "__main__":
    try:
        main()
    except KanDiffusionError as error:
        sys.exit(f"error: {error}")
