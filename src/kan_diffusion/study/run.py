"""Runs a study in its folder, and reads one back.

The folder holds ``study.yaml`` (every setting spelled out), ``environment.json``, ``trials/<id>/``
and, when all trials are done, ``results.parquet`` (one row per trial), an export that is read where
there are no trials. An interrupted study resumes: finished trials are read, unfinished ones
continue from their checkpoints, and those that were judged otherwise are judged again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from kan_diffusion.data.sources import load_dataset
from kan_diffusion.errors import KanDiffusionError, RunFolderError
from kan_diffusion.files import inside, write_text
from kan_diffusion.study.config import StudyConfig, read_study
from kan_diffusion.study.environment import (
    read_environment,
    require_study_version,
    write_environment,
)
from kan_diffusion.study.executors import Executor, TrialEvent, get_executor
from kan_diffusion.study.folder import (
    STUDY,
    TRIALS,
    Row,
    TrialResult,
    claimed,
    holds_run,
    load_trial,
)
from kan_diffusion.study.planning import (
    Driver,
    StudyPlan,
    finished_trial,
    read_rows,
    write_rows,
)
from kan_diffusion.study.tasks import task_of

__all__ = ["StudyResults", "load_study", "require_folder", "run_study"]

logger = logging.getLogger(__name__)

_SPACE_A_TRIAL = 1_000_000


@dataclass(frozen=True)
class StudyResults:
    """A study that has been run.

    Attributes:
        config: The study.
        folder: Its run folder.
        trials: Finished trials, in the order of ``config.trials()``; none where only rows are kept.
        failures: Ids of the trials that could not be run, with the reason.
        rows: One row a trial with flat keys; a failed trial has its reason under ``error``.
    """

    config: StudyConfig
    folder: Path
    trials: tuple[TrialResult, ...]
    failures: dict[str, str]
    rows: pd.DataFrame


def require_folder(
    config: StudyConfig, folder: Path, num_trials: int, marks: Sequence[str] = (STUDY,)
) -> None:
    """Checks that a study may use a folder: it is new, empty, or holds this study.

    Seeds, models and the budget may differ from those in the folder: finished trials are recognised
    by their id.

    Args:
        config: The study.
        folder: The folder, which need not exist.
        num_trials: Number of trials that will be run in it.
        marks: Names of files, any of which marks a study.

    Raises:
        RunFolderError: It may not, or is of another version.
    """
    holds_study = holds_run(folder, "study", marks, _SPACE_A_TRIAL * num_trials)
    require_study_version(folder)
    if not holds_study or not (folder / STUDY).exists():
        return
    before, now = _settings(read_study(folder / STUDY)), _settings(config)
    may_change = ("seeds", "models", "budget", "unfit")
    differing = [key for key in now if key not in may_change and now[key] != before[key]]
    if differing:
        raise RunFolderError(
            f"'{folder}' holds another study (other {', '.join(differing)}); choose another folder"
        )


def _settings(config: StudyConfig) -> dict[str, object]:
    """Returns the settings of a study that decide how models are trained, without its words."""
    data = [source.identity() for source in config.data]
    words = {"name", "title", "question", "sampling", "evaluation"}
    settings = config.model_dump(mode="json", exclude=words)
    return {**settings, "data": data}


def run_study(
    config: StudyConfig,
    folder: Path,
    *,
    executor: Executor | None = None,
    on_plan: Callable[[StudyPlan], None] | None = None,
    on_event: Callable[[TrialEvent], None] | None = None,
) -> StudyResults:
    """Runs all trials of a study that are not finished yet, and gathers the results.

    Args:
        config: The study.
        folder: Its run folder.
        executor: Executor of the trials, see :func:`kan_diffusion.study.executors.get_executor`;
            processes of this machine, one per CPU core, when None.
        on_plan: Called with the plan of the trials before they run.
        on_event: Called with each event of a trial.

    Returns:
        The study's results, failed trials included.

    Raises:
        RunFolderError: The folder holds something else or cannot be written.
        TrialTakenError: Another process is running another study in the folder.
        KanDiffusionError: The data or a model cannot be used, or no worker starts.
    """
    config = config.pinned()
    require_folder(config, folder, len(config.trials()))
    config = _fullest(_fitted(config), folder)
    driver = Driver(folder, executor or get_executor(), on_plan, on_event)
    plan = driver.plan(config)
    with claimed(folder, settings := config.to_yaml()):
        write_text(folder / STUDY, settings)
        write_environment(folder)
        failures = driver.run(plan)
        results = _gather(config, folder, failures)
        write_rows(folder, results.rows)
    return results


def _fitted(config: StudyConfig) -> StudyConfig:
    """Leaves models out on data sets on which they cannot be built, with one warning.

    Raises:
        DataError: A data set cannot be used.
        KanDiffusionError: A model can be built on none of them, or nothing is left to compare.
    """
    config = config.model_copy(update={"unfit": {}})
    reasons: dict[tuple[str, str], str] = {}
    datasets = {data.name: load_dataset(data, config.seed, 0) for data in config.data}
    for trial in config.model_copy(update={"seeds": 1}).trials():
        try:
            task_of(trial.data).build(trial, datasets[trial.data.name])
        except KanDiffusionError as error:
            reasons[trial.data.name, trial.model.name] = str(error)
    unfit = {data: tuple(name for of, name in reasons if of == data) for data, _ in reasons}
    first = config.data[0].name
    for model in config.models:
        if sum(model.name in names for names in unfit.values()) == len(config.data):
            reason = reasons[first, model.name]
            raise KanDiffusionError(f"model '{model.name}' on '{first}': {reason}")
    left = (len(config.models) - len(unfit.get(data, ())) for data in datasets)
    if reasons and max(left) < 2:
        raise KanDiffusionError(
            f"no data set of study '{config.name}' has two models that can be built on it; give "
            "the models other sizes, or the study another budget"
        )
    if reasons:
        listed = "; ".join(f"'{name}' on '{of}' ({why})" for (of, name), why in reasons.items())
        logger.warning("left out, because they cannot be built: %s", listed)
    return config.model_copy(update={"unfit": unfit})


def _fullest(config: StudyConfig, folder: Path) -> StudyConfig:
    """Asks for the effort and metrics of a judgement in the folder that says more, if one does.

    So all models of a study are judged alike, and no judgement replaces a fuller one.
    """
    for trial in config.trials():
        result = load_trial(inside(folder, TRIALS, trial.id), trial)
        if result is None or result.judged is None:
            continue
        there, asked = result.judgement, trial.judgement
        if there.answers(asked) and not asked.answers(there):
            more = result.config.evaluation
            fuller = {"effort": more.effort, "metrics": more.metrics}
            evaluation = config.evaluation.model_copy(update=fuller)
            return config.model_copy(update={"evaluation": evaluation})
    return config


def _gather(config: StudyConfig, folder: Path, failures: dict[str, str]) -> StudyResults:
    planned = config.trials()
    results = [finished_trial(folder, trial) for trial in planned]
    rows: list[Row] = [
        result.row
        if result is not None
        else {**trial.keys, "error": failures.get(trial.id, "not run")}
        for trial, result in zip(planned, results, strict=True)
    ]
    finished = tuple(result for result in results if result is not None)
    return StudyResults(config, folder, finished, failures, _frame(rows))


def _frame(rows: Sequence[Row]) -> pd.DataFrame:
    frame = pd.DataFrame(rows)
    # As objects: a string type would have NaN where a trial went well.
    frame["error"] = pd.Series([row["error"] for row in rows], dtype=object)
    return frame


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
    exported, config = read_rows(folder), read_study(path)
    if exported and not (folder / TRIALS).exists():
        return StudyResults(config, folder, (), {}, _frame(exported))
    # All that the row of a trial has that could not be run.
    failures = {
        str(row["trial"]): str(row["error"])
        for row in exported
        if row.get("parameters") is None and row.get("error")
    }
    results = _gather(_fullest(config, folder), folder, failures)
    if not results.trials:
        raise RunFolderError(
            f"no trial of the study in '{folder}' is finished; run '{path}' in this folder"
        )
    return results
