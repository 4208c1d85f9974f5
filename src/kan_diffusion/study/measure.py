"""Everything that is measured of a trained denoiser, in one row."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from kan_diffusion.data.datasets import (
    Dataset,
    FileData,
    ToyData,
    data_from_name,
    fresh_dataset,
    load_dataset,
)
from kan_diffusion.data.scaling import Standardizer
from kan_diffusion.errors import DataError, RunFolderError
from kan_diffusion.evaluation.denoising import NoisedPoints, draw_noised_points, measure_denoising
from kan_diffusion.evaluation.metrics import real_against_real, sample_metrics
from kan_diffusion.processes import Process
from kan_diffusion.randomness import numpy_generator, torch_generator
from kan_diffusion.sampling import PointDiffusionPipeline
from kan_diffusion.study.config import EvaluationConfig, TrialConfig
from kan_diffusion.study.folder import Row, load_trial

__all__ = [
    "Yardstick",
    "evaluate_run",
    "load_run",
    "measure",
    "oracle_warning",
    "yardstick",
]


@dataclass(frozen=True)
class Yardstick:
    """What all denoisers of a comparison are measured with.

    Attributes:
        draw: Noised points with their posterior means.
        real: Real-against-real value of every sample metric.
    """

    draw: NoisedPoints
    real: dict[str, float]


def yardstick(
    dataset: Dataset, process: Process, evaluation: EvaluationConfig, study_seed: int
) -> Yardstick:
    """What all trials of a study on a data set are measured with."""
    generator = torch_generator("real pairs", study_seed, dataset.name)
    return Yardstick(
        draw=draw_noised_points(
            dataset,
            process,
            evaluation.num_noised,
            torch_generator("noised points", study_seed, dataset.name),
        ),
        real=real_against_real(
            lambda _: dataset.fresh_pair(evaluation.num_samples, generator),
            evaluation.num_real_pairs,
            numpy_generator("real pairs", study_seed, dataset.name),
        ),
    )


def measure(
    config: TrialConfig,
    dataset: Dataset,
    pipeline: PointDiffusionPipeline,
    shared: Yardstick,
) -> tuple[Row, list[dict[str, float]], Tensor]:
    """Measures a trained denoiser.

    Args:
        config: The trial it comes from.
        dataset: What it is judged with.
        pipeline: The denoiser with its sampler.
        shared: What all denoisers of the comparison are measured with.

    Returns:
        The measured part of a trial's row, the excess by noise level (a dictionary a level), and
        the generated points (n, d), standardised, float64.
    """
    evaluation = config.evaluation
    scores = measure_denoising(
        pipeline.denoiser, shared.draw, config.process, evaluation.num_levels
    )
    fresh = dataset.fresh(
        evaluation.num_samples,
        torch_generator("fresh points", config.study_seed, config.seed, dataset.name),
    )
    started = time.perf_counter()
    generated = pipeline(
        evaluation.num_samples,
        config.sampling.steps,
        generator=torch_generator("samples", config.study_seed, config.seed),
    ).samples
    sample_seconds = time.perf_counter() - started
    generated = dataset.standardizer.apply(generated.cpu().double())
    metrics = sample_metrics(
        generated[: len(fresh)],  # as many as in real-against-real
        fresh,
        numpy_generator("metrics", config.study_seed, config.seed),
    )
    row: Row = {
        "heldout_loss": scores.heldout_loss,
        "floor": scores.floor,
        "excess": scores.excess,
        "excess_se": scores.excess_se,
        "sample_seconds": sample_seconds,
        **metrics,
        **{f"{name}_real": value for name, value in shared.real.items()},
    }
    return row, [asdict(level) for level in scores.levels], generated


def oracle_warning(row: Row) -> str | None:
    """What to say of an estimated oracle whose loss no optimum can have: below 0, or above ours."""
    floor, loss = row.get("floor"), row.get("heldout_loss")
    if not isinstance(floor, float) or not isinstance(loss, float) or 0 < floor <= loss:
        return None
    return (
        f"the reference samples are too small for an oracle: its loss, {floor:.3g}, should lie "
        f"between 0 and the denoiser's, {loss:.3g}; floor and excess say nothing here, compare "
        "held-out losses and sample metrics"
    )


def load_run(folder: Path) -> tuple[TrialConfig, PointDiffusionPipeline]:
    """Reads a finished run: its configuration and its pipeline.

    Raises:
        RunFolderError: There is no finished run with a denoiser in the folder.
    """
    trial = load_trial(folder)
    if trial is None:
        remedy = "train one with 'kan-diffusion train'"
        if (folder / "study.yaml").exists():
            trials = sorted(path.name for path in (folder / "trials").glob("[!.]*"))
            some = f", such as '{folder / 'trials' / trials[0]}'" if trials else ""
            remedy = f"it is a study; give one of its trials{some}"
        elif (folder / "checkpoint.safetensors").exists():
            remedy = "its training has not finished; go on with 'kan-diffusion train --resume'"
        raise RunFolderError(f"'{folder}' holds no finished run: {remedy}")
    if trial.row["error"] is not None:
        raise RunFolderError(f"the run in '{folder}' failed: {trial.row['error']}")
    try:
        pipeline = PointDiffusionPipeline.from_pretrained(folder)
    except (OSError, ValueError, RuntimeError, TypeError, AttributeError, LookupError) as error:
        raise RunFolderError(
            f"the denoiser in '{folder}' cannot be read ({' '.join(str(error).split())}); train "
            "it again"
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    return trial.config, pipeline


def _dataset_to_judge_with(
    config: TrialConfig, pipeline: PointDiffusionPipeline, data: str | None
) -> Dataset:
    other = config.data if data is None else data_from_name(data)
    if isinstance(other, ToyData) and isinstance(config.data, ToyData):
        same = other.toy == config.data.toy
    elif isinstance(other, FileData) and isinstance(config.data, FileData):
        own_digest = config.data.sha256 or config.data.pinned().sha256
        same = data is None or other.sha256 == own_digest
    else:
        same = False
    if same:
        return load_dataset(config.data, config.study_seed, config.seed)
    # The pipeline knows the model's units: the data it was trained on need not be here any more.
    columns = tuple(pipeline.config.columns)
    standardizer = Standardizer(tuple(pipeline.config.mean), tuple(pipeline.config.scale))
    if isinstance(other, FileData):
        return fresh_dataset(other.path, columns, standardizer, config.study_seed)
    density = other.density()
    if density.dim != len(columns):
        raise DataError(
            f"toy '{other.name}' has {density.dim} coordinates and the model was trained on "
            f"{len(columns)}; judge it with its own data or a file of the same columns"
        )
    return Dataset(
        name=other.name,
        columns=columns,
        standardizer=standardizer,
        train=torch.empty(0, len(columns)),
        density=standardizer.rescale(density),
    )


def evaluate_run(folder: Path, data: str | None = None) -> tuple[Row, str, str | None]:
    """Judges a finished run.

    Args:
        folder: The run's folder.
        data: A file or a toy to judge it with; its own data when None. Of the very file it was
            trained on, only the rows that were held out are used.

    Returns:
        The measured row, one line that says which points were used, and a warning when the
        oracle is an estimate that is of no use.

    Raises:
        RunFolderError: The folder holds no finished run.
        DataError: The data cannot be used.
    """
    config, pipeline = load_run(folder)
    dataset = _dataset_to_judge_with(config, pipeline, data)
    if dataset.density is not None:
        used = f"fresh points of '{dataset.name}', whose oracle is exact"
    else:
        count = len(dataset.untrained())
        used = (
            f"{count:,} rows of '{dataset.name}' that were not trained on, with an oracle "
            "estimated from two reference samples among them"
        )
    shared = yardstick(dataset, config.process, config.evaluation, config.study_seed)
    row, _, _ = measure(config, dataset, pipeline, shared)
    return row, used, None if dataset.density is not None else oracle_warning(row)
