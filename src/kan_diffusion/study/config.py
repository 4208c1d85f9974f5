"""Studies and trials: data sets, models, seeds, and how they are trained and judged.

A study is a YAML file (``study/presets`` has the built-in ones); :class:`StudyConfig` validates it
and :meth:`StudyConfig.trials` lists its training runs. A trial's id is a hash of everything that
decides how its model is trained, so a trained one is recognised wherever it lies, and judged again
where another :class:`Judgement` is asked for.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Annotated, Self

import yaml
from pydantic import Field, ValidationInfo, field_validator, model_validator

from kan_diffusion import limits
from kan_diffusion.data.sources import DataConfig
from kan_diffusion.denoisers.families import Setting, get_family
from kan_diffusion.diffusion.sampling import SCHEDULERS, fitting_samplers
from kan_diffusion.errors import KanDiffusionError, require_known, valid_settings
from kan_diffusion.evaluation.effort import EffortName
from kan_diffusion.evaluation.metrics import metrics_named
from kan_diffusion.files import require_file
from kan_diffusion.imports import is_place
from kan_diffusion.processes import Process, get_process
from kan_diffusion.settings import Name, Settings
from kan_diffusion.study.budgets import USUAL_SIZE, Budget, Match
from kan_diffusion.training.config import OptimizerName, TrainingConfig

__all__ = [
    "EvaluationConfig",
    "Judgement",
    "ModelConfig",
    "SamplingConfig",
    "StudyConfig",
    "TrialConfig",
    "preset_names",
    "read_preset",
    "read_study",
]

logger = logging.getLogger(__name__)

_PRESETS = resources.files("kan_diffusion.study") / "presets"


def _hashed(settings: object) -> str:
    """Returns twelve hexadecimal digits of the hash of settings, as canonical JSON."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


class ModelConfig(Settings):
    """A denoiser of a study.

    One of ``params``, ``flops`` and ``hidden`` gives its size; where all are None, a budget of the
    study does.

    Attributes:
        family: Its family.
        name: Name of the model in tables and figures; the family's title when empty.
        params: Number of trainable parameters it is fitted to.
        flops: Operations of a forward pass it is fitted to, see :mod:`.budgets`.
        hidden: Widths of its hidden layers.
        depth: Number of hidden layers of a fitted model; the family's default when None.
        settings: Settings of the denoiser that differ from the family's.
        optimizer: Optimiser; the study's when None.
        learning_rate: Peak learning rate; when None the study's if it sets one, else the one that
            suits the family and the optimiser.
        steps: Number of optimiser steps; the study's when None.
        batch_size: Samples per step; the study's when None. Models with other batches than the
            rest see other draws of the same training data.
        conditions: Whether it is trained to draw columns given any of the others.
    """

    family: str
    name: Name = ""
    params: int | None = Field(None, ge=1, le=limits.MOST_PARAMETERS)
    flops: int | None = Field(None, ge=1, le=limits.MOST_OPERATIONS)
    hidden: tuple[Annotated[int, Field(ge=1, le=limits.MOST_PARAMETERS)], ...] | None = Field(
        None, max_length=limits.MOST_LAYERS
    )
    depth: int | None = Field(None, ge=1, le=limits.MOST_LAYERS)
    settings: dict[str, Setting] = Field(default_factory=dict)
    optimizer: OptimizerName | None = None
    learning_rate: float | None = Field(None, gt=0, allow_inf_nan=False)
    steps: int | None = Field(None, ge=1, le=limits.MOST_STEPS)
    batch_size: int | None = Field(None, ge=1, le=limits.MOST_POINTS)
    conditions: bool = False

    @model_validator(mode="after")
    def _known_and_sized(self) -> Self:
        family = get_family(self.family)
        if not self.name:
            object.__setattr__(self, "name", family.title)  # frozen, but still being built
        if len(self.size) > 1:
            raise KanDiffusionError(
                f"model '{self.name}' has {' and '.join(self.size)}; one of them is its size"
            )
        return self

    @property
    def size(self) -> dict[str, int | tuple[int, ...]]:
        """The size setting that is given, with its value; empty without one."""
        sizes = {key: getattr(self, key) for key in ("params", "flops", "hidden")}
        return {key: size for key, size in sizes.items() if size is not None}

    def resolved(self, training: TrainingConfig) -> Self:
        """Fills in the settings that its family decides, so that they are recorded.

        Args:
            training: Training settings of the study, which may set one learning rate for all.
        """
        family = get_family(self.family)
        rate = self.learning_rate
        if rate is None:
            of_study = "learning_rate" in training.model_fields_set
            rate = training.learning_rate if of_study else family.learning_rate
        fitted = self.depth is None and self.hidden is None
        return self.model_copy(
            update={
                "depth": family.depth if fitted else self.depth,
                # Lists in place of tuples, as in a file.
                "settings": json.loads(json.dumps({**family.settings, **self.settings})),
                "learning_rate": rate,
            }
        )


class SamplingConfig(Settings):
    """Settings of sampling from trained denoisers.

    Attributes:
        scheduler: Name of the sampler; the process's own when None.
        steps: Number of its steps.
        guidance: Strength of classifier-free guidance of the pictures whose content is read and
            scored; 1 is the plain conditional.
    """

    scheduler: str | None = None
    steps: int = Field(20, ge=1, le=limits.MOST_TIMESTEPS)
    guidance: float = Field(1.0, ge=0, le=limits.MOST_GUIDANCE)

    @field_validator("scheduler")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None:
            require_known("scheduler", name, SCHEDULERS)
        return name

    def resolved(self, process: Process) -> Self:
        """Fills in the name of the sampler.

        Args:
            process: Process to sample.

        Raises:
            KanDiffusionError: The sampler does not fit the process.
        """
        fitting = fitting_samplers(process)
        if self.scheduler is not None and self.scheduler not in fitting:
            raise KanDiffusionError(
                f"scheduler '{self.scheduler}' does not fit process '{process.name}'; choose one "
                f"of {', '.join(fitting)}"
            )
        return self.model_copy(update={"scheduler": self.scheduler or fitting[0]})


class EvaluationConfig(Settings):
    """Settings of the evaluation of trained denoisers.

    Attributes:
        num_noised: Number of noised points for loss, floor and excess.
        num_levels: Number of noise levels the excess is split into.
        num_samples: Number of generated and of fresh points for sample metrics; 0 for none.
        num_likelihood: Number of points whose likelihood is computed, fewer in many dimensions;
            0 for none.
        num_real_pairs: Number of pairs of fresh samples behind the real-against-real values.
        moments: Moments of training, as fractions of it, at which the first seed of every model
            records the reverse process; if there are any, it is recorded at the end, too.
        num_drawn: Number of samples that a figure shows.
        metrics: Your own sample metrics of points, in addition to `SAMPLE_METRICS`, each as
            ``"package.module:NAME"``.
        effort: ``"quick"`` limits these numbers, and what is computed from them, to a first look
            (:data:`~kan_diffusion.evaluation.effort.EFFORTS`).
    """

    num_noised: int = Field(20_000, ge=10, le=limits.MOST_POINTS)
    num_levels: int = Field(10, ge=1, le=1_000)
    num_samples: int = Field(5_000, ge=0, le=limits.MOST_POINTS)
    num_likelihood: int = Field(1_000, ge=0, le=limits.MOST_POINTS)
    num_real_pairs: int = Field(3, ge=1, le=1_000)
    moments: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        (0.0, 0.25, 0.5, 0.75), max_length=limits.MOST_MOMENTS
    )
    num_drawn: int = Field(1_000, ge=1, le=limits.MOST_POINTS)
    metrics: tuple[str, ...] = ()
    effort: EffortName = "full"

    @field_validator("metrics")
    @classmethod
    def _require_metrics(cls, metrics: tuple[str, ...]) -> tuple[str, ...]:
        metrics_named(metrics)
        return metrics

    def limited(self, quick: Mapping[str, int]) -> Self:
        """The evaluation with the numbers that its effort leaves.

        Args:
            quick: Most of what a first look takes, by the settings that ask for a number of it.
        """
        if self.effort == "full":
            return self
        fewer = {name: min(number, getattr(self, name)) for name, number in quick.items()}
        return self.model_copy(update=fewer)


class Judgement(Settings):
    """How a trained model is judged, of which nothing is part of a trial's identity.

    Attributes:
        sampling: Sampling.
        evaluation: Evaluation, without moments of training.
        versions: Versions of the metrics, by key.
    """

    sampling: SamplingConfig
    evaluation: EvaluationConfig
    versions: dict[str, int]

    @property
    def id(self) -> str:
        """Twelve hexadecimal digits of a hash, which name the files of the judgement."""
        return _hashed(self.model_dump(mode="json"))

    def answers(self, asked: Self) -> bool:
        """Whether it says all that another would: it is the same, or has more effort or metrics."""
        more: dict[str, object] = {"effort": "full", "metrics": ()}
        mine, theirs = (each.evaluation.model_copy(update=more) for each in (self, asked))
        enough = self.evaluation.effort == "full" or asked.evaluation.effort == "quick"
        known = asked.versions.items() <= self.versions.items()
        return (self.sampling, mine) == (asked.sampling, theirs) and enough and known


class TrialConfig(Settings):
    """One training run, and how its model is judged.

    Attributes:
        study_seed: Seed of all draws of its study.
        seed: Number of the training run.
        match: Resource its study holds equal between models; None where they have their own sizes.
        budget: Amount of this resource.
    """

    study_seed: int
    seed: int
    match: Match | None = None
    budget: float | None = None
    data: DataConfig
    process: Process
    model: ModelConfig
    training: TrainingConfig
    sampling: SamplingConfig
    evaluation: EvaluationConfig

    @property
    def identity(self) -> str:
        """The settings that decide the outcome of training, as canonical JSON."""
        settings = self.model_dump(mode="json", exclude={"sampling", "evaluation"})
        settings["data"] = self.data.identity()
        for key in ("optimizer", "batch_size"):  # those of the training count
            del settings["model"][key]
        return json.dumps(settings, sort_keys=True)

    @property
    def judgement(self) -> Judgement:
        """How its model is judged, with the metrics as they are now.

        Raises:
            KanDiffusionError: A metric is not imported.
        """
        metrics = metrics_named(self.evaluation.metrics)
        return Judgement(
            sampling=self.sampling,
            evaluation=self.evaluation.model_copy(update={"moments": ()}),
            versions={key: metric.version for key, metric in metrics.items()},
        )

    @property
    def judging(self) -> EvaluationConfig:
        """How its model is judged: the evaluation with the numbers that its effort leaves."""
        return self.evaluation.limited(self.data.quick)

    @property
    def id(self) -> str:
        """Twelve hexadecimal digits of the hash of :attr:`identity`."""
        return _hashed(json.loads(self.identity))

    def import_own(self) -> None:
        """Imports the modules of a user's own family and metrics.

        Raises:
            KanDiffusionError: One of them cannot be imported.
        """
        get_family(self.model.family, importing=True)
        metrics_named(self.evaluation.metrics, importing=True)

    @property
    def keys(self) -> dict[str, str | int | float | None]:
        """The entries of the trial's row of results that are known before it runs."""
        return {
            "data": self.data.name,
            "process": self.process.name,
            "match": self.match,
            "budget": self.budget,
            "family": self.model.family,
            "kind": get_family(self.model.family).kind,
            "name": self.model.name,
            "seed": self.seed,
            "trial": self.id,
        }

    @property
    def label(self) -> str:
        """The trial's name in progress and errors."""
        return f"{self.data.name} · {self.model.name} · seed {self.seed}"


class StudyConfig(Settings):
    """A set of trials and the comparison drawn from them.

    Attributes:
        name: Name of the study, and of its run folder by default.
        title: Title of the report.
        question: The question the report answers.
        seed: Seed of all draws of the study.
        seeds: Number of training runs per model, each with its own data, noise and initial
            parameters; the data and the noise of a seed are the same for all models.
        data: Data sets; models are compared within each.
        process: Noising process; in YAML a name, or the settings of one.
        training: Settings of the training.
        models: Denoisers.
        budget: Resource held equal between the denoisers; None where each sets its own size.
        unfit: Names of the models that cannot be built on a data set, by its name; they are left
            out there. Filled in when the study starts.
        sampling: Settings of the sampler.
        evaluation: Settings of the evaluation.
    """

    name: Annotated[Name, Field(min_length=1)]
    title: str
    question: str = ""
    seed: int = 0
    seeds: int = Field(3, ge=1, le=limits.MOST_TRIALS)
    data: tuple[DataConfig, ...] = Field(min_length=1)
    process: Process = Field(default_factory=lambda: get_process("cosine"))
    training: TrainingConfig = TrainingConfig()
    models: tuple[ModelConfig, ...] = Field(min_length=1)
    budget: Budget | None = None
    unfit: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    sampling: SamplingConfig = SamplingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @field_validator("process", mode="before")
    @classmethod
    def _named_process(cls, given: object) -> object:
        return get_process(given) if isinstance(given, str) else given

    @field_validator("process", "budget", mode="before")
    @classmethod
    def _require_one(cls, given: object, info: ValidationInfo) -> object:
        if isinstance(given, list | tuple):
            raise KanDiffusionError(
                f"a study has one {info.field_name}, not {len(given)}; write a file for each"
            )
        return given

    @model_validator(mode="after")
    def _require_distinct_names(self) -> Self:
        for kind, named in (("models", self.models), ("data sets", self.data)):
            for name, count in Counter(each.name for each in named).items():
                if count > 1:
                    raise KanDiffusionError(f"two {kind} are called '{name}'; rename one")
        self.sampling.resolved(self.process)
        planned = self.seeds * len(self.data) * len(self.models)
        if planned > limits.MOST_PLANNED:
            raise KanDiffusionError(
                f"a study has at most {limits.MOST_PLANNED:,} trials, not {planned:,} (seeds times "
                "data sets and models); split it"
            )
        return self

    @model_validator(mode="after")
    def _require_sizes(self) -> Self:
        given = self.budget.size if self.budget else {}
        free = self.budget is not None and self.budget.match == "time"
        for model in self.models:
            if not (model.size or given or free):
                raise KanDiffusionError(
                    f"model '{model.name}' needs either params or hidden widths, or a budget "
                    "with a size"
                )
            if model.size and given:
                raise KanDiffusionError(
                    f"model '{model.name}' has a size of its own ({next(iter(model.size))}) "
                    "and the budget gives it another; leave one out"
                )
        return self

    def trials(self) -> list[TrialConfig]:
        """Lists the trials, ordered by seed, data set and model."""
        budget, models = self.budget, self._resolved().models
        size = budget.size or {"params": USUAL_SIZE} if budget else {}
        timed = {"processor_seconds": budget.amount} if budget and budget.match == "time" else {}
        trials = []
        for seed, data, model in product(range(self.seeds), self.data, models):
            if model.name in self.unfit.get(data.name, ()):
                continue
            own = {key: getattr(model, key) for key in ("steps", "batch_size", "optimizer")}
            training = {key: value for key, value in own.items() if value is not None}
            training |= {"learning_rate": model.learning_rate, **timed}
            trial = TrialConfig(
                study_seed=self.seed,
                seed=seed,
                match=budget.match if budget else None,
                budget=budget.amount if budget else None,
                data=data,
                process=self.process,
                model=model if model.size else model.model_copy(update=size),
                training=self.training.model_copy(update=training),
                sampling=self.sampling.resolved(self.process),
                evaluation=self.evaluation.model_copy(update={"moments": ()} if seed else {}),
            )
            trials.append(trial)
        return trials

    def with_families(self, families: Sequence[str]) -> Self:
        """Keeps only the models of some families.

        Raises:
            KanDiffusionError: A family is unknown, or the study has no model of it.
        """
        known = sorted({model.family for model in self.models})
        for family in families:
            if family not in known:
                if not is_place(family):  # a name that no family has is unknown
                    get_family(family)
                raise KanDiffusionError(
                    f"study '{self.name}' has no model of family '{family}'; it has "
                    + ", ".join(known)
                )
        kept = tuple(model for model in self.models if model.family in families)
        return self.model_copy(update={"models": kept})

    def with_data(self, names: Sequence[str]) -> Self:
        """Keeps only some data sets.

        Raises:
            KanDiffusionError: The study has no data set of a name.
        """
        known = {data.name: data for data in self.data}
        for name in names:
            require_known(f"data set of study '{self.name}'", name, known)
        return self.model_copy(update={"data": tuple(known[name] for name in dict.fromkeys(names))})

    def with_steps(self, steps: int) -> Self:
        """Sets the number of training steps, and warns of trials that it is not for.

        Raises:
            KanDiffusionError: It is below 1 or too large.
        """
        if not 1 <= steps <= limits.MOST_STEPS:
            raise KanDiffusionError(
                f"training needs at least 1 step and at most {limits.MOST_STEPS:,}, not {steps:,}; "
                "change steps"
            )
        own = [f"model '{model.name}' has its own" for model in self.models if model.steps]
        if self.budget and self.budget.match == "time":
            own.insert(0, "a budget of time settles their number itself")
        if own:
            logger.warning("steps are not for all trials: %s", "; ".join(own))
        training = self.training.model_copy(update={"steps": steps})
        return self.model_copy(update={"training": training})

    def pinned(self) -> Self:
        """Fills in the digests of its files and the settings of its families.

        Raises:
            DataError: A file or folder cannot be used.
        """
        data = tuple(source.pinned() for source in self.data)
        return self._resolved().model_copy(update={"data": data})

    def _resolved(self) -> Self:
        models = tuple(model.resolved(self.training) for model in self.models)
        return self.model_copy(update={"models": models})

    def to_yaml(self) -> str:
        """Writes the study with every setting spelled out."""
        settings = self._resolved().model_dump(mode="json")
        return str(yaml.safe_dump(settings, sort_keys=False, width=100))


def _require_size(settings: object, where: str) -> None:
    """Refuses a file whose YAML aliases expand to too many settings."""
    waiting = [settings]
    for count, value in enumerate(waiting):  # grows as it goes
        if count == limits.MOST_ENTRIES:
            raise KanDiffusionError(
                f"{where} spells out to more than {limits.MOST_ENTRIES:,} settings; use fewer "
                "aliases"
            )
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, int) and value.bit_length() > 64:
            raise KanDiffusionError(f"{where} has a number of more than 64 bits; lower it")


class _Loader(yaml.SafeLoader):
    """Refuses keys that stand twice, of which YAML's reader keeps the last, and merge keys.

    A few merge keys, one in another, make a mapping of any length.
    """

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        names: set[str] = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                raise yaml.YAMLError("it has a merge key, '<<'; write its settings out")
            if isinstance(key, yaml.ScalarNode) and key.value in names:
                line = key.start_mark.line + 1
                raise yaml.YAMLError(f"'{key.value}' stands twice, again in line {line}; keep one")
            names.add(str(key.value))
        super().flatten_mapping(node)


def _parse(text: str, where: str, importing: bool = False) -> StudyConfig:
    try:
        settings = yaml.load(text, _Loader)  # it is a SafeLoader
    except Exception as error:  # the readers of its types raise errors of many kinds
        raise KanDiffusionError(f"{where} is not YAML: {error or type(error).__name__}") from error
    _require_size(settings, where)
    with valid_settings(where):
        if importing:
            _import_own(settings)
        return StudyConfig.model_validate(settings)


def _import_own(settings: object) -> None:
    """Imports the modules of a user's own families and metrics that a study names."""
    match settings:
        case {"models": list(models)}:
            for model in models:
                match model:
                    case {"family": str(name)} if is_place(name):
                        get_family(name, importing=True)
    match settings:
        case {"evaluation": {"metrics": list(places)}}:
            metrics_named([str(place) for place in places], importing=True)


def read_study(path: Path, *, importing: bool = False) -> StudyConfig:
    """Reads a study file.

    Args:
        path: The file.
        importing: Whether to import the modules of the families and metrics that it names, as for a
            file that the user gave; if not, they must be imported already.

    Raises:
        KanDiffusionError: The file is missing, is not YAML or has a wrong setting.
    """
    try:
        require_file(path, limits.MOST_STUDY_BYTES)
        text = path.read_text("utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise KanDiffusionError(
            f"study file '{path}' cannot be read: {reason}; give another"
        ) from error
    return _parse(text, f"study file '{path}'", importing)


def preset_names() -> list[str]:
    """Lists the names of the built-in studies."""
    files = (Path(entry.name) for entry in _PRESETS.iterdir())
    return sorted(file.stem for file in files if file.suffix == ".yaml")


def read_preset(name: str) -> StudyConfig:
    """Reads a built-in study.

    Raises:
        KanDiffusionError: There is no such preset.
    """
    require_known("study", name, preset_names())
    return _parse((_PRESETS / f"{name}.yaml").read_text(), f"preset '{name}'")
