"""Trials in processes of this machine.

The driver starts workers and holds a pipe to each, for trials, events and the order to stop. A
worker has one trial at a time; if it dies, only this trial is lost. Imports take seconds, so on
Linux workers are forked from a server that has already imported everything.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Literal

from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.interrupts import INTERRUPTS
from kan_diffusion.study.executors.base import Executor, Task, TrialEvent, attempt, use_one_thread

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkServerContext, SpawnContext

    # What the driver waits on for a worker: its pipe, and the handle that signals its end.
    _Source = Connection[Task | None, TrialEvent | Literal["ready"]] | int

__all__ = ["LocalExecutor"]

_NUM_FALSE_STARTS = 3
"""The executor gives up after this many workers in a row that died before they were ready."""


def _serve(
    connection: Connection[TrialEvent | Literal["ready"], Task | None],
    device: str,
    environment: dict[str, str],
) -> None:
    """Runs trials in a worker until told to stop."""
    for number in INTERRUPTS:  # they reach the driver, too, which decides
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.update(environment)  # the server's environment may be outdated
    use_one_thread()
    from kan_diffusion.study.executors import preload  # noqa: F401  # before the first trial

    def tell(event: TrialEvent) -> None:
        if connection.poll():  # while a trial runs, only the order to stop comes
            raise KeyboardInterrupt  # training saves its state and ends
        connection.send(event)

    # The driver may be gone, and an interrupted trial ends its worker.
    with suppress(EOFError, BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        connection.send("ready")
        while (task := connection.recv()) is not None:
            connection.send(attempt(task, device, tell))


def _end_with_parent() -> None:
    """Ends this worker when the driver is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextmanager
def _interrupts_deferred() -> Iterator[None]:
    """Blocks interrupts in processes started inside; the caller receives them afterwards."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # its start would unblock the signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _context() -> ForkServerContext | SpawnContext:
    """Chooses how workers start: forked from a server that has the imports, or else spawned."""
    if sys.platform != "linux":  # Apple's frameworks may not be forked once they are loaded
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([f"{__package__}.preload"])
    return context


class _Worker:
    """A worker process, as seen by its driver.

    Attributes:
        task: The task it has; None when it is idle.
        ready: Whether it has imported all that it needs.
    """

    def __init__(self, device: str) -> None:
        context = _context()
        self.connection, theirs = context.Pipe()
        given = theirs, device, dict(os.environ)
        self.process = context.Process(target=_serve, args=given, daemon=True)
        with _interrupts_deferred():
            self.process.start()
        theirs.close()  # so that the pipe closes when the process ends
        self.task: Task | None = None
        self.ready = False
        self._reachable = True

    def sources(self) -> list[_Source]:
        """Lists the objects to wait on for its events and its end."""
        return [*([self.connection] if self._reachable else []), self.process.sentinel]

    def give(self, task: Task | None) -> None:
        """Sends a task, or None to stop the worker; a dead worker is noticed later."""
        self.task = task
        with suppress(OSError):
            self.connection.send(task)

    def events(self) -> Iterator[TrialEvent]:
        """Yields the events it has sent so far."""
        try:
            while self._reachable and self.connection.poll():
                message = self.connection.recv()
                if isinstance(message, TrialEvent):
                    if message.finished or message.kind == "taken":
                        self.task = None
                    yield message
                else:
                    self.ready = True
        except (EOFError, OSError):
            self._reachable = False

    def join(self) -> None:
        """Waits for its end."""
        self.process.join()
        self.connection.close()

    def ending(self) -> str:
        """How the process ended, in words."""
        code = self.process.exitcode
        if code is not None and code < 0:
            with suppress(ValueError):
                return signal.Signals(-code).name
        return f"exit code {code}"


class LocalExecutor(Executor):
    """Runs trials in processes of this machine.

    Raises:
        KanDiffusionError: An address is given.
    """

    def __init__(
        self, *, workers: int | None = None, device: str = "auto", address: str | None = None
    ) -> None:
        super().__init__(workers=workers, device=device, address=address)
        if address is not None:
            raise KanDiffusionError(
                f"--address '{address}' is of a Ray cluster and trials run on this machine; add "
                "--executor ray"
            )
        self._staff: list[_Worker] = []
        self._false_starts = 0

    def room(self) -> int:
        """Number of workers that are idle or not yet started."""
        return self.workers - sum(worker.task is not None for worker in self._staff)

    def submit(self, task: Task) -> None:
        """Gives a task to an idle worker, or to a new one."""
        idle = next((worker for worker in self._staff if worker.task is None), None)
        if idle is None:
            idle = _Worker(self.device)
            self._staff.append(idle)
        idle.give(task)

    def collect(self) -> Iterator[TrialEvent]:
        """Waits for the next events of any worker.

        Yields:
            The events.
        """
        sources = [(source, worker) for worker in self._staff for source in worker.sources()]
        owners: dict[object, _Worker] = dict(sources)
        found = wait([source for source, _ in sources])
        for worker in dict.fromkeys(owners[source] for source in found):
            yield from worker.events()
            if worker.ready:
                self._false_starts = 0
            if not worker.process.is_alive():
                yield from worker.events()  # sent between the last look and its end
                self._staff.remove(worker)
                worker.join()
                if worker.task is not None:
                    yield from self._replace(worker, worker.task)

    def _replace(self, worker: _Worker, task: Task) -> Iterator[TrialEvent]:
        """Reports the task of a dead worker as lost, or submits it again if it never began."""
        if worker.ready:
            yield TrialEvent("lost", task.config.id, error=worker.ending())
            return
        self._false_starts += 1
        if self._false_starts == _NUM_FALSE_STARTS:
            raise KanDiffusionError(
                f"worker processes do not start ({worker.ending()}); a script that runs a "
                "study does so under 'if __name__ == \"__main__\":', and the first lines that "
                "a worker wrote on standard error say more"
            )
        self.submit(task)

    def close(self) -> None:
        """Ends the workers; running trials save their state."""
        for worker in self._staff:
            worker.give(None)
            if not worker.ready:  # it would first import all it needs
                worker.process.kill()
        for worker in self._staff:
            worker.join()
        self._staff = []
