"""Shows that two checkouts of this repository train the same models and give the same rows.

In each checkout two KANs and an MLP are trained and their weights hashed. Then a study is run
through the command line, and every number of its rows except times is compared. A change that only
restructures the code must leave all of them equal to the last bit.

    python benchmarks/compare_checkouts.py BEFORE AFTER [--seeds 3] [--steps 2000]
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

STUDY = """
name: compare-checkouts
title: Two checkouts
question: Do two checkouts give the same rows?
seeds: {seeds}
data: [{{toy: swiss-roll}}]
process: cosine
training: {{steps: {steps}, batch_size: 512}}
models:
  - name: KAN 32-32-32
    family: full-kan
    hidden: [32, 32, 32]
    learning_rate: 5.0e-3
    settings: &small
      time_encoding: raw
      bias: false
      grid_size: 5
      grid_range: [-1, 1]
      extrapolation: zero
      edge_scale: true
      init: noise
  - name: MLP 32-32-32
    family: mlp
    hidden: [32, 32, 32]
    learning_rate: 5.0e-3
    settings: {{time_encoding: raw, activation: relu, init: xavier}}
  - {{name: KAN 32, family: full-kan, hidden: [32], learning_rate: 5.0e-3, settings: *small}}
  - {{name: matched KAN, family: full-kan, params: 2300, depth: 4, learning_rate: 2.3e-2}}
  - {{name: matched MLP, family: mlp, params: 2300, depth: 6, learning_rate: 2.2e-2}}
"""
"""The default study from the time when it also contained the notebook's networks."""

WEIGHTS = """
import hashlib, sys, torch
from kan_diffusion import TrainingConfig, build_denoiser, get_process, make_toy, train
torch.set_num_threads(1)
points = make_toy("swiss-roll").sample(4096, torch.Generator().manual_seed(0)).float()
for family in ("kan", "full-kan", "mlp"):
    denoiser = build_denoiser(family, 2, num_train_timesteps=1000, params=2300)
    denoiser.reset_parameters(torch.Generator().manual_seed(1))
    config = TrainingConfig(steps=int(sys.argv[1]), batch_size=512)
    train(denoiser, get_process("cosine"), points, config, seed=2, device="cpu")
    digest = hashlib.sha256()
    for parameter in denoiser.parameters():
        digest.update(parameter.detach().contiguous().numpy().tobytes())
    print(family, digest.hexdigest()[:16])
"""

TIMES = ("train_seconds", "train_cpu_seconds", "sample_seconds")


def _run(checkout: Path, *words: str) -> str:
    """Runs Python with the package of a checkout and returns what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve() / "src")}
    command = [sys.executable, *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{checkout}: {done.stderr.strip()}")
    return done.stdout


def _rows(checkout: Path, study: str) -> dict[tuple[str, int], dict[str, object]]:
    """The rows of a study run in a checkout, by model and seed."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "study.yaml"
        path.write_text(study)
        out = Path(place) / "run"
        _run(checkout, "-m", "kan_diffusion", "compare", str(path), "--out", str(out))
        rows = pd.read_parquet(out / "results.parquet").to_dict("records")
    return {(row["name"], row["seed"]): row for row in rows}


def _equal(before: object, after: object) -> bool:
    if isinstance(before, float) and isinstance(after, float):
        return before == after or (math.isnan(before) and math.isnan(after))
    return before == after


def main() -> None:
    """Compares the two checkouts; exits with status 1 if they differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2000)
    arguments = parser.parse_args()
    checkouts = (arguments.before, arguments.after)

    steps = str(arguments.steps)
    weights = [_run(checkout, "-c", WEIGHTS, steps).splitlines() for checkout in checkouts]
    for before, after in zip(*weights, strict=True):
        print("weights", before, "equal" if before == after else f"differ: {after}")
    same = weights[0] == weights[1]

    study = STUDY.format(seeds=arguments.seeds, steps=arguments.steps)
    before_rows, after_rows = (_rows(checkout, study) for checkout in checkouts)
    for key, before in before_rows.items():
        after = after_rows[key]
        numbers = [
            name
            for name, value in before.items()
            if name not in TIMES and name in after and isinstance(value, int | float)
        ]
        differing = [name for name in numbers if not _equal(before[name], after[name])]
        same &= not differing
        said = f"{', '.join(differing)} differ" if differing else "equal"
        print(f"row {key[0]}, seed {key[1]}: {len(numbers)} numbers, {said}")
    raise SystemExit(0 if same else 1)


if __name__ == "__main__":
    main()
