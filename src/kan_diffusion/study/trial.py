"""One trial: its model is built, trained and kept, then judged, which can be done again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from kan_diffusion.data.datasets import Dataset
from kan_diffusion.data.sources import Source, load_dataset
from kan_diffusion.denoisers.base import Denoiser
from kan_diffusion.denoisers.families import build_denoiser
from kan_diffusion.devices import resolve_device
from kan_diffusion.diffusion.sampling import (
    SamplePipeline,
    even_sampler,
    make_scheduler,
    recorded_states,
)
from kan_diffusion.errors import NonFiniteLossError, NonFiniteSamplesError
from kan_diffusion.evaluation.diagnostics import DIAGNOSED_ROWS, training_diagnosis
from kan_diffusion.evaluation.metrics import metrics_named
from kan_diffusion.processes import Process
from kan_diffusion.randomness import numpy_generator, stream_seed, torch_generator
from kan_diffusion.ranks import is_main_process
from kan_diffusion.study.config import EvaluationConfig, ModelConfig, TrialConfig
from kan_diffusion.study.folder import (
    CHECKPOINT,
    REVERSE,
    Judged,
    Row,
    Trained,
    TrialResult,
    claimed,
    keep_trial,
    load_trial,
    save_points,
)
from kan_diffusion.study.measure import pipeline_of
from kan_diffusion.study.tasks import Reference, require_judge, task_of
from kan_diffusion.training import parallel
from kan_diffusion.training.callbacks import Progress, Snapshots, TensorBoard
from kan_diffusion.training.config import TrainingConfig, num_held_out
from kan_diffusion.training.loop import TrainingResult, train
from kan_diffusion.training.run import Callback

__all__ = [
    "NUM_PANELS",
    "curves_of",
    "first_row",
    "record_reverse",
    "run_trial",
    "spent",
    "train_trial",
    "warn_of_misfit",
]

logger = logging.getLogger(__name__)

NUM_PANELS = 11
"""Number of timesteps at which figures show a process, both ends included."""


_JUDGING_SHARE = 0.2
"""Share of a time limit that is kept for judging."""


def record_reverse(
    config: TrialConfig,
    dataset: Dataset,
    pipeline: SamplePipeline,
    num: int | None = None,
) -> Tensor:
    """Records the reverse process at ``NUM_PANELS`` evenly spaced timesteps, noise first.

    Samplers other than ``ddpm`` place their steps unevenly in time; DDIM, or Euler's method for
    flow matching, then takes their place and follows the same deterministic flow. All models of a
    study start from the same noise.

    Args:
        config: The trial.
        dataset: Its data set.
        pipeline: The denoiser with its sampler.
        num: Number of samples; as many as figures show when None.

    Returns:
        Standardised samples, or pictures, with shape (panels, num, *shape).
    """
    steps = config.sampling.steps
    if not isinstance(pipeline.scheduler, DDPMScheduler):
        scheduler = make_scheduler(even_sampler(pipeline.process), pipeline.process)
        pipeline = type(pipeline).from_pipe(pipeline, scheduler=scheduler)
        steps = 5 * (NUM_PANELS - 1)
    generator = torch_generator("reverse process", config.study_seed, config.data.name)
    shown = config.evaluation.num_drawn if num is None else num
    draw = task_of(config.data).to_show(pipeline, dataset, shown, config.sampling.guidance)
    _, states = recorded_states(draw, pipeline, steps, generator)
    return states[np.linspace(0, len(states) - 1, NUM_PANELS).round().astype(int)]


@lru_cache(maxsize=16)
def _shared_reference(
    data: Source,
    process: Process,
    evaluation: EvaluationConfig,
    study_seed: int,
    split: int,
    *_changing: object,
) -> Reference:
    """Makes the reference of a data set, or of one split of it, and caches it in the worker.

    The metrics, which may change while a program runs, belong to the key.
    """
    dataset = load_dataset(data, study_seed, trial_seed=split)
    return task_of(data).reference(dataset, process, evaluation, study_seed, split)


def _reference_of(config: TrialConfig, dataset: Dataset) -> Reference:
    """Returns the reference of a trial, which trials on the same data share."""
    return _shared_reference(
        config.data,
        config.process,
        config.judging.model_copy(update={"moments": ()}),
        config.study_seed,
        config.seed if dataset.oracle == "none" else 0,
        *metrics_named(config.evaluation.metrics).values(),
    )


@lru_cache(maxsize=256)
def _warm_up(
    model: str,
    hidden: tuple[int, ...],
    shape: tuple[int, ...],
    observable: bool,
    process: Process,
    device: str,
) -> None:
    """Trains a model for two steps, once per worker.

    This loads or compiles kernels, and what torch needs for a first step, so that none of it counts
    as training time.

    Args:
        model: The model in JSON.
        hidden: Widths of its hidden layers.
        shape: Shape of a sample.
        observable: Whether coordinates may be observed.
        process: Noising process.
        device: Where it is trained.
    """
    config = ModelConfig.model_validate_json(model)
    denoiser = build_denoiser(
        config.family,
        shape,
        num_train_timesteps=process.num_timesteps,
        hidden=hidden,
        observable=observable,
        settings=config.settings,
        generator=torch_generator("warm-up"),
    )
    points = torch.randn(8, *denoiser.sample_shape, generator=torch_generator("warm-up points"))
    train(denoiser, process, points, TrainingConfig(steps=2, batch_size=8), seed=0, device=device)


def run_trial(
    config: TrialConfig,
    folder: Path,
    *,
    device: str = "auto",
    spent_seconds: float = 0.0,
    on_progress: Callable[[int, float], object] | None = None,
    log_folder: Path | None = None,
) -> TrialResult:
    """Does what is missing of a trial: trains it, from its checkpoint if it has one, and judges it.

    Args:
        config: The trial.
        folder: Folder to keep it in; made when missing.
        device: Device to train and sample on.
        spent_seconds: Seconds that have passed of those that the trial may take.
        on_progress: Called with the number of finished steps and the loss.
        log_folder: Folder for TensorBoard's event files.

    Returns:
        The finished trial. If several processes train one model, only the first one judges it. A
        trial whose loss or samples became non-finite is finished, too: its row has the reason under
        ``"error"`` and nothing that was measured.

    Raises:
        DataError: The data cannot be used.
        RunFolderError: The folder cannot be read or written, or holds another trial.
        TrialTakenError: Another process is running it.
        KanDiffusionError: The model cannot be built.
    """
    if (result := load_trial(folder, config)) is not None and result.answers(config):
        return result
    with claimed(folder) if is_main_process() else nullcontext():
        started, pipeline = time.monotonic() - spent_seconds, None
        result = load_trial(folder, config)  # another process may have finished it by now
        if result is not None and result.answers(config):
            return result
        dataset = load_dataset(config.data, config.study_seed, config.seed)
        require_judge(dataset)
        if result is None:
            result, pipeline = _train(
                config, folder, dataset, device, started, on_progress, log_folder
            )
        if not is_main_process() or result.answers(config):
            return result
        return _judge(config, result, dataset, device, pipeline)


def _train(
    config: TrialConfig,
    folder: Path,
    dataset: Dataset,
    device: str,
    started: float,
    on_progress: Callable[[int, float], object] | None,
    log_folder: Path | None,
) -> tuple[TrialResult, SamplePipeline | None]:
    """Trains a model and keeps it; without a pipeline where its loss became non-finite."""
    task = task_of(config.data)
    denoiser = task.build(config, dataset)
    steps, row = config.training.steps, first_row(config, denoiser)
    moments = {round(fraction * steps) for fraction in config.evaluation.moments}

    def record(step: int, current: Denoiser) -> None:
        # Written at once, so that a run that is killed and resumed still has it.
        try:
            panels = record_reverse(config, dataset, task.pipeline(config, dataset, current))
        except NonFiniteSamplesError as error:
            logger.info("no picture of the reverse process at step %d: %s", step, error)
            return
        save_points(folder / REVERSE / f"{step}.safetensors", panels)

    callbacks: list[Callback] = [Snapshots(moments and {*moments, steps}, record)]
    if on_progress is not None:
        callbacks.append(Progress(on_progress))
    if log_folder is not None:
        callbacks.append(TensorBoard(log_folder))
    try:
        trained, heldout = train_trial(
            config,
            dataset,
            denoiser,
            device,
            spent_seconds=time.monotonic() - started,
            checkpoint=folder / CHECKPOINT,
            callbacks=callbacks,
        )
    except NonFiniteLossError as error:
        if not is_main_process():
            raise
        # The checkpoint of a failed trial, its last good state, stays.
        result = TrialResult(config, folder, Trained(row=row | {"error": str(error)}))
        keep_trial(result)
        return result, None
    pipeline = task.pipeline(config, dataset, denoiser)
    result = TrialResult(config, folder, Trained(row=row | spent(trained)))
    if not is_main_process():  # the first of several processes keeps the model
        return result, pipeline
    keep_trial(result, pipeline, curves_of(trained))
    (folder / CHECKPOINT).unlink(missing_ok=True)
    warn_of_misfit(config, trained, dataset, pipeline, heldout)
    return result, pipeline


def _judge(
    config: TrialConfig,
    trained: TrialResult,
    dataset: Dataset,
    device: str,
    pipeline: SamplePipeline | None,
) -> TrialResult:
    """Judges a trained model as a trial asks, and keeps that; reads the model if it is not given.

    Nothing of an earlier judgement is left.
    """
    if pipeline is None:
        pipeline = pipeline_of(replace(trained, config=config))
        pipeline.to(resolve_device(device))
    task, shared = task_of(config.data), _reference_of(config, dataset)
    samples: Tensor | None = None
    row: Row
    try:
        row, levels, samples = task.judge(config, dataset, pipeline, shared)
    except NonFiniteSamplesError as error:
        row, levels = {"error": str(error)}, []
    judged = Judged(row=row, levels=levels, versions=config.judgement.versions)
    result = replace(trained, config=config, judged=judged)
    keep_trial(result, samples=samples)
    return result


def first_row(config: TrialConfig, denoiser: Denoiser) -> Row:
    """Returns the entries of a trial's row that are known before it is trained."""
    return {
        **config.keys,
        "parameters": denoiser.num_trainable,
        "flops": denoiser.flops,
        "steps": config.training.steps,
        "error": None,
    }


def train_trial(
    config: TrialConfig,
    dataset: Dataset,
    denoiser: Denoiser,
    device: str,
    *,
    spent_seconds: float = 0.0,
    checkpoint: Path | None = None,
    callbacks: Sequence[Callback] = (),
) -> tuple[TrainingResult, Tensor | None]:
    """Trains a trial's denoiser, from its checkpoint if there is one.

    Args:
        config: The trial.
        dataset: Its data set.
        denoiser: Its denoiser.
        device: Device to train on.
        spent_seconds: Seconds that have passed of those that the trial may take.
        checkpoint: As in :func:`~kan_diffusion.training.train`.
        callbacks: As there.

    Returns:
        The result, and the samples that decided when training ended; None without patience.
    """
    started = time.monotonic()
    # Samples that decide when training ends must not judge the trial.
    samples, heldout = dataset.train, None
    conditions = task_of(config.data).conditions(denoiser, dataset)
    of_heldout = dict[str, Tensor]()
    if config.training.patience is not None:
        num = num_held_out(len(samples))
        heldout, samples = samples.tensor_split([num])
        of_heldout = {name: values[:num] for name, values in conditions.items()}
        conditions = {name: values[num:] for name, values in conditions.items()}
    hidden, shape = tuple(denoiser.config.hidden), dataset.shape
    model, place = config.model.model_dump_json(), str(resolve_device(device))
    _warm_up(model, hidden, shape, denoiser.observable, config.process, place)
    with parallel.joined(resolve_device(device)) as where:
        trained = train(
            denoiser,
            config.process,
            samples,
            config.training,
            conditions=conditions,
            heldout=heldout,
            heldout_conditions=of_heldout,
            seed=stream_seed("training", config.study_seed, config.seed, config.data.name),
            device=str(where),
            checkpoint=checkpoint,
            identity=config.identity,
            resume=True,
            reserved=spent_seconds
            + (time.monotonic() - started)
            + _JUDGING_SHARE * (config.training.max_seconds or 0.0),
            callbacks=callbacks,
        )
    return trained, heldout


def warn_of_misfit(
    config: TrialConfig,
    trained: TrainingResult,
    dataset: Dataset,
    pipeline: SamplePipeline,
    heldout: Tensor | None,
) -> None:
    """Warns where points that a model draws are far from those that decided when training ended."""
    if heldout is None or heldout.ndim > 2:
        return
    task, seed = task_of(config.data), config.study_seed
    num = min(len(heldout), DIAGNOSED_ROWS)
    drawn = task.points(pipeline)(num, generator=torch_generator("diagnosis", seed)).samples
    drawn = dataset.standardizer.apply(drawn.cpu().double())
    drawn = task.settled(dataset, drawn, numpy_generator("rows of diagnosis", seed))
    random, size = numpy_generator("diagnosis", seed), pipeline.denoiser.num_trainable
    distinction = task.distinguished(dataset, drawn, heldout, random)
    diagnosis = training_diagnosis(trained, config.training, size, distinction, num)
    if diagnosis is not None:
        logger.warning(diagnosis)


def spent(trained: TrainingResult) -> Row:
    """Returns the entries of a trial's row about its training."""
    return {
        "steps": len(trained.losses),
        "train_seconds": trained.seconds,
        "train_cpu_seconds": trained.cpu_seconds,
        # Of the layer that misses its grid most; None where there is no grid.
        "out_of_range": max(trained.out_of_range.values(), default=None),
    }


def curves_of(trained: TrainingResult) -> pd.DataFrame:
    """Returns loss and learning rate of each step, and where there was a validation its loss."""
    steps = np.arange(1, len(trained.losses) + 1)
    heldout = pd.Series(dict(trained.heldout_losses), dtype=float).reindex(steps)
    return pd.DataFrame(
        {
            "step": steps,
            "loss": trained.losses,
            "learning_rate": trained.learning_rates,
            "heldout_loss": heldout.to_numpy(),
        }
    )
