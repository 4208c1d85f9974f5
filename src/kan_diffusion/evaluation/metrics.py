r"""Sample metrics: how far generated points are from fresh real points.

With samples x_1..x_n of P (generated) and y_1..y_m of Q (fresh) and E the mean over all pairs:

- energy distance   D²(P, Q)  = 2 E|x - y| - E|x - x'| - E|y - y'|
- sliced W2         SW2²      = mean over directions u of W2²(u·x, u·y), where in one dimension W2²
                    is the integral of the squared difference of the quantile functions
- C2ST              the accuracy with which a classifier tells x from y on points it has not seen

None of them reaches its ideal value on two finite samples of the same distribution. The score of a
perfect model is therefore measured, not assumed: `real_against_real`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kan_diffusion.errors import (
    DataError,
    KanDiffusionError,
    one_line,
    require_known,
    require_whole,
)
from kan_diffusion.evaluation.effort import EFFORTS, EffortName
from kan_diffusion.imports import find_object

_PAIRS_PER_CHUNK = 1_000_000


def energy_distance(x: Tensor, y: Tensor) -> float:
    """Energy distance between two samples (Székely & Rizzo 2013), as a V-statistic.

    The means E|x - x'| and E|y - y'| include the pairs of a point with itself. That keeps the
    value non-negative, but two samples of n points each from one distribution score about
    2 E|X - X'| / n, not 0: compare with `real_against_real` at the same n.

    Args:
        x: Points, shape (n, d).
        y: Points, shape (m, d).

    Returns:
        2 E|x - y| - E|x - x'| - E|y - y'|, in the unit of the points. SciPy's
        ``energy_distance`` is the square root of it in one dimension.

    Raises:
        DataError: A sample is empty or not finite, or the dimensions differ.
    """
    x, y = _centred_pair(x, y)
    value = 2 * _mean_distance(x, y) - _mean_distance(x, x) - _mean_distance(y, y)
    return max(value, 0.0)


def sliced_wasserstein2(
    x: Tensor, y: Tensor, generator: np.random.Generator | int, num_directions: int = 256
) -> float:
    """Sliced 2-Wasserstein distance (Bonneel et al. 2015) over random directions.

    Args:
        x: Points, shape (n, d).
        y: Points, shape (m, d).
        generator: Draws the directions; a number is taken as a seed.
        num_directions: Number of directions to average over.

    Returns:
        The root of the mean over directions of the squared W2 of the projected points, in the
        unit of the points.

    Raises:
        DataError: A sample is empty or not finite, or the dimensions differ.
        KanDiffusionError: The number of directions is below 1.
    """
    require_whole("num_directions", num_directions)
    x, y = _centred_pair(x, y)
    directions = np.random.default_rng(generator).standard_normal((x.shape[1], num_directions))
    directions /= np.linalg.norm(directions, axis=0)
    first, second = (np.sort(side.numpy() @ directions, axis=0) for side in (x, y))
    # Both quantile functions are constant between levels that are multiples of 1 / n or 1 / m.
    n, m = len(first), len(second)
    levels = np.union1d(m * np.arange(1, n + 1), n * np.arange(1, m + 1))
    widths = np.diff(levels, prepend=0) / (n * m)
    gaps = first[(levels - 1) // m] - second[(levels - 1) // n]
    return float(np.sqrt((widths @ gaps**2).mean()))


def c2st(
    x: Tensor,
    y: Tensor,
    generator: np.random.Generator | int,
    max_points: int = 2_000,
    num_trees: int = EFFORTS["full"].trees,
) -> float:
    """Classifier two-sample test (Lopez-Paz & Oquab 2017): how well a classifier tells x from y.

    The classifier is a forest of extremely randomised trees on one thread. Both sides are
    thinned to the same size, so that guessing scores one half.

    Args:
        x: Points, shape (n, d).
        y: Points, shape (m, d).
        generator: Draws the subsamples, the folds and the trees; a number is taken as a seed.
        max_points: Largest number of points used of each side.
        num_trees: Trees of the forest.

    Returns:
        Cross-validated accuracy: 0.5 if the samples cannot be told apart, 1 if they always can,
        and less than 0.5 where the same points are in both, since the classifier has then seen
        their copies on the other side. With 2,000 points a side its standard deviation is about
        0.01.

    Raises:
        DataError: A sample is not finite or has fewer than 2 points, or the dimensions differ.
        KanDiffusionError: The number of trees is below 1.
    """
    from sklearn.ensemble import ExtraTreesClassifier

    require_whole("num_trees", num_trees)
    x, y = _centred_pair(x, y)
    size = min(len(x), len(y), max_points)
    if size < 2:
        raise DataError("the classifier two-sample test needs at least 2 points a side; give more")
    generator = np.random.default_rng(generator)
    one, other = (
        side[generator.choice(len(side), size, replace=False)] if len(side) > size else side
        for side in (x.numpy(), y.numpy())
    )
    fold_seed, tree_seed = (int(seed) for seed in generator.integers(2**31, size=2))
    classifier = ExtraTreesClassifier(
        num_trees, min_samples_leaf=min(5, max(1, size // 20)), random_state=tree_seed, n_jobs=1
    )
    return cross_validated(classifier, one, other, fold_seed)


def cross_validated(
    classifier: object, x: NDArray[np.float64], y: NDArray[np.float64], seed: int
) -> float:
    """Computes how accurately a classifier tells two samples apart, cross-validated in five folds.

    Args:
        classifier: An unfitted classifier of scikit-learn's.
        x: One sample, shape (n, d).
        y: The other one, shape (m, d).
        seed: Seed of the folds, of which there are fewer when a side has fewer points.

    Returns:
        The mean accuracy over the folds, from 0 to 1; 0.5 is a guess if n = m.
    """
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    folds = StratifiedKFold(min(5, len(x), len(y)), shuffle=True, random_state=seed)
    labels = np.repeat([0, 1], [len(x), len(y)])
    scores = cross_val_score(classifier, np.concatenate((x, y)), labels, cv=folds, n_jobs=1)
    return float(scores.mean())


_COLUMNS = frozenset([
    *("data", "process", "match", "budget", "family", "kind", "name", "model", "seed", "seeds"),
    *("trial", "state", "error", "failed", "stage", "oracle", "parameters", "flops"),
    *("steps", "excess", "excess_se", "heldout_loss", "floor", "nll"),
    *("out_of_range", "train_seconds", "train_cpu_seconds", "sample_seconds"),
])  # fmt: skip
"""Other columns of a study's rows and tables; ``_real`` at the end of a name marks real samples."""


@dataclass(frozen=True)
class Measure:
    """A measure of samples, with its names in rows, tables and sentences.

    Attributes:
        key: Column of a study's rows: a lower-case identifier.
        label: Short name, as in the head of a table.
        better: Whether ``"lower"`` or ``"higher"`` values are better.
        title: Name in a sentence; the label when empty.
        unit: Unit of the value, such as ``"accuracy"``; may be empty.
        group: Title of its table in the terminal.

    Raises:
        KanDiffusionError: The key is no lower-case identifier or that of another column, or
            ``better`` is neither of the two.
    """

    key: str
    label: str
    better: Literal["lower", "higher"]
    title: str = field(default="", kw_only=True)
    unit: str = field(default="", kw_only=True)
    group: str = field(default="samples against fresh data", kw_only=True)

    def __post_init__(self) -> None:
        names = self.key.isidentifier() and self.key.islower()
        if not names or self.key in _COLUMNS or self.key.endswith("_real"):
            raise KanDiffusionError(
                f"metric key '{self.key}' cannot name a column; give lower-case letters, digits "
                "and underscores that name no other column"
            )
        require_known(f"value of better of metric '{self.key}'", self.better, ("lower", "higher"))
        object.__setattr__(self, "title", self.title or self.label)


@dataclass(frozen=True)
class Metric(Measure):
    """A measure of how far two samples are apart.

    Attributes:
        function: Takes generated points (n, d), real points (m, d), both standardised, and a
            generator for whatever it draws; returns the value.
        version: Raised when the function changes, so that models are judged again by it.
    """

    function: Callable[[Tensor, Tensor, np.random.Generator], float]
    version: int = field(default=1, kw_only=True)


_UNIT = "standardised units"
SAMPLE_METRICS: dict[str, Metric] = {
    metric.key: metric
    for metric in (
        Metric(
            "energy",
            "D²",
            "lower",
            lambda x, y, _: energy_distance(x, y),
            title="energy distance",
            unit=_UNIT,
        ),
        Metric("sliced_w2", "SW2", "lower", sliced_wasserstein2, title="sliced W2", unit=_UNIT),
        Metric(
            *("c2st", "C2ST", "lower", c2st), title="classifier two-sample test", unit="accuracy"
        ),
    )
}
"""The metrics that every study measures, by key.

Every entry appears in rows, tables, statistics and the report. A program that adds one must add it
in every process that runs trials: at the top of a script, where the workers of the local executor
see it, too. A study's settings can also name a user's metric as ``"package.module:NAME"``, which
works in every process.
"""


def metrics_named(
    places: Iterable[str] = (), *, importing: bool = False, effort: EffortName = "full"
) -> dict[str, Metric]:
    """Returns `SAMPLE_METRICS` and a caller's own metrics, by key.

    Args:
        places: Places of the caller's metrics, as ``"package.module:NAME"``.
        importing: Whether to import their modules; if not, they must be imported already.
        effort: How much they compute.

    Raises:
        KanDiffusionError: There is no metric at one of the places, or its key is taken.
    """
    metrics = dict(SAMPLE_METRICS)
    if effort == "quick" and "c2st" in metrics:
        fewer = partial(c2st, num_trees=EFFORTS["quick"].trees)
        metrics["c2st"] = replace(metrics["c2st"], function=fewer)
    for place in places:
        metric = find_object(place, "metric", Metric, importing=importing)
        if metrics.setdefault(metric.key, metric) is not metric:
            raise KanDiffusionError(
                f"metric '{place}' has the key '{metric.key}' of another metric; give it another"
            )
    return metrics


def sample_metrics(
    generated: Tensor,
    fresh: Tensor,
    generator: np.random.Generator,
    metrics: Mapping[str, Metric] = SAMPLE_METRICS,
) -> dict[str, float]:
    """Computes metrics between generated and fresh points.

    Args:
        generated: Points drawn from a model, shape (n, d).
        fresh: Real points no model has seen, shape (m, d).
        generator: Source of directions, subsamples, folds and trees.
        metrics: The metrics, by key.

    Returns:
        Values by key.

    Raises:
        DataError: A sample is not finite, or the dimensions differ.
        KanDiffusionError: A metric of a caller's own raises an error, or gives no number.
    """
    # Each metric has a random stream of its own: adding one leaves the others' values unchanged.
    root, values = int(generator.integers(2**63)), dict[str, float]()
    for key, metric in metrics.items():
        stream = np.random.default_rng([root, *key.encode()])
        try:
            values[key] = float(metric.function(generated, fresh, stream))
        except KanDiffusionError:
            raise
        except Exception as error:
            said = f"{type(error).__name__}: {one_line(str(error))}"
            raise KanDiffusionError(f"metric '{key}' gives no number ({said}); mend it") from error
    return values


def real_against_real(
    pairs: Iterable[tuple[Tensor, Tensor]],
    generator: np.random.Generator,
    metrics: Mapping[str, Metric] = SAMPLE_METRICS,
) -> dict[str, float]:
    """Computes the score of a perfect model: every metric between two fresh real samples.

    Args:
        pairs: Pairs of independent real samples, each of the size that models are measured with; at
            least one.
        generator: As in `sample_metrics`.
        metrics: The metrics, by key.

    Returns:
        Means over the pairs, by key.

    Raises:
        DataError: A pair cannot be compared.
    """
    scores = [sample_metrics(*pair, generator, metrics) for pair in pairs]
    return {key: float(np.mean([score[key] for score in scores])) for key in metrics}


def _centred_pair(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Returns both samples in double precision on the CPU, shifted by one vector to the origin.

    No metric changes under a common shift, and distances lose fewer digits near the origin.

    Raises:
        DataError: A sample is empty or not finite, or the dimensions differ.
    """
    x, y = (points.detach().to("cpu", torch.float64) for points in (x, y))
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or 0 in (*x.shape, *y.shape):
        raise DataError(
            f"cannot compare points of shapes {tuple(x.shape)} and {tuple(y.shape)}; "
            "give (n, d) and (m, d) with one d and at least one point each"
        )
    for side, points in (("first", x), ("second", y)):
        broken = int((~points.isfinite().all(dim=1)).sum())
        if broken:
            raise DataError(
                f"{broken} of the {len(points)} points of the {side} sample are not finite; "
                "sample again with more steps, or train again with a lower learning rate"
            )
    centre = y.mean(dim=0)
    return x - centre, y - centre


def _mean_distance(x: Tensor, y: Tensor) -> float:
    """Averages the distances of all pairs, a few rows of their matrix (n, m) at a time."""
    chunks = x.split(max(1, _PAIRS_PER_CHUNK // len(y)))
    mode = "donot_use_mm_for_euclid_dist"  # by matrix products a point is 1e-8 from itself
    total = sum(float(torch.cdist(rows, y, compute_mode=mode).sum()) for rows in chunks)
    return total / (len(x) * len(y))
