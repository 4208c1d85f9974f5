"""Measures the cost of scheduling when trials are tiny.

A thousand trials of a fraction of a second each run in a temporary folder, once for every executor.
A worker spends its time either inside a trial, by its own clock, or on scheduling: waiting for the
next trial, receiving it, returning the result of the last one. The share of scheduling is

    1 - (time inside trials, all workers together) / (number of workers * wall-clock time),

measured from the moment when the last worker starts its first trial until the last trial is done;
of trials that overlap that moment only the part after it counts. The time before it, in which
workers start Python and import what a trial needs, is reported separately. The driver's own
processor time is reported, too: on a machine without a core to spare it slows the trials, which
the share does not show.

    OMP_NUM_THREADS=1 python benchmarks/scheduling.py
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from kan_diffusion.files import write_json
from kan_diffusion.study.config import StudyConfig, TrialConfig
from kan_diffusion.study.environment import environment
from kan_diffusion.study.executors import EXECUTORS, default_workers, open_executor

Row = dict[str, str | int | float]


def tiny_trials(count: int) -> list[TrialConfig]:
    """Makes trials of 20 steps of 32 points with the smallest possible evaluation."""
    study = StudyConfig.model_validate(
        {
            "name": "scheduling",
            "title": "Scheduling",
            "seeds": count,
            "data": [{"toy": "gaussian-mixture", "num_points": 100}],
            "training": {"steps": 20, "batch_size": 32},
            "models": [{"family": "mlp", "params": 300}],
            "evaluation": {
                "num_noised": 10,
                "num_samples": 0,
                "num_likelihood": 0,
                "moments": [],
            },
        }
    )
    return study.trials()


def measure(executor: str, trials: Sequence[TrialConfig], workers: int) -> Row:
    """Runs the trials in a temporary folder and returns how the time was spent."""
    spans: list[tuple[float, float, str]] = []

    with tempfile.TemporaryDirectory() as folder:
        began, cpu_began = time.time(), time.process_time()
        with open_executor(executor, device="cpu", workers=workers) as runner:
            for event in runner.run(trials, Path(folder)):
                if event.finished:
                    if event.error is not None or event.worker is None:
                        raise RuntimeError(f"trial {event.trial}: {event.error}")
                    spans.append((event.started, event.started + event.seconds, event.worker))
        total, cpu = time.time() - began, time.process_time() - cpu_began
    first: dict[str, float] = {}
    for start, _, worker in spans:
        first[worker] = min(start, first.get(worker, start))
    up, end = max(first.values()), max(end for _, end, _ in spans)
    inside = sum(max(0.0, end - max(start, up)) for start, end, _ in spans)
    return {
        "executor": executor,
        "trials": len(trials),
        "workers": workers,
        "processes": len(first),
        "scheduling_share": round(1 - inside / (workers * (end - up)), 4),
        "milliseconds_a_trial": round(1e3 * median(end - start for start, end, _ in spans), 2),
        "trials_a_second": round(sum(start >= up for start, _, _ in spans) / (end - up), 2),
        "driver_milliseconds_a_trial": round(1e3 * cpu / len(trials), 2),
        "startup_seconds": round(up - began, 2),
        "shutdown_seconds": round(total - (end - began), 2),
    }


def show(rows: list[Row]) -> None:
    """Prints the rows as a table."""
    table = Table(title="Share of scheduling, tiny trials")
    table.add_column("executor")
    for name in ("trials", "workers", "scheduling", "ms a trial", "trials/s", "start-up s"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            str(row["executor"]),
            f"{row['trials']:,}",
            str(row["workers"]),
            f"[bold]{row['scheduling_share']:.2%}[/bold]",
            f"{row['milliseconds_a_trial']:.1f}",
            f"{row['trials_a_second']:.1f}",
            f"{row['startup_seconds']:.1f}",
        )
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def main() -> None:
    """Measures each executor and writes the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=1000, help="how many")
    parser.add_argument("--executor", choices=list(EXECUTORS), help="only this one")
    parser.add_argument("--workers", type=int, default=default_workers("cpu"), help="side by side")
    parser.add_argument("--out", type=Path, default=Path("results/scheduling"))
    arguments = parser.parse_args()
    names = list(EXECUTORS) if arguments.executor is None else [arguments.executor]
    trials = tiny_trials(arguments.trials)
    rows = [measure(name, trials, arguments.workers) for name in names]
    show(rows)
    keys = ("processor", "cores", "system", "python", "torch")
    about = {key: environment()[key] for key in keys}
    write_json(arguments.out / "scheduling.json", {"environment": about, "rows": rows})


if __name__ == "__main__":
    main()
