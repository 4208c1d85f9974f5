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
from itertools import product
from pathlib import Path
from typing import Annotated, Self

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
    read_digests,
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
_VERSIONS_KIND, _AGAIN = "a list of versions", "run the study again"
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
    content = read_record(path, _VERSIONS_KIND, _LISTED, _AGAIN)
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


@dataclass(frozen=True)
class Study:
    """A study in its folder.

    Attributes:
        config: The study.
        folder: Its run folder.
        largest: Number of parameters of its largest model.
    """

    config: StudyConfig
    folder: Path
    largest: int = 0

    @classmethod
    def open(cls, config: StudyConfig, folder: Path) -> Self:
        """Checks before any training that a study can be run in a folder.

        Its files are pinned. What cannot be built on a data set is left out with one warning, and
        its models are judged as fully as those in the folder.

        Raises:
            DataError: A data set cannot be used.
            RunFolderError: The folder holds something else.
            KanDiffusionError: A model can be built on no data set, or nothing is left to compare.
        """
        config = config.pinned()
        require_folder(config, folder, len(config.trials()))
        config, largest = _fitted(config)
        return cls(_fullest(config, folder), folder, largest)

    def missing(self) -> list[TrialConfig]:
        """Lists the trials that are not trained, or not judged as asked, in the order to run them.

        Seeds come one after another, so that an interrupted study has complete comparisons. The
        longest trials of a seed come first, so that no worker starts one when the others are done.
        """
        trials = [t for t in self.config.trials() if finished_trial(self.folder, t) is None]
        return sorted(trials, key=lambda trial: (trial.seed, -trial.training.steps))

    def run(self, executor: Executor) -> Generator[TrialEvent]:
        """Runs the missing trials, and exports the rows of all at the end.

        A trial that another driver is running is left to it and checked again at the end.

        Yields:
            The events of the trials.

        Raises:
            TrialTakenError: Another process is running another study in the folder.
            RunFolderError: The folder cannot be written, or has no room for the checkpoints of the
                trials that run at once.
            KanDiffusionError: No worker starts; or fewer trials can be judged than were before,
                whose rows and settings stay.
        """
        failures = {}
        with claimed(self.folder, settings := self.config.to_yaml()):
            judged = [row for row in _exported(self.folder) if row.get("error") is None]
            before = read_study(self.folder / STUDY).to_yaml() if judged else settings
            write_settings(self.folder, settings)
            space = BYTES_A_PARAMETER * self.largest * (os.cpu_count() or 1)
            require_free_space(self.folder, space)
            for event in run_trials(self.missing(), self.folder, executor):
                if event.kind == "failed":
                    failures[event.trial] = str(event.error)
                yield event
            rows = self.results(failures).rows
            if failures and rows["error"].isna().sum() < len(judged):
                write_settings(self.folder, before)
                raise KanDiffusionError(
                    f"{len(failures)} of {len(rows)} trials failed, the first with: "
                    f"{next(iter(failures.values()))}; the results in '{self.folder}' are those "
                    "of before"
                )
            write_parquet(self.folder / _ROWS, rows)
            write_settings(self.folder, settings)

    def results(self, failures: Mapping[str, str] | None = None) -> StudyResults:
        """Reads the results: those of its trials, and why others could not be run.

        Args:
            failures: Why, by the id of the trial; as the rows in the folder say when None.

        Raises:
            RunFolderError: A file is damaged or has changed.
        """
        if failures is None:
            lost = [row for row in _exported(self.folder) if row.get("error")]
            failures = {str(row.get("trial")): str(row["error"]) for row in lost}
        rows, finished = list[Row](), []
        for trial in self.config.trials():
            result = finished_trial(self.folder, trial)
            if result is None:
                rows.append({**trial.keys, "error": failures.get(trial.id, _NOT_RUN)})
            else:
                rows.append(result.row)
                finished.append(result)
        return StudyResults(self.config, self.folder, tuple(finished), _frame(rows))


def run_study(
    config: StudyConfig,
    folder: Path,
    *,
    executor: Executor | None = None,
    on_plan: Planned | None = None,
    on_event: Callable[[TrialEvent], object] | None = None,
) -> StudyResults:
    """Runs all trials of a study that are missing, and gathers the results.

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
        KanDiffusionError: What :meth:`Study.open` and :meth:`Study.run` raise.
    """
    study = Study.open(config, folder)
    if on_plan is not None:
        on_plan(study.config.trials(), study.missing())
    with closing(study.run(executor or get_executor())) as events:
        for event in events:
            if on_event is not None:
                on_event(event)
    return study.results()


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
    config = read_study(path)
    if not (folder / TRIALS).exists() and (rows := _exported(folder)):
        return StudyResults(config, folder, (), _frame(rows))
    results = Study(_fullest(config, folder), folder).results()
    if not results.trials:
        raise RunFolderError(
            f"no trial of the study in '{folder}' is finished; run '{path}' in this folder"
        )
    return results


def _exported(folder: Path) -> list[Row]:
    """Reads a folder's ``results.parquet``; empty if it is not there."""
    if not (folder / _ROWS).exists():
        return []
    return read_as(_ROWS_TYPE, folder / _ROWS, "the results of a study", _AGAIN, MOST_JSON_BYTES)


def _frame(rows: Sequence[Row]) -> pd.DataFrame:
    frame = pd.DataFrame(rows)
    # As objects: a string type would have NaN where a trial went well.
    frame["error"] = pd.Series([row.get("error") for row in rows], dtype=object)
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
    if (path := folder / _ENVIRONMENT).exists():  # the files beside it may have changed
        read_digests(path, _VERSIONS_KIND, "delete it")
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


def _fitted(config: StudyConfig) -> tuple[StudyConfig, int]:
    """Leaves models out where the study says so or they cannot be built, with one warning.

    Returns:
        The study, and the number of parameters of its largest model.

    Raises:
        DataError: A data set cannot be used.
        KanDiffusionError: A model can be built on none of them, or nothing is left to compare.
    """
    datasets = {data.name: load_dataset(data, config.seed, 0) for data in config.data}
    reasons = {
        (data, model.name): "as the study says"
        for model, data in product(config.models, datasets)
        if model.name in config.unfit.get(data, ())
    }
    sizes = [0]
    for trial in config.model_copy(update={"seeds": 1}).trials():
        try:
            denoiser = task_of(trial.data).build(trial, datasets[trial.data.name])
            sizes.append(denoiser.num_trainable)
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
        logger.warning("left out: %s", listed)
    return config.model_copy(update={"unfit": unfit}), max(sizes)


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
