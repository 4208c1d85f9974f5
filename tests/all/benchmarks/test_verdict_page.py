"""The verdict's page as committed, recomputed from the committed rows without the package."""

import re
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

ROOT = Path(__file__).parents[3]
FLIPS = np.array(list(product((1, -1), repeat=10)))
HALVES = np.array([np.isin(range(10), half) for half in combinations(range(10), 5)])


def _lead(pairs, rng):
    """Data sets ahead, better and worse, the median ratio and its interval; pairs (13, 10, 2)."""
    differences = pairs[..., 0] - pairs[..., 1]
    sums, means = np.abs(differences @ FLIPS.T), differences.mean(axis=1)
    p = (sums >= (1 - 1e-9) * sums[:, :1]).mean(axis=1)
    holm = np.maximum.accumulate(np.sort(p) * np.arange(len(p), 0, -1))[np.argsort(np.argsort(p))]
    ends = [stats.bootstrap([d], np.mean, rng=rng).confidence_interval for d in differences]
    called = (holm < 0.05) & [low > 0 or high < 0 for low, high in ends]
    drawn = [pair[rng.integers(10, size=(9_999, 10))].mean(axis=1) for pair in pairs]
    medians = np.median([draw[:, 0] / draw[:, 1] for draw in drawn], axis=0)
    ratios = np.divide(*pairs.mean(axis=1).T)
    counts = [(means < 0).sum(), (called & (means < 0)).sum(), (called & (means > 0)).sum()]
    return [*counts, np.median(ratios), *np.quantile(medians, [0.025, 0.975])]


def _halved(own, others, rng):
    """The median ratio to the best of the others of one half of the seeds on the other half."""
    chosen = (HALVES @ others).argmin(axis=2)[..., None]  # (data sets, halves, 1)
    best = np.take_along_axis(~HALVES @ others, chosen, axis=2)[..., 0]
    ratios = own @ ~HALVES.T / best
    medians = np.median([rng.choice(ratio, 99_999) for ratio in ratios], axis=0)
    return [medians.mean(), *np.quantile(medians, [0.025, 0.975])]


def test_the_tables_of_every_family_are_those_of_the_rows():
    rng = np.random.default_rng(1)
    rows = pd.read_parquet(ROOT / "results/verdict/time/study/results.parquet")
    names = list(rows["name"].unique())
    by_seed = rows.pivot(index=["data", "seed"], columns="name", values="excess")[names]
    values = by_seed.to_numpy().reshape(-1, 10, len(names))  # (data sets, seeds, models)
    geometric = np.exp(np.log(values.mean(axis=1)).mean(axis=0))
    section = (ROOT / "docs/verdict.md").read_text().partition("## Every family against")[2]
    lines = re.findall(r"^\| (.+?) \| (\d+ of 13 .*)\|$", section.partition("\n## ")[0], re.M)
    assert [name for name, _ in lines] == names + [n for n in names if "MLP" in n]
    for place, (name, text) in enumerate(lines):
        index = names.index(name)
        others = np.delete(values, index, axis=2)
        best = others.mean(axis=1).argmin(axis=1)
        if place < len(names):
            other = others[np.arange(len(values)), :, best]
            expected = _lead(np.stack([values[..., index], other], axis=2), rng)
            assert ("loses" in text) == (expected[2] > expected[1] or expected[4] > 1), name
            expected += [*_halved(values[..., index], others, rng), 1000 * geometric[index]]
        else:
            kan = names.index("KAN")
            expected = [*_lead(values[..., [kan, index]], rng), geometric[kan] / geometric[index]]
        found = [float(n) for n in re.findall(r"[\d.]+", text.replace("of 13", ""))]
        assert found[:3] == expected[:3], name
        # Ends of intervals are drawn: they vary by their Monte-Carlo error.
        assert found == pytest.approx(expected, abs=4e-3), name
        assert (found[3], found[-1]) == pytest.approx((expected[3], expected[-1]), abs=6e-4)
