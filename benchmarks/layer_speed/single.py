"""Peak memory of one training step, and the seconds of the first one: a fresh process each."""

from __future__ import annotations

import math
import time

import torch

from baselines import Case, Contender
from layer_speed.steps import (
    TrainingStep,
    require_affordable,
    synchronise,
    used_memory,
    watch_peak,
)

__all__ = ["first_use", "peak_of_step"]

_TINY_BATCH = 8


def peak_of_step(contender: Contender, case: Case, device: torch.device) -> dict[str, object]:
    """How far the memory in use rises above its level before the step.

    A tiny step comes first, so that code is compiled and the optimiser has its state. The data of
    the large one is there before; its gradients are not.
    """
    step = TrainingStep(contender, case, device)
    step.load(_TINY_BATCH)
    step()
    if contender.try_small:
        require_affordable(step, device, slowest=math.inf)
    step.load(case.batch)
    synchronise(device)
    before = watch_peak(device)
    step()
    synchronise(device)
    return {
        "parameters": step.parameters,
        "peak_mib": round((used_memory(device, peak=True) - before) / 2**20, 1),
    }


def first_use(contender: Contender, case: Case, device: torch.device) -> dict[str, object]:
    """Seconds of the first forward and backward pass that this process runs."""
    step = TrainingStep(contender, case, device)
    synchronise(device)
    start = time.perf_counter()
    step.forward_backward()
    synchronise(device)
    return {"first_s": round(time.perf_counter() - start, 3)}
