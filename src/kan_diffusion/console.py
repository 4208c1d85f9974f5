"""What the command line shows: progress with time left, and tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from kan_diffusion.evaluation.metrics import SAMPLE_METRICS
from kan_diffusion.report.tables import REAL_ROW, format_half_width, format_number, summary_table
from kan_diffusion.study.config import StudyConfig, TrialConfig
from kan_diffusion.study.executors import TrialEvent
from kan_diffusion.study.folder import Row

__all__ = ["show_scores", "show_study_progress", "show_summary", "show_training_progress"]


def _console() -> Console:
    return Console(highlight=False)


@contextmanager
def show_training_progress(config: TrialConfig) -> Iterator[Callable[[int, float], None]]:
    """A progress bar of one training run; gives the callback that moves it."""
    console = Console(stderr=True, highlight=False)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task(config.label, total=config.training.steps, loss="–")

        def move(step: int, loss: float) -> None:
            progress.update(task, completed=step, loss=f"{loss:.4f}")

        yield move


# A step's time in units of one parameter's share: part of it is the same for every model.
_FIXED_COST = 3_000
# Judging a finished trial takes about as long as this many steps.
_JUDGING_STEPS = 400


@contextmanager
def show_study_progress(config: StudyConfig) -> Iterator[Callable[[TrialEvent], None]]:
    """Progress of a study with the time left; gives the callback for a trial's news.

    On a terminal: one bar for the whole and one for each running trial. Elsewhere: a line for each
    finished trial.
    """
    from kan_diffusion.study.run import parameter_counts

    console = Console(stderr=True, highlight=False)
    trials = {trial.id: trial for trial in config.trials()}
    counts = parameter_counts(config)
    cost = {
        trial.id: _FIXED_COST + counts[trial.data.name, trial.model.name]
        for trial in trials.values()
    }
    length = config.training.steps + _JUDGING_STEPS
    done: dict[str, int] = {}
    running: dict[str, TaskID] = {}
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[status]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
        console=console,
        disable=not console.is_terminal,
        speed_estimate_period=120,
    ) as progress:
        whole = progress.add_task(
            f"[bold]{config.name}", total=sum(cost.values()) * length, status=""
        )

        def move(event: TrialEvent) -> None:
            trial = trials[event.trial]
            done[event.trial] = length if event.finished else event.step
            if event.finished:
                task = running.pop(event.trial, None)
                if task is not None:
                    progress.remove_task(task)
                if event.error is not None:
                    console.print(f"{trial.label}: {event.error}", style="red", markup=False)
                elif not console.is_terminal:
                    finished = sum(steps == length for steps in done.values())
                    console.print(f"{finished} finished: {trial.label}", markup=False)
            else:
                if event.trial not in running:
                    running[event.trial] = progress.add_task(
                        f"  {trial.label}", total=trial.training.steps, status=""
                    )
                status = "" if math.isnan(event.loss) else f"loss {event.loss:.4f}"
                if event.step == trial.training.steps:
                    status = "judging"
                progress.update(running[event.trial], completed=event.step, status=status)
            finished = sum(steps == length for steps in done.values())
            progress.update(
                whole,
                completed=sum(cost[name] * steps for name, steps in done.items()),
                status=f"{finished} of {len(trials)} trials",
            )

        yield move


_DENOISING = {
    "model": "model",
    "parameters": "parameters",
    "flops": "FLOPs",
    "heldout_loss": "held-out\nloss",
    "floor": "floor",
    "excess": "excess",
    "train time": "training",
}


def show_summary(rows: pd.DataFrame) -> None:
    """Prints a study's summary: two tables a data set, means with 95 % intervals over seeds."""
    console = _console()
    metrics = {key: metric.symbol for key, metric in SAMPLE_METRICS.items()}
    for data, part in summary_table(rows, format_half_width).groupby("data", sort=False):
        models = part[part["model"] != REAL_ROW]
        tables = (
            (models, f"{data}: denoising, mean ± half of the 95 % interval over seeds", _DENOISING),
            (part, f"{data}: samples against fresh data", {"model": "model", **metrics}),
        )
        for records, title, heads in tables:
            table = Table(
                title=title,
                title_justify="left",
                title_style="bold",
                box=SIMPLE_HEAD,
                padding=(0, 1),
            )
            shown = [key for key in heads if key in records.columns]
            for key in shown:
                side: Literal["left", "right"] = "left" if key == "model" else "right"
                table.add_column(heads[key], justify=side)
            for record in records.to_dict("records"):
                style = "dim" if record["model"] == REAL_ROW else ""
                table.add_row(*(str(record[key]) for key in shown), style=style)
            console.print()
            console.print(table)
    console.print(
        "D²: energy distance; SW2, W2: sliced and exact Wasserstein distance;\n"
        "MMD²: maximum mean discrepancy; C2ST: accuracy of a classifier (0.5: cannot tell)",
        style="dim",
    )


def show_scores(row: Row, title: str) -> None:
    """Prints what was measured of one denoiser, each sample metric beside real-against-real."""
    table = Table(title=title, title_justify="left", box=None)
    for head in ("", "model", "best possible"):
        table.add_column(head, justify="left" if not head else "right")

    def add(name: str, value: object, best: object) -> None:
        cells = [
            format_number(float(v)) if isinstance(v, (int, float)) else "–" for v in (value, best)
        ]
        table.add_row(name, *cells)

    for name in ("parameters", "flops", "train_seconds"):
        if name in row:
            add(name.replace("_", " "), row[name], None)
    if row.get("out_of_range") is not None:
        add("inputs outside the grid (worst layer)", row["out_of_range"], None)
    add("held-out loss (floor)", row["heldout_loss"], row["floor"])
    add("excess", row["excess"], 0.0)
    for name, metric in SAMPLE_METRICS.items():
        add(f"{metric.title} (real against real)", row[name], row[f"{name}_real"])
    console = _console()
    console.print()
    console.print(table)
