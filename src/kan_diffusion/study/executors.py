"""Where trials run: one process and one thread a trial, as many side by side as asked for.

At the sizes of these networks a second thread makes a step slower, so parallel trials are the only
parallelism that pays. A trial is a function of its configuration and its folder; the executor hands
those out and passes progress on.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kan_diffusion.errors import KanDiffusionError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.queues import Queue
    from multiprocessing.synchronize import Event

    from kan_diffusion.study.config import TrialConfig

__all__ = ["TrialEvent", "default_workers", "run_trials"]

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class TrialEvent:
    """News of a trial.

    Attributes:
        trial: Its id.
        step: Number of finished steps.
        loss: Latest loss, NaN before the first.
        finished: Whether the trial is done, with or without success.
        error: Why it failed, when it did.
    """

    trial: str
    step: int
    loss: float
    finished: bool = False
    error: str | None = None


EventCallback = Callable[[TrialEvent], None]

# Of a worker process, which serves one executor; set once when it starts.
_events: Queue[TrialEvent] | None = None
_stop: Event | None = None


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


def _start_worker(events: Queue[TrialEvent], stop: Event) -> None:
    import torch

    global _events, _stop
    _events, _stop = events, stop
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this worker when the study is killed: two must not write to one trial's folder."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(config: TrialConfig, folder: Path, device: str) -> str | None:
    """Runs one trial in a worker; returns why it failed, or None."""
    from kan_diffusion.study.trials import run_trial

    events, stop = _events, _stop
    assert events is not None
    assert stop is not None

    def report(step: int, loss: float) -> None:
        if stop.is_set():
            raise KeyboardInterrupt  # training keeps its state and ends
        events.put(TrialEvent(config.id, step, loss))

    report(0, float("nan"))
    error = run_trial(config, folder, device=device, on_progress=report).row["error"]
    return None if error is None else str(error)


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Processes started inside ignore Ctrl-C: the calling process hears it and stops them."""
    if threading.current_thread() is not threading.main_thread():
        yield  # a signal's handler can only be set in the main thread
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def run_trials(
    trials: Sequence[TrialConfig],
    folder_of: Callable[[TrialConfig], Path],
    *,
    device: str,
    workers: int,
    on_event: EventCallback,
) -> dict[str, str]:
    """Runs trials side by side.

    Args:
        trials: What to run, in this order.
        folder_of: Where each trial is kept.
        device: Where to train.
        workers: How many trials run at once.
        on_event: Told the news of each trial, in the calling process.

    Returns:
        Ids of the trials that could not be run, with the reason: a trial that raises does not
        stop the others.

    Raises:
        KanDiffusionError: A worker process died.
        KeyboardInterrupt: Ctrl-C, once the running trials have kept their state.
    """
    context = multiprocessing.get_context("spawn")
    events: Queue[TrialEvent] = context.Queue()
    stop = context.Event()
    failures: dict[str, str] = {}
    pool = ProcessPoolExecutor(
        max_workers=min(workers, max(len(trials), 1)),
        mp_context=context,
        initializer=_start_worker,
        initargs=(events, stop),
    )
    try:
        with _interrupts_ignored():
            pending: dict[Future[str | None], TrialConfig] = {
                pool.submit(_work, trial, folder_of(trial), device): trial for trial in trials
            }
        while pending:
            done, _ = wait(pending, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
            _pass_on(events, on_event)
            for future in done:
                trial = pending.pop(future)
                try:
                    error = future.result()
                except BrokenProcessPool:
                    raise
                except (OSError, ValueError, RuntimeError, ArithmeticError, LookupError) as raised:
                    logger.debug("trial %s failed", trial.id, exc_info=raised)
                    error = f"{type(raised).__name__}: {raised}"
                    if isinstance(raised, KanDiffusionError):
                        error = str(raised)
                    failures[trial.id] = error
                on_event(TrialEvent(trial.id, trial.training.steps, float("nan"), True, error))
    except BrokenProcessPool as error:
        raise KanDiffusionError(
            "a worker process died (killed, or out of memory); finished trials are kept: run the "
            "same command again to go on, with fewer --workers if memory was short"
        ) from error
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
        events.close()
    return failures


def _pass_on(events: Queue[TrialEvent], on_event: EventCallback) -> None:
    while True:
        try:
            event = events.get_nowait()
        except queue.Empty:
            return
        on_event(event)
