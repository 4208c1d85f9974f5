"""Plans the trials of a study and runs them on an executor."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pandas as pd
from pydantic import FailFast, TypeAdapter

from kan_diffusion.data.sources import load_dataset
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.files import inside, read_as, require_free_space, write_bytes
from kan_diffusion.limits import MOST_JSON_BYTES
from kan_diffusion.study.config import StudyConfig, TrialConfig
from kan_diffusion.study.environment import ROWS, write_environment
from kan_diffusion.study.executors import Executor, Task, TrialEvent
from kan_diffusion.study.folder import TRIALS, Row, TrialResult, load_trial
from kan_diffusion.study.tasks import task_of
from kan_diffusion.training.checkpoint import BYTES_A_PARAMETER

__all__ = [
    "Driver",
    "StudyPlan",
    "finished_trial",
    "read_rows",
    "write_rows",
]

_ALL_ROWS = TypeAdapter(Annotated[list[Row], FailFast()])


@dataclass(frozen=True)
class StudyPlan:
    """The trials of a study before it is run.

    Attributes:
        trials: All of them.
        parameters: Number of trainable parameters of the unfinished trials, by trial id.
        finished: Ids of the finished trials.
    """

    trials: tuple[TrialConfig, ...]
    parameters: dict[str, int]
    finished: frozenset[str]

    @property
    def to_run(self) -> list[TrialConfig]:
        """The trials that are not finished, in the order to run them.

        Seeds come one after another, so that an interrupted study has complete comparisons. The
        longest trials of a seed come first, so that no worker starts one when the others are done.
        """
        todo = [trial for trial in self.trials if trial.id not in self.finished]
        return sorted(todo, key=lambda t: (t.seed, -t.training.steps * self.parameters[t.id]))


def finished_trial(folder: Path, trial: TrialConfig) -> TrialResult | None:
    """Reads a trial of a study; None where it is not trained, or not judged as it asks."""
    result = load_trial(inside(folder, TRIALS, trial.id), trial)
    return result if result is not None and result.answers(trial) else None


def read_rows(folder: Path) -> list[Row]:
    """Reads a folder's ``results.parquet``; empty if it is not there.

    Raises:
        RunFolderError: It cannot be read.
    """
    if not (folder / ROWS).exists():
        return []
    remedy = "run it again"
    return read_as(_ALL_ROWS, folder / ROWS, "the results of a study", remedy, MOST_JSON_BYTES)


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
    """

    folder: Path
    executor: Executor
    on_plan: Callable[[StudyPlan], None] | None = None
    on_event: Callable[[TrialEvent], None] | None = None

    def row_of(self, trial: str) -> Row | None:
        """Reads a finished trial's row by its id."""
        result = load_trial(inside(self.folder, TRIALS, trial))
        return None if result is None else result.row

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
        finished = frozenset(
            trial.id for trial in planned if finished_trial(self.folder, trial) is not None
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
        )

    def run(self, plan: StudyPlan) -> dict[str, str]:
        """Runs the unfinished trials of a plan.

        A trial that another driver is running is left to it and checked again at the end.

        Args:
            plan: The plan.

        Returns:
            Ids of the trials that could not be run, with the reason.

        Raises:
            RunFolderError: The disk has no room for the checkpoints of those that run at once.
        """
        if self.on_plan is not None:
            self.on_plan(plan)
        at_once = sorted(plan.parameters.values())[-(os.cpu_count() or 1) :]
        require_free_space(self.folder, BYTES_A_PARAMETER * sum(at_once))
        failures, trials = {}, inside(self.folder, TRIALS)
        tasks = [Task(trial, trials / trial.id) for trial in plan.to_run]
        with closing(self.executor(tasks)) as events:
            for event in events:
                if event.kind == "failed":
                    failures[event.trial] = str(event.error)
                if self.on_event is not None:
                    self.on_event(event)
        return failures


def _sized(trial: TrialConfig) -> tuple[str, str]:
    """Returns a trial's data set and its model as JSON, which decide its number of parameters."""
    return trial.data.name, trial.model.model_dump_json()
