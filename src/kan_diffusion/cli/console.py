"""What the command line shows: progress with time left, and tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from kan_diffusion.evaluation.metrics import SAMPLE_METRICS
from kan_diffusion.report.tables import (
    MISSING,
    REAL_ROW,
    format_half_width,
    format_number,
    summary_table,
)
from kan_diffusion.study.config import TrialConfig
from kan_diffusion.study.executors import TrialEvent
from kan_diffusion.study.folder import Row
from kan_diffusion.study.results.rows import Results
from kan_diffusion.study.results.verdicts import Decision
from kan_diffusion.study.results.wording import sentences
from kan_diffusion.study.run import StudyPlan

if TYPE_CHECKING:
    from kan_diffusion.symbolic.explanation import Explanation
    from truth_lab.lab import LabResults

__all__ = [
    "StudyProgress",
    "show_conclusions",
    "show_lab",
    "show_scores",
    "show_standings",
    "show_steps",
    "show_study_progress",
    "show_summary",
    "show_training_progress",
    "show_tuned",
]


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


@contextmanager
def show_steps(what: str) -> Iterator[Callable[[str], None]]:
    """A line that says what is being done and for how long; without a terminal a line a step."""
    console = Console(stderr=True, highlight=False)
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TextColumn("{task.fields[step]}", style="dim"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    ) as progress:
        task = progress.add_task(what, total=None, step="")

        def move(step: str) -> None:
            if console.is_terminal:
                progress.update(task, step=step)
            else:
                console.print(step, markup=False, soft_wrap=True)

        yield move


def show_standings(explanation: Explanation) -> None:
    """A table of what an explanation made of a network, and how each stage does."""
    table = Table(box=SIMPLE_HEAD, title=explanation.title, title_justify="left")
    table.add_column("stage")
    # The page has the others: a table of all of them is wider than a terminal.
    metrics = [
        name for name in ("energy",) if any(name in s.metrics for s in explanation.standings)
    ]
    columns = ("edges", "constants", "held-out loss", "excess")
    for column in (*columns, *(SAMPLE_METRICS[name].title for name in metrics)):
        table.add_column(column, justify="right")
    for standing in explanation.standings:
        table.add_row(
            standing.name,
            MISSING if standing.edges is None else str(standing.edges),
            str(standing.constants),
            f"{standing.loss:.5f}",
            MISSING if standing.excess is None else f"{standing.excess:.2g}",
            *(
                f"{standing.metrics[name]:.4f}" if name in standing.metrics else MISSING
                for name in metrics
            ),
        )
    real = next((s.real for s in explanation.standings if s.real), {})
    if real:
        values = (f"{real[name]:.4f}" if name in real else MISSING for name in metrics)
        table.add_row(REAL_ROW, MISSING, MISSING, MISSING, MISSING, *values)
    _console().print(table)


def show_lab(results: LabResults) -> None:
    """The table of the truth lab: recovered constants beside the true ones."""
    table = Table(box=SIMPLE_HEAD, title="truth lab", title_justify="left")
    for column in ("density", "question", "answer"):
        table.add_column(column)
    for name, question, answer in results.summary():
        table.add_row(name, question, answer)
    _console().print(table)


# A step's time in units of one parameter's share: part of it is the same for every model.
_FIXED_COST = 3_000
# Judging a finished trial takes about as long as this many steps.
_JUDGING_STEPS = 400


class StudyProgress:
    """Progress of a study with the time left.

    On a terminal: one bar for what is to be done and one for each running trial. Elsewhere: a line
    for each finished trial.

    Args:
        name: What is being done.
        progress: Where the bars are drawn.
    """

    def __init__(self, name: str, progress: Progress) -> None:
        self._name = name
        self._progress = progress
        self._console = progress.console
        self._trials: dict[str, TrialConfig] = {}
        self._cost: dict[str, int] = {}
        self._done: dict[str, int] = {}
        self._running: dict[str, TaskID] = {}
        self._completed = 0
        self._num_before = 0
        self._num_finished = 0
        self._whole: TaskID | None = None

    def start(self, plan: StudyPlan) -> None:
        """Takes up what is to be done; may be called again when there is more."""
        self._trials |= {trial.id: trial for trial in plan.trials}
        self._num_before += len(plan.finished)
        self._cost |= {
            trial.id: _FIXED_COST + plan.parameters[trial.id]
            for trial in plan.trials
            if trial.id not in plan.finished
        }
        total = sum(cost * self._length(trial) for trial, cost in self._cost.items())
        if self._whole is None:
            self._whole = self._progress.add_task(f"[bold]{self._name}", total=total, status="")
        self._progress.update(self._whole, total=total, status=self._status())

    def move(self, event: TrialEvent) -> None:
        """Takes up the news of a trial."""
        trial = self._trials[event.trial]
        if event.finished:
            self._finish(trial, event.error)
        else:
            self._done[event.trial] = event.step
            if event.trial not in self._running:
                self._running[event.trial] = self._progress.add_task(
                    f"  {trial.label}", total=trial.training.steps, status=""
                )
            status = "" if math.isnan(event.loss) else f"loss {event.loss:.4f}"
            if event.step == trial.training.steps:
                status = "judging"
            self._progress.update(self._running[event.trial], completed=event.step, status=status)
        if self._whole is not None:
            running = sum(self._cost[name] * steps for name, steps in self._done.items())
            self._progress.update(
                self._whole, completed=self._completed + running, status=self._status()
            )

    def _finish(self, trial: TrialConfig, error: str | None) -> None:
        self._done.pop(trial.id, None)
        self._completed += self._cost[trial.id] * self._length(trial.id)
        self._num_finished += 1
        task = self._running.pop(trial.id, None)
        if task is not None:
            self._progress.remove_task(task)
        if error is not None:
            self._console.print(f"{trial.label}: {error}", style="red", markup=False)
        elif not self._console.is_terminal:
            self._console.print(f"{self._status()}: {trial.label}", markup=False)

    def _length(self, trial: str) -> int:
        return self._trials[trial].training.steps + _JUDGING_STEPS

    def _status(self) -> str:
        return f"{self._num_before + self._num_finished} of {len(self._trials)} trials"


@contextmanager
def show_study_progress(name: str) -> Iterator[StudyProgress]:
    """Shows the progress of a study, or of the search for its settings."""
    console = Console(stderr=True, highlight=False)
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
        yield StudyProgress(name, progress)


_DENOISING = {
    "model": "model",
    "parameters": "parameters",
    "flops": "FLOPs",
    "heldout_loss": "held-out\nloss",
    "floor": "floor",
    "excess": "excess",
    "train time": "training",
}


def show_summary(results: Results) -> None:
    """Prints a study's summary: two tables a setting, means with 95 % intervals over seeds."""
    console = _console()
    metrics = {key: metric.label for key, metric in results.metrics.items()}
    for label, part in summary_table(results, format_half_width).groupby("setting", sort=False):
        models = part[part["model"] != REAL_ROW]
        titles = (
            "denoising, mean ± half of the 95 % interval over seeds",
            "samples against fresh data",
        )
        pairs = (models, _DENOISING), (part, {"model": "model", **metrics})
        for title, (records, heads) in zip(titles, pairs, strict=True):
            table = Table(
                title=f"{label}: {title}",
                title_justify="left",
                title_style="bold",
                box=SIMPLE_HEAD,
                padding=(0, 1),
            )
            shown = [key for key in heads if _is_worth_a_column(records, key)]
            for key in shown:
                side: Literal["left", "right"] = "left" if key == "model" else "right"
                table.add_column(heads[key], justify=side)
            for record in records.to_dict("records"):
                style = "dim" if record["model"] == REAL_ROW else ""
                table.add_row(*(str(record[key]) for key in shown), style=style)
            console.print()
            console.print(table)
    words = (
        f"{metric.label}: {metric.title}, {metric.better} is better"
        for metric in results.metrics.values()
    )
    console.print("; ".join(words), style="dim")


def _is_worth_a_column(records: pd.DataFrame, key: str) -> bool:
    """Whether any model has that number."""
    return key in records.columns and not records[key].isin(["", MISSING]).all()


def show_conclusions(decision: Decision) -> None:
    """Prints what a study concludes: a paragraph a setting, and all of them in a sentence."""
    console = _console()
    for sentence in sentences(decision):
        console.print()
        console.print(sentence[0].upper() + sentence[1:], markup=False)


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
    if row["excess"] is not None:
        add("excess", row["excess"], 0.0)
    if row.get("nll") is not None:
        add("negative log-likelihood (exact)", row["nll"], row["nll_real"])
    for key in row:
        if key != "nll" and f"{key}_real" in row:
            title = SAMPLE_METRICS[key].title if key in SAMPLE_METRICS else key
            add(f"{title} (real against real)", row[key], row[f"{key}_real"])
    console = _console()
    console.print()
    console.print(table)


def show_tuned(tries: pd.DataFrame) -> None:
    """Prints the best try of each family, and how much the search gained."""
    table = Table(
        title="Best settings of each family", title_justify="left", title_style="bold",
        box=SIMPLE_HEAD, padding=(0, 1),
    )  # fmt: skip
    fixed = {"family", "try", "value", "error", "settings", "trials"}
    datas = [column for column in tries.columns if column not in fixed]
    table.add_column("family")
    for head in ("tries", *datas):
        table.add_column(head, justify="right")
    table.add_column("settings")
    for family, group in tries.groupby("family", sort=False):
        best = group.sort_values("value").iloc[0]
        settings = ", ".join(f"{key} {_short(value)}" for key, value in best["settings"].items())
        numbers = [format_number(float(best[data])) for data in datas]
        table.add_row(str(family), str(len(group)), *numbers, settings)
    console = _console()
    console.print()
    console.print(table)


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
