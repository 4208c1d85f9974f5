r"""Nearest records: are generated samples copies of training samples?

With d(x, A) the distance of x to its nearest sample of A, and equally many training samples T and
held-out samples H, the share of closest records is

    P(d(s, T) < d(s, H)) + P(d(s, T) = d(s, H)) / 2

over generated samples s. If T and H are a random split of their union U of 2m samples, it has the
mean 1/2 and, with w_u the share of generated samples whose nearest one of U is u, the variance

    m / (2 (2m - 1)) · Σ (w_u - 1 / 2m)².

It is that of Platzer & Reutterer 2021 (arXiv:2104.00635).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_Array = NDArray[np.float64]


class Share(NamedTuple):
    """A share that is one half by chance.

    Attributes:
        value: From 0 to 1.
        margin: Half the width of the interval around 1/2 that holds 95 % of values by chance.
    """

    value: float
    margin: float


class Copies(NamedTuple):
    """How near generated samples are to training samples, beside held-out real ones.

    Attributes:
        nearest: Median distance of a generated sample to the nearest training sample.
        nearest_real: The same of held-out samples, which copy nothing.
        closest: Share of generated samples nearer to a training sample than to any held-out one,
            among equally many of both; above 1/2 plus its margin there are copies.
    """

    nearest: float
    nearest_real: float
    closest: Share


def nearest(rows: _Array, others: _Array) -> tuple[NDArray[np.int64], _Array]:
    """Finds the nearest one of ``others`` to each row.

    Args:
        rows: Shape (n, d).
        others: Shape (m, d).

    Returns:
        Indices in ``others``, shape (n,), and distances, shape (n,).
    """
    from sklearn.neighbors import NearestNeighbors

    known = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(others)
    places = known.kneighbors(rows, return_distance=False)[:, 0]
    # Differences of close rows are exact to the last digits: copies are at distance 0.
    return places, np.linalg.norm(rows - others[places], axis=1)


def closest_record(generated: _Array, train: _Array, heldout: _Array) -> Share:
    """Computes the share of generated samples nearer to a training sample than to a held-out one.

    Args:
        generated: Shape (n, d).
        train: Training samples, shape (m, d).
        heldout: As many held-out samples.

    Returns:
        The share, in which samples equally near to both count half.
    """
    size, count = len(train), len(generated)
    at_train, to_train = nearest(generated, train)
    at_heldout, to_heldout = nearest(generated, heldout)
    nearer = (1 + np.sign(to_heldout - to_train)) / 2
    weights = np.bincount(at_train, nearer, size), np.bincount(at_heldout, 1 - nearer, size)
    squares = ((np.concatenate(weights) / count - 1 / (2 * size)) ** 2).sum()
    spread = float(np.sqrt(size / (2 * (2 * size - 1)) * squares))
    return Share(float(nearer.mean()), 1.96 * spread)  # 95 % of a normal variable


def copies(
    generated: _Array, train: _Array, heldout: _Array, generator: np.random.Generator
) -> Copies:
    """Measures whether generated samples are copies of training samples.

    Args:
        generated: Shape (n, d); pictures are rounded to the values that are shown.
        train: Training samples, shape (m, d).
        heldout: Held-out samples, shape (k, d); at most m are taken.
        generator: Draws as many training samples as there are held-out ones for ``closest``.
    """
    heldout = heldout[: len(train)]
    drawn, real = (float(np.median(nearest(rows, train)[1])) for rows in (generated, heldout))
    some = generator.choice(len(train), len(heldout), replace=False)
    return Copies(drawn, real, closest_record(generated, train[some], heldout))
