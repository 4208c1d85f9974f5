"""The targets a KAN layer is to reach, and whether the measurements reach them.

Every verdict here is computed from rows of measurements; nothing is entered by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from baselines import BLOCKS, FAMILY_CONTENDERS
from layer_speed.timing import Row

__all__ = ["LIBRARIES", "TARGETS", "Observation", "Results", "Target", "measured"]

Results = dict[str, list[Row]]
"""Rows by part: timing, growth, kernels, families, blocks, memory, first_use."""

LIBRARIES = ("inkan", "inkan-eager", "flashkan", "flashkan-eager")
"""The fast layers of others, whose best mode counts."""

_LARGE_BATCH = 8192


@dataclass(frozen=True)
class Observation:
    """A value that a target speaks of.

    Attributes:
        layers: Widths.
        batch: Number of rows.
        grid_size: Number of intervals; None where the value spans several.
        threads: Number of threads.
        value: The ratio.
        repeats: How many repeats its median is of.
        note: What else to know about it.
    """

    layers: str
    batch: int
    grid_size: int | None
    threads: int
    value: float
    repeats: int
    note: str = ""


@dataclass(frozen=True)
class Target:
    """A bound on a ratio, to be kept at every case that is observed.

    Attributes:
        name: Key in the results.
        title: What is divided by what.
        at_most: Whether the bound is the largest value allowed, rather than the smallest.
        bound: The target.
        stretch: What would be better still, or None.
        observe: Finds the ratios in the results.
    """

    name: str
    title: str
    at_most: bool
    bound: float
    stretch: float | None
    observe: Callable[[Results], list[Observation]]

    def met(self, value: float, bound: float | None = None) -> bool:
        """Whether a value keeps the bound."""
        bound = self.bound if bound is None else bound
        return value <= bound if self.at_most else value >= bound

    def worst(self, observations: Sequence[Observation]) -> Observation:
        """The observation that is farthest on the wrong side."""
        return (max if self.at_most else min)(observations, key=lambda o: o.value)

    @property
    def sign(self) -> str:
        """How the bound is written before its value."""
        return "≤" if self.at_most else "≥"


def measured(rows: Sequence[Row], key: str) -> list[Row]:
    """The rows that have a value under ``key``."""
    return [row for row in rows if key in row]


def _observation(row: Row, value: object, note: str = "", whole_grid: bool = False) -> Observation:
    return Observation(
        layers=str(row["layers"]),
        batch=int(str(row["batch"])),
        grid_size=None if whole_grid else int(str(row["grid_size"])),
        threads=int(str(row["threads"])),
        value=float(str(value)),
        repeats=int(str(row.get("repeats", 1))),
        note=note,
    )


def _against(
    contender: str, key: str, large_batch_only: bool = False
) -> Callable[[Results], list[Observation]]:
    def observe(results: Results) -> list[Observation]:
        return [
            _observation(row, row[key])
            for row in measured(results["timing"], key)
            if row["contender"] == contender
            and not (large_batch_only and row["batch"] != _LARGE_BATCH)
        ]

    return observe


def _best_library(results: Results) -> list[Observation]:
    best: dict[tuple[object, ...], Row] = {}
    for row in measured(results["timing"], "ratio"):
        if row["contender"] in LIBRARIES:
            case = (row["threads"], row["layers"], row["batch"], row["grid_size"])
            if case not in best or float(str(row["ratio"])) < float(str(best[case]["ratio"])):
                best[case] = row
    return [_observation(row, row["ratio"], str(row["contender"])) for row in best.values()]


def _grid_growth(results: Results) -> list[Observation]:
    """The last case of each series in G against its first."""
    last: dict[tuple[object, object], Row] = {}
    for row in measured(results["growth"], "ratio"):
        if row["contender"] == "ours" and str(row["series"]).startswith("G"):
            last[row["threads"], row["series"]] = row
    return [
        _observation(row, row["ratio"], f"to G = {row['grid_size']}", whole_grid=True)
        for row in last.values()
    ]


def _memory(results: Results) -> list[Observation]:
    peaks = {row["contender"]: row for row in measured(results["memory"], "peak_mib")}
    if "ours" not in peaks or "mlp" not in peaks:
        return []
    ours, mlp = (float(str(peaks[name]["peak_mib"])) for name in ("ours", "mlp"))
    return [_observation(peaks["ours"], ours / mlp)] if mlp > 0 else []


def _against_torch(*paths: str) -> Callable[[Results], list[Observation]]:
    """The fastest of torch's ways against each kernel."""

    def observe(results: Results) -> list[Observation]:
        fastest: dict[tuple[object, ...], Row] = {}
        for row in measured(results["kernels"], "ratio"):
            kernel, _, path = str(row["contender"]).partition("-")
            if path not in paths or kernel == "rational":  # which has none
                continue
            case = (kernel, row["layers"], row["batch"], row["threads"])
            if case not in fastest or float(str(row["ratio"])) < float(str(fastest[case]["ratio"])):
                fastest[case] = {**row, "layers": f"{kernel}, {row['layers']}"}
        return [_observation(row, row["ratio"], str(row["contender"])) for row in fastest.values()]

    return observe


def _families(
    parameters: int, family: str, other: str = "mlp"
) -> Callable[[Results], list[Observation]]:
    """The step of a family against that of another of that size, by their medians."""

    def observe(results: Results) -> list[Observation]:
        rows = [
            row
            for row in measured(results["families"], "ms")
            if row["layers"] == f"{parameters:,} parameters"
        ]
        times = {
            (row["batch"], row["threads"]): float(str(row["ms"]))
            for row in rows
            if row["contender"] == f"family-{other}"
        }
        return [
            _observation(row, float(str(row["ms"])) / time, f"{family} / {other}", whole_grid=True)
            for row in rows
            if row["contender"] == f"family-{family}"
            and (time := times.get((row["batch"], row["threads"])))
        ]

    return observe


def _second_thread(results: Results) -> list[Observation]:
    """The first of the families with two threads against itself with one, in another process."""
    first = FAMILY_CONTENDERS[0].name
    own = [row for row in measured(results["families"], "ms") if row["contender"] == first]
    alone = {(row["layers"], row["batch"]): row for row in own if row["threads"] == 1}
    return [
        _observation(row, float(str(row["ms"])) / float(str(one["ms"])), whole_grid=True)
        for row in own
        if row["threads"] == 2 and (one := alone.get((row["layers"], row["batch"])))
    ]


def _blocks(kind: str) -> Callable[[Results], list[Observation]]:
    """The step of kanified blocks against that of the plain one of as many parameters."""

    def observe(results: Results) -> list[Observation]:
        return [
            _observation({**row, "layers": f"{block}, {row['layers']}"}, row["ratio"], "", True)
            for row in measured(results["blocks"], "ratio")
            for block in BLOCKS
            if row["contender"] == f"{block}-{kind}"
        ]

    return observe


TARGETS = (
    Target(
        "gemm", "ours / the same GEMMs, features given", True, 1.3, None,
        _against("gemm", "inverse_ratio"),
    ),
    Target(
        "mlp", "ours / MLP of as many parameters, batch 8,192", True, 1.3, 1.0,
        _against("mlp", "inverse_ratio", large_batch_only=True),
    ),
    Target(
        "recursion", "Cox-de Boor recursion / ours", False, 6.0, None,
        _against("recursion", "ratio"),
    ),
    Target(
        "libraries", "best mode of inkan and flashkan / ours", False, 1.5, 2.5, _best_library,
    ),
    Target("pykan", "pykan / ours", False, 25.0, None, _against("pykan", "ratio")),
    Target("growth", "ours at G = 64 / ours at G = 5", True, 3.0, None, _grid_growth),
    Target(
        "kernels", "torch, eager / a kernel of another basis", False, 1.3, None,
        _against_torch("eager", "recompute"),
    ),
    Target(
        "compiled", "torch, compiled / a kernel of another basis", False, 1.3, None,
        _against_torch("compiled"),
    ),
    Target(
        "full-small", "full KAN / MLP, families of 2,300 parameters", True, 1.15, 1.0,
        _families(2300, "full-kan"),
    ),
    Target(
        "small", "KAN / MLP, families of 2,300 parameters", True, 1.15, 1.0,
        _families(2300, "kan"),
    ),
    Target(
        "full", "full KAN / MLP, families of 20,000 parameters", True, 1.0, None,
        _families(20_000, "full-kan"),
    ),
    Target(
        "second-thread", "KAN family on two threads / on one", True, 1.0, None, _second_thread,
    ),
    Target(
        "blocks-grouped", "kanified block, grouped / plain", True, 1.3, None, _blocks("grouped"),
    ),
    Target("blocks-full", "kanified block, full / plain", True, 1.5, None, _blocks("full")),
    Target("memory", "peak memory of ours / of the MLP", True, 2.0, None, _memory),
)  # fmt: skip
