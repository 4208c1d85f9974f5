"""The base of all executors: the order of trials, their events, and the loss of workers."""

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

from kan_diffusion.errors import OUT_OF_MEMORY, KanDiffusionError, is_out_of_memory

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
"""Number of times that a trial is tried if its worker dies; a trial that raises is not repeated."""

_TAKEN_SECONDS = 0.5

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Task:
    """A trial and the folder it is kept in."""

    config: TrialConfig
    folder: Path


@dataclass(frozen=True)
class TrialEvent:
    """An event of a trial.

    Attributes:
        kind: ``"started"``: a worker runs it; ``"progressed"``; ``"finished"``: it has a result,
            which may say that its training diverged; ``"failed"``: it could not be run. Only
            :meth:`Executor.run` sees ``"lost"``: its worker died; and ``"taken"``: another driver
            is running it. A short trial may finish without other events.
        trial: Its id.
        step: Number of finished steps.
        loss: Latest loss, NaN where there is none.
        error: Reason why it diverged, failed or is taken, if so.
        worker: Process that runs it, as ``host:process id``; None when it was lost.
        started: Time at which its worker started it, in seconds since the epoch; NaN before it is
            finished.
        seconds: Wall-clock time its worker spent on it; NaN before it is finished.
    """

    kind: Literal["started", "progressed", "finished", "failed", "lost", "taken"]
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

    A subclass implements :meth:`room`, :meth:`submit`, :meth:`collect` and :meth:`close`. The order
    of trials and the policy for lost workers are the same for all kinds.

    Args:
        workers: Number of trials that run at once; when None one per CPU core, or one on a GPU.
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
        memory) is tried up to three times in all and resumes from its checkpoint. A trial that
        another driver is running is tried again after the others.

        Args:
            trials: The trials, in the order to start them.
            folder: Folder that holds one folder per trial, named by its id. Machines of a cluster
                must share it.

        Yields:
            The events of the trials; the last of each trial is ``"finished"`` or ``"failed"``.

        Raises:
            KanDiffusionError: No worker can be started.
        """
        waiting = deque(trials)
        running: dict[str, TrialConfig] = {}
        num_lost, num_taken = Counter[str](), Counter[str]()

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
                    continue  # a late event of a trial that is over
                if event.kind == "taken":
                    waiting.append(running.pop(event.trial))
                    num_taken[event.trial] += 1
                    if num_taken[event.trial] == 2:  # there is little else to do
                        logger.warning("waiting: %s", event.error)
                    continue
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
            hand_out()  # first, so that no worker waits while events are handled
            yield from events

    @abstractmethod
    def room(self) -> int:
        """Number of tasks that can be submitted now."""

    @abstractmethod
    def submit(self, task: Task) -> None:
        """Starts a task; does not wait for it."""

    @abstractmethod
    def collect(self) -> Iterable[TrialEvent]:
        """Waits for a moment or for events of submitted tasks.

        Returns:
            The events; after ``"finished"``, ``"failed"`` or ``"lost"`` a task takes no room.
        """

    @abstractmethod
    def close(self) -> None:
        """Interrupts running trials, waits until their state is saved, and ends the workers."""


def default_workers(device: str) -> int:
    """Returns one worker per CPU core, or one for a GPU."""
    import torch

    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        if hasattr(os, "sched_getaffinity"):
            return len(os.sched_getaffinity(0))
        return os.cpu_count() or 1
    return 1


def use_one_thread() -> None:
    """Limits the calling worker to one thread; to be called before it imports torch or NumPy."""
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    import torch

    torch.set_num_threads(1)


def attempt(task: Task, device: str, tell: Callable[[TrialEvent], None]) -> TrialEvent:
    """Runs a trial in a worker.

    Args:
        task: The trial and its folder.
        device: Device to train on.
        tell: Called when the trial starts and as it progresses. If it raises
            ``KeyboardInterrupt``, the trial saves its state and ends.

    Returns:
        The last event of the trial; an exception of the trial becomes one line of it.
    """
    from kan_diffusion.study.folder import TrialTakenError
    from kan_diffusion.study.trial import run_trial

    trial, worker = task.config.id, f"{socket.gethostname()}:{os.getpid()}"
    tell(TrialEvent("started", trial, worker=worker))
    started, clock = time.time(), time.perf_counter()
    kind: Literal["finished", "failed", "taken"] = "finished"
    try:
        task.config.import_own()  # the driver has imported the same
        result = run_trial(
            task.config,
            task.folder,
            device=device,
            on_progress=lambda step, loss: tell(
                TrialEvent("progressed", trial, step, loss, worker=worker)
            ),
        )
        error = None if result.row["error"] is None else str(result.row["error"])
    except TrialTakenError as taken:
        time.sleep(_TAKEN_SECONDS)  # how often to ask if all that are left are taken
        kind, error = "taken", str(taken)
    except Exception as fault:  # a user's own family may raise anything
        logger.debug("trial %s failed", trial, exc_info=fault)
        kind, error = "failed", str(fault)
        if is_out_of_memory(fault):
            error = OUT_OF_MEMORY
        elif not isinstance(fault, KanDiffusionError):
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
