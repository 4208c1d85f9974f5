r"""Scores of a synthetic table, its quality and its privacy, each beside the score of real rows.

Let R be real rows that no model has seen, S synthetic rows, and T as many rows that the model was
trained on (without them R is halved at random, and T is the other half):

- column shapes    1 - sup|F_R - F_S| of numbers and dates, 1 - sum|p_R - p_S| / 2 of categories
- pair trends      1 - |r_R - r_S| / 2 with Pearson's r of two numbers, else 1 - sum|p_R - p_S| / 2
                   of the joint shares, with numbers in ten bins of equal width over R
- gaps             1 - |g_R - g_S| with the share g of gaps; 1 - |r_R - r_S| / 2 for gaps of a pair
- C2ST             accuracy with which gradient-boosted trees tell rows of R from rows of S
- usefulness       how well learners trained on S predict a column of R
- closeness        whether synthetic rows lie where real ones do, and whether they are copies:
                   see :mod:`kan_diffusion.tables.privacy`

Shapes, trends and gaps are those of SDMetrics. C2ST: Lopez-Paz & Oquab 2017.

Each score has a perfect one beside it: that of T, which are real rows, in place of S. For closest
records, membership and copies it is what chance alone gives.
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
from kan_diffusion.tables.columns import Kind
from kan_diffusion.tables.features import Embedding, Field, fields_of, rows_of
from kan_diffusion.tables.marginals import (
    Distances,
    Joint,
    Picture,
    column_picture,
    distance_picture,
    joint_picture,
)
from kan_diffusion.tables.privacy import closest_record, membership, precision_and_recall

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
_MOST_JUDGED = 5_000
"""Most rows of each side for scores that compare every row with every other."""
_MOST_LEARNED = 4_000
"""Most rows of each side for scores that train learners."""
_MOST_TARGETS = 3
_MOST_CLASSES = 20
"""Most categories of a column that learners predict."""
_MOST_TOLD = 254
"""Most categories that boosted trees tell apart; the rarest are merged into one."""
_FOLDS = 5
_PAIR_BINS = 10
_LARGE_JOINT = 50_000
_PICTURED_PAIRS = 6
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
        joints: Pictures of the pairs that are reproduced worst.
        distances: Distances of synthetic rows to the closest record; None without training rows.
    """

    scores: tuple[Score, ...]
    columns: tuple[ColumnScore, ...]
    pairs: tuple[PairScore, ...]
    usefulness: tuple[UsefulnessScore, ...]
    names: tuple[str, ...]
    left_out: tuple[str, ...]
    rows: tuple[int, int, int]
    joints: tuple[Joint, ...] = ()
    distances: Distances | None = None

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
    fields, left_out = fields_of(frames, known_by, kinds or {})
    rows = {name: rows_of(fields, frame, name) for name, frame in frames.items()}
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
    columns = _column_scores(fields, sides)
    tell("pairs", 0.05)
    pairs, joints = _pair_scores(fields, sides)
    scores = [*_column_means(columns, sides), *_pair_means(pairs), *_gap_trends(sides)]
    few = sides.thinned(_MOST_LEARNED, _MOST_LEARNED, stream("few"))
    tell("two-sample test", 0.2)
    scores.append(_two_sample(fields, few, trees, stream("c2st")))
    # Fitted to the real rows, so that it favours neither of the tables compared with them.
    embedding = Embedding.fit(fields, sides.real)
    tell("usefulness", 0.4)
    chosen = _targets(fields, np.isnan(sides.real).mean(axis=0), pairs, targets)
    useful = _usefulness(fields, few, embedding, chosen, trees, stream("usefulness"))
    if useful:
        values = np.array([(one.synthetic, one.real) for one in useful]).mean(axis=0)
        scores.append(Score("usefulness", "usefulness", *map(float, values)))
    tell("precision and recall", 0.8)
    # With more synthetic rows than real ones, every real row would have a near neighbour.
    size = min(len(sides.real), _MOST_JUDGED)
    real_points, *others = map(embedding, sides.thinned(size, size, stream("precision")))
    reached, perfect = (precision_and_recall(real_points, other) for other in others)
    scores.append(Score("precision", "α-precision", reached[0], perfect[0]))
    scores.append(Score("recall", "β-recall", reached[1], perfect[1]))
    distances = None
    if "train" in rows:
        tell("privacy", 0.9)
        found, distances = _privacy(
            fields, rows["train"], rows["real"], rows["synthetic"], stream("privacy")
        )
        scores += found
    tell("privacy", 1.0)
    return TableScores(
        scores=tuple(scores),
        columns=tuple(sorted(columns, key=lambda one: -one.shortfall)),
        pairs=pairs,
        usefulness=useful,
        names=tuple(field.name for field in fields),
        left_out=left_out,
        rows=(len(real), len(synthetic), 0 if train is None else len(train)),
        joints=joints,
        distances=distances,
    )


class _Sides(NamedTuple):
    """Rows of all judged columns, each with shape (n, D): float64, NaN for a gap."""

    real: _Array
    synthetic: _Array
    reference: _Array

    def thinned(self, real: int, others: int, generator: np.random.Generator) -> _Sides:
        """Draws at most ``real`` real rows, and at most ``others`` rows of each other side."""
        return _Sides(
            _thinned(self.real, real, generator),
            _thinned(self.synthetic, others, generator),
            _thinned(self.reference, others, generator),
        )


def _thinned(rows: _Array, size: int, generator: np.random.Generator) -> _Array:
    if len(rows) <= size:
        return rows
    return rows[np.sort(generator.choice(len(rows), size, replace=False))]


# --- columns ----------------------------------------------------------------------------------


def _column_scores(fields: Sequence[Field], sides: _Sides) -> list[ColumnScore]:
    scores = []
    for index, field in enumerate(fields):
        real, synthetic, reference = (side[:, index] for side in sides)
        gaps = float(np.isnan(real).mean()), float(np.isnan(synthetic).mean())
        shape = _shape(field, real, synthetic)
        scores.append(
            ColumnScore(
                field.name,
                field.kind,
                shape,
                _shape(field, real, reference),
                gaps,
                None if shape is None else column_picture(field, real, synthetic),
            )
        )
    return scores


def _shape(field: Field, real: _Array, other: _Array) -> float | None:
    """Computes the similarity of one column's values, without gaps; None without a real value."""
    real, other = real[~np.isnan(real)], other[~np.isnan(other)]
    if not len(real):
        return None
    if not len(other):
        return 0.0
    if field.labels is None:
        return 1.0 - float(ks_2samp(real, other, method="asymp").statistic)
    shares = [
        np.bincount(codes.astype(int), minlength=len(field.labels)) for codes in (real, other)
    ]
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


def _pair_scores(
    fields: Sequence[Field], sides: _Sides
) -> tuple[tuple[PairScore, ...], tuple[Joint, ...]]:
    continuous = [index for index, field in enumerate(fields) if field.labels is None]
    correlations = [_correlations(side[:, continuous]) for side in sides]
    place = {index: position for position, index in enumerate(continuous)}
    codes, counts = _codes(fields, sides)
    found: list[tuple[PairScore, int, int]] = []
    for i, j in combinations(range(len(fields)), 2):
        if i in place and j in place:
            values = [float(matrix[place[i], place[j]]) for matrix in correlations]
            if np.isnan(values[0]):
                continue
            # A column without spread has no correlation: it counts as 0.
            r, s, t = np.nan_to_num(values)
            similar, perfect = 1 - abs(r - s) / 2, 1 - abs(r - t) / 2
            measure, real, synthetic = "correlation", values[0], values[1]
        else:
            tables = _shares([(side[:, i], side[:, j]) for side in codes], counts[i], counts[j])
            similar, perfect = (_similarity(tables[0].shares, t.shares) for t in tables[1:])
            measure, (real, synthetic) = "contingency", (table.cramers_v() for table in tables[:2])
        one = PairScore(
            fields[i].name, fields[j].name, measure, float(similar), float(perfect), real, synthetic
        )
        found.append((one, i, j))
    found.sort(key=lambda entry: -entry[0].shortfall)
    joints = []
    for _, i, j in found[:_PICTURED_PAIRS]:
        # Categories are drawn along the side, where there is room for their names.
        first, second = (j, i) if fields[i].labels is None else (i, j)
        cells = [side[:, [first, second]] for side in (sides.real, sides.synthetic)]
        joints.append(joint_picture(fields[first], fields[second], cells[0], cells[1]))
    return tuple(one for one, _, _ in found), tuple(joints)


def _correlations(rows: _Array) -> _Array:
    """Pearson's correlation of each pair, over the rows without a gap in either, shape (k, k)."""
    return pd.DataFrame(rows).corr().to_numpy()


def _codes(fields: Sequence[Field], sides: _Sides) -> tuple[list[NDArray[np.int64]], list[int]]:
    """Codes all columns as bins or categories, gaps as one more, and counts each column's codes."""
    codes = [np.empty(side.shape, np.int64) for side in sides]
    counts = []
    for index, field in enumerate(fields):
        if field.labels is None:
            values = sides.real[:, index]
            edges = np.histogram_bin_edges(values[~np.isnan(values)], _PAIR_BINS)[1:-1]
            count = _PAIR_BINS
        else:
            edges, count = None, len(field.labels)
        for side, into in zip(sides, codes, strict=True):
            column = side[:, index]
            gaps = np.isnan(column)
            known = np.where(gaps, 0.0, column)
            binned = known if edges is None else np.digitize(known, edges)
            into[:, index] = np.where(gaps, count, binned)
        counts.append(count + 1)
    return codes, counts


@dataclass(frozen=True)
class _JointShares:
    """Shares of the combinations of two columns' codes."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    shares: _Array

    def cramers_v(self) -> float:
        """Cramér's V, from 0 to 1: the root of chi² / n over its largest value."""
        rows, columns = np.bincount(self.first, self.shares), np.bincount(self.second, self.shares)
        least = min(np.count_nonzero(rows), np.count_nonzero(columns)) - 1
        if least < 1:
            return float("nan")
        expected = rows[self.first] * columns[self.second]
        inside = self.shares > 0
        chi2 = float((self.shares[inside] ** 2 / expected[inside]).sum()) - 1.0
        return float(np.sqrt(max(chi2, 0.0) / least))


def _shares(
    pairs: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]], rows: int, columns: int
) -> list[_JointShares]:
    """Computes joint shares of two columns on several sides, over the same combinations."""
    keys = [first * columns + second for first, second in pairs]
    known = np.arange(rows * columns)
    if len(known) > _LARGE_JOINT:
        known, places = np.unique(np.concatenate(keys), return_inverse=True)
        keys = np.split(places, np.cumsum([len(key) for key in keys])[:-1])
    first, second = np.divmod(known, columns)
    return [
        _JointShares(first, second, np.bincount(key, minlength=len(known)) / len(key))
        for key in keys
    ]


def _pair_means(pairs: Sequence[PairScore]) -> list[Score]:
    if not pairs:
        return []
    value, perfect = np.array([(pair.score, pair.perfect) for pair in pairs]).mean(axis=0)
    return [Score("trends", "pair trends", float(value), float(perfect))]


def _gap_trends(sides: _Sides) -> list[Score]:
    """Scores the correlations of gaps; no score where fewer than two columns have some."""
    gaps = [np.isnan(side) for side in sides]
    some = [index for index in range(gaps[0].shape[1]) if 0 < gaps[0][:, index].mean() < 1]
    if len(some) < 2:
        return []
    pairs = np.triu_indices(len(some), 1)
    real, *others = (
        np.nan_to_num(_correlations(side[:, some].astype(np.float64))[pairs]) for side in gaps
    )
    values = (1.0 - float(np.abs(real - other).mean()) / 2 for other in others)
    return [Score("gap_trends", "gaps together", *values)]


# --- learners ---------------------------------------------------------------------------------


def _two_sample(
    fields: Sequence[Field], few: _Sides, trees: int, generator: np.random.Generator
) -> Score:
    seed = int(generator.integers(2**31))
    size = min(len(few.real), len(few.synthetic))
    even = few.thinned(size, size, generator)  # at random: a file may be sorted
    # Both are compared with the same real rows, with the same folds and trees.
    value, perfect = (
        _told_apart(fields, even.real, other, trees, seed)
        for other in (even.synthetic, even.reference)
    )
    # Both accuracies vary, each with a variance of 1/4 over the number of its 2 * size rows.
    return Score("c2st", "C2ST", value, perfect, _SURE * float(np.sqrt(2 * 0.25 / (2 * size))))


def _told_apart(
    fields: Sequence[Field], real: _Array, other: _Array, trees: int, seed: int
) -> float:
    """Computes how accurately boosted trees tell two samples of one size apart, cross-validated."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    rows = np.concatenate((real, other))
    named = [field.labels is not None for field in fields]
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
    labels = np.repeat([0, 1], [len(real), len(other)])
    folds = StratifiedKFold(min(_FOLDS, len(real)), shuffle=True, random_state=seed)
    return float(cross_val_score(classifier, rows, labels, cv=folds).mean())


def _targets(
    fields: Sequence[Field],
    gaps: _Array,
    pairs: Sequence[PairScore],
    asked: Sequence[str] | None,
) -> list[int]:
    """Chooses the columns that learners predict, by index."""
    places = {
        field.name: index
        for index, field in enumerate(fields)
        if field.kind != "datetime"
        and (field.labels is None or 2 <= len(field.labels) <= _MOST_CLASSES)
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
    fields: Sequence[Field],
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

    if len(fields) < 2:
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
        is_number = fields[target].labels is None
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
            scores.append(UsefulnessScore(fields[target].name, name, measure, *values))
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
    fields: Sequence[Field],
    train: _Array,
    heldout: _Array,
    synthetic: _Array,
    generator: np.random.Generator,
) -> tuple[list[Score], Distances]:
    own_hashes, *others = (
        pd.util.hash_pandas_object(pd.DataFrame(rows), index=False)
        for rows in (train, synthetic, heldout)
    )
    copies, chance = (float(hashes.isin(own_hashes).mean()) for hashes in others)
    size = min(len(train), len(heldout), _MOST_JUDGED)
    own, fresh = (_thinned(rows, size, generator) for rows in (train, heldout))
    embedding = Embedding.fit(fields, np.concatenate((own, fresh)))
    own, fresh = embedding(own), embedding(fresh)
    points = embedding(_thinned(synthetic, 2 * _MOST_JUDGED, generator))
    closest, distances = closest_record(points, own, fresh)
    attack = membership(points, own, fresh)
    scores = [
        Score("closest", "closest record", closest.value, 0.5, closest.margin),
        Score("attack", "membership", attack.value, 0.5, attack.margin),
        Score("copies", "identical rows", copies, chance),
    ]
    return scores, distance_picture(*distances.T)
