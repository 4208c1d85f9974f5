r"""Gaps that are made in held-out rows, what fills them, and how near that comes.

Every known cell is hidden with probability 0.2. Where a method gives D draws of a hidden cell,
their mean fills a number and the most frequent one a category. With s the standard deviation of a
column in the training rows,

    error     √ mean ((fill - truth) / s)², of numbers
    accuracy  the share of categories that are met
    coverage  the share of numbers between the 5 % and the 95 % quantile of their draws

Quantiles are at p (D + 1) of the sorted draws (Weibull's), so that calibrated draws cover 90 % for
any D of at least 19. Dates are numbers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kan_diffusion.randomness import numpy_generator, stream_seed
from tables.plain import is_number, loose
from tables.sources import Split

DRAWS = 20
"""Draws of every gap, of methods that draw."""

_HIDDEN = 0.2
_FEWEST_DRAWS = 19
_MOST_REGRESSED = 1_000
"""Training rows that linear regressions see, at most: their time grows with the square."""

Fill = Callable[[pd.DataFrame, int], list[pd.DataFrame]]
"""Fills the gaps of rows that often; fewer draws are for methods that do not draw."""


def hide(frame: pd.DataFrame, seed: int) -> NDArray[np.bool_]:
    """Draws which known cells of rows (n, d) are hidden, shape (n, d)."""
    rng = numpy_generator("benchmark gaps", "mcar", seed)
    return (rng.random(frame.shape) < _HIDDEN) & frame.notna().to_numpy()


def _some(rows: pd.DataFrame, most: int, seed: int) -> pd.DataFrame:
    """Draws that many rows at most, in their order; the first ones of a sorted table are alike."""
    if len(rows) > most:
        rng = numpy_generator("benchmark gaps", "rows", seed)
        rows = rows.sample(most, random_state=rng).sort_index()
    return rows.reset_index(drop=True)


def gap_scores(split: Split, fill: Fill, seed: int, most_rows: int = 500) -> dict[str, float]:
    """Hides cells of held-out rows and compares what they are filled with.

    Args:
        split: Rows to hide cells of, and training rows.
        fill: Fills gaps.
        seed: Of the hidden cells.
        most_rows: Rows that are filled, at most, drawn at random.

    Returns:
        ``error``, ``accuracy`` and, of enough draws, ``coverage``; without what has no column.

    Raises:
        ValueError: A filled frame has other rows or a gap where a cell was hidden.
    """
    rows = _some(split.test, most_rows, seed)
    hidden = hide(rows, seed)
    draws = [loose(filled) for filled in fill(rows.mask(hidden), DRAWS)]
    truth, learned = loose(rows), loose(split.train)
    errors, met, covered = [], [], []
    for place, name in enumerate(truth):
        (where,) = np.nonzero(hidden[:, place])
        if not len(where):
            continue
        true = truth[name].to_numpy()[where]
        filled = np.stack([draw[name].to_numpy()[where] for draw in draws])
        if pd.isna(filled).any():
            raise ValueError(f"gaps are left in '{name}'")
        if is_number(truth[name]):
            errors.append((filled.mean(axis=0) - true) / learned[name].std(ddof=0))
            if len(draws) >= _FEWEST_DRAWS:
                low, high = np.quantile(filled, [0.05, 0.95], axis=0, method="weibull")
                covered.append((low <= true) & (true <= high))
        else:
            met.append(pd.DataFrame(filled).mode().iloc[0].to_numpy() == true)
    scores = {}
    if errors:
        scores["error"] = float(np.sqrt((np.concatenate(errors) ** 2).mean()))
    if met:
        scores["accuracy"] = float(np.concatenate(met).mean())
    if covered:
        scores["coverage"] = float(np.concatenate(covered).mean())
    return scores


def _mean(split: Split, seed: int) -> Fill:
    """Fills with means and with most frequent categories."""
    usual = {
        name: cells.mean() if is_number(cells) else cells.mode().iloc[0]
        for name, cells in loose(split.train).items()
    }
    return lambda frame, draws: [loose(frame).fillna(usual)]


def _iterative(split: Split, seed: int, posterior: bool = False) -> Fill:
    """scikit-learn's chained linear regressions, on standardised numbers and one-hot categories.

    Args:
        split: Rows to learn from, beside those with gaps.
        seed: Of the order and the draws.
        posterior: Whether draws of the regressions' predictive distributions fill, or their means.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer

    def fill(frame: pd.DataFrame, draws: int) -> list[pd.DataFrame]:
        learned = loose(_some(split.train, _MOST_REGRESSED, seed))
        both = pd.concat([learned, loose(frame)], ignore_index=True)
        # All categories but one: the last follows from the others, which would keep it as guessed.
        words = {n: sorted(c.dropna().unique()) for n, c in both.items() if not is_number(c)}
        mean, spread = both.mean(numeric_only=True), both.std(numeric_only=True, ddof=0)
        parts = {
            name: np.where(
                cells.isna().to_numpy()[:, None],
                np.nan,
                np.stack([cells == word for word in words[name][:-1]], axis=1).astype(float)
                if name in words
                else ((cells - mean[name]) / (spread[name] or 1.0)).to_numpy()[:, None],
            )
            for name, cells in both.items()
        }
        ends = np.cumsum([part.shape[1] for part in parts.values()])[:-1]
        rows = np.concatenate(list(parts.values()), axis=1)
        random_state = stream_seed("iterative", seed) % 2**32
        model = IterativeImputer(sample_posterior=posterior, random_state=random_state)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(rows)
        filled = []
        for _ in range(draws if posterior else 1):
            made = np.split(model.transform(rows[len(learned) :]), ends, axis=1)
            cells = {}
            for name, part in zip(both, made, strict=True):
                if name in words:
                    last = 1 - part.sum(axis=1, keepdims=True)
                    likeliest = np.concatenate([part, last], axis=1).argmax(axis=1)
                    cells[name] = np.array(words[name], dtype=object)[likeliest]
                else:
                    cells[name] = part[:, 0] * (spread[name] or 1.0) + mean[name]
            filled.append(pd.DataFrame(cells))
        return filled

    return fill


IMPUTERS: dict[str, Callable[[Split, int], Fill]] = {
    "mean": _mean,
    "iterative": _iterative,
    "iterative-posterior": partial(_iterative, posterior=True),
}
"""Imputers that make no rows, by name; made of a split and a seed."""
