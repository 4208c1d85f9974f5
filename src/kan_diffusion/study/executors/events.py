"""What executors tell, and what all of them do with a trial in a worker."""

from __future__ import annotations

import logging
import math
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kan_diffusion.errors import KanDiffusionError

if TYPE_CHECKING:
    from kan_diffusion.study.config import TrialConfig

__all__ = [
    "NUM_ATTEMPTS",
    "EventCallback",
    "Outcome",
    "TrialEvent",
    "attempt",
    "use_one_thread",
    "worker_lost",
    "worker_name",
]

logger = logging.getLogger(__name__)

NUM_ATTEMPTS = 3
"""How often a trial is tried whose worker dies; one that fails by itself is not tried again."""

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class TrialEvent:
    """News of a trial.

    Attributes:
        trial: Its id.
        step: Number of finished steps.
        loss: Latest loss, NaN before the first.
        finished: Whether the trial is done, with or without success.
        error: Why it failed, when it did.
        worker: Process that runs it, as ``host:process id``; None when it was lost.
        started: Of a finished trial, when its worker took it up, in seconds since the epoch; NaN
            otherwise.
        seconds: The wall-clock time its worker then spent on it.
    """

    trial: str
    step: int
    loss: float
    finished: bool = False
    error: str | None = None
    worker: str | None = None
    started: float = math.nan
    seconds: float = math.nan


EventCallback = Callable[[TrialEvent], None]


@dataclass(frozen=True)
class Outcome:
    """What became of a trial in a worker.

    Attributes:
        error: Why it failed, None when it did not.
        raised: Whether it could not be run at all; one whose loss diverged has a result.
        worker: Process that ran it, None when it was lost.
        started: When it was taken up, in seconds since the epoch.
        seconds: Wall-clock time spent on it.
    """

    error: str | None
    raised: bool
    worker: str | None = None
    started: float = math.nan
    seconds: float = math.nan

    def event(self, trial: TrialConfig) -> TrialEvent:
        """The news that a trial is done."""
        return TrialEvent(
            trial.id,
            trial.training.steps,
            math.nan,
            finished=True,
            error=self.error,
            worker=self.worker,
            started=self.started,
            seconds=self.seconds,
        )


def worker_name() -> str:
    """The calling process, as ``host:process id``."""
    return f"{socket.gethostname()}:{os.getpid()}"


def use_one_thread() -> None:
    """Keeps the calling worker to one thread; before it imports anything that computes."""
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    import torch

    torch.set_num_threads(1)


def attempt(
    config: TrialConfig, folder: Path, device: str, on_progress: Callable[[int, float], None]
) -> Outcome:
    """Runs a trial in a worker; what it raises becomes a line.

    Args:
        config: The trial.
        folder: Where it is kept.
        device: Where to train.
        on_progress: Told the number of finished steps and the loss.

    Raises:
        KeyboardInterrupt: The trial was told to stop, and has kept its state.
    """
    from kan_diffusion.study.trial import run_trial

    started, clock = time.time(), time.perf_counter()
    error: str | None
    try:
        told = run_trial(config, folder, device=device, on_progress=on_progress).row["error"]
        error, raised = None if told is None else str(told), False
    except Exception as fault:  # somebody's own family may raise anything
        logger.debug("trial %s failed", config.id, exc_info=fault)
        error, raised = _line(fault), True
    return Outcome(error, raised, worker_name(), started, time.perf_counter() - clock)


def _line(error: Exception) -> str:
    if isinstance(error, KanDiffusionError):
        return str(error)
    return " ".join(f"{type(error).__name__}: {error}".split())


def worker_lost(reason: str) -> str:
    """What is said of a trial that took its worker with it as often as it was tried."""
    return (
        f"its worker process died {NUM_ATTEMPTS} times ({reason}); if memory was short, run the "
        "same command again with fewer --workers"
    )
