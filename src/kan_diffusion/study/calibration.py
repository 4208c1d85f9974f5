"""Measures a few training steps to predict how long trials take on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from statistics import median

from kan_diffusion.data.datasets import PictureData, load_dataset
from kan_diffusion.devices import one_thread
from kan_diffusion.errors import NonFiniteLossError
from kan_diffusion.study.config import TrialConfig
from kan_diffusion.study.trial import build, told
from kan_diffusion.training import train

__all__ = ["estimate_seconds", "step_seconds"]

_ROUNDS = 5
_STEPS_A_ROUND = 60
_WARM_UP = 20

_START_SECONDS = 8.0
_JUDGING_SECONDS = 4.0
"""Rough times on a desktop's core: to start workers, and to judge a trial of the default size."""
_USUAL_SAMPLES = 5_000

_STEPS_A_DRAW = 2 * 5 / 3
"""Training steps that take as long as a sampler's step on as many pictures. The sampler evaluates
the network twice, with guidance four times; pictures are drawn once without guidance and for two
requests with it. An evaluation takes a third of a training step."""


def step_seconds(trial: TrialConfig, rounds: int = _ROUNDS, steps: int = _STEPS_A_ROUND) -> float:
    """Measures the processor time of a training step on one thread, as a median over rounds.

    Args:
        trial: The trial.
        rounds: Number of rounds.
        steps: Steps per round.
    """
    dataset = load_dataset(trial.data, trial.study_seed, trial.seed)
    seconds = []
    with one_thread():
        for number in range(rounds + 1):
            # The first round is short: it compiles kernels and warms caches.
            length = {"steps": steps if number else _WARM_UP, "processor_seconds": None}
            shortened = trial.training.model_copy(update=length)
            denoiser = build(trial, dataset)
            result = train(
                *(denoiser, trial.process, dataset.train, shortened),
                seed=0,
                conditions=told(denoiser, dataset),
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
        seconds = trial.training.processor_seconds
        model = trial.model.model_dump_json()
        of_pictures, num = isinstance(trial.data, PictureData), trial.judging.num_samples
        if model not in timed and (seconds is None or of_pictures):
            timed[model] = 0.0  # of a model that diverges at once
            with suppress(NonFiniteLossError):
                timed[model] = step_seconds(trial, 1, _WARM_UP)
        total += trial.training.steps * timed[model] if seconds is None else seconds
        if of_pictures:
            steps = num * trial.sampling.steps * _STEPS_A_DRAW / trial.training.batch_size
            total += steps * timed[model]
        else:
            total += _JUDGING_SECONDS * num / _USUAL_SAMPLES
    return _START_SECONDS + total / min(workers, len(trials))
