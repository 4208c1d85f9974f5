"""Runs a study in its folder, and reads one back.

The folder holds ``study.yaml`` (every setting spelled out), ``environment.json``, ``trials/<id>/``
and, when all trials are through, ``results.json`` and ``results.parquet`` (a row a trial). A study
that was interrupted goes on where it was: finished trials are read, unfinished ones resume from
their checkpoints.

With ``keep_rows``, ``results.json`` is written as the trials finish, and a trial whose row is in it
counts as finished where its own folder is not there: a study goes on from its rows alone, in a
fresh clone of what was committed of it, say.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

import pandas as pd
from pydantic import TypeAdapter

from kan_diffusion._version import __version__
from kan_diffusion.data.datasets import FileData, load_dataset
from kan_diffusion.errors import KanDiffusionError, RunFolderError
from kan_diffusion.files import (
    json_bytes,
    read_as,
    require_unchanged,
    write_bytes,
    write_checksums,
    write_json,
    write_parquet,
    write_text,
)
from kan_diffusion.study.calibration import (
    CALIBRATION,
    estimate_seconds,
    read_calibration,
    shared_calibration,
)
from kan_diffusion.study.config import StudyConfig, TrialConfig, read_study
from kan_diffusion.study.executors import Executor, TrialEvent, open_executor
from kan_diffusion.study.folder import Row, TrialResult, holds_run, load_trial
from kan_diffusion.study.trial import build

__all__ = [
    "StudyPlan",
    "StudyResults",
    "environment",
    "kept_rows",
    "load_study",
    "plan_study",
    "run_plan",
    "run_study",
]

_TRIALS = "trials"
_STUDY, _ENVIRONMENT = "study.yaml", "environment.json"
_ROWS, _TABLE = "results.json", "results.parquet"
_ALL_ROWS = TypeAdapter(list[Row])
_SPACE_A_TRIAL = 1_000_000
_SECONDS_BETWEEN = 5.0
"""Time between two writings of rows while trials finish."""
_LIBRARIES = (
    "torch",
    "diffusers",
    "accelerate",
    "numpy",
    "scipy",
    "scikit-learn",
    "POT",
    "numba",
    "pytorch-optimizer",
)


@dataclass(frozen=True)
class StudyPlan:
    """The trials of a study before it is run.

    Attributes:
        trials: All of them.
        parameters: Number of trainable parameters of those that are not finished, by trial id.
        finished: Ids of those that are finished.
        workers: Number of trials that run at once.
        seconds: Estimate of the wall-clock time the others take; None where there is none.
    """

    trials: tuple[TrialConfig, ...]
    parameters: dict[str, int]
    finished: frozenset[str]
    workers: int = 1
    seconds: float | None = None

    @property
    def to_run(self) -> list[TrialConfig]:
        """The trials that are not finished, in the order to run them.

        Seed after seed, so that an interrupted study has whole comparisons; the longest of a seed
        first, so that no worker starts one when the others are done.
        """
        todo = [trial for trial in self.trials if trial.id not in self.finished]
        return sorted(todo, key=lambda t: (t.seed, -t.training.steps * self.parameters[t.id]))


@dataclass(frozen=True)
class StudyResults:
    """A study that has been run.

    Attributes:
        config: The study.
        folder: Its run folder.
        trials: Finished trials whose folders are there, in the order of ``config.trials()``.
        failures: Ids of the trials that could not be run, with the reason.
        rows: One row a trial with flat keys; a failed trial has its reason under ``error``.
    """

    config: StudyConfig
    folder: Path
    trials: tuple[TrialResult, ...]
    failures: dict[str, str]
    rows: pd.DataFrame


def environment() -> dict[str, str]:
    """Lists the versions and the hardware that timings depend on."""
    versions = {name: metadata.version(name) for name in _LIBRARIES}
    return {
        "kan-diffusion": __version__,
        "python": platform.python_version(),
        **versions,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "threads a trial": "1",
    }


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def _require_folder(config: StudyConfig, folder: Path) -> None:
    """Checks that a folder may take a study: new, empty, or holding this one.

    More seeds, other models or other budgets of the same study are welcome: finished trials are
    recognised by their id.

    Raises:
        RunFolderError: It may not.
    """
    space = _SPACE_A_TRIAL * len(config.trials())
    if not holds_run(folder, "study", (_STUDY,), space):
        return
    before, now = _settings(read_study(folder / _STUDY)), _settings(config)
    may_change = ("seeds", "models", "budgets")
    differing = [key for key in now if key not in may_change and now[key] != before[key]]
    if differing:
        raise RunFolderError(
            f"'{folder}' holds another study (other {', '.join(differing)}); choose another folder "
            "with --out"
        )


def _settings(config: StudyConfig) -> dict[str, object]:
    """A study's settings, its files by name and content, as in a trial's identity."""
    settings: dict[str, object] = config.model_dump(mode="json")
    settings["data"] = [
        (data.name, data.sha256, data.holdout, data.kinds) if isinstance(data, FileData) else data
        for data in config.data
    ]
    return settings


def _finished(folder: Path, trial: TrialConfig, verify: bool) -> TrialResult | None:
    """Reads a trial of a study; None where it is not finished."""
    return load_trial(folder / _TRIALS / trial.id, trial, verify=verify)


def kept_rows(folder: Path) -> dict[str, Row]:
    """Reads the rows of finished trials that a folder's ``results.json`` holds, by trial id.

    Raises:
        RunFolderError: The file is there and cannot be read.
    """
    if not (folder / _ROWS).exists():
        return {}
    rows = read_as(_ALL_ROWS, folder / _ROWS, "the results of a study", "run it again")
    # A trial that could not be run has a reason and nothing else.
    return {str(row.get("trial")): row for row in rows if row.get("parameters") is not None}


def _write_rows(folder: Path, rows: Iterable[Row]) -> None:
    content = json_bytes(list(rows))
    others = [path for path in _written_files(folder) if path.name != _ROWS]
    write_checksums(folder, others, {_ROWS: content})
    write_bytes(folder / _ROWS, content)


def plan_study(
    config: StudyConfig,
    folder: Path,
    workers: int = 1,
    *,
    verify: bool = True,
    kept: Mapping[str, Row] | None = None,
) -> StudyPlan:
    """Lists a study's trials, and finds models that cannot be built before any training.

    Args:
        config: The study.
        folder: Its run folder. The calibration of a budget of time is taken from it, or made and
            kept there.
        workers: Number of trials that will run side by side.
        verify: Whether to refuse finished trials whose files have changed.
        kept: Rows of trials that count as finished without a folder, by trial id.

    Raises:
        DataError: A data set cannot be used.
        KanDiffusionError: A model cannot be built.
    """
    config = config.pinned()
    datasets = {data.name: load_dataset(data, config.seed, 0) for data in config.data}
    counts: dict[tuple[str, str], int] = {}
    planned = config.trials(read_calibration(folder))
    finished = frozenset(
        trial.id
        for trial in planned
        if trial.id in (kept or {}) or _finished(folder, trial, verify) is not None
    )
    for trial in planned:
        if trial.id not in finished and _sized(trial) not in counts:
            try:
                counts[_sized(trial)] = build(trial, datasets[trial.data.name]).num_trainable
            except KanDiffusionError as error:
                raise KanDiffusionError(
                    f"model '{trial.model.name}' on '{trial.data.name}': {error}"
                ) from error
    trials = config.trials(shared_calibration(config, folder, workers))
    return StudyPlan(
        trials=tuple(trials),
        parameters={t.id: counts[_sized(t)] for t in trials if t.id not in finished},
        finished=finished,
        workers=workers,
    )


def _sized(trial: TrialConfig) -> tuple[str, str]:
    """A trial's data set and its model in JSON: its number of parameters follows from them."""
    return trial.data.name, trial.model.model_dump_json()


def run_plan(
    plan: StudyPlan,
    folder: Path,
    executor: Executor,
    on_event: Callable[[TrialEvent], None] | None = None,
    *,
    keep_rows: bool = False,
) -> dict[str, str]:
    """Runs the trials of a plan that are not finished.

    A trial that another driver is running is left to it and looked at again in the end.

    Args:
        plan: The plan.
        folder: Run folder of its study.
        executor: Executor of the trials.
        on_event: Told the news of each trial.
        keep_rows: Whether to write the rows of finished trials as they come.

    Returns:
        Ids of the trials that could not be run, with the reason.
    """
    failures = {}
    rows, written = kept_rows(folder) if keep_rows else {}, time.monotonic()
    for event in executor.run(plan.to_run, folder / _TRIALS):
        if event.kind == "failed":
            failures[event.trial] = str(event.error)
        elif event.kind == "finished" and keep_rows:
            result = load_trial(folder / _TRIALS / event.trial, verify=False)
            assert result is not None
            rows[event.trial] = result.row
            if time.monotonic() - written > _SECONDS_BETWEEN:
                _write_rows(folder, rows.values())
                written = time.monotonic()
        if on_event is not None:
            on_event(event)
    if keep_rows and plan.to_run:
        _write_rows(folder, rows.values())
    return failures


def run_study(
    config: StudyConfig,
    folder: Path,
    *,
    executor: Executor | None = None,
    on_plan: Callable[[StudyPlan], None] | None = None,
    on_event: Callable[[TrialEvent], None] | None = None,
    verify: bool = True,
    keep_rows: bool = False,
) -> StudyResults:
    """Runs all trials of a study that are not finished yet, and gathers the results.

    Args:
        config: The study.
        folder: Its run folder.
        executor: Executor of the trials, see :func:`kan_diffusion.study.executors.open_executor`;
            processes of this machine, one a CPU core, when None.
        on_plan: Told the trials before they are run, with an estimate of their time.
        on_event: Told the news of each trial.
        verify: Whether to refuse finished trials whose files have changed.
        keep_rows: Whether to write the rows of finished trials as they come, and to count a trial
            as finished whose row was written and whose folder is not there.

    Returns:
        The study's results, failed trials included.

    Raises:
        RunFolderError: The folder holds something else or cannot be written.
        KanDiffusionError: The data or a model cannot be used, or no worker starts.
    """
    config = config.pinned()
    _require_folder(config, folder)
    with open_executor() if executor is None else nullcontext(executor) as runner:
        kept = kept_rows(folder) if keep_rows else {}
        plan = plan_study(config, folder, runner.workers, verify=verify, kept=kept)
        write_text(folder / _STUDY, config.to_yaml())
        write_json(folder / _ENVIRONMENT, environment())
        write_checksums(folder, _written_files(folder), {})
        if on_plan is not None:
            on_plan(replace(plan, seconds=estimate_seconds(plan.to_run, runner.workers)))
        failures = run_plan(plan, folder, runner, on_event, keep_rows=keep_rows)
    kept = kept_rows(folder) if keep_rows else {}
    results = _gather(config, folder, failures, verify, kept)
    plain = results.rows.astype(object).where(results.rows.notna(), None)
    write_json(folder / _ROWS, plain.to_dict("records"))
    write_parquet(folder / _TABLE, results.rows)
    write_checksums(folder, _written_files(folder), {})
    return results


def _written_files(folder: Path) -> list[Path]:
    """The files of a study beside its trials."""
    names = (_STUDY, _ENVIRONMENT, CALIBRATION, _ROWS, _TABLE)
    return [folder / name for name in names if (folder / name).is_file()]


def _gather(
    config: StudyConfig,
    folder: Path,
    failures: dict[str, str],
    verify: bool,
    kept: Mapping[str, Row],
) -> StudyResults:
    planned = config.trials(read_calibration(folder))
    results = [_finished(folder, trial, verify) for trial in planned]
    rows: list[Row] = [
        result.row
        if result is not None
        # What the configuration says counts, whatever a file of rows says.
        else {**kept[trial.id], **trial.keys}
        if trial.id in kept
        else {**trial.keys, "error": failures.get(trial.id, "not run")}
        for trial, result in zip(planned, results, strict=True)
    ]
    frame = pd.DataFrame(rows)
    # Without a string type, which has NaN where a trial went well.
    frame["error"] = pd.Series([row["error"] for row in rows], dtype=object)
    finished = tuple(result for result in results if result is not None)
    return StudyResults(config, folder, finished, failures, frame)


def load_study(folder: Path, *, verify: bool = True) -> StudyResults:
    """Reads a study back from its run folder.

    Args:
        folder: The folder. Its finished trials count, and of those whose folders were not kept the
            rows in its ``results.json``.
        verify: Whether to refuse files that have changed since they were written.

    Raises:
        RunFolderError: The folder holds no study, no trial of it is finished, or a file has
            changed.
        KanDiffusionError: Its ``study.yaml`` is not one of this version.
    """
    path = folder / _STUDY
    if not path.is_file():
        raise RunFolderError(f"'{folder}' holds no study (there is no {_STUDY} in it)")
    if verify:
        require_unchanged(folder, _written_files(folder))
    kept = kept_rows(folder)
    results = _gather(read_study(path), folder, {}, verify, kept)
    if not results.trials and not kept.keys() & set(results.rows["trial"]):
        if kept and not (folder / _TRIALS).exists():  # of a version that had other ids
            return replace(results, rows=pd.DataFrame(list(kept.values())))
        raise RunFolderError(
            f"no trial of the study in '{folder}' is finished; run it with 'kan-diffusion compare "
            f"{path} --out {folder}'"
        )
    return results
