"""Shows that two checkouts of this repository train the same models and give the same rows.

In each checkout the default study is run through the command line. Its models' weights are hashed,
and every number of its rows except times is compared. A change that only restructures the code must
leave all of them equal to the last bit.

    python benchmarks/compare_checkouts.py BEFORE AFTER [--seeds 3] [--steps 2000]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from kan_diffusion.files import digest

TIMES = ("train_seconds", "train_cpu_seconds", "sample_seconds")


def _rows(checkout: Path, *options: str) -> pd.DataFrame:
    """Runs the study in a checkout: its rows by model and seed, with digests of the weights."""
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve() / "src")}
    with tempfile.TemporaryDirectory() as out:
        command = ["-m", "kan_diffusion", "compare", "swiss-roll", *options, "--out", f"{out}/run"]
        done = subprocess.run(
            [sys.executable, *command], env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{checkout}: {done.stderr.strip()}")
        rows = pd.read_parquet(f"{out}/run/results.parquet")
        folders = [Path(out) / "run" / "trials" / trial for trial in rows["trial"]]
        rows["weights"] = [digest(next(folder.rglob("diffusion*"))) for folder in folders]
    return rows.set_index(["name", "seed"])


def main() -> None:
    """Compares the two checkouts; exits with status 1 if they differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--seeds", default="3")
    parser.add_argument("--steps", default="2000")
    given = parser.parse_args()
    options = "--seeds", given.seeds, "--steps", given.steps
    before, after = (_rows(checkout, *options) for checkout in (given.before, given.after))
    numbers = before.select_dtypes(np.number).columns.intersection(after.columns)
    compared = [*numbers.drop([*TIMES], errors="ignore"), "weights"]
    same = True
    for key, row in before[compared].iterrows():
        differing = list(row.compare(after.loc[key, compared]).index)
        same &= not differing
        said = f"{', '.join(differing)} differ" if differing else "equal"
        print(f"{key[0]}, seed {key[1]}: weights and {len(compared) - 1} numbers, {said}")
    raise SystemExit(0 if same else 1)


if __name__ == "__main__":
    main()
