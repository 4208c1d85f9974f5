"""Worker processes: started with their number of threads, listened to, and replaced when they die.

A worker that is killed, for want of memory say, takes nothing with it but what it was measuring:
the contender it was preparing gets that as its reason, and a fresh worker goes on with the rest.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from baselines import CONTENDERS, Case, Contender
from layer_speed.plan import Pace, Task
from layer_speed.steps import plain_text
from layer_speed.timing import Row, row_of
from layer_speed.worker import MARK

__all__ = ["WorkerError", "run_single", "run_tasks", "worker_environment"]

_BENCHMARKS = Path(__file__).resolve().parent.parent
_THREAD_VARIABLES = tuple(
    f"{library}_NUM_THREADS" for library in ("OMP", "MKL", "OPENBLAS", "NUMBA")
)

Event = dict[str, Any]
"""What a worker sends: plain JSON."""


class WorkerError(RuntimeError):
    """A worker ended before its job did; the message says how."""


def worker_environment(device: str) -> dict[str, str]:
    """Versions and hardware as a worker sees them.

    Raises:
        WorkerError: The device cannot be used.
    """
    [event] = _events({"kind": "environment"}, device, threads=1)
    return event["environment"]


def run_single(
    kind: str,
    contender: Contender,
    case: Case,
    device: str,
    threads: int,
    variables: Mapping[str, str] | None = None,
) -> Row:
    """Measures one contender in a process of its own.

    Args:
        kind: ``"memory"`` or ``"first-use"``.
        contender: Whom.
        case: At which size.
        device: Where.
        threads: With how many threads.
        variables: Environment variables to set.
    """
    job = {"kind": kind, "contender": contender.name, "case": _plain(case)}
    row = row_of(contender, case, threads)
    try:
        for event in _events(job, device, threads, variables):
            row |= event["measured"]
    except WorkerError as error:
        row["reason"] = str(error)
    return row


def run_tasks(
    tasks: Sequence[Task],
    pace: Pace,
    device: str,
    threads: int,
    progress: Callable[[Task, float], None],
) -> list[Row]:
    """Measures tasks one after another in one process, in more when one dies.

    Args:
        tasks: What to measure.
        pace: How often.
        device: Where.
        threads: With how many threads.
        progress: Told what fraction of a task is done.
    """
    pending = list(tasks)
    rows: list[Row] = []
    while pending:
        job = {
            "kind": "timing",
            "pace": asdict(pace),
            "tasks": [(t.part, t.name, [(n, _plain(c)) for n, c in t.entries]) for t in pending],
        }
        finished, preparing = 0, None
        try:
            for event in _events(job, device, threads):
                task = pending[finished]
                if "rows" in event:
                    rows += [_tagged(task, row) for row in event["rows"]]
                    finished, preparing = finished + 1, None
                    progress(task, 1.0)
                elif "preparing" in event:
                    preparing = event["preparing"]
                else:
                    progress(task, event["fraction"])
        except WorkerError as error:
            if finished == len(pending):
                break
            died = pending[finished]
            lost = died.entries if preparing is None else (died.entries[preparing],)
            for name, case in lost:
                row = row_of(CONTENDERS[name], case, threads, reason=str(error))
                rows.append(_tagged(died, row))
            rest = died.without(lost)
            pending[finished : finished + 1] = [rest] if rest.entries else []
        pending = pending[finished:]
    order = {
        (task.name, name, case.layers, case.batch, case.grid_size): place
        for place, (task, name, case) in enumerate((t, n, c) for t in tasks for n, c in t.entries)
    }
    keys = ("series", "contender", "layers", "batch", "grid_size")
    return sorted(rows, key=lambda row: order[tuple(row[key] for key in keys)])  # type: ignore[index]


def _tagged(task: Task, row: Row) -> Row:
    return {"part": task.part, "series": task.name, **row}


def _plain(case: Case) -> tuple[list[int], int, int, int]:
    return list(case.widths), case.batch, case.grid_size, case.parameters


def _events(
    job: Event, device: str, threads: int, variables: Mapping[str, str] | None = None
) -> Iterator[Event]:
    """Runs a job in a worker and yields its events.

    Yields:
        The events, in the order the worker sent them.

    Raises:
        WorkerError: The worker failed or was killed.
    """
    chosen = dict.fromkeys(_THREAD_VARIABLES, str(threads)) if device == "cpu" else {}
    # Not where the user is: some packages write into the working folder.
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "layer_speed.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": _search_path(), **chosen, **(variables or {})},
        )
        with _ended(process):
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps({**job, "device": device, "threads": threads}))
            process.stdin.close()
            for line in process.stdout:
                if line.startswith(MARK):
                    yield json.loads(line.removeprefix(MARK))
            code = process.wait()
        if code:
            errors.seek(0)
            raise WorkerError(_how_it_ended(code, errors.read()))


@contextmanager
def _ended(process: subprocess.Popen[str]) -> Iterator[None]:
    """Sees to it that a worker does not outlive the block."""
    try:
        yield
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _search_path() -> str:
    """Where this process finds modules, for a worker in another working folder."""
    return os.pathsep.join([str(_BENCHMARKS), *(str(Path(p).absolute()) for p in sys.path if p)])


def _how_it_ended(code: int, errors: str) -> str:
    if code == -signal.SIGKILL:
        return "its process was killed, most likely for want of memory"
    if code < 0:
        return f"its process was ended by {signal.Signals(-code).name}"
    lines = [line for line in errors.splitlines() if line.strip()]
    if not lines:
        return f"its process ended with code {code}"
    return plain_text(re.sub(r"^[\w.]*KanDiffusionError: ", "", lines[-1]))
