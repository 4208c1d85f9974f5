"""The executors by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from kan_diffusion.errors import unknown_name
from kan_diffusion.study.executors.events import EventCallback
from kan_diffusion.study.executors.local import run_locally
from kan_diffusion.study.executors.ray import run_on_ray

if TYPE_CHECKING:
    from kan_diffusion.study.config import TrialConfig

__all__ = ["EXECUTORS", "Executor", "run_trials"]


class Executor(Protocol):
    """Runs trials as :func:`run_trials` says."""

    def __call__(
        self,
        trials: Sequence[TrialConfig],
        folder_of: Callable[[TrialConfig], Path],
        *,
        device: str,
        workers: int,
        on_event: EventCallback,
        address: str | None,
    ) -> dict[str, str]:
        """Runs the trials; returns the ids of those that could not be run, with the reason."""


EXECUTORS: Mapping[str, Executor] = {"local": run_locally, "ray": run_on_ray}
"""Where trials can run: in processes of this machine, or on a Ray cluster."""


def run_trials(
    trials: Sequence[TrialConfig],
    folder_of: Callable[[TrialConfig], Path],
    *,
    device: str,
    workers: int,
    on_event: EventCallback,
    executor: str = "local",
    address: str | None = None,
) -> dict[str, str]:
    """Runs trials side by side.

    A trial whose worker dies (killed, out of memory) is tried again, three times in all; the
    others are not disturbed.

    Args:
        trials: What to run, in this order.
        folder_of: Where each trial is kept. Machines of a cluster must share it.
        device: Where to train.
        workers: How many trials run at once; a cluster that was not started here runs as many as
            it has room for.
        on_event: Told the news of each trial, in the calling process.
        executor: One of :data:`EXECUTORS`.
        address: Of a running Ray cluster, such as ``"auto"`` or ``"ray://host:10001"``; None
            starts one on this machine.

    Returns:
        Ids of the trials that could not be run, with the reason: a trial that raises does not
        stop the others.

    Raises:
        KanDiffusionError: The executor is unknown or cannot start its workers.
        KeyboardInterrupt: Ctrl-C, once the running trials have kept their state.
    """
    if executor not in EXECUTORS:
        raise unknown_name("executor", executor, EXECUTORS)
    return EXECUTORS[executor](
        trials, folder_of, device=device, workers=workers, on_event=on_event, address=address
    )
