r"""Measures of a denoiser: held-out loss, the floor under it, and the excess.

All denoisers of a comparison are measured on one draw of samples, timesteps and noise (common
random numbers), every timestep equally often. With :math:`\hat\varepsilon` the predicted noise and
:math:`\varepsilon^\star` the exact oracle's, both of d coordinates,

.. math:: \mathrm{excess} = \mathrm{mean}_t\; \tfrac1d \|\hat\varepsilon - \varepsilon^\star\|^2,

and the *floor* is the loss of the oracle. Where no oracle is known, only the loss is measured, in
total and by noise level. The coordinates of a picture are its values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from kan_diffusion.data.datasets import Dataset
from kan_diffusion.denoisers.base import Denoiser
from kan_diffusion.processes import Process, expand, noise_of_mean

_BATCH, _VALUES = 8192, 2**20
"""Largest numbers of samples, and of their values, in a batch of a denoiser."""


@dataclass(frozen=True)
class NoisedPoints:
    """The draw that all denoisers of a comparison are measured on.

    Attributes:
        clean: Clean samples with shape (n, *shape), float64.
        noise: Noise with shape (n, *shape), float64.
        timesteps: Timesteps of the process with shape (n,), int64, each equally often.
        alpha: Signal levels with shape (n,), float64.
        sigma: Noise levels with shape (n,), float64.
        noised: Noised samples with shape (n, *shape), float64 values that float32 can hold.
        mean: Exact posterior means with shape (n, *shape); None where no oracle is known.
        rows: Indices of the clean samples among the held-out ones, with shape (n,); None for a toy.
    """

    clean: Tensor
    noise: Tensor
    timesteps: Tensor
    alpha: Tensor
    sigma: Tensor
    noised: Tensor
    mean: Tensor | None = None
    rows: Tensor | None = None


@dataclass(frozen=True)
class LevelScore:
    """Loss and excess in one range of timesteps.

    Attributes:
        t_low: Lower end as a fraction of T.
        t_high: Upper end as a fraction of T.
        log_snr: Mean of log(alpha^2 / sigma^2) in the range, over timesteps with signal.
        heldout_loss: The training loss on the draw's points in the range.
        excess: Excess in the range; None without an oracle.
        standard_error: Standard error of the excess over the draw; None without an oracle.
    """

    t_low: float
    t_high: float
    log_snr: float
    heldout_loss: float
    excess: float | None
    standard_error: float | None


@dataclass(frozen=True)
class DenoisingScores:
    """Loss of a denoiser and its distance from the oracle.

    Attributes:
        heldout_loss: The training loss on the draw.
        floor: The oracle's loss on the draw, see :func:`floor`. None without an oracle.
        excess: Mean squared distance of the predicted noise from the oracle's. None without one.
        excess_se: Standard error of the excess over the draw. None without an oracle.
        levels: Loss and excess by noise level; ranges with a single point, which have no standard
            error, are left out.
    """

    heldout_loss: float
    floor: float | None
    excess: float | None
    excess_se: float | None
    levels: tuple[LevelScore, ...]


def draw_noised_points(
    dataset: Dataset, process: Process, num: int, generator: torch.Generator
) -> NoisedPoints:
    """Draws the samples, timesteps and noise that denoisers are measured on.

    Clean samples of a toy are fresh; otherwise they are held-out samples, each equally often.

    Args:
        dataset: Source of the clean samples.
        process: Noising process.
        num: Number of noised samples.
        generator: Generator of all draws.
    """
    clean, rows = dataset.to_noise(num, generator)
    timesteps = torch.arange(num) * process.num_timesteps // num
    noise = torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    alpha, sigma = (level[timesteps] for level in process.levels())
    # Networks see float32: let the oracle judge the very same samples.
    noised = (expand(alpha, clean) * clean + expand(sigma, clean) * noise).float().double()
    mean = dataset.posterior_mean(noised, alpha, sigma, rows)
    return NoisedPoints(clean, noise, timesteps, alpha, sigma, noised, mean, rows)


def floor(draw: NoisedPoints, process: Process) -> float | None:
    """Computes the oracle's loss on a draw.

    For a Huber loss this is the loss of the posterior mean, which is slightly above the smallest
    possible loss.

    Args:
        draw: The noised points.
        process: The process they were noised by.

    Returns:
        The loss, averaged over points and coordinates; None without an oracle.
    """
    if draw.mean is None:
        return None
    target = process.target(draw.clean, draw.noise, draw.alpha, draw.sigma)
    prediction = process.prediction_of_mean(draw.mean, draw.noised, draw.alpha, draw.sigma)
    return float(process.loss_of(prediction, target))


@torch.no_grad()
def measure_denoising(
    denoiser: Denoiser,
    draw: NoisedPoints,
    process: Process,
    num_levels: int = 10,
    conditions: Mapping[str, Tensor] | None = None,
) -> DenoisingScores:
    """Measures a denoiser on a draw.

    Args:
        denoiser: The trained network, on any device.
        draw: Samples shared by all denoisers of the comparison.
        process: The process the denoiser was trained for.
        num_levels: Number of ranges of timesteps to split loss and excess into.
        conditions: What the denoiser is conditioned on, by its argument, each with shape (n, ...).

    Raises:
        KanDiffusionError: The denoiser is one for another process.
    """
    denoiser.require_process(process)
    device, dtype = denoiser.device, denoiser.dtype
    size = max(1, min(_BATCH, _VALUES // math.prod(draw.clean.shape[1:])))
    predictions = []
    for rows in torch.arange(len(draw.noised)).split(size):
        given = {name: values[rows].to(device) for name, values in (conditions or {}).items()}
        noised, timesteps = draw.noised[rows].to(device, dtype), draw.timesteps[rows].to(device)
        predictions.append(denoiser(noised, timesteps, **given, return_dict=False)[0])
    prediction = torch.cat(predictions).to("cpu", torch.float64)
    target = process.target(draw.clean, draw.noise, draw.alpha, draw.sigma)
    losses = process.loss_of(prediction, target, reduction="none").flatten(1).mean(dim=1)
    excesses = None
    if draw.mean is not None:
        at = draw.noised, draw.alpha, draw.sigma
        exact = noise_of_mean(draw.mean, *at)
        error = process.predicted_noise(prediction, *at) - exact
        excesses = error.flatten(1).square().mean(dim=1)

    def measured(rows: Tensor) -> tuple[float, float | None, float | None]:
        """Returns loss, excess and its standard error (NaN for a single row) of chosen rows."""
        loss = float(losses[rows].mean())
        if excesses is None:
            return loss, None, None
        chosen = excesses[rows]
        spread = float(chosen.std() / len(chosen) ** 0.5) if len(chosen) > 1 else math.nan
        return loss, float(chosen.mean()), spread

    log_snr = 2 * (draw.alpha.log() - draw.sigma.log())  # -inf where flow matching has no signal
    bins = draw.timesteps * num_levels // process.num_timesteps
    levels = tuple(
        LevelScore(
            index / num_levels,
            (index + 1) / num_levels,
            float(log_snr[inside & log_snr.isfinite()].mean()),
            *measured(inside),
        )
        for index in range(num_levels)
        if int((inside := bins == index).sum()) > 1
    )
    loss, excess, excess_se = measured(torch.ones_like(bins, dtype=torch.bool))
    return DenoisingScores(loss, floor(draw, process), excess, excess_se, levels)
