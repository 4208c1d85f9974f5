"""Finds the settings that suit each family, with equal effort for all of them.

Every family gets the same number of random settings. They are trained alike (cosine process, 4,000
steps of 1,024 points, about 2,300 parameters) on the swiss roll, with seeds that no study uses, and
judged by the excess against the exact oracle. The first settings of a family are its defaults. The
ranges of both families were narrowed to those of the better half of a first round, in which KANs
with one hidden layer and learning rates below 0.008 were far behind.

    python benchmarks/tune_defaults.py --trials 16
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from kan_diffusion import TrainingConfig, build_denoiser, get_process, train
from kan_diffusion.data.datasets import ToyData, load_dataset
from kan_diffusion.denoisers.registry import FAMILIES
from kan_diffusion.evaluation.denoising import draw_noised_points, measure_denoising
from kan_diffusion.files import write_json
from kan_diffusion.randomness import numpy_generator, stream_seed, torch_generator

PARAMS = 2300
SEED = 20_000
Settings = dict[str, object]


def kan_settings(random: np.random.Generator) -> Settings:
    """Random settings of the full KAN."""
    reach = float(random.choice([1.5, 2.0, 2.5, 3.0]))
    return {
        "depth": int(random.integers(2, 5)),
        "learning_rate": float(10 ** random.uniform(-2.1, -1.4)),
        "settings": {
            "num_time_frequencies": int(random.integers(2, 5)),
            "grid_size": int(random.integers(3, 9)),
            "grid_range": [-reach, reach],
            "init": str(random.choice(["glorot", "noise"])),
        },
    }


def mlp_settings(random: np.random.Generator) -> Settings:
    """Random settings of the MLP family."""
    return {
        "depth": int(random.integers(3, 8)),
        "learning_rate": float(10 ** random.uniform(-2.1, -1.4)),
        "settings": {"num_time_frequencies": int(random.integers(2, 5))},
    }


SPACES: dict[str, Callable[[np.random.Generator], Settings]] = {
    "full-kan": kan_settings,
    "mlp": mlp_settings,
}


def run(job: tuple[str, int, Settings, int]) -> dict[str, object]:
    """Trains one denoiser and measures its excess."""
    family, index, chosen, steps = job
    torch.set_num_threads(1)
    process = get_process("cosine")
    dataset = load_dataset(ToyData(toy="swiss-roll"), SEED, index)
    draw = draw_noised_points(
        load_dataset(ToyData(toy="swiss-roll"), SEED, -1),
        process,
        20_000,
        torch_generator("tuning draw", SEED),
    )
    denoiser = build_denoiser(
        family,
        dataset.dim,
        num_train_timesteps=process.num_timesteps,
        params=PARAMS,
        depth=chosen["depth"],
        settings=chosen["settings"],
        generator=torch_generator("tuning parameters", SEED, family, index),
    )
    config = TrainingConfig(steps=steps, learning_rate=chosen["learning_rate"])
    result = train(
        denoiser, process, dataset.train, config, seed=stream_seed("tuning", SEED, index)
    )
    scores = measure_denoising(denoiser, draw, process)
    return {
        "family": family,
        "trial": index,
        **chosen,
        "hidden": list(denoiser.config.hidden),
        "parameters": denoiser.num_trainable,
        "excess": scores.excess,
        "excess_se": scores.excess_se,
        "seconds": result.seconds,
    }


def main() -> None:
    """Runs all trials and writes them, best first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=16, help="settings a family")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--families", default="full-kan,mlp")
    parser.add_argument("--out", type=Path, default=Path("results/tuning"))
    arguments = parser.parse_args()
    jobs = []
    for family in arguments.families.split(","):
        random = numpy_generator("tuning settings", SEED, family)
        kind = FAMILIES[family]
        chosen: list[Settings] = [
            {
                "depth": kind.depth,
                "learning_rate": kind.learning_rate,
                "settings": dict(kind.settings),
            }
        ]
        chosen += [SPACES[family](random) for _ in range(arguments.trials - 1)]
        jobs += [(family, i, one, arguments.steps) for i, one in enumerate(chosen)]
    path = arguments.out / "swiss-roll.json"
    rows = json.loads(path.read_text()) if path.exists() else []  # resume
    done = {(row["family"], row["trial"]) for row in rows}
    jobs = [job for job in jobs if job[:2] not in done]
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        for row in pool.imap_unordered(run, jobs, chunksize=1):
            rows.append(row)
            rows.sort(key=lambda row: (row["family"], row["excess"]))
            write_json(path, rows)
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
