"""Where trials run: in processes of this machine, or on a Ray cluster.

An executor is a function from trials to their events, and its workers end with it::

    with closing(get_executor("local", workers=2)(tasks)) as events:
        for event in events:
            ...

Each trial runs in one process on one thread: at the sizes of these networks a second thread makes a
step slower, so only parallel trials pay. A trial is a function of its configuration and its folder,
whose files are whole or not there, so it may be interrupted anywhere and go on elsewhere, or even
run twice at once: the lock on its folder only saves work.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator, Iterable
from functools import partial

from kan_diffusion.errors import KanDiffusionError, look_up
from kan_diffusion.study.executors.base import Task, TrialEvent
from kan_diffusion.study.executors.local import run_here
from kan_diffusion.study.executors.ray import run_on_ray

__all__ = ["EXECUTORS", "Executor", "Task", "TrialEvent", "default_workers", "get_executor"]

Executor = Callable[[Iterable[Task]], Generator[TrialEvent, None, None]]
"""Runs trials in their order, as many at once as there is room for.

A trial that fails does not stop the others. The last event of each is ``"finished"`` or
``"failed"``. Whoever closes the iterator interrupts the trials, which save their state.
"""

EXECUTORS: dict[str, Callable[..., Generator[TrialEvent, None, None]]] = {
    "local": run_here,
    "ray": run_on_ray,
}
"""Executors by name; each takes the tasks, a number of workers and a device."""


def get_executor(
    kind: str = "local",
    *,
    workers: int | None = None,
    device: str = "auto",
    address: str | None = None,
) -> Executor:
    """Returns an executor.

    Args:
        kind: One of :data:`EXECUTORS`.
        workers: Number of trials that run at once; when None one per CPU core, or one on a GPU. A
            cluster that was not started here runs as many as it has room for.
        device: Device to train on: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
        address: Address of a running Ray cluster, such as ``"auto"`` or ``"ray://host:10001"``;
            None starts one on this machine.

    Raises:
        KanDiffusionError: The executor is unknown or takes no address, a number of workers is
            given beside one, or the device does not exist.
    """
    run = look_up("executor", kind, EXECUTORS)
    if address is None:
        from kan_diffusion.devices import resolve_device  # imports torch

        if not device.startswith("cuda"):  # a GPU is for the workers alone
            resolve_device(device)
        return partial(run, workers=workers or default_workers(device), device=device)
    if kind != "ray" or workers is not None:
        raise KanDiffusionError(
            f"address '{address}' is of a Ray cluster, which decides how many trials run at once; "
            "choose executor 'ray', and leave the number of workers out"
        )
    return partial(run, workers=None, device=device, address=address)


def default_workers(device: str) -> int:
    """Returns one worker per CPU core, or one for a GPU."""
    import torch

    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return 1
