"""Runs a study in its folder, and reads one back.

The folder holds ``study.yaml`` (every setting spelled out), ``environment.json``, ``trials/<id>/``
and, when all trials are through, ``results.json`` and ``results.parquet`` (a row a trial). A study
that was interrupted goes on where it was: finished trials are read, unfinished ones resume from
their checkpoints.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pandas as pd

from kan_diffusion._version import __version__
from kan_diffusion.data.datasets import FileData, load_dataset
from kan_diffusion.denoisers.registry import get_family
from kan_diffusion.errors import KanDiffusionError, RunFolderError
from kan_diffusion.files import (
    require_free_space,
    write_json,
    write_parquet,
    write_text,
)
from kan_diffusion.study.budgets import read_calibration, shared_calibration
from kan_diffusion.study.config import StudyConfig, TrialConfig, read_study
from kan_diffusion.study.executors import TrialEvent, default_workers, run_trials
from kan_diffusion.study.folder import CHECKPOINT, TrialResult, load_trial
from kan_diffusion.study.trial import build

__all__ = [
    "StudyPlan",
    "StudyResults",
    "environment",
    "load_study",
    "plan_study",
    "run_study",
]

_SPACE_A_TRIAL = 1_000_000
_FRESH_SECONDS = 120.0
"""A checkpoint younger than this may be another driver's at work."""
_LIBRARIES = ("torch", "diffusers", "accelerate", "numpy", "scipy", "scikit-learn", "POT", "numba")


@dataclass(frozen=True)
class StudyPlan:
    """The trials of a study before it is run.

    Attributes:
        trials: All of them.
        parameters: Number of trainable parameters, by trial id.
        finished: Ids of those that are finished.
    """

    trials: tuple[TrialConfig, ...]
    parameters: dict[str, int]
    finished: frozenset[str]


@dataclass(frozen=True)
class StudyResults:
    """A study that has been run.

    Attributes:
        config: What was asked.
        folder: Its run folder.
        trials: Finished trials, in the order of ``config.trials()``.
        failures: Ids of the trials that could not be run, with the reason.
        rows: One row a trial with flat keys; a failed trial has its reason under ``error``.
    """

    config: StudyConfig
    folder: Path
    trials: tuple[TrialResult, ...]
    failures: dict[str, str]
    rows: pd.DataFrame


def environment() -> dict[str, str]:
    """Versions and hardware that timings depend on."""
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
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _require_folder(config: StudyConfig, folder: Path) -> None:
    """Checks that a folder may take a study: new, empty, or holding this one.

    More seeds, other models or other budgets of the same study are welcome: finished trials are
    recognised by their id.
    """
    require_free_space(folder, _SPACE_A_TRIAL * len(config.trials()))
    if not folder.exists():
        return
    if not folder.is_dir():
        raise RunFolderError(f"'{folder}' is a file; choose a folder with --out")
    if not (folder / "study.yaml").exists():
        if any(not entry.name.startswith(".") for entry in folder.iterdir()):
            raise RunFolderError(
                f"'{folder}' holds other files and no study; choose an empty or new folder with "
                "--out"
            )
        return
    before, now = _settings(read_study(folder / "study.yaml")), _settings(config)
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
        (data.name, data.sha256, data.holdout) if isinstance(data, FileData) else data
        for data in config.data
    ]
    return settings


def _trial_folder(folder: Path, trial: TrialConfig) -> Path:
    return folder / "trials" / trial.id


def plan_study(config: StudyConfig, folder: Path, workers: int = 1) -> StudyPlan:
    """Lists a study's trials, and finds what cannot be built before any training.

    Args:
        config: The study.
        folder: Its run folder. The calibration of a budget of time is taken from it, or made and
            kept there.
        workers: How many trials will run side by side, for a calibration.

    Raises:
        DataError: A data set cannot be used.
        KanDiffusionError: A model cannot be built.
    """
    config = config.pinned()
    counts = _parameter_counts(config, config.trials())
    trials = config.trials(shared_calibration(config, folder, workers))
    return StudyPlan(
        trials=tuple(trials),
        parameters={trial.id: counts[_sized(trial)] for trial in trials},
        finished=frozenset(
            trial.id for trial in trials if load_trial(_trial_folder(folder, trial)) is not None
        ),
    )


def _sized(trial: TrialConfig) -> tuple[str, str]:
    """What a trial's number of parameters depends on: its data set, and its model in JSON."""
    return trial.data.name, trial.model.model_dump_json()


def _parameter_counts(config: StudyConfig, trials: list[TrialConfig]) -> dict[tuple[str, str], int]:
    datasets = {data.name: load_dataset(data, config.seed, 0) for data in config.data}
    counts: dict[tuple[str, str], int] = {}
    for trial in trials:
        key = _sized(trial)
        if key not in counts:
            try:
                counts[key] = build(trial, datasets[trial.data.name]).num_trainable
            except KanDiffusionError as error:
                raise KanDiffusionError(
                    f"model '{trial.model.name}' on '{trial.data.name}': {error}"
                ) from error
    return counts


def _to_run(plan: StudyPlan, folder: Path) -> list[TrialConfig]:
    """The trials that are not finished, in the order to run them.

    Seed after seed, so that an interrupted study has whole comparisons; the longest of a seed
    first, so that no worker starts one when the others are done. Where another driver seems to be
    at work this one starts in the middle: without a lock, that is what keeps the two apart.
    """
    todo = [trial for trial in plan.trials if trial.id not in plan.finished]
    todo.sort(key=lambda t: (t.seed, -t.training.steps * plan.parameters[t.id]))
    if any(_seems_alive(_trial_folder(folder, trial) / CHECKPOINT) for trial in todo):
        half = len(todo) // 2
        todo = todo[half:] + todo[:half]
    return todo


def _seems_alive(checkpoint: Path) -> bool:
    try:
        return time.time() - checkpoint.stat().st_mtime < _FRESH_SECONDS
    except OSError:
        return False


def run_study(
    config: StudyConfig,
    folder: Path,
    *,
    device: str = "auto",
    workers: int | None = None,
    executor: str = "local",
    address: str | None = None,
    on_plan: Callable[[StudyPlan], None] | None = None,
    on_event: Callable[[TrialEvent], None] | None = None,
) -> StudyResults:
    """Runs all trials of a study that are not finished yet, and gathers the results.

    Args:
        config: The study.
        folder: Its run folder.
        device: Where to train.
        workers: How many trials run side by side; one a CPU core when None.
        executor: ``"local"`` or ``"ray"``, see :mod:`kan_diffusion.study.executors`.
        address: Of a Ray cluster; None starts one on this machine.
        on_plan: Told what will be run, before it is.
        on_event: Told the news of each trial.

    Returns:
        The study's results, failed trials included.

    Raises:
        RunFolderError: The folder holds something else or cannot be written.
        KanDiffusionError: The data or a model cannot be used, or the executor is unknown.
    """
    config = config.pinned()
    _require_folder(config, folder)
    workers = default_workers(device) if workers is None else workers
    plan = plan_study(config, folder, workers)
    write_text(folder / "study.yaml", config.to_yaml())
    write_json(folder / "environment.json", environment())
    if on_plan is not None:
        on_plan(plan)
    failures: dict[str, str] = {}
    todo = _to_run(plan, folder)
    if todo:
        failures = run_trials(
            todo,
            lambda trial: _trial_folder(folder, trial),
            device=device,
            workers=workers,
            on_event=on_event or (lambda event: None),
            executor=executor,
            address=address,
        )
    results = _gather(config, folder, failures)
    write_json(folder / "results.json", _plain_rows(results.rows))
    write_parquet(folder / "results.parquet", results.rows)
    return results


def _plain_rows(rows: pd.DataFrame) -> list[dict[str, object]]:
    return [
        {str(key): None if pd.isna(value) else value for key, value in row.items()}
        for row in rows.astype(object).to_dict("records")
    ]


def _gather(config: StudyConfig, folder: Path, failures: dict[str, str]) -> StudyResults:
    trials, rows = [], []
    for trial in config.trials(read_calibration(folder)):
        result = load_trial(_trial_folder(folder, trial))
        if result is not None:
            trials.append(result)
            rows.append(result.row)
        else:
            rows.append(
                {
                    "data": trial.data.name,
                    "match": trial.match,
                    "budget": trial.budget,
                    "family": trial.model.family,
                    "kind": get_family(trial.model.family).kind,
                    "name": trial.model.name,
                    "seed": trial.seed,
                    "trial": trial.id,
                    "error": failures.get(trial.id, "not run"),
                }
            )
    frame = pd.DataFrame(rows)
    # Without a string type, which has NaN where a trial went well.
    frame["error"] = pd.Series([row["error"] for row in rows], dtype=object)
    return StudyResults(config, folder, tuple(trials), failures, frame)


def load_study(folder: Path) -> StudyResults:
    """Reads a study back from its run folder.

    Raises:
        RunFolderError: The folder holds no study.
        KanDiffusionError: Its ``study.yaml`` is not one of this version.
    """
    path = folder / "study.yaml"
    if not path.is_file():
        raise RunFolderError(f"'{folder}' holds no study (there is no study.yaml in it)")
    return _gather(read_study(path), folder, failures={})
