r"""Gaps that are made in held-out rows, what fills them, and how near that comes.

- MCAR  every known cell is hidden with probability 0.2
- MAR   half of the columns, drawn at random, stay known; a cell of the others is hidden with
        probability 0.6 r, with r in (0, 1] the rank of a known column's cell in its row's column:
        what is hidden depends on what is seen

Where a method gives D draws x₁ ... x_D of a hidden cell, their mean fills a number and the most
frequent one a category. In columns of numbers, with s the standard deviation in the training rows,

    error     √ mean ((fill - truth) / s)²
    accuracy  the share of categories that are met
    coverage  the share of numbers between the 5 % and the 95 % quantile of their draws

Quantiles are at p (D + 1) of the sorted draws (Weibull's), so that calibrated draws cover 90 % for
any D of at least 19. Dates are numbers. Rows are held out: methods learn from training rows, which
chained equations (scikit-learn's ``IterativeImputer``, ``miceforest``) see beside those with gaps.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kan_diffusion.randomness import numpy_generator, stream_seed
from tables.plain import is_number, loose
from tables.sources import Split

__all__ = ["IMPUTERS", "MECHANISMS", "Fill", "gap_scores", "hide"]

Mechanism = Literal["mcar", "mar"]
MECHANISMS: tuple[Mechanism, ...] = ("mcar", "mar")

DRAWS = 20
"""Draws of every gap, of methods that draw."""

_MCAR_SHARE = 0.2
_MAR_SHARE = 0.6
_FEWEST_DRAWS = 19
_MICE_ITERATIONS = 5
_MOST_REGRESSED = 1_000
"""Training rows that linear regressions see, at most: their time grows with the square."""

Fill = Callable[[pd.DataFrame, int], list[pd.DataFrame]]
"""Fills the gaps of rows that often; fewer draws are for methods that do not draw."""


def hide(frame: pd.DataFrame, mechanism: Mechanism, seed: int) -> NDArray[np.bool_]:
    """Draws which cells are hidden.

    Args:
        frame: Held-out rows, (n, d).
        mechanism: ``"mcar"`` or ``"mar"``.
        seed: Of the draw.

    Returns:
        Shape (n, d), True where a known cell is hidden.
    """
    rng = numpy_generator("benchmark gaps", mechanism, seed)
    chance = rng.random(frame.shape)
    if mechanism == "mcar":
        hidden = chance < _MCAR_SHARE
    else:
        order = rng.permutation(frame.shape[1])
        known, others = order[: -(-len(order) // 2)], order[-(-len(order) // 2) :]
        hidden = np.zeros(frame.shape, bool)
        for place in others:
            reason = frame.iloc[:, rng.choice(known)]
            codes = reason if is_number(reason) else reason.astype("category").cat.codes
            rank = codes.rank(pct=True).fillna(0.5)
            hidden[:, place] = chance[:, place] < _MAR_SHARE * rank
    return hidden & frame.notna().to_numpy()


def gap_scores(
    split: Split, fill: Fill, mechanism: Mechanism, seed: int, most_rows: int = 500
) -> dict[str, float]:
    """Hides cells of held-out rows and compares what they are filled with.

    Args:
        split: Rows to hide cells of, and training rows.
        fill: Fills gaps.
        mechanism: ``"mcar"`` or ``"mar"``.
        seed: Of the hidden cells.
        most_rows: Rows that are filled, at most.

    Returns:
        ``error``, ``accuracy`` and, of enough draws, ``coverage``; without what has no column.

    Raises:
        ValueError: A filled frame has other rows or a gap where a cell was hidden.
    """
    rows = split.test.iloc[:most_rows].reset_index(drop=True)
    hidden = hide(rows, mechanism, seed)
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


def _mean(split: Split, seconds: float, seed: int) -> Fill:
    """Fills with means and with most frequent categories."""
    usual = {
        name: cells.mean() if is_number(cells) else cells.mode().iloc[0]
        for name, cells in loose(split.train).items()
    }
    return lambda frame, draws: [loose(frame).fillna(usual)]


def _iterative(split: Split, seconds: float, seed: int, posterior: bool = False) -> Fill:
    """scikit-learn's chained linear regressions, on standardised numbers and one-hot categories.

    Args:
        split: Rows to learn from, beside those with gaps.
        seconds: Not asked for: it takes less.
        seed: Of the order and the draws.
        posterior: Whether draws of the regressions' predictive distributions fill, or their means.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer

    def fill(frame: pd.DataFrame, draws: int) -> list[pd.DataFrame]:
        learned = loose(split.train).iloc[:_MOST_REGRESSED]
        both = pd.concat([learned, loose(frame)], ignore_index=True)
        named = {
            name: sorted(both[name].dropna().unique()) for name in both if not is_number(both[name])
        }
        mean, spread = both.mean(numeric_only=True), both.std(numeric_only=True, ddof=0)
        parts = []
        for name, cells in both.items():
            if name in named:
                # All but one: the last follows from the others, which would keep them as guessed.
                hot = np.stack([cells == word for word in named[name][:-1]], axis=1).astype(float)
                parts.append(np.where(cells.isna().to_numpy()[:, None], np.nan, hot))
            else:
                parts.append(((cells - mean[name]) / (spread[name] or 1.0)).to_numpy()[:, None])
        ends = np.cumsum([part.shape[1] for part in parts])[:-1]
        rows = np.concatenate(parts, axis=1)
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
                if name in named:
                    last = 1 - part.sum(axis=1, keepdims=True)
                    likeliest = np.concatenate([part, last], axis=1).argmax(axis=1)
                    cells[name] = np.array(named[name], dtype=object)[likeliest]
                else:
                    cells[name] = part[:, 0] * (spread[name] or 1.0) + mean[name]
            filled.append(pd.DataFrame(cells))
        return filled

    return fill


def _miceforest(split: Split, seconds: float, seed: int) -> Fill:
    """Chained boosted trees with mean matching: as many draws, to 20, as the time has."""
    import miceforest

    def fill(frame: pd.DataFrame, draws: int) -> list[pd.DataFrame]:
        both = pd.concat([loose(split.train), loose(frame)], ignore_index=True)
        names = both.columns
        both.columns = [f"c{place}" for place in range(len(names))]
        for name in both.select_dtypes(object):
            both[name] = both[name].astype("category")
        end = time.process_time() + seconds
        filled: list[pd.DataFrame] = []
        while not filled or (len(filled) < draws and time.process_time() < end):
            number = stream_seed("miceforest", seed, len(filled)) % 2**31
            kernel = miceforest.ImputationKernel(both, random_state=number)
            kernel.mice(_MICE_ITERATIONS, num_threads=1)
            made = kernel.complete_data().set_axis(names, axis=1)
            filled.append(made.iloc[len(split.train) :].reset_index(drop=True))
        return filled

    return fill


IMPUTERS: dict[str, Callable[[Split, float, int], Fill]] = {
    "mean": _mean,
    "iterative": _iterative,
    "iterative-posterior": partial(_iterative, posterior=True),
    "miceforest": _miceforest,
}
"""Imputers that make no rows, by name; made of a split, seconds of one core and a seed."""
