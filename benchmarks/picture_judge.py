"""Measures the judges of pictures: scene reader and its time, digit judge, features, oracle.

Scenes are fresh and of all combinations, and the reader is not told how many things they have.
Seconds are processor time of one thread, so that other programs on the machine matter little.

    OMP_NUM_THREADS=1 python benchmarks/picture_judge.py
"""

from __future__ import annotations

import argparse
import time
from itertools import pairwise
from pathlib import Path

import torch

from kan_diffusion.data.datasets import PictureData, load_dataset
from kan_diffusion.evaluation.metrics import PICTURE_METRICS, real_against_real, sample_metrics
from kan_diffusion.evaluation.oracles import SceneOracle
from kan_diffusion.files import whole_file, write_json
from kan_diffusion.pictures.features import PictureFeatures
from kan_diffusion.pictures.reading import ClassJudge, accuracy, read_scenes, score_scenes
from kan_diffusion.pictures.scenes import caption, draw_scenes, render, renderings, scene_samples
from kan_diffusion.randomness import numpy_generator, torch_generator
from kan_diffusion.report.images import contact_sheet

NOISES = (0.0, 0.3)


def drawing() -> dict[str, float]:
    """Seconds to draw and caption 20,000 pictures of each kind, renderings included."""
    seconds = {}
    for size, objects in ((16, 1), (16, 3), (32, 1), (32, 3)):
        renderings.cache_clear()
        started = time.process_time()
        load_dataset(PictureData(pictures="shapes", size=size, objects=objects))
        seconds[f"{size} pixels, up to {objects}"] = time.process_time() - started
    return seconds


def reading(num: int) -> list[dict[str, float | None]]:
    """Shares of real scenes that are read correctly, by size, number of things and noise."""
    rows = []
    for size in (16, 32):
        for objects in (1, 2, 3):
            for noise in NOISES:
                generator = numpy_generator("judge", size, objects)
                scores = accuracy(num, size, generator, objects, "all", noise)
                rows.append({"pixels": size, "things": objects, "noise": noise, **vars(scores)})
                print(rows[-1], flush=True)
    return rows


def reading_time(num: int) -> dict[str, float]:
    """Seconds to read pictures of three things as one thing, and as up to three."""
    seconds = {}
    for size in (16, 32):
        scenes = draw_scenes(num, numpy_generator("judge", size), 3)
        samples = scene_samples(scenes, size)
        for most in (1, 3):
            read_scenes(samples[:8], most)
            started = time.process_time()
            read_scenes(samples, most)
            seconds[f"{size} pixels, up to {most}"] = time.process_time() - started
    return seconds


def digits(splits: int) -> list[float]:
    """Accuracy of the digit judge on the held-out real digits of each split."""
    scores = []
    for seed in range(splits):
        data = load_dataset(PictureData(pictures="digits", holdout=0.3), 0, seed)
        assert data.class_labels is not None
        assert data.heldout_class_labels is not None
        parts = data.train, data.class_labels, data.heldout, data.heldout_class_labels
        scores.append(ClassJudge.fit(*parts).accuracy)
    return scores


def features(name: str) -> dict[str, dict[str, float]]:
    """Feature metrics between real pictures, and between real ones and spoilt ones."""
    config = PictureData(pictures=name, holdout=0.5 if name == "digits" else 0.1)
    data = load_dataset(config)
    started = time.process_time()
    network = PictureFeatures.fit(data.train, torch_generator("features", 0, config.name))
    seconds = time.process_time() - started
    one, other = data.heldout.chunk(2)
    noise = torch.randn(one.shape, generator=torch_generator("noise", name))
    blurred = torch.nn.functional.avg_pool2d(one, 3, stride=1, padding=1)
    few = one[torch.arange(len(one)) % (len(one) // 10)]
    spoilt = {"noise 0.3": one + 0.3 * noise, "blur": blurred, "a tenth, repeated": few}
    table = {
        "real": real_against_real(
            lambda _: (network(one), network(other)),
            1,
            numpy_generator("metrics", name),
            PICTURE_METRICS,
        )
    }
    for kind, pictures in spoilt.items():
        table[kind] = sample_metrics(
            network(pictures), network(other), numpy_generator("metrics", name), PICTURE_METRICS
        )
    return {"seconds": {"fit": seconds}, **table}


def oracle(num: int) -> dict[str, float]:
    """Share of the exact denoiser's samples (20 steps) read as asked, and its flow loss."""
    scenes = draw_scenes(num, numpy_generator("oracle"), 1, "all")
    prompts = [caption(scene, numpy_generator("oracle", i)) for i, scene in enumerate(scenes)]
    generator = torch_generator("oracle")
    x = torch.randn(num, 3, 16, 16, generator=generator, dtype=torch.float64)
    levels = torch.linspace(1, 0, 21, dtype=torch.float64).tolist()
    everything = SceneOracle(16, "all")
    for sigma, after in pairwise(levels):
        mean = everything.posterior_mean(x, 1 - sigma, sigma, prompts)
        x = (1 - after) * mean + after * (x - (1 - sigma) * mean) / sigma
    seen = draw_scenes(num, numpy_generator("oracle", "loss"))
    clean = torch.from_numpy(render(seen, 16)).permute(0, 3, 1, 2).double() / 127.5 - 1
    noise = torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    level = torch.sigmoid(torch.randn(num, 1, 1, 1, generator=generator, dtype=torch.float64))
    noised = (1 - level) * clean + level * noise
    losses = {}
    for told in (None, [caption(scene) for scene in seen]):
        started = time.process_time()
        mean = SceneOracle(16).posterior_mean(
            noised, 1 - level[:, 0, 0, 0], level[:, 0, 0, 0], told
        )
        predicted = (noised - (1 - level) * mean) / level - mean
        kind = "unconditional" if told is None else "prompted"
        losses[f"{kind} loss"] = float((predicted - (noise - clean)).square().mean())
        losses[f"{kind} seconds"] = time.process_time() - started
    return {"all read as asked": score_scenes(x, prompts).all, **losses}


def sheet(path: Path) -> None:
    """Draws examples of the data: scenes of one, two and three things, digits and emoji."""
    configs = [
        PictureData(pictures="shapes", size=32, objects=3, num_pictures=200),
        PictureData(pictures="digits"),
        PictureData(pictures="emoji"),
    ]
    rows = []
    for config in configs:
        data = load_dataset(config)
        pictures = [picture.convert("RGB") for picture in data.codec.decode(data.train[:200])]
        if config.pictures == "shapes":
            scenes = [len(read.scene.things) for read in read_scenes(data.train)]
            rows += [[pictures[i] for i, n in enumerate(scenes) if n == k] for k in (1, 2, 3)]
        else:
            rows.append(pictures)
    with whole_file(path) as temporary:
        contact_sheet([row[:12] for row in rows]).save(temporary, "PNG")


def main() -> None:
    """Measures everything and writes it to a file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--num", type=int, default=2_000, help="scenes of each kind")
    parser.add_argument("--out", type=Path, default=Path("results/pictures/judge.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {
        "seconds to draw 20,000": drawing(),
        f"seconds to read {options.num:,}": reading_time(options.num),
        "scenes": reading(options.num),
        "digits, five splits": digits(5),
        "features": {name: features(name) for name in ("digits", "shapes")},
        f"oracle, {options.num // 4:,} pictures": oracle(options.num // 4),
    }
    write_json(options.out, found)
    sheet(options.out.with_name("data.png"))
    print({key: value for key, value in found.items() if key != "scenes"})


if __name__ == "__main__":
    main()
