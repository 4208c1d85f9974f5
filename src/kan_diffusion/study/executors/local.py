"""Trials in processes of this machine.

The driver holds a pipe to each worker, which has one trial at a time; if it dies, only this trial
is lost. Imports take seconds, so on Linux workers are forked from a server that has already
imported everything. Ctrl-C and its like interrupt a worker wherever it is, in training or in
judging; training then saves its state.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, TypeAlias

from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.interrupts import INTERRUPTS, interrupt_on_signals
from kan_diffusion.study.executors.base import Task, TaskQueue, TrialEvent

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess


@dataclass
class _Worker:
    """A worker process, as seen by its driver; without a task it is idle."""

    process: BaseProcess
    task: Task | None = None
    has_begun: bool = False


_Staff: TypeAlias = "dict[Connection[Task, TrialEvent], _Worker]"
"""Workers by the pipes to them."""


def run_here(tasks: Iterable[Task], workers: int, device: str) -> Generator[TrialEvent, None, None]:
    """Runs trials in processes of this machine, ``workers`` at once.

    Yields:
        Their events.

    Raises:
        KanDiffusionError: No worker can be started.
    """
    queue = TaskQueue(tasks)
    staff: _Staff = {}
    events: list[TrialEvent] = []
    try:
        while True:
            while len(queue.running) < workers and (task := queue.next()) is not None:
                idle = (pipe for pipe, worker in staff.items() if worker.task is None)
                pipe = next(idle, None) or _start_worker(staff, device)
                staff[pipe].task = task
                with suppress(OSError):  # it has died, which is noticed below
                    pipe.send(task)
            yield from events  # now that no worker waits
            if not queue.running:
                return
            ready = wait(list(staff))
            received = [e for pipe in list(staff) if pipe in ready for e in _receive(pipe, staff)]
            events = [passed for event in received for passed in queue.settle(event)]
    finally:
        for pipe, worker in staff.items():
            if worker.process.is_alive():
                worker.process.terminate()
            pipe.close()  # ends one, too, in which an interrupt was lost, when its trial is over
        for worker in staff.values():
            worker.process.join()


def _start_worker(staff: _Staff, device: str) -> Connection[Task, TrialEvent]:
    """Starts a worker and returns the pipe to it."""
    if sys.platform == "linux":
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([f"{__package__}.worker"])
    else:  # Apple's frameworks may not be forked once they are loaded
        context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, device, dict(os.environ)), daemon=True)
    resource_tracker.ensure_running()  # its start would unblock interrupts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)  # there, too, until it is ready
    try:
        process.start()
        staff[pipe] = _Worker(process)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()  # so that the pipe closes when the process ends
    return pipe


def _receive(pipe: Connection[Task, TrialEvent], staff: _Staff) -> Iterator[TrialEvent]:
    """Yields the next event of a worker; that its task is lost if it has died."""
    worker = staff[pipe]
    try:
        event = pipe.recv()
    except (EOFError, OSError):
        del staff[pipe]
        worker.process.join()
        pipe.close()
        code = worker.process.exitcode or 0
        ending = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        if worker.task is None:
            return
        if not worker.has_begun:
            raise KanDiffusionError(
                f"worker processes do not start ({ending}); a script that runs a study does so "
                "under 'if __name__ == \"__main__\":', and the first lines that a worker wrote on "
                "standard error say more"
            ) from None
        yield TrialEvent("lost", worker.task.config.id, error=ending)
        return
    worker.has_begun = True
    if event.kind != "progressed":
        worker.task = None
    yield event


def _serve(pipe: Connection[TrialEvent, Task], device: str, environment: dict[str, str]) -> None:
    """Runs trials in a worker until it is interrupted or the driver is gone."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.update(environment)  # the server's environment may be outdated
    with suppress(EOFError, BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        interrupt_on_signals()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, INTERRUPTS)
        from kan_diffusion.study.executors.worker import attempt

        while True:
            pipe.send(attempt(pipe.recv(), device, pipe.send))


def _end_with_parent() -> None:
    """Ends this worker when the driver is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
