"""Trials in processes of this machine.

The driver starts workers and holds a pipe to each. A worker is given one trial at a time, and the
next one before anybody is told of the last. Over the same pipe come its news, and the order to
stop. A worker that dies loses its trial and nothing else.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING

from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.study.executors.events import (
    NUM_ATTEMPTS,
    EventCallback,
    Outcome,
    TrialEvent,
    attempt,
    use_one_thread,
    worker_lost,
    worker_name,
)

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from kan_diffusion.study.config import TrialConfig

__all__ = ["default_workers", "run_locally"]

_NUM_FALSE_STARTS = 3
"""After so many workers in a row that died before they were ready, there is no point in more."""


def default_workers(device: str) -> int:
    """One worker a CPU core, or one for a GPU."""
    import torch

    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return (
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1
        )
    return 1


@dataclass(frozen=True)
class _Ready:
    """A worker's first message."""

    worker: str


@dataclass(frozen=True)
class _Task:
    """What a worker is given; None instead tells it to stop, in the middle of a trial, too."""

    config: TrialConfig
    folder: Path
    device: str


_Message = _Ready | TrialEvent | Outcome

if TYPE_CHECKING:
    # What there is to wait on for a worker: its pipe, and the handle that says that it has ended.
    _Source = Connection[_Task | None, _Message] | int


# In a worker


def _serve(connection: Connection[_Message, _Task | None]) -> None:
    """Runs trials until told to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the driver, which decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    use_one_thread()
    from kan_diffusion.study import trial  # noqa: F401  # before the first trial, not in it

    name = worker_name()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the driver is gone
        connection.send(_Ready(name))
        while (task := connection.recv()) is not None:
            try:
                outcome = _run(task, connection, name)
            except KeyboardInterrupt:
                return
            connection.send(outcome)


def _run(task: _Task, connection: Connection[_Message, _Task | None], name: str) -> Outcome:
    def report(step: int, loss: float) -> None:
        if connection.poll():  # all that comes while a trial runs is the order to stop
            raise KeyboardInterrupt  # training keeps its state and ends
        connection.send(TrialEvent(task.config.id, step, loss, worker=name))

    return attempt(task.config, task.folder, task.device, report)


def _end_with_parent() -> None:
    """Ends this worker when the study is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


# In the driver


@contextmanager
def _interrupts_deferred() -> Iterator[None]:
    """Processes started inside never hear Ctrl-C; the calling one hears it afterwards."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # as it starts it would lift what is blocked here
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Worker:
    """A worker process as its driver sees it."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        with _interrupts_deferred():
            self.process.start()
        theirs.close()  # so that the pipe ends when the process does
        self.name: str | None = None
        """Known when it is ready."""
        self.trial: TrialConfig | None = None
        """What it was given and has not given back."""
        self.reachable = True

    def sources(self) -> list[_Source]:
        """What to wait on for news of it."""
        if self.reachable:
            return [self.connection, self.process.sentinel]
        return [self.process.sentinel]

    def give(self, task: _Task | None) -> None:
        """Sends a task; one that died will be found dead."""
        with suppress(OSError):
            self.connection.send(task)

    def messages(self) -> Iterator[_Message]:
        """What it has sent so far."""
        try:
            while self.reachable and self.connection.poll():
                yield self.connection.recv()
        except (EOFError, OSError):
            self.reachable = False

    def ending(self) -> str:
        """How the process ended."""
        code = self.process.exitcode
        if code is not None and code < 0:
            with suppress(ValueError):
                return signal.Signals(-code).name
        return f"exit code {code}"


class _Pool:
    """The driver's part of one call of :func:`run_locally`."""

    def __init__(
        self,
        trials: Sequence[TrialConfig],
        folder_of: Callable[[TrialConfig], Path],
        device: str,
        num_workers: int,
        on_event: EventCallback,
    ) -> None:
        self.failures: dict[str, str] = {}
        self._waiting = deque(trials)
        self._folder_of = folder_of
        self._device = device
        self._num_workers = num_workers
        self._on_event = on_event
        self._workers: list[_Worker] = []
        self._num_lost: Counter[str] = Counter()
        self._false_starts = 0

    def run(self) -> None:
        """Runs all trials."""
        while self._staff():
            sources = [(s, worker) for worker in self._workers for s in worker.sources()]
            owners: dict[object, _Worker] = dict(sources)
            for worker in dict.fromkeys(owners[s] for s in wait([s for s, _ in sources])):
                for message in worker.messages():
                    self._take(worker, message)
                if not worker.process.is_alive():
                    self._bury(worker)

    def stop(self) -> None:
        """Ends the workers; running trials keep their state."""
        for worker in self._workers:
            worker.give(None)
            if worker.name is None:  # it would first import all it needs
                worker.process.terminate()
        for worker in self._workers:
            worker.process.join()
            worker.connection.close()

    def _staff(self) -> bool:
        """Sees to it that there are workers for what is to be done; False when nothing is."""
        busy = sum(worker.trial is not None for worker in self._workers)
        for worker in self._workers:
            if self._waiting and worker.name is not None and worker.trial is None:
                self._hand_out(worker)
                busy += 1
        for _ in range(min(self._num_workers, busy + len(self._waiting)) - len(self._workers)):
            self._workers.append(_Worker())
        return busy > 0 or len(self._waiting) > 0

    def _hand_out(self, worker: _Worker) -> None:
        trial = self._waiting.popleft()
        worker.trial = trial
        worker.give(_Task(trial, self._folder_of(trial), self._device))

    def _take(self, worker: _Worker, message: _Message) -> None:
        """Takes up a message; what the worker does next comes before what is told of it."""
        if isinstance(message, TrialEvent):
            self._on_event(message)
            return
        done, worker.trial = worker.trial, None
        if isinstance(message, _Ready):
            worker.name = message.worker
            self._false_starts = 0
        if self._waiting:
            self._hand_out(worker)
        if isinstance(message, Outcome):
            assert done is not None
            self._finish(done, message)
        if worker.trial is not None:
            self._on_event(TrialEvent(worker.trial.id, 0, math.nan, worker=worker.name))

    def _bury(self, worker: _Worker) -> None:
        """Takes up the trial of a worker that died."""
        self._workers.remove(worker)
        worker.process.join()
        worker.connection.close()
        if worker.name is None:
            self._false_starts += 1
            if self._false_starts == _NUM_FALSE_STARTS:
                raise KanDiffusionError(
                    f"worker processes do not start ({worker.ending()}); a script that runs a "
                    "study does so under 'if __name__ == \"__main__\":', and the first lines that "
                    "a worker wrote on standard error say more"
                )
        trial = worker.trial
        if trial is None:
            return
        self._num_lost[trial.id] += 1
        if self._num_lost[trial.id] < NUM_ATTEMPTS:
            self._waiting.appendleft(trial)
            return
        self._finish(trial, Outcome(worker_lost(worker.ending()), raised=True))

    def _finish(self, trial: TrialConfig, outcome: Outcome) -> None:
        if outcome.raised:
            self.failures[trial.id] = str(outcome.error)
        self._on_event(outcome.event(trial))


def run_locally(
    trials: Sequence[TrialConfig],
    folder_of: Callable[[TrialConfig], Path],
    *,
    device: str,
    workers: int,
    on_event: EventCallback,
    address: str | None,
) -> dict[str, str]:
    """Runs trials in processes of this machine; see ``run_trials``.

    Raises:
        KanDiffusionError: An address is given, or no worker process starts.
        KeyboardInterrupt: Ctrl-C, once the running trials have kept their state.
    """
    if address is not None:
        raise KanDiffusionError(
            f"--address '{address}' is of a Ray cluster and trials run on this machine; add "
            "--executor ray"
        )
    pool = _Pool(trials, folder_of, device, workers, on_event)
    try:
        pool.run()
    finally:
        pool.stop()
    return pool.failures
