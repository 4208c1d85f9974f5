"""Plans the trials of a study and runs them on an executor.

With ``keep_rows``, ``results.parquet`` is written as the trials finish, and a trial without a
folder counts as finished if its row is there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pandas as pd
from pydantic import FailFast, TypeAdapter

from kan_diffusion.data.sources import load_dataset
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.files import (
    inside,
    parquet_bytes,
    read_as,
    require_free_space,
    write_bytes,
    write_checksums,
)
from kan_diffusion.limits import MOST_JSON_BYTES
from kan_diffusion.study.config import StudyConfig, TrialConfig
from kan_diffusion.study.executors import Executor, TrialEvent
from kan_diffusion.study.folder import STUDY, TRIALS, Row, TrialResult, load_sufficient, load_trial
from kan_diffusion.study.tasks import task_of
from kan_diffusion.training.run import BYTES_A_PARAMETER

__all__ = [
    "CHOSEN_SIZES",
    "ENVIRONMENT",
    "ROWS",
    "StudyPlan",
    "finished_trial",
    "kept_rows",
    "known_failures",
    "known_row",
    "plan_study",
    "run_plan",
    "write_rows",
    "written_files",
]

ENVIRONMENT = "environment.json"
ROWS = "results.parquet"
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


def finished_trial(folder: Path, trial: TrialConfig, verify: bool) -> TrialResult | None:
    """Reads a trial of a study; None where it is not finished, or only judged quickly."""
    return load_sufficient(inside(folder, TRIALS, trial.id), trial, verify=verify)


def known_row(folder: Path, trial: str, kept: Mapping[str, Row], verify: bool) -> Row | None:
    """Reads the row of a finished trial by its id, from the kept rows or its own folder."""
    if trial in kept:
        return kept[trial]
    result = load_trial(inside(folder, TRIALS, trial), verify=verify)
    return None if result is None else result.row


def kept_rows(folder: Path) -> dict[str, Row]:
    """Reads the rows of finished trials that a folder's ``results.parquet`` holds, by trial id.

    Raises:
        RunFolderError: The file is there and cannot be read.
    """
    rows = _all_rows(folder)
    return {str(row.get("trial")): row for row in rows if row.get("parameters") is not None}


def known_failures(folder: Path) -> dict[str, str]:
    """Reads why trials could not be run from a folder's ``results.parquet``, by trial id.

    Raises:
        RunFolderError: The file is there and cannot be read.
    """
    # The row of a trial that could not be run has only the reason.
    rows = (row for row in _all_rows(folder) if row.get("parameters") is None)
    return {str(row.get("trial")): str(row["error"]) for row in rows if row.get("error")}


def _all_rows(folder: Path) -> list[Row]:
    if not (folder / ROWS).exists():
        return []
    remedy = "run it again"
    return read_as(_ALL_ROWS, folder / ROWS, "the results of a study", remedy, MOST_JSON_BYTES)


def write_rows(folder: Path, rows: pd.DataFrame) -> None:
    """Writes the rows of a study's trials, and their digest before them."""
    content = parquet_bytes(rows)
    others = [path for path in written_files(folder) if path.name != ROWS]
    write_checksums(folder, others, {ROWS: content})
    write_bytes(folder / ROWS, content)


def plan_study(
    config: StudyConfig,
    folder: Path,
    workers: int = 1,
    *,
    verify: bool = True,
    kept: Mapping[str, Row] | None = None,
) -> StudyPlan:
    """Lists a study's trials, and checks before any training that all models can be built.

    Args:
        config: The study, pinned.
        folder: Its run folder.
        workers: Number of trials that will run side by side.
        verify: Whether to refuse finished trials whose files have changed.
        kept: Rows of trials that count as finished without a folder, by trial id.

    Raises:
        DataError: A data set cannot be used.
        KanDiffusionError: A model cannot be built.
    """
    datasets = {data.name: load_dataset(data, config.seed, 0) for data in config.data}
    counts: dict[tuple[str, str], int] = {}
    planned = config.trials()
    finished = frozenset(
        trial.id
        for trial in planned
        if trial.id in (kept or {}) or finished_trial(folder, trial, verify) is not None
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
        workers=workers,
    )


def _sized(trial: TrialConfig) -> tuple[str, str]:
    """Returns a trial's data set and its model as JSON, which decide its number of parameters."""
    return trial.data.name, trial.model.model_dump_json()


def run_plan(
    plan: StudyPlan,
    folder: Path,
    executor: Executor,
    on_event: Callable[[TrialEvent], None] | None = None,
    *,
    keep_rows: bool = False,
) -> dict[str, str]:
    """Runs the unfinished trials of a plan.

    A trial that another driver is running is left to it and checked again at the end.

    Args:
        plan: The plan.
        folder: Run folder of its study.
        executor: Executor of the trials.
        on_event: Called with each event of a trial.
        keep_rows: Whether to write the rows of trials as they finish.

    Returns:
        Ids of the trials that could not be run, with the reason.

    Raises:
        RunFolderError: The disk has no room for the checkpoints of those that run at once.
    """
    at_once = sorted(plan.parameters.values())[-plan.workers :]
    require_free_space(folder, BYTES_A_PARAMETER * sum(at_once))
    failures = {}
    rows, written = kept_rows(folder) if keep_rows else {}, time.monotonic()
    num_written = len(rows)

    def keep(trial: str) -> None:
        result = load_trial(inside(folder, TRIALS, trial), verify=False)
        assert result is not None
        rows[trial] = result.row

    if keep_rows:
        for trial in plan.trials:
            if trial.id in plan.finished and trial.id not in rows:
                keep(trial.id)  # a driver died before it had written the row
    for event in executor.run(plan.to_run, inside(folder, TRIALS)):
        if event.kind == "failed":
            failures[event.trial] = str(event.error)
        elif event.kind == "finished" and keep_rows:
            keep(event.trial)
            if time.monotonic() - written > _SECONDS_BETWEEN:
                write_rows(folder, pd.DataFrame(rows.values()))
                written = time.monotonic()
        if on_event is not None:
            on_event(event)
    if len(rows) > num_written:
        write_rows(folder, pd.DataFrame(rows.values()))
    return failures


def written_files(folder: Path) -> list[Path]:
    """Lists the existing files of a study, apart from its trials."""
    names = (STUDY, ENVIRONMENT, CHOSEN_SIZES, ROWS)
    return [folder / name for name in names if (folder / name).is_file()]
