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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import ks_2samp, rankdata

from kan_diffusion.errors import DataError
from kan_diffusion.evaluation.effort import EFFORTS, EffortName
from kan_diffusion.evaluation.metrics import told_apart
from kan_diffusion.evaluation.privacy import closest_record
from kan_diffusion.tables.columns import Kind
from kan_diffusion.tables.features import Embedding, Feature, features_of
from kan_diffusion.tables.marginals import Picture, column_picture

__all__ = [
    "ColumnScore",
    "PairScore",
    "Score",
    "TableScores",
    "UsefulnessScore",
    "table_scores",
]

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


@dataclass(frozen=True)
class ColumnScore:
    """How well one column is reproduced.

    Attributes:
        name: The column.
        kind: Its kind.
        shape: Similarity of its values, from 0 to 1; None where the real column has no value.
        perfect: What real rows score.
        gaps: Shares of gaps among the real and the synthetic rows, from 0 to 1.
        picture: Its values, real beside synthetic; None where there are none.
    """

    name: str
    kind: Kind
    shape: float | None
    perfect: float | None
    gaps: tuple[float, float]
    picture: Picture | None

    @property
    def shortfall(self) -> float:
        """How much worse it is than real rows, in shape or in gaps, whichever is more."""
        shape = 0.0 if self.shape is None or self.perfect is None else self.perfect - self.shape
        return max(shape, abs(self.gaps[0] - self.gaps[1]))


@dataclass(frozen=True)
class PairScore:
    """How well the dependence of two columns is reproduced.

    Attributes:
        first: The one column.
        second: The other one.
        measure: ``"correlation"`` of two numbers or dates, else ``"contingency"``.
        score: Similarity, from 0 to 1.
        perfect: What real rows score.
        real: Pearson's correlation, or Cramér's V, among the real rows; NaN where undefined.
        synthetic: The same among the synthetic rows.
    """

    first: str
    second: str
    measure: str
    score: float
    perfect: float
    real: float
    synthetic: float

    @property
    def shortfall(self) -> float:
        """How much worse it is than real rows."""
        return self.perfect - self.score


@dataclass(frozen=True)
class UsefulnessScore:
    """How well one learner predicts one column of real rows.

    Attributes:
        target: The predicted column.
        learner: The learner.
        measure: ``"AUC"`` of each category against the others, averaged by frequency; or ``"R²"``
            of a number's normal scores.
        synthetic: The measure after training on synthetic rows.
        real: The measure after training on as many real rows.
    """

    target: str
    learner: str
    measure: str
    synthetic: float
    real: float


@dataclass(frozen=True)
class TableScores:
    """Scores of a synthetic table. They hold counts and shares, but no row.

    Attributes:
        scores: The headline scores.
        columns: Scores of the columns, the worst first.
        pairs: Scores of pairs of columns, the worst first.
        usefulness: A score for each target and learner.
        names: The judged columns, in the table's order.
        left_out: Columns that are not judged: identifiers, and those with one value everywhere.
        rows: Numbers of real, of synthetic and of training rows (0 where these are not known).
    """

    scores: tuple[Score, ...]
    columns: tuple[ColumnScore, ...]
    pairs: tuple[PairScore, ...]
    usefulness: tuple[UsefulnessScore, ...]
    names: tuple[str, ...]
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
    on_progress: Callable[[str, float], None] | None = None,
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
        on_progress: Called with the name of the next step and the share done, from 0 to 1.

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

    def tell(what: str, done: float) -> None:
        if on_progress is not None:
            on_progress(what, done)

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
    sides = _Sides(
        _thinned(judged, _MOST_COMPARED, stream("real")),
        _thinned(rows["synthetic"], size, stream("synthetic")),
        _thinned(reference, size, stream("reference")),
    )
    tell("columns", 0.0)
    columns = [_column_score(feature, *column) for feature, column in sides.by_column(features)]
    tell("pairs", 0.05)
    pairs = _pair_scores(features, sides)
    scores = [*_column_means(columns, sides), *_pair_means(pairs)]
    few = sides.thinned(_MOST_LEARNED, stream("few"))
    tell("two-sample test", 0.2)
    scores.append(_two_sample(features, few, trees, stream("c2st")))
    tell("usefulness", 0.4)
    # Fitted to the real rows, so that it favours neither of the tables compared with them.
    embedding = Embedding.fit(features, sides.real)
    chosen = _targets(features, np.isnan(sides.real).mean(axis=0), pairs, targets)
    useful = _usefulness(features, few, embedding, chosen, trees, stream("usefulness"))
    if useful:
        values = np.array([(one.synthetic, one.real) for one in useful]).mean(axis=0)
        scores.append(Score("usefulness", "usefulness", *map(float, values)))
    tell("privacy", 0.9)
    if "train" in rows:
        whole = _Sides(rows["real"], rows["synthetic"], rows["train"])
        scores += _privacy(features, whole, stream("privacy"))
    tell("privacy", 1.0)
    return TableScores(
        scores=tuple(scores),
        columns=tuple(sorted(columns, key=lambda one: -one.shortfall)),
        pairs=pairs,
        usefulness=useful,
        names=tuple(feature.name for feature in features),
        left_out=left_out,
        rows=(len(real), len(synthetic), 0 if train is None else len(train)),
    )


class _Sides(NamedTuple):
    """Rows of all judged columns, each with shape (n, D): float64, NaN for a gap."""

    real: _Array
    synthetic: _Array
    reference: _Array

    def thinned(self, size: int, generator: np.random.Generator) -> _Sides:
        """Draws at most ``size`` rows of each side."""
        return _Sides(*(_thinned(side, size, generator) for side in self))

    def by_column(self, features: Sequence[Feature]) -> list[tuple[Feature, list[_Array]]]:
        """Pairs each column with its cells of each side."""
        return [(one, [side[:, place] for side in self]) for place, one in enumerate(features)]


def _thinned(rows: _Array, size: int, generator: np.random.Generator) -> _Array:
    if len(rows) <= size:
        return rows
    return rows[np.sort(generator.choice(len(rows), size, replace=False))]


# --- columns ----------------------------------------------------------------------------------


def _column_score(
    feature: Feature, real: _Array, synthetic: _Array, reference: _Array
) -> ColumnScore:
    shape = _shape(feature, real, synthetic)
    return ColumnScore(
        feature.name,
        feature.kind,
        shape,
        _shape(feature, real, reference),
        (float(np.isnan(real).mean()), float(np.isnan(synthetic).mean())),
        None if shape is None else column_picture(feature, real, synthetic),
    )


def _shape(feature: Feature, real: _Array, other: _Array) -> float | None:
    """Computes the similarity of one column's values, without gaps; None without a real value."""
    real, other = real[~np.isnan(real)], other[~np.isnan(other)]
    if not len(real):
        return None
    if not len(other):
        return 0.0
    if feature.labels is None:
        return 1.0 - float(ks_2samp(real, other, method="asymp").statistic)
    count = len(feature.labels)
    shares = [np.bincount(codes.astype(int), minlength=count) for codes in (real, other)]
    return _similarity(shares[0] / len(real), shares[1] / len(other))


def _similarity(one: _Array, other: _Array) -> float:
    """Computes 1 minus the total variation distance of shares."""
    return 1.0 - float(np.abs(one - other).sum()) / 2


def _column_means(columns: Sequence[ColumnScore], sides: _Sides) -> list[Score]:
    known = [(one.shape, one.perfect) for one in columns if one.shape is not None]
    if not known:
        raise DataError("no real row has a value in any column that can be judged; give others")
    shape, perfect = np.array(known, dtype=np.float64).mean(axis=0)
    scores = [Score("shapes", "column shapes", float(shape), float(perfect))]
    gaps = np.array([np.isnan(side).mean(axis=0) for side in sides])
    if gaps.any():
        real, synthetic, reference = gaps[:, gaps.any(axis=0)]
        values = (1.0 - float(np.abs(real - other).mean()) for other in (synthetic, reference))
        scores.append(Score("gaps", "gaps", *values))
    return scores


# --- pairs ------------------------------------------------------------------------------------


def _pair_scores(features: Sequence[Feature], sides: _Sides) -> tuple[PairScore, ...]:
    continuous = [index for index, feature in enumerate(features) if feature.labels is None]
    # Pearson's correlation of each pair, over the rows without a gap in either.
    correlations = [pd.DataFrame(side[:, continuous]).corr().to_numpy() for side in sides]
    place = {index: position for position, index in enumerate(continuous)}
    codes = [_codes(feature, column) for feature, column in sides.by_column(features)]
    found = []
    for i, j in combinations(range(len(features)), 2):
        if i in place and j in place:
            values = [float(matrix[place[i], place[j]]) for matrix in correlations]
            if np.isnan(values[0]):
                continue
            # A column without spread has no correlation: it counts as 0.
            r, s, t = np.nan_to_num(values)
            similar, perfect = 1 - abs(r - s) / 2, 1 - abs(r - t) / 2
            measure, real, synthetic = "correlation", values[0], values[1]
        else:
            tables = [_joint_shares(*both) for both in zip(codes[i], codes[j], strict=True)]
            similar, perfect = (_similarity(tables[0], table) for table in tables[1:])
            measure, (real, synthetic) = "contingency", map(_cramers_v, tables[:2])
        names = features[i].name, features[j].name
        found.append(PairScore(*names, measure, float(similar), float(perfect), real, synthetic))
    return tuple(sorted(found, key=lambda one: -one.shortfall))


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
        counts = np.bincount(real.astype(int), minlength=max(len(feature.labels), 1))
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


def _pair_means(pairs: Sequence[PairScore]) -> list[Score]:
    if not pairs:
        return []
    value, perfect = np.array([(pair.score, pair.perfect) for pair in pairs]).mean(axis=0)
    return [Score("trends", "pair trends", float(value), float(perfect))]


# --- learners ---------------------------------------------------------------------------------


def _two_sample(
    features: Sequence[Feature], few: _Sides, trees: int, generator: np.random.Generator
) -> Score:
    seed = int(generator.integers(2**31))
    size = min(len(few.real), len(few.synthetic))
    even = few.thinned(size, generator)  # at random: a file may be sorted
    # Both are compared with the same real rows, with the same folds and trees.
    value, perfect = (
        _told_apart(features, even.real, other, trees, seed)
        for other in (even.synthetic, even.reference)
    )
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
    gaps: _Array,
    pairs: Sequence[PairScore],
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
        strongest = {name: 0.0 for name, place in places.items() if gaps[place] <= 0.5}
        for pair in pairs:
            for name in (pair.first, pair.second):
                if name in strongest and not np.isnan(pair.real):
                    strongest[name] = max(strongest[name], abs(pair.real))
        last = list(strongest)[-1:]
        others = sorted(strongest.keys() - last, key=lambda name: (-strongest[name], places[name]))
        return [places[name] for name in (*last, *others[: _MOST_TARGETS - 1])]
    for name in asked:
        if name not in places:
            raise DataError(
                f"column '{name}' cannot be a target; give a number or a column of 2 to "
                f"{_MOST_CLASSES} categories, one of {', '.join(places) or 'none here'}"
            )
    return [places[name] for name in asked]


def _usefulness(
    features: Sequence[Feature],
    few: _Sides,
    embedding: Embedding,
    targets: Sequence[int],
    trees: int,
    generator: np.random.Generator,
) -> tuple[UsefulnessScore, ...]:
    from sklearn.ensemble import (
        ExtraTreesClassifier,
        ExtraTreesRegressor,
        HistGradientBoostingClassifier,
        HistGradientBoostingRegressor,
    )
    from sklearn.linear_model import LogisticRegression, Ridge

    if len(features) < 2:
        return ()
    seed = int(generator.integers(2**31))
    same = {"random_state": seed}
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
    scores = []
    for target in targets:
        is_number = features[target].labels is None
        sides = []
        for rows in few:
            known = rows[~np.isnan(rows[:, target])]
            answers = embedding.column(target, known)[:, 0] if is_number else known[:, target]
            sides.append((embedding(known, without=target), answers))
        test, synthetic, real = sides
        if min(len(answers) for _, answers in sides) < _FEWEST_LEARNED or np.ptp(test[1]) == 0:
            continue
        for name, (classifier, regressor) in learners.items():
            learner = regressor if is_number else classifier
            judge = _r2 if is_number else _auc
            values = [judge(learner, *trained, *test) for trained in (synthetic, real)]
            measure = "R²" if is_number else "AUC"
            scores.append(UsefulnessScore(features[target].name, name, measure, *values))
    return tuple(scores)


def _r2(learner: object, rows: _Array, answers: _Array, tests: _Array, truth: _Array) -> float:
    from sklearn.base import clone
    from sklearn.metrics import r2_score

    return float(r2_score(truth, clone(learner).fit(rows, answers).predict(tests)))


def _auc(learner: object, rows: _Array, answers: _Array, tests: _Array, truth: _Array) -> float:
    """Averages the areas under the ROC curves of each category against the others, by frequency."""
    from sklearn.base import clone
    from sklearn.metrics import roc_auc_score

    classes = np.unique(answers)
    likely = {}
    if len(classes) > 1:
        fitted = clone(learner).fit(rows, answers)
        likely = dict(zip(fitted.classes_, fitted.predict_proba(tests).T, strict=True))
    # A category that the learner has never seen is equally likely in all rows.
    nowhere = np.zeros(len(tests))
    names, counts = np.unique(truth, return_counts=True)
    areas = [roc_auc_score(truth == name, likely.get(name, nowhere)) for name in names]
    return float(np.average(areas, weights=counts))


# --- privacy ----------------------------------------------------------------------------------


def _privacy(
    features: Sequence[Feature], sides: _Sides, generator: np.random.Generator
) -> list[Score]:
    heldout, synthetic, train = sides
    own_hashes, *others = (
        pd.util.hash_pandas_object(pd.DataFrame(rows), index=False)
        for rows in (train, synthetic, heldout)
    )
    identical, chance = (float(hashes.isin(own_hashes).mean()) for hashes in others)
    size = min(len(train), len(heldout), _MOST_NEAREST)
    own, fresh = (_thinned(rows, size, generator) for rows in (train, heldout))
    embedding = Embedding.fit(features, np.concatenate((own, fresh)))
    points = embedding(_thinned(synthetic, 2 * _MOST_NEAREST, generator))
    closest = closest_record(points, embedding(own), embedding(fresh))
    return [
        Score("closest", "closest record", closest.value, 0.5, closest.margin),
        Score("copies", "identical rows", identical, chance),
    ]
