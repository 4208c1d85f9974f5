"""Contents such as a study of some models on some data sets would hand over, made up."""

import itertools
import zlib

import numpy as np
import pandas as pd
from sklearn.datasets import make_swiss_roll

from kan_diffusion.report.contents import ReportContents, smoothed_curve
from kan_diffusion.study.results.rows import Results

# Name: family, parameters, excess, seconds.
FAMILIES = {
    "KAN": ("kan", 2_290, 0.0024, 31.0),
    "full KAN": ("full-kan", 2_301, 0.0026, 22.0),
    "residual KAN": ("residual-kan", 2_299, 0.0021, 35.0),
    "modulated KAN": ("modulated-kan", 2_304, 0.0017, 38.0),
    "MLP": ("mlp", 2_306, 0.0016, 9.0),
    "gated MLP": ("gated-mlp", 2_306, 0.0029, 8.0),
    "MLP Fourier inputs": ("mlp-fourier-inputs", 2_297, 0.0012, 10.5),
    "residual MLP": ("residual-mlp", 2_300, 0.0014, 12.0),
    "spline-MLP": ("spline-mlp", 2_280, 0.0035, 19.0),
}
MODELS = {
    "KAN": FAMILIES["KAN"], "MLP": FAMILIES["MLP"], "small KAN": ("kan", 1_600, 0.0061, 14.0)
}  # fmt: skip
KINDS = {"spline-mlp": "other"}
REAL = {"energy": 0.0005, "sliced_w2": 0.022, "c2st": 0.5}
BUDGETS = (("params", 2_300.0), ("time", 20.0))
TIMES = np.linspace(0, 1, 11)


def kind_of(family):
    return KINDS.get(family, "kan" if "kan" in family else "mlp")


def roll(count, noise, generator):
    seed = int(generator.integers(2**31))
    return make_swiss_roll(count, noise=noise, random_state=seed)[0][:, [0, 2]] / 7


def squares(count, noise, generator):
    cells = generator.integers(0, 2, (count, 2)) * 2 - 2 + generator.random((count, 2))
    cells[:, 0] += generator.integers(0, 2, count) * np.array([1.0])
    return cells + 0.05 * noise * generator.standard_normal((count, 2))


def _panels(points, noise):
    return [
        (float(t), np.cos(np.pi / 2 * t) * points + np.sin(np.pi / 2 * t) * noise) for t in TIMES
    ]


def make_contents(
    datas=("swiss roll", "checkerboard"), models=None, num_seeds=3, failed=True, count=300, *,
    budget=None, families=False, without_oracle=(),
):  # fmt: skip
    """A study's contents; ``budget`` is what is held equal, as match and amount."""
    known = FAMILIES if families else MODELS
    models = tuple(known) if models is None else models
    match, amount = budget or (None, None)
    generator = np.random.default_rng(7)
    rows, levels, curves = [], [], []
    corruption, trajectories, samples, originals, floors = {}, {}, {}, {}, {}
    for which, data in enumerate(datas):
        draw = (roll, squares)[which % 2]
        originals[data] = draw(count, 0.2, generator)
        base = 0.42 - 0.05 * (which % 4)
        noise = generator.standard_normal((count, 2))
        corruption[data] = _panels(originals[data], noise)
        if data not in without_oracle:
            floors[data] = base
        for name in models:
            family, parameters, excess, seconds = known[name]
            if budget:
                # Settings differ, but not so much that a ranking has no order.
                word = zlib.crc32(f"{data} {match} {name}".encode()) / 2**32
                excess *= 0.6 + 0.8 * word
            samples[data, name] = draw(count, 0.3 + 60 * excess, generator)
            if not budget:
                trajectories[data, name] = [
                    (f"step {step:,}", _panels(draw(count, wide, generator), noise)[::-1])
                    for step, wide in ((0, 9.0), (1_000, 3.0), (5_000, 0.4))
                ]
            for seed in range(num_seeds):
                off = float(np.exp(0.12 * generator.standard_normal()))
                place = {"data": data, "name": name, "seed": seed}
                took = seconds * off
                if match == "time":
                    took = amount * (1 + generator.uniform(-0.04, 0.04))
                row = {
                    "data": data, "match": match, "budget": amount, "name": name, "seed": seed,
                    "family": family, "kind": kind_of(family), "oracle": "exact",
                    "parameters": parameters, "flops": 2.0 * parameters,
                    "train_seconds": took * 1.1, "sample_seconds": 0.4 * off,
                    "heldout_loss": base + excess * off, "floor": base,
                    "excess": (1 + which % 3) * excess * off, "excess_se": 0.02 * excess,
                    "trial": f"{len(rows):04x}{zlib.crc32(data.encode()):08x}", "error": None,
                }  # fmt: skip
                if budget:
                    row |= {
                        "steps": 4_000 if match != "time" else int(4_000 * 20 / seconds),
                        "train_cpu_seconds": took,
                        "nll": 1.62 + 4 * excess * off, "nll_real": 1.61,
                    }  # fmt: skip
                if data in without_oracle:
                    row |= dict.fromkeys(("excess", "excess_se", "floor", "nll_real"))
                    row["oracle"] = "none"
                for metric, real in REAL.items():
                    spread = 1 + 0.05 * generator.standard_normal()
                    row[metric] = real * (1 + 90 * excess * (metric != "c2st")) * spread
                    row[f"{metric}_real"] = real * (1 + 0.02 * generator.standard_normal())
                rows.append(row)
                for low, high in itertools.pairwise(TIMES):
                    middle = (low + high) / 2
                    value = excess * off * (0.1 + 6 * np.exp(-8 * middle))
                    known_value = None if data in without_oracle else value
                    levels.append(place | {
                        "t_low": low, "t_high": high, "t_mid": middle,
                        "log_snr": float(-2 * np.log(np.tan(np.pi / 2 * middle))),
                        "excess": known_value, "heldout_loss": value + middle,
                    })  # fmt: skip
                steps = np.arange(1, 5_001, 10)
                losses = base + excess * off + 0.5 * np.exp(-steps / 150)
                losses = losses * (1 + 0.03 * generator.standard_normal(len(steps)))
                curves.append(
                    pd.DataFrame(
                        dict(zip(("step", "loss"), smoothed_curve(steps, losses), strict=True))
                    ).assign(**place)
                )
    if failed:
        lost = dict.fromkeys(rows[0]) | {
            "data": datas[0], "name": models[0], "family": known[models[0]][0], "kind": "kan",
            "seed": num_seeds, "parameters": known[models[0]][1], "trial": "dead00",
            "error": "the loss became NaN at step 71 <&>; lower the learning rate",
        }  # fmt: skip
        if budget:
            lost |= {"match": match, "budget": amount}
        rows.append(lost)
    return ReportContents(
        title="Swiss roll, three denoisers",
        question="Is a KAN better than an MLP with as many parameters?",
        command="kan-diffusion run notebook",
        environment={"python": "3.11.9", "torch": "2.13.0", "processor": "x86-64, 2 cores"},
        settings=[("process", "cosine, v-prediction, T = 1,000"), ("steps", "5,000"),
                  ("batch", "1,024")],
        warnings=["The process does not reach noise: alpha_bar_T = 0.855."],
        results=Results.of(pd.DataFrame(rows)),
        excess_by_level=pd.DataFrame(levels),
        curves=pd.concat(curves, ignore_index=True),
        floors=floors,
        corruption=corruption,
        trajectories=trajectories,
        samples=samples,
        originals=originals,
        columns={data: ["x", "z"] for data in datas},
    )  # fmt: skip
