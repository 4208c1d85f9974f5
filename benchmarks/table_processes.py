"""Compares diffusion and flow matching for tables: which process gives better rows?

The estimator, with its defaults except for the process, is fitted to half of the rows of tables of
the benchmark (``make tables``) and judged on the other half, in the same way as the methods there,
on seeds that the benchmark does not report. Usefulness is the score of predictors trained on drawn
rows divided by that of predictors trained on real rows. Both processes use the same seeds, so
differences are paired.

    python benchmarks/table_processes.py
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from pathlib import Path

import pandas as pd
import torch

from kan_diffusion import DiffusionEstimator
from kan_diffusion.files import write_json
from tables.bench import judge
from tables.sources import TABLES

TABLES_COMPARED = "wine", "diabetes", "modechoice", "iris", "breast-cancer", "fair"
SEEDS = range(101, 106)
PROCESSES = "cosine", "flow"


def run(table: str, process: str, seed: int) -> dict[str, object]:
    """Fits a table with one process and judges the drawn rows."""
    split = TABLES[table].split(seed)
    model = DiffusionEstimator(process=process, random_state=seed).fit(split.train)
    drawn = model.sample(len(split.train), random_state=seed)
    assert isinstance(drawn, pd.DataFrame)
    judged = judge(split, drawn, seed)
    scores = judged.scores["value"].to_dict()
    scores["usefulness"] /= judged.scores["perfect"]["usefulness"]
    key = {"table": table, "process": process, "seed": seed}
    return {**key, "steps": len(model.loss_curve_), **scores}


def main() -> None:
    """Runs the unfinished combinations of table, process and seed; writes rows and means."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/tables/processes.json"))
    out = parser.parse_args().out
    torch.set_num_threads(1)
    rows = json.loads(out.read_text())["rows"] if out.exists() else []
    done = {(row["table"], row["process"], row["seed"]) for row in rows}
    for table, seed, process in product(TABLES_COMPARED, SEEDS, PROCESSES):
        if (table, process, seed) in done:
            continue
        rows.append(run(table, process, seed))
        print(rows[-1], flush=True)
        frame = pd.DataFrame(rows)
        means = frame.groupby(["table", "process"], sort=False).mean(numeric_only=True)
        means = means.drop(columns="seed").round(4).reset_index()
        write_json(out, {"rows": rows, "means": means.to_dict("records")})


if __name__ == "__main__":
    main()
