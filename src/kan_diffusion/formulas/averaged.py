r"""Noised points with targets averaged over the clean points that may be behind them.

A denoiser is trained to predict, at a noised point, the mean of all targets that lead there. A
single target has the variance of that whole distribution, which in the toys of one or two
dimensions is hundreds of times the difference between two formulas. Averages over a batch of clean
points :math:`x_1, \dots, x_M` have far less variance: with the source k uniform in the batch and
:math:`x_t = \alpha x_k + \sigma \varepsilon`,

.. math:: E[\,x_k \mid x_t, x_1, \dots, x_M] =
    \sum_j \mathrm{softmax}_j\!\left(-\frac{|x_t - \alpha x_j|^2}{2 \sigma^2}\right) x_j.

The source must be in the batch: it is then a draw like the others, and the mean over all batches
that may be behind :math:`x_t` is :math:`E[x_0 \mid x_t]` (tower property). So averages have the
mean of single targets for every M, and no larger variance (Rao-Blackwell). Xu, Tong and Jaakkola
(2023, "Stable target field for reduced variance score estimation in diffusion models") train on
them.

Averaging adds no information: the averages of a batch hold no more than its M clean points. Noised
points of one batch share their errors, and more noised points do not make these errors smaller.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kan_diffusion.data.densities import Level, by_chunks, numbers, shared_variance_logits
from kan_diffusion.processes import Process

Array = NDArray[np.float64]


@dataclass(frozen=True)
class AveragedPoints:
    """Noised points with averaged targets.

    Attributes:
        noised: Noised points with shape (n, d), float64.
        timesteps: Timesteps with shape (n,), int64.
        alpha: Signal levels with shape (n, 1), float64.
        sigma: Noise levels with shape (n, 1), float64.
        target: Averaged targets with shape (n, d), float64.
        spread: Mean squared distance of a coordinate's single target from its average.
        num_clean: Number of different clean points behind the averages.
    """

    noised: Tensor
    timesteps: Tensor
    alpha: Tensor
    sigma: Tensor
    target: Tensor
    spread: float
    num_clean: int

    def every(self, step: int) -> AveragedPoints:
        """Keeps every ``step``-th point."""
        names = ("noised", "timesteps", "alpha", "sigma", "target")
        return replace(self, **{name: getattr(self, name)[::step] for name in names})

    @cached_property
    def arrays(self) -> tuple[Array, Array, Array, Array]:
        """Noised points (n, d), signal and noise levels (n,) and targets (n, d) as arrays."""
        parts = self.noised, self.alpha[:, 0], self.sigma[:, 0], self.target
        x, alpha, sigma, target = (part.numpy() for part in parts)
        return x, alpha, sigma, target


def draw_averaged(
    points: Tensor,
    process: Process,
    num: int,
    generator: torch.Generator,
    *,
    batch: int = 2048,
    num_noised: int | None = None,
    num_timesteps: int | None = None,
) -> AveragedPoints:
    """Draws noised points and averages their targets.

    Args:
        points: Clean points with shape (N, d), N > 0; all are used equally often.
        process: The process.
        num: Number n of noised points.
        generator: Generator of all draws.
        batch: Number M of clean points in an average; all points if there are fewer.
        num_noised: Number of noised points from a batch, at most that of its clean points, which is
            also the default.
        num_timesteps: Number of the process's timesteps to use, from the first; all when None.
    """
    points = points.double()
    levels = process.levels()
    batch = min(batch, len(points))
    each = min(num_noised or batch, batch)
    starts = range(0, num, each)
    parts = []
    for start, rows in zip(starts, _batches(len(points), batch, generator), strict=False):
        behind = points[rows]
        clean = behind[: min(each, num - start)]  # already in random order
        steps = torch.randint(
            num_timesteps or process.num_timesteps, (len(clean),), generator=generator
        )
        alpha, sigma = (level[steps].unsqueeze(-1) for level in levels)
        noise = torch.randn(clean.shape, generator=generator, dtype=torch.float64)
        noised = alpha * clean + sigma * noise
        mean = reference_mean(behind, noised, alpha[:, 0], sigma[:, 0])
        target = process.prediction_of_mean(mean, noised, alpha, sigma)
        single = process.prediction_of_mean(clean, noised, alpha, sigma)
        parts.append((noised, steps, target, (single - target).square()))
    noised, steps, target, spread = (torch.cat(of_all) for of_all in zip(*parts, strict=True))
    alpha, sigma = (level[steps].unsqueeze(-1) for level in levels)
    num_clean = min(len(points), batch * len(starts))
    return AveragedPoints(noised, steps, alpha, sigma, target, float(spread.mean()), num_clean)


def _batches(num_points: int, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Cuts random permutations of the points, one after another, into batches, without end.

    A batch that a permutation does not fill begins with the rest of it and is filled with other
    points of the next one, so that no point is in a batch twice.

    Yields:
        Indices of the points of a batch, shape (batch,).
    """
    left = torch.empty(0, dtype=torch.int64)
    while True:
        if len(left) < batch:
            order = torch.randperm(num_points, generator=generator)
            later = torch.isin(order, left)
            left = torch.cat([left, order[~later], order[later]])
        rows, left = left[:batch], left[batch:]
        yield rows[torch.randperm(batch, generator=generator)]


@torch.no_grad()
def reference_mean(points: Tensor, x: Tensor, alpha: Level, sigma: Level) -> Tensor:
    """Computes E[x_0 | alpha x_0 + sigma eps = x] under the distribution of reference points.

    It differs from the posterior mean by an error that is largest at small noise; where a density
    is known, its own posterior mean is exact.

    Args:
        points: Standardised points with shape (n_reference, d), finite.
        x: Noised points with shape (n, d).
        alpha: Signal level, at least 0; a number or shape (n,).
        sigma: Noise level, positive; a number or shape (n,).

    Returns:
        Shape (n, d), float64, on the device of x.

    Raises:
        DataError: A shape does not fit, points are not finite, or a level is out of range.
    """
    points = numbers("reference points", points.detach(), "n", "d")
    count, dim = points.shape
    weights = torch.zeros(count, dtype=torch.float64)  # logarithms, up to a constant

    def mean(x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        variance = (sigma**2).expand_as(x)
        return shared_variance_logits(x, alpha, variance, points, weights).softmax(dim=1) @ points

    return by_chunks(mean, x, alpha, sigma, dim, count, noised=True)
