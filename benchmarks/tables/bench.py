"""Runs the benchmark of tables: each table, method and seed once, and what is finished not again.

One row a table, method and seed: seconds, the scores of :func:`kan_diffusion.table_scores` for
methods that make rows, and those of :mod:`tables.gaps` for methods that fill gaps. All rows are one
file, ``results.jsonl``, which is written whole whenever one is finished. Half of a table's rows are
learned from and half are judged by, so that the closest record of a row is as often a training row
as a held-out one, unless rows are copied.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pandas as pd
from pydantic import TypeAdapter, ValidationError

from kan_diffusion import DiffusionEstimator, TableScores, table_scores
from kan_diffusion.errors import KanDiffusionError, RunFolderError
from kan_diffusion.files import finite, write_json, write_text
from kan_diffusion.randomness import stream_seed
from kan_diffusion.study.environment import environment
from kan_diffusion.study.executors.base import use_one_thread
from tables.gaps import IMPUTERS, MECHANISMS, gap_scores
from tables.generators import GENERATORS, Ours
from tables.sources import TABLES, Split

__all__ = [
    "METHODS",
    "RESULTS",
    "Result",
    "judge",
    "read_results",
    "run_benchmark",
    "run_one",
    "run_speed",
]

METHODS = (*GENERATORS, *IMPUTERS)
"""Methods by name: what makes rows, then what only fills gaps."""

RESULTS = "results.jsonl"

Progress = Callable[[str, str, float], None]


@dataclass(frozen=True)
class Result:
    """Result of one method on one table with one seed.

    Attributes:
        table: The table.
        method: The method.
        seed: The seed: of the split, of the method and of all that judges.
        budget: Seconds of one core that training was to take.
        fit_seconds: Seconds of one core that it took.
        sample_seconds: The same for as many rows as it was trained on.
        held: How the method was held to its time.
        scores: Scores of its rows.
        perfect: What real rows score.
        gaps: Scores of filled gaps, such as ``"mcar error"``.
        gap_seconds: Seconds that filling them took.
        error: Why there are no scores; empty where there are.
    """

    table: str
    method: str
    seed: int
    budget: float
    fit_seconds: float = 0.0
    sample_seconds: float = 0.0
    held: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    perfect: dict[str, float] = field(default_factory=dict)
    gaps: dict[str, float] = field(default_factory=dict)
    gap_seconds: float = 0.0
    error: str = ""

    @property
    def key(self) -> tuple[str, str, int]:
        """Table, method and seed of the result."""
        return self.table, self.method, self.seed


_RESULT = TypeAdapter(Result)


def run_one(table: str, method: str, seed: int, seconds: float) -> Result:
    """Trains one method on one table, and judges it.

    Args:
        table: A name of ``TABLES``.
        method: A name of ``METHODS``.
        seed: The seed.
        seconds: Seconds of one core that training may take.

    Returns:
        The result; one with an error where the method failed, which is its affair.
    """
    try:
        return _run_one(table, method, seed, seconds)
    except Exception as error:  # noqa: BLE001  # one method's failure is a result
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return Result(table, method, seed, seconds, error=reason[:300])


def _run_one(table: str, method: str, seed: int, seconds: float) -> Result:
    split = TABLES[table].split(seed)
    clock = _Clock()
    if method in IMPUTERS:
        fill = IMPUTERS[method](split, seconds, seed)
        gaps = _gaps(gap_scores(split, fill, name, seed) for name in MECHANISMS)
        return Result(table, method, seed, seconds, gaps=gaps, gap_seconds=clock.lap())
    generator = GENERATORS[method]()
    generator.fit(split, seconds, seed)
    fitted = clock.lap(generator.seconds)
    rows = generator.sample(len(split.train), seed)
    sampled = clock.lap(generator.seconds)
    judged = judge(split, rows, seed)
    clock.lap()
    gaps = {}
    if isinstance(generator, Ours):
        gaps = _gaps(gap_scores(split, generator.impute, name, seed) for name in MECHANISMS)
    return Result(
        table,
        method,
        seed,
        seconds,
        fitted,
        sampled,
        generator.held,
        judged.scores["value"].to_dict(),
        judged.scores["perfect"].to_dict(),
        gaps,
        clock.lap() if gaps else 0.0,
    )


def judge(split: Split, rows: pd.DataFrame, seed: int) -> TableScores:
    """Scores drawn rows by those that were not learned from."""
    return table_scores(
        split.test,
        rows,
        train=split.train,
        targets=[split.target],
        generator=stream_seed("benchmark judge", seed),
    )


class _Clock:
    """Seconds of this process's own cores since the last question."""

    def __init__(self) -> None:
        self._start = time.process_time()

    def lap(self, known: float | None = None) -> float:
        now = time.process_time()
        taken, self._start = now - self._start, now
        return round(taken if known is None else known, 3)


def _gaps(scores: Iterable[dict[str, float]]) -> dict[str, float]:
    return {
        f"{mechanism} {name}": value
        for mechanism, found in zip(MECHANISMS, scores, strict=True)
        for name, value in found.items()
    }


def _start() -> None:
    """Makes a process leave interrupts to the driver and use one thread."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    use_one_thread()


def read_results(folder: Path) -> list[Result]:
    """The results that are finished, failed ones among them.

    Args:
        folder: The folder of the benchmark; nothing is finished where it is missing.

    Raises:
        RunFolderError: The file holds something else.
    """
    path = folder / RESULTS
    if not path.exists():
        return []
    try:
        return [_RESULT.validate_json(line) for line in path.read_text("utf-8").splitlines()]
    except (OSError, ValidationError) as error:
        raise RunFolderError(
            f"'{path}' cannot be read as results of the benchmark; give another --out or delete it"
        ) from error


def _write_results(folder: Path, results: Iterable[Result]) -> None:
    order = {name: place for place, name in enumerate((*TABLES, *METHODS))}
    ordered = sorted(results, key=lambda one: (order[one.table], order[one.method], one.seed))
    lines = [json.dumps(finite(asdict(one)), ensure_ascii=False) + "\n" for one in ordered]
    write_text(folder / RESULTS, "".join(lines))


def run_benchmark(
    folder: Path,
    *,
    tables: Sequence[str],
    methods: Sequence[str],
    seeds: int,
    seconds: float,
    workers: int = 1,
    on_progress: Progress | None = None,
) -> list[Result]:
    """Runs what is not finished; what failed is tried again.

    Args:
        folder: Where results are kept.
        tables: Names of ``TABLES``.
        methods: Names of ``METHODS``.
        seeds: Runs of each method on each table.
        seconds: Seconds of one core that each training may take.
        workers: How many run side by side, a process and a thread each.
        on_progress: Told ``"runs"``, which one is finished, and the share of all that is done.

    Returns:
        All results of the folder, those of other tables and methods among them.

    Raises:
        RunFolderError: The folder cannot be written, or holds results of another budget.
        KanDiffusionError: A process died.
    """
    done = {one.key: one for one in read_results(folder)}
    if other := {one.budget for one in done.values()} - {seconds}:
        raise RunFolderError(
            f"'{folder}' has results of {other.pop():g} seconds a fit; give --seconds with that "
            "number or another --out"
        )
    asked = [(t, m, s) for s in range(seeds) for t in tables for m in methods]
    todo = [key for key in asked if key not in done or done[key].error]
    write_json(folder / "environment.json", environment())
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    with ProcessPoolExecutor(
        max_workers=max(1, workers),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start,
    ) as pool:
        futures = [pool.submit(run_one, *key, seconds) for key in todo]
        try:
            for number, future in enumerate(as_completed(futures), 1):
                result = future.result()
                done[result.key] = result
                _write_results(folder, done.values())
                if on_progress is not None:
                    name = f"{result.table}, {result.method}, seed {result.seed}"
                    on_progress("runs", name, number / len(todo))
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                child.terminate()
            if isinstance(error, BrokenProcessPool):
                raise KanDiffusionError(
                    "a process of the benchmark died; what is finished is kept: give the same "
                    "command again, with fewer --workers if memory was short"
                ) from error
            raise
    return list(done.values())


def run_speed(folder: Path, num: int = 100_000) -> dict[str, float]:
    """Times the estimator with nothing but its defaults on ``customers``, with all cores.

    Args:
        folder: Where ``speed.json`` is written.
        num: Rows that are drawn.

    Returns:
        Seconds by the clock of the fit and of the rows.

    Raises:
        RunFolderError: The folder cannot be written.
    """
    frame = TABLES["customers"].load()
    start = time.perf_counter()
    model = DiffusionEstimator(random_state=0).fit(frame)
    fitted = time.perf_counter()
    model.sample(num)
    taken = {"fit": fitted - start, f"{num} rows": time.perf_counter() - fitted}
    write_json(folder / "speed.json", {name: round(value, 2) for name, value in taken.items()})
    return taken
