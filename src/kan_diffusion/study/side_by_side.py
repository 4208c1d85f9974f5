"""Finished runs side by side, as if a study had made them.

A run of ``train``, a trial of a study and a stage of an explanation are all folders with the result
of a trial. Runs that were judged alike can be put beside each other: one and the same draw of
points, timesteps and noise, and as many samples by the same sampler.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from kan_diffusion.errors import KanDiffusionError, RunFolderError
from kan_diffusion.study.config import EvaluationConfig, StudyConfig, TrialConfig
from kan_diffusion.study.folder import TrialResult, load_trial
from kan_diffusion.study.run import StudyResults

__all__ = ["read_runs"]


def read_runs(folders: Sequence[Path], title: str | None = None) -> StudyResults:
    """Reads finished runs as the results of a study.

    Models go by their names, with the number of parameters where two different ones share a name;
    runs of one model with different seeds belong together, whether the seeds are numbers within a
    study or those given to ``train``.

    Args:
        folders: The runs' folders, at least one.
        title: Of the study; what the runs are when None.

    Raises:
        RunFolderError: A folder holds no finished run.
        KanDiffusionError: The runs were not judged alike, or two of them are the same model and
            seed.
    """
    trials = [_read(folder) for folder in folders]
    for trial in trials[1:]:
        _require_alike(trials[0], trial)
    first = trials[0].config
    trials = _told_apart(_numbered(trials))
    configs = [trial.config for trial in trials]
    models = {config.model.name: config.model for config in configs}
    config = StudyConfig(
        name="side-by-side",
        title=title or (first.label if len(trials) == 1 else "Runs side by side"),
        seed=first.study_seed,
        seeds=len({config.seed for config in configs}),
        data=tuple({config.data: config.data for config in configs}),
        process=first.process,
        training=first.training,
        models=tuple(models.values()),
        sampling=first.sampling,
        evaluation=first.evaluation,
    )
    rows = pd.DataFrame([trial.row for trial in trials])
    rows["error"] = pd.Series([None] * len(trials), dtype=object)
    return StudyResults(config, trials[0].folder, tuple(trials), {}, rows)


def _read(folder: Path) -> TrialResult:
    trial = load_trial(folder)
    if trial is None:
        what = "a study, and of several folders each must be a run: give some of its trials"
        if not (folder / "study.yaml").exists():
            what = "neither a study nor a finished run"
        raise RunFolderError(f"'{folder}' holds {what}")
    if trial.row["error"] is not None:
        raise RunFolderError(f"the run in '{folder}' failed: {trial.row['error']}")
    if "heldout_loss" not in trial.row:
        raise RunFolderError(
            f"the run in '{folder}' was not judged; explain again with as many points to generate "
            "as the run it comes from (--num)"
        )
    return trial


def _judging(evaluation: EvaluationConfig) -> EvaluationConfig:
    """What of it decides numbers."""
    return evaluation.model_copy(update={"moments": (), "num_drawn": 1})


def _require_alike(first: TrialResult, other: TrialResult) -> None:
    def parts(config: TrialConfig) -> dict[str, object]:
        return {
            "a process": config.process,
            "a sampler": config.sampling,
            "a way of judging": _judging(config.evaluation),
        }

    theirs = parts(other.config)
    for what, own in parts(first.config).items():
        if own != theirs[what]:
            raise KanDiffusionError(
                f"the runs in '{first.folder}' and '{other.folder}' do not have {what} in common, "
                "so their numbers cannot be compared; train or explain one of them again with the "
                "other's settings"
            )


def _numbered(trials: list[TrialResult]) -> list[TrialResult]:
    """The trials with seeds that say which draws they share.

    Draws derive from the study's seed and the trial's. A run of ``train`` is alone in its study,
    so there the former counts.
    """
    studies = {trial.config.study_seed for trial in trials}
    if len(studies) == 1:
        return trials
    if len({trial.config.seed for trial in trials}) > 1:
        raise KanDiffusionError(
            "the runs come from studies with different seeds ("
            + ", ".join(map(str, sorted(studies)))
            + ") and have different seeds within them, so which of them share their draws cannot "
            "be shown; give runs of one study, or runs of train"
        )
    return [
        replace(
            trial,
            config=trial.config.model_copy(update={"seed": trial.config.study_seed}),
            row={**trial.row, "seed": trial.config.study_seed},
        )
        for trial in trials
    ]


def _told_apart(trials: list[TrialResult]) -> list[TrialResult]:
    """The trials with names that tell their models apart."""
    models: dict[str, set[str]] = {}
    for trial in trials:
        config = trial.config
        models.setdefault(config.model.name, set()).add(config.model.model_dump_json())
    seen: dict[tuple[str, str, int], Path] = {}
    renamed = []
    for trial in trials:
        model = trial.config.model
        if len(models[model.name]) > 1:
            model = model.model_copy(
                update={"name": f"{model.name} ({trial.row['parameters']:,} parameters)"}
            )
        key = trial.config.data.name, model.name, trial.config.seed
        if key in seen:
            raise KanDiffusionError(
                f"the runs in '{seen[key]}' and '{trial.folder}' are both of model '{model.name}' "
                f"with seed {trial.config.seed}; give one of them"
            )
        seen[key] = trial.folder
        renamed.append(
            replace(
                trial,
                config=trial.config.model_copy(update={"model": model}),
                row={**trial.row, "name": model.name},
            )
        )
    return renamed
