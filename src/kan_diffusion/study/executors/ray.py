"""Trials on a Ray cluster: one remote task a trial.

Ray places the tasks, and runs one again whose worker or machine is lost. The driver keeps a few
times as many tasks submitted as there are CPU cores, so that none waits and thousands of trials are
no burden. News of long trials goes through one small actor, which keeps the latest of each; a trial
that is over before there is news costs nothing there. The machines must share the run folder and
have kan-diffusion installed; the driver's import path and working folder are used where they exist.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
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
    from types import ModuleType

    from ray import ObjectRef
    from ray.actor import ActorHandle

    from kan_diffusion.study.config import TrialConfig

__all__ = ["run_on_ray"]

_TASKS_A_CORE = 4
_WAIT_SECONDS = 0.2
_POLL_SECONDS = 0.5
_NEWS_SECONDS = 1.0
_RESOURCES_SECONDS = 10.0
_CANCEL_SECONDS = 60.0
_STORE_BYTES = 100_000_000
"""Of Ray's object store where it is started here; a trial returns a few hundred bytes."""


@dataclass(frozen=True)
class _Surroundings:
    """What a task finds where its driver runs."""

    import_path: tuple[str, ...] = field(default_factory=lambda: tuple(sys.path))
    folder: str = field(default_factory=os.getcwd)

    def adopt(self) -> None:
        """Makes them the calling process's own."""
        sys.path += [entry for entry in self.import_path if entry not in sys.path]
        with suppress(OSError):  # there is no such folder on this machine
            os.chdir(self.folder)


class _News:
    """An actor that holds the latest news of each trial until the driver asks."""

    def __init__(self) -> None:
        self._latest: dict[str, TrialEvent] = {}

    def put(self, event: TrialEvent) -> None:
        self._latest[event.trial] = event

    def take(self) -> list[TrialEvent]:
        events, self._latest = list(self._latest.values()), {}
        return events


def _make_task(
    device: str, news: ActorHandle[_News], surroundings: _Surroundings
) -> Callable[[TrialConfig, Path], Outcome]:
    """The remote task, which runs one trial. What is given here a worker reads once."""

    def work(config: TrialConfig, folder: Path) -> Outcome:
        surroundings.adopt()
        use_one_thread()
        from kan_diffusion.study import trial  # noqa: F401  # before the clock of the trial starts

        last = time.monotonic() - _NEWS_SECONDS / 2
        name = worker_name()

        def report(step: int, loss: float) -> None:
            nonlocal last
            if time.monotonic() - last > _NEWS_SECONDS:
                last = time.monotonic()
                news.put.remote(TrialEvent(config.id, step, loss, worker=name))

        return attempt(config, folder, device, report)

    return work


def _import_ray() -> ModuleType:
    # Ray would try a trial for ever that is too large for memory. It reads this as it is imported.
    os.environ.setdefault("RAY_task_oom_retries", str(NUM_ATTEMPTS - 1))
    try:
        import ray
    except ImportError as error:
        raise KanDiffusionError(
            "executor 'ray' needs Ray, which is not installed; install 'kan-diffusion[ray]' or use "
            "executor 'local'"
        ) from error
    return ray


@contextmanager
def _connected(ray: ModuleType, address: str | None, workers: int) -> Iterator[None]:
    """A connection to a cluster; one that was there before, and its cluster, are left alone."""
    if ray.is_initialized():
        yield
        return
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address is None:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            ray.init(
                address="local",
                num_cpus=workers,
                include_dashboard=False,
                object_store_memory=_STORE_BYTES,
                **quiet,
            )
        else:
            ray.init(address=address, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        what = "be started here" if address is None else f"be reached at '{address}'"
        reason = " ".join(str(error).split())
        raise KanDiffusionError(
            f"Ray cannot {what} ({reason}); start a cluster with 'ray start --head' and give its "
            "--address, or use executor 'local'"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _needs(device: str, resources: dict[str, float], workers: int | None) -> dict[str, float]:
    """What a task asks of the cluster.

    Args:
        device: Where to train.
        resources: What the cluster has.
        workers: How many trials are to run at once and share its GPUs; None gives each its own.

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


class _Cluster:
    """The driver's part of one call of :func:`run_on_ray`."""

    def __init__(
        self,
        ray: ModuleType,
        trials: Sequence[TrialConfig],
        folder_of: Callable[[TrialConfig], Path],
        device: str,
        workers: int | None,
        on_event: EventCallback,
    ) -> None:
        self.failures: dict[str, str] = {}
        self._ray = ray
        self._waiting = deque(trials)
        self._running: dict[ObjectRef[Outcome], TrialConfig] = {}
        self._ids: set[str] = set()
        self._folder_of = folder_of
        self._on_event = on_event
        needs = _needs(device, ray.cluster_resources(), workers)
        self._news = ray.remote(_News).options(num_cpus=0, max_restarts=-1).remote()
        # Ray shows a task only the GPU it has given it.
        device = "cuda" if "num_gpus" in needs else device
        self._task = ray.remote(_make_task(device, self._news, _Surroundings())).options(
            name="trial", max_retries=NUM_ATTEMPTS - 1, retry_exceptions=False, **needs
        )
        self._ahead = 0
        self._counted = -math.inf

    def run(self) -> None:
        """Runs all trials."""
        asked = time.monotonic()
        while self._waiting or self._running:
            self._submit()
            self._collect()
            if time.monotonic() - asked > _POLL_SECONDS:
                self._pass_on()
                asked = time.monotonic()

    def cancel(self) -> None:
        """Interrupts what is running, and waits until it has kept its state."""
        for task in self._running:
            self._ray.cancel(task)
        if self._running:
            tasks = list(self._running)
            self._ray.wait(tasks, num_returns=len(tasks), timeout=_CANCEL_SECONDS)

    def _submit(self) -> None:
        if time.monotonic() - self._counted > _RESOURCES_SECONDS:  # clusters grow
            cores = int(self._ray.cluster_resources().get("CPU", 1))
            self._ahead = _TASKS_A_CORE * max(1, cores)
            self._counted = time.monotonic()
        while self._waiting and len(self._running) < self._ahead:
            trial = self._waiting.popleft()
            folder = self._folder_of(trial).absolute()
            task = self._task.remote(trial, folder)
            self._running[task] = trial
            self._ids.add(trial.id)

    def _collect(self) -> None:
        """Takes up what is done, once there is enough of it or after a while."""
        tasks = list(self._running)
        # Half of them are enough to go on without: none of the cluster's cores waits for more.
        half = max(1, len(tasks) // 2)
        done, _ = self._ray.wait(tasks, num_returns=half, timeout=_WAIT_SECONDS)
        for task in done:
            trial = self._running.pop(task)
            self._ids.remove(trial.id)
            outcome = self._outcome(task)
            if outcome.raised:
                self.failures[trial.id] = str(outcome.error)
            self._on_event(outcome.event(trial))

    def _outcome(self, task: ObjectRef[Outcome]) -> Outcome:
        errors = self._ray.exceptions
        try:
            outcome: Outcome = self._ray.get(task)
        except errors.RayTaskError as error:  # not the trial's fault: that would be an outcome
            reason = str(error).strip().splitlines()[-1]
            return Outcome(
                f"a machine of the Ray cluster cannot run trials ({reason}); install kan-diffusion "
                "on every machine",
                raised=True,
            )
        except errors.RayError as error:
            return Outcome(worker_lost(type(error).__name__), raised=True)
        return outcome

    def _pass_on(self) -> None:
        """Passes the news of running trials on."""
        try:
            events = self._ray.get(self._news.take.remote())
        except self._ray.exceptions.RayError:
            return  # its machine was lost; there will be news again when Ray has restarted it
        for event in events:
            if event.trial in self._ids:  # news may come late
                self._on_event(event)


def run_on_ray(
    trials: Sequence[TrialConfig],
    folder_of: Callable[[TrialConfig], Path],
    *,
    device: str,
    workers: int,
    on_event: EventCallback,
    address: str | None,
) -> dict[str, str]:
    """Runs trials on a Ray cluster; see ``run_trials``.

    A process that is connected to a cluster uses that connection.

    Raises:
        KanDiffusionError: Ray is not installed, the cluster cannot be reached or started, or it
            has no GPU and one is asked for.
        KeyboardInterrupt: Ctrl-C, once the running trials have kept their state.
    """
    ray = _import_ray()
    with _connected(ray, address, workers):
        cluster = _Cluster(
            ray, trials, folder_of, device, workers if address is None else None, on_event
        )
        try:
            cluster.run()
        finally:
            cluster.cancel()
    return cluster.failures
