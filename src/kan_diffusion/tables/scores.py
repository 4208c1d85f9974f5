r"""Scores of a synthetic table, its quality and its privacy, each beside the score of real rows.

Let R be real rows that no model has seen, S synthetic rows, and T as many rows that the model was
trained on (without them R is halved at random, and T is the other half):

- column shapes    1 - sup|F_R - F_S| of numbers and dates, 1 - sum|p_R - p_S| / 2 of categories
- gaps             1 - |g_R - g_S| with the share g of gaps
- pair trends      1 - |r_R - r_S| / 2 with Pearson's r of two numbers, else 1 - sum|p_R - p_S| / 2
                   of the joint shares, with numbers in ten bins of equal width over R and all but
                   the 100 most frequent categories as one
- C2ST             accuracy with which gradient-boosted trees tell rows of R from rows of S
- usefulness       AUC with which gradient-boosted trees trained on S predict columns of R: each
                   category against the others, averaged by frequency; numbers as quarters of R
- closest record   share of S nearer to a row of T than to any of as many rows of R
                   (:mod:`kan_diffusion.evaluation.privacy`)
- identical rows   share of S that is a row of T, cell by cell

Shapes, trends and gaps are those of SDMetrics. C2ST: Lopez-Paz & Oquab 2017.

Each score has a perfect one beside it: that of T, which are real rows, in place of S. For closest
records and copies it is what chance alone gives.

All tables are coded alike, whichever model made them. A number stays as it is, a date becomes
seconds since 1970, a time span seconds, a category its place in a list, and a gap NaN. For
distances, rows become points. A number becomes its normal score among the real rows,

    z(x) = Φ⁻¹((#{r < x} + #{r = x} / 2) / n), interpolated linearly between real values,

and a category becomes one-hot, so that two categories are √2 apart, as two independent normal
numbers are in root mean square. A gap among numbers is the middle of its column, and √2 away in an
extra coordinate; a gap among categories is one more category.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import ks_2samp, rankdata
from scipy.stats.contingency import association
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from kan_diffusion.errors import DataError
from kan_diffusion.evaluation.effort import EFFORTS, EffortName
from kan_diffusion.evaluation.metrics import told_apart
from kan_diffusion.evaluation.privacy import closest_record
from kan_diffusion.tables.dtypes import Storage, place_among
from kan_diffusion.tables.files import require_distinct
from kan_diffusion.tables.kinds import found_kind, split_kind

__all__ = ["SURE", "Feature", "TableScores", "table_scores"]

_Array = NDArray[np.float64]

SURE = 1.96  # standard deviations on either side that hold 95 % of a normal variable
_FEWEST_ROWS = 4  # that can be judged
_FEWEST_LEARNED = 10  # that trees are trained and tested on
_MOST_COMPARED = 20_000  # rows of each side for scores of columns and pairs
_MOST_NEAREST = 5_000  # rows of each side whose nearest records are sought
_MOST_LEARNED = 4_000  # rows of each side for scores that train trees
_MOST_TARGETS = 3
_MOST_CLASSES = 20  # categories of a column that trees predict
_MOST_TOLD = 254  # categories that trees tell apart
_PAIR_BINS = 10
_PAIR_CODES = 102  # of a column in a pair: 100 categories, all rarer ones, and a gap
_MOST_COORDINATES = 64  # for the categories of a column


@dataclass(frozen=True)
class Feature:
    """A column that is judged.

    Attributes:
        name: Its name.
        kind: Its kind.
        labels: Its categories: in their own order, text the most frequent one first; None for
            numbers and dates.
    """

    name: str
    kind: str
    labels: tuple[str, ...] | None

    def by_frequency(self, cells: _Array, among: _Array, most: int, gap: float = np.nan) -> _Array:
        """Codes places of categories, (n,), NaN for a ``gap``, by their frequency among cells (m,).

        The most frequent is 0; of more than ``most``, the rarest ones share the last code.
        """
        known = among[~np.isnan(among)].astype(np.int64)
        counts = np.bincount(known, minlength=len(self.labels or ()))
        codes = np.minimum(rankdata(-counts, method="ordinal") - 1, most - 1)
        return np.where(np.isnan(cells), gap, codes[np.nan_to_num(cells).astype(np.int64)])


@dataclass(frozen=True, eq=False)
class TableScores:
    """Scores of a synthetic table.

    Attributes:
        scores: The headline scores by their key: ``label``, ``value``, ``perfect`` (what real rows
            score, or what chance gives) and ``margin``, half the width of the interval around
            ``perfect`` that holds the score by chance alone in about 95 % of cases; NaN where that
            is not known.
        columns: A row for each column, the worst first, numbered as in the table: ``name``,
            ``kind``, ``shape`` (similarity of its values, 0 to 1), ``perfect`` (that of real rows),
            ``real_gaps`` and ``synthetic_gaps`` (shares, 0 to 1), and ``shortfall``: how much worse
            than real rows it is in shape or in gaps, whichever is more.
        pairs: A row for each pair of columns, the worst first: ``first``, ``second``, ``score``
            (similarity, 0 to 1), ``perfect`` (that of real rows), and ``real`` and ``synthetic``,
            the ``measure`` itself, NaN where undefined: ``"correlation"`` of two numbers or dates,
            else ``"Cramér’s V"``.
        usefulness: A row for each ``target``: the AUC, 0 to 1, after training on ``synthetic`` and
            on as many ``real`` rows.
        cells: What is judged of each column, by its name: its real and its synthetic cells as
            numbers, with shape (n,), NaN for a gap.
        left_out: Columns that are not judged: identifiers, and those with one value everywhere.
        rows: Numbers of real, of synthetic and of training rows (0 where these are not known).
    """

    scores: pd.DataFrame
    columns: pd.DataFrame
    pairs: pd.DataFrame
    usefulness: pd.DataFrame
    cells: Mapping[str, tuple[Feature, _Array, _Array]]
    left_out: tuple[str, ...]
    rows: tuple[int, int, int]


def table_scores(
    real: pd.DataFrame,
    synthetic: pd.DataFrame,
    *,
    train: pd.DataFrame | None = None,
    kinds: Mapping[str, str] | None = None,
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
        targets: Columns that trees predict; by default the last three that are numbers or have 2
            to 20 categories.
        generator: Draws subsamples, folds and trees; a number is taken as a seed.
        effort: ``"quick"`` trains few trees, for a first look.

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
    features, rows, left_out = _features_of(frames, kinds or {})
    if train is None:
        halves = stream("halves").permutation(len(real))
        rows |= {"real": rows["real"][halves[::2]], "train": rows["real"][halves[1::2]]}
    size = min(len(rows["train"]), len(rows["synthetic"]), _MOST_COMPARED)
    sides = [
        _thinned(rows["real"], _MOST_COMPARED, stream("real")),
        _thinned(rows["synthetic"], size, stream("synthetic")),
        _thinned(rows["train"], size, stream("reference")),
    ]
    random = stream("few")
    few = [_thinned(side, _MOST_LEARNED, random) for side in sides]
    columns, pairs = _column_scores(features, sides), _pair_scores(features, sides)
    useful = _usefulness(features, few, targets, trees, stream("usefulness"))
    gaps = np.array([np.isnan(side).mean(axis=0) for side in sides])
    apart = pd.DataFrame(np.abs(gaps[1:] - gaps[0])[:, gaps.any(axis=0)].T, columns=range(2))
    scores = [
        ("shapes", "column shapes", columns["shape"].mean(), columns["perfect"].mean(), np.nan),
        ("gaps", "gaps", *(1 - apart.mean()), np.nan),
        ("trends", "pair trends", pairs["score"].mean(), pairs["perfect"].mean(), np.nan),
        ("c2st", "C2ST", *_two_sample(features, few, trees, stream("c2st"))),
        ("usefulness", "usefulness", useful["synthetic"].mean(), useful["real"].mean(), np.nan),
    ]
    if train is not None:
        scores += _privacy(features, rows, stream("privacy"))
    heads = ["key", "label", "value", "perfect", "margin"]
    return TableScores(
        # Without a gap, a pair or a target there is no such score.
        scores=pd.DataFrame(scores, columns=heads).dropna(subset="value").set_index("key"),
        columns=columns.sort_values("shortfall", ascending=False, kind="stable"),
        pairs=pairs,
        usefulness=useful,
        cells={
            feature.name: (feature, known, drawn)
            for feature, known, drawn in zip(features, sides[0].T, sides[1].T, strict=True)
        },
        left_out=left_out,
        rows=(len(real), len(synthetic), 0 if train is None else len(train)),
    )


def _features_of(
    frames: Mapping[str, pd.DataFrame], kinds: Mapping[str, str]
) -> tuple[list[Feature], dict[str, _Array], tuple[str, ...]]:
    """Decides how each column is judged, as given or else by the training rows or the real ones.

    Returns:
        The D columns that are judged; the rows of each table, with shape (n, D), float64; and the
        names of the other columns: identifiers, and those with one value in all rows of all tables.
    """
    known_by = "train" if "train" in frames else "real"
    reference = frames[known_by]
    for which, frame in frames.items():
        if len(frame) < _FEWEST_ROWS:
            raise DataError(
                f"{len(frame)} {which} rows are too few to judge a table by; give at least "
                f"{_FEWEST_ROWS}"
            )
        require_distinct(f"the table of {which} rows", list(frame.columns))
        odd = frame.columns.symmetric_difference(reference.columns, sort=False)
        if len(odd):
            raise DataError(
                f"the {which} and the {known_by} rows do not both have column '{odd[0]}'; give "
                "tables with the same columns"
            )
    given = {str(name): kind for name, kind in kinds.items()}
    features, columns = {}, []
    for place in reference:
        name = str(place)
        read, by_itself = found_kind(reference[place], name, given.get(name))
        kind = split_kind(given[name])[0] if name in given else by_itself
        if kind == "identifier":
            continue
        sides = {which: frame[place] for which, frame in frames.items()}
        cells, labels = _numbers(sides, read.storage, kind)
        if len(np.unique(cells)) > 1:
            features[name] = Feature(name, kind, labels)
            columns.append(cells)
    if not features:
        raise DataError(
            "no column can be judged: all are constant or identifiers; give their kinds"
        )
    ends = np.cumsum([len(frame) for frame in frames.values()])[:-1]
    rows = np.split(np.column_stack(columns), ends)
    left_out = tuple(name for name in map(str, reference) if name not in features)
    return list(features.values()), dict(zip(frames, rows, strict=True)), left_out


def _numbers(
    sides: Mapping[str, pd.Series], storage: Storage, kind: str
) -> tuple[_Array, tuple[str, ...] | None]:
    """Reads a column of all tables, one after the other; returns its categories, too."""
    parts = []
    for which, column in sides.items():
        try:
            parts.append(storage.read(column, column.name))
        except DataError as error:
            raise DataError(f"of the {which} rows, {error}") from error
    values, missing = (np.concatenate(part) for part in zip(*parts, strict=True))
    labels = None
    if kind in ("category", "constant") or storage.holds in ("text", "truth"):
        known = np.unique(present := values[~missing])
        if storage.holds == "text":
            known = pd.Series(present, dtype=object).value_counts().index.to_numpy(object)
        if storage.ordered and storage.values is not None:
            own = storage.from_scalars(storage.values)
            known = np.append(own, known[place_among(own, known) < 0])
        values, labels = place_among(known, values.astype(known.dtype)), tuple(map(str, known))
    elif values.dtype.kind in "mM":
        values = values.astype(f"{values.dtype.kind}8[us]").astype(np.int64) / 1e6
    return np.where(missing, np.nan, values.astype(np.float64)), labels


def _thinned(rows: _Array, size: int, generator: np.random.Generator) -> _Array:
    if len(rows) <= size:
        return rows
    return rows[np.sort(generator.choice(len(rows), size, replace=False))]


def _column_scores(features: Sequence[Feature], sides: Sequence[_Array]) -> pd.DataFrame:
    found = []
    for feature, real, *others in zip(features, *(side.T for side in sides), strict=True):
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
    size = len(feature.labels)
    return _similarity(*(np.bincount(c.astype(int), minlength=size) for c in (real, other)))


def _similarity(*counts: NDArray[np.int64]) -> float:
    """Computes 1 minus the total variation distance of two samples, given their counts."""
    one, other = (each / each.sum() for each in counts)
    return 1.0 - float(np.abs(one - other).sum()) / 2


def _pair_scores(features: Sequence[Feature], sides: Sequence[_Array]) -> pd.DataFrame:
    # Pearson's correlation of each pair, over the rows without a gap in either.
    correlations = [pd.DataFrame(side).corr().to_numpy() for side in sides]
    codes = [_codes(*each) for each in zip(features, *(side.T for side in sides), strict=True)]
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
            counts = [_joint_counts(*both) for both in zip(codes[i], codes[j], strict=True)]
            similar = [_similarity(counts[0], other) for other in counts[1:]]
            measure, values = "Cramér’s V", [_cramers_v(each) for each in counts[:2]]
        found.append((features[i].name, features[j].name, *similar, *values[:2], measure))
    names = ["first", "second", "score", "perfect", "real", "synthetic", "measure"]
    pairs = pd.DataFrame(found, columns=names)
    worst = np.argsort(pairs["score"] - pairs["perfect"], kind="stable")
    return pairs.iloc[worst].reset_index(drop=True)


def _codes(feature: Feature, *sides: _Array) -> list[NDArray[np.int64]]:
    """Codes the cells of one column, the real ones first; a gap has the last code."""
    gap, real = _PAIR_CODES - 1, sides[0]
    if feature.labels is None:
        edges = np.histogram_bin_edges(real[~np.isnan(real)], _PAIR_BINS)[1:-1]
        codes = [np.where(np.isnan(side), gap, np.digitize(side, edges)) for side in sides]
    else:
        codes = [feature.by_frequency(side, real, _PAIR_CODES - 1, gap) for side in sides]
    return [each.astype(np.int64) for each in codes]


def _joint_counts(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """Counts all combinations of two columns' codes, (codes, codes)."""
    counts = np.bincount(first * _PAIR_CODES + second, minlength=_PAIR_CODES**2)
    return counts.reshape(_PAIR_CODES, _PAIR_CODES)


def _cramers_v(counts: NDArray[np.int64]) -> float:
    """Computes Cramér's V, from 0 to 1; NaN where a column has a single code."""
    counts = counts[counts.any(axis=1)][:, counts.any(axis=0)]
    return float(association(counts)) if min(counts.shape) > 1 else float("nan")


def _two_sample(
    features: Sequence[Feature], few: Sequence[_Array], trees: int, generator: np.random.Generator
) -> tuple[float, float, float]:
    """Computes the accuracies of synthetic and of real rows, and the margin of chance."""
    seed = int(generator.integers(2**31))
    size = min(len(few[0]), len(few[1]))
    # At random: a file may be sorted.
    real, *others = (_thinned(side, size, generator) for side in few)
    # Both are compared with the same real rows, with the same folds and trees.
    learner = _boosted(features, size, trees, seed)
    pairs = (_merged(features, [real, other]) for other in others)
    value, perfect = (told_apart(learner, one, other, seed) for one, other in pairs)
    # Both accuracies vary, each with a variance of 1/4 over the number of its 2 * size rows.
    return value, perfect, SURE * float(np.sqrt(0.25 / size))


def _boosted(
    features: Sequence[Feature], num_rows: int, trees: int, seed: int
) -> HistGradientBoostingClassifier:
    return HistGradientBoostingClassifier(
        categorical_features=[feature.labels is not None for feature in features],
        max_iter=trees,
        max_leaf_nodes=15,
        min_samples_leaf=max(2, min(20, num_rows // 20)),
        early_stopping=False,
        random_state=seed,
    )


def _merged(features: Sequence[Feature], sides: Sequence[_Array]) -> list[_Array]:
    """Merges the rarest categories, of all rows: those of one side would tell which side it is."""
    rows = np.concatenate(sides)
    for place, feature in enumerate(features):
        if feature.labels is not None:
            rows[:, place] = feature.by_frequency(rows[:, place], rows[:, place], _MOST_TOLD)
    return np.split(rows, np.cumsum([len(side) for side in sides])[:-1])


def _usefulness(
    features: Sequence[Feature],
    few: Sequence[_Array],
    asked: Sequence[str] | None,
    trees: int,
    generator: np.random.Generator,
) -> pd.DataFrame:
    places = {
        feature.name: place
        for place, feature in enumerate(features)
        if feature.kind != "date"
        and (feature.labels is None or 2 <= len(feature.labels) <= _MOST_CLASSES)
    }
    seed, merged, found = int(generator.integers(2**31)), _merged(features, few), []
    for name in list(places)[-_MOST_TARGETS:] if asked is None else asked:
        if name not in places:
            raise DataError(
                f"column '{name}' cannot be a target; give a number or a column of 2 to "
                f"{_MOST_CLASSES} categories, one of {', '.join(places) or 'none here'}"
            )
        target = places[name]
        sides = [side[~np.isnan(side[:, target])] for side in merged]
        answers = [side[:, target] for side in sides]
        if min(map(len, answers)) < _FEWEST_LEARNED:
            continue
        if features[target].labels is None:
            quarters = np.quantile(answers[0], [0.25, 0.5, 0.75])
            answers = [np.digitize(numbers, quarters).astype(np.float64) for numbers in answers]
        known = np.all([np.isfinite(side).any(axis=0) for side in sides], axis=0)
        others = [place for place in np.flatnonzero(known).tolist() if place != target]
        if np.ptp(answers[0]) == 0 or not others:
            continue
        values = []
        for rows, learned in zip(sides[1:], answers[1:], strict=True):
            learner = _boosted([features[place] for place in others], len(rows), trees, seed)
            learner.fit(rows[:, others], learned)
            values.append(_auc(learner, sides[0][:, others], answers[0]))
        found.append((name, *values))
    return pd.DataFrame(found, columns=["target", "synthetic", "real"])


def _auc(learner: HistGradientBoostingClassifier, tests: _Array, truth: _Array) -> float:
    """Averages the areas under the ROC curves of each category against the others, by frequency."""
    # Trees that have seen a single category give two columns, the first of which counts.
    likely = dict(zip(learner.classes_, learner.predict_proba(tests).T, strict=False))
    # A category that they have never seen is equally likely in all rows.
    names, nowhere = np.unique(truth), np.zeros(len(tests))
    chances = np.column_stack([likely.get(name, nowhere) for name in names])
    return float(roc_auc_score(truth[:, None] == names, chances, average="weighted"))


def _privacy(
    features: Sequence[Feature], rows: Mapping[str, _Array], generator: np.random.Generator
) -> list[tuple[str, str, float, float, float]]:
    sides = [rows[name] for name in ("train", "real", "synthetic")]
    hashed = [pd.util.hash_pandas_object(pd.DataFrame(side), index=False) for side in sides]
    chance, identical = (float(hashes.isin(hashed[0]).mean()) for hashes in hashed[1:])
    size = min(len(sides[0]), len(sides[1]), _MOST_NEAREST)
    sizes = size, size, 2 * _MOST_NEAREST
    few = [_thinned(*each, generator) for each in zip(sides, sizes, strict=True)]
    real = np.concatenate(few[:2])
    own, fresh, drawn = (_embedding(features, side, real) for side in few)
    closest = closest_record(drawn, own, fresh)
    return [
        ("closest", "closest record", closest.value, 0.5, closest.margin),
        ("copies", "identical rows", identical, chance, np.nan),
    ]


def _embedding(features: Sequence[Feature], rows: _Array, real: _Array) -> _Array:
    """Turns rows (n, D) into points (n, d), whose distances measure how much two rows differ.

    Numbers are scored among the real rows (m, D); rare categories beyond 64 of a column share one
    coordinate.
    """
    parts = []
    for feature, cells, known in zip(features, rows.T, real.T, strict=True):
        gaps = np.isnan(cells)
        if feature.labels is None:
            values, counts = np.unique(known[~np.isnan(known)], return_counts=True)
            scores = ndtri((np.cumsum(counts) - counts / 2) / max(counts.sum(), 1))
            # Without a real value, all are in the middle.
            z = np.interp(cells, values, scores) if len(values) else np.zeros(len(cells))
            parts += [np.where(gaps, 0.0, z), np.sqrt(2.0) * gaps]
        else:
            gap = min(len(feature.labels), _MOST_COORDINATES)
            codes = feature.by_frequency(cells, known, _MOST_COORDINATES, gap)
            parts.append(np.eye(gap + 1)[codes.astype(np.int64)])
    return np.column_stack(parts)
