"""Contents such as a study of three models on two data sets would hand over, made up."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
from sklearn.datasets import make_swiss_roll

from kan_diffusion.report.contents import ReportContents

MODELS = {
    "KAN": ("kan", 2_290, 0.0024, 31.0),
    "MLP": ("mlp", 2_306, 0.0016, 9.0),
    "small KAN": ("kan", 1_600, 0.0061, 14.0),
}
REAL = {"energy": 0.0005, "sliced_w2": 0.022, "w2": 0.085, "mmd": 0.00018, "c2st": 0.5}


def roll(count: int, noise: float, generator: np.random.Generator) -> np.ndarray:
    seed = int(generator.integers(2**31))
    return make_swiss_roll(count, noise=noise, random_state=seed)[0][:, [0, 2]] / 7


def squares(count: int, noise: float, generator: np.random.Generator) -> np.ndarray:
    cells = generator.integers(0, 2, (count, 2)) * 2 - 2 + generator.random((count, 2))
    cells[:, 0] += generator.integers(0, 2, count) * np.array([1.0])
    return cells + 0.05 * noise * generator.standard_normal((count, 2))


def make_contents(
    datas: tuple[str, ...] = ("swiss roll", "checkerboard"),
    models: tuple[str, ...] = tuple(MODELS),
    num_seeds: int = 3,
    failed: bool = True,
    count: int = 300,
) -> ReportContents:
    generator = np.random.default_rng(7)
    rows, levels, curves = [], [], []
    corruption, trajectories, samples, originals, floors = {}, {}, {}, {}, {}
    times = np.linspace(0, 1, 11)
    for which, data in enumerate(datas):
        draw = (roll, squares)[which % 2]
        originals[data] = draw(count, 0.2, generator)
        floors[data] = 0.42 - 0.05 * which
        noise = generator.standard_normal((count, 2))

        def panels(points, noise=noise):
            return [
                (float(t), np.cos(np.pi / 2 * t) * points + np.sin(np.pi / 2 * t) * noise)
                for t in times
            ]

        corruption[data] = panels(originals[data])
        for name in models:
            family, parameters, excess, seconds = MODELS[name]
            samples[data, name] = draw(count, 0.3 + 60 * excess, generator)
            trajectories[data, name] = [
                (f"step {step:,}", panels(draw(count, wide, generator))[::-1])
                for step, wide in ((0, 9.0), (1_000, 3.0), (5_000, 0.4))
            ]
            for seed in range(num_seeds):
                off = float(np.exp(0.12 * generator.standard_normal()))
                row = {
                    "data": data, "name": name, "family": family, "seed": seed,
                    "parameters": parameters, "flops": 2.0 * parameters,
                    "train_seconds": seconds * off, "sample_seconds": 0.4 * off,
                    "heldout_loss": floors[data] + excess * off, "floor": floors[data],
                    "excess": (1 + which) * excess * off, "excess_se": 0.02 * excess,
                    "trial": f"{which}{seed}{parameters:04x}", "error": None,
                }  # fmt: skip
                for metric, real in REAL.items():
                    spread = 1 + 0.05 * generator.standard_normal()
                    row[metric] = real * (1 + 90 * excess * (metric != "c2st")) * spread
                    row[f"{metric}_real"] = real * (1 + 0.02 * generator.standard_normal())
                rows.append(row)
                edges = np.linspace(0, 1, 11)
                for low, high in itertools.pairwise(edges):
                    middle = (low + high) / 2
                    levels.append({
                        "data": data, "name": name, "seed": seed,
                        "t_low": low, "t_high": high, "t_mid": middle,
                        "log_snr": float(-2 * np.log(np.tan(np.pi / 2 * middle))),
                        "excess": excess * off * (0.1 + 6 * np.exp(-8 * middle)),
                    })  # fmt: skip
                steps = np.arange(1, 5_001, 10)
                losses = floors[data] + excess * off + 0.5 * np.exp(-steps / 150)
                losses = losses * (1 + 0.03 * generator.standard_normal(len(steps)))
                curves += [
                    {"data": data, "name": name, "seed": seed, "step": int(s), "loss": float(v)}
                    for s, v in zip(steps, losses, strict=True)
                ]
    if failed:
        lost = dict.fromkeys(rows[0]) | {
            "data": datas[0], "name": models[0], "family": MODELS[models[0]][0],
            "seed": num_seeds, "parameters": MODELS[models[0]][1], "trial": "dead00",
            "error": "the loss became NaN at step 71 <&>; lower the learning rate",
        }  # fmt: skip
        rows.append(lost)
    return ReportContents(
        title="Swiss roll, three denoisers",
        question="Is a KAN better than an MLP with as many parameters?",
        command="kan-diffusion run notebook",
        environment={"python": "3.11.9", "torch": "2.13.0", "processor": "x86-64, 2 cores"},
        settings=[("process", "cosine, v-prediction, T = 1,000"), ("steps", "5,000"),
                  ("batch", "1,024")],
        warnings=["The process does not reach noise: alpha_bar_T = 0.855."],
        rows=pd.DataFrame(rows),
        excess_by_level=pd.DataFrame(levels),
        curves=pd.DataFrame(curves),
        floors=floors,
        corruption=corruption,
        trajectories=trajectories,
        samples=samples,
        originals=originals,
        columns={data: ["x", "z"] for data in datas},
    )  # fmt: skip
