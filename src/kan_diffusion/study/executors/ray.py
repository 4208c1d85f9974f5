"""Trials on a Ray cluster: one remote task per trial.

The driver keeps a few times as many tasks submitted as there are CPU cores, so that no core waits
and thousands of trials are no burden. Events of long trials go through one small actor, which keeps
the latest of each; short trials do not use it. The machines must share the run folder and have
kan-diffusion installed; the driver's import path and working folder are used where they exist.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import chdir, suppress
from typing import TYPE_CHECKING

from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.imports import from_extra
from kan_diffusion.interrupts import interrupts_wait
from kan_diffusion.study.executors.base import Executor, Task, TrialEvent, attempt, use_one_thread

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle

__all__ = ["RayExecutor", "task_needs"]

_TASKS_A_CORE = 4
_WAIT_SECONDS = 0.2
_POLL_SECONDS = 0.5
_NEWS_SECONDS = 1.0
_RESOURCES_SECONDS = 10.0
_CANCEL_SECONDS = 60.0
_STORE_BYTES = 100_000_000
"""Size of Ray's object store where it is started here; a trial returns a few hundred bytes."""


class _News:
    """An actor that holds the latest event of each trial until the driver asks for it."""

    def __init__(self) -> None:
        self._latest: dict[str, TrialEvent] = {}

    def put(self, event: TrialEvent) -> None:
        self._latest[event.trial] = event

    def take(self) -> list[TrialEvent]:
        events, self._latest = list(self._latest.values()), {}
        return events


def _remote_task(device: str, news: ActorHandle[_News]) -> Callable[[Task], TrialEvent]:
    """Makes the function that runs one trial in a worker; a worker loads its closure once."""
    import_path, folder = tuple(sys.path), os.getcwd()

    def work(task: Task) -> TrialEvent:
        sys.path += [entry for entry in import_path if entry not in sys.path]
        with suppress(OSError):  # there is no such folder on this machine
            os.chdir(folder)
        use_one_thread()
        from kan_diffusion.study.executors import preload  # noqa: F401  # before the trial's clock

        last = time.monotonic() - _NEWS_SECONDS / 2

        def tell(event: TrialEvent) -> None:
            nonlocal last
            if time.monotonic() - last > _NEWS_SECONDS:
                last = time.monotonic()
                news.put.remote(event)

        return attempt(task, device, tell)

    return work


def task_needs(device: str, resources: dict[str, float], workers: int | None) -> dict[str, float]:
    """Computes the resources that a task requests from a cluster.

    Args:
        device: Device to train on.
        resources: Resources of the cluster.
        workers: Number of trials that run at once and share its GPUs; None gives each trial a GPU.

    Returns:
        ``num_cpus`` and, with a GPU, ``num_gpus``.

    Raises:
        KanDiffusionError: A GPU is asked for and there is none.
    """
    gpus = resources.get("GPU", 0.0)
    if device.startswith("cuda") and gpus == 0:
        raise KanDiffusionError(
            f"device '{device}' needs a GPU and the Ray cluster has none; choose --device cpu"
        )
    needs = {"num_cpus": 1.0}
    if gpus > 0 and (device == "auto" or device.startswith("cuda")):
        needs["num_gpus"] = 1.0 if workers is None else min(1.0, gpus / workers)
    return needs


class RayExecutor(Executor):
    """Runs trials on a Ray cluster.

    A process that is already connected to a cluster uses that connection. Otherwise a cluster is
    started or connected to when there are trials to run.

    Raises:
        KanDiffusionError: Ray is not installed, or workers are given beside an address.
    """

    def __init__(
        self, *, workers: int | None = None, device: str = "auto", address: str | None = None
    ) -> None:
        if workers is not None and address is not None:
            raise KanDiffusionError(
                f"the cluster at '{address}' decides how many trials run at once; leave --workers "
                "out"
            )
        super().__init__(workers=workers, device=device, address=address)
        # Ray would retry a trial too large for memory for ever. It reads this when imported.
        os.environ.setdefault("RAY_task_oom_retries", "0")
        with from_extra("ray", "trials on a cluster"):
            import ray
        self._ray = ray
        self._running: dict[ObjectRef[TrialEvent], str] = {}
        self._connected = False
        self._own_connection = False
        self._capacity = 0
        self._counted = self._polled = -math.inf

    def room(self) -> int:
        """Number of tasks that can be submitted ahead; updated, since clusters grow.

        Raises:
            KanDiffusionError: The cluster cannot be reached or started, or it has no GPU and one
                is asked for.
        """
        self._connect()
        if time.monotonic() - self._counted > _RESOURCES_SECONDS:
            cores = int(self._ray.cluster_resources().get("CPU", 1))
            self._capacity = _TASKS_A_CORE * max(1, cores)
            self._counted = time.monotonic()
        return self._capacity - len(self._running)

    def submit(self, task: Task) -> None:
        """Submits a task to the cluster."""
        placed = Task(task.config, task.folder.absolute())
        self._running[self._task.remote(placed)] = task.config.id

    def collect(self) -> Iterator[TrialEvent]:
        """Waits until half of the tasks are done, or for a while.

        When half of them are done, none of the cluster's cores is idle yet.

        Yields:
            The events.
        """
        tasks = list(self._running)
        half = max(1, len(tasks) // 2)
        done, _ = self._ray.wait(tasks, num_returns=half, timeout=_WAIT_SECONDS)
        for task in done:
            yield self._last_event(task, self._running.pop(task))
        if time.monotonic() - self._polled > _POLL_SECONDS:
            self._polled = time.monotonic()
            # If the actor's machine was lost, events come again when Ray has restarted it.
            with suppress(self._ray.exceptions.RayError):
                yield from self._ray.get(self._news.take.remote())

    def close(self) -> None:
        """Interrupts running trials, waits until their state is saved, and disconnects."""
        tasks = list(self._running)
        for task in tasks:
            self._ray.cancel(task)
        if tasks:
            self._ray.wait(tasks, num_returns=len(tasks), timeout=_CANCEL_SECONDS)
        self._running.clear()
        if self._own_connection:
            self._ray.shutdown()
        self._connected = self._own_connection = False

    def _connect(self) -> None:
        if self._connected:
            return
        if not self._ray.is_initialized():
            self._open()
        workers = self.workers if self.address is None else None
        needs = task_needs(self.device, self._ray.cluster_resources(), workers)
        self._news = self._ray.remote(_News).options(num_cpus=0, max_restarts=-1).remote()
        # Ray shows a task only the GPU it has given it.
        device = "cuda" if "num_gpus" in needs else self.device
        self._task = self._ray.remote(_remote_task(device, self._news)).options(
            name="trial", max_retries=0, **needs
        )
        self._connected = True

    def _open(self) -> None:
        settings: dict[str, object] = {"address": self.address}
        what = f"be reached at '{self.address}'"
        if self.address is None:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            # By default Ray's workers give way to all else, which a trial's seconds would show.
            os.environ.setdefault("RAY_worker_niceness", "0")
            what = "be started here"
            settings = {
                "address": "local",
                "num_cpus": self.workers,
                "include_dashboard": False,
                "object_store_memory": _STORE_BYTES,
            }
        try:
            # Ray puts the working folder on the path of its workers, and its own handler of SIGTERM
            # must not stay.
            with interrupts_wait(), chdir(sys.prefix):
                self._ray.init(**settings, log_to_driver=False, logging_level="ERROR")
        except (OSError, RuntimeError, ValueError) as error:
            raise KanDiffusionError(
                f"Ray cannot {what} ({error}); start a cluster with 'ray start --head' and give "
                "its --address, or use executor 'local'"
            ) from error
        self._own_connection = True

    def _last_event(self, task: ObjectRef[TrialEvent], trial: str) -> TrialEvent:
        errors = self._ray.exceptions
        try:
            event: TrialEvent = self._ray.get(task)
        except errors.RayTaskError as error:  # not the trial's: its own are in its event
            reason = str(error).strip().splitlines()[-1]
            return TrialEvent(
                "failed",
                trial,
                error=f"a machine of the Ray cluster cannot run trials ({reason}); install "
                "kan-diffusion on every machine",
            )
        except errors.RayError as error:
            return TrialEvent("lost", trial, error=type(error).__name__)
        return event
