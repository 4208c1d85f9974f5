"""What a worker does: imported, it has all that a trial needs, on one thread.

The server that forks workers imports it once.
"""

from __future__ import annotations

import atexit
import gc
import logging
import math
import os
import socket
import time
from collections.abc import Callable
from dataclasses import replace

gc.disable()  # what is imported stays, and looking for garbage in it takes a fifth of the time
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
import torch  # noqa: E402  # it reads how many threads it may have

from kan_diffusion.errors import OUT_OF_MEMORY, KanDiffusionError, is_out_of_memory  # noqa: E402
from kan_diffusion.study.executors.base import Task, TrialEvent  # noqa: E402
from kan_diffusion.study.folder import TrialTakenError  # noqa: E402
from kan_diffusion.study.trial import run_trial  # noqa: E402

torch.set_num_threads(1)
gc.freeze()  # so that workers neither look through it nor copy it
atexit.register(gc.unfreeze)  # or libraries report at the server's end what is left
gc.enable()

logger = logging.getLogger(__name__)

_TAKEN_SECONDS = 0.5


def attempt(task: Task, device: str, tell: Callable[[TrialEvent], None]) -> TrialEvent:
    """Runs a trial in a worker.

    Args:
        task: The trial and its folder.
        device: Device to train on.
        tell: Called when the trial starts and as it progresses.

    Returns:
        The last event of the trial; an exception of the trial becomes one line of it.
    """
    config, worker = task.config, f"{socket.gethostname()}:{os.getpid()}"

    def report(step: int, loss: float = math.nan) -> None:
        tell(TrialEvent("progressed", config.id, step, loss, worker=worker))

    report(0)
    end = TrialEvent("finished", config.id, config.training.steps, worker=worker)
    try:
        config.import_own()  # the driver has imported the same
        row = run_trial(config, task.folder, device=device, on_progress=report).row
        return end if row["error"] is None else replace(end, error=str(row["error"]))
    except TrialTakenError as taken:
        time.sleep(_TAKEN_SECONDS)  # how often to ask if all that are left are taken
        return replace(end, kind="taken", error=str(taken))
    except Exception as fault:  # a user's own family may raise anything
        logger.debug("trial %s failed", config.id, exc_info=fault)
        error = str(fault)
        if is_out_of_memory(fault):
            error = OUT_OF_MEMORY
        elif not isinstance(fault, KanDiffusionError):
            error = " ".join(f"{type(fault).__name__}: {fault}".split())
        return replace(end, kind="failed", error=error)
