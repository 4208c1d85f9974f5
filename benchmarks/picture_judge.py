"""Measures the judges of pictures: scene reader and its time, digit judge, oracle.

Scenes are fresh and of all combinations. Seconds are processor time of one thread, so that other
programs on the machine matter little.

    OMP_NUM_THREADS=1 python benchmarks/picture_judge.py
"""

from __future__ import annotations

import argparse
import time
from itertools import pairwise
from pathlib import Path

import torch

from kan_diffusion.data.sources import load_dataset
from kan_diffusion.files import finite, write_json
from kan_diffusion.pictures.scenes import (
    SceneOracle,
    captions,
    coverages,
    draw_scenes,
    read_scenes,
    render,
    score_scenes,
)
from kan_diffusion.pictures.scores import ClassJudge
from kan_diffusion.pictures.sources import DigitsData, ShapesData
from kan_diffusion.randomness import numpy_generator, torch_generator

SIZES = (16, 32)
NOISES = (0.0, 0.3)


def drawing() -> dict[str, float]:
    """Seconds to draw and caption 20,000 pictures of each size, coverages included."""
    seconds = {}
    for size in SIZES:
        coverages.cache_clear()
        started = time.process_time()
        load_dataset(ShapesData(size=size))
        seconds[f"{size} pixels"] = time.process_time() - started
    return seconds


def reading(num: int) -> tuple[list[dict[str, float]], dict[str, float]]:
    """Shares of real scenes that are read correctly, by size and noise, and seconds to read."""
    rows, seconds = [], {}
    for size in SIZES:
        scenes = draw_scenes(num, numpy_generator("judge", size), "all")
        samples, prompts = render(scenes, size), captions(scenes)
        for noise in NOISES:
            drawn = torch.randn(samples.shape, generator=torch_generator("judge", size))
            scores = score_scenes(samples + noise * drawn, prompts)
            rows.append({"pixels": size, "noise": noise, **scores})
        started = time.process_time()
        read_scenes(samples)
        seconds[f"{size} pixels"] = time.process_time() - started
    return rows, seconds


def digits(splits: int) -> list[float]:
    """Accuracy of the digit judge on the held-out real digits of each split."""
    scores = []
    for seed in range(splits):
        data = load_dataset(DigitsData(holdout=0.3), 0, seed)
        judge = ClassJudge(data.train, data.labels["class"])
        scores.append(judge.score(data.heldout, data.heldout_labels["class"])[0])
    return scores


def oracle(num: int) -> dict[str, float | None]:
    """Share of the exact denoiser's samples (20 steps) read as asked, and its flow loss."""
    scenes = draw_scenes(num, numpy_generator("oracle"), "all")
    prompts = captions(scenes, numpy_generator("oracle", "captions"))
    generator = torch_generator("oracle")
    x = torch.randn(num, 3, 16, 16, generator=generator, dtype=torch.float64)
    levels = torch.linspace(1, 0, 21, dtype=torch.float64).tolist()
    everything = SceneOracle(16, "all")
    for sigma, after in pairwise(levels):
        mean = everything.posterior_mean(x, 1 - sigma, sigma, prompts)
        x = (1 - after) * mean + after * (x - (1 - sigma) * mean) / sigma
    seen = draw_scenes(num, numpy_generator("oracle", "loss"))
    clean = render(seen, 16).double()
    noise = torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    level = torch.sigmoid(torch.randn(num, 1, 1, 1, generator=generator, dtype=torch.float64))
    noised = (1 - level) * clean + level * noise
    losses = {}
    for told in (None, captions(seen)):
        started = time.process_time()
        mean = SceneOracle(16).posterior_mean(
            noised, 1 - level[:, 0, 0, 0], level[:, 0, 0, 0], told
        )
        predicted = (noised - (1 - level) * mean) / level - mean
        kind = "unconditional" if told is None else "prompted"
        losses[f"{kind} loss"] = float((predicted - (noise - clean)).square().mean())
        losses[f"{kind} seconds"] = time.process_time() - started
    return {"all read as asked": score_scenes(x, prompts)["all"], **losses}


def main() -> None:
    """Measures everything and writes it to a file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--num", type=int, default=2_000, help="scenes of each size")
    parser.add_argument("--out", type=Path, default=Path("results/pictures/judge.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    scenes, seconds = reading(options.num)
    found = {
        "seconds to draw 20,000": drawing(),
        f"seconds to read {options.num:,}": seconds,
        "scenes": scenes,
        "digits, five splits": digits(5),
        f"oracle, {options.num // 4:,} pictures": oracle(options.num // 4),
    }
    write_json(options.out, finite(found))
    print(found)


if __name__ == "__main__":
    main()
