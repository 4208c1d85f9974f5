"""The base of all executors: the order of trials, their events, and workers that are lost."""

from __future__ import annotations

import logging
import math
import os
import socket
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from kan_diffusion.errors import KanDiffusionError

if TYPE_CHECKING:
    from kan_diffusion.study.config import TrialConfig

__all__ = [
    "NUM_ATTEMPTS",
    "Executor",
    "Task",
    "TrialEvent",
    "attempt",
    "default_workers",
    "use_one_thread",
]

logger = logging.getLogger(__name__)

NUM_ATTEMPTS = 3
"""Number of times a trial is tried whose worker dies; one that raises is not tried again."""

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Task:
    """A trial and the folder it is kept in."""

    config: TrialConfig
    folder: Path


@dataclass(frozen=True)
class TrialEvent:
    """News of a trial.

    Attributes:
        kind: ``"started"``: a worker took it up; ``"progressed"``; ``"finished"``: it has a result,
            which may say that its training diverged; ``"failed"``: it could not be run; ``"lost"``:
            its worker died, which executors tell :meth:`Executor.run` and nobody else. A trial
            that is over soon may finish without other news.
        trial: Its id.
        step: Number of finished steps.
        loss: Latest loss, NaN where there is none.
        error: Reason why it diverged or failed, when it did.
        worker: Process that runs it, as ``host:process id``; None when it was lost.
        started: Time at which its worker took it up, in seconds since the epoch; NaN before it is
            finished.
        seconds: Wall-clock time its worker spent on it; NaN before it is finished.
    """

    kind: Literal["started", "progressed", "finished", "failed", "lost"]
    trial: str
    step: int = 0
    loss: float = math.nan
    error: str | None = None
    worker: str | None = None
    started: float = math.nan
    seconds: float = math.nan

    @property
    def finished(self) -> bool:
        """Whether the trial is over, with or without success."""
        return self.kind in ("finished", "failed")


class Executor(ABC):
    """Runs trials side by side; ends its workers when its ``with`` block is left.

    A kind of executor gives :meth:`room`, :meth:`submit`, :meth:`collect` and :meth:`close`. The
    order of trials and the policy for lost workers are the same for all kinds.

    Args:
        workers: Number of trials that run at once; one a CPU core, or one for a GPU, when None.
        device: Device to train on.
        address: Address of a cluster, for kinds that have one.
    """

    def __init__(
        self, *, workers: int | None = None, device: str = "auto", address: str | None = None
    ) -> None:
        self.workers = default_workers(device) if workers is None else workers
        self.device = device
        self.address = address

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, trials: Sequence[TrialConfig], folder: Path) -> Iterator[TrialEvent]:
        """Runs trials side by side.

        A trial that fails does not stop the others. A trial whose worker dies (killed, out of
        memory) is tried again, three times in all, and goes on from its checkpoint.

        Args:
            trials: The trials, in the order to start them.
            folder: Folder that holds a folder a trial, named by its id. Machines of a cluster must
                share it.

        Yields:
            The news of the trials; the last of each is ``"finished"`` or ``"failed"``.

        Raises:
            KanDiffusionError: No worker can be started.
        """
        waiting = deque(trials)
        running: dict[str, TrialConfig] = {}
        num_lost: Counter[str] = Counter()

        def hand_out() -> None:
            while waiting and self.room() > 0:
                trial = waiting.popleft()
                running[trial.id] = trial
                self.submit(Task(trial, folder / trial.id))

        hand_out()
        while running:
            events = []
            for event in self.collect():
                if event.trial not in running:
                    continue  # late news of a trial that is over
                if event.kind == "lost":
                    waiting.appendleft(running.pop(event.trial))
                    num_lost[event.trial] += 1
                    if num_lost[event.trial] < NUM_ATTEMPTS:
                        continue
                    waiting.popleft()
                    error = (
                        f"its worker process died {NUM_ATTEMPTS} times ({event.error}); if memory "
                        "was short, run the same command again with fewer --workers"
                    )
                    event = TrialEvent("failed", event.trial, error=error)
                elif event.finished:
                    del running[event.trial]
                events.append(event)
            hand_out()  # no worker waits until everybody has heard the news
            yield from events

    @abstractmethod
    def room(self) -> int:
        """Number of tasks that can be submitted now."""

    @abstractmethod
    def submit(self, task: Task) -> None:
        """Starts a task; does not wait for it."""

    @abstractmethod
    def collect(self) -> Iterable[TrialEvent]:
        """Waits for a moment or for news of submitted tasks.

        Returns:
            The news; after ``"finished"``, ``"failed"`` or ``"lost"`` a task takes no room.
        """

    @abstractmethod
    def close(self) -> None:
        """Interrupts what is running, waits until it has kept its state, and ends the workers."""


def default_workers(device: str) -> int:
    """One worker a CPU core, or one for a GPU."""
    import torch

    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        if hasattr(os, "sched_getaffinity"):
            return len(os.sched_getaffinity(0))
        return os.cpu_count() or 1
    return 1


def use_one_thread() -> None:
    """Keeps the calling worker to one thread; before it imports anything that computes."""
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    import torch

    torch.set_num_threads(1)


def attempt(task: Task, device: str, tell: Callable[[TrialEvent], None]) -> TrialEvent:
    """Runs a trial in a worker.

    Args:
        task: The trial and its folder.
        device: Device to train on.
        tell: Told that the trial has started, and how it goes on. It may raise
            ``KeyboardInterrupt``, upon which the trial keeps its state.

    Returns:
        The last event of the trial; an exception of the trial is one line in it.
    """
    from kan_diffusion.study.trial import run_trial

    trial, worker = task.config.id, f"{socket.gethostname()}:{os.getpid()}"
    tell(TrialEvent("started", trial, worker=worker))
    started, clock = time.time(), time.perf_counter()
    kind: Literal["finished", "failed"] = "finished"
    try:
        result = run_trial(
            task.config,
            task.folder,
            device=device,
            on_progress=lambda step, loss: tell(
                TrialEvent("progressed", trial, step, loss, worker=worker)
            ),
        )
        error = None if result.row["error"] is None else str(result.row["error"])
    except Exception as fault:  # a user's own family may raise anything
        logger.debug("trial %s failed", trial, exc_info=fault)
        kind, error = "failed", str(fault)
        if not isinstance(fault, KanDiffusionError):
            error = " ".join(f"{type(fault).__name__}: {fault}".split())
    return TrialEvent(
        kind,
        trial,
        step=task.config.training.steps,
        error=error,
        worker=worker,
        started=started,
        seconds=time.perf_counter() - clock,
    )
