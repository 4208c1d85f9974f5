"""Times KAN layers side by side: ours, the GEMMs alone, an MLP, the recursion, other packages.

    python benchmarks/kan_layer.py                 # everything, about half an hour
    python benchmarks/kan_layer.py --quick         # a smoke test
    python benchmarks/kan_layer.py --contenders ours gemm mlp --parts timing
    python benchmarks/kan_layer.py --parts families          # denoisers, about two minutes
    python benchmarks/kan_layer.py --parts blocks            # feed-forwards, about two minutes

It measures forward, backward and Adam step of layer stacks at several sizes, with one and two
threads; the growth of the time with the grid, the width and the batch; denoisers of the KAN and the
MLP families at equal size; feed-forward blocks of a picture transformer, plain and kanified; the
kernels of other bases and of learned activations against torch, eager and compiled; peak memory;
and the first use. All timings of a case come from one run, interleaved repeat by repeat. Results go
to ``--out``: JSON with all rows, a page of Markdown with the verdict on every target, and figures;
parts that ``--parts`` leaves out are kept there as they are. A contender that is missing or fails
gets a row with the reason; ``make bench`` installs the other packages.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from baselines import CONTENDERS, default_contenders
from kan_diffusion.errors import KanDiffusionError
from layer_speed.output import PARTS, find_results, keep_others, read_results, write_results
from layer_speed.plan import CLOSELY, LEAST_REPEATS, Pace, Plan, Task, full_plan, quick_plan
from layer_speed.processes import WorkerError, run_single, run_tasks, worker_environment
from layer_speed.tables import format_value, target_records
from layer_speed.targets import Results
from layer_speed.timing import Row

_PARTS = tuple(part.replace("_", "-") for part in PARTS)
_MEMORY = ("ours", "ours-compiled", "mlp", "recursion")
_CACHES = ("NUMBA_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
_MEMORY_SECONDS, _FIRST_USE_SECONDS = 10.0, 20.0

Advance = Callable[[str, float], None]
"""Called with what is being measured and how many of the expected seconds have been completed."""


def main() -> None:
    """Runs the chosen measurements and writes the results."""
    arguments = _parse()
    try:
        if arguments.render:
            head, results = read_results(find_results(arguments.out))
        else:
            head, results = _measure(arguments)
            keep_others(arguments.out, head, results)
        plan = _plan(bool(head["quick"]), arguments)
        written = write_results(arguments.out, head, results, plan)
    except (WorkerError, KanDiffusionError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; nothing was written")
    console = Console(highlight=False)
    _show(console, results)
    for path in written:
        console.print(f"wrote {path}", style="dim", soft_wrap=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", help="cpu (the default) or cuda")
    parser.add_argument("--threads", type=int, nargs="+", help="default: 1 2; 1 on a GPU")
    parser.add_argument("--repeats", type=int, help="default: 20; 3 in a quick run")
    parser.add_argument(
        "--patience", type=float, default=3.0, metavar="SECONDS",
        help="give a contender fewer repeats of a case when they take longer, but at least "
        f"{LEAST_REPEATS}; ours, GEMMs and MLP have {CLOSELY:g} times as long (default: "
        "%(default)g)",
    )  # fmt: skip
    parser.add_argument(
        "--slowest", type=float, default=6.0, metavar="SECONDS",
        help="leave a contender out of a case when its step takes longer (default: %(default)g)",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="a smoke test of about a minute")
    parser.add_argument(
        "--contenders", nargs="+", choices=list(CONTENDERS), help="default: all for the device"
    )
    parser.add_argument("--parts", nargs="+", choices=_PARTS, default=list(_PARTS))
    parser.add_argument(
        "--out", type=Path, help="default: results/kan_layer; runs/kan_layer-quick in a quick run"
    )
    parser.add_argument(
        "--render", action="store_true", help="only write page and figures of --out's JSON again"
    )
    arguments = parser.parse_args()
    quick = arguments.quick
    arguments.out = arguments.out or Path("runs/kan_layer-quick" if quick else "results/kan_layer")
    arguments.repeats = (3 if quick else 20) if arguments.repeats is None else arguments.repeats
    if arguments.threads is None:
        arguments.threads = [1, 2] if arguments.device == "cpu" and not quick else [1]
    chosen = arguments.contenders or default_contenders(arguments.device)
    arguments.contenders = [name for name in CONTENDERS if name in chosen]
    if min(*arguments.threads, arguments.repeats) < 1:
        parser.error("--threads and --repeats take numbers of at least 1")
    return arguments


def _plan(quick: bool, arguments: argparse.Namespace) -> Plan:
    pace = Pace(arguments.repeats, arguments.patience, arguments.slowest)
    return (quick_plan if quick else full_plan)(pace)


def _measure(arguments: argparse.Namespace) -> tuple[Row, Results]:
    """Runs all parts; the timings for each number of threads run in a separate process."""
    device, names, parts = arguments.device, arguments.contenders, arguments.parts
    plan = _plan(arguments.quick, arguments)
    environment = worker_environment(device)
    tasks = plan.tasks(parts, names)
    costs = {task.title: plan.expected_seconds(task) for task in tasks}
    singles = [("memory", n) for n in _MEMORY if n in names and "memory" in parts]
    singles += [("first-use", n) for n in plan.first_users if n in names and "first-use" in parts]
    total = len(arguments.threads) * sum(costs.values()) + sum(_cost(kind) for kind, _ in singles)
    results: Results = {part: [] for part in PARTS}
    with _progress(total) as advance:
        for threads in arguments.threads if tasks else ():
            rows = run_tasks(tasks, plan.pace, device, threads, _follow(costs, threads, advance))
            for row in rows:
                results[str(row.pop("part"))].append(row)
        for kind, name in singles:
            if kind == "memory":
                row = run_single(kind, CONTENDERS[name], plan.memory, device, threads=1)
                results["memory"].append(row)
            else:
                results["first_use"] += _first_use(name, plan, device)
            advance(f"{kind} of {CONTENDERS[name].label}", _cost(kind))
    head: Row = {
        "title": f"KAN layers on {environment.get('card', 'the CPU')}",
        "parts": {
            part.replace("-", "_"): {"command": _command(arguments), "environment": environment}
            for part in parts
        },
        "quick": arguments.quick,
        "device": device,
        "threads": arguments.threads,
        "pace": asdict(plan.pace),
        "environment": environment,
        "contenders": {name: CONTENDERS[name].label for name in names},
    }
    return head, results


def _cost(kind: str) -> float:
    return _MEMORY_SECONDS if kind == "memory" else _FIRST_USE_SECONDS


def _first_use(name: str, plan: Plan, device: str) -> list[Row]:
    """Times the first steps of two fresh processes: without compiled code, then with it."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        variables = {variable: str(Path(folder) / variable.lower()) for variable in _CACHES}
        for cache in ("empty", "filled"):
            row = run_single("first-use", CONTENDERS[name], plan.first_use, device, 1, variables)
            rows.append({**row, "cache": cache})
    return rows


def _follow(costs: dict[str, float], threads: int, advance: Advance) -> Callable[..., None]:
    """Converts the progress of one worker's tasks into completed expected seconds."""
    reached = dict.fromkeys(costs, 0.0)
    count = "1 thread" if threads == 1 else f"{threads} threads"

    def follow(task: Task, fraction: float) -> None:
        step = max(fraction - reached[task.title], 0.0)  # a task may start again
        reached[task.title] += step
        advance(f"{count}: {task.title}", costs[task.title] * step)

    return follow


def _command(arguments: argparse.Namespace) -> str:
    """Returns the command that repeats this run, without the output folder."""
    words = ["python benchmarks/kan_layer.py"]
    if arguments.device != "cpu":
        words.append(f"--device {arguments.device}")
    words.append("--threads " + " ".join(map(str, arguments.threads)))
    words.append(f"--repeats {arguments.repeats}")
    words.append(f"--patience {arguments.patience:g} --slowest {arguments.slowest:g}")
    if arguments.quick:
        words.append("--quick")
    if arguments.contenders != default_contenders(arguments.device):
        words.append("--contenders " + " ".join(arguments.contenders))
    if arguments.parts != list(_PARTS):
        words.append("--parts " + " ".join(arguments.parts))
    return " ".join(words)


@contextmanager
def _progress(total: float) -> Iterator[Advance]:
    """Shows a bar with the time left on a terminal, and a line for each new piece elsewhere."""
    console = Console(stderr=True, highlight=False)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
        console=console,
        disable=not console.is_terminal,
        refresh_per_second=1,  # a busy bar would take time from what is measured
        speed_estimate_period=300,
    ) as progress:
        bar = progress.add_task("starting", total=total)

        shown = ""

        def advance(what: str, seconds: float) -> None:
            nonlocal shown
            progress.update(bar, description=what, advance=seconds)
            if what != shown and not console.is_terminal:
                console.print(what, markup=False)
            shown = what

        yield advance


def _show(console: Console, results: Results) -> None:
    """Prints the verdicts."""
    table = Table(title="targets", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1))
    for head in ("ratio", "target", "worst", "at", "kept by", "verdict"):
        table.add_column(head)
    for record in target_records(results):
        table.add_row(
            str(record["ratio"]),
            str(record["bound"]),
            format_value(record.get("worst")),
            str(record.get("worst_at", "")),
            f"{record.get('kept', 0)} of {record['observed']}",
            str(record["verdict"]),
            style={"met": "", "missed": "bold"}.get(str(record["verdict"]), "dim"),
        )
    console.print(table)


if __name__ == "__main__":
    main()
