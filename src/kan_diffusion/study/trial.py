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
from diffusers import DDPMScheduler
from torch import Tensor

from kan_diffusion.data.datasets import Dataset
from kan_diffusion.data.sources import Source, data_from_name, load_dataset
from kan_diffusion.denoisers.base import Denoiser
from kan_diffusion.devices import resolve_device
from kan_diffusion.diffusion.sampling import (
    SamplePipeline,
    even_sampler,
    make_scheduler,
    recorded_states,
)
from kan_diffusion.errors import NonFiniteLossError, NonFiniteSamplesError, RunFolderError
from kan_diffusion.evaluation.diagnostics import DIAGNOSED_ROWS, training_diagnosis
from kan_diffusion.evaluation.metrics import metrics_named
from kan_diffusion.processes import Process
from kan_diffusion.randomness import numpy_generator, stream_seed, torch_generator
from kan_diffusion.ranks import is_main_process
from kan_diffusion.study.config import EvaluationConfig, TrialConfig
from kan_diffusion.study.folder import (
    CHECKPOINT,
    RESULT,
    REVERSE,
    STUDY,
    TRIALS,
    Judged,
    Row,
    Trained,
    TrialResult,
    claimed,
    keep_trial,
    load_trial,
    save_points,
)
from kan_diffusion.study.tasks import Reference, require_judge, task_of
from kan_diffusion.training import parallel
from kan_diffusion.training.callbacks import Progress, Snapshots
from kan_diffusion.training.config import TrainingConfig, num_held_out
from kan_diffusion.training.loop import TrainingResult, train
from kan_diffusion.training.run import Callback

logger = logging.getLogger(__name__)

NUM_PANELS = 11
"""Number of timesteps at which figures show a process, both ends included."""

_JUDGING_SHARE = 0.2
"""Share of a time limit that is kept for judging."""


def record_reverse(config: TrialConfig, dataset: Dataset, pipeline: SamplePipeline) -> Tensor:
    """Records the reverse process at ``NUM_PANELS`` evenly spaced timesteps, noise first.

    Samplers other than ``ddpm`` place their steps unevenly in time; DDIM, or Euler's method for
    flow matching, then takes their place and follows the same deterministic flow. All models of a
    study start from the same noise.

    Args:
        config: The trial.
        dataset: Its data set.
        pipeline: The denoiser with its sampler.

    Returns:
        Standardised samples, or pictures, with shape (panels, num, *shape).
    """
    steps = config.sampling.steps
    if not isinstance(pipeline.scheduler, DDPMScheduler):
        scheduler = make_scheduler(even_sampler(pipeline.process), pipeline.process)
        pipeline = type(pipeline).from_pipe(pipeline, scheduler=scheduler)
        steps = 5 * (NUM_PANELS - 1)
    generator = torch_generator("reverse process", config.study_seed, config.data.name)
    draw = task_of(config.data).to_show(pipeline, dataset, config)
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


def run_trial(
    config: TrialConfig,
    folder: Path,
    *,
    device: str = "auto",
    spent_seconds: float = 0.0,
    on_progress: Callable[[int, float], object] | None = None,
    callbacks: Sequence[Callback] = (),
) -> TrialResult:
    """Does what is missing of a trial: trains it, from its checkpoint if it has one, and judges it.

    Args:
        config: The trial.
        folder: Folder to keep it in; made when missing.
        device: Device to train and sample on.
        spent_seconds: Seconds that have passed of those that the trial may take.
        on_progress: Called with the number of finished steps and the loss.
        callbacks: Other callbacks of training.

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
    where = resolve_device(device)  # refused before the folder is made
    progress = [] if on_progress is None else [Progress(on_progress)]
    with claimed(folder) if is_main_process() else nullcontext():
        started, pipeline = time.monotonic() - spent_seconds, None
        result = load_trial(folder, config)  # another process may have finished it by now
        if result is not None and result.answers(config):
            return result
        dataset = load_dataset(config.data, config.study_seed, config.seed)
        require_judge(dataset)
        if result is None:
            recorder = _recorder(config, dataset, folder)
            try:
                result, pipeline, curves = train_trial(
                    config,
                    dataset,
                    str(where),
                    folder=folder,
                    spent_seconds=time.monotonic() - started,
                    callbacks=[recorder, *progress, *callbacks],
                )
            except NonFiniteLossError as error:
                if not is_main_process():
                    raise
                # The checkpoint of a failed trial, its last good state, stays.
                row = first_row(config, task_of(config.data).build(config, dataset))
                result = TrialResult(config, folder, Trained(row=row | {"error": str(error)}))
                keep_trial(result)
                return result
            if not is_main_process():  # the first of several processes keeps the model
                return result
            keep_trial(result, pipeline, curves)
            (folder / CHECKPOINT).unlink(missing_ok=True)
        if pipeline is None:
            pipeline = _pipeline_of(replace(result, config=config))
            pipeline.to(where)
        shared = _shared_reference(
            config.data,
            config.process,
            config.judging,
            config.study_seed,
            config.seed if dataset.oracle == "none" else 0,
            *metrics_named(config.evaluation.metrics).values(),
        )
        try:
            judged, samples = task_of(config.data).judge(config, dataset, pipeline, shared)
        except NonFiniteSamplesError as error:
            versions, samples = config.judgement.versions, None
            judged = Judged(row={"error": str(error)}, levels=[], versions=versions)
        result = replace(result, config=config, judged=judged)  # nothing of an earlier one is left
        keep_trial(result, samples=samples)
        return result


def _recorder(config: TrialConfig, dataset: Dataset, folder: Path) -> Snapshots:
    """Makes the callback that records the reverse process at the trial's moments of training."""
    steps, task = config.training.steps, task_of(config.data)
    moments = {round(fraction * steps) for fraction in config.evaluation.moments}

    def record(step: int, current: Denoiser) -> None:
        # Written at once, so that a run that is killed and resumed still has it.
        try:
            panels = record_reverse(config, dataset, task.pipeline(config, dataset, current))
        except NonFiniteSamplesError as error:
            logger.info("no picture of the reverse process at step %d: %s", step, error)
            return
        save_points(folder / REVERSE / f"{step}.safetensors", panels)

    return Snapshots(moments and {*moments, steps}, record)


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
    device: str,
    *,
    folder: Path | None = None,
    spent_seconds: float = 0.0,
    callbacks: Sequence[Callback] = (),
) -> tuple[TrialResult, SamplePipeline, pd.DataFrame]:
    """Builds and trains a trial's model, from its checkpoint if there is one.

    Warns where points that it draws are far from those that decided when training ended.

    Args:
        config: The trial.
        dataset: Its data set.
        device: Device to train on.
        folder: Folder of the trial, which has its checkpoint; None keeps none.
        spent_seconds: Seconds that have passed of those that the trial may take.
        callbacks: Other callbacks, see :func:`~kan_diffusion.training.loop.train`.

    Returns:
        The trial, its pipeline, and loss and learning rate of each step with the losses of
        validation where there were any.

    Raises:
        NonFiniteLossError: The loss became infinite or NaN.
    """
    started, task = time.monotonic(), task_of(config.data)
    denoiser = task.build(config, dataset)
    # Samples that decide when training ends must not judge the trial.
    samples, heldout = dataset.train, None
    conditions = task.conditions(denoiser, dataset)
    of_heldout = dict[str, Tensor]()
    if config.training.patience is not None:
        num = num_held_out(len(samples))
        heldout, samples = samples.tensor_split([num])
        of_heldout = {name: values[:num] for name, values in conditions.items()}
        conditions = {name: values[num:] for name, values in conditions.items()}
    where = resolve_device(device)
    # Another model takes two steps first: loading or compiling kernels is no training time.
    few, given = TrainingConfig(steps=2, batch_size=8), {k: v[:8] for k, v in conditions.items()}
    other = task.build(config, dataset)
    train(other, config.process, samples[:8], few, conditions=given, seed=0, device=str(where))
    with parallel.joined(where) as place:
        trained = train(
            denoiser,
            config.process,
            samples,
            config.training,
            conditions=conditions,
            heldout=heldout,
            heldout_conditions=of_heldout,
            seed=stream_seed("training", config.study_seed, config.seed, config.data.name),
            device=str(place),
            checkpoint=None if folder is None else folder / CHECKPOINT,
            identity=config.id,
            resume=True,
            reserved=spent_seconds
            + (time.monotonic() - started)
            + _JUDGING_SHARE * (config.training.max_seconds or 0.0),
            callbacks=callbacks,
        )
    pipeline = task.pipeline(config, dataset, denoiser)
    if heldout is not None and heldout.ndim == 2 and is_main_process():
        _warn_of_misfit(config, trained, dataset, pipeline, heldout)
    row = {
        **first_row(config, denoiser),
        "steps": len(trained.losses),
        "train_seconds": trained.seconds,
        "train_cpu_seconds": trained.cpu_seconds,
        # Of the layer that misses its grid most; None where there is no grid.
        "out_of_range": max(trained.out_of_range.values(), default=None),
    }
    steps = np.arange(1, len(trained.losses) + 1)
    curves = pd.DataFrame(
        {
            "step": steps,
            "loss": trained.losses,
            "learning_rate": trained.learning_rates,
            "heldout_loss": pd.Series(dict(trained.heldout_losses), dtype=float)
            .reindex(steps)
            .to_numpy(),
        }
    )
    return TrialResult(config, folder or Path(), Trained(row=row)), pipeline, curves


def _warn_of_misfit(
    config: TrialConfig,
    trained: TrainingResult,
    dataset: Dataset,
    pipeline: SamplePipeline,
    heldout: Tensor,
) -> None:
    """Warns where points that a model draws are far from those that decided when training ended."""
    task, seed = task_of(config.data), config.study_seed
    num = min(len(heldout), DIAGNOSED_ROWS)
    try:
        drawn = task.points(pipeline)(num, generator=torch_generator("diagnosis", seed)).samples
    except NonFiniteSamplesError:  # which is what judging says, after the model is kept
        return
    drawn = dataset.standardizer.apply(drawn.cpu().double())
    drawn = task.settled(dataset, drawn, numpy_generator("rows of diagnosis", seed))
    random, size = numpy_generator("diagnosis", seed), pipeline.denoiser.num_trainable
    distinction = task.distinguished(dataset, drawn, heldout, random)
    diagnosis = training_diagnosis(trained, config.training, size, distinction, num)
    if diagnosis is not None:
        logger.warning(diagnosis)


def trained_run(folder: Path) -> TrialResult:
    """Reads a run with a trained model.

    Args:
        folder: The run's folder.

    Raises:
        RunFolderError: There is none in the folder.
    """
    trial = load_trial(folder)
    if trial is None:
        remedy = "train one with 'kan-diffusion train'"
        for explanation in (folder, folder.parent):
            if (explanation / "formulas.json").exists():
                stages = sorted(path.parent.name for path in explanation.glob(f"*/{RESULT}"))
                remedy = f"this explanation has the stages {', '.join(stages)}"
        if (folder / STUDY).exists():
            trials = sorted((folder / TRIALS).glob("[!.]*"))
            some = f", such as '{trials[0]}'" if trials else ""
            remedy = f"it is a study; give one of its trials{some}"
        elif (folder / CHECKPOINT).exists():
            remedy = "its training has not finished; the same command goes on with it"
        raise RunFolderError(f"'{folder}' holds no finished run: {remedy}")
    if trial.row["error"] is not None:
        raise RunFolderError(f"the run in '{folder}' failed: {trial.row['error']}")
    return trial


def load_run(folder: Path) -> tuple[TrialConfig, SamplePipeline]:
    """Reads a run: its configuration and its pipeline, with the sampler of its study.

    Raises:
        RunFolderError: As of :func:`trained_run`, or its denoiser cannot be read.
    """
    trial = trained_run(folder)
    return trial.config, _pipeline_of(trial)


def _pipeline_of(trial: TrialResult) -> SamplePipeline:
    scheduler = make_scheduler(trial.config.sampling.scheduler, trial.config.process)
    kind = task_of(trial.config.data).pipeline_class
    return kind.from_pretrained(trial.folder, scheduler=scheduler)


def evaluate_run(folder: Path, data: str | None = None) -> tuple[Row, str]:
    """Judges a finished run, with the effort of its settings.

    Args:
        folder: The run's folder.
        data: A file or a toy to judge it with; the run's own data when None. Of the file it was
            trained on, only the held-out rows are used.

    Returns:
        The measured row, and one line that says which samples were used.

    Raises:
        RunFolderError: The folder holds no finished run.
        DataError: The data cannot be used.
    """
    config, pipeline = load_run(folder)
    task, own = task_of(config.data), config.data
    if data is None:
        own.require_recorded()
    other = own if data is None else data_from_name(data, pinned=False)
    if is_own := other is own or own.is_same(other):
        dataset = load_dataset(own, config.study_seed, config.seed)
    else:
        dataset = task.for_judging(config, pipeline, other)
    require_judge(dataset)
    used = f"fresh {task.noun} of '{dataset.name}'"
    if dataset.heldout is not None:
        used = f"{len(dataset.heldout):,} {task.noun} of '{dataset.name}'"
        # Another file may hold the same rows in another form.
        used += " that were not" if is_own else ", which must not have been"
        used += " trained on"
    known = {"exact": ", whose oracle is exact", "none": "; no oracle is known"}[dataset.oracle]
    shared = task.reference(dataset, config.process, config.judging, config.study_seed, config.seed)
    judged, _ = task.judge(config, dataset, pipeline, shared)
    return judged.row, used + known
