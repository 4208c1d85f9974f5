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
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kan_diffusion import DiffusionEstimator
from kan_diffusion.randomness import numpy_generator, stream_seed
from tables.plain import Plain
from tables.sources import Split

__all__ = [
    "GENERATORS",
    "OURS",
    "REFERENCE",
    "Generator",
    "Independent",
    "Mixture",
    "Ours",
    "Smote",
]


class Generator(Protocol):
    """A method that makes synthetic rows."""

    held: str = ""
    """How much it was trained, once it is fitted."""

    def fit(self, split: Split, seconds: float, seed: int) -> None:
        """Learns from the training rows of a split, for at most about ``seconds`` of one core."""

    def sample(self, num: int, seed: int) -> pd.DataFrame:
        """Draws rows with the columns and dtypes of the training rows."""


class Ours(Generator):
    """The estimator of this project.

    Args:
        family: Its family.
        params: Largest number of parameters; as many as suit the table when None.
    """

    def __init__(self, family: str, params: int | None = None) -> None:
        self.family = family
        self.params = params

    def fit(self, split: Split, seconds: float, seed: int) -> None:
        """Trains until all steps are taken, the held-out loss stays, or the time is over."""
        self.model = DiffusionEstimator(
            self.family, params=self.params, max_seconds=seconds, random_state=seed
        )
        self.model.fit(split.train)
        parameters, steps = self.model.n_parameters_, len(self.model.loss_curve_)
        self.held = f"{parameters:,} parameters, {steps:,} steps"

    def sample(self, num: int, seed: int) -> pd.DataFrame:
        """Draws rows with the estimator's own number of steps."""
        frame: pd.DataFrame = self.model.sample(num, random_state=seed)
        return frame

    def impute(self, frame: pd.DataFrame, draws: int) -> list[pd.DataFrame]:
        """Fills gaps several times."""
        filled: list[pd.DataFrame] = self.model.impute(frame, draws=draws)
        return filled


class Rows(Generator):
    """Training rows themselves."""

    held = "no training"

    def fit(self, split: Split, seconds: float, seed: int) -> None:
        """Keeps the rows."""
        self._rows = split.train

    def sample(self, num: int, seed: int) -> pd.DataFrame:
        """Draws training rows, each at most once where there are enough."""
        order = numpy_generator("rows", seed).choice(
            len(self._rows), num, replace=num > len(self._rows)
        )
        return self._rows.iloc[order].reset_index(drop=True)


class Smote(Generator):
    """Interpolation between near rows."""

    held = "no training"
    neighbours = 5

    def fit(self, split: Split, seconds: float, seed: int) -> None:
        """Finds the nearest rows of each row, among those of its class where there are classes.

        Distances are Euclidean between standardised numbers and one-hot codes over √2, so that two
        rows that differ in one category are 1 apart in it.
        """
        from sklearn.neighbors import NearestNeighbors

        self._plain = Plain.of(split.train)
        self._rows = self._plain.write(split.train)
        codes = list(self._plain.counts)
        numbers = self._rows.drop(columns=codes)
        spread = numbers.std(ddof=0)
        standardised = (numbers - numbers.mean()) / spread.where(spread > 0, 1.0)
        hot = [np.eye(self._plain.counts[name])[self._rows[name]] / np.sqrt(2) for name in codes]
        points = np.concatenate([standardised.to_numpy(), *hot], axis=1)
        groups = np.zeros(len(points), int)
        if split.task == "classification":
            groups = self._rows[split.target].to_numpy()
        # A class of one row has no neighbour but itself.
        self._near: list[NDArray[np.int64]] = [np.array([row]) for row in range(len(points))]
        for group in np.unique(groups):
            (members,) = np.nonzero(groups == group)
            if len(members) > 1:
                search = NearestNeighbors(n_neighbors=min(self.neighbours, len(members) - 1))
                for row, near in zip(
                    members, search.fit(points[members]).kneighbors()[1], strict=True
                ):
                    self._near[row] = members[near]

    def sample(self, num: int, seed: int) -> pd.DataFrame:
        """Draws a row and one of its neighbours for each row, and a place between them."""
        rng = numpy_generator("smote", seed)
        first = rng.integers(len(self._rows), size=num)
        second = np.array([rng.choice(self._near[row]) for row in first])
        share = rng.random(num)
        made = {}
        for name, column in self._rows.items():
            one, other = column.to_numpy()[first], column.to_numpy()[second]
            if name in self._plain.counts:
                made[name] = np.where(rng.random(num) < share, other, one)
            else:
                made[name] = one + share * (other - one)
        return self._plain.read(pd.DataFrame(made))


class Independent(Generator):
    """Columns without any dependence."""

    held = "no training"

    def fit(self, split: Split, seconds: float, seed: int) -> None:
        """Keeps the rows."""
        self._rows = split.train

    def sample(self, num: int, seed: int) -> pd.DataFrame:
        """Draws each cell from its column."""
        rng = numpy_generator("independent", seed)
        places = rng.integers(len(self._rows), size=(self._rows.shape[1], num))
        cells = zip(self._rows.items(), places, strict=True)
        return pd.DataFrame({name: column.array[place] for (name, column), place in cells})


class Mixture(Generator):
    """A mixture of products."""

    most = 1_000
    rows_a_cluster = 20

    def fit(self, split: Split, seconds: float, seed: int) -> None:
        """Clusters rows: numbers as normal scores, codes one-hot, both of about unit variance."""
        from sklearn.cluster import MiniBatchKMeans
        from sklearn.preprocessing import QuantileTransformer

        self._plain = Plain.of(split.train)
        rows = self._plain.write(split.train)
        self._codes = self._plain.counts
        self._numbers = [name for name in rows if name not in self._codes]
        parts = [np.eye(count)[rows[name]] for name, count in self._codes.items()]
        if self._numbers:
            quantiles = min(1_000, len(rows))
            self._map = QuantileTransformer(n_quantiles=quantiles, output_distribution="normal")
            scores = self._map.fit_transform(rows[self._numbers].to_numpy())
            self._scores = scores
            parts.append(scores)
        count = max(1, min(self.most, len(rows) // self.rows_a_cluster))
        random_state = stream_seed("mixture", seed) % 2**32
        model = MiniBatchKMeans(count, n_init=1, random_state=random_state)
        self._clusters = model.fit_predict(np.concatenate(parts, axis=1))
        self._rows = rows
        self.held = f"{count:,} clusters"

    def sample(self, num: int, seed: int) -> pd.DataFrame:
        """Draws a cluster by its share, then each cell by itself."""
        rng = numpy_generator("mixture rows", seed)
        drawn = np.sort(rng.choice(self._clusters, num))
        made = {name: np.empty(num) for name in self._rows}
        for cluster in np.unique(drawn):
            (members,) = np.nonzero(self._clusters == cluster)
            asked = np.flatnonzero(drawn == cluster)
            for name in self._codes:
                made[name][asked] = self._rows[name].to_numpy()[rng.choice(members, len(asked))]
            if self._numbers:
                scores = self._scores[members]
                noise = rng.normal(size=(len(asked), scores.shape[1]))
                drawn_scores = scores.mean(axis=0) + scores.std(axis=0) * noise
                for name, cells in zip(
                    self._numbers, self._map.inverse_transform(drawn_scores).T, strict=True
                ):
                    made[name][asked] = cells
        return self._plain.read(pd.DataFrame(made))


OURS = ("kan", "gated-mlp", "mlp")
"""Families of this project that are compared, with as many parameters."""

REFERENCE = "rows"

GENERATORS: dict[str, Callable[[], Generator]] = {
    **{family: lambda family=family: Ours(family) for family in OURS},
    "smote": Smote,
    "mixture": Mixture,
    "independent": Independent,
    REFERENCE: Rows,
}
"""Methods by name."""
