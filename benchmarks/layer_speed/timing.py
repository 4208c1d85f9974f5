"""Interleaved repeats: in each, every contender runs a block of steps, one after another.

A machine whose speed drifts, or which does something else for a while, slows all contenders of a
repeat alike; the ratio of two times of the same repeat does not see it, and the median over repeats
of that ratio is what targets are judged by. A block is as many steps as take some 20 ms, after one
that is not counted where steps are short, so that caches hold the contender's own data; its time is
divided by its steps. Each repeat starts with another contender.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from baselines import CONTENDERS, FAMILY_CONTENDERS, Case, Contender, own_network
from layer_speed.plan import BLOCK_SECONDS, LEAST_REPEATS, LONG_STEP, Pace, Task
from layer_speed.steps import TrainingStep, plain_reason, require_affordable

__all__ = ["Row", "measure", "row_of"]

Row = dict[str, object]
"""A measurement: flat keys, plain values."""

_NEEDS_WARMING = 0.05
_LARGEST_BLOCK = 50
_PREPARING = 0.35


@dataclass
class _Entry:
    """A contender at a case, ready to be measured or with the reason why it is not."""

    contender: Contender
    case: Case
    step: TrainingStep | None = None
    reason: str | None = None
    first: float = 0.0
    block: int = 1
    warm: bool = True
    rounds: frozenset[int] = frozenset()
    seconds: dict[int, float] = field(default_factory=dict)


def row_of(contender: Contender, case: Case, threads: int, **measured: object) -> Row:
    """A row with the keys that all parts share."""
    return {
        "contender": contender.name,
        "layers": case.layers,
        "batch": case.batch,
        "grid_size": case.grid_size,
        "threads": threads,
        **measured,
    }


def measure(
    task: Task,
    pace: Pace,
    device: torch.device,
    preparing: Callable[[int | None], None],
    progress: Callable[[float], None],
) -> list[Row]:
    """Measures all entries of a task side by side.

    Args:
        task: What to measure.
        pace: Repeats and patience.
        device: Where.
        preparing: Told the index of the entry whose first steps are about to run, then None.
        progress: Told the fraction that is done.

    Returns:
        A row an entry. Ratios compare with our own network at the same case, in the growth of the
        time with the same contender at the first case.
    """
    if any(CONTENDERS[name].compiled for name, _ in task.entries):
        torch._dynamo.reset()  # each case is compiled as in a process of its own
    entries = []
    for index, (name, case) in enumerate(task.entries):
        preparing(index)
        entries.append(_prepare(CONTENDERS[name], case, pace, device))
        progress(_PREPARING * (index + 1) / len(task.entries))
    preparing(None)
    running = [entry for entry in entries if entry.step is not None]
    gc.collect()
    gc.freeze()  # what lives now need not be looked through in every repeat
    for number in range(pace.repeats):
        gc.collect()
        gc.disable()
        start = number % max(1, len(running))
        for entry in running[start:] + running[:start]:
            if number in entry.rounds:
                _run_block(entry, number)
        gc.enable()
        progress(_PREPARING + (1 - _PREPARING) * (number + 1) / pace.repeats)
    gc.unfreeze()
    threads = torch.get_num_threads()
    return [_row(entry, _reference(entry, entries, task.part), threads) for entry in entries]


def _prepare(contender: Contender, case: Case, pace: Pace, device: torch.device) -> _Entry:
    entry = _Entry(contender, case)
    try:
        step = TrainingStep(contender, case, device)
        if contender.try_small:
            require_affordable(step, device, pace.slowest)
        entry.first = step.seconds()  # with what is compiled or loaded then, which tells nothing
        seconds = step.seconds()
        if seconds < LONG_STEP:
            seconds = min(seconds, step.seconds())
    except Exception as error:  # noqa: BLE001  (others' code may raise anything; it is a result)
        entry.reason = plain_reason(error)
        return entry
    entry.step = step
    entry.block = min(max(1, math.ceil(BLOCK_SECONDS / seconds)), _LARGEST_BLOCK)
    entry.warm = seconds < _NEEDS_WARMING
    affordable = int(pace.seconds_for(contender) / (seconds * (entry.block + entry.warm)))
    repeats = min(pace.repeats, max(LEAST_REPEATS, affordable))
    # Fewer repeats are spread over all of them, so that each meets its peers.
    entry.rounds = frozenset(place * pace.repeats // repeats for place in range(repeats))
    return entry


def _run_block(entry: _Entry, number: int) -> None:
    assert entry.step is not None
    try:
        if entry.warm:
            entry.step()
        entry.seconds[number] = entry.step.seconds(entry.block) / entry.block
    except Exception as error:  # noqa: BLE001  (as above: a late failure is a result, too)
        entry.reason, entry.rounds = plain_reason(error), frozenset()


def _reference(entry: _Entry, entries: Sequence[_Entry], part: str) -> _Entry | None:
    """What an entry's times are divided by."""
    for other in entries:
        if part == "growth":
            if other.contender.name == entry.contender.name:
                return other
        else:
            ours = {"timing": "ours", "families": FAMILY_CONTENDERS[0].name}.get(
                part, own_network(entry.contender.name)
            )
            if other.contender.name == ours and other.case == entry.case:
                return other
    return None


def _row(entry: _Entry, reference: _Entry | None, threads: int) -> Row:
    row = row_of(entry.contender, entry.case, threads)
    if entry.reason is not None or entry.step is None or not entry.seconds:
        return {**row, "reason": entry.reason or "no repeat was finished"}
    times = np.array(list(entry.seconds.values())) * 1e3
    row |= {
        "parameters": entry.step.parameters,
        "repeats": len(times),
        "steps_a_repeat": entry.block,
        "first_step_s": round(entry.first, 4),
        **_quartiles("ms", times),
    }
    if reference is not None and reference.reason is None and reference is not entry:
        shared = sorted(entry.seconds.keys() & reference.seconds.keys())
        if shared:
            ratios = np.array([entry.seconds[n] / reference.seconds[n] for n in shared])
            row |= _quartiles("ratio", ratios) | _quartiles("inverse_ratio", 1 / ratios)
    return row


def _quartiles(name: str, values: np.ndarray) -> Row:
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return {
        name: _rounded(middle),
        f"{name}_low": _rounded(low),
        f"{name}_high": _rounded(high),
    }


def _rounded(value: float) -> float:
    """Five significant digits: more than any time here is good for."""
    return float(f"{value:.5g}")
