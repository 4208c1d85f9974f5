"""What the layer benchmark measures: the cases, and about how long each will take."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

from baselines import (
    BLOCKS,
    CONTENDERS,
    FAMILY_CONTENDERS,
    KERNELS,
    Case,
    Contender,
    own_network,
)
from baselines.blocks import TOKENS

__all__ = [
    "BLOCK_SECONDS",
    "CLOSELY",
    "LEAST_REPEATS",
    "LONG_STEP",
    "TRIED_SHARE",
    "Pace",
    "Plan",
    "Series",
    "Task",
    "full_plan",
    "quick_plan",
]

SMALL = (3, 32, 32, 32, 2)
LARGE = (64, 256, 256, 64)

BLOCK_SECONDS = 0.02
"""How long a block of steps takes at least, unless that many steps are too many."""
CLOSELY = 5.0
"""How many times longer contenders may take that targets compare closely."""
LONG_STEP = 0.3
"""A step that is tried no third time to know how long it takes."""
LEAST_REPEATS = 3
"""Repeats of even the slowest contender."""
TRIED_SHARE = 16
"""The part of a large batch that is tried first is one over this."""

# The time of a step in units of that of an MLP with as many parameters; for the progress bar only.
_SLOWNESS = {
    "inkan": 2.5, "inkan-eager": 4.0, "flashkan": 2.5, "flashkan-eager": 10.0,
    "recursion": 9.0, "pykan": 40.0,
}  # fmt: skip
_COMPILE_SECONDS = 6.0


@dataclass(frozen=True)
class Series:
    """Cases that differ in one size, to see how the time grows with it.

    Attributes:
        name: Which series it is, unique.
        axis: What grows: ``"G"``, ``"width"`` or ``"batch"``.
        cases: From small to large.
        contenders: Who is measured.
    """

    name: str
    axis: str
    cases: tuple[Case, ...]
    contenders: tuple[str, ...] = ("ours", "mlp")

    def size(self, case: Case) -> int:
        """Where a case lies on the axis."""
        return {"G": case.grid_size, "width": case.widths[1], "batch": case.batch}[self.axis]


@dataclass(frozen=True)
class Pace:
    """How often contenders are measured.

    Attributes:
        repeats: Number of repeats.
        patience: Seconds that one contender may take at one case; slower ones get fewer repeats.
            Those that targets compare closely may take `CLOSELY` times as many.
        slowest: A contender whose step would take more seconds is left out of a case.
    """

    repeats: int = 20
    patience: float = 3.0
    slowest: float = 6.0

    def seconds_for(self, contender: Contender) -> float:
        """How many seconds a contender may take at one case."""
        return self.patience * (CLOSELY if contender.patient else 1.0)


@dataclass(frozen=True)
class Plan:
    """All that a run measures.

    Attributes:
        timing: Cases at which all contenders are timed.
        growth: Series for the growth of the time.
        kernels: Cases at which the kernels of other bases are timed.
        families: Cases at which denoisers of equal size are timed.
        blocks: Cases at which feed-forward blocks of equal size are timed.
        memory: The case whose peak memory is measured.
        first_use: The case whose first steps are timed.
        pace: How often.
        first_users: Whose first steps are timed.
    """

    timing: tuple[Case, ...]
    growth: tuple[Series, ...]
    kernels: tuple[Case, ...]
    families: tuple[Case, ...]
    blocks: tuple[Case, ...]
    memory: Case
    first_use: Case
    pace: Pace
    first_users: tuple[str, ...] = ("ours", "ours-compiled", "mlp", "inkan", "flashkan")

    def tasks(self, parts: Sequence[str], contenders: Sequence[str]) -> list[Task]:
        """The parts of a timing process' work, in order."""
        tasks = []
        if "timing" in parts:
            tasks += [
                Task("timing", case.layers, tuple((name, case) for name in contenders))
                for case in self.timing
            ]
        if "growth" in parts:
            for series in self.growth:
                names = [name for name in series.contenders if name in contenders]
                entries = tuple((name, case) for case in series.cases for name in names)
                if entries:
                    tasks.append(Task("growth", series.name, entries))
        if "kernels" in parts:
            for kernel in KERNELS:
                names = [name for name in CONTENDERS if own_network(name) == kernel]
                tasks += [
                    Task("kernels", kernel, tuple((name, case) for name in names))
                    for case in self.kernels
                ]
        if "families" in parts:
            names = [contender.name for contender in FAMILY_CONTENDERS]
            tasks += [
                Task("families", case.layers, tuple((name, case) for name in names))
                for case in self.families
            ]
        if "blocks" in parts:
            for block in BLOCKS:
                names = [name for name in CONTENDERS if own_network(name) == block]
                tasks += [
                    Task("blocks", block, tuple((name, case) for name in names))
                    for case in self.blocks
                ]
        return tasks

    def expected_seconds(self, task: Task) -> float:
        """A rough guess of a task's duration, for the time left."""
        total = 0.0
        for name, case in task.entries:
            products = case.parameters or sum(
                a * b * (case.grid_size + 4) for a, b in pairwise(case.widths)
            )
            rate = 2e-10 if max(case.widths) < 64 else 1e-10  # wide products run faster
            rows = case.batch * (TOKENS if own_network(name) in BLOCKS else 1)
            step = (5e-4 + rows * products * rate) * _SLOWNESS.get(name, 1.0)
            pace, contender = self.pace, CONTENDERS[name]
            if step > pace.slowest:
                total += 2 * step / TRIED_SHARE
                continue
            measured = pace.repeats * max(1.3 * step, 1.5 * BLOCK_SECONDS)
            total += max(min(measured, pace.seconds_for(contender)), LEAST_REPEATS * step)
            total += (2 if step > LONG_STEP else 3) * step + _COMPILE_SECONDS * contender.compiled
        return total


@dataclass(frozen=True)
class Task:
    """Contenders and cases whose repeats are interleaved.

    Attributes:
        part: ``"timing"``, ``"growth"``, ``"kernels"``, ``"families"`` or ``"blocks"``.
        name: The layers, the name of the series, the kernel, or the block.
        entries: Names of contenders, each with its case.
    """

    part: str
    name: str
    entries: tuple[tuple[str, Case], ...]

    @property
    def title(self) -> str:
        """What the progress bar says."""
        if self.part == "growth":
            return f"growth with {self.name}"
        case = self.entries[0][1]
        if case.parameters:
            return f"{case.layers}, batch {case.batch:,}"
        kernel = f"{self.name}: " if self.part in ("kernels", "blocks") else ""
        return f"{kernel}{case.layers}, batch {case.batch:,}, G = {case.grid_size}"

    def without(self, lost: Collection[tuple[str, Case]]) -> Task:
        """The same task without some of its entries."""
        return Task(self.part, self.name, tuple(one for one in self.entries if one not in lost))


def full_plan(pace: Pace) -> Plan:
    """Everything that the targets speak of."""
    grids, growing = (5, 16, 64), (5, 8, 16, 32, 64)
    return Plan(
        timing=tuple(
            Case(widths, batch, grid)
            for widths, batches in ((SMALL, (8192, 1024, 256)), (LARGE, (4096,)))
            for batch in batches
            for grid in grids
        ),
        growth=(
            Series("G, batch 1,024", "G", tuple(Case(SMALL, 1024, g) for g in growing)),
            Series("G, batch 8,192", "G", tuple(Case(SMALL, 8192, g) for g in growing)),
            Series("G, wide layers", "G", tuple(Case(LARGE, 4096, g) for g in (5, 64)), ("ours",)),
            Series(
                "width",
                "width",
                tuple(Case((3, w, w, w, 2), 1024, 5) for w in (16, 32, 64, 128, 256)),
            ),
            Series(
                "batch",
                "batch",
                tuple(Case(SMALL, n, 5) for n in (64, 256, 1024, 4096, 16384)),
            ),
        ),
        kernels=(
            Case(SMALL, 256, 5),
            Case(SMALL, 1024, 5),
            Case(SMALL, 8192, 5),
            Case(LARGE, 1024, 5),
        ),
        families=tuple(
            Case((2, 2), batch, 0, parameters)
            for parameters in (2300, 20_000)
            for batch in (256, 1024, 8192)
        ),
        blocks=tuple(Case((128, 512, 128), batch, 0) for batch in (64, 256)),
        memory=Case(LARGE, 36_864, 5),
        first_use=Case(SMALL, 1024, 5),
        pace=pace,
    )


def quick_plan(pace: Pace) -> Plan:
    """A little of everything, to see that it works; its numbers mean nothing."""
    return Plan(
        timing=(Case(SMALL, 256, 5),),
        growth=(
            Series("G, batch 1,024", "G", tuple(Case(SMALL, 1024, g) for g in (5, 16, 64))),
            Series("width", "width", tuple(Case((3, w, w, w, 2), 256, 5) for w in (16, 32, 64))),
            Series("batch", "batch", tuple(Case(SMALL, n, 5) for n in (64, 256, 1024))),
        ),
        kernels=(Case(SMALL, 256, 5),),
        families=(Case((2, 2), 256, 0, 2300),),
        blocks=(Case((32, 128, 32), 8, 0),),
        memory=Case(LARGE, 2048, 5),
        first_use=Case(SMALL, 256, 5),
        pace=pace,
        first_users=("ours", "mlp"),
    )
