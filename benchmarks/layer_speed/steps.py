"""One training step of a contender, and what it takes to run it fairly.

A step drops the old gradients, goes forward and backward and lets a fused Adam update the
parameters: the same optimiser for all.
"""

from __future__ import annotations

import re
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import torch

from baselines import Case, Contender
from layer_speed.plan import TRIED_SHARE

__all__ = [
    "NotMeasuredError",
    "TrainingStep",
    "plain_reason",
    "plain_text",
    "require_affordable",
    "synchronise",
    "used_memory",
    "watch_peak",
]

_LARGEST_SHARE = 0.8
_LONGEST_REASON = 120
_SMALLEST_TRIED = 2048


class NotMeasuredError(RuntimeError):
    """A contender is left out of a case; the message says why."""


class TrainingStep:
    """Forward, backward and optimiser step of one contender at one case.

    Attributes:
        case: Its sizes.
        parameters: Number of parameters that a step trains; 0 before the first.
    """

    def __init__(self, contender: Contender, case: Case, device: torch.device) -> None:
        self.case = case
        self.parameters = 0
        self._device = device
        self._workload = contender.build(case, device)
        self._trained = list(self._workload.parameters())
        self._optimiser = torch.optim.Adam(self._trained, lr=1e-3, fused=True)

    def load(self, batch: int) -> None:
        """Goes on with another number of rows."""
        self._workload.load(batch)

    def forward_backward(self) -> None:
        """A step without the optimiser."""
        self._optimiser.zero_grad(set_to_none=True)
        self._workload.forward_backward()

    def __call__(self) -> None:
        """One whole step."""
        self.forward_backward()
        self._optimiser.step()
        if not self.parameters:  # pykan has some that its speed mode never touches
            self.parameters = sum(p.numel() for p in self._trained if p.grad is not None)

    def seconds(self, count: int = 1) -> float:
        """The time of ``count`` steps, waited for."""
        synchronise(self._device)
        start = time.perf_counter()
        for _ in range(count):
            self()
        synchronise(self._device)
        return time.perf_counter() - start


def require_affordable(step: TrainingStep, device: torch.device, slowest: float) -> None:
    """Tries a small part of a large batch and foresees the whole from it.

    Raises:
        NotMeasuredError: A step would take too long or more memory than there is.
    """
    batch = step.case.batch
    if batch < _SMALLEST_TRIED:
        return
    step.load(batch // TRIED_SHARE)
    step()
    before = watch_peak(device)
    seconds = step.seconds() * TRIED_SHARE
    memory = (used_memory(device, peak=True) - before) * TRIED_SHARE
    step.load(batch)
    if seconds > slowest:
        raise NotMeasuredError(f"a step would take about {seconds:.0f} s")
    free = (
        torch.cuda.mem_get_info(device)[0]
        if device.type == "cuda"
        else psutil.virtual_memory().available
    )
    if memory > _LARGEST_SHARE * free:
        raise NotMeasuredError(
            f"a step would take about {memory / 1e9:.0f} GB of memory, {free / 1e9:.0f} GB are free"
        )


def synchronise(device: torch.device) -> None:
    """Waits until everything that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def watch_peak(device: torch.device) -> int:
    """Lets the peak of the memory in use start anew; returns the bytes in use now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):  # elsewhere than on Linux it counts from the process' start
            Path("/proc/self/clear_refs").write_text("5")
    return used_memory(device)


def used_memory(device: torch.device, peak: bool = False) -> int:
    """Bytes in use, by this process or on the GPU: now, or at most since `watch_peak`."""
    if device.type == "cuda":
        count = torch.cuda.max_memory_allocated if peak else torch.cuda.memory_allocated
        return count(device)
    if not peak:
        return psutil.Process().memory_info().rss
    # Not ru_maxrss where there is better: a child process inherits its parent's.
    with suppress(OSError):
        if found := re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text()):
            return int(found[1]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def plain_reason(error: BaseException) -> str:
    """Why a contender was not measured, in one short line without paths of this machine."""
    if isinstance(error, ModuleNotFoundError):
        return f"not installed ({error.name})"
    text = plain_text(str(error))
    if isinstance(error, NotMeasuredError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def plain_text(text: str) -> str:
    """The first line of a message, cut where it is long, and of paths the last part only."""
    line = (text.strip().splitlines() or [""])[0]
    line = re.sub(r"(?:[A-Za-z]:)?(?:[/\\][\w.+-]+)+[/\\]([\w.+-]+)", r"\1", line)
    return line if len(line) <= _LONGEST_REASON else line[: _LONGEST_REASON - 1] + "…"
