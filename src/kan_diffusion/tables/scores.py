r"""Scores of a synthetic table, its quality and its privacy, each beside the score of real rows.

Let R be real rows that no model has seen, S synthetic rows, and T as many rows that the model was
trained on (without them R is halved at random, and T is the other half):

- column shapes    1 - sup|F_R - F_S| of numbers and dates, 1 - sum|p_R - p_S| / 2 of categories
- gaps             1 - |g_R - g_S| with the share g of gaps
- pair trends      1 - |r_R - r_S| / 2 with Pearson's r of two numbers, else 1 - sum|p_R - p_S| / 2
                   of the joint shares, with numbers in ten bins of equal width over R and all but
                   the 100 most frequent categories as one
- C2ST             accuracy with which gradient-boosted trees tell rows of R from rows of S
- usefulness       how well learners trained on S predict a column of R
- closest record   share of S nearer to a row of T than to any of as many rows of R
                   (:mod:`kan_diffusion.evaluation.privacy`)
- identical rows   share of S that is a row of T, cell by cell

Shapes, trends and gaps are those of SDMetrics. C2ST: Lopez-Paz & Oquab 2017.

Each score has a perfect one beside it: that of T, which are real rows, in place of S. For closest
records and copies it is what chance alone gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import ks_2samp, rankdata

from kan_diffusion.errors import DataError
from kan_diffusion.evaluation.effort import EFFORTS, EffortName
from kan_diffusion.evaluation.metrics import told_apart
from kan_diffusion.evaluation.privacy import closest_record
from kan_diffusion.tables.columns import Kind
from kan_diffusion.tables.features import Feature, embedding, features_of
from kan_diffusion.tables.marginals import Picture, column_picture

__all__ = ["Score", "TableScores", "table_scores"]

_Array = NDArray[np.float64]

_FEWEST_ROWS = 4
"""Fewest rows that can be judged."""
_FEWEST_LEARNED = 10
"""Fewest rows that learners are trained and tested on."""
_MOST_COMPARED = 20_000
"""Most rows of each side for scores of columns and pairs."""
_MOST_NEAREST = 5_000
"""Most rows of each side whose nearest records are sought."""
_MOST_LEARNED = 4_000
"""Most rows of each side for scores that train learners."""
_MOST_TARGETS = 3
_MOST_CLASSES = 20
"""Most categories of a column that learners predict."""
_MOST_TOLD = 254
"""Most categories that boosted trees tell apart; the rarest are merged into one."""
_PAIR_BINS = 10
_PAIR_CODES = 102
"""Codes of a column in a pair: 100 categories, all rarer ones, and a gap."""
_SURE = 1.96
"""Standard deviations on either side that hold 95 % of a normal variable."""


@dataclass(frozen=True)
class Score:
    """One headline score of a synthetic table.

    Attributes:
        key: Its name in code.
        label: Its name in a table.
        value: The number.
        perfect: What real rows score, or what chance gives.
        margin: Half the width of the interval around ``perfect`` that holds the score by chance
            alone in about 95 % of cases; None where it is not known.
    """

    key: str
    label: str
    value: float
    perfect: float
    margin: float | None = None


@dataclass(frozen=True, eq=False)
class TableScores:
    """Scores of a synthetic table. They hold counts and shares, but no row.

    Attributes:
        scores: The headline scores.
        columns: A row for each column, the worst first, numbered as in the table: ``name``,
            ``kind``, ``shape`` (similarity of its values, 0 to 1), ``perfect`` (that of real rows),
            ``real_gaps`` and ``synthetic_gaps`` (shares, 0 to 1), and ``shortfall``: how much worse
            than real rows it is in shape or in gaps, whichever is more.
        pairs: A row for each pair of columns, the worst first: ``first``, ``second``, ``measure``
            (``"correlation"`` of two numbers or dates, else ``"Cramér’s V"``), ``score``
            (similarity, 0 to 1), ``perfect`` (that of real rows), and ``real`` and ``synthetic``,
            the measure itself; NaN where undefined.
        usefulness: A row for each target and learner: ``target``, ``learner``, ``measure``
            (``"AUC"`` of each category against the others, averaged by frequency, or ``"R²"`` of a
            number's normal scores), and the measure after training on ``synthetic`` and on as many
            ``real`` rows.
        pictures: The values of each column by its name, real beside synthetic.
        left_out: Columns that are not judged: identifiers, and those with one value everywhere.
        rows: Numbers of real, of synthetic and of training rows (0 where these are not known).
    """

    scores: tuple[Score, ...]
    columns: pd.DataFrame
    pairs: pd.DataFrame
    usefulness: pd.DataFrame
    pictures: Mapping[str, Picture]
    left_out: tuple[str, ...]
    rows: tuple[int, int, int]

    def __getitem__(self, key: str) -> Score:
        """Gives a score of the headline by its key."""
        return next(score for score in self.scores if score.key == key)

    def __contains__(self, key: object) -> bool:
        """Reports whether the headline has a score of that key."""
        return any(score.key == key for score in self.scores)


def table_scores(
    real: pd.DataFrame,
    synthetic: pd.DataFrame,
    *,
    train: pd.DataFrame | None = None,
    kinds: Mapping[str, Kind] | None = None,
    targets: Sequence[str] | None = None,
    generator: np.random.Generator | int,
    effort: EffortName = "full",
) -> TableScores:
    """Judges a synthetic table by real rows that its model was not trained on.

    Args:
        real: Held-out real rows, at least 4.
        synthetic: Synthetic rows with the same columns, at least 4.
        train: The rows that the model was trained on. Without them there are no scores of copies,
            and perfect scores come from one half of ``real``.
        kinds: Kinds of columns that differ from those inferred from ``train``, or without it from
            ``real``.
        targets: Columns that learners predict. By default these are three columns that are numbers
            or have 2 to 20 categories, and are not mostly gaps: the table's last one, which is
            usually the target, and the two that depend most on another column (by correlation or
            Cramér's V among the real rows).
        generator: Draws subsamples, folds and learners; a number is taken as a seed.
        effort: ``"quick"`` trains learners of few trees, for a first look.

    Returns:
        The scores. They compare equally many synthetic and training rows with the real ones: as
        many as the smaller of the two tables has, and at most 20,000.

    Raises:
        DataError: A frame has too few rows or lacks a column, a column has values that do not fit
            its kind, or a target is no column that can be predicted.
    """
    root = int(np.random.default_rng(generator).integers(2**63))
    trees = EFFORTS[effort].trees

    def stream(key: str) -> np.random.Generator:
        # Each score has a random stream of its own: adding one leaves the others unchanged.
        return np.random.default_rng([root, *key.encode()])

    frames = {"real": real, "synthetic": synthetic, **({} if train is None else {"train": train})}
    for name, frame in frames.items():
        if len(frame) < _FEWEST_ROWS:
            raise DataError(
                f"{len(frame)} {name} rows are too few to judge a table by; give at least "
                f"{_FEWEST_ROWS}"
            )
    known_by = "real" if train is None else "train"
    features, rows, left_out = features_of(frames, known_by, kinds or {})
    judged, reference = rows["real"], rows.get("train")
    if reference is None:
        halves = stream("halves").permutation(len(judged))
        judged, reference = judged[halves[::2]], judged[halves[1::2]]
    size = min(len(reference), len(rows["synthetic"]), _MOST_COMPARED)
    sides = [
        _thinned(judged, _MOST_COMPARED, stream("real")),
        _thinned(rows["synthetic"], size, stream("synthetic")),
        _thinned(reference, size, stream("reference")),
    ]
    random = stream("few")
    few = [_thinned(side, _MOST_LEARNED, random) for side in sides]
    columns, pairs = _column_scores(features, sides), _pair_scores(features, sides)
    predicted = _targets(features, columns, pairs, targets)
    useful = _usefulness(features, sides[0], few, predicted, trees, stream("usefulness"))

    def means(frame: pd.DataFrame, *names: str) -> list[float]:
        return [float(frame[name].mean()) for name in names]

    gaps = np.array([np.isnan(side).mean(axis=0) for side in sides])
    scores = [Score("shapes", "column shapes", *means(columns, "shape", "perfect"))]
    if gaps.any():
        apart = np.abs(gaps[1:] - gaps[0])[:, gaps.any(axis=0)]
        scores.append(Score("gaps", "gaps", *(1 - apart.mean(axis=1)).tolist()))
    if len(pairs):
        scores.append(Score("trends", "pair trends", *means(pairs, "score", "perfect")))
    scores.append(_two_sample(features, few, trees, stream("c2st")))
    if len(useful):
        scores.append(Score("usefulness", "usefulness", *means(useful, "synthetic", "real")))
    if train is not None:
        sides_of_all = rows["real"], rows["synthetic"], rows["train"]
        scores += _privacy(features, *sides_of_all, stream("privacy"))
    return TableScores(
        scores=tuple(scores),
        columns=columns.sort_values("shortfall", ascending=False, kind="stable"),
        pairs=pairs,
        usefulness=useful,
        pictures={
            feature.name: column_picture(feature, *(side[:, place] for side in sides[:2]))
            for place, feature in enumerate(features)
        },
        left_out=left_out,
        rows=(len(real), len(synthetic), 0 if train is None else len(train)),
    )


def _thinned(rows: _Array, size: int, generator: np.random.Generator) -> _Array:
    if len(rows) <= size:
        return rows
    return rows[np.sort(generator.choice(len(rows), size, replace=False))]


# --- columns and pairs ------------------------------------------------------------------------


def _column_scores(features: Sequence[Feature], sides: Sequence[_Array]) -> pd.DataFrame:
    found = []
    for place, feature in enumerate(features):
        real, *others = (side[:, place] for side in sides)
        similar = [_shape(feature, real, other) for other in others]
        gaps = [np.isnan(cells).mean() for cells in (real, others[0])]
        shortfall = max(similar[1] - similar[0], abs(gaps[0] - gaps[1]))
        found.append((feature.name, feature.kind, *similar, *gaps, shortfall))
    names = ["name", "kind", "shape", "perfect", "real_gaps", "synthetic_gaps", "shortfall"]
    return pd.DataFrame(found, columns=names)


def _shape(feature: Feature, *sides: _Array) -> float:
    """Computes the similarity of one column's real and other values, without gaps."""
    real, other = (cells[~np.isnan(cells)] for cells in sides)
    if not len(real) or not len(other):
        return float(len(real) == len(other))
    if feature.labels is None:
        return 1.0 - float(ks_2samp(real, other, method="asymp").statistic)
    counts = (np.bincount(codes.astype(int), minlength=len(feature.labels)) / len(codes)
              for codes in (real, other))  # fmt: skip
    return _similarity(*counts)


def _similarity(one: _Array, other: _Array) -> float:
    """Computes 1 minus the total variation distance of shares."""
    return 1.0 - float(np.abs(one - other).sum()) / 2


def _pair_scores(features: Sequence[Feature], sides: Sequence[_Array]) -> pd.DataFrame:
    # Pearson's correlation of each pair, over the rows without a gap in either.
    correlations = [pd.DataFrame(side).corr().to_numpy() for side in sides]
    codes = [
        _codes(feature, [side[:, place] for side in sides])
        for place, feature in enumerate(features)
    ]
    found = []
    for i, j in combinations(range(len(features)), 2):
        if features[i].labels is None and features[j].labels is None:
            measure, values = "correlation", [float(matrix[i, j]) for matrix in correlations]
            if np.isnan(values[0]):
                continue
            # A column without spread has no correlation: it counts as 0.
            real, *others = np.nan_to_num(values)
            similar = [1 - abs(real - other) / 2 for other in others]
        else:
            shares = [_joint_shares(*both) for both in zip(codes[i], codes[j], strict=True)]
            similar = [_similarity(shares[0], other) for other in shares[1:]]
            measure, values = "Cramér’s V", [_cramers_v(each) for each in shares[:2]]
        found.append((features[i].name, features[j].name, measure, *similar, *values[:2]))
    names = ["first", "second", "measure", "score", "perfect", "real", "synthetic"]
    pairs = pd.DataFrame(found, columns=names)
    worst = np.argsort(pairs["score"] - pairs["perfect"], kind="stable")
    return pairs.iloc[worst].reset_index(drop=True)


def _codes(feature: Feature, sides: Sequence[_Array]) -> list[NDArray[np.int64]]:
    """Codes the cells of one column, the real ones first; a gap has the last code.

    Numbers are in bins of equal width over the real cells. Categories beyond those that are most
    frequent among the real cells share a code.
    """
    real = sides[0][~np.isnan(sides[0])]
    if feature.labels is None:
        edges = np.histogram_bin_edges(real, _PAIR_BINS)[1:-1]
        codes = [np.digitize(side, edges) for side in sides]
    else:
        counts = np.bincount(real.astype(int), minlength=len(feature.labels))
        code = np.minimum(rankdata(-counts, method="ordinal") - 1, _PAIR_CODES - 2)
        codes = [code[np.nan_to_num(side).astype(int)] for side in sides]
    return [
        np.where(np.isnan(side), _PAIR_CODES - 1, coded).astype(np.int64)
        for side, coded in zip(sides, codes, strict=True)
    ]


def _joint_shares(first: NDArray[np.int64], second: NDArray[np.int64]) -> _Array:
    """Computes the shares of all combinations of two columns' codes, (codes, codes)."""
    counts = np.bincount(first * _PAIR_CODES + second, minlength=_PAIR_CODES**2)
    return counts.reshape(_PAIR_CODES, _PAIR_CODES) / len(first)


def _cramers_v(shares: _Array) -> float:
    """Computes Cramér's V, from 0 to 1: the root of chi² / n over its largest value."""
    rows, columns = shares.sum(axis=1), shares.sum(axis=0)
    least = min(np.count_nonzero(rows), np.count_nonzero(columns)) - 1
    if least < 1:
        return float("nan")
    inside = shares > 0
    chi2 = float((shares[inside] ** 2 / np.outer(rows, columns)[inside]).sum()) - 1.0
    return float(np.sqrt(max(chi2, 0.0) / least))


# --- learners ---------------------------------------------------------------------------------


def _two_sample(
    features: Sequence[Feature], few: Sequence[_Array], trees: int, generator: np.random.Generator
) -> Score:
    seed = int(generator.integers(2**31))
    size = min(len(few[0]), len(few[1]))
    # At random: a file may be sorted.
    real, *others = (_thinned(side, size, generator) for side in few)
    # Both are compared with the same real rows, with the same folds and trees.
    value, perfect = (_told_apart(features, real, other, trees, seed) for other in others)
    # Both accuracies vary, each with a variance of 1/4 over the number of its 2 * size rows.
    return Score("c2st", "C2ST", value, perfect, _SURE * float(np.sqrt(2 * 0.25 / (2 * size))))


def _told_apart(
    features: Sequence[Feature], real: _Array, other: _Array, trees: int, seed: int
) -> float:
    """Computes how accurately boosted trees tell two samples of one size apart."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    rows = np.concatenate((real, other))
    named = [feature.labels is not None for feature in features]
    for index in np.flatnonzero(named):
        known = ~np.isnan(rows[:, index])
        # Ranked in both samples: a rank among the real rows would tell which side a row is from.
        _, places, counts = np.unique(rows[known, index], return_inverse=True, return_counts=True)
        ranks = rankdata(-counts, method="ordinal") - 1
        rows[known, index] = np.minimum(ranks[places], _MOST_TOLD - 1)
    classifier = HistGradientBoostingClassifier(
        categorical_features=named,
        max_iter=trees,
        max_leaf_nodes=15,
        min_samples_leaf=max(2, min(20, len(real) // 20)),
        early_stopping=False,
        random_state=seed,
    )
    return told_apart(classifier, rows[: len(real)], rows[len(real) :], seed)


def _targets(
    features: Sequence[Feature],
    columns: pd.DataFrame,
    pairs: pd.DataFrame,
    asked: Sequence[str] | None,
) -> list[int]:
    """Chooses the columns that learners predict, by index."""
    places = {
        feature.name: index
        for index, feature in enumerate(features)
        if feature.kind != "date"
        and (feature.labels is None or 2 <= len(feature.labels) <= _MOST_CLASSES)
    }
    if asked is None:
        dependent = pd.concat([pairs.set_index(side)["real"].abs() for side in ("first", "second")])
        strongest = dependent.groupby(level=0).max().fillna(0)
        usual = [name for name in places if columns["real_gaps"][places[name]] <= 0.5]
        others = sorted(usual[:-1], key=lambda name: -strongest.get(name, 0))
        asked = [*usual[-1:], *others[: _MOST_TARGETS - 1]]
    for name in asked:
        if name not in places:
            raise DataError(
                f"column '{name}' cannot be a target; give a number or a column of 2 to "
                f"{_MOST_CLASSES} categories, one of {', '.join(places) or 'none here'}"
            )
    return [places[name] for name in asked]


def _usefulness(
    features: Sequence[Feature],
    real: _Array,
    few: Sequence[_Array],
    targets: Sequence[int],
    trees: int,
    generator: np.random.Generator,
) -> pd.DataFrame:
    from sklearn.ensemble import (
        ExtraTreesClassifier,
        ExtraTreesRegressor,
        HistGradientBoostingClassifier,
        HistGradientBoostingRegressor,
    )
    from sklearn.linear_model import LogisticRegression, Ridge

    same = {"random_state": int(generator.integers(2**31))}
    forest = {"n_estimators": trees, "min_samples_leaf": 3, "max_features": 0.4, **same}
    boosted = {"max_iter": trees, "max_leaf_nodes": 15, "early_stopping": False, **same}
    learners = {
        "linear": (LogisticRegression(max_iter=2_000), Ridge()),
        "forest": (ExtraTreesClassifier(**forest), ExtraTreesRegressor(**forest)),
        "boosted trees": (
            HistGradientBoostingClassifier(**boosted),
            HistGradientBoostingRegressor(**boosted),
        ),
    }
    # Fitted to the real rows, so that it favours neither of the tables compared with them.
    embedded = embedding(features, real)
    found = []
    for target in targets if len(features) > 1 else ():
        is_number = features[target].labels is None
        sides = []
        for rows in few:
            known = rows[~np.isnan(rows[:, target])]
            parts = embedded(known)
            own = parts.pop(target)
            sides.append((np.hstack(parts), own[:, 0] if is_number else known[:, target]))
        test, *trained = sides
        if min(len(answers) for _, answers in sides) < _FEWEST_LEARNED or np.ptp(test[1]) == 0:
            continue
        for name, learner in learners.items():
            judge, measure = (_r2, "R²") if is_number else (_auc, "AUC")
            values = [judge(learner[is_number], *side, *test) for side in trained]
            found.append((features[target].name, name, measure, *values))
    names = ["target", "learner", "measure", "synthetic", "real"]
    return pd.DataFrame(found, columns=names)


def _r2(learner: object, rows: _Array, answers: _Array, tests: _Array, truth: _Array) -> float:
    from sklearn.base import clone
    from sklearn.metrics import r2_score

    return float(r2_score(truth, clone(learner).fit(rows, answers).predict(tests)))


def _auc(learner: object, rows: _Array, answers: _Array, tests: _Array, truth: _Array) -> float:
    """Averages the areas under the ROC curves of each category against the others, by frequency."""
    from sklearn.base import clone
    from sklearn.metrics import roc_auc_score

    likely = {}
    if np.ptp(answers) > 0:
        fitted = clone(learner).fit(rows, answers)
        likely = dict(zip(fitted.classes_, fitted.predict_proba(tests).T, strict=True))
    # A category that the learner has never seen is equally likely in all rows.
    names, nowhere = np.unique(truth), np.zeros(len(tests))
    chances = np.column_stack([likely.get(name, nowhere) for name in names])
    return float(roc_auc_score(truth[:, None] == names, chances, average="weighted"))


# --- privacy ----------------------------------------------------------------------------------


def _privacy(
    features: Sequence[Feature],
    heldout: _Array,
    synthetic: _Array,
    train: _Array,
    generator: np.random.Generator,
) -> list[Score]:
    own_hashes, *others = (
        pd.util.hash_pandas_object(pd.DataFrame(rows), index=False)
        for rows in (train, synthetic, heldout)
    )
    identical, chance = (float(hashes.isin(own_hashes).mean()) for hashes in others)
    size = min(len(train), len(heldout), _MOST_NEAREST)
    own, fresh = (_thinned(rows, size, generator) for rows in (train, heldout))
    embedded = embedding(features, np.concatenate((own, fresh)))
    drawn = _thinned(synthetic, 2 * _MOST_NEAREST, generator)
    closest = closest_record(*(np.hstack(embedded(rows)) for rows in (drawn, own, fresh)))
    return [
        Score("closest", "closest record", closest.value, 0.5, closest.margin),
        Score("copies", "identical rows", identical, chance),
    ]
