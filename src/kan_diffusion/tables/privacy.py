r"""Closeness of synthetic rows to real ones: do both lie in the same places, and are there copies?

Let d(x, A) be the distance of x to its nearest row of A, q(x; A) the share of A that is nearer to
A's centre than x is, and F the distribution function:

- α-precision   1 - 2 ∫ |F(α) - α| dα of q(s; R) over synthetic rows s
- β-recall      1 - 2 ∫ |F(β) - β| dβ of q(s; S) with s the synthetic row nearest to a real row r,
                or infinity where d(r, S) > d(r, R without r), over real rows r
- closest       P(d(s, T) < d(s, H)) + P(d(s, T) = d(s, H)) / 2 over synthetic rows s, with
                equally many training rows T and held-out rows H
- membership    P(d(t, S) < d(h, S)) + P(d(t, S) = d(h, S)) / 2 over training rows t and held-out h

If T and H are a random split of their union U of 2m rows, the share of closest records has
the mean 1/2 and, with w_u the share of synthetic rows whose nearest row of U is u, the variance

    m / (2 (2m - 1)) · Σ (w_u - 1 / 2m)²,

and membership has the mean 1/2 and the variance (2m + 1) / (12 m²) (Mann & Whitney 1947).

α-precision and β-recall are those of Alaa et al. 2022 (arXiv:2102.08921); a real row's
neighbourhood reaches to its nearest other real row. Closest: Platzer & Reutterer 2021
(arXiv:2104.00635). Membership: the attack of GAN-Leaks on samples alone (Chen et al. 2020,
arXiv:1909.03935).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Copies",
    "Share",
    "closest_record",
    "copies",
    "membership",
    "nearest",
    "precision_and_recall",
]

_Array = NDArray[np.float64]

_SURE = 1.96
"""Standard deviations on either side that hold 95 % of a normal variable."""


@dataclass(frozen=True)
class Share:
    """A share that is one half by chance.

    Attributes:
        value: From 0 to 1.
        margin: Half the width of the interval around 1/2 that holds 95 % of values by chance.
    """

    value: float
    margin: float


@dataclass(frozen=True)
class Copies:
    """How near generated samples are to training samples, beside held-out real ones.

    Attributes:
        nearest: Median distance of a generated sample to the nearest training sample.
        nearest_real: The same of held-out samples, which copy nothing.
        identical: Share of generated samples that are a training sample.
        identical_real: The same of held-out samples; data may hold repetitions.
        closest: Share of generated samples nearer to a training sample than to any held-out one,
            among equally many of both; above 1/2 plus its margin there are copies.
    """

    nearest: float
    nearest_real: float
    identical: float
    identical_real: float
    closest: Share


def nearest(rows: _Array, others: _Array, itself: bool = False) -> tuple[NDArray[np.int64], _Array]:
    """Finds the nearest one of ``others`` to each row.

    Args:
        rows: Shape (n, d).
        others: Shape (m, d).
        itself: Whether ``others`` is ``rows``; no row is then its own nearest.

    Returns:
        Indices in ``others``, shape (n,), and distances, shape (n,).
    """
    from sklearn.neighbors import NearestNeighbors

    known = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(others)
    places = known.kneighbors(None if itself else rows, return_distance=False)[:, 0]
    # Differences of close rows are exact to the last digits: copies are at distance 0.
    return places, np.linalg.norm(rows - others[places], axis=1)


def precision_and_recall(real: _Array, synthetic: _Array) -> tuple[float, float]:
    """Computes α-precision and β-recall.

    Args:
        real: Real rows, shape (n, d).
        synthetic: As many synthetic rows; with more, real rows would have nearer neighbours.

    Returns:
        α-precision, from 0 to 1, and β-recall; a perfect model has about 1 and 1/2.
    """
    _, among = nearest(real, real, itself=True)
    neighbours, distances = nearest(real, synthetic)
    levels = np.where(distances <= among, _quantiles(synthetic, synthetic)[neighbours], np.inf)
    return _agreement(_quantiles(real, synthetic)), _agreement(levels)


def _quantiles(rows: _Array, others: _Array) -> _Array:
    """Computes the share of ``rows`` nearer to their centre than each of ``others``, (m,)."""
    centre = rows.mean(axis=0)
    radii = np.sort(np.linalg.norm(rows - centre, axis=1))
    far = np.linalg.norm(others - centre, axis=1)
    # Rows that are as near count half.
    sides = [np.searchsorted(radii, far, side=side) for side in ("left", "right")]
    return (sides[0] + sides[1]) / (2 * len(rows))


def _agreement(levels: _Array) -> float:
    """Computes 1 - 2 ∫ |F(a) - a| da over (0, 1), with F(a) the share of levels up to a."""
    grid = np.linspace(0.0, 1.0, 1_001)
    share = np.searchsorted(np.sort(levels), grid, side="right") / len(levels)
    return 1.0 - 2.0 * float(np.trapezoid(np.abs(share - grid), grid))


def closest_record(synthetic: _Array, train: _Array, heldout: _Array) -> tuple[Share, _Array]:
    """Computes the share of synthetic rows nearer to a training row than to a held-out one.

    Args:
        synthetic: Shape (n, d).
        train: Training rows, shape (m, d).
        heldout: As many held-out rows.

    Returns:
        The share, in which rows equally near to both count half, and the distances to the closest
        training and to the closest held-out row, shape (n, 2).
    """
    size, count = len(train), len(synthetic)
    (own, to_own), (fresh, to_fresh) = nearest(synthetic, train), nearest(synthetic, heldout)
    nearer = (1 + np.sign(to_fresh - to_own)) / 2
    weights = np.bincount(own, nearer, size), np.bincount(fresh, 1 - nearer, size)
    squares = ((np.concatenate(weights) / count - 1 / (2 * size)) ** 2).sum()
    spread = float(np.sqrt(size / (2 * (2 * size - 1)) * squares))
    return Share(float(nearer.mean()), _SURE * spread), np.stack((to_own, to_fresh), axis=1)


def membership(synthetic: _Array, train: _Array, heldout: _Array) -> Share:
    """Computes how well an attacker recognises training rows by their distance to synthetic ones.

    Args:
        synthetic: Shape (n, d).
        train: Training rows, shape (m, d).
        heldout: As many held-out rows.

    Returns:
        The area under the attacker's ROC curve: 1/2 is a guess, 1 finds every training row.
    """
    size = len(train)
    members, strangers = (nearest(rows, synthetic)[1] for rows in (train, heldout))
    ordered = np.sort(strangers)
    below, upto = (np.searchsorted(ordered, members, side=side) for side in ("left", "right"))
    spread = float(np.sqrt((2 * size + 1) / (12 * size**2)))
    return Share(1.0 - float((below + upto).mean()) / (2 * size), _SURE * spread)


def copies(
    synthetic: _Array, train: _Array, heldout: _Array, generator: np.random.Generator
) -> Copies:
    """Measures whether generated samples are copies of training samples.

    Args:
        synthetic: Shape (n, d); pictures are rounded to the values that are shown.
        train: Training samples, shape (m, d).
        heldout: Held-out samples, shape (k, d); at most m are taken.
        generator: Draws as many training samples as there are held-out ones for ``closest``.
    """
    heldout = heldout[: len(train)]
    distances = [nearest(rows, train)[1] for rows in (synthetic, heldout)]
    some = generator.choice(len(train), len(heldout), replace=False)
    share, _ = closest_record(synthetic, train[some], heldout)
    (own, own_real), (same, same_real) = (
        [float(summary(each)) for each in distances] for summary in (np.median, _share_of_zero)
    )
    return Copies(own, own_real, same, same_real, share)


def _share_of_zero(values: _Array) -> float:
    return float((values == 0).mean())
