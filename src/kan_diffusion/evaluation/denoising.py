r"""Measures of a denoiser: held-out loss, the floor under it, and the excess.

All denoisers of a comparison are measured on one draw of points, timesteps and noise (common random
numbers), every timestep equally often. With :math:`\hat\varepsilon` the predicted noise and
:math:`\varepsilon^\star` the oracle's, both of d coordinates,

.. math:: \mathrm{excess} = \mathrm{mean}_t\; \tfrac1d \|\hat\varepsilon - \varepsilon^\star\|^2,

and the *floor* is the loss of the oracle. With two reference samples instead of an exact oracle, a
product of the differences from both oracles replaces the square in the excess and in the floor.
This removes the variance (not the bias) of the reference samples. Without an oracle only the loss
is measured, in total and by noise level. The coordinates of a picture are its values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kan_diffusion.data.datasets import Dataset, OracleKind
from kan_diffusion.denoisers.base import Denoiser
from kan_diffusion.evaluation.oracles import ReferenceOracle, SceneOracle, excess_by_pair
from kan_diffusion.processes import Process, expand, noise_of_mean

__all__ = [
    "DenoisingScores",
    "LevelScore",
    "NoisedPoints",
    "draw_noised_points",
    "floor",
    "measure_denoising",
]

_BATCH = 8192
_VALUES = 2**20
"""Largest number of values in a batch of a denoiser; `_BATCH` is that of samples."""


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
        means: Posterior means, each with shape (n, *shape): one from an exact oracle, two from
            independent reference samples, or none.
        rows: Indices of the clean samples among the held-out ones, with shape (n,); None for a toy.
    """

    clean: Tensor
    noise: Tensor
    timesteps: Tensor
    alpha: Tensor
    sigma: Tensor
    noised: Tensor
    means: tuple[Tensor, ...]
    rows: Tensor | None = None

    @property
    def oracle(self) -> OracleKind:
        """Source of the posterior means."""
        kinds: tuple[OracleKind, ...] = ("none", "exact", "estimated")
        return kinds[len(self.means)]


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
        floor: The oracle's loss on the draw. For a Huber loss this is the loss of the posterior
            mean, which is slightly above the smallest possible loss. None without an oracle.
        excess: Mean squared distance of the predicted noise from the oracle's. None without one.
        excess_se: Standard error of the excess over the draw. None without an oracle.
        levels: Loss and excess by noise level.
    """

    heldout_loss: float
    floor: float | None
    excess: float | None
    excess_se: float | None
    levels: tuple[LevelScore, ...]


def draw_noised_points(
    dataset: Dataset,
    process: Process,
    num: int,
    generator: torch.Generator,
    *,
    captioned: bool = False,
) -> NoisedPoints:
    """Draws the samples, timesteps and noise that denoisers are measured on.

    Clean samples of a toy are fresh; otherwise they are held-out samples, each equally often.

    Args:
        dataset: Source of the clean samples.
        process: Noising process.
        num: Number of noised samples.
        generator: Generator of all draws.
        captioned: Whether denoisers, and so the oracle, are conditioned on captions of pictures.
    """
    rows, captions = None, None
    if dataset.heldout is None:
        clean = dataset.points_to_noise(num, generator).double()
    else:
        rows = dataset.heldout_rows(num, generator)
        clean = dataset.heldout[rows].double()
    draw = replace(_noised(clean, process, generator), rows=rows)
    levels = draw.noised, draw.alpha, draw.sigma
    if dataset.things == 1:
        if captioned and dataset.heldout_captions is not None and rows is not None:
            captions = [dataset.heldout_captions[row] for row in rows.tolist()]
        scenes = SceneOracle(dataset.shape[-1])
        return replace(draw, means=(scenes.posterior_mean(*levels, captions),))
    if dataset.density is not None:
        return replace(draw, means=(dataset.density.posterior_mean(*levels),))
    oracles = [ReferenceOracle(points) for points in dataset.references or ()]
    return replace(draw, means=tuple(oracle.posterior_mean(*levels) for oracle in oracles))


def _noised(clean: Tensor, process: Process, generator: torch.Generator) -> NoisedPoints:
    """Noises clean samples (n, *shape), without posterior means."""
    num = len(clean)
    timesteps = torch.arange(num) * process.num_timesteps // num
    noise = torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    alpha, sigma = (level[timesteps] for level in process.levels())
    # Networks see float32: let the oracle judge the very same samples.
    noised = (expand(alpha, clean) * clean + expand(sigma, clean) * noise).float().double()
    return NoisedPoints(clean, noise, timesteps, alpha, sigma, noised, ())


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
    if draw.oracle == "none":
        return None
    target = process.target(draw.clean, draw.noise, draw.alpha, draw.sigma)
    predictions = [
        process.prediction_of_mean(mean, draw.noised, draw.alpha, draw.sigma) for mean in draw.means
    ]
    if len(predictions) == 2 and process.loss == "mse":
        first, second = (target - prediction for prediction in predictions)
        return float((first * second).mean())
    mean_prediction = torch.stack(predictions).mean(0)
    return float(process.loss_of(mean_prediction, target))


def _mean_and_error(rows: Tensor) -> tuple[float, float]:
    error = float(rows.std() / len(rows) ** 0.5) if len(rows) > 1 else float("nan")
    return float(rows.mean()), error


def _levels(
    losses: Tensor, excesses: Tensor | None, draw: NoisedPoints, process: Process, num_levels: int
) -> Sequence[LevelScore]:
    bins = draw.timesteps * num_levels // process.num_timesteps
    log_snr = 2 * (draw.alpha.log() - draw.sigma.log())  # -inf where flow matching has no signal
    scores = []
    for index in range(num_levels):
        inside = bins == index
        if int(inside.sum()) < 2:  # no standard error
            continue
        excess, error = (None, None) if excesses is None else _mean_and_error(excesses[inside])
        scores.append(
            LevelScore(
                t_low=index / num_levels,
                t_high=(index + 1) / num_levels,
                log_snr=float(log_snr[inside & log_snr.isfinite()].mean()),
                heldout_loss=float(losses[inside].mean()),
                excess=excess,
                standard_error=error,
            )
        )
    return scores


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
    """
    device, dtype = denoiser.device, denoiser.dtype
    size = max(1, min(_BATCH, _VALUES // math.prod(draw.clean.shape[1:])))
    parts = {name: values.split(size) for name, values in (conditions or {}).items()}
    predictions = [
        denoiser(
            noised.to(device, dtype),
            timesteps.to(device),
            **{name: values[index].to(device) for name, values in parts.items()},
            return_dict=False,
        )[0]
        for index, (noised, timesteps) in enumerate(
            zip(draw.noised.split(size), draw.timesteps.split(size), strict=True)
        )
    ]
    prediction = torch.cat(predictions).to("cpu", torch.float64)
    target = process.target(draw.clean, draw.noise, draw.alpha, draw.sigma)
    predicted_noise = process.predicted_noise(prediction, draw.noised, draw.alpha, draw.sigma)
    losses = process.loss_of(prediction, target, reduction="none").flatten(1).mean(dim=1)
    oracles = [
        noise_of_mean(mean, draw.noised, draw.alpha, draw.sigma).flatten(1) for mean in draw.means
    ]
    excesses = None
    if oracles:
        excesses = excess_by_pair(predicted_noise.flatten(1), oracles[0], oracles[-1])
    excess, error = (None, None) if excesses is None else _mean_and_error(excesses)
    return DenoisingScores(
        heldout_loss=float(losses.mean()),
        floor=floor(draw, process),
        excess=excess,
        excess_se=error,
        levels=tuple(_levels(losses, excesses, draw, process, num_levels)),
    )
