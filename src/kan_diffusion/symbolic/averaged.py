r"""Noised points with targets averaged over the clean points that may be behind them.

What a denoiser is trained to predict at a noised point is the mean of all targets that lead there.
A single target has the variance of that whole distribution, in the toys a hundred times what is
left to be decided between two formulas. Averages over a batch of clean points
:math:`x_1, \dots, x_M` have far less of it: with the source k uniform in the batch and
:math:`x_t = \alpha x_k + \sigma \varepsilon`,

.. math:: E[\,x_k \mid x_t, x_1, \dots, x_M] =
    \sum_j \mathrm{softmax}_j\!\left(-\frac{|x_t - \alpha x_j|^2}{2 \sigma^2}\right) x_j,

and because the batch is drawn from the data, the mean of this over batches is
:math:`E[x_0 \mid x_t]`: for every M the averages have the mean of single targets, and no larger
variance (Rao-Blackwell). Xu, Tong and Jaakkola (2023, "Stable target field for reduced variance
score estimation in diffusion models") train on such averages.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kan_diffusion.evaluation.oracles import ReferenceOracle
from kan_diffusion.processes import Process

__all__ = ["AveragedPoints", "draw_averaged"]

_BATCH = 2048


@dataclass(frozen=True)
class AveragedPoints:
    """Noised points and what should be predicted there on average.

    Attributes:
        noised: Noised points with shape (n, d), float64.
        timesteps: Timesteps with shape (n,), int64.
        alpha: Signal levels with shape (n, 1), float64.
        sigma: Noise levels with shape (n, 1), float64.
        target: Averaged targets with shape (n, d), float64.
    """

    noised: Tensor
    timesteps: Tensor
    alpha: Tensor
    sigma: Tensor
    target: Tensor


def draw_averaged(
    points: Tensor,
    process: Process,
    num: int,
    generator: torch.Generator,
    *,
    num_timesteps: int | None = None,
) -> AveragedPoints:
    """Draws noised points and averages their targets.

    Args:
        points: Clean points with shape (N, d), N > 0.
        process: The process.
        num: How many noised points, n.
        generator: Where all draws come from.
        num_timesteps: How many of the process's timesteps are used, from the first; all when None.
    """
    points = points.double()
    levels = process.levels()
    batch = min(_BATCH, len(points))
    parts = []
    for start in range(0, num, batch):
        behind = points[torch.randperm(len(points), generator=generator)[:batch]]
        count = min(batch, num - start)
        clean = behind[:count]  # in random order as they are
        steps = torch.randint(num_timesteps or process.num_timesteps, (count,), generator=generator)
        alpha, sigma = (level[steps] for level in levels)
        noise = torch.randn(clean.shape, generator=generator, dtype=torch.float64)
        noised = alpha.unsqueeze(-1) * clean + sigma.unsqueeze(-1) * noise
        mean = ReferenceOracle(behind).posterior_mean(noised, alpha, sigma)
        parts.append((noised, steps, mean))
    noised, steps, mean = (torch.cat(of_all) for of_all in zip(*parts, strict=True))
    alpha, sigma = (level[steps].unsqueeze(-1) for level in levels)
    target = process.prediction_of_mean(mean, noised, alpha, sigma)
    return AveragedPoints(noised, steps, alpha, sigma, target)
