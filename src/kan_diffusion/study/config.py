"""What a study is: data sets, a process, models, seeds, and how they are trained and judged.

A study is a YAML file (``study/presets`` has the built-in ones); :class:`StudyConfig` validates it
and :meth:`StudyConfig.trials` lists its training runs. A trial's id is a hash of everything that
decides its outcome, so a finished trial is recognised wherever it lies.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from kan_diffusion.data.datasets import DataConfig, FileData, ToyData
from kan_diffusion.denoisers.families import Setting, get_family
from kan_diffusion.errors import KanDiffusionError, invalid_settings, unknown_name
from kan_diffusion.processes import Process, get_process
from kan_diffusion.sampling import SCHEDULERS
from kan_diffusion.training import TrainingConfig

__all__ = [
    "EvaluationConfig",
    "ModelConfig",
    "SamplingConfig",
    "StudyConfig",
    "TrialConfig",
    "preset_names",
    "read_preset",
    "read_study",
]

_FROZEN = ConfigDict(frozen=True, extra="forbid")


class ModelConfig(BaseModel):
    """A denoiser of a study.

    Attributes:
        name: What the model is called in tables and figures.
        family: Its family.
        params: Number of trainable parameters it is fitted to; or
        hidden: the widths of its hidden layers.
        depth: Number of hidden layers when fitted; the family's own when None.
        settings: Settings of the denoiser that differ from the family's.
        learning_rate: Peak learning rate; the study's when None.
    """

    model_config = _FROZEN

    name: str
    family: str
    params: int | None = Field(None, ge=1)
    hidden: tuple[int, ...] | None = None
    depth: int | None = Field(None, ge=1)
    settings: dict[str, Setting] = Field(default_factory=dict)
    learning_rate: float | None = Field(None, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _known_and_sized(self) -> Self:
        get_family(self.family)
        if (self.params is None) == (self.hidden is None):
            raise KanDiffusionError(f"model '{self.name}' needs either params or hidden widths")
        return self


class SamplingConfig(BaseModel):
    """How trained denoisers are sampled.

    Attributes:
        scheduler: Name of the sampler.
        steps: Its number of steps.
    """

    model_config = _FROZEN

    scheduler: str = "dpm-solver++"
    steps: int = Field(20, ge=1)

    @field_validator("scheduler")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in SCHEDULERS:
            raise unknown_name("scheduler", name, SCHEDULERS)
        return name


class EvaluationConfig(BaseModel):
    """How trained denoisers are judged.

    Attributes:
        num_noised: Number of noised points for loss, floor and excess.
        num_levels: Number of noise levels the excess is split into.
        num_samples: Number of generated and of fresh points for sample metrics.
        num_real_pairs: Number of pairs of fresh samples behind the real-against-real values.
        moments: Moments of training, as fractions of it, at which the reverse process is recorded
            (by the first seed of every model).
        num_drawn: Number of points a picture shows.
    """

    model_config = _FROZEN

    num_noised: int = Field(20_000, ge=10)
    num_levels: int = Field(10, ge=1)
    num_samples: int = Field(5_000, ge=10)
    num_real_pairs: int = Field(3, ge=1)
    moments: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75)
    num_drawn: int = Field(1_000, ge=1)


class TrialConfig(BaseModel):
    """One training run, and everything that decides its outcome."""

    model_config = _FROZEN

    study_seed: int
    seed: int
    data: DataConfig
    process: Process
    model: ModelConfig
    training: TrainingConfig
    sampling: SamplingConfig
    evaluation: EvaluationConfig

    @property
    def identity(self) -> str:
        """The settings that decide the outcome, as canonical JSON.

        A file counts by its name and its content, wherever it lies.
        """
        settings = self.model_dump(mode="json")
        if isinstance(self.data, FileData):
            settings["data"]["path"] = self.data.name
        return json.dumps(settings, sort_keys=True)

    @property
    def id(self) -> str:
        """Twelve hexadecimal digits of the hash of :attr:`identity`."""
        return hashlib.sha256(self.identity.encode()).hexdigest()[:12]

    @property
    def label(self) -> str:
        """What to call the trial while it runs."""
        return f"{self.data.name} · {self.model.name} · seed {self.seed}"


class StudyConfig(BaseModel):
    """A set of trials and the comparison drawn from them.

    Attributes:
        name: Name of the study and, unless told otherwise, of its run folder.
        title: Title of the report.
        question: The question the report answers.
        seed: What all draws of the study derive from.
        seeds: Number of training runs a model, each with data, noise and initial parameters of
            its own; the data and the noise are the same for all models.
        data: Data sets.
        process: Noising process; in YAML the name of a preset or all of its settings.
        training: How to train.
        models: Denoisers.
        sampling: How to sample.
        evaluation: How to judge.
    """

    model_config = _FROZEN

    name: str
    title: str
    question: str = ""
    seed: int = 0
    seeds: int = Field(3, ge=1)
    data: tuple[DataConfig, ...] = Field(min_length=1)
    process: Process = Field(default_factory=lambda: get_process("cosine"))
    training: TrainingConfig = TrainingConfig()
    models: tuple[ModelConfig, ...] = Field(min_length=1)
    sampling: SamplingConfig = SamplingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @field_validator("process", mode="before")
    @classmethod
    def _named_process(cls, process: object) -> object:
        return get_process(process) if isinstance(process, str) else process

    @model_validator(mode="after")
    def _distinct_names(self) -> Self:
        for kind, names in (
            ("model", [model.name for model in self.models]),
            ("data set", [data.name for data in self.data]),
        ):
            for name in names:
                if names.count(name) > 1:
                    raise KanDiffusionError(f"two {kind}s are called '{name}'; rename one")
        return self

    def trials(self) -> list[TrialConfig]:
        """The study's trials: the first seed of every model and data set first."""
        return [
            TrialConfig(
                study_seed=self.seed,
                seed=seed,
                data=data,
                process=self.process,
                model=model,
                training=self.training
                if model.learning_rate is None
                else self.training.model_copy(update={"learning_rate": model.learning_rate}),
                sampling=self.sampling,
                evaluation=self.evaluation
                if seed == 0
                else self.evaluation.model_copy(update={"moments": ()}),
            )
            for seed in range(self.seeds)
            for data in self.data
            for model in self.models
        ]

    def with_families(self, families: Sequence[str]) -> Self:
        """The same study with the models of some families only.

        Raises:
            KanDiffusionError: A family is unknown, or the study has no model of it.
        """
        for family in families:
            get_family(family)
            if family not in {model.family for model in self.models}:
                raise KanDiffusionError(
                    f"study '{self.name}' has no model of family '{family}'; it has "
                    + ", ".join(sorted({model.family for model in self.models}))
                )
        models = tuple(model for model in self.models if model.family in families)
        return self.model_copy(update={"models": models})

    def with_length(self, *, steps: int | None = None, epochs: int | None = None) -> Self:
        """The same study trained for another number of steps, or of epochs.

        Raises:
            KanDiffusionError: Both are given, one is below 1, or epochs are asked of a study that
                does not train in epochs.
        """
        if steps is None and epochs is None:
            return self
        if steps is not None and epochs is not None:
            raise KanDiffusionError("give either --steps or --epochs, not both")
        if epochs is not None:
            steps = epochs * self.steps_per_epoch()
        if steps is None or steps < 1:
            raise KanDiffusionError("training needs at least 1 step; raise --steps or --epochs")
        training = self.training.model_copy(update={"steps": steps})
        return self.model_copy(update={"training": training})

    def steps_per_epoch(self) -> int:
        """Optimiser steps an epoch of a study that trains in epochs.

        Raises:
            KanDiffusionError: The study does not train in epochs on a toy.
        """
        data = self.data[0]
        if self.training.batches != "epochs" or not isinstance(data, ToyData):
            raise KanDiffusionError(
                f"study '{self.name}' draws its batches with replacement and has no epochs; use "
                "--steps"
            )
        return math.ceil(data.num_points / self.training.batch_size)

    def pinned(self) -> Self:
        """The same study with the digests of its files filled in.

        Raises:
            DataError: A file cannot be used.
        """
        data = tuple(d.pinned() if isinstance(d, FileData) else d for d in self.data)
        return self.model_copy(update={"data": data})

    def to_yaml(self) -> str:
        """The study with every setting spelled out."""
        text: str = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, width=100)
        return text


def _parse(text: str, where: str) -> StudyConfig:
    try:
        return StudyConfig.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise KanDiffusionError(f"{where} is not YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        raise invalid_settings(error, where) from error


def read_study(path: Path) -> StudyConfig:
    """Reads a study file.

    Raises:
        KanDiffusionError: The file is missing, is not YAML or has a setting that is wrong.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise KanDiffusionError(f"study file '{path}' cannot be read: {error}") from error
    return _parse(text, f"study file '{path}'")


def preset_names() -> list[str]:
    """Names of the built-in studies."""
    folder = resources.files("kan_diffusion.study") / "presets"
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in folder.iterdir()
        if entry.name.endswith(".yaml")
    )


def read_preset(name: str) -> StudyConfig:
    """Reads a built-in study.

    Raises:
        KanDiffusionError: There is no such preset.
    """
    if name not in preset_names():
        raise unknown_name("study", name, preset_names())
    folder = resources.files("kan_diffusion.study") / "presets"
    return _parse((folder / f"{name}.yaml").read_text(), f"preset '{name}'")
