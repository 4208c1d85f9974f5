"""Compares encodings of categories: which gives rows that look most like the data?

The same network is trained with equal parameters, steps and rows on four tables, in which all
columns of text or of few values are declared to be categories:

* bits: the rank by frequency as a binary number, ceil(log2 K) coordinates of -1 and +1 (Chen,
  Zhang and Hinton 2022, arXiv:2208.04202);
* one-hot: K coordinates, +1 for the category and -1 for the others, up to K = 8; bits beyond;
* level by frequency: one coordinate, the rank by frequency spread over its step and mapped to
  N(0, 1);
* level by association: the same, in an order that puts categories next to each other that occur
  with the same other cells (``kan_diffusion.tables.seriation``). The codec uses this encoding.

The encodings are judged by C2ST (accuracy of gradient boosting that tells drawn rows from real
ones, five folds; 0.5 is perfect) and by the contingency similarity of pairs of categories (1 minus
the total variation distance of their joint frequencies; 1 is perfect). All encodings use the same
seeds, so differences are paired.

    python benchmarks/category_encodings.py
"""

from __future__ import annotations

import argparse
from itertools import combinations, product
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import cross_val_score

from kan_diffusion import DiffusionEstimator
from kan_diffusion.files import write_json
from kan_diffusion.tables.columns import Column
from kan_diffusion.tables.seriation import arranged
from kan_diffusion.tables.transforms import Codebook, encoding

MOST_CATEGORIES = 30
MOST_ROWS = 4000


def made(num: int = 4000) -> pd.DataFrame:
    """Draws six columns of 3 to 30 categories and two numbers, all driven by a hidden class."""
    rng = np.random.default_rng(0)
    hidden = rng.choice(12, num, p=np.arange(12, 0, -1) / 78)
    columns: dict[str, np.ndarray] = {}
    for count in (3, 5, 8, 12, 20, 30):
        shares = rng.dirichlet(np.full(count, 0.3), size=12)
        columns[f"of {count}"] = np.array([rng.choice(count, p=shares[h]) for h in hidden])
    frame = pd.DataFrame(columns).map("c{}".format)
    frame["normal"] = rng.normal(hidden % 4, 0.5)
    frame["skewed"] = np.exp(rng.normal(hidden / 6, 0.4))
    return frame


def cities(num: int = 4000) -> pd.DataFrame:
    """Draws a column of 300 categories, one of 20 that nearly follows from it, and two numbers."""
    rng = np.random.default_rng(1)
    shares = 1 / np.arange(1, 301)
    city = rng.choice(300, num, p=shares / shares.sum())
    region = np.where(rng.random(num) < 0.95, rng.integers(0, 20, 300)[city], city % 20)
    return pd.DataFrame(
        {
            "city": pd.Series(city).map("city {}".format),
            "region": pd.Series(region).map("region {}".format),
            "rent": np.exp(rng.normal(rng.normal(size=300)[city], 0.3)),
            "age": rng.normal(region / 5, 1),
        }
    )


def tables() -> dict[str, pd.DataFrame]:
    """The tables by name."""
    from statsmodels.datasets import anes96, fair

    return {
        "made": made(),
        "cities": cities(),
        "anes96": anes96.load_pandas().data,
        "fair": fair.load_pandas().data,
    }


def one_hot(count: int) -> Codebook:
    """Encodes three to eight categories as +1 for the category and -1 for others, else as bits."""
    few = 2 < count <= 8
    return Codebook(2 * np.eye(count) - 1) if few else Codebook.of_bits(count)


def by_frequency(columns: tuple[Column, ...], _: pd.DataFrame) -> tuple[Column, ...]:
    """Sorts categories that have no order by their frequencies."""
    return tuple(
        column.in_order(np.argsort(-np.array(column.frequencies), kind="stable"))
        if column.is_discrete
        else column
        for column in columns
    )


ENCODINGS = {
    "bits": (lambda frequencies: Codebook.of_bits(len(frequencies)), by_frequency),
    "one-hot": (lambda frequencies: one_hot(len(frequencies)), by_frequency),
    "level by frequency": (encoding, by_frequency),
    "level by association": (encoding, arranged),
}


def categories(frame: pd.DataFrame) -> list[str]:
    """Names of the columns of text or of three to 30 different values."""
    return [
        name
        for name in frame
        if frame[name].dtype.kind == "O" or 2 < frame[name].nunique() <= MOST_CATEGORIES
    ]


def c2st(real: pd.DataFrame, drawn: pd.DataFrame) -> float:
    """Accuracy with which drawn rows are told from real ones."""
    both = pd.concat([real, drawn], ignore_index=True)
    numbers = both.apply(lambda c: c if c.dtype.kind in "if" else pd.factorize(c, sort=True)[0])
    labels = np.repeat([0, 1], [len(real), len(drawn)])
    return float(
        cross_val_score(
            HistGradientBoostingClassifier(random_state=0),
            numbers.sample(frac=1, random_state=0),
            pd.Series(labels).sample(frac=1, random_state=0),
            cv=5,
        ).mean()
    )


def contingency(real: pd.DataFrame, drawn: pd.DataFrame) -> float:
    """Mean similarity of the joint frequencies of pairs of columns of categories."""
    similar = []
    for pair in combinations(categories(real), 2):
        shares = [frame.groupby(list(pair)).size() / len(frame) for frame in (real, drawn)]
        similar.append(1 - shares[0].sub(shares[1], fill_value=0).abs().sum() / 2)
    return float(np.mean(similar))


def run(
    table: str, frame: pd.DataFrame, name: str, seed: int, params: int, steps: int
) -> dict[str, object]:
    """Trains and judges one model."""
    real = frame.sample(n=min(MOST_ROWS, len(frame)), random_state=seed, ignore_index=True)
    encode, order = ENCODINGS[name]
    with (
        patch("kan_diffusion.tables.columns.encoding", encode),
        patch("kan_diffusion.tables.codec.arranged", order),
    ):
        model = DiffusionEstimator(
            params=params,
            steps=steps,
            batch_size=512,
            learning_rate=5e-3,
            columns=dict.fromkeys(categories(real), "categorical"),
            device="cpu",
            random_state=seed,
        ).fit(real)
        drawn = model.sample(len(real), random_state=seed)
    drawn = drawn.astype(real.dtypes)
    return {
        "table": table,
        "encoding": name,
        "seed": seed,
        "coordinates": model.codec_.dim,
        "parameters": model.n_parameters_,
        "c2st": c2st(real, drawn),
        "contingency": contingency(real, drawn),
    }


def main() -> None:
    """Runs every table, encoding and seed; writes rows and means."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--params", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path("results/tables/category_encodings.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for seed in range(options.seeds):
        for (table, frame), name in product(tables().items(), ENCODINGS):
            rows.append(run(table, frame, name, seed, options.params, options.steps))
            print(rows[-1], flush=True)
        found = pd.DataFrame(rows).groupby(["table", "encoding"], sort=False)
        means = found[["coordinates", "c2st", "contingency"]].mean().round(4)
        write_json(
            options.out,
            {
                "params": options.params,
                "steps": options.steps,
                "rows": rows,
                "means": means.reset_index().to_dict("records"),
            },
        )
    print(means.to_string())


if __name__ == "__main__":
    main()
