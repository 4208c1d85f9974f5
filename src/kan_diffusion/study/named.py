"""Studies and trials from what a user names: a preset, a study file, a toy or a file of points."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from kan_diffusion.data.datasets import FileData, ToyData, data_from_name
from kan_diffusion.data.toys import TOYS
from kan_diffusion.denoisers.families import FAMILIES, get_family
from kan_diffusion.errors import KanDiffusionError, invalid_settings, unknown_name
from kan_diffusion.processes import get_process
from kan_diffusion.study.config import (
    EvaluationConfig,
    ModelConfig,
    SamplingConfig,
    StudyConfig,
    TrialConfig,
    preset_names,
    read_preset,
    read_study,
)
from kan_diffusion.training import TrainingConfig

__all__ = ["single_trial", "study_for"]

_DEFAULT_PARAMS = 2300
_STUDY_HOLDOUT = 0.5


def _label(family: str) -> str:
    return f"{family.upper()}"


def _matched_study(data: ToyData | FileData, params: int) -> StudyConfig:
    """Every family at one number of parameters, each with the settings that suit it."""
    return StudyConfig(
        name=data.name,
        title=f"KAN and MLP denoisers on {data.name}",
        question="At equal parameters, which denoises better?",
        data=(data,),
        models=tuple(
            ModelConfig(
                name=_label(name), family=name, params=params, learning_rate=family.learning_rate
            )
            for name, family in FAMILIES.items()
        ),
    )


def study_for(what: str, params: int | None = None) -> StudyConfig:
    """The study a user names.

    Args:
        what: A preset, a study file (.yaml, .yml), a toy, or a file of points.
        params: Number of parameters of the models, for a toy or a file of points; presets and
            study files say for themselves.

    Raises:
        DataError: The file of points cannot be used.
        KanDiffusionError: Nothing of that name, a study file that is wrong, or a number of
            parameters for a study that fixes its own.
    """
    path = Path(what)
    fixed = what in preset_names() or path.suffix in (".yaml", ".yml")
    if fixed:
        if params is not None:
            raise KanDiffusionError(
                f"study '{what}' fixes the sizes of its models; leave --params out"
            )
        return read_preset(what) if what in preset_names() else read_study(path)
    if what not in TOYS and not path.suffix and not path.exists():
        raise unknown_name("study, toy or file", what, [*preset_names(), *TOYS])
    data = data_from_name(what)
    if isinstance(data, FileData):
        data = data.model_copy(update={"holdout": _STUDY_HOLDOUT})
    return _matched_study(data, _DEFAULT_PARAMS if params is None else params)


def single_trial(
    data: str,
    *,
    family: str,
    params: int,
    depth: int | None = None,
    process: str = "cosine",
    steps: int = 4000,
    batch_size: int = 1024,
    learning_rate: float | None = None,
    holdout: float = 0.2,
    seed: int = 0,
) -> TrialConfig:
    """One trial on its own.

    Args:
        data: A toy or a file of points.
        family: Kind of denoiser.
        params: Number of trainable parameters, within 2 %.
        depth: Number of hidden layers; the family's own when None.
        process: Name of a process.
        steps: Optimiser steps.
        batch_size: Points a step.
        learning_rate: Peak learning rate; the family's own when None.
        holdout: Fraction of a file's rows that is not trained on.
        seed: What all randomness derives from.

    Raises:
        DataError: The file cannot be used.
        KanDiffusionError: A name is unknown or a number out of range.
    """
    kind = get_family(family)
    chosen = get_process(process)
    points = data_from_name(data)
    try:
        if isinstance(points, FileData):
            points = FileData(path=points.path, sha256=points.sha256, holdout=holdout)
        return TrialConfig(
            study_seed=seed,
            seed=0,
            data=points,
            process=chosen,
            model=ModelConfig(name=_label(family), family=family, params=params, depth=depth),
            training=TrainingConfig(
                steps=steps,
                batch_size=batch_size,
                learning_rate=kind.learning_rate if learning_rate is None else learning_rate,
            ),
            sampling=SamplingConfig(),
            evaluation=EvaluationConfig(moments=()),
        )
    except ValidationError as error:
        raise invalid_settings(error, "settings") from error
