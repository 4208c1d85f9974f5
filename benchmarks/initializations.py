"""Compares the initialisations of KAN layers for denoising.

Every scheme gets the same learning rates, data sets and seeds. The network has the defaults of the
``full-kan`` family at about 2,300 parameters; the process is ``cosine``, with 4,000 steps of 1,024
points. A scheme is judged by its mean excess against the exact oracle, on each data set at the
better one of its learning rates.

    python benchmarks/initializations.py
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from kan_diffusion import TrainingConfig, build_denoiser, get_process, train
from kan_diffusion.data.sources import load_dataset
from kan_diffusion.data.toys import ToyData
from kan_diffusion.evaluation.denoising import draw_noised_points, measure_denoising
from kan_diffusion.files import write_json, write_text
from kan_diffusion.kan.initialization import INITIALIZATIONS
from kan_diffusion.randomness import stream_seed, torch_generator

SEED = 30_000  # used by no study
DATA = ("swiss-roll", "checkerboard")
LEARNING_RATES = (8e-3, 2.3e-2)


class Job(NamedTuple):
    """One training run."""

    init: str
    data: str
    learning_rate: float
    seed: int


def run(job: Job, steps: int) -> dict[str, object]:
    """Trains one denoiser and measures its excess, early and at the end."""
    torch.set_num_threads(1)
    process = get_process("cosine")
    toy = ToyData(toy=job.data)
    dataset = load_dataset(toy, SEED, job.seed)
    draw = draw_noised_points(
        load_dataset(toy, SEED, -1), process, 20_000, torch_generator("draw", SEED, job.data)
    )
    denoiser = build_denoiser(
        "full-kan",
        dataset.dim,
        num_train_timesteps=process.num_timesteps,
        params=2300,
        settings={"init": job.init},
        generator=torch_generator("parameters", SEED, job.seed),
    )
    early: list[float] = []
    result = train(
        denoiser,
        process,
        dataset.train,
        TrainingConfig(steps=steps, learning_rate=job.learning_rate),
        seed=stream_seed("training", SEED, job.seed, job.data),
        moments=[steps // 10],
        on_moment=lambda _, now: early.append(measure_denoising(now, draw, process).excess),
    )
    excess = measure_denoising(denoiser, draw, process).excess
    return {**job._asdict(), "excess": excess, "early": early[0], "seconds": result.seconds}


def table(rows: list[dict[str, object]]) -> str:
    """Formats the comparison as a table in Markdown, best first."""
    lines: list[tuple[float, str]] = []
    for init in INITIALIZATIONS:
        cells, total = [], 0.0
        for data in DATA:
            best = min(
                (
                    [
                        r
                        for r in rows
                        if (r["init"], r["data"], r["learning_rate"]) == (init, data, lr)
                    ]
                    for lr in LEARNING_RATES
                ),
                key=lambda found: np.mean([r["excess"] for r in found]),
            )
            ends = np.array([r["excess"] for r in best])
            total += float(np.log(ends.mean()))
            starts = np.mean([r["early"] for r in best])
            cells.append(
                f"{ends.mean():.4f} ({ends.min():.4f} to {ends.max():.4f}) | {starts:.4f} | "
                f"{best[0]['learning_rate']}"
            )
        lines.append((total, f"| `{init}` | " + " | ".join(cells) + " |"))
    head = "| init | " + " | ".join(f"{d}: excess (range) | after a tenth | rate" for d in DATA)
    rule = "| --- |" + " --- | --- | --- |" * len(DATA)
    return "\n".join([head + " |", rule, *(line for _, line in sorted(lines))]) + "\n"


def main() -> None:
    """Runs the missing trainings and writes rows and table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--out", type=Path, default=Path("results/initializations"))
    arguments = parser.parse_args()
    path = arguments.out / "initializations.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    done = {tuple(row[name] for name in Job._fields) for row in rows}
    jobs = [
        job
        for seed, data, init, rate in product(
            range(arguments.seeds), DATA, INITIALIZATIONS, LEARNING_RATES
        )
        if (job := Job(init, data, rate, seed)) not in done
    ]
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        pending = [pool.apply_async(run, (job, arguments.steps)) for job in jobs]
        for number, result in enumerate(pending, start=1):
            rows.append(result.get())
            write_json(path, rows)
            print(f"{number} of {len(jobs)}: {json.dumps(rows[-1])}", flush=True)
    write_text(arguments.out / "initializations.md", table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
