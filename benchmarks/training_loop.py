"""Where the time of a training step goes.

The loop itself is what is measured: ``train`` runs with a clock around each part of its step, and
a part's share is its time over the wall-clock time of that same call of ``train``, start and end
included. What no clock was around (the loop, the checks for NaN, the clocks themselves, setting up)
is the rest. Two sums are given: the strict one counts forward (with the loss), backward and Adam's
step as work and everything else as overhead; the lenient one counts clipping and the moving average
of the weights as work, too. The time of a step is from runs without clocks, taken in turn with the
others.

    OMP_NUM_THREADS=1 python benchmarks/training_loop.py
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
from kan_diffusion.data.datasets import ToyData, load_dataset
from kan_diffusion.files import write_json
from kan_diffusion.randomness import torch_generator
from kan_diffusion.study.run import environment
from kan_diffusion.training.batches import Batches
from kan_diffusion.training.run import TrainingRun

PARAMS = 2300
FAMILIES = ("mlp", "kan")
BATCH_SIZES = (256, 1024)

PARTS: dict[str, tuple[type, str]] = {
    "forward": (TrainingRun, "forward"),
    "backward": (TrainingRun, "backward"),
    "Adam": (TrainingRun, "optimize"),
    "clipping": (TrainingRun, "clip"),
    "EMA": (TrainingRun, "update_average"),
    "gradients": (TrainingRun, "collect"),
    "draws": (Batches, "at"),
}
"""Each part of a step with the method that does it; all of a step but its bookkeeping."""

WORK = ("forward", "backward", "Adam")
ALSO_WORK = ("clipping", "EMA")

Seconds = dict[str, float]


@contextmanager
def clocks() -> Iterator[Seconds]:
    """Puts a clock around each part; gives the seconds each has taken."""
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


def run(family: str, batch_size: int, steps: int) -> float:
    """Trains a fresh denoiser and returns the seconds that the call of ``train`` took."""
    process = get_process("cosine")
    denoiser = build_denoiser(
        family,
        2,
        num_train_timesteps=process.num_timesteps,
        params=PARAMS,
        generator=torch_generator("training loop", family),
    )
    config = TrainingConfig(steps=steps, batch_size=batch_size)
    points = load_dataset(ToyData(toy="swiss-roll"), 0, 0).train
    started = time.perf_counter()
    train(denoiser, process, points, config, seed=0, device="cpu")
    return time.perf_counter() - started


def measure(family: str, batch_size: int, steps: int, repeats: int) -> dict[str, object]:
    """Microseconds and shares of the parts of a step, medians over the repeats."""
    run(family, batch_size, 20)  # compiles what is compiled on first use
    plain: list[float] = []
    clocked: list[float] = []
    parts: dict[str, list[float]] = {part: [] for part in (*PARTS, "rest")}
    for _ in range(repeats):
        plain.append(run(family, batch_size, steps))
        with clocks() as spent:
            wall = run(family, batch_size, steps)
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
    arguments = parser.parse_args()
    torch.set_num_threads(1)
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
    write_json(arguments.out / "training_loop.json", content)


if __name__ == "__main__":
    main()
