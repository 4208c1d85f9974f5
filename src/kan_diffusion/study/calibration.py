"""Measures a few training steps to predict how long trials take on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from statistics import median

from kan_diffusion.data.sources import load_dataset
from kan_diffusion.devices import one_thread
from kan_diffusion.errors import NonFiniteLossError
from kan_diffusion.study.config import TrialConfig
from kan_diffusion.study.tasks import task_of
from kan_diffusion.training import train

__all__ = ["estimate_seconds", "step_seconds"]

_ROUNDS = 5
_STEPS_A_ROUND = 60
_WARM_UP = 20

_START_SECONDS = 8.0
"""Rough time on a desktop's core to start workers."""


def step_seconds(trial: TrialConfig, rounds: int = _ROUNDS, steps: int = _STEPS_A_ROUND) -> float:
    """Measures the processor time of a training step on one thread, as a median over rounds.

    Args:
        trial: The trial.
        rounds: Number of rounds.
        steps: Steps per round.
    """
    dataset, task = load_dataset(trial.data, trial.study_seed, trial.seed), task_of(trial.data)
    seconds = []
    with one_thread():
        for number in range(rounds + 1):
            # The first round is short: it compiles kernels and warms caches.
            length = {"steps": steps if number else _WARM_UP}
            no_end = {"processor_seconds": None, "patience": None}
            shortened = trial.training.model_copy(update=length | no_end)
            denoiser = task.build(trial, dataset)
            result = train(
                *(denoiser, trial.process, dataset.train, shortened),
                seed=0,
                conditions=task.conditions(denoiser, dataset),
                device="cpu",
            )
            if number:
                seconds.append(result.cpu_seconds / steps)
    return median(seconds)


def estimate_seconds(trials: Sequence[TrialConfig], workers: int) -> float:
    """Estimates how long trials take on this machine.

    A few steps of each model are timed at each of its sizes, on the first data set it comes with;
    that takes about a second for each.

    Args:
        trials: The trials to run.
        workers: Number of trials that run side by side.

    Returns:
        Seconds of wall-clock time, right within a factor of about two on a quiet machine.
    """
    if not trials:
        return 0.0
    timed: dict[str, float] = {}
    total = 0.0
    for trial in trials:
        model = trial.model.model_dump_json()

        def step(trial: TrialConfig = trial, model: str = model) -> float:
            if model not in timed:
                timed[model] = 0.0  # of a model that diverges at once
                with suppress(NonFiniteLossError):
                    timed[model] = step_seconds(trial, 1, _WARM_UP)
            return timed[model]

        seconds = trial.training.processor_seconds
        total += trial.training.steps * step() if seconds is None else seconds
        total += task_of(trial.data).judging_seconds(trial, step)
    return _START_SECONDS + total / min(workers, len(trials))
