"""Runs the truth lab from a terminal: ``make lab``, or ``python -m truth_lab`` from here."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.study.executors import default_workers
from truth_lab.lab import LAB, run_lab
from truth_lab.page import summary, write_lab


def main() -> None:
    """Trains on densities with known scores and compares what is recovered of them."""
    parser = argparse.ArgumentParser(prog="make lab", description=main.__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="training runs for each density (5)")
    parser.add_argument(
        "--cases", nargs="+", choices=LAB, default=list(LAB), help="densities (all)"
    )
    parser.add_argument("--workers", type=int, help="runs side by side (one for each core)")
    parser.add_argument("--out", type=Path, default=Path("runs/truth-lab"), help="folder to write")
    given = parser.parse_args()
    torch.set_num_threads(1)  # at these sizes a second thread makes a step slower
    workers = given.workers or default_workers("cpu")
    results = run_lab(given.out, seeds=given.seeds, workers=workers, cases=given.cases)
    for toy, question, answer in summary(results):
        print(f"{toy}: {question} {answer}")
    print(f"\nTruth lab: {write_lab(results, given.out)}")


if __name__ == "__main__":
    try:
        main()
    except KanDiffusionError as error:
        sys.exit(f"error: {error}")
