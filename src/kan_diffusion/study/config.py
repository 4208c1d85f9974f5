"""Studies and trials: data sets, models, seeds, and how they are trained and judged.

A study is a YAML file (``study/presets`` has the built-in ones); :class:`StudyConfig` validates it
and :meth:`StudyConfig.trials` lists its training runs. A trial's id is a hash of everything that
decides how its model is trained, so a trained one is recognised wherever it lies, and judged again
where another :class:`Judgement` is asked for.

A :class:`Budget` is a resource held equal between the models of a study:

- ``params``: trainable parameters;
- ``flops``: floating-point operations of a forward pass for one point, as this package computes it,
  with one evaluation of the basis per input;
- ``time``: seconds of processor time for training, on one thread.

The widths of the hidden layers are chosen to meet the first two within 2 %. A budget of time is
met by the number of steps, which each trial determines by its own clock. The size of a model is
then given with the budget, found by a search (:mod:`.tuning`), or :data:`USUAL_SIZE`. The row of a
trial says what it really used.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import Field, ValidationInfo, field_validator, model_validator

from kan_diffusion import limits
from kan_diffusion.data.sources import DataConfig
from kan_diffusion.denoisers.families import Setting, get_family
from kan_diffusion.diffusion.sampling import fitting_samplers
from kan_diffusion.errors import KanDiffusionError, require_known, valid_settings
from kan_diffusion.evaluation.effort import EffortName
from kan_diffusion.evaluation.metrics import metrics_named
from kan_diffusion.files import require_file
from kan_diffusion.processes import Process, get_process
from kan_diffusion.settings import FolderName, Name, SampleSize, Settings
from kan_diffusion.training.config import OptimizerName, TrainingConfig

logger = logging.getLogger(__name__)

Match = Literal["params", "flops", "time"]
MATCHES: Mapping[Match, int] = {
    "params": limits.MOST_PARAMETERS,
    "flops": limits.MOST_OPERATIONS,
    "time": limits.MOST_SECONDS,
}
"""The resources that can be held equal, with the largest amount of each."""

SIZES = (1_100, 2_300, 5_600, 12_000, 28_000)
"""Numbers of parameters that a search chooses from where a budget of time leaves the size free."""

USUAL_SIZE = 2_300
"""Number of parameters where nothing gives one; the settings of families were found for it."""

_PRESETS = Path(__file__).parent / "presets"
_OF_TRAINING = {"steps", "batch_size", "optimizer", "learning_rate"}  # that a model may set


def _hashed(settings: object) -> str:
    """Returns twelve hexadecimal digits of the hash of settings, as canonical JSON."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


_Size = Annotated[int, Field(ge=1, le=limits.MOST_PARAMETERS)]


class Budget(Settings):
    """An amount of a resource that all models get."""

    match: Match = "params"
    """Resource held equal."""
    amount: float = Field(gt=0, allow_inf_nan=False)
    """Number of parameters, operations, or seconds."""
    params: _Size | None = None
    """With ``time``, the number of parameters of models that have no size of their own; None leaves
    the size to a search, or to :data:`USUAL_SIZE`."""

    @model_validator(mode="after")
    def _whole_and_sized(self) -> Self:
        if self.amount > (most := MATCHES[self.match]):
            raise KanDiffusionError(f"a budget of {self.match} is at most {most:,}; lower it")
        if self.match != "time" and (self.params is not None or self.amount % 1):
            raise KanDiffusionError(
                f"a budget of {self.match} is a whole number, with no params beside it"
            )
        return self

    @property
    def size(self) -> dict[str, int]:
        """The size it gives to a model without its own size, as settings of the model."""
        if self.match == "time":
            return {} if self.params is None else {"params": self.params}
        return {self.match: int(self.amount)}


class ModelConfig(Settings):
    """A denoiser of a study.

    One of ``params``, ``flops`` and ``hidden`` gives its size; where all are None, a budget of the
    study does.
    """

    family: str
    """Its family."""
    name: Name = ""
    """Name of the model in tables and figures; the family's title when empty."""
    params: _Size | None = None
    """Number of trainable parameters it is fitted to."""
    flops: int | None = Field(None, ge=1, le=limits.MOST_OPERATIONS)
    """Operations of a forward pass it is fitted to."""
    hidden: tuple[_Size, ...] | None = Field(None, max_length=limits.MOST_LAYERS)
    """Widths of its hidden layers."""
    depth: int | None = Field(None, ge=1, le=limits.MOST_LAYERS)
    """Number of hidden layers of a fitted model; the family's default when None."""
    settings: dict[str, Setting] = Field(default_factory=dict)
    """Settings of the denoiser that differ from the family's."""
    optimizer: OptimizerName | None = None
    """Optimiser; the study's when None."""
    learning_rate: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Peak learning rate; when None the study's if it sets one, else the one that suits the family
    and the optimiser."""
    steps: int | None = Field(None, ge=1, le=limits.MOST_STEPS)
    """Number of optimiser steps; the study's when None."""
    batch_size: int | None = Field(None, ge=1, le=limits.MOST_POINTS)
    """Samples per step; the study's when None. Models with other batches than the rest see other
    draws of the same training data."""
    conditions: bool = False
    """Whether it is trained to draw columns given any of the others."""

    @model_validator(mode="after")
    def _known_and_sized(self, info: ValidationInfo) -> Self:
        family = get_family(self.family, importing=bool(info.context))
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
        family, rate = get_family(self.family), self.learning_rate
        if rate is None:
            of_study = "learning_rate" in training.model_fields_set
            rate = training.learning_rate if of_study else family.learning_rate
        return self.model_copy(
            update={
                "depth": family.depth if self.depth is self.hidden is None else self.depth,
                # Lists in place of tuples, as in a file.
                "settings": json.loads(json.dumps({**family.settings, **self.settings})),
                "learning_rate": rate,
            }
        )


class SamplingConfig(Settings):
    """Settings of sampling from trained denoisers."""

    scheduler: str | None = None
    """Name of the sampler; the process's own when None."""
    steps: int = Field(20, ge=1, le=limits.MOST_TIMESTEPS)
    """Number of its steps."""
    guidance: float = Field(1.0, ge=0, le=limits.MOST_GUIDANCE)
    """Strength of classifier-free guidance of the pictures whose content is read and scored; 1 is
    the plain conditional."""

    def resolved(self, process: Process) -> Self:
        """Fills in the name of the sampler.

        Args:
            process: Process to sample.

        Raises:
            KanDiffusionError: There is no such sampler of the process.
        """
        fitting = fitting_samplers(process)
        scheduler = fitting[0] if self.scheduler is None else self.scheduler
        require_known(f"scheduler of process '{process.name}'", scheduler, fitting)
        return self.model_copy(update={"scheduler": scheduler})


class EvaluationConfig(Settings):
    """Settings of the evaluation of trained denoisers."""

    num_noised: int = Field(20_000, ge=10, le=limits.MOST_POINTS)
    """Number of noised points for loss, floor and excess."""
    num_levels: int = Field(10, ge=1, le=1_000)
    """Number of noise levels the excess is split into."""
    num_samples: SampleSize = 5_000
    """Number of generated and of fresh points for sample metrics; 0 for none."""
    num_likelihood: int = Field(1_000, ge=0, le=limits.MOST_POINTS)
    """Number of points whose likelihood is computed, fewer in many dimensions; 0 for none."""
    num_real_pairs: int = Field(3, ge=1, le=1_000)
    """Number of pairs of fresh samples behind the real-against-real values."""
    moments: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        (0.0, 0.25, 0.5, 0.75), max_length=limits.MOST_MOMENTS
    )
    """Moments of training, as fractions of it, at which the first seed of every model records the
    reverse process; if there are any, it is recorded at the end, too."""
    num_drawn: int = Field(1_000, ge=1, le=limits.MOST_POINTS)
    """Number of samples that a figure shows."""
    metrics: tuple[str, ...] = ()
    """Your own sample metrics of points, in addition to `SAMPLE_METRICS`, each as
    ``"package.module:NAME"``."""
    effort: EffortName = "full"
    """``"quick"`` limits these numbers, and what is computed from them, to a first look
    (:data:`~kan_diffusion.evaluation.effort.EFFORTS`)."""

    @field_validator("metrics")
    @classmethod
    def _require_metrics(cls, metrics: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        metrics_named(metrics, importing=bool(info.context))
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
    """How a trained model is judged, of which nothing is part of a trial's identity."""

    sampling: SamplingConfig
    """Sampling."""
    evaluation: EvaluationConfig
    """Evaluation, without moments of training."""
    versions: dict[str, int]
    """Versions of the metrics, by key."""

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
    """One training run, and how its model is judged."""

    study_seed: int
    """Seed of all draws of its study."""
    seed: int
    """Number of the training run."""
    match: Match | None = None
    """Resource its study holds equal between models; None where they have their own sizes."""
    budget: float | None = None
    """Amount of this resource."""
    data: DataConfig
    process: Process
    model: ModelConfig
    training: TrainingConfig
    sampling: SamplingConfig
    evaluation: EvaluationConfig

    def decisive(self) -> dict[str, object]:
        """Returns the settings that decide the outcome of training, as values of JSON."""
        settings = self.model_dump(mode="json", exclude={"sampling", "evaluation"})
        settings["data"] = self.data.identity()
        for key in ("optimizer", "batch_size"):  # those of the training count
            del settings["model"][key]
        return settings

    @property
    def id(self) -> str:
        """Twelve hexadecimal digits of the hash of the settings that :meth:`decisive` returns."""
        return _hashed(self.decisive())

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
        """The evaluation with the numbers that its effort leaves, without moments of training."""
        return self.evaluation.model_copy(update={"moments": ()}).limited(self.data.quick)

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
    """A set of trials and the comparison drawn from them."""

    name: Annotated[FolderName, Field(min_length=1)]
    """Name of the study, and of its run folder by default."""
    title: str
    """Title of the report."""
    question: str = ""
    """The question the report answers."""
    seed: int = 0
    """Seed of all draws of the study."""
    seeds: int = Field(3, ge=1, le=limits.MOST_TRIALS)
    """Number of training runs per model, each with its own data, noise and initial parameters; the
    data and the noise of a seed are the same for all models."""
    data: tuple[DataConfig, ...] = Field(min_length=1)
    """Data sets; models are compared within each."""
    process: Process = Field(default_factory=lambda: get_process("cosine"))
    """Noising process; in YAML a name, or the settings of one."""
    training: TrainingConfig = TrainingConfig()
    """Settings of the training."""
    models: tuple[ModelConfig, ...] = Field(min_length=1)
    """Denoisers."""
    budget: Budget | None = None
    """Resource held equal between the denoisers; None where each sets its own size."""
    unfit: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Names of the models that are left out on a data set, by its name. Those that cannot be built
    on it are added when the study starts."""
    sampling: SamplingConfig = SamplingConfig()
    """Settings of the sampler."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Settings of the evaluation."""

    @field_validator("process", "budget", mode="before")
    @classmethod
    def _one_or_its_name(cls, given: object, info: ValidationInfo) -> object:
        if isinstance(given, list | tuple):
            raise KanDiffusionError(
                f"a study has one {info.field_name}, not {len(given)}; write a file for each"
            )
        return get_process(given) if isinstance(given, str) else given

    @model_validator(mode="after")
    def _distinct_and_sized(self) -> Self:
        """Checks that names differ, trials are not too many, and each model has one size."""
        for kind, named in (("models", self.models), ("data sets", self.data)):
            (name, count), *_ = Counter(each.name for each in named).most_common()
            if count > 1:
                raise KanDiffusionError(f"two {kind} are called '{name}'; rename one")
        self.sampling.resolved(self.process)
        planned = self.seeds * len(self.data) * len(self.models)
        if planned > limits.MOST_PLANNED:
            raise KanDiffusionError(
                f"a study has at most {limits.MOST_PLANNED:,} trials, not {planned:,} (seeds times "
                "data sets and models); split it"
            )
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
            own = model.model_dump(include=_OF_TRAINING, exclude_none=True)
            trial = TrialConfig(
                study_seed=self.seed,
                seed=seed,
                match=budget.match if budget else None,
                budget=budget.amount if budget else None,
                data=data,
                process=self.process,
                model=model if model.size else model.model_copy(update=size),
                training=self.training.model_copy(update=own | timed),
                sampling=self.sampling.resolved(self.process),
                evaluation=self.evaluation.model_copy(update={"moments": ()} if seed else {}),
            )
            trials.append(trial)
        return trials

    def only(
        self, *, families: Sequence[str] | None = None, data: Sequence[str] | None = None
    ) -> Self:
        """Keeps only the models of some families, and some data sets; all where none is given.

        Raises:
            KanDiffusionError: The study has no model of a family, or no data set of a name.
        """
        for kind, names, known in (
            ("family", families, {model.family for model in self.models}),
            ("data set", data, {source.name for source in self.data}),
        ):
            for name in names or ():
                require_known(f"{kind} of study '{self.name}'", name, known)
        models = tuple(m for m in self.models if not families or m.family in families)
        sources = tuple(d for d in self.data if not data or d.name in data)
        return self.model_copy(update={"models": models, "data": sources})

    def with_steps(self, steps: int) -> Self:
        """Sets the number of training steps, and warns of trials that it is not for.

        Raises:
            KanDiffusionError: It is below 1 or too large.
        """
        with valid_settings("training"):
            training = TrainingConfig.model_validate(
                {**self.training.model_dump(exclude_unset=True), "steps": steps}
            )
        own = [f"model '{model.name}' has its own" for model in self.models if model.steps]
        if self.budget and self.budget.match == "time":
            own.insert(0, "a budget of time settles their number itself")
        if own:
            logger.warning("steps are not for all trials: %s", "; ".join(own))
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


class _Loader(yaml.SafeLoader):
    """Refuses aliases, a few of which spell out to any size, long numbers, and keys that repeat.

    YAML's own reader keeps the last of keys that stand twice.
    """

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("anchors are not read, and it has an alias '*'; write it out")
        node = super().compose_node(parent, index)
        if isinstance(node, yaml.ScalarNode) and node.tag.endswith(":int") and node.value[20:]:
            raise yaml.YAMLError("it has a number of more than 20 digits; lower it")
        if isinstance(node, yaml.MappingNode):
            for key, count in Counter(str(key.value) for key, _ in node.value).items():
                if count > 1:
                    raise yaml.YAMLError(f"'{key}' stands twice; keep one")
        return node


def read_study(path: Path, *, importing: bool = False) -> StudyConfig:
    """Reads a study file.

    Args:
        path: The file.
        importing: Whether to import the modules of the families and metrics that it names, as for a
            file that the user gave; if not, they must be imported already.

    Raises:
        KanDiffusionError: The file is missing, is not YAML or has a wrong setting.
    """
    where = f"study file '{path}'"
    try:
        require_file(path, limits.MOST_STUDY_BYTES)
        text = path.read_text("utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise KanDiffusionError(f"{where} cannot be read: {reason}; give another") from error
    try:
        settings = yaml.load(text, _Loader)  # it is a SafeLoader
    except Exception as error:  # the readers of its types raise errors of many kinds
        raise KanDiffusionError(f"{where} is not YAML: {error or type(error).__name__}") from error
    with valid_settings(where):
        # What is validated within asks its context whether modules are imported.
        study = StudyConfig.model_validate(settings or {}, context=importing)
        for data, names in study.unfit.items():
            require_known("data set", data, [source.name for source in study.data])
            for name in names:
                require_known("model", name, [model.name for model in study.models])
    return study


def preset_names() -> list[str]:
    """Lists the names of the built-in studies."""
    return sorted(path.stem for path in _PRESETS.glob("*.yaml"))


def read_preset(name: str) -> StudyConfig:
    """Reads a built-in study.

    Raises:
        KanDiffusionError: There is no such preset.
    """
    require_known("study", name, preset_names())
    return read_study(_PRESETS / f"{name}.yaml")
