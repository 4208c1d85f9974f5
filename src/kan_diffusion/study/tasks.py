r"""Tasks: how models of some kind of data are suggested, built, judged and drawn from.

:class:`Task` is the task of points. A wing has its own, a subclass that overrides what differs, and
its sources name it (:mod:`kan_diffusion.data.sources`). Studies call these verbs, and ask no data,
data set or pipeline what kind it is.

All models of a comparison are judged with one :class:`Reference`: the same noised points, and the
scores that real points reach against real points.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import ClassVar, Generic, Literal, TypeVar, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from kan_diffusion.data.datasets import Dataset
from kan_diffusion.data.frames import TextForm, write_frame
from kan_diffusion.data.sources import Source
from kan_diffusion.denoisers.base import Denoiser
from kan_diffusion.denoisers.families import FAMILIES, Family, Setting, build_denoiser, get_family
from kan_diffusion.diffusion.likelihood import first_noise, log_likelihood
from kan_diffusion.diffusion.sampling import (
    PointDiffusionPipeline,
    SamplePipeline,
    make_scheduler,
)
from kan_diffusion.errors import DataError, KanDiffusionError
from kan_diffusion.evaluation.denoising import NoisedPoints, draw_noised_points, measure_denoising
from kan_diffusion.evaluation.diagnostics import Distinction
from kan_diffusion.evaluation.effort import EFFORTS
from kan_diffusion.evaluation.metrics import (
    Measure,
    Metric,
    c2st,
    metrics_named,
    real_against_real,
    sample_metrics,
)
from kan_diffusion.files import finite
from kan_diffusion.imports import own_class
from kan_diffusion.processes import Process
from kan_diffusion.randomness import numpy_generator, torch_generator
from kan_diffusion.study.config import USUAL_SIZE, EvaluationConfig, SamplingConfig, TrialConfig
from kan_diffusion.study.folder import Judged, Row
from kan_diffusion.training.config import TrainingConfig

_LIKELIHOOD_NUMBERS = 4096
"""Largest number of coordinates, over all points, whose likelihood is computed."""

_LACKS = {"fill": "fills no gaps; only models of tables do"}
"""What is said of a model that does not take some of what is asked, where that needs words."""

DatasetT = TypeVar("DatasetT", bound=Dataset)
PipelineT = TypeVar("PipelineT", bound=SamplePipeline)


@dataclass(frozen=True)
class Defaults:
    """Settings that suit a data set, for one model or a comparison, where a user gives none.

    Attributes:
        training: Training.
        params: Number of trainable parameters; None for what a budget of parameters suits.
        at_most: Whether ``params`` is an upper bound, under which a nearest size is taken.
        depth: Number of hidden layers; the family's own when None.
        settings: Settings of the denoisers, each of the families that have it.
        conditions: Whether the denoiser is trained to draw columns given any others.
        sampling: Sampling.
        evaluation: Numbers that judge a model.
        families: Families that are compared.
        seeds: Number of trials of each.
    """

    training: TrainingConfig
    params: int | None = None
    at_most: bool = True
    depth: int | None = None
    settings: Mapping[str, Setting] = field(default_factory=dict)
    conditions: bool = False
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    families: Sequence[str] = ()
    seeds: int = 1


@dataclass(frozen=True)
class Reference:
    """Points and values of real points that all denoisers of a comparison are measured with.

    Attributes:
        draw: Noised points with their posterior means.
        real: Real-against-real value of every sample metric; empty where none is asked for.
        likely: Clean points (n, d) with the first timestep's noise added, whose likelihood is
            computed; none where it is not.
        nll: Exact mean negative log-density of these points; None where the density is not known.
    """

    draw: NoisedPoints
    real: Mapping[str, float] = field(default_factory=dict)
    likely: Tensor = field(default_factory=lambda: torch.empty(0))
    nll: float | None = None


@dataclass(frozen=True)
class Asked:
    """What a user asks a model for, beside a number of samples; each task takes some of it.

    Attributes:
        prompts: Prompts of pictures.
        classes: Names of classes of pictures, which are asked for like prompts.
        guidance: Strength of guidance of pictures.
        where: Conditions of rows, such as ``species=setosa``.
        like: A file of rows with some of the columns; the others are drawn for each.
        max_seconds: How long to look for rows that meet conditions; the usual number of draws when
            None.
        fill: A file of rows whose gaps are filled.
        fillings: How often each of them is.
    """

    prompts: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    guidance: float | None = None
    where: tuple[str, ...] = ()
    like: Path | None = None
    max_seconds: float | None = None
    fill: Path | None = None
    fillings: int | None = None

    @property
    def requests(self) -> list[str]:
        """Prompts, then classes."""
        return [*self.prompts, *self.classes]


NOTHING_ASKED = Asked()


@dataclass(frozen=True)
class Drawn:
    """Samples that were drawn, ready to be written.

    Attributes:
        words: How many there are, such as ``1,000 rows``.
        write: Writes them to a file or folder, whole or not at all.
    """

    words: str
    write: Callable[[Path], object]


class Task(Generic[DatasetT, PipelineT]):
    """The task of points: a wing's overrides what differs, for its data sets and pipelines.

    Attributes:
        noun: What a sample is called, in the plural.
        takes: What a user may ask a model for, of the attributes of :class:`Asked`.
        file: Where samples are written in a run's folder unless the user says.
        num: How many are drawn unless the user says.
        pipeline_class: Pipeline of trained models.
        families: All families that can be compared, by name.
        family: Family of a denoiser unless the user says.
        process: Noising process unless the user says.
        quick_seconds: Seconds of training for a first look; None where it is as long as any.
        measures: Measures of drawn samples that are in rows of results, instead of sample metrics.
    """

    noun: ClassVar[str] = "points"
    takes: ClassVar[Sequence[str]] = ()
    file: ClassVar[str] = "samples.csv"
    num: ClassVar[int] = 1000
    pipeline_class: ClassVar[type[SamplePipeline]] = PointDiffusionPipeline
    families: ClassVar[Mapping[str, Family]] = FAMILIES
    family: ClassVar[str] = "kan"
    process: ClassVar[str] = "cosine"
    quick_seconds: ClassVar[float | None] = None
    measures: ClassVar[Mapping[str, Measure]] = {}

    def suggest(
        self,
        dataset: DatasetT,
        process: Process,
        family: str | None = None,
        params: int | None = None,
    ) -> Defaults:
        """Suggests how to train one model, or to compare several.

        Args:
            dataset: The data set.
            process: The noising process.
            family: Name of the family of one model; None for a comparison. Twenty trials of its
                length are as much work as the default study, and can reach p < 0.05.
            params: Number of parameters if it is given.
        """
        if family is None:
            return Defaults(TrainingConfig(steps=1500), families=("kan", "mlp"), seeds=10)
        training = TrainingConfig(learning_rate=get_family(family).learning_rate)
        return Defaults(training, params or USUAL_SIZE)

    def build(self, config: TrialConfig, dataset: DatasetT, *, at_most: bool = False) -> Denoiser:
        """Builds a trial's untrained denoiser; its size may be ``at_most`` a limit.

        Raises:
            KanDiffusionError: The denoiser cannot be built, or not in this size.
        """
        model = config.model
        return build_denoiser(
            model.family,
            dataset.shape,
            num_train_timesteps=config.process.num_timesteps,
            params=model.params,
            flops=model.flops,
            hidden=model.hidden,
            depth=model.depth,
            observable=model.conditions,
            settings=model.settings,
            at_most=at_most,
            generator=torch_generator("parameters", config.study_seed, config.seed, model.name),
        )

    def conditions(
        self, denoiser: Denoiser, dataset: DatasetT, rows: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Returns the conditions of training samples, or of held-out ``rows`` (n,), by name."""
        return {}

    def pipeline(self, config: TrialConfig, dataset: DatasetT, denoiser: Denoiser) -> PipelineT:
        """Makes the pipeline of a trained denoiser."""
        return PointDiffusionPipeline(
            denoiser,
            config.process,
            dataset.standardizer.mean,
            dataset.standardizer.scale,
            dataset.columns,
            make_scheduler(config.sampling.scheduler, config.process),
        )

    def points(self, pipeline: PipelineT) -> PointDiffusionPipeline:
        """Returns the pipeline of a model whose samples are points.

        Raises:
            KanDiffusionError: Its samples are no points.
        """
        assert isinstance(pipeline, PointDiffusionPipeline)
        return pipeline

    def reference(
        self,
        dataset: DatasetT,
        process: Process,
        evaluation: EvaluationConfig,
        study_seed: int,
        seed: int = 0,
    ) -> Reference:
        """Draws the samples that all trials of a study on a data set are measured with.

        Args:
            dataset: The data set.
            process: Noising process.
            evaluation: Numbers of points, as the effort leaves them.
            study_seed: Seed of the draws.
            seed: Number of the trial, which has a split of its own where no oracle is known.
        """
        split = seed if dataset.oracle == "none" else 0
        name: tuple[str | int, ...] = (dataset.name, split) if split else (dataset.name,)
        generator = torch_generator("real pairs", study_seed, *name)
        # The divergence takes d backward passes, so the work grows as d times the points.
        num = min(evaluation.num_likelihood, max(1, _LIKELIHOOD_NUMBERS // dataset.dim))
        if dataset.heldout is not None:
            num = min(num, len(dataset.heldout))  # each held-out row once is enough
        draws = torch_generator("likely points", study_seed, dataset.name, split)
        likely, _ = dataset.to_noise(num, draws)
        sigma = first_noise(process)
        likely += sigma * torch.randn(likely.shape, generator=draws, dtype=torch.float64)
        nll = None
        if dataset.density is not None and len(likely):
            nll = -float(dataset.density.log_density(likely, 1.0, sigma).mean())
        noise = torch_generator("noised points", study_seed, *name)
        real = {}
        if evaluation.num_samples and not self.measures:
            repeats = range(evaluation.num_real_pairs)
            real = real_against_real(
                (dataset.fresh_pair(evaluation.num_samples, generator) for _ in repeats),
                numpy_generator("real pairs", study_seed, *name),
                self.metrics(dataset, evaluation),
            )
        draw = draw_noised_points(dataset, process, evaluation.num_noised, noise)
        return Reference(draw, real, likely, nll)

    def judge(
        self, config: TrialConfig, dataset: DatasetT, pipeline: PipelineT, shared: Reference
    ) -> tuple[Judged, Tensor | None]:
        """Measures a trained denoiser.

        Args:
            config: The trial it comes from.
            dataset: Data set to judge it with.
            pipeline: The denoiser with its sampler.
            shared: What all models of the comparison are measured with.

        Returns:
            What was measured, with None in place of infinite and NaN values, and samples to be kept
            with the run, such as generated points (n, d), standardised, float64; None where none
            are asked for.
        """
        scores = measure_denoising(
            pipeline.denoiser,
            shared.draw,
            config.process,
            config.judging.num_levels,
            self.conditions(pipeline.denoiser, dataset, shared.draw.rows),
        )
        measured = finite(asdict(scores))
        levels, versions = measured.pop("levels"), config.judgement.versions
        scored, generated = self._score(config, dataset, pipeline, shared)
        row = {"oracle": dataset.oracle, **measured, **finite(scored)}
        return Judged(row=row, levels=levels, versions=versions), generated

    def _score(
        self, config: TrialConfig, dataset: DatasetT, pipeline: PipelineT, shared: Reference
    ) -> tuple[Row, Tensor | None]:
        """Draws and scores samples; returns scores and samples to be kept."""
        row: Row = {}
        evaluation, points = config.judging, self.points(pipeline)
        if evaluation.num_likelihood:
            likelihood = log_likelihood(
                points.denoiser, config.process, shared.likely,
                num_steps=EFFORTS[evaluation.effort].likelihood_steps,
            )  # fmt: skip
            row["nll"] = -float(likelihood.mean())
            row["nll_real"] = shared.nll
        if not evaluation.num_samples:
            return row, None
        name = config.study_seed, config.seed
        fresh_points = torch_generator("fresh points", *name, dataset.name)
        fresh = dataset.fresh(evaluation.num_samples, fresh_points)
        started = time.perf_counter()
        generated = points(
            evaluation.num_samples,
            config.sampling.steps,
            generator=torch_generator("samples", *name),
        ).samples
        row["sample_seconds"] = time.perf_counter() - started
        generated = dataset.standardizer.apply(generated.cpu().double())
        generated = self.settled(dataset, generated, numpy_generator("rows", *name))
        row |= sample_metrics(
            generated[: len(fresh)],  # as many as in real-against-real
            fresh,
            numpy_generator("metrics", *name),
            self.metrics(dataset, evaluation),
        )
        row |= {f"{name}_real": value for name, value in shared.real.items()}
        return row, generated

    def metrics(self, dataset: DatasetT, evaluation: EvaluationConfig) -> dict[str, Metric]:
        """Returns the metrics of samples by key."""
        return metrics_named(evaluation.metrics, effort=evaluation.effort)

    def distinguished(
        self, dataset: DatasetT, drawn: Tensor, heldout: Tensor, generator: np.random.Generator
    ) -> Distinction:
        """Says how well drawn samples (n, d) are distinguished from held-out ones (m, d)."""
        size = min(len(drawn), len(heldout))
        return Distinction(c2st(drawn, heldout, generator) if size > 1 else 0.5)

    def settled(
        self, dataset: DatasetT, generated: Tensor, generator: np.random.Generator
    ) -> Tensor:
        """Moves generated samples (n, d) to where samples can be."""
        return generated

    def for_judging(self, config: TrialConfig, pipeline: PipelineT, other: Source) -> DatasetT:
        """Loads data to judge a model with that was trained on others.

        The pipeline knows the model's units, so the training data need not exist any more.

        Raises:
            DataError: The data cannot be used, or are no samples of the kind.
        """
        points = self.points(pipeline)
        loaded = other.for_points(points.columns, points.standardizer, config.study_seed)
        return cast("DatasetT", loaded)  # points, as of any toy

    def to_show(
        self, pipeline: PipelineT, dataset: DatasetT, config: TrialConfig
    ) -> Callable[..., object]:
        """Prepares to draw the samples whose reverse process figures show.

        Args:
            pipeline: The denoiser with its sampler.
            dataset: The data set.
            config: The trial, which says how many, and with how much guidance.

        Returns:
            Takes the other arguments of the pipeline's call by name.
        """
        return partial(self.points(pipeline), config.evaluation.num_drawn)

    def require_asked(self, asked: Asked, where: str) -> None:
        """Checks what a user asks for.

        Raises:
            KanDiffusionError: Models of this task do not take some of it.
        """
        for entry in fields(asked):
            if getattr(asked, entry.name) in (None, ()) or entry.name in self.takes:
                continue
            lacks = _LACKS.get(entry.name, f"takes no {entry.name}; leave it out")
            raise KanDiffusionError(f"'{where}' is a model of {self.noun}, which {lacks}")

    def draw(
        self,
        pipeline: PipelineT,
        asked: Asked,
        num: int | None,
        steps: int,
        generator: torch.Generator,
    ) -> Drawn:
        """Draws samples in the data's own units.

        Args:
            pipeline: The denoiser with its sampler.
            asked: What is asked for.
            num: How many; as many as is usual when None.
            steps: Steps of the sampler.
            generator: Source of the noise.

        Raises:
            KanDiffusionError: What is asked for cannot be drawn.
            NonFiniteSamplesError: The samples became infinite or NaN.
        """
        points = self.points(pipeline)
        samples = points(num or self.num, steps, generator=generator).samples
        rows = samples.cpu().double().numpy()
        return rows_drawn(pd.DataFrame(rows, columns=list(points.columns)))


def require_judge(dataset: Dataset) -> None:
    """Checks that there are samples to judge a model with.

    Raises:
        DataError: None is held out.
    """
    if dataset.heldout is not None and not len(dataset.heldout):
        raise DataError(
            f"no row of '{dataset.name}' is held out to judge a model with; hold some out, or give "
            "rows that were not trained on"
        )


def rows_drawn(frame: pd.DataFrame, form: TextForm | None = None) -> Drawn:
    """Makes rows ready to be written, into a text file in a form if there is one."""
    return Drawn(f"{len(frame):,} rows", lambda path: write_frame(path, frame, form))


def task_of(source: Source) -> Task[Dataset, SamplePipeline]:
    """Returns the task of models of some data; its module is loaded when it is first asked for."""
    return own_class(source.task, Task)()


JudgedMeasure = Literal["excess", "heldout_loss"]
"""A measure that models are judged by."""


def judged_measure(oracles: Iterable[object]) -> JudgedMeasure:
    """Names the judged measure of trials with these oracles: the excess if all are exact."""
    return "excess" if all(oracle == "exact" for oracle in oracles) else "heldout_loss"


def measures_of(sources: Sequence[Source]) -> dict[str, Measure]:
    """Returns the measures of drawn samples that rows of results on some data have."""
    return {key: each for source in sources for key, each in task_of(source).measures.items()}


def accepted(family: str, settings: Mapping[str, Setting]) -> dict[str, Setting]:
    """Keeps the settings that the denoisers of a family accept."""
    known = inspect.signature(get_family(family, importing=True).denoiser_class).parameters
    return {key: value for key, value in settings.items() if key in known}
