r"""Generators of synthetic rows: this project's estimator and baselines.

- kan, gated-mlp, mlp  ``DiffusionEstimator(max_seconds=…)``, each of the size the data give, which
                       is the same for all, or of one that is asked for
- smote                x = a + λ (b - a), with a row a, one b of its five nearest rows of the same
                       class and λ uniform on [0, 1]; a code is taken from b with probability λ; no
                       training (Chawla et al. 2002; the strong simple baseline of TabDDPM,
                       arXiv:2209.15421)
- mixture              a mixture of products: a Gaussian and shares of codes for each column in each
                       of up to 1,000 clusters, numbers as normal scores, by k-means
- independent          each column by itself: cells of the training rows, shuffled

``rows`` gives training rows back: nothing is more faithful, and every row is a copy.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kan_diffusion import DiffusionEstimator
from kan_diffusion.randomness import numpy_generator, stream_seed
from tables.gaps import Fill
from tables.plain import plain
from tables.sources import Split

_NEIGHBOURS = 5
_MOST_CLUSTERS, _ROWS_A_CLUSTER = 1_000, 20


class Fitted(NamedTuple):
    """A method that has learned from rows.

    Attributes:
        held: How much it was trained.
        sample: Draws so many rows with a seed, with the columns and dtypes of the training rows.
        fill: Fills gaps; None where it cannot.
    """

    held: str
    sample: Callable[[int, int], pd.DataFrame]
    fill: Fill | None = None


def estimator(
    family: str, split: Split, seed: int, seconds: float = np.inf, params: int | None = None
) -> Fitted:
    """Trains the estimator of this project.

    Args:
        family: Its family.
        split: The rows.
        seed: Seed of the training.
        seconds: Seconds of one core that it may take.
        params: Largest number of parameters; as many as suit the table when None.
    """
    model = DiffusionEstimator(family, params=params, max_seconds=seconds, random_state=seed)
    model.fit(split.train)
    return Fitted(
        f"{model.n_parameters_:,} parameters, {len(model.loss_curve_):,} steps",
        lambda num, seed: model.sample(num, random_state=seed),
        lambda frame, draws: model.impute(frame, draws=draws),
    )


def _rows(split: Split, seed: int, **_: object) -> Fitted:
    """Gives training rows, each at most once where there are enough."""

    def sample(num: int, seed: int) -> pd.DataFrame:
        count = len(split.train)
        order = numpy_generator("rows", seed).choice(count, num, replace=num > count)
        return split.train.iloc[order].reset_index(drop=True)

    return Fitted("no training", sample)


def smote(split: Split, seed: int, **_: object) -> Fitted:
    """Finds the nearest rows of each row, among those of its class where there are classes.

    Distances are Euclidean between standardised numbers and one-hot codes over √2, so that two rows
    that differ in one category are 1 apart in it. A row is drawn between a row and a near one.
    """
    from sklearn.neighbors import NearestNeighbors

    rows, codes, read = plain(split.train)
    numbers = rows.drop(columns=list(codes))
    spread = numbers.std(ddof=0)
    standardised = (numbers - numbers.mean()) / spread.where(spread > 0, 1.0)
    hot = [np.eye(count)[rows[name]] / np.sqrt(2) for name, count in codes.items()]
    points = np.concatenate([standardised.to_numpy(), *hot], axis=1)
    groups = np.zeros(len(points), int)
    if split.task == "classification":
        groups = rows[split.target].to_numpy()
    # A class of one row has no neighbour but itself.
    near: list[NDArray[np.int64]] = [np.array([row]) for row in range(len(points))]
    for group in np.unique(groups):
        (members,) = np.nonzero(groups == group)
        if len(members) > 1:
            search = NearestNeighbors(n_neighbors=min(_NEIGHBOURS, len(members) - 1))
            found = search.fit(points[members]).kneighbors()[1]
            for row, others in zip(members, found, strict=True):
                near[row] = members[others]

    def sample(num: int, seed: int) -> pd.DataFrame:
        rng = numpy_generator("smote", seed)
        first = rng.integers(len(rows), size=num)
        second = np.array([rng.choice(near[row]) for row in first])
        share, made = rng.random(num), {}
        for name, column in rows.items():
            one, other = column.to_numpy()[first], column.to_numpy()[second]
            if name in codes:
                made[name] = np.where(rng.random(num) < share, other, one)
            else:
                made[name] = one + share * (other - one)
        return read(pd.DataFrame(made))

    return Fitted("no training", sample)


def independent(split: Split, seed: int, **_: object) -> Fitted:
    """Draws each cell from its column."""

    def sample(num: int, seed: int) -> pd.DataFrame:
        rng = numpy_generator("independent", seed)
        places = rng.integers(len(split.train), size=(split.train.shape[1], num))
        cells = zip(split.train.items(), places, strict=True)
        return pd.DataFrame({name: column.array[place] for (name, column), place in cells})

    return Fitted("no training", sample)


def mixture(split: Split, seed: int, **_: object) -> Fitted:
    """Clusters rows: numbers as normal scores, codes one-hot, both of about unit variance.

    A row is of a cluster by its share, and each cell is drawn by itself.
    """
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.preprocessing import QuantileTransformer

    rows, codes, read = plain(split.train)
    numbers = [name for name in rows if name not in codes]
    parts = [np.eye(count)[rows[name]] for name, count in codes.items()]
    scores = np.zeros((len(rows), 0))
    if numbers:
        quantiles = min(1_000, len(rows))
        scale = QuantileTransformer(n_quantiles=quantiles, output_distribution="normal")
        scores = scale.fit_transform(rows[numbers].to_numpy())
    count = max(1, min(_MOST_CLUSTERS, len(rows) // _ROWS_A_CLUSTER))
    random_state = stream_seed("mixture", seed) % 2**32
    model = MiniBatchKMeans(count, n_init=1, random_state=random_state)
    clusters = model.fit_predict(np.concatenate([*parts, scores], axis=1))

    def sample(num: int, seed: int) -> pd.DataFrame:
        rng = numpy_generator("mixture rows", seed)
        drawn = np.sort(rng.choice(clusters, num))
        made = {name: np.empty(num) for name in rows}
        for cluster in np.unique(drawn):
            (members,), asked = np.nonzero(clusters == cluster), np.flatnonzero(drawn == cluster)
            for name in codes:
                made[name][asked] = rows[name].to_numpy()[rng.choice(members, len(asked))]
            if numbers:
                of_cluster = scores[members]
                noise = rng.normal(size=(len(asked), len(numbers)))
                cells = of_cluster.mean(axis=0) + of_cluster.std(axis=0) * noise
                for name, column in zip(numbers, scale.inverse_transform(cells).T, strict=True):
                    made[name][asked] = column
        return read(pd.DataFrame(made))

    return Fitted(f"{count:,} clusters", sample)


REFERENCE = "rows"

GENERATORS: dict[str, Callable[..., Fitted]] = {
    **{family: partial(estimator, family) for family in ("kan", "gated-mlp", "mlp")},
    "smote": smote,
    "mixture": mixture,
    "independent": independent,
    REFERENCE: _rows,
}
"""Methods by name, fitted to a split with a seed, seconds of one core and a number of parameters;
families of this project have as many."""
