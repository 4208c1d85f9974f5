"""Reads finished runs, and judges them again."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from kan_diffusion.data.sources import data_from_name, load_dataset
from kan_diffusion.diffusion.sampling import (
    PointDiffusionPipeline,
    SamplePipeline,
    make_scheduler,
)
from kan_diffusion.errors import RunFolderError
from kan_diffusion.study.config import TrialConfig
from kan_diffusion.study.folder import (
    CHECKPOINT,
    RESULT,
    STUDY,
    TRIALS,
    Row,
    TrialResult,
    load_trial,
)
from kan_diffusion.study.tasks import require_judge, task_of

__all__ = [
    "Judged",
    "evaluate_run",
    "judged_measure",
    "load_point_run",
    "load_run",
    "pipeline_of",
    "trained_run",
]


Judged = Literal["excess", "heldout_loss"]
"""A measure that models are judged by."""


def judged_measure(oracles: Iterable[object]) -> Judged:
    """Names the judged measure of trials with these oracles: the excess if all are exact."""
    return "excess" if all(oracle == "exact" for oracle in oracles) else "heldout_loss"


def trained_run(folder: Path) -> TrialResult:
    """Reads a run with a trained model.

    Args:
        folder: The run's folder.

    Raises:
        RunFolderError: There is none in the folder.
    """
    trial = load_trial(folder)
    if trial is None:
        remedy = "train one with 'kan-diffusion train'"
        for explanation in (folder, folder.parent):
            if (explanation / "formulas.json").exists():
                stages = sorted(path.parent.name for path in explanation.glob(f"*/{RESULT}"))
                remedy = f"this explanation has the stages {', '.join(stages)}"
        if (folder / STUDY).exists():
            trials = sorted((folder / TRIALS).glob("[!.]*"))
            some = f", such as '{trials[0]}'" if trials else ""
            remedy = f"it is a study; give one of its trials{some}"
        elif (folder / CHECKPOINT).exists():
            remedy = "its training has not finished; the same command goes on with it"
        raise RunFolderError(f"'{folder}' holds no finished run: {remedy}")
    if trial.row["error"] is not None:
        raise RunFolderError(f"the run in '{folder}' failed: {trial.row['error']}")
    return trial


def load_run(folder: Path) -> tuple[TrialConfig, SamplePipeline]:
    """Reads a run: its configuration and its pipeline, with the sampler of its study.

    Raises:
        RunFolderError: As of :func:`trained_run`, or its denoiser cannot be read.
    """
    trial = trained_run(folder)
    return trial.config, pipeline_of(trial)


def pipeline_of(trial: TrialResult) -> SamplePipeline:
    """Reads the pipeline of a finished trial, with the sampler of its study."""
    scheduler = make_scheduler(trial.config.sampling.scheduler, trial.config.process)
    kind = task_of(trial.config.data).pipeline_class
    return kind.from_pretrained(trial.folder, scheduler=scheduler)


def load_point_run(folder: Path) -> tuple[TrialConfig, PointDiffusionPipeline]:
    """Reads a finished run of points or of a table, as :func:`load_run` does.

    Raises:
        RunFolderError: There is no finished run with a denoiser in the folder.
        KanDiffusionError: The samples of its model are no points.
    """
    config, pipeline = load_run(folder)
    return config, task_of(config.data).points(pipeline)


def evaluate_run(folder: Path, data: str | None = None) -> tuple[Row, str]:
    """Judges a finished run, with the effort of its settings.

    Args:
        folder: The run's folder.
        data: A file or a toy to judge it with; the run's own data when None. Of the file it was
            trained on, only the held-out rows are used.

    Returns:
        The measured row, and one line that says which samples were used.

    Raises:
        RunFolderError: The folder holds no finished run.
        DataError: The data cannot be used.
    """
    config, pipeline = load_run(folder)
    task, own = task_of(config.data), config.data
    if data is None:
        own.require_recorded()
    other = own if data is None else data_from_name(data, pinned=False)
    if other is own or own.is_same(other):
        dataset = load_dataset(own, config.study_seed, config.seed)
    else:
        dataset = task.for_judging(config, pipeline, other)
    require_judge(dataset)
    used = f"fresh {task.noun} of '{dataset.name}'"
    if dataset.heldout is not None:
        count = f"{len(dataset.heldout):,} {task.noun}"
        used = f"{count} of '{dataset.name}' that were not trained on"
    known = {"exact": ", whose oracle is exact", "none": "; no oracle is known"}[dataset.oracle]
    split = config.seed if dataset.oracle == "none" else 0
    shared = task.reference(dataset, config.process, config.judging, config.study_seed, split)
    row, _, _ = task.judge(config, dataset, pipeline, shared)
    return row, used + known
