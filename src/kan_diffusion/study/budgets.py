r"""Budgets: what is held equal between the models of a comparison.

- ``params``: trainable parameters;
- ``flops``: floating-point operations of a forward pass for one point, as this package does them,
  with one evaluation of the basis an input;
- ``flops-per-edge``: the same by the convention of Yu et al. (2024, arXiv:2407.16674), in which
  every edge of a KAN evaluates its functions itself;
- ``time``: seconds of processor time of training, one thread.

The first three are met by the widths of the hidden layers, within 2 %. The last is met by the
number of steps: with c the time of one step, measured on the machine before the study starts,

.. math:: \mathrm{steps} = \operatorname{round}(\mathrm{budget} / c),

for models whose size is given beside it. What a trial really used is in its row.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from kan_diffusion.errors import KanDiffusionError, RunFolderError
from kan_diffusion.files import write_json, write_json_once

if TYPE_CHECKING:
    from kan_diffusion.study.config import StudyConfig, TrialConfig

__all__ = [
    "MATCHES",
    "Budget",
    "Calibration",
    "Match",
    "calibrate",
    "read_calibration",
    "shared_calibration",
]

Match = Literal["params", "flops", "flops-per-edge", "time"]
MATCHES: tuple[str, ...] = get_args(Match)
"""What can be held equal."""

Calibration = Mapping[str, float]
"""Seconds of processor time of one training step, by :meth:`TrialConfig.workload`."""

CALIBRATION = "calibration.json"

_ROUNDS = 5
_STEPS_A_ROUND = 60
_WARM_UP = 20


class Budget(BaseModel):
    """An amount of something that all models get.

    Attributes:
        match: What is held equal.
        amount: How much: parameters, operations, or seconds.
        params: With ``time``, the number of parameters of models that have no size of their own.
        data: Names of the data sets it is for; all when None.
        models: Names of the models it is for; all when None.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    match: Match = "params"
    amount: float = Field(gt=0, allow_inf_nan=False)
    params: int | None = Field(None, ge=1)
    data: tuple[str, ...] | None = None
    models: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _whole_and_sized(self) -> Self:
        if self.match != "time":
            if self.params is not None:
                raise KanDiffusionError(f"a budget of {self.match} has no params beside it")
            if self.amount != int(self.amount):
                raise KanDiffusionError(f"a budget of {self.match} is a whole number")
        return self

    @property
    def size(self) -> dict[str, int]:
        """The size it gives a model that has none of its own, as settings of a model."""
        if self.match == "time":
            return {} if self.params is None else {"params": self.params}
        return {self.match.replace("-", "_"): int(self.amount)}


def _seconds_a_step(trial: TrialConfig, rounds: int, steps: int) -> float:
    """Processor time of one training step of a trial on this machine, the median of rounds."""
    from kan_diffusion.data.datasets import load_dataset
    from kan_diffusion.study.trial import build
    from kan_diffusion.training import train

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
    """Runs in a process of its own: times some trials, beginning with another one in each."""
    import torch

    torch.set_num_threads(1)
    shift = rotation % max(len(trials), 1)
    turned = trials[shift:] + trials[:shift]
    return {trial.workload: _seconds_a_step(trial, _ROUNDS, _STEPS_A_ROUND) for trial in turned}


def calibrate(trials: Iterable[TrialConfig], workers: int) -> dict[str, float]:
    """Times one training step of each workload on this machine.

    As many processes measure side by side as trials will run side by side, because they share
    caches and memory; the median over the processes counts.

    Args:
        trials: Trials with a budget of time; one of each workload is timed.
        workers: How many trials will run side by side.

    Returns:
        Seconds of processor time a step, by workload.
    """
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

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


def read_calibration(folder: Path) -> dict[str, float]:
    """The calibration a run folder holds, empty where there is none.

    Raises:
        RunFolderError: It cannot be read.
    """
    path = folder / CALIBRATION
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text())
        return {str(key): float(value) for key, value in content.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise RunFolderError(
            f"'{path}' cannot be read ({error}); delete it, and the trials of the budget of time "
            "are run again"
        ) from error


def shared_calibration(config: StudyConfig, folder: Path, workers: int) -> dict[str, float]:
    """The calibration of a study, made where it is missing and kept in its run folder.

    Whoever writes it first decides: a second driver takes over what it finds, so that both mean
    the same trials. What a calibration lacks (a model that was added) is measured and added.
    """
    known = read_calibration(folder)
    timed = [
        trial
        for trial in config.trials(None)
        if trial.match == "time" and trial.workload not in known
    ]
    if not timed:
        return known
    measured = calibrate(timed, workers)
    if known or not write_json_once(folder / CALIBRATION, measured):
        write_json(folder / CALIBRATION, measured | read_calibration(folder))
    return read_calibration(folder)
