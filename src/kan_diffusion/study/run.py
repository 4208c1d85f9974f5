"""Runs a study in its folder, and reads one back.

The folder holds ``study.yaml`` (every setting spelled out), ``trials/<id>/``, ``environment.json``
(versions and hardware, and the digests of the files beside it) and, when all trials are done,
``results.parquet`` (one row per trial), an export that is read where there are no trials. An
interrupted study resumes: finished trials are read, unfinished ones continue from their
checkpoints, and those that were judged otherwise are judged again.
"""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated

import pandas as pd
from pydantic import FailFast, TypeAdapter

from kan_diffusion._version import __version__
from kan_diffusion.data.sources import load_dataset
from kan_diffusion.errors import KanDiffusionError, RunFolderError, valid_settings
from kan_diffusion.files import inside, read_as, require_free_space, write_parquet, write_text
from kan_diffusion.limits import MOST_JSON_BYTES
from kan_diffusion.study.config import StudyConfig, TrialConfig, read_study
from kan_diffusion.study.executors import Executor, Task, TrialEvent, get_executor
from kan_diffusion.study.folder import (
    STUDY,
    TRIALS,
    Row,
    TrialResult,
    claimed,
    differences,
    holds_run,
    load_trial,
    read_record,
    write_record,
)
from kan_diffusion.study.tasks import task_of
from kan_diffusion.training.checkpoint import BYTES_A_PARAMETER

logger = logging.getLogger(__name__)

Planned = Callable[[Sequence[TrialConfig], Sequence[TrialConfig]], object]
"""Called with all trials and with those that are missing, before these run."""

_ROWS, _ENVIRONMENT = "results.parquet", "environment.json"
_LISTED = (STUDY, _ROWS)
_AGAIN = "run the study again"
_NOT_RUN = "not run"
_SPACE_A_TRIAL = 1_000_000
_ROWS_TYPE = TypeAdapter(Annotated[list[Row], FailFast()])
_VERSIONS = TypeAdapter(dict[str, str])
_LIBRARIES = ["torch", "diffusers", "numpy", "scipy", "scikit-learn", "numba", "pytorch-optimizer"]


@dataclass(frozen=True)
class StudyResults:
    """A study that has been run.

    Attributes:
        config: The study.
        folder: Its run folder.
        trials: Finished trials, in the order of ``config.trials()``; none where only rows are kept.
        rows: One row a trial with flat keys; one that failed, or could not be run, has its reason
            under ``error``.
    """

    config: StudyConfig
    folder: Path
    trials: tuple[TrialResult, ...]
    rows: pd.DataFrame


def environment() -> dict[str, str]:
    """Lists the versions and the hardware that timings depend on."""
    processor = platform.processor() or "unknown"
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line for line in lines if line.startswith("model name"))
        processor = name.split(":", 1)[1].strip()
    return {
        "kan-diffusion": __version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in _LIBRARIES},
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor,
        "cores": str(os.cpu_count()),
        "threads a trial": "1",
    }


def write_settings(folder: Path, settings: str) -> None:
    """Writes the settings of a study, and the environment that it runs in."""
    write_text(folder / STUDY, settings)
    files = [folder / name for name in _LISTED if (folder / name).is_file()]
    write_record(folder / _ENVIRONMENT, environment(), files)


def read_environment(folder: Path) -> dict[str, str]:
    """Reads versions and hardware, and checks that the files of the study have not changed.

    Raises:
        RunFolderError: The file is missing, damaged or of another version, or one beside it has
            changed.
    """
    path = folder / _ENVIRONMENT
    content = read_record(path, "a list of versions", _LISTED, _AGAIN)
    with valid_settings(f"'{path}'"):
        return _VERSIONS.validate_python(content)


def finished_trial(folder: Path, trial: TrialConfig) -> TrialResult | None:
    """Reads a trial of a study; None where it is not trained, or not judged as it asks."""
    result = load_trial(inside(folder, TRIALS, trial.id), trial)
    return result if result is not None and result.answers(trial) else None


def run_trials(
    trials: Sequence[TrialConfig], folder: Path, executor: Executor
) -> Generator[TrialEvent]:
    """Runs trials in the folder of a study, in their order; ends its workers when it is closed."""
    place = inside(folder, TRIALS)
    with closing(executor([Task(trial, place / trial.id) for trial in trials])) as events:
        yield from events


def run_study(
    config: StudyConfig,
    folder: Path,
    *,
    executor: Executor | None = None,
    on_plan: Planned | None = None,
    on_event: Callable[[TrialEvent], object] | None = None,
) -> StudyResults:
    """Runs all trials of a study that are missing, and gathers the results.

    All that can be checked is checked before any training. Seeds come one after another, so that
    an interrupted study has complete comparisons; the longest trials of a seed come first, so that
    no worker starts one when the others are done. A trial that another driver is running is left to
    it and checked again at the end.

    Args:
        config: The study.
        folder: Its run folder.
        executor: Executor of the trials, see :func:`kan_diffusion.study.executors.get_executor`;
            processes of this machine, one per CPU core, when None.
        on_plan: Called with all trials, and those that are missing, before these run.
        on_event: Called with each event of a trial.

    Returns:
        The study's results, failed trials included.

    Raises:
        RunFolderError: The folder holds something else, cannot be written, or has no room for the
            checkpoints of the trials that run at once.
        TrialTakenError: Another process is running another study in the folder.
        KanDiffusionError: The data or a model cannot be used, or no worker starts.
    """
    config = config.pinned()
    require_folder(config, folder, len(config.trials()))
    space = BYTES_A_PARAMETER * _largest(config) * (os.cpu_count() or 1)
    config = _fullest(config, folder)
    trials = sorted(config.trials(), key=lambda trial: (trial.seed, -trial.training.steps))
    missing = [trial for trial in trials if finished_trial(folder, trial) is None]
    if on_plan is not None:
        on_plan(trials, missing)
    failures = {}
    with claimed(folder, settings := config.to_yaml()):
        write_settings(folder, settings)
        require_free_space(folder, space)
        with closing(run_trials(missing, folder, executor or get_executor())) as events:
            for event in events:
                if event.kind == "failed":
                    failures[event.trial] = str(event.error)
                if on_event is not None:
                    on_event(event)
        results = _gathered(config, folder, failures)
        write_parquet(folder / _ROWS, results.rows)
        write_settings(folder, settings)
    return results


def load_study(folder: Path) -> StudyResults:
    """Reads a study back from its run folder.

    Args:
        folder: The folder. Where it has no trials, the rows in its ``results.parquet`` are read.

    Raises:
        RunFolderError: The folder holds no study, no trial of it is finished, or a file has
            changed.
        KanDiffusionError: Its ``study.yaml`` is not one of this version.
    """
    path = folder / STUDY
    if not path.is_file():
        raise RunFolderError(f"'{folder}' holds no study (there is no {STUDY} in it)")
    read_environment(folder)  # refuses files that have changed
    config, rows = read_study(path), list[Row]()
    if (export := folder / _ROWS).exists():
        rows = read_as(_ROWS_TYPE, export, "the results of a study", _AGAIN, MOST_JSON_BYTES)
    if rows and not (folder / TRIALS).exists():
        return StudyResults(config, folder, (), _frame(rows))
    failures = {str(row["trial"]): str(row["error"]) for row in rows if row.get("error")}
    results = _gathered(_fullest(config, folder), folder, failures)
    if not results.trials:
        raise RunFolderError(
            f"no trial of the study in '{folder}' is finished; run '{path}' in this folder"
        )
    return results


def _gathered(config: StudyConfig, folder: Path, failures: Mapping[str, str]) -> StudyResults:
    """Reads the trials of a study; of one that there is not, a row says why if that is known."""
    rows, finished = list[Row](), []
    for trial in config.trials():
        result = finished_trial(folder, trial)
        if result is None:
            rows.append({**trial.keys, "error": failures.get(trial.id, _NOT_RUN)})
        else:
            rows.append(result.row)
            finished.append(result)
    return StudyResults(config, folder, tuple(finished), _frame(rows))


def _frame(rows: Sequence[Row]) -> pd.DataFrame:
    frame = pd.DataFrame(rows)
    # As objects: a string type would have NaN where a trial went well.
    frame["error"] = pd.Series([row["error"] for row in rows], dtype=object)
    return frame


def require_folder(config: StudyConfig, folder: Path, num_trials: int) -> None:
    """Checks that a study may use a folder: it is new, empty, or holds this study.

    Seeds, models and the budget may differ from those in the folder: finished trials are recognised
    by their id. A finished study has a page, which no smaller one may replace.

    Args:
        config: The study.
        folder: The folder, which need not exist.
        num_trials: Number of trials that will be run in it.

    Raises:
        RunFolderError: It may not.
    """
    if not holds_run(folder, "study", (STUDY,), _SPACE_A_TRIAL * num_trials):
        return
    before = read_study(folder / STUDY)
    if there := differences(_decisive(before), _decisive(config)):
        raise RunFolderError(f"'{folder}' holds another study ({there}); choose another folder")
    asked = {trial.id for trial in config.trials()}
    lost = [trial.label for trial in before.trials() if trial.id not in asked]
    if lost and (folder / _ROWS).exists():
        raise RunFolderError(
            f"'{folder}' holds a finished study, whose page would lose {len(lost)} of its trials, "
            f"such as {lost[0]}; choose another folder"
        )


def _decisive(config: StudyConfig) -> dict[str, object]:
    """Returns the settings that all studies in a folder share."""
    settings = config.model_dump(mode="json", include={"seed", "process", "training"})
    return {**settings, "data": [source.identity() for source in config.data]}


def _largest(config: StudyConfig) -> int:
    """Builds each model once on each data set; returns the number of parameters of the largest.

    Raises:
        DataError: A data set cannot be used.
        KanDiffusionError: A model cannot be built on one of them.
    """
    datasets = {data.name: load_dataset(data, config.seed, 0) for data in config.data}
    sizes = []
    for trial in config.model_copy(update={"seeds": 1}).trials():
        name = trial.data.name
        try:
            sizes.append(task_of(trial.data).build(trial, datasets[name]).num_trainable)
        except KanDiffusionError as error:
            raise KanDiffusionError(f"model '{trial.model.name}' on '{name}': {error}") from error
    return max(sizes)


def _fullest(config: StudyConfig, folder: Path) -> StudyConfig:
    """Asks for the effort and metrics of a judgement in the folder that says more, if one does.

    So all models of a study are judged alike, and no judgement replaces a fuller one.
    """
    for trial in config.trials():
        result, asked = load_trial(inside(folder, TRIALS, trial.id), trial), trial.judgement
        if result is None or result.judged is None:
            continue
        if result.judgement.answers(asked) and not asked.answers(result.judgement):
            fuller = result.config.evaluation.model_dump(include={"effort", "metrics"})
            evaluation = config.evaluation.model_copy(update=fuller)
            return config.model_copy(update={"evaluation": evaluation})
    return config
