"""Runs the benchmark of tables from a terminal: ``make tables``, or ``python -m tables``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from shutil import which

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from kan_diffusion.cli.progress import show_phases
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.study.executors import default_workers
from tables.bench import METHODS, run_benchmark, run_speed
from tables.generators import SYNTHCITY, UNTIMED
from tables.page import mean_ranks, write_page
from tables.sources import TABLES

_PACKAGES = {
    "copula": "copulas",
    "ctgan": "ctgan",
    "tvae": "ctgan",
    "forest-diffusion": "ForestDiffusion",
    "forest-diffusion-in-full": "ForestDiffusion",
    "miceforest": "miceforest",
}


def _names(given: str, known: Sequence[str], what: str) -> list[str]:
    names = given.split(",")
    for name in names:
        if name not in known:
            raise KanDiffusionError(f"no {what} '{name}'; known are {', '.join(known)}")
    return names


def _require_packages(methods: Sequence[str]) -> None:
    if "tabddpm" in methods and which(os.environ.get(SYNTHCITY, "")) is None:
        raise KanDiffusionError(
            f"method 'tabddpm' needs {SYNTHCITY}, the interpreter of an environment that has "
            "synthcity; docs/tables.md says how to make one, or leave it out with --methods"
        )
    for name in methods:
        package = _PACKAGES.get(name)
        if package is not None and find_spec(package) is None:
            raise KanDiffusionError(
                f"method '{name}' needs the package {package}; install the extra 'tables' into an "
                "environment of its own, as `make tables` does, or leave it out with --methods"
            )


def main() -> None:
    """Compares what makes synthetic rows and fills gaps, on tables that come with packages."""
    without = [*UNTIMED, *([] if SYNTHCITY in os.environ else ["tabddpm"])]
    usual = [name for name in METHODS if name not in without]
    parser = argparse.ArgumentParser(prog="make tables", description=main.__doc__)
    parser.add_argument("--tables", default=",".join(TABLES), help="names, with commas (all)")
    parser.add_argument(
        "--methods",
        default=",".join(usual),
        help=f"names, with commas (all but {', '.join(without)})",
    )
    parser.add_argument("--seeds", type=int, default=5, help="runs of each (5)")
    parser.add_argument(
        "--seconds", type=float, default=30.0, help="of one core that a fit may take (30)"
    )
    parser.add_argument("--workers", type=int, help="runs side by side (one for each core)")
    parser.add_argument("--speed", action="store_true", help="time the estimator's defaults, too")
    parser.add_argument("--out", type=Path, default=Path("runs/tables"), help="folder to write")
    given = parser.parse_args()
    methods = _names(given.methods, METHODS, "method")
    tables = _names(given.tables, list(TABLES), "table")
    _require_packages(methods)
    if given.speed:
        run_speed(given.out)
    with show_phases("tables") as on_progress:
        results = run_benchmark(
            given.out,
            tables=tables,
            methods=methods,
            seeds=given.seeds,
            seconds=given.seconds,
            workers=given.workers or default_workers("cpu"),
            on_progress=on_progress,
        )
    ranks = mean_ranks(results)
    shown = Table("method", *map(str, ranks), box=SIMPLE_HEAD, title="mean ranks")
    for name, row in ranks.iterrows():
        shown.add_row(str(name), *("–" if rank != rank else f"{rank:.2f}" for rank in row))
    Console(highlight=False).print(shown)
    print(f"\nTables: {write_page(given.out)}")


if __name__ == "__main__":
    try:
        main()
    except KanDiffusionError as error:
        sys.exit(f"error: {error}")
