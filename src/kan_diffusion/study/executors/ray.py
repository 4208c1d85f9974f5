"""Trials on a Ray cluster: one remote task per trial.

The driver keeps a few times as many tasks submitted as there are CPU cores, so that no core waits
and thousands of trials are no burden. Events of long trials go through one queue, one a second;
short trials do not use it. The machines must share the run folder and have kan-diffusion installed;
the driver's import path and working folder are used where they exist.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import chdir, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.imports import from_extra
from kan_diffusion.interrupts import interrupts_wait
from kan_diffusion.study.executors.base import Task, TaskQueue, TrialEvent

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.util.queue import Queue

_TASKS_A_CORE = 4
_WAIT_SECONDS = 0.5
_NEWS_SECONDS = 1.0
_CANCEL_SECONDS = 60.0
_STORE_BYTES = 100_000_000
"""Size of Ray's object store where it is started here; a trial returns a few hundred bytes."""

_HERE = {
    # Without clusters of several machines, Ray's servers listen on the loopback interface alone.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # By default Ray's workers give way to all else, which a trial's seconds would show.
    "RAY_worker_niceness": "0",
}
"""What Ray reads from the environment where it is started here."""


def run_on_ray(
    tasks: Iterable[Task], workers: int | None, device: str, address: str | None = None
) -> Generator[TrialEvent, None, None]:
    """Runs trials on a Ray cluster.

    A process that is already connected to a cluster uses that connection. Otherwise it connects to
    the one at ``address``, or starts one with as many cores as ``workers``, and stays connected
    until it ends.

    Yields:
        The events of the trials.

    Raises:
        KanDiffusionError: Ray is not installed, the cluster cannot be reached or started, or it has
            no GPU and one is asked for.
    """
    # Ray reads these when it is imported. It would retry a trial too large for memory for ever.
    os.environ.setdefault("RAY_task_oom_retries", "0")
    if address is None:
        os.environ |= {**_HERE, **os.environ}
    with from_extra("ray", "trials on a cluster"):
        import ray
        from ray.util.queue import Queue
    if not ray.is_initialized():
        _connect(workers, address)
    needs = task_needs(device, ray.cluster_resources(), workers)
    news = Queue(actor_options={"num_cpus": 0, "max_restarts": -1})
    # Ray shows a task only the GPU it has given it.
    work = _remote_work("cuda" if "num_gpus" in needs else device, news)
    remote = ray.remote(work).options(name="trial", max_retries=0, **needs)
    queue = TaskQueue(tasks)
    running: dict[ObjectRef[TrialEvent], str] = {}
    events: list[TrialEvent] = []
    try:
        while True:
            capacity = _TASKS_A_CORE * int(ray.cluster_resources().get("CPU", 1))
            while len(running) < max(1, capacity) and (task := queue.next()) is not None:
                placed = replace(task, folder=task.folder.absolute())
                running[remote.remote(placed)] = task.config.id
            yield from events
            if not running:
                return
            done, _ = ray.wait(list(running), num_returns=len(running), timeout=_WAIT_SECONDS)
            received: list[TrialEvent] = []
            # If the queue's machine was lost, news come again when Ray has restarted it.
            with suppress(ray.exceptions.RayError):
                received += news.get_nowait_batch(news.qsize())
            received += [_last_event(reference, running.pop(reference)) for reference in done]
            events = [passed for event in received for passed in queue.settle(event)]
    finally:
        for reference in running:
            ray.cancel(reference)
        if running:  # until their state is saved
            ray.wait(list(running), num_returns=len(running), timeout=_CANCEL_SECONDS)


def _connect(workers: int | None, address: str | None) -> None:
    """Connects to a cluster, or starts one for a number of workers."""
    import ray

    what, settings = f"be reached at '{address}'", dict[str, object]()
    if address is None:
        what, settings = "be started here", {"num_cpus": workers, "include_dashboard": False}
        settings["object_store_memory"] = _STORE_BYTES
    try:
        # Ray puts the working folder on the path of its workers, and its own handler of SIGTERM
        # must not stay.
        with interrupts_wait(), chdir(sys.prefix):
            ray.init(address or "local", log_to_driver=False, logging_level="ERROR", **settings)
    except Exception as error:  # Ray raises it bare, too
        raise KanDiffusionError(
            f"Ray cannot {what} ({error}); start a cluster with 'ray start --head' and give its "
            "address, or use executor 'local'"
        ) from error


def task_needs(device: str, resources: dict[str, float], workers: int | None) -> dict[str, float]:
    """Computes the resources that a task requests: ``num_cpus`` and, with a GPU, ``num_gpus``.

    So many ``workers`` as run at once share the GPUs of the cluster's ``resources``; without a
    number, each trial gets one.

    Raises:
        KanDiffusionError: A GPU is asked for and there is none.
    """
    gpus, asked = resources.get("GPU", 0.0), device.startswith("cuda")
    if asked and gpus == 0:
        raise KanDiffusionError(
            f"device '{device}' needs a GPU and the Ray cluster has none; choose device 'cpu'"
        )
    if gpus == 0 or not (asked or device == "auto"):
        return {"num_cpus": 1.0}
    return {"num_cpus": 1.0, "num_gpus": 1.0 if workers is None else min(1.0, gpus / workers)}


def _remote_work(device: str, news: Queue) -> Callable[[Task], TrialEvent]:
    """Makes the function that runs one trial in a worker; a worker loads its closure once."""
    import_path, folder = tuple(sys.path), os.getcwd()

    def work(task: Task) -> TrialEvent:
        sys.path += [entry for entry in import_path if entry not in sys.path]
        with suppress(OSError):  # there is no such folder on this machine
            os.chdir(folder)
        from kan_diffusion.study.executors.worker import attempt  # before the trial's clock

        last = time.monotonic() - _NEWS_SECONDS / 2

        def tell(event: TrialEvent) -> None:
            nonlocal last
            if time.monotonic() - last > _NEWS_SECONDS:
                last = time.monotonic()
                news.actor.put_nowait.remote(event)  # and does not wait for it

        return attempt(task, device, tell)

    return work


def _last_event(reference: ObjectRef[TrialEvent], trial: str) -> TrialEvent:
    """Reads the last event of a task that is done; its worker or its machine may have been lost."""
    import ray

    try:
        event: TrialEvent = ray.get(reference)
    except ray.exceptions.RayTaskError as error:  # not the trial's: its own are in its event
        last = str(error).strip().splitlines()[-1]
        reason = f"a machine of the Ray cluster cannot run trials ({last}); install kan-diffusion"
        return TrialEvent("failed", trial, error=f"{reason} on every machine")
    except ray.exceptions.RayError as error:
        return TrialEvent("lost", trial, error=type(error).__name__)
    return event
