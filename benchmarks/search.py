r"""Trains denoisers on toys with an exact oracle, to compare settings.

The search for a KAN that wins uses this script to try families, optimisers, sizes, steps and single
settings, on seeds that no study reports (101 and up). Each training is a row of
``results/search/results.jsonl``, written when the training ends; rows that exist are not trained
again. ``docs/search.md`` has the findings.

    OMP_NUM_THREADS=1 python benchmarks/search.py --data two-spirals rings \
        --models kan gated-mlp --optimizers adam soap --seeds 101 102 103 104 105
    OMP_NUM_THREADS=1 python benchmarks/search.py --data rings \
        --models 'kan num_input_frequencies=2' --seeds 101
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from itertools import product
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from kan_diffusion import (
    FAMILIES,
    TrainingConfig,
    build_denoiser,
    draw_noised_points,
    get_process,
    measure_denoising,
    train,
)
from kan_diffusion.data.sources import load_dataset
from kan_diffusion.data.toys import ToyData
from kan_diffusion.files import write_bytes
from kan_diffusion.randomness import stream_seed, torch_generator

DATA_SEED = 77
MEASURED = 16000

Row = dict[str, Any]


def _key(row: Row) -> str:
    names = ("data", "model", "optimizer", "params", "steps", "learning_rate", "seed")
    return json.dumps([row[name] for name in names])


def read_rows(path: Path) -> list[Row]:
    """Reads the rows that exist."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def run_one(row: Row) -> Row:
    """Trains and measures one denoiser.

    Args:
        row: Its data, model (a family, then settings as ``name=JSON``), optimizer, params, steps,
            learning_rate (None for the family's own) and seed.

    Returns:
        The row with the excess and the processor seconds of training.
    """
    family, *texts = row["model"].split()
    pairs = (text.partition("=") for text in texts)
    settings = {name: json.loads(value) for name, _, value in pairs}
    depth = settings.pop("depth", None)
    process = get_process("cosine")
    data = load_dataset(ToyData(toy=row["data"]), DATA_SEED, row["seed"])
    generator = torch_generator("search", row["seed"])
    denoiser = build_denoiser(
        family,
        data.dim,
        num_train_timesteps=process.num_timesteps,
        params=row["params"],
        depth=depth,
        settings=settings,
        generator=generator,
    )
    config = TrainingConfig(
        steps=row["steps"],
        learning_rate=row["learning_rate"] or FAMILIES[family].learning_rate,
        optimizer=row["optimizer"],
    )
    started = time.process_time()
    train(denoiser, process, data.train, config, seed=row["seed"], device="cpu")
    seconds = time.process_time() - started
    draw = draw_noised_points(
        data, process, MEASURED, torch_generator("search draw", stream_seed(row["data"]))
    )
    excess = measure_denoising(denoiser, draw, process).excess
    return {
        **row,
        "parameters": denoiser.num_trainable,
        "hidden": list(denoiser.config.hidden),
        "excess": float(f"{excess:.5g}"),
        "processor_seconds": round(seconds, 1),
    }


def show(rows: list[Row], console: Console) -> None:
    """Prints mean excesses times 1,000 by data set, and the median seconds of a training.

    The brackets hold the number of seeds and, from the second model of a group on, the number of
    seeds on which its excess is above that of the group's first model.
    """
    groups: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        extra = f"{row['optimizer']}, {row['params']:,} parameters, {row['steps']:,} steps"
        groups[extra][row["model"]].append(row)
    names = sorted({row["data"] for row in rows})
    for extra, by_model in groups.items():
        table = Table("model", *names, "processor seconds", title=extra)
        first: dict[tuple[str, int], float] = {}
        for model, own in by_model.items():
            cells = []
            for name in names:
                found = {row["seed"]: 1000 * row["excess"] for row in own if row["data"] == name}
                above = [
                    first[name, seed] < x for seed, x in found.items() if (name, seed) in first
                ]
                counts = f"{len(found)}" + (f", above in {sum(above)}" if above else "")
                cells.append(f"{mean(found.values()):.3g} ({counts})" if found else "–")
                for seed, value in found.items():
                    first.setdefault((name, seed), value)
            seconds = median(row["processor_seconds"] for row in own)
            table.add_row(model, *cells, f"{seconds:.3g}")
        console.print(table)


def main() -> None:
    """Trains the missing settings and prints a table of all rows."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", nargs="+", default=["two-spirals", "checkerboard", "rings"])
    parser.add_argument("--models", nargs="+", default=["kan", "gated-mlp"])
    parser.add_argument("--optimizers", nargs="+", default=["adam"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[101])
    parser.add_argument("--params", type=int, default=2300)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--out", type=Path, default=Path("results/search/results.jsonl"))
    given = parser.parse_args()
    console = Console()
    torch.set_num_threads(1)
    rows = read_rows(given.out)
    there = {_key(row) for row in rows}
    for optimizer, seed, data, model in product(
        given.optimizers, given.seeds, given.data, given.models
    ):
        row: Row = {
            "data": data,
            "model": model,
            "optimizer": optimizer,
            "params": given.params,
            "steps": given.steps,
            "learning_rate": given.learning_rate,
            "seed": seed,
        }
        if _key(row) in there:
            continue
        rows.append(run_one(row))
        console.print(json.dumps(rows[-1]), soft_wrap=True)
        given.out.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(given.out, "".join(json.dumps(one) + "\n" for one in rows).encode())
    show(rows, console)


if __name__ == "__main__":
    main()
