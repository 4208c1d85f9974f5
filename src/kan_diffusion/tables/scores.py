r"""Scores of a synthetic table, its quality and its privacy, each beside the score of real rows.

Let R be real rows that no model has seen, S synthetic rows, and T as many rows that the model was
trained on (without them R is halved at random, and T is the other half). :data:`SCORES` says what
each score means; the formulas are

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

Shapes, trends and gaps are those of SDMetrics. C2ST: Lopez-Paz & Oquab 2017. Each score has a
perfect one beside it: that of T, which are real rows, in place of S. For closest records and copies
it is what chance alone gives.

The C2ST of one column alone is the accuracy of the better of a fine and a coarse tree, and a column
gives rows away if chance alone would give none of D columns that much in 95 % of cases: more than
1/2 plus :math:`0.8 + 1.25\,\Phi^{-1}(1 - 0.05 / 2D)` binomial standard deviations. Over 180 pairs
of normal samples of one distribution, with 300 or 1,000 points a side, such accuracies had a mean
of 0.8 and a standard deviation of 1.2 of these.

All tables are coded alike, whichever model made them (:mod:`kan_diffusion.tables.scales`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import rankdata
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.tree import DecisionTreeClassifier

from kan_diffusion.errors import DataError
from kan_diffusion.evaluation.effort import EFFORTS, EffortName
from kan_diffusion.evaluation.metrics import cross_validated
from kan_diffusion.evaluation.privacy import closest_record
from kan_diffusion.tables.files import require_distinct
from kan_diffusion.tables.kinds import Kind, fit_column
from kan_diffusion.tables.scales import Scale, similarity

_Array = NDArray[np.float64]

SURE = 1.96  # standard deviations on either side that hold 95 % of a normal variable
_FEWEST_ROWS = 4  # that can be judged
_FEWEST_LEARNED = 10  # that trees are trained and tested on
_MOST_COMPARED = 20_000  # rows of each side for scores of columns and pairs
_MOST_NEAREST = 5_000  # rows of each side whose nearest records are sought
_MOST_LEARNED = 4_000  # rows of each side for scores that train trees
_MOST_ALONE = 1_000  # rows of each side that single columns tell apart
_ALONE_MEAN, _ALONE_SPREAD = 0.8, 1.25  # of such an accuracy by chance, see above
_MOST_TARGETS = 3
_MOST_CLASSES = 20  # categories of a column that trees predict
_MOST_NAMES = 255  # categories that trees know, and a gap
_PAIR_CODES = 102  # of a column in a pair: 100 categories, all rarer ones, and a gap
_COPIED = 0.9  # share of a column's distinct values


class _Value(NamedTuple):
    """A score, that of real rows, and the margin of chance; NaN for what is not known."""

    value: float
    perfect: float
    margin: float = np.nan


class Score(NamedTuple):
    """A score of a table.

    Attributes:
        label: Its name in tables.
        meaning: What it says, in a few words.
        measure: Computes it, with a random stream of its own; NaN where there is no such score.
    """

    label: str
    meaning: str
    measure: Callable[[TableScores, np.random.Generator], _Value]


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
    frames, reference = {"real": real, "synthetic": synthetic}, "real"
    if train is not None:
        frames["train"], reference = train, "train"
    for which, frame in frames.items():
        if len(frame) < _FEWEST_ROWS:
            raise DataError(
                f"{len(frame)} {which} rows are too few to judge a table by; give at least "
                f"{_FEWEST_ROWS}"
            )
        require_distinct(f"the table of {which} rows", list(frame.columns))
        odd = frame.columns.symmetric_difference(frames[reference].columns, sort=False)
        if len(odd):
            raise DataError(
                f"the {which} and the {reference} rows do not both have column '{odd[0]}'; give "
                "tables with the same columns"
            )
    given = {str(name): kind for name, kind in (kinds or {}).items()}
    columns = [
        fit_column(str(name), cells, given.get(str(name), ""))
        for name, cells in frames[reference].items()
    ]
    random = np.random.default_rng(generator)
    if train is None:
        order = random.permutation(len(real))
        frames |= {"real": real.iloc[order[::2]], "half": real.iloc[order[1::2]]}
    scores = TableScores(columns, frames, random, effort, targets)
    if not scores.scales:
        raise DataError(
            "no column can be judged: all are constant or identifiers; give their kinds"
        )
    return scores


class TableScores:
    """Scores of a synthetic table, see :func:`table_scores`.

    Args:
        kinds: Columns of the tables.
        frames: Tables: ``"real"``, ``"synthetic"``, and for perfect scores ``"train"``, the rows
            that the model was trained on, or the other ``"half"`` of the real ones.
        generator: Source of all randomness.
        effort: How many trees are trained.
        targets: Columns that trees predict; the usual ones when None.

    Attributes:
        scales: How the cells of each column that is judged are compared, by its name.
        left_out: Columns that are not judged: identifiers, and those with one value everywhere.
        copied: Nearly unique columns whose synthetic values are mostly real ones: nine of ten
            training rows have a value of their own, nine of ten synthetic values are among these.
        num_rows: Numbers of real, of synthetic and of training rows (0 where these are not known).
        rows: The judged cells of each table as numbers, shape (n, D), NaN for a gap.
        sides: At most 20,000 real rows, and equally many synthetic and training ones.

    Raises:
        DataError: A column has values that do not fit its kind, or a target cannot be predicted.
    """

    def __init__(
        self,
        kinds: Sequence[Kind],
        frames: Mapping[str, pd.DataFrame],
        generator: np.random.Generator,
        effort: EffortName,
        targets: Sequence[str] | None = None,
    ) -> None:
        self._root = int(generator.integers(2**63))
        self._trees = EFFORTS[effort].trees
        self._kinds = {str(kind.name): kind.kind for kind in kinds}
        self.scales: dict[str, Scale] = {}
        cells, copied = [], []
        for name, kind in zip(self._kinds, kinds, strict=True):
            parts = [_parsed(kind, which, frame) for which, frame in frames.items()]
            if "train" in frames and _is_copied(*(values[~gaps] for values, gaps in parts[1:])):
                copied.append(name)
            values, missing = (np.concatenate(part) for part in zip(*parts, strict=True))
            scale = kind.scale(values[~missing])
            if scale is not None:
                column = np.where(missing, np.nan, scale.numbers(values))
                if len(np.unique(column)) > 1:
                    self.scales[name] = scale
                    cells.append(column)
        self.left_out = tuple(name for name in self._kinds if name not in self.scales)
        self.copied = tuple(copied)
        counts = {which: len(frame) for which, frame in frames.items()}
        table = np.reshape(cells, (len(cells), sum(counts.values()))).T
        tables = np.split(table, np.cumsum([*counts.values()])[:-1])
        self.rows: dict[str, _Array] = dict(zip(frames, tables, strict=True))
        num_real = counts["real"] + counts.get("half", 0)
        self.num_rows = num_real, counts["synthetic"], counts.get("train", 0)
        size = min(_MOST_COMPARED, *(counts[which] for which in frames if which != "real"))
        self.sides = [
            _thinned(rows, _MOST_COMPARED if which == "real" else size, self.stream(which))
            for which, rows in self.rows.items()
        ]
        random = self.stream("few")
        self._few = self._merged([_thinned(side, _MOST_LEARNED, random) for side in self.sides])
        classes = {name: scale.num_classes for name, scale in self.scales.items()}
        known = [name for name, count in classes.items() if 0 < count <= _MOST_CLASSES]
        self._targets = known[-_MOST_TARGETS:] if targets is None else targets
        if unknown := [name for name in self._targets if name not in known]:
            raise DataError(
                f"column '{unknown[0]}' cannot be a target; give a number or a column of 2 to "
                f"{_MOST_CLASSES} categories, one of {', '.join(known) or 'none here'}"
            )

    @property
    def cells(self) -> dict[str, tuple[Scale, _Array, _Array]]:
        """The scale of each judged column, and its real and its synthetic cells, (n,) each."""
        both = zip(self.scales.items(), self.sides[0].T, self.sides[1].T, strict=True)
        return {name: (scale, real, synthetic) for (name, scale), real, synthetic in both}

    def stream(self, key: str) -> np.random.Generator:
        """Returns a random stream of its own: adding a score leaves the others unchanged."""
        return np.random.default_rng([self._root, *key.encode()])

    @cached_property
    def scores(self) -> pd.DataFrame:
        """A row for each of :data:`SCORES` that there is, by its key.

        Columns are ``label``, ``meaning``, ``value``, ``perfect`` (what real rows score, or what
        chance gives) and ``margin``, half the width of the interval around ``perfect`` that holds
        the score by chance alone in about 95 % of cases; NaN where that is not known.
        """
        rows = {
            key: (label, meaning, *measure(self, self.stream(key)))
            for key, (label, meaning, measure) in SCORES.items()
        }
        names = ["label", "meaning", "value", "perfect", "margin"]
        # Without a gap, a pair or a target there is no such score.
        return pd.DataFrame.from_dict(rows, "index", columns=names).dropna(subset="value")

    @cached_property
    def columns(self) -> pd.DataFrame:
        """A row for each column that is judged, that which gives most rows away first.

        Columns are ``name``, ``kind``, ``c2st`` of it alone (0.5 is a guess), ``shape`` (similarity
        of its values, 0 to 1), ``perfect`` (that of real rows), and ``real_gaps`` and
        ``synthetic_gaps`` (shares, 0 to 1).
        """
        rows = []
        for place, (name, scale) in enumerate(self.scales.items()):
            sides = [side[:, place] for side in self.sides]
            real, *others = (cells[~np.isnan(cells)] for cells in sides)
            similar = [
                scale.similarity(real, other)
                if len(real) and len(other)
                else float(len(real) == len(other))
                for other in others
            ]
            gaps = [np.isnan(cells).mean() for cells in sides[:2]]
            rows.append((name, self._kinds[name], self._alone[0][place], *similar, *gaps))
        names = ["name", "kind", "c2st", "shape", "perfect", "real_gaps", "synthetic_gaps"]
        columns = pd.DataFrame(rows, columns=names)
        return columns.sort_values("c2st", ascending=False, kind="stable")

    @cached_property
    def c2st(self) -> _Value:
        """Accuracies of trees that tell synthetic and training rows from real ones."""
        random = self.stream("c2st")
        seed = int(random.integers(2**31))
        size = min(len(self._few[0]), len(self._few[1]))
        if not self.scales:
            return _Value(0.5, 0.5)
        # At random: a file may be sorted.
        real, *others = (_thinned(side, size, random) for side in self._few)
        # Both are compared with the same real rows, with the same folds and trees.
        learner = self._boosted(range(len(self.scales)), size, seed)
        values = [cross_validated(learner, real, other, seed) for other in others]
        # Both accuracies vary, each with a variance of 1/4 over the number of its 2 * size rows.
        perfect = values[1] if len(values) > 1 else np.nan
        return _Value(values[0], perfect, SURE * float(np.sqrt(0.25 / size)))

    @cached_property
    def _alone(self) -> tuple[_Array, float]:
        """C2ST of each column by itself, shape (D,), and what chance alone keeps them below."""
        num = min(len(self._few[0]), len(self._few[1]), _MOST_ALONE)
        random = self.stream("alone")
        sides = [_thinned(side, num, random) for side in self._few[:2]]
        learners = [
            DecisionTreeClassifier(min_samples_leaf=max(2, num // part), random_state=0)
            for part in (100, 10)
        ]
        # Trees compute in float32, which has neither the range nor the digits of all cells.
        ranks = rankdata(np.concatenate(sides), "dense", axis=0, nan_policy="omit")
        alone = [
            max(cross_validated(tree, real, drawn, 0) for tree in learners)
            for real, drawn in (np.split(column, 2) for column in ranks.T[:, :, None])
        ]
        sure = -ndtri(0.025 / max(len(self.scales), 1))
        chance = 0.5 + (_ALONE_MEAN + _ALONE_SPREAD * sure) * np.sqrt(0.125 / num)
        return np.array(alone), chance

    @property
    def telling(self) -> tuple[str, ...]:
        """Columns that give synthetic rows away by themselves, more than chance does."""
        alone, chance = self._alone
        return tuple(np.array([*self.scales], object)[alone > chance])

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """A row for each pair of columns, the worst first.

        Columns are ``first``, ``second``, ``score`` (similarity, 0 to 1), ``perfect`` (that of real
        rows), and ``real`` and ``synthetic``, the correlations of two numbers or dates.
        """
        # Pearson's correlation of each pair, over the rows without a gap in either.
        correlations = np.array([pd.DataFrame(side).corr().to_numpy() for side in self.sides])
        scales, columns = [*self.scales.values()], [side.T for side in self.sides]
        codes = [
            [scale.codes(cells, sides[0], _PAIR_CODES) for cells in sides]
            for scale, *sides in zip(scales, *columns, strict=True)
        ]
        rows = []
        for (i, one), (j, other) in combinations(enumerate(self.scales), 2):
            known = np.full(len(self.sides), np.nan)
            if scales[i].is_named or scales[j].is_named:
                both = zip(codes[i], codes[j], strict=True)
                joint = [first * _PAIR_CODES + second for first, second in both]
                real, *others = (np.bincount(each, minlength=_PAIR_CODES**2) for each in joint)
                similar = [similarity(real, each) for each in others]
            elif np.isnan(correlations[0, i, j]):
                continue
            else:
                # A column without spread has no correlation: it counts as 0.
                known = correlations[:, i, j]
                similar = (1 - np.abs(np.nan_to_num(known[1:]) - known[0]) / 2).tolist()
            rows.append((one, other, *similar, *known[:2]))
        names = ["first", "second", "score", "perfect", "real", "synthetic"]
        pairs = pd.DataFrame(rows, columns=names)
        worst = np.argsort(pairs["score"] - pairs["perfect"], kind="stable")
        return pairs.iloc[worst].reset_index(drop=True)

    @cached_property
    def usefulness(self) -> pd.DataFrame:
        """A row for each ``target`` that trees predict.

        It has the AUC, 0 to 1, after training on ``synthetic`` and on as many ``real`` rows.
        """
        names, rows = [*self.scales], []
        seed = int(self.stream("usefulness").integers(2**31))
        for name in self._targets:
            target = names.index(name)
            sides = [side[~np.isnan(side[:, target])] for side in self._few]
            answers = [side[:, target] for side in sides]
            if min(map(len, answers)) < _FEWEST_LEARNED:
                continue
            if not self.scales[name].is_named:
                quarters = np.quantile(answers[0], [0.25, 0.5, 0.75])
                answers = [np.digitize(numbers, quarters).astype(np.float64) for numbers in answers]
            known = np.all([np.isfinite(side).any(axis=0) for side in sides], axis=0)
            others = [place for place in np.flatnonzero(known).tolist() if place != target]
            if np.ptp(answers[0]) == 0 or not others:
                continue
            areas = []
            for learned, truth in zip(sides[1:], answers[1:], strict=True):
                learner = self._boosted(others, len(learned), seed).fit(learned[:, others], truth)
                areas.append(_area(learner, sides[0][:, others], answers[0]))
            rows.append((name, *areas))
        return pd.DataFrame(rows, columns=["target", "synthetic", "real"])

    def _boosted(
        self, places: Sequence[int], num_rows: int, seed: int
    ) -> HistGradientBoostingClassifier:
        """Makes an unfitted classifier of the columns at some places."""
        named = [scale.is_named for scale in self.scales.values()]
        return HistGradientBoostingClassifier(
            categorical_features=[named[place] for place in places],
            max_iter=self._trees,
            max_leaf_nodes=15,
            min_samples_leaf=max(2, min(20, num_rows // 20)),
            early_stopping=False,
            random_state=seed,
        )

    def _merged(self, sides: Sequence[_Array]) -> list[_Array]:
        """Merges the rarest categories, of all rows: those of one side would tell which it is."""
        rows = np.concatenate(sides)
        for place, scale in enumerate(self.scales.values()):
            if scale.is_named:
                cells = rows[:, place]
                codes = scale.codes(cells, cells, _MOST_NAMES).astype(np.float64)
                rows[:, place] = np.where(np.isnan(cells), np.nan, codes)
        return np.split(rows, np.cumsum([len(side) for side in sides])[:-1])


def _parsed(kind: Kind, which: str, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Reads a column of one of the tables."""
    cells = next(frame[name] for name in frame if str(name) == str(kind.name))
    try:
        return kind.parse(cells)
    except DataError as error:
        raise DataError(f"of the {which} rows, {error}") from error


def _is_copied(synthetic: np.ndarray, train: np.ndarray) -> bool:
    """Whether values are nearly unique in training, and synthetic ones mostly among them."""
    known, drawn = pd.Series(train), pd.Series(synthetic).drop_duplicates()
    unique = len(known) and known.nunique() >= _COPIED * len(known)
    return bool(unique and len(drawn) and drawn.isin(known).mean() >= _COPIED)


def _thinned(rows: _Array, size: int, generator: np.random.Generator) -> _Array:
    if len(rows) <= size:
        return rows
    return rows[np.sort(generator.choice(len(rows), size, replace=False))]


def _area(learner: HistGradientBoostingClassifier, tests: _Array, truth: _Array) -> float:
    """Averages the areas under the ROC curves of each category against the others, by frequency."""
    # Trees that have seen a single category give two columns, the first of which counts.
    likely = dict(zip(learner.classes_, learner.predict_proba(tests).T, strict=False))
    # A category that they have never seen is equally likely in all rows.
    names, nowhere = np.unique(truth), np.zeros(len(tests))
    chances = np.column_stack([likely.get(name, nowhere) for name in names])
    return float(roc_auc_score(truth[:, None] == names, chances, average="weighted"))


def _means(frame: str, value: str, perfect: str) -> Callable[..., _Value]:
    """Makes a score of the means of two columns of a frame."""
    return lambda judged, _: _Value(*getattr(judged, frame)[[value, perfect]].mean())


def _gaps(judged: TableScores, _: np.random.Generator) -> _Value:
    gaps = np.array([np.isnan(side).mean(axis=0) for side in judged.sides])
    apart = np.abs(gaps[1:] - gaps[0])[:, gaps.any(axis=0)]
    return _Value(*(1 - apart.mean(axis=1))) if apart.size else _Value(np.nan, np.nan)


def _closest(judged: TableScores, generator: np.random.Generator) -> _Value:
    """Computes the share of synthetic rows nearer to training rows than to as many real ones."""
    if "train" not in judged.rows:
        return _Value(np.nan, 0.5)
    sides = [judged.rows[which] for which in ("train", "real", "synthetic")]
    size = min(len(sides[0]), len(sides[1]), _MOST_NEAREST)
    sizes = size, size, 2 * _MOST_NEAREST
    few = [_thinned(*each, generator) for each in zip(sides, sizes, strict=True)]
    real = np.concatenate(few[:2])
    learned, fresh, drawn = (
        np.column_stack([
            scale.points(*cells)
            for scale, *cells in zip(judged.scales.values(), side.T, real.T, strict=True)
        ])
        for side in few
    )  # fmt: skip
    closest = closest_record(drawn, learned, fresh)
    return _Value(closest.value, 0.5, closest.margin)


def _copies(judged: TableScores, _: np.random.Generator) -> _Value:
    if "train" not in judged.rows:
        return _Value(np.nan, np.nan)
    tables = (pd.DataFrame(judged.rows[which]) for which in ("train", "real", "synthetic"))
    train, *others = (pd.util.hash_pandas_object(table, index=False) for table in tables)
    chance, identical = (float(hashes.isin(train).mean()) for hashes in others)
    return _Value(identical, chance)


SCORES: dict[str, Score] = {
    "shapes": Score(
        "column shapes",
        "each column for itself: 1 is the same distribution",
        _means("columns", "shape", "perfect"),
    ),
    "gaps": Score("gaps", "share of gaps in each column: 1 is the same", _gaps),
    "trends": Score(
        "pair trends",
        "each pair of columns: 1 is the same dependence",
        _means("pairs", "score", "perfect"),
    ),
    "c2st": Score(
        "C2ST",
        "how often trees tell synthetic rows from real ones: 0.5 is a guess",
        lambda judged, _: judged.c2st,
    ),
    "usefulness": Score(
        "usefulness",
        "AUC of trees trained on synthetic rows that predict real ones: 0.5 is a guess",
        _means("usefulness", "synthetic", "real"),
    ),
    "closest": Score(
        "closest record",
        "share of synthetic rows nearer to a training row than to a held-out one",
        _closest,
    ),
    "copies": Score(
        "identical rows",
        "share of synthetic rows that are a training row, cell by cell",
        _copies,
    ),
}
"""The scores of a table by key, in the order in which they are shown.

A row of :class:`TableScores` is the same for page, terminal and JSON
(``scores.scores.to_json(orient="index")``); an entry of one's own is shown like the others.
"""
