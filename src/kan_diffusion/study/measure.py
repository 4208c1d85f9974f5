"""Measures a trained denoiser: one row of results."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from kan_diffusion.data.datasets import (
    DataConfig,
    Dataset,
    FileData,
    PictureData,
    TableData,
    ToyData,
    data_from_name,
    fresh_dataset,
    load_dataset,
)
from kan_diffusion.diffusion.likelihood import first_noise, log_likelihood
from kan_diffusion.diffusion.sampling import PointDiffusionPipeline, make_scheduler
from kan_diffusion.errors import DataError, KanDiffusionError, RunFolderError
from kan_diffusion.evaluation.denoising import NoisedPoints, draw_noised_points, measure_denoising
from kan_diffusion.evaluation.effort import EFFORTS
from kan_diffusion.evaluation.metrics import metrics_named, real_against_real, sample_metrics
from kan_diffusion.files import finite, read_json
from kan_diffusion.pictures.codec import PictureCodec
from kan_diffusion.pictures.pipeline import PictureDiffusionPipeline
from kan_diffusion.pictures.scores import EACH, Request, draw_pictures, score_pictures, shown
from kan_diffusion.processes import Process
from kan_diffusion.randomness import numpy_generator, torch_generator
from kan_diffusion.study.config import EvaluationConfig, TrialConfig
from kan_diffusion.study.folder import CHECKPOINT, STUDY, TRIALS, Level, Row, load_trial
from kan_diffusion.tables.codec import TableCodec
from kan_diffusion.tables.files import read_frame
from kan_diffusion.tables.pipeline import TableDiffusionPipeline

__all__ = [
    "Judged",
    "Yardstick",
    "evaluate_run",
    "judged_measure",
    "load_point_run",
    "load_run",
    "measure",
    "same_data",
    "yardstick",
]


Judged = Literal["excess", "heldout_loss"]
"""A measure that models are judged by."""

_AGAIN = "train it again"
_LIKELIHOOD_NUMBERS = 4096
"""Largest number of coordinates, over all points, whose likelihood is computed."""


@dataclass(frozen=True)
class Yardstick:
    """Points and reference values that all denoisers of a comparison are measured with.

    Attributes:
        draw: Noised points with their posterior means.
        real: Real-against-real value of every sample metric; empty where none is asked for, and
            for pictures.
        likely: Clean points (n, d) with the first timestep's noise added, whose likelihood is
            computed.
        nll: Exact mean negative log-density of these points; None where the density is not known.
    """

    draw: NoisedPoints
    real: dict[str, float]
    likely: Tensor
    nll: float | None


def yardstick(
    dataset: Dataset,
    process: Process,
    evaluation: EvaluationConfig,
    study_seed: int,
    split: int = 0,
) -> Yardstick:
    """Draws the samples that all trials of a study on a data set are measured with.

    Args:
        dataset: The data set.
        process: Noising process.
        evaluation: Numbers of points, as the effort leaves them.
        study_seed: Seed of the draws.
        split: Number of the data set's split, where every seed has its own.
    """
    name: tuple[str | int, ...] = (dataset.name, split) if split else (dataset.name,)
    if isinstance(dataset.codec, PictureCodec):
        noise = torch_generator("noised points", study_seed, *name)
        return Yardstick(
            draw_noised_points(dataset, process, evaluation.num_noised, noise, captioned=True),
            real={},
            likely=torch.empty(0),
            nll=None,
        )
    generator = torch_generator("real pairs", study_seed, *name)
    # The divergence takes d backward passes, so the work grows as d times the points.
    num = min(evaluation.num_likelihood, max(1, _LIKELIHOOD_NUMBERS // dataset.dim))
    if dataset.heldout is not None:
        num = min(num, len(dataset.heldout))  # each held-out row once is enough
    draws = torch_generator("likely points", study_seed, dataset.name, split)
    likely = dataset.points_to_noise(num, draws).double()
    sigma = first_noise(process)
    likely += sigma * torch.randn(likely.shape, generator=draws, dtype=torch.float64)
    nll = None
    if dataset.density is not None and len(likely):
        nll = -float(dataset.density.log_density(likely, 1.0, sigma).mean())
    return Yardstick(
        draw=draw_noised_points(
            dataset,
            process,
            evaluation.num_noised,
            torch_generator("noised points", study_seed, *name),
        ),
        real=real_against_real(
            lambda _: dataset.fresh_pair(evaluation.num_samples, generator),
            evaluation.num_real_pairs,
            numpy_generator("real pairs", study_seed, *name),
            metrics_named(evaluation.metrics, effort=evaluation.effort),
        )
        if evaluation.num_samples
        else {},
        likely=likely,
        nll=nll,
    )


def measure(
    config: TrialConfig,
    dataset: Dataset,
    pipeline: PointDiffusionPipeline | PictureDiffusionPipeline,
    shared: Yardstick,
) -> tuple[Row, list[Level], Tensor | None]:
    """Measures a trained denoiser.

    Args:
        config: The trial it comes from.
        dataset: Data set to judge it with.
        pipeline: The denoiser with its sampler.
        shared: The yardstick of the comparison.

    Returns:
        The measured part of a trial's row, loss and excess by noise level (a dictionary per level),
        and the generated points (n, d), standardised, float64, or pictures to be shown; None where
        no samples are asked for. Infinite and NaN values become None.
    """
    evaluation = config.judging
    conditions = {}
    if isinstance(pipeline, PictureDiffusionPipeline):
        conditions = _told(pipeline, dataset, shared.draw.rows)
    scores = measure_denoising(
        pipeline.denoiser, shared.draw, config.process, evaluation.num_levels, conditions
    )
    row: Row = {
        "oracle": shared.draw.oracle,
        "heldout_loss": scores.heldout_loss,
        "floor": scores.floor,
        "excess": scores.excess,
        "excess_se": scores.excess_se,
    }
    if isinstance(pipeline, PictureDiffusionPipeline):
        scored, generated = _draw_and_score(config, dataset, pipeline)
        row |= scored
        return finite(row), finite([asdict(level) for level in scores.levels]), generated
    if evaluation.num_likelihood:
        likelihood = log_likelihood(
            pipeline.denoiser, config.process, shared.likely,
            num_steps=EFFORTS[evaluation.effort].likelihood_steps,
        )  # fmt: skip
        row["nll"] = -float(likelihood.mean())
        row["nll_real"] = shared.nll
    generated = None
    if evaluation.num_samples:
        name = config.study_seed, config.seed
        fresh_points = torch_generator("fresh points", *name, dataset.name)
        fresh = dataset.fresh(evaluation.num_samples, fresh_points)
        started = time.perf_counter()
        generated = pipeline(
            evaluation.num_samples,
            config.sampling.steps,
            generator=torch_generator("samples", *name),
        ).samples
        row["sample_seconds"] = time.perf_counter() - started
        generated = dataset.standardizer.apply(generated.cpu().double())
        if isinstance(dataset.codec, TableCodec):
            generated = dataset.codec.settle(generated, numpy_generator("rows", *name)).double()
        sampled = sample_metrics(
            generated[: len(fresh)],  # as many as in real-against-real
            fresh,
            numpy_generator("metrics", *name),
            metrics_named(evaluation.metrics, effort=evaluation.effort),
        )
        row |= sampled
        row |= {f"{name}_real": value for name, value in shared.real.items()}
    return finite(row), finite([asdict(level) for level in scores.levels]), generated


def _told(
    pipeline: PictureDiffusionPipeline, dataset: Dataset, rows: Tensor | None
) -> dict[str, Tensor]:
    """Returns the conditions of held-out pictures, by name."""
    assert rows is not None
    asked = Request.of(dataset, rows)
    if pipeline.text_encoder is not None and asked.prompts is not None:
        return {"encoder_hidden_states": pipeline.embed(asked.prompts)}
    if pipeline.classes and asked.labels is not None:
        return {"class_labels": asked.labels}
    return {}


def _draw_and_score(
    config: TrialConfig, dataset: Dataset, pipeline: PictureDiffusionPipeline
) -> tuple[Row, Tensor | None]:
    """Scores pictures that a model draws, and draws some to show, where any are asked for."""
    evaluation, sampling = config.judging, config.sampling
    if not evaluation.num_samples:
        return {}, None
    started = time.perf_counter()
    scores = score_pictures(
        pipeline,
        dataset,
        num=evaluation.num_samples,
        steps=sampling.steps,
        guidance=sampling.guidance,
        study_seed=config.study_seed,
        seed=config.seed,
    )
    row: Row = {"sample_seconds": time.perf_counter() - started, **scores}
    pictures = draw_pictures(
        *(pipeline, shown(dataset, evaluation.num_drawn)[0], sampling.steps, sampling.guidance),
        torch_generator("shown", config.study_seed),
        EACH,
    )
    return row, pictures


def judged_measure(oracles: Iterable[object]) -> Judged:
    """Names the judged measure of trials with these oracles: the excess if all are exact."""
    return "excess" if all(oracle == "exact" for oracle in oracles) else "heldout_loss"


def load_run(
    folder: Path, *, verify: bool = True
) -> tuple[TrialConfig, PointDiffusionPipeline | PictureDiffusionPipeline]:
    """Reads a finished run: its configuration and its pipeline, with the sampler of its study.

    Args:
        folder: The run's folder.
        verify: Whether to refuse files that have changed since they were written.

    Raises:
        RunFolderError: There is no finished run with a denoiser in the folder.
    """
    trial = load_trial(folder, verify=verify)
    if trial is None:
        remedy = "train one with 'kan-diffusion train'"
        if (folder / STUDY).exists():
            trials = sorted((folder / TRIALS).glob("[!.]*"))
            some = f", such as '{trials[0]}'" if trials else ""
            remedy = f"it is a study; give one of its trials{some}"
        elif (folder / CHECKPOINT).exists():
            remedy = "its training has not finished; the same command goes on with it"
        raise RunFolderError(f"'{folder}' holds no finished run: {remedy}")
    if trial.row["error"] is not None:
        raise RunFolderError(f"the run in '{folder}' failed: {trial.row['error']}")
    index = read_json(
        folder / PointDiffusionPipeline.config_name, "the index of a pipeline", _AGAIN
    )
    kinds = (PointDiffusionPipeline, TableDiffusionPipeline, PictureDiffusionPipeline)
    kind = next((k for k in kinds if k.__name__ == index.get("_class_name")), kinds[0])
    scheduler = make_scheduler(trial.config.sampling.scheduler, trial.config.process)
    return trial.config, kind.from_pretrained(folder, scheduler=scheduler)


def load_point_run(
    folder: Path, *, verify: bool = True
) -> tuple[TrialConfig, PointDiffusionPipeline]:
    """Reads a finished run of points or of a table, as :func:`load_run` does.

    Raises:
        RunFolderError: There is no finished run with a denoiser in the folder.
        KanDiffusionError: The run is one of pictures.
    """
    config, pipeline = load_run(folder, verify=verify)
    if isinstance(pipeline, PictureDiffusionPipeline):
        raise KanDiffusionError(
            f"'{folder}' is a model of pictures, and this is for models of points and tables; draw "
            "from it with 'kan-diffusion sample', judge it with 'kan-diffusion evaluate'"
        )
    return config, pipeline


def same_data(own: DataConfig, other: DataConfig) -> bool:
    """Reports whether the data that a run is judged with are those that it was trained on.

    Raises:
        DataError: A file cannot be read.
    """
    if own is other:
        return True
    if isinstance(other, ToyData) and isinstance(own, ToyData):
        return other.toy == own.toy
    if isinstance(other, FileData) and isinstance(own, FileData):
        file = read_frame(other.path, own.missing, dict(own.kinds))
        return file.sha256 == (own.sha256 or own.pinned().sha256)
    if isinstance(other, PictureData) and isinstance(own, PictureData):
        # A run of a folder has its digest, and its files are compared with that when they are read.
        return Path(other.pictures).absolute() == Path(own.pictures).absolute()
    return isinstance(other, TableData) and isinstance(own, TableData) and other.table == own.table


def _dataset_to_judge_with(
    config: TrialConfig,
    pipeline: PointDiffusionPipeline | PictureDiffusionPipeline,
    data: str | None,
) -> Dataset:
    own = config.data
    other = own if data is None else data_from_name(data, pinned=False)
    if same_data(own, other):
        return load_dataset(config.data, config.study_seed, config.seed)
    if isinstance(other, PictureData) or isinstance(pipeline, PictureDiffusionPipeline):
        raise DataError(
            f"a model of '{own.name}' cannot be judged with '{other.name}': pictures judge the "
            "model that was trained on them; leave --data out"
        )
    # The pipeline knows the model's units, so the training data need not exist any more.
    table = pipeline.codec if isinstance(pipeline, TableDiffusionPipeline) else None
    columns = tuple(pipeline.columns)
    standardizer = pipeline.standardizer
    if isinstance(other, FileData):
        return fresh_dataset(other.path, columns, table or standardizer, config.study_seed)
    if isinstance(other, TableData):
        raise DataError(
            f"table '{other.name}' is not what the model was trained on; judge it with its own "
            "data or a file of the same columns"
        )
    density = other.density()
    if table is not None or density.dim != len(columns):
        what = f"{len(columns)}" if table is None else f"{len(columns)} of the rows of a table"
        raise DataError(
            f"toy '{other.name}' has {density.dim} coordinates and the model was trained on "
            f"{what}; judge it with its own data or a file of the same columns"
        )
    return Dataset(
        name=other.name,
        columns=columns,
        standardizer=standardizer,
        train=torch.empty(0, len(columns)),
        density=standardizer.rescale(density),
    )


def evaluate_run(folder: Path, data: str | None = None, *, verify: bool = True) -> tuple[Row, str]:
    """Judges a finished run, with the effort of its settings.

    Args:
        folder: The run's folder.
        data: A file or a toy to judge it with; the run's own data when None. Of the file it was
            trained on, only the held-out rows are used.
        verify: Whether to refuse files of the run that have changed since they were written.

    Returns:
        The measured row, and one line that says which points were used.

    Raises:
        RunFolderError: The folder holds no finished run.
        DataError: The data cannot be used.
    """
    config, pipeline = load_run(folder, verify=verify)
    dataset = _dataset_to_judge_with(config, pipeline, data)
    count = 0 if dataset.heldout is None else len(dataset.heldout)
    if isinstance(config.data, PictureData):
        used = f"{count:,} pictures of '{dataset.name}' that were not trained on"
    elif dataset.density is not None:
        used = f"fresh points of '{dataset.name}', whose oracle is exact"
    else:
        used = f"{count:,} rows of '{dataset.name}' that were not trained on; no oracle is known"
    split = config.seed if dataset.split_by_seed else 0
    names = config.process, config.judging, config.study_seed
    shared = yardstick(dataset, *names, split)
    row, _, _ = measure(config, dataset, pipeline, shared)
    return row, used
