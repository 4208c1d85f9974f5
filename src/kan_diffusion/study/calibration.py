r"""Seconds of a training step, measured on this machine before a study starts.

A budget of time is met by the number of steps, :math:`\operatorname{round}(\mathrm{budget} / c)`
with c the processor time of one step; the c of every workload is kept in the study's run folder.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Annotated

import torch
from pydantic import Field, TypeAdapter

from kan_diffusion.data.datasets import load_dataset
from kan_diffusion.devices import one_thread
from kan_diffusion.errors import NonFiniteLossError
from kan_diffusion.files import read_as, write_json, write_json_once
from kan_diffusion.study.config import StudyConfig, TrialConfig
from kan_diffusion.study.trial import build
from kan_diffusion.training import train

__all__ = [
    "CALIBRATION",
    "calibrate",
    "estimate_seconds",
    "read_calibration",
    "shared_calibration",
]

CALIBRATION = "calibration.json"

_ROUNDS = 5
_STEPS_A_ROUND = 60
_WARM_UP = 20

_SECONDS = TypeAdapter(dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]])

_START_SECONDS = 8.0
_JUDGING_SECONDS = 4.0
"""Rough times, on a desktop's core, in which workers start and a trial of the default size is
judged."""
_USUAL_SAMPLES = 5_000


def _seconds_a_step(trial: TrialConfig, rounds: int, steps: int) -> float:
    """Processor time of one training step of a trial on this machine, the median of rounds."""
    dataset = load_dataset(trial.data, trial.study_seed, trial.seed)
    training = trial.training.model_copy(update={"steps": steps})
    seconds = []
    for number in range(rounds + 1):
        # The first round is short: it compiles kernels and warms caches.
        shortened = training if number else training.model_copy(update={"steps": _WARM_UP})
        result = train(
            build(trial, dataset), trial.process, dataset.train, shortened, seed=0, device="cpu"
        )
        if number:
            seconds.append(result.cpu_seconds / steps)
    return median(seconds)


def _measure(trials: list[TrialConfig], rotation: int) -> dict[str, float]:
    """Times some trials in a process of its own, beginning with another one in each process."""
    torch.set_num_threads(1)
    for trial in trials:
        trial.import_own()
    shift = rotation % max(len(trials), 1)
    turned = trials[shift:] + trials[:shift]
    return {trial.workload: _seconds_a_step(trial, _ROUNDS, _STEPS_A_ROUND) for trial in turned}


def calibrate(trials: Iterable[TrialConfig], workers: int) -> dict[str, float]:
    """Times one training step of each workload on this machine.

    As many processes measure side by side as trials will run side by side, because they share
    caches and memory; the median over the processes counts.

    Args:
        trials: Trials with a budget of time; one of each workload is timed.
        workers: Number of trials that will run side by side.

    Returns:
        Seconds of processor time a step, by workload.
    """
    distinct = list({trial.workload: trial for trial in trials}.values())
    if not distinct:
        return {}
    workers = max(1, min(workers, os.cpu_count() or 1))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        futures = [
            pool.submit(_measure, distinct, index * len(distinct) // workers)
            for index in range(workers)
        ]
        measured = [future.result() for future in futures]
    return {
        trial.workload: median(seconds[trial.workload] for seconds in measured)
        for trial in distinct
    }


def estimate_seconds(trials: Sequence[TrialConfig], workers: int) -> float:
    """Estimates how long trials take on this machine, for people who wait.

    A few steps of each model are timed on one data set, which takes about a second a model.

    Args:
        trials: The trials to run.
        workers: Number of trials that run side by side.

    Returns:
        Seconds of wall-clock time, right within a factor of about two on a quiet machine.
    """
    if not trials:
        return 0.0
    timed: dict[str, float] = {}
    with one_thread():
        for trial in trials:
            if trial.model.name not in timed:
                timed[trial.model.name] = 0.0  # of a model that diverges at once
                with suppress(NonFiniteLossError):
                    timed[trial.model.name] = _seconds_a_step(trial, 1, _WARM_UP)
    total = sum(
        trial.training.steps * timed[trial.model.name]
        + _JUDGING_SECONDS * trial.evaluation.num_samples / _USUAL_SAMPLES
        for trial in trials
    )
    return _START_SECONDS + total / min(workers, len(trials))


def read_calibration(folder: Path) -> dict[str, float]:
    """Reads the calibration in a run folder.

    Returns:
        Seconds of processor time a step, by workload; empty where there is no calibration.

    Raises:
        RunFolderError: It cannot be read.
    """
    path = folder / CALIBRATION
    if not path.exists():
        return {}
    remedy = "delete it, and the trials of the budget of time are run again"
    return read_as(_SECONDS, path, "a calibration", remedy)


def shared_calibration(config: StudyConfig, folder: Path, workers: int) -> dict[str, float]:
    """Reads the calibration of a study, or makes it and keeps it in the run folder.

    Whoever writes it first decides: a second driver takes over what it finds, so that both mean
    the same trials. A model that was added is measured and added.

    Args:
        config: The study.
        folder: Its run folder.
        workers: Number of trials that will run side by side.

    Returns:
        Seconds of processor time a step, by workload; empty where no budget is of time.
    """
    known = read_calibration(folder)
    timed = [
        trial for trial in config.trials() if trial.match == "time" and trial.workload not in known
    ]
    if not timed:
        return known
    measured = calibrate(timed, workers)
    if known or not write_json_once(folder / CALIBRATION, measured):
        write_json(folder / CALIBRATION, measured | read_calibration(folder))
    return read_calibration(folder)
