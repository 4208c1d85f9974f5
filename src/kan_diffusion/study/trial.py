"""One trial in four steps: build, train, measure, keep."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from kan_diffusion.data.datasets import DataConfig, Dataset, load_dataset
from kan_diffusion.denoisers.base import Denoiser
from kan_diffusion.denoisers.registry import build_denoiser
from kan_diffusion.errors import (
    KanDiffusionError,
    NonFiniteLossError,
    NonFiniteSamplesError,
)
from kan_diffusion.evaluation.doubts import training_doubt
from kan_diffusion.evaluation.metrics import Metric, metrics_named
from kan_diffusion.processes import Process
from kan_diffusion.randomness import numpy_generator, stream_seed, torch_generator
from kan_diffusion.ranks import leads
from kan_diffusion.sampling import PointDiffusionPipeline, fitting_samplers, make_scheduler
from kan_diffusion.study.config import EvaluationConfig, ModelConfig, TrialConfig
from kan_diffusion.study.folder import (
    CHECKPOINT,
    REVERSE,
    Row,
    TrialResult,
    claimed,
    keep_trial,
    load_trial,
    save_points,
)
from kan_diffusion.study.measure import Yardstick, measure, yardstick
from kan_diffusion.table_pipeline import TableDiffusionPipeline
from kan_diffusion.training import ProgressCallback, TrainingConfig, train
from kan_diffusion.training.defaults import num_held_out

__all__ = ["NUM_PANELS", "build", "record_reverse", "run_trial"]

logger = logging.getLogger(__name__)

NUM_PANELS = 11
"""Number of timesteps at which pictures of a process are drawn, both ends included."""


def record_reverse(
    pipeline: PointDiffusionPipeline,
    num_points: int,
    num_steps: int,
    generator: torch.Generator,
    class_labels: Tensor | None = None,
) -> Tensor:
    """Records the reverse process at ``NUM_PANELS`` timesteps, even in time, noise first.

    Args:
        pipeline: The denoiser with its sampler. Samplers other than ``ddpm`` place their steps
            unevenly in time; the pictures are then DDIM's, or Euler's for flow matching, of the
            same deterministic flow.
        num_points: Number of points that are followed.
        num_steps: Steps of ``ddpm``.
        generator: Source of the noise.
        class_labels: Classes of the points, with shape (num_points,).

    Returns:
        Standardised points with shape (panels, num_points, d).
    """
    if not isinstance(pipeline.scheduler, DDPMScheduler):
        even = "ddim" if "ddim" in fitting_samplers(pipeline.scheduler) else "flow-euler"
        scheduler = make_scheduler(even, pipeline.scheduler)
        pipeline = PointDiffusionPipeline(pipeline.denoiser, scheduler)
        num_steps = 5 * (NUM_PANELS - 1)
    before = generator.get_state()
    start = torch.randn(num_points, pipeline.denoiser.data_dim, generator=generator)
    generator.set_state(before)  # the pipeline starts from the very same noise
    states = [start]

    def keep(
        _: PointDiffusionPipeline, index: int, timestep: Tensor, state: dict[str, Tensor]
    ) -> None:
        states.append(state["sample"].cpu())

    pipeline(
        num_points,
        num_steps,
        generator=generator,
        class_labels=class_labels,
        callback_on_step_end=keep,
    )
    picks = np.linspace(0, len(states) - 1, NUM_PANELS).round().astype(int)
    return torch.stack([states[pick] for pick in picks])


@lru_cache(maxsize=16)
def _shared_yardstick(
    data: DataConfig,
    process: Process,
    evaluation: EvaluationConfig,
    study_seed: int,
    split: int,
    _metrics: tuple[Metric, ...],
) -> Yardstick:
    """Makes the yardstick of a data set, or of one split of it; a worker keeps it.

    A program may add metrics while it runs, so those there are belong to the key.
    """
    dataset = load_dataset(data, study_seed, trial_seed=split)
    return yardstick(dataset, process, evaluation, study_seed, split)


def build(config: TrialConfig, dataset: Dataset) -> Denoiser:
    """Builds a trial's denoiser, untrained.

    Raises:
        KanDiffusionError: It cannot be built, or not in this size.
    """
    model = config.model
    return build_denoiser(
        model.family,
        dataset.dim,
        num_train_timesteps=config.process.num_timesteps,
        params=model.params,
        flops=model.flops,
        flops_per_edge=model.flops_per_edge,
        hidden=model.hidden,
        depth=model.depth,
        num_classes=len(dataset.classes),
        blocks=dataset.blocks if model.conditions else (),
        settings=model.settings,
        generator=torch_generator("parameters", config.study_seed, config.seed, model.name),
    )


@lru_cache(maxsize=256)
def _warm_up(
    model: str, dim: int, num_classes: int, blocks: tuple[int, ...], process: Process
) -> None:
    """Trains a model for two steps, once a worker.

    Kernels are loaded or compiled then, and torch loads what it needs for a first step: none of
    it counts as training time.

    Args:
        model: The model in JSON.
        dim: Number of coordinates.
        num_classes: Number of class labels.
        blocks: Widths of those that may be told.
        process: Noising process.
    """
    config = ModelConfig.model_validate_json(model)
    denoiser = build_denoiser(
        config.family,
        dim,
        num_train_timesteps=process.num_timesteps,
        **config.size,  # type: ignore[arg-type]
        depth=config.depth,
        num_classes=num_classes,
        blocks=blocks,
        settings=config.settings,
        generator=torch_generator("warm-up"),
    )
    points = torch.randn(8, dim, generator=torch_generator("warm-up points"))
    train(denoiser, process, points, TrainingConfig(steps=2, batch_size=8), seed=0, device="cpu")


def run_trial(
    config: TrialConfig,
    folder: Path,
    *,
    device: str = "auto",
    on_progress: ProgressCallback | None = None,
    log_folder: Path | None = None,
) -> TrialResult:
    """Runs a trial, or goes on with it from its checkpoint, or reads it when it is finished.

    Args:
        config: The trial.
        folder: Folder to keep it in; made when missing.
        device: Device to train and sample on.
        on_progress: Told the number of finished steps and the loss.
        log_folder: Folder for TensorBoard's event files.

    Returns:
        The finished trial, not measured where several processes train one model and this is not
        the first of them. One whose loss or samples became non-finite is finished, too: its row has
        the reason under ``"error"`` and no measurements.

    Raises:
        DataError: The data cannot be used.
        RunFolderError: The folder cannot be read or written, or holds another trial.
        TrialTakenError: Another process is running it.
        KanDiffusionError: The model cannot be built.
    """
    if (finished := load_trial(folder, config)) is not None:
        return finished
    dataset = load_dataset(config.data, config.study_seed, config.seed)
    denoiser = build(config, dataset)
    with claimed(folder) if leads() else nullcontext():
        # Another process may have finished it by now.
        return load_trial(folder, config) or _run_claimed(
            config, folder, dataset, denoiser, device, on_progress, log_folder
        )


def _run_claimed(
    config: TrialConfig,
    folder: Path,
    dataset: Dataset,
    denoiser: Denoiser,
    device: str,
    on_progress: ProgressCallback | None,
    log_folder: Path | None,
) -> TrialResult:
    steps = config.training.steps
    row: Row = {
        **config.keys,
        "parameters": denoiser.num_trainable,
        "flops": denoiser.flops,
        "flops_per_edge": denoiser.flops_per_edge,
        "steps": steps,
        "error": None,
    }

    # What judges the trial must not have decided when it ended.
    points, heldout = dataset.train, None
    conditions, of_heldout = dataset.conditions, dict[str, Tensor]()
    if config.training.patience is not None:
        num = num_held_out(len(points))
        heldout, points = points.tensor_split([num])
        of_heldout = {name: values[:num] for name, values in conditions.items()}
        conditions = {name: values[num:] for name, values in conditions.items()}
    drawn = config.evaluation.num_drawn
    classes = dataset.draw_conditions(
        drawn, torch_generator("drawn classes", config.study_seed, config.data.name)
    )

    def record(step: int, current: Denoiser) -> None:
        # Into a file at once, so that a run that is killed later still has it when it resumes.
        try:
            panels = record_reverse(
                _pipeline(config, dataset, current),
                drawn,
                config.sampling.steps,
                torch_generator("reverse process", config.study_seed, config.data.name),
                classes.get("class_labels"),
            )
        except NonFiniteSamplesError as error:
            logger.info("no picture of the reverse process at step %d: %s", step, error)
            return
        save_points(folder / REVERSE / f"{step}.safetensors", panels)

    def failed(error: KanDiffusionError) -> TrialResult:
        result = TrialResult(config, row | {"error": str(error)}, [], folder)
        keep_trial(result)
        return result

    try:
        _warm_up(
            config.model.model_dump_json(),
            dataset.dim,
            denoiser.num_classes,
            denoiser.blocks,
            config.process,
        )
        trained = train(
            denoiser,
            config.process,
            points,
            config.training,
            conditions=conditions,
            heldout=heldout,
            heldout_conditions=of_heldout,
            seed=stream_seed("training", config.study_seed, config.seed, config.data.name),
            device=device,
            checkpoint=folder / CHECKPOINT,
            identity=config.identity,
            resume=True,
            on_progress=on_progress,
            moments={round(fraction * steps) for fraction in config.evaluation.moments},
            on_moment=record,
            log_folder=log_folder,
        )
    except NonFiniteLossError as error:
        if not leads():
            raise
        # The last good state of a failed trial, its checkpoint, stays.
        return failed(error)
    if not leads():  # the first of several processes judges and keeps the model
        return TrialResult(config, row, [], folder)
    pipeline = _pipeline(config, dataset, denoiser)
    shared = _shared_yardstick(
        config.data,
        config.process,
        config.evaluation.model_copy(update={"moments": ()}),
        config.study_seed,
        config.seed if dataset.split_by_seed else 0,
        tuple(metrics_named(config.evaluation.metrics).values()),
    )
    try:
        measured, levels, generated = measure(config, dataset, pipeline, shared)
    except NonFiniteSamplesError as error:
        return failed(error)
    if heldout is not None and dataset.heldout is not None and generated is not None:
        doubt = training_doubt(
            trained,
            config.training,
            denoiser.num_trainable,
            generated,
            dataset.heldout,
            numpy_generator("doubt", config.study_seed),
        )
        if doubt is not None:
            logger.warning(doubt)
    curves = pd.DataFrame({"loss": trained.losses, "learning_rate": trained.learning_rates})
    curves.insert(0, "step", np.arange(1, len(curves) + 1))
    row |= {
        "steps": len(trained.losses),
        "train_seconds": trained.seconds,
        "train_cpu_seconds": trained.cpu_seconds,
        # Of the layer that misses its grid most; None where there is no grid.
        "out_of_range": max(trained.out_of_range.values(), default=None),
        **measured,
    }
    result = TrialResult(config, row, levels, folder)
    keep_trial(result, pipeline, curves, generated)
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return result


def _pipeline(config: TrialConfig, dataset: Dataset, denoiser: Denoiser) -> PointDiffusionPipeline:
    scheduler = make_scheduler(config.sampling.scheduler, config.process.scheduler())
    if dataset.codec is not None:
        return TableDiffusionPipeline(denoiser, scheduler, dataset.codec, config.process)
    return PointDiffusionPipeline(
        denoiser,
        scheduler,
        dataset.standardizer.mean,
        dataset.standardizer.scale,
        dataset.columns,
    )
