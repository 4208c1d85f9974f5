"""Runs the benchmark of tables: each table, method and seed once, and what is finished not again.

One line of JSON a table, method and seed in ``results.jsonl``: seconds, scores of rows and what
real rows score, and for methods that fill gaps the scores of :mod:`tables.gaps`.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from kan_diffusion import table_scores
from kan_diffusion.errors import KanDiffusionError, RunFolderError
from kan_diffusion.files import finite, write_json, write_text
from kan_diffusion.randomness import stream_seed
from kan_diffusion.study.run import environment
from tables.detection import detection_score
from tables.gaps import IMPUTERS, gap_scores
from tables.generators import GENERATORS
from tables.plain import is_number
from tables.sources import TABLES, Split

METHODS = (*GENERATORS, *IMPUTERS)
"""Methods by name: what makes rows, then what only fills gaps."""

RESULTS = "results.jsonl"

_MOST_CLASSES = 20  # categories of a column that usefulness predicts

Progress = Callable[[str, str, float], None]


@dataclass(frozen=True)
class Asked:
    """What all methods are held to.

    Attributes:
        seconds: Seconds of one core that a fit may take.
        params: Largest number of parameters of our families; as many as suit the table when None.
    """

    seconds: float = 600.0
    params: int | None = None


@dataclass(frozen=True)
class Result:
    """Result of one method on one table with one seed.

    Attributes:
        table: The table.
        method: The method.
        seed: The seed: of the split, of the method and of all that judges.
        asked: What the method was held to.
        fit_seconds: Seconds of one core that training took.
        sample_seconds: The same for as many rows as it was trained on.
        held: How much it was trained.
        scores: Scores of its rows.
        perfect: What real rows score.
        columns: Detection score of each column by itself.
        gaps: Scores of filled gaps.
        error: Why there are no scores; empty where there are.
    """

    table: str
    method: str
    seed: int
    asked: Asked = Asked()
    fit_seconds: float = 0.0
    sample_seconds: float = 0.0
    held: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    perfect: dict[str, float] = field(default_factory=dict)
    columns: dict[str, float] = field(default_factory=dict)
    gaps: dict[str, float] = field(default_factory=dict)
    error: str = ""

    @property
    def key(self) -> tuple[str, str, int]:
        """Table, method and seed of the result."""
        return self.table, self.method, self.seed


_RESULT = TypeAdapter(Result)


def run_one(table: str, method: str, seed: int, asked: Asked) -> Result:
    """Trains one method on one table, and judges it.

    Args:
        table: A name of ``TABLES``.
        method: A name of ``METHODS``.
        seed: The seed.
        asked: What the method is held to.

    Returns:
        The result; one with an error where the method failed, which is its affair.
    """
    try:
        return Result(
            table, method, seed, asked, **_measured(TABLES[table].split(seed), method, seed, asked)
        )
    except Exception as error:  # noqa: BLE001  # one method's failure is a result
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return Result(table, method, seed, asked, error=reason[:300])


def _measured(split: Split, method: str, seed: int, asked: Asked) -> Mapping[str, object]:
    """Scores filled gaps, or rows beside those that were not learned from, for all columns."""
    started = time.process_time()
    if method in IMPUTERS:
        gaps = gap_scores(split, IMPUTERS[method](split, seed), seed)
        return {"gaps": gaps, "fit_seconds": round(time.process_time() - started, 3)}
    generator = GENERATORS[method](split, seed, seconds=asked.seconds, params=asked.params)
    fitted = time.process_time()
    rows = generator.sample(len(split.train), seed)
    sampled = time.process_time()
    cells = split.train.select_dtypes(exclude="datetime").items()  # dates are no targets
    judged = table_scores(
        split.test,
        rows,
        train=split.train,
        targets=[n for n, c in cells if is_number(c) or 2 <= c.nunique() <= _MOST_CLASSES],
        generator=stream_seed("benchmark judge", seed),
    ).scores
    first, second = split.train.iloc[::2], split.train.iloc[1::2]  # files may be sorted
    names = split.train.columns
    return {
        "fit_seconds": round(fitted - started, 3),
        "sample_seconds": round(sampled - fitted, 3),
        "held": generator.held,
        "scores": {**judged["value"], "detection": detection_score(split.train, rows, seed)},
        "perfect": {**judged["perfect"], "detection": detection_score(first, second, seed)},
        "columns": {n: detection_score(split.train[[n]], rows[[n]], seed) for n in names},
        "gaps": gap_scores(split, generator.fill, seed) if generator.fill else {},
    }


def _start() -> None:
    """Makes a process leave interrupts to the driver and use one thread."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import torch

    torch.set_num_threads(1)


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


def run_benchmark(
    folder: Path,
    *,
    tables: Sequence[str],
    methods: Sequence[str],
    seeds: Sequence[int],
    asked: Asked,
    workers: int = 1,
    on_progress: Progress | None = None,
) -> list[Result]:
    """Runs what is not finished; what failed is tried again.

    Args:
        folder: Where results are kept.
        tables: Names of ``TABLES``.
        methods: Names of ``METHODS``.
        seeds: Seeds of the runs of each method on each table.
        asked: What all methods are held to.
        workers: How many run side by side, a process and a thread each.
        on_progress: Told ``"runs"``, which one is finished, and the share of all that is done.

    Returns:
        All results of the folder, those of other tables and methods among them.

    Raises:
        RunFolderError: The folder cannot be written, or its results were held to something else.
        KanDiffusionError: A process died.
    """
    done = {one.key: one for one in read_results(folder)}
    if other := {one.asked for one in done.values()} - {asked}:
        raise RunFolderError(
            f"'{folder}' has results of {other.pop()}; give the same --seconds and --params, or "
            "another --out"
        )
    wanted = [(table, method, seed) for seed in seeds for table in tables for method in methods]
    todo = [key for key in wanted if key not in done or done[key].error]
    write_json(folder / "environment.json", environment())
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    with ProcessPoolExecutor(
        max_workers=max(1, workers),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start,
    ) as pool:
        futures = [pool.submit(run_one, *key, asked) for key in todo]
        try:
            for number, future in enumerate(as_completed(futures), 1):
                result = future.result()
                done[result.key] = result
                lines = (
                    json.dumps(finite(asdict(one)), ensure_ascii=False) for one in done.values()
                )
                write_text(folder / RESULTS, "".join(f"{line}\n" for line in lines))
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
