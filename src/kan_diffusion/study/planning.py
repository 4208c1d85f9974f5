"""Plans the trials of a study and runs them on an executor.

With ``keep_rows``, ``results.parquet`` is written as the trials finish, and a trial without a
folder counts as finished if its row is there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import pandas as pd
from pydantic import FailFast, TypeAdapter

from kan_diffusion.data.sources import load_dataset
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.files import inside, read_as, require_free_space, write_bytes
from kan_diffusion.limits import MOST_JSON_BYTES
from kan_diffusion.study.calibration import estimate_seconds
from kan_diffusion.study.config import StudyConfig, TrialConfig
from kan_diffusion.study.environment import ROWS, write_environment
from kan_diffusion.study.executors import Executor, TrialEvent
from kan_diffusion.study.folder import TRIALS, Row, TrialResult, load_sufficient, load_trial
from kan_diffusion.study.tasks import task_of
from kan_diffusion.training.run import BYTES_A_PARAMETER

__all__ = [
    "CHOSEN_SIZES",
    "Driver",
    "StudyPlan",
    "finished_trial",
    "read_rows",
    "write_rows",
]

_ALL_ROWS = TypeAdapter(Annotated[list[Row], FailFast()])
CHOSEN_SIZES = "sizes.json"
_SECONDS_BETWEEN = 5.0
"""Least time between two writes of the rows while trials finish."""


@dataclass(frozen=True)
class StudyPlan:
    """The trials of a study before it is run.

    Attributes:
        trials: All of them.
        parameters: Number of trainable parameters of the unfinished trials, by trial id.
        finished: Ids of the finished trials.
        workers: Number of trials that run at once.
        seconds: Estimated wall-clock time of the unfinished trials; None without an estimate.
    """

    trials: tuple[TrialConfig, ...]
    parameters: dict[str, int]
    finished: frozenset[str]
    workers: int = 1
    seconds: float | None = None

    @property
    def to_run(self) -> list[TrialConfig]:
        """The trials that are not finished, in the order to run them.

        Seeds come one after another, so that an interrupted study has complete comparisons. The
        longest trials of a seed come first, so that no worker starts one when the others are done.
        """
        todo = [trial for trial in self.trials if trial.id not in self.finished]
        return sorted(todo, key=lambda t: (t.seed, -t.training.steps * self.parameters[t.id]))


def finished_trial(folder: Path, trial: TrialConfig) -> TrialResult | None:
    """Reads a trial of a study; None where it is not finished, or only judged quickly."""
    return load_sufficient(inside(folder, TRIALS, trial.id), trial)


def read_rows(folder: Path) -> tuple[dict[str, Row], dict[str, str]]:
    """Reads a folder's ``results.parquet``, if it is there.

    Returns:
        The rows of finished trials, and why other trials could not be run, by trial id.

    Raises:
        RunFolderError: It cannot be read.
    """
    if not (folder / ROWS).exists():
        return {}, {}
    remedy = "run it again"
    rows = read_as(_ALL_ROWS, folder / ROWS, "the results of a study", remedy, MOST_JSON_BYTES)
    kept, failures = {}, {}
    for row in rows:
        if row.get("parameters") is not None:
            kept[str(row.get("trial"))] = row
        elif row.get("error"):  # all that the row of a trial has that could not be run
            failures[str(row.get("trial"))] = str(row["error"])
    return kept, failures


def write_rows(folder: Path, rows: pd.DataFrame) -> None:
    """Writes the rows of a study's trials, and their digest before them."""
    content = rows.to_parquet(index=False)
    write_environment(folder, content)
    write_bytes(folder / ROWS, content)


@dataclass(frozen=True)
class Driver:
    """Plans the trials of a study, and has an executor run them in the study's folder.

    Attributes:
        folder: Run folder of the study.
        executor: Executor of the trials.
        on_plan: Called with each plan before its trials run.
        on_event: Called with each event of a trial.
        keep_rows: Whether to write the rows of trials as they finish, and to count a trial without
            a folder as finished if its row was written.
    """

    folder: Path
    executor: Executor
    on_plan: Callable[[StudyPlan], None] | None = None
    on_event: Callable[[TrialEvent], None] | None = None
    keep_rows: bool = False

    def kept(self) -> dict[str, Row]:
        """Reads the rows of trials that count as finished without a folder, by trial id."""
        return read_rows(self.folder)[0] if self.keep_rows else {}

    def row_of(self) -> Callable[[str], Row | None]:
        """Returns what reads a finished trial's row by its id, of those kept or its own folder."""
        kept = self.kept()

        def read(trial: str) -> Row | None:
            if trial in kept:
                return kept[trial]
            result = load_trial(inside(self.folder, TRIALS, trial))
            return None if result is None else result.row

        return read

    def plan(self, config: StudyConfig) -> StudyPlan:
        """Lists a study's trials, and checks before any training that all models can be built.

        Args:
            config: The study, pinned.

        Raises:
            DataError: A data set cannot be used.
            KanDiffusionError: A model cannot be built.
        """
        datasets = {data.name: load_dataset(data, config.seed, 0) for data in config.data}
        counts: dict[tuple[str, str], int] = {}
        planned = config.trials()
        kept = self.kept()
        finished = frozenset(
            trial.id
            for trial in planned
            if trial.id in kept or finished_trial(self.folder, trial) is not None
        )
        for trial in planned:
            if trial.id not in finished and _sized(trial) not in counts:
                try:
                    dataset = datasets[trial.data.name]
                    denoiser = task_of(trial.data).build(trial, dataset)
                    counts[_sized(trial)] = denoiser.num_trainable
                except KanDiffusionError as error:
                    raise KanDiffusionError(
                        f"model '{trial.model.name}' on '{trial.data.name}': {error}"
                    ) from error
        return StudyPlan(
            trials=tuple(planned),
            parameters={t.id: counts[_sized(t)] for t in planned if t.id not in finished},
            finished=finished,
            workers=self.executor.workers,
        )

    def run(self, plan: StudyPlan, *, timed: bool = True) -> dict[str, str]:
        """Runs the unfinished trials of a plan.

        A trial that another driver is running is left to it and checked again at the end.

        Args:
            plan: The plan.
            timed: Whether to estimate the time of the trials for whoever is told the plan.

        Returns:
            Ids of the trials that could not be run, with the reason.

        Raises:
            RunFolderError: The disk has no room for the checkpoints of those that run at once.
        """
        if self.on_plan is not None:
            seconds = estimate_seconds(plan.to_run, plan.workers) if timed else None
            self.on_plan(replace(plan, seconds=seconds))
        at_once = sorted(plan.parameters.values())[-plan.workers :]
        require_free_space(self.folder, BYTES_A_PARAMETER * sum(at_once))
        failures = {}
        rows, written = self.kept(), time.monotonic()
        num_written = len(rows)

        def keep(trial: str) -> None:
            result = load_trial(inside(self.folder, TRIALS, trial))
            assert result is not None
            rows[trial] = result.row

        if self.keep_rows:
            for trial in plan.trials:
                if trial.id in plan.finished and trial.id not in rows:
                    keep(trial.id)  # a driver died before it had written the row
        for event in self.executor.run(plan.to_run, inside(self.folder, TRIALS)):
            if event.kind == "failed":
                failures[event.trial] = str(event.error)
            elif event.kind == "finished" and self.keep_rows:
                keep(event.trial)
                if time.monotonic() - written > _SECONDS_BETWEEN:
                    write_rows(self.folder, pd.DataFrame(rows.values()))
                    written = time.monotonic()
            if self.on_event is not None:
                self.on_event(event)
        if len(rows) > num_written:
            write_rows(self.folder, pd.DataFrame(rows.values()))
        return failures


def _sized(trial: TrialConfig) -> tuple[str, str]:
    """Returns a trial's data set and its model as JSON, which decide its number of parameters."""
    return trial.data.name, trial.model.model_dump_json()
