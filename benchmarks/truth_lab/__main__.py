"""Runs the truth lab from a terminal: ``make lab``, or ``python -m truth_lab`` from here."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from kan_diffusion.cli.progress import show_phases
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.report.explanation import write_explanation
from kan_diffusion.study.executors import default_workers
from truth_lab.lab import LabResults, run_lab
from truth_lab.page import write_lab


def _show(results: LabResults) -> None:
    """Prints recovered constants beside the true ones, a row for each density."""
    table = Table("density", "question", "answer", box=SIMPLE_HEAD, title="truth lab")
    for row in results.summary():
        table.add_row(*row)
    Console(highlight=False).print(table)


def main() -> None:
    """Trains on densities with known scores and compares what is recovered of them."""
    parser = argparse.ArgumentParser(prog="make lab", description=main.__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="training runs for each density (5)")
    parser.add_argument("--workers", type=int, help="runs side by side (one for each core)")
    parser.add_argument("--out", type=Path, default=Path("runs/truth-lab"), help="folder to write")
    given = parser.parse_args()
    torch.set_num_threads(1)  # at these sizes a second thread makes a step slower
    with show_phases("truth lab") as on_progress:
        results = run_lab(
            given.out,
            seeds=given.seeds,
            workers=given.workers or default_workers("cpu"),
            draw=write_explanation,
            on_progress=on_progress,
        )
        page = write_lab(results, given.out)
    _show(results)
    print(f"\nTruth lab: {page}")


if __name__ == "__main__":
    try:
        main()
    except KanDiffusionError as error:
        sys.exit(f"error: {error}")
