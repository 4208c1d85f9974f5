"""Measures how the time of a training step is spent.

``train`` itself is measured: it runs with a clock around each part of its step. The share of a part
is its time divided by the wall-clock time of the same call of ``train``, start and end included.
Everything without a clock (the loop, the checks for NaN, the clocks themselves, setting up) is the
rest. There are two sums: the strict one counts forward (with the loss), backward and Adam's step as
work and everything else as overhead; the lenient one also counts clipping and the moving average of
the weights as work. The time of a step comes from runs without clocks, which alternate with the
runs with clocks.

    OMP_NUM_THREADS=1 python benchmarks/training_loop.py

``--optimizers`` instead times whole steps of each optimiser, alternating with Adam, and the update
of the parameters in them.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from unittest.mock import patch

import torch
from rich.console import Console
from rich.table import Table

from kan_diffusion import TrainingConfig, build_denoiser, get_process, train
from kan_diffusion.data.sources import load_dataset
from kan_diffusion.data.toys import ToyData
from kan_diffusion.files import write_json
from kan_diffusion.randomness import torch_generator
from kan_diffusion.study.environment import environment
from kan_diffusion.training.batches import Batches
from kan_diffusion.training.optimization import OPTIMIZERS, OptimizerName
from kan_diffusion.training.run import TrainingRun

PARAMS = 2300
FAMILIES = ("mlp", "full-kan")
BATCH_SIZES = (256, 1024)
OPTIMIZERS_BATCH = 1024
OPTIMIZERS_PARAMS = (2300, 5600)
OPTIMIZERS_FAMILIES = ("kan", "full-kan", "gated-mlp", "mlp")

PARTS: dict[str, tuple[type, str]] = {
    "forward": (TrainingRun, "forward"),
    "backward": (TrainingRun, "backward"),
    "Adam": (TrainingRun, "optimize"),
    "clipping": (TrainingRun, "clip"),
    "EMA": (TrainingRun, "update_average"),
    "gradients": (TrainingRun, "collect"),
    "draws": (Batches, "at"),
}
"""The parts of a step, each with the method that does it; bookkeeping is not among them."""

WORK = ("forward", "backward", "Adam")
ALSO_WORK = ("clipping", "EMA")

Seconds = dict[str, float]


@contextmanager
def clocks() -> Iterator[Seconds]:
    """Puts a clock around each part; yields the seconds that each part has taken."""
    spent: Seconds = defaultdict(float)

    def timed(part: str, method: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            started = time.perf_counter()
            result = method(*arguments)
            spent[part] += time.perf_counter() - started
            return result

        return call

    with ExitStack() as stack:
        for part, (owner, name) in PARTS.items():
            stack.enter_context(patch.object(owner, name, timed(part, getattr(owner, name))))
        yield spent


def run(
    family: str,
    batch_size: int,
    steps: int,
    optimizer: OptimizerName = "adam",
    params: int = PARAMS,
) -> tuple[float, float]:
    """Trains a fresh denoiser; returns the seconds of ``train`` and processor seconds of steps."""
    process = get_process("cosine")
    denoiser = build_denoiser(
        family,
        2,
        num_train_timesteps=process.num_timesteps,
        params=params,
        generator=torch_generator("training loop", family),
    )
    config = TrainingConfig(
        steps=steps,
        batch_size=batch_size,
        optimizer=optimizer,
        learning_rate=5e-3,
    )
    points = load_dataset(ToyData(toy="swiss-roll"), 0, 0).train
    started = time.perf_counter()
    result = train(denoiser, process, points, config, seed=0, device="cpu")
    return time.perf_counter() - started, result.cpu_seconds


def measure(family: str, batch_size: int, steps: int, repeats: int) -> dict[str, object]:
    """Microseconds and shares of the parts of a step, medians over the repeats."""
    run(family, batch_size, 20)  # compiles what is compiled on first use
    plain: list[float] = []
    clocked: list[float] = []
    parts: dict[str, list[float]] = {part: [] for part in (*PARTS, "rest")}
    for _ in range(repeats):
        plain.append(run(family, batch_size, steps)[0])
        with clocks() as spent:
            wall, _ = run(family, batch_size, steps)
        clocked.append(wall)
        for part in PARTS:
            parts[part].append(spent[part] / wall)
        parts["rest"].append(1 - sum(spent.values()) / wall)
    strict = [sum(parts[part][i] for part in WORK) for i in range(repeats)]
    lenient = [sum(parts[part][i] for part in (*WORK, *ALSO_WORK)) for i in range(repeats)]
    step = median(clocked) / steps
    return {
        "family": family,
        "batch_size": batch_size,
        "microseconds_a_step": round(1e6 * median(plain) / steps, 1),
        "microseconds_a_step_with_clocks": round(1e6 * step, 1),
        "shares": {part: round(median(shares), 4) for part, shares in parts.items()},
        "strict": round(median(strict), 4),
        "strict_range": [round(min(strict), 4), round(max(strict), 4)],
        "lenient": round(median(lenient), 4),
    }


def compare_optimizers(
    family: str, params: int, steps: int, repeats: int
) -> list[dict[str, object]]:
    """Measures median processor times of a step by each optimiser, also relative to Adam's."""
    taken: dict[str, list[float]] = {name: [] for name in OPTIMIZERS}
    updates: dict[str, list[float]] = {name: [] for name in OPTIMIZERS}
    for repeat in range(repeats + 1):
        for name in OPTIMIZERS:
            with clocks() as spent:
                seconds = run(family, OPTIMIZERS_BATCH, steps, name, params)[1] / steps
            if repeat:  # the first compiles and imports
                taken[name].append(seconds)
                updates[name].append(spent["Adam"] / steps)
    return [
        {
            "family": family,
            "parameters": params,
            "optimizer": name,
            "microseconds_a_step": round(1e6 * median(seconds), 1),
            "microseconds_an_update": round(1e6 * median(updates[name]), 1),
            "times_adam": round(
                median(own / adam for own, adam in zip(seconds, taken["adam"], strict=True)), 2
            ),
        }
        for name, seconds in taken.items()
    ]


def show_optimizers(rows: list[dict[str, object]]) -> None:
    """Prints the rows as a table."""
    table = Table(title=f"A step of {OPTIMIZERS_BATCH:,} points, one thread")
    for name in ("family", "parameters", "optimizer", "µs a step", "µs an update", "times Adam"):
        table.add_column(name)
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console().print(table)


def show(rows: list[dict[str, object]]) -> None:
    """Prints the rows as a table."""
    table = Table(title=f"Shares of a training step, {PARAMS:,} parameters, one thread")
    table.add_column("family")
    for name in ("batch", "µs a step", *PARTS, "rest", "strict", "lenient"):
        table.add_column(name, justify="right")
    for row in rows:
        shares = row["shares"]
        assert isinstance(shares, dict)
        table.add_row(
            str(row["family"]),
            f"{row['batch_size']:,}",
            f"{row['microseconds_a_step']:,.0f}",
            *(f"{share:.1%}" for share in shares.values()),
            f"[bold]{row['strict']:.1%}[/bold]",
            f"{row['lenient']:.1%}",
        )
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def main() -> None:
    """Measures every family at every batch size and writes the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=1000, help="steps a run")
    parser.add_argument("--repeats", type=int, default=7, help="runs with and without clocks")
    parser.add_argument("--out", type=Path, default=Path("results/training_loop"))
    parser.add_argument("--optimizers", action="store_true", help="time the optimisers instead")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.optimizers:
        file = "optimizers.json"
        rows = [
            row
            for family in OPTIMIZERS_FAMILIES
            for params in OPTIMIZERS_PARAMS
            for row in compare_optimizers(family, params, arguments.steps, arguments.repeats)
        ]
        show_optimizers(rows)
    else:
        file = "training_loop.json"
        rows = [
            measure(family, batch_size, arguments.steps, arguments.repeats)
            for batch_size in BATCH_SIZES
            for family in FAMILIES
        ]
        show(rows)
    about = {key: environment()[key] for key in ("processor", "system", "python", "torch")}
    content = {
        "environment": {**about, "threads": torch.get_num_threads()},
        "parameters": PARAMS,
        "steps": arguments.steps,
        "repeats": arguments.repeats,
        "rows": rows,
    }
    write_json(arguments.out / file, content)


if __name__ == "__main__":
    main()
