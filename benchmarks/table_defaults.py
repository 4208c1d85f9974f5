"""Measures the defaults of DiffusionEstimator on tables from 30 x 5 to 100,000 x 50.

Each table is split: the model is fitted to one part with the defaults and judged on the rest.
Synthetic tables have clusters, log-normal columns and correlations within each cluster.
Seconds are processor time of all threads, so that other programs on the machine do not count.

    python benchmarks/table_defaults.py
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn import datasets
from sklearn.preprocessing import StandardScaler

from kan_diffusion import (
    DiffusionEstimator,
    TrainingConfig,
    build_denoiser,
    get_process,
    train,
)
from kan_diffusion.evaluation.metrics import c2st
from kan_diffusion.files import write_json

MOST_JUDGED = 4_000
"""Largest number of rows on each side of a comparison."""


def clustered(num_rows: int, num_columns: int, clusters: int = 8) -> pd.DataFrame:
    """Draws rows from a mixture of correlated Gaussians, most columns of which are exponentiated.

    Args:
        num_rows: Number of rows.
        num_columns: Number of columns; tables with equally many have the same distribution.
        clusters: Number of components.
    """
    shape, draw = (np.random.default_rng([num_columns, kind]) for kind in (0, num_rows))
    rank = max(2, num_columns // 4)
    weights = shape.dirichlet(np.full(clusters, 3.0))
    means = 1.5 * shape.standard_normal((clusters, num_columns))
    factors = 0.8 * shape.standard_normal((clusters, num_columns, rank)) / rank**0.5
    own = shape.uniform(0.15, 0.5, (clusters, num_columns))
    skew = shape.uniform(0.3, 1.0, num_columns) * (shape.random(num_columns) < 0.7)
    scale, shift = np.exp(shape.normal(0, 2, num_columns)), shape.normal(0, 3, num_columns)
    which = draw.choice(clusters, num_rows, p=weights)
    z = means[which] + own[which] * draw.standard_normal((num_rows, num_columns))
    for cluster in range(clusters):
        rows = which == cluster
        z[rows] += draw.standard_normal((rows.sum(), rank)) @ factors[cluster].T
    values = np.where(skew > 0, np.exp(skew * z), z)
    return pd.DataFrame(values * scale + shift, columns=[f"x{i}" for i in range(num_columns)])


def load(name: str) -> tuple[pd.DataFrame, int]:
    """Returns a table and the number of rows to fit: half of a real table, for equal sides."""
    if name[0].isdigit():
        num_rows, num_columns = map(int, name.split("x"))
        return clustered(num_rows + min(num_rows, MOST_JUDGED), num_columns), num_rows
    frame = getattr(datasets, f"load_{name}")(as_frame=True).data
    return frame, len(frame) // 2


def closest_share(drawn: torch.Tensor, fitted: torch.Tensor, fresh: torch.Tensor) -> float:
    """Share of drawn rows that are closer to a fitted row than to any of as many fresh ones."""
    size = min(len(fitted), len(fresh))
    sides = [torch.cdist(drawn, rows[:size]).min(1).values for rows in (fitted, fresh)]
    return float((sides[0] < sides[1]).double().mean())


def measure(name: str, seed: int, settings: dict[str, object]) -> dict[str, object]:
    """Fits one table, with defaults except for ``settings``, and judges the drawn rows."""
    torch.set_num_threads(1)
    frame, num_fitted = load(name)
    order = np.random.default_rng(seed).permutation(len(frame))
    fitted, fresh = frame.iloc[order[:num_fitted]], frame.iloc[order[num_fitted:]]
    started, wall = time.process_time(), time.perf_counter()
    model = DiffusionEstimator(random_state=seed, device="cpu", **settings).fit(fitted)
    seconds, wall = time.process_time() - started, time.perf_counter() - wall
    scale = StandardScaler().fit(fitted)

    def points(rows: pd.DataFrame) -> torch.Tensor:
        return torch.tensor(scale.transform(rows))

    size = min(len(fresh), MOST_JUDGED)
    judged = points(fresh)[:size]
    row: dict[str, object] = {
        "table": name,
        "seed": seed,
        "settings": settings,
        "fitted_rows": num_fitted,
        "coordinates": model.codec_.dim,
        "parameters": model.n_parameters_,
        "hidden": list(model.pipeline_.denoiser.config.hidden),
        "steps": len(model.loss_curve_),
        "best_step": int(model.heldout_curve_[model.heldout_curve_[:, 1].argmin(), 0]),
        "heldout_loss": float(model.heldout_curve_[:, 1].min()),
        "fit_cpu_seconds": seconds,
        "fit_seconds": wall,
        "load": os.getloadavg()[0],
        "c2st_real": c2st(points(fitted)[:size], judged, seed),
    }
    for steps in (20, 50):
        started = time.process_time()
        drawn = model.sample(max(size, 1000), steps=steps, random_state=seed)
        row[f"sample_cpu_seconds_{steps}"] = (time.process_time() - started) / len(drawn)
        row[f"c2st_{steps}"] = c2st(points(drawn)[:size], judged, seed)
    row["closest_share"] = closest_share(points(drawn), points(fitted), judged)
    row["peak_gigabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return row


JOBS: list[tuple[str, int, dict[str, object]]] = [
    *(("iris", seed, {}) for seed in range(5)),
    *(("30x5", seed, {}) for seed in range(3)),
    ("30x200", 0, {}),
    ("16000x20", 0, {}),
    *(("breast_cancer", seed, {}) for seed in range(2)),
    ("diabetes", 0, {}),
    ("100000x50", 0, {}),
    # Alternatives to the defaults.
    ("16000x20", 0, {"params": 2300, "batch_size": 1024, "learning_rate": 2.3e-2}),
    ("16000x20", 0, {"params": 60_000}),
    *(("breast_cancer", 0, {"depth": depth}) for depth in (3, 4)),
    *(("breast_cancer", 0, {"params": params}) for params in (9_000, 81_000)),
]


def time_threads() -> list[dict[str, float]]:
    """Times a step of the network for 16,000 x 20 with one and two threads, in turns."""
    process, rows = get_process("cosine"), torch.randn(2_000, 20)
    params = round(300 * (16_000 * 20) ** 0.5)  # as TableTask suggests
    timed = []
    for threads in (1, 2, 1, 2):
        torch.set_num_threads(threads)
        denoiser = build_denoiser(
            "kan",
            20,
            num_train_timesteps=process.num_timesteps,
            params=params,
            observable=True,
            at_most=True,
        )
        for steps in (5, 40):  # the first fills the caches
            config = TrainingConfig(steps=steps, batch_size=256)
            result = train(denoiser, process, rows, config, seed=0, device="cpu")
        timed.append(
            {
                "threads": threads,
                "step_milliseconds": 1e3 * result.seconds / steps,
                "step_cpu_milliseconds": 1e3 * result.cpu_seconds / steps,
                "load": os.getloadavg()[0],
            }
        )
    return timed


def main() -> None:
    """Runs the measurements that the results file does not have yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/tables/defaults.json"))
    parser.add_argument("--only", default="", help="Tables whose name contains this.")
    arguments = parser.parse_args()
    results = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    results["command"] = "python benchmarks/table_defaults.py"
    rows = results.setdefault("fits", [])
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(1, maxtasksperchild=1) as pool:
        if "threads" not in results:
            results["threads"] = pool.apply(time_threads)
        for name, seed, settings in JOBS:
            done = any(
                (r["table"], r["seed"], r["settings"]) == (name, seed, settings) for r in rows
            )
            if arguments.only not in name or done:
                continue
            row = pool.apply(measure, (name, seed, settings))
            rows.append(row)
            write_json(arguments.out, results)
            shown = {key: row[key] for key in ("parameters", "steps", "c2st_50", "closest_share")}
            print(name, settings, shown, f"{row['fit_cpu_seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
