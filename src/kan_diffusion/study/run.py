"""Runs a study in its folder, and reads one back.

The folder holds ``study.yaml`` (every setting spelled out), ``environment.json``, ``trials/<id>/``
and, when all trials are through, ``results.json`` and ``results.parquet`` (a row a trial). A study
that was interrupted goes on where it was: finished trials are read, unfinished ones resume from
their checkpoints.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pandas as pd

from kan_diffusion._version import __version__
from kan_diffusion.data.datasets import FileData, load_dataset
from kan_diffusion.denoisers.families import build_denoiser
from kan_diffusion.errors import RunFolderError
from kan_diffusion.files import (
    require_free_space,
    write_json,
    write_parquet,
    write_text,
)
from kan_diffusion.study.config import StudyConfig, TrialConfig, read_study
from kan_diffusion.study.executors import TrialEvent, default_workers, run_trials
from kan_diffusion.study.folder import TrialResult, load_trial

__all__ = ["StudyResults", "environment", "load_study", "parameter_counts", "run_study"]

_SPACE_A_TRIAL = 3_000_000
_LIBRARIES = ("torch", "diffusers", "accelerate", "numpy", "scipy", "scikit-learn", "POT", "numba")


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

    More seeds, or other models, of the same study are welcome: finished trials are recognised by
    their id.
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
    differing = [key for key in now if key not in ("seeds", "models") and now[key] != before[key]]
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


def run_study(
    config: StudyConfig,
    folder: Path,
    *,
    device: str = "auto",
    workers: int | None = None,
    on_event: Callable[[TrialEvent], None] | None = None,
) -> StudyResults:
    """Runs all trials of a study that are not finished yet, and gathers the results.

    Args:
        config: The study.
        folder: Its run folder.
        device: Where to train.
        workers: How many trials run side by side; one a CPU core when None.
        on_event: Told the news of each trial.

    Returns:
        The study's results, failed trials included.

    Raises:
        RunFolderError: The folder holds something else or cannot be written.
        KanDiffusionError: The data or a model cannot be used, or a worker process died; nothing
            that was finished is lost.
    """
    config = config.pinned()
    _require_folder(config, folder)
    counts = parameter_counts(config)  # what cannot be built is known before any training
    write_text(folder / "study.yaml", config.to_yaml())
    write_json(folder / "environment.json", environment())
    todo = [t for t in config.trials() if load_trial(_trial_folder(folder, t)) is None]
    # The longest first, so that no worker starts one when the others are done.
    todo.sort(key=lambda trial: -counts[trial.data.name, trial.model.name])
    failures: dict[str, str] = {}
    if todo:
        failures = run_trials(
            todo,
            lambda trial: _trial_folder(folder, trial),
            device=device,
            workers=default_workers(device) if workers is None else workers,
            on_event=on_event or (lambda event: None),
        )
    results = _gather(config, folder, failures)
    write_json(folder / "results.json", _plain_rows(results.rows))
    write_parquet(folder / "results.parquet", results.rows)
    return results


def parameter_counts(config: StudyConfig) -> dict[tuple[str, str], int]:
    """Number of trainable parameters of each model on each data set.

    Returns:
        (data set, model) to number.

    Raises:
        DataError: A data set cannot be used.
        KanDiffusionError: A model cannot be built.
    """
    counts = {}
    for data in config.data:
        dim = load_dataset(data, config.seed, 0).dim
        for model in config.models:
            denoiser = build_denoiser(
                model.family,
                dim,
                num_train_timesteps=config.process.num_timesteps,
                params=model.params,
                hidden=model.hidden,
                depth=model.depth,
                settings=model.settings,
            )
            counts[data.name, model.name] = denoiser.num_trainable
    return counts


def _plain_rows(rows: pd.DataFrame) -> list[dict[str, object]]:
    return [
        {str(key): None if pd.isna(value) else value for key, value in row.items()}
        for row in rows.astype(object).to_dict("records")
    ]


def _gather(config: StudyConfig, folder: Path, failures: dict[str, str]) -> StudyResults:
    trials, rows = [], []
    for trial in config.trials():
        result = load_trial(_trial_folder(folder, trial))
        if result is not None:
            trials.append(result)
            rows.append(result.row)
        else:
            rows.append(
                {
                    "data": trial.data.name,
                    "family": trial.model.family,
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
