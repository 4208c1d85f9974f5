"""Rows such as a study of some models on some toys would leave, made up."""

import itertools
import zlib
from pathlib import Path

import numpy as np
import pandas as pd

from kan_diffusion.study.run import StudyResults
from make import study

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
KINDS = {"KAN": "kan", "modulated KAN": "kan", "MLP": "mlp", "MLP ReLU": "mlp", "RBF": "other"}
REAL = {"energy": 0.0005, "sliced_w2": 0.022, "c2st": 0.5}
FAILED = "the loss became NaN at step 71 <&>; lower the learning rate"


def kind_of(family):
    if family == "spline-mlp":
        return "other"
    return "kan" if "kan" in family else "mlp"


def make_rows(
    datas=("swiss-roll", "checkerboard"), models=tuple(FAMILIES), num_seeds=3, *,
    budget=None, without_oracle=(), failed=True,
):  # fmt: skip
    """Rows of a study; ``budget`` is a number of parameters held equal."""
    generator = np.random.default_rng(7)
    rows = []
    for which, data in enumerate(datas):
        floor = 0.42 - 0.05 * which
        for name in models:
            family, parameters, excess, seconds = FAMILIES[name]
            # Data sets differ, but not so much that a ranking has no order.
            excess *= (1 + which % 3) * (0.6 + 0.8 * zlib.crc32(f"{data} {name}".encode()) / 2**32)
            for seed in range(num_seeds):
                off = float(np.exp(0.12 * generator.standard_normal()))
                row = {
                    "data": data, "match": budget and "params", "budget": budget, "name": name,
                    "seed": seed, "family": family, "kind": kind_of(family), "oracle": "exact",
                    "parameters": parameters, "flops": 2.0 * parameters, "steps": 4_000,
                    "train_seconds": seconds * off * 1.1, "train_cpu_seconds": seconds * off,
                    "sample_seconds": 0.4 * off, "heldout_loss": floor + excess * off,
                    "floor": floor, "excess": excess * off, "excess_se": 0.02 * excess,
                    "nll": 1.62 + 4 * excess * off, "nll_real": 1.61, "error": None,
                    "trial": f"{len(rows):04x}{zlib.crc32(data.encode()):08x}",
                }  # fmt: skip
                if data in without_oracle:
                    row |= dict.fromkeys(("excess", "excess_se", "floor", "nll_real"))
                    row["oracle"] = "none"
                for metric, real in REAL.items():
                    spread = 1 + 0.05 * generator.standard_normal()
                    row[metric] = real * (1 + 90 * excess * (metric != "c2st")) * spread
                    row[f"{metric}_real"] = real * (1 + 0.02 * generator.standard_normal())
                rows.append(row)
    if failed:
        kept = ("data", "name", "family", "kind", "match", "budget", "parameters")
        lost = {key: rows[0][key] for key in kept}
        rows.append(
            {**dict.fromkeys(rows[0]), **lost, "seed": num_seeds, "trial": "dead00",
             "error": FAILED}
        )  # fmt: skip
    return pd.DataFrame(rows)


def rows_of(values, kinds=KINDS, *, match="params", budget=2300.0, measure="excess", **columns):
    """Rows of one measure from {data: {model: values of seeds 0, 1, ...}}; None for a failed trial.

    A number stands for ten values about it.
    """
    draws = itertools.count(1)
    return pd.DataFrame(
        [
            {
                "data": data, "match": match, "budget": budget, "name": name, "seed": seed,
                "family": name.lower().replace(" ", "-"), "kind": kinds[name], "oracle": "exact",
                "parameters": 2_300, "trial": f"{data}/{name}/{seed}", measure: value,
                "error": "the loss became non-finite" if value is None else None, **columns,
            }
            for data, models in values.items()
            for name, given in models.items()
            for seed, value in enumerate(
                around(given, seed=next(draws)) if isinstance(given, float) else given
            )
        ]
    )  # fmt: skip


def around(mean, num=10, spread=0.1, seed=0):
    """Positive values of seeds whose logarithms scatter by ``spread`` about that of ``mean``."""
    return (mean * np.exp(spread * np.random.default_rng(seed).normal(size=num))).tolist()


def make_study(rows, **changes):
    """The results of a study of toys of which the rows alone are there."""
    data = [{"toy": toy, "num_points": 100} for toy in dict.fromkeys(rows["data"])]
    config = study(seeds=max(rows["seed"]) + 1, data=data, **changes)
    return StudyResults(config, Path("nowhere"), (), rows)
