"""Where trials run: in processes of this machine, or on a Ray cluster.

Each trial runs in one process on one thread, and as many run at once as asked for: at the sizes of
these networks a second thread makes a step slower, so only parallel trials pay. A trial is a
function of its configuration and its folder; an executor hands trials out and yields their events::

    with open_executor("local", workers=2) as executor:
        for event in executor.run(trials, folder):
            ...

The lock on a trial's folder only saves work: a trial's draws depend on its configuration alone,
every file is written whole or not at all, and ``trial.json`` comes last
(:mod:`kan_diffusion.study.folder`). A trial may therefore be interrupted anywhere and resumed by
another process or another machine, or even run twice at once.
"""

from __future__ import annotations

from collections.abc import Mapping

from kan_diffusion.errors import look_up
from kan_diffusion.study.executors.base import Executor, Task, TrialEvent, default_workers
from kan_diffusion.study.executors.local import LocalExecutor
from kan_diffusion.study.executors.ray import RayExecutor

__all__ = ["EXECUTORS", "Executor", "Task", "TrialEvent", "default_workers", "open_executor"]

EXECUTORS: Mapping[str, type[Executor]] = {"local": LocalExecutor, "ray": RayExecutor}
"""Executors by name: processes of this machine, or a Ray cluster."""


def open_executor(
    kind: str = "local",
    *,
    workers: int | None = None,
    device: str = "auto",
    address: str | None = None,
) -> Executor:
    """Makes an executor; it starts its workers when it is given trials.

    Args:
        kind: One of :data:`EXECUTORS`.
        workers: Number of trials that run at once; when None one per CPU core, or one on a GPU. A
            cluster that was not started here runs as many as it has room for.
        device: Device to train on: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
        address: Address of a running Ray cluster, such as ``"auto"`` or ``"ray://host:10001"``;
            None starts one on this machine.

    Returns:
        The executor, to be used as a context manager.

    Raises:
        KanDiffusionError: The executor is unknown, what it needs is not installed, or it takes no
            address.
    """
    return look_up("executor", kind, EXECUTORS)(workers=workers, device=device, address=address)
