"""Finished runs side by side, as if a study had made them.

A run of ``train``, a trial of a study and a stage of an explanation are all folders with the result
of a trial. Those that were judged alike, with the same process, the same sampler and as many
points, can be put beside each other; those of one seed share the draws they were judged on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from kan_diffusion.data.datasets import FileData
from kan_diffusion.errors import KanDiffusionError, RunFolderError
from kan_diffusion.study.config import EvaluationConfig, StudyConfig, TrialConfig
from kan_diffusion.study.folder import TrialResult, load_trial
from kan_diffusion.study.run import StudyResults

__all__ = ["read_runs"]


def read_runs(folders: Sequence[Path], title: str | None = None) -> StudyResults:
    """Reads finished runs as the results of a study.

    Runs of one model, trained alike, with different seeds belong together, whether the seeds are
    numbers within a study or those given to ``train``. Where different ones share a name, what they
    differ in is added to it.

    Args:
        folders: The runs' folders, at least one.
        title: Of the study; what the runs are when None.

    Raises:
        RunFolderError: A folder holds no finished run.
        KanDiffusionError: The runs were not judged alike, or two of them have the same data, model
            and seed.
    """
    trials = [_read(folder) for folder in folders]
    for trial in trials[1:]:
        _require_alike(trials[0], trial)
    first = trials[0].config
    trials = _with_common_data(_told_apart(_numbered(trials)))
    configs = [trial.config for trial in trials]
    models = {config.model.name: config.model for config in configs}
    config = StudyConfig(
        name="side-by-side",
        title=title or (first.label if len(trials) == 1 else "Runs side by side"),
        seed=first.study_seed,
        seeds=min(len({c.seed for c in configs if c.model.name == name}) for name in models),
        data=tuple({config.data: config.data for config in configs}),
        process=(first.process,),
        training=first.training,
        models=tuple(models.values()),
        sampling=first.sampling,
        evaluation=first.evaluation,
    )
    rows = pd.DataFrame([trial.row for trial in trials])
    rows["error"] = pd.Series([None] * len(trials), dtype=object)
    if len({(trial.row["match"], trial.row["budget"]) for trial in trials}) > 1:
        # Those of different studies, or of none, have no budget in common.
        for trial in trials:
            trial.row.update(match=None, budget=None)
        rows[["match", "budget"]] = None
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


def _with_common_data(trials: list[TrialResult]) -> list[TrialResult]:
    """The trials with one configuration for what are the same data, wherever a file lies."""
    known: dict[str, TrialResult] = {}
    common = []
    for trial in trials:
        data = trial.config.data
        first = known.setdefault(data.name, trial)
        theirs = first.config.data
        same = data == theirs or (
            isinstance(data, FileData)
            and isinstance(theirs, FileData)
            and data.model_copy(update={"path": theirs.path}) == theirs
        )
        if not same:
            raise KanDiffusionError(
                f"the runs in '{first.folder}' and '{trial.folder}' have different data of one "
                f"name, '{data.name}' (other points, or another number of them), so their numbers "
                "cannot be compared; report them apart"
            )
        config = trial.config.model_copy(update={"data": theirs})
        common.append(replace(trial, config=config))
    return common


def _rate(config: TrialConfig) -> float:
    return config.model.learning_rate or config.training.learning_rate


def _differences(trials: Sequence[TrialResult]) -> list[tuple[str, ...]]:
    """What models of one name differ in: of each of the trials, in words."""
    columns = [
        [f"{trial.row['parameters']:,} parameters" for trial in trials],
        [f"{trial.config.training.steps:,} steps" for trial in trials],
        [f"batches of {trial.config.training.batch_size:,}" for trial in trials],
        [f"learning rate {_rate(trial.config):.3g}" for trial in trials],
        [f"sparsify {trial.config.training.sparsify:g}" for trial in trials],
    ]
    columns = [column for column in columns if len(set(column)) > 1]
    if len(set(zip(*columns, strict=True))) < len(trials):
        columns.append([f"no. {number}" for number, _ in enumerate(trials, 1)])
    return list(zip(*columns, strict=True))


def _told_apart(trials: list[TrialResult]) -> list[TrialResult]:
    """The trials with names that tell models apart, and the same ones trained differently."""

    def kind(trial: TrialResult) -> str:
        config = trial.config
        training = config.training.model_copy(update={"learning_rate": _rate(config)})
        model = config.model.model_dump_json(exclude={"learning_rate", "steps"})
        return model + training.model_dump_json(exclude={"checkpoint_every"})

    kinds: dict[str, dict[str, TrialResult]] = {}
    for trial in trials:
        kinds.setdefault(trial.config.model.name, {}).setdefault(kind(trial), trial)
    names: dict[str, str] = {}
    for name, of_name in kinds.items():
        for key, parts in zip(of_name, _differences(list(of_name.values())), strict=True):
            names[key] = f"{name} ({', '.join(parts)})" if len(of_name) > 1 else name
    seen: dict[tuple[str, str, int], Path] = {}
    renamed = []
    for trial in trials:
        name = names[kind(trial)]
        place = trial.config.data.name, name, trial.config.seed
        if place in seen:
            raise KanDiffusionError(
                f"the runs in '{seen[place]}' and '{trial.folder}' are both of '{name}' with seed "
                f"{trial.config.seed}, trained alike; give one of them"
            )
        seen[place] = trial.folder
        model = trial.config.model.model_copy(update={"name": name})
        config = trial.config.model_copy(update={"model": model})
        renamed.append(replace(trial, config=config, row={**trial.row, "name": name}))
    return renamed
