r"""Oracles: the posterior mean E[x_0 | x_t], which no denoiser beats in squared error.

A density is its own oracle (:meth:`kan_diffusion.data.densities.Density.posterior_mean`).
`ReferenceOracle` has the mean under the empirical distribution of reference points r_1, ..., r_N,

    m(x) = sum_k softmax_k(-|x - alpha r_k|^2 / (2 sigma^2)) r_k,

which differs from the posterior mean by an error of its own, largest at small noise;
`excess_by_pair` takes the variance of that error out of the excess.

Oracles work on standardised points.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kan_diffusion.data.densities import (
    float64,
    noise_levels,
    on_device_of,
    row_chunks,
    shared_variance_logits,
)
from kan_diffusion.errors import DataError

__all__ = ["ReferenceOracle", "excess_by_pair"]


class ReferenceOracle:
    """The posterior mean under the empirical distribution of reference points.

    The points must be fresh: with training points among them, a denoiser that has learnt those by
    heart would look better than it is.

    Args:
        points: Standardised points with shape (n_reference, d), finite.

    Raises:
        DataError: The points are no table of finite numbers.
    """

    def __init__(self, points: Tensor) -> None:
        if points.ndim != 2 or points.numel() == 0:
            raise DataError(f"reference points must have shape (n, d), got {tuple(points.shape)}")
        if not bool(points.isfinite().all()):
            raise DataError("reference points must be finite; remove those that are not")
        self.points = float64(points.detach())

    def posterior_mean(self, x: Tensor, alpha: float | Tensor, sigma: float | Tensor) -> Tensor:
        """Computes E[x_0 | alpha x_0 + sigma eps = x].

        Args:
            x: Noised points with shape (n, d).
            alpha: Signal level, at least 0; a number or shape (n,).
            sigma: Noise level, positive; a number or shape (n,).

        Returns:
            Shape (n, d), float64, on the device of x.

        Raises:
            DataError: A shape does not fit, or a level is out of range.
        """
        rows_x, alphas, sigmas = noise_levels(x, alpha, sigma)
        dim = self.points.shape[1]
        if rows_x.shape[1] != dim:
            raise DataError(
                f"points have {rows_x.shape[1]} coordinates and the reference points {dim}"
            )
        if not bool((sigmas > 0).all()):
            raise DataError("a reference sample has no posterior mean at sigma = 0; use sigma > 0")
        log_weights = torch.zeros(len(self.points), dtype=torch.float64)
        mean = torch.empty_like(rows_x)
        with torch.no_grad():
            for rows in row_chunks(len(rows_x), len(self.points)):
                variance = (sigmas[rows] ** 2).expand(-1, dim)
                logits = shared_variance_logits(
                    rows_x[rows], alphas[rows], variance, self.points, log_weights
                )
                mean[rows] = logits.softmax(dim=1) @ self.points
        return on_device_of(x, mean)


def excess_by_pair(prediction: Tensor, mean_a: Tensor, mean_b: Tensor) -> Tensor:
    """Computes the excess of each point from two oracles with independent reference samples.

    With m_A = m + e_A and m_B = m + e_B, where m is the exact mean of the noise and the errors
    e_A and e_B are independent of each other and of the prediction p, the expectation of
    (p - m_A)(p - m_B) is (p - m)^2 plus the product of the two biases: the variance of the
    reference samples, which (p - m_A)^2 would add, does not enter. What is left of the bias falls
    as the square of one over the reference sample's size. A single value may be negative.

    The mean over n independent points is the estimated excess; the standard deviation of the
    values over sqrt(n) is its standard error for these two reference samples.

    Args:
        prediction: Predicted noise p, shape (n, d).
        mean_a: Mean of the noise from reference sample A, shape (n, d).
        mean_b: The same from sample B, shape (n, d).

    Returns:
        The mean over the coordinates of (p - m_A)(p - m_B), shape (n,), float64.

    Raises:
        DataError: The shapes differ.
    """
    if not (prediction.shape == mean_a.shape == mean_b.shape) or prediction.ndim != 2:
        raise DataError(
            "prediction, mean_a and mean_b must have the same shape (n, d), got "
            f"{tuple(prediction.shape)}, {tuple(mean_a.shape)} and {tuple(mean_b.shape)}"
        )
    p, a, b = (float64(values) for values in (prediction, mean_a, mean_b))
    return on_device_of(prediction, ((p - a) * (p - b)).mean(dim=1))
