r"""Noising processes, on diffusers noise schedules.

A process is a Gaussian corruption of clean samples,

.. math:: x_t = \alpha_t x_0 + \sigma_t \varepsilon, \qquad \varepsilon \sim N(0, I),

for timesteps t = 0, ..., T - 1, together with what the denoiser predicts and the loss it is trained
with. Index t has seen t + 1 of T steps of noise: the first index already carries noise and the last
is the most corrupted state. *Diffusion* preserves variance,
:math:`\alpha_t^2 + \sigma_t^2 = 1` with :math:`\alpha_t = \sqrt{\bar\alpha_t}`; *flow matching*
(Lipman et al. 2023, arXiv:2210.02747; Liu et al. 2023, arXiv:2209.03003) joins data and noise by
straight lines, :math:`\sigma_t = (t + 1) / T = 1 - \alpha_t`.

A prediction type is a pair (p, q) with the target :math:`p\,\varepsilon - q\,x_0`: (1, 0) for
``epsilon``, (alpha, sigma) for ``v_prediction`` (Salimans and Ho 2022, arXiv:2202.00512), (0, -1)
for ``sample`` and (1, 1) for ``flow``. Solved together with the equation of :math:`x_t`, it gives
the predicted noise:

.. math:: \varepsilon = a \cdot \mathrm{prediction} + b \cdot x_t, \qquad
    a = \frac{\alpha}{p\,\alpha + q\,\sigma}, \quad b = \frac{q}{p\,\alpha + q\,\sigma}.

Samples have any shape (B, \*shape); levels are one per sample, or one for all, and broadcast over
the trailing dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from kan_diffusion.errors import KanDiffusionError, look_up
from kan_diffusion.limits import MOST_TIMESTEPS
from kan_diffusion.settings import Name, Settings

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

_SIGNAL_LIMIT = 0.05
"""Largest fraction of signal, alpha_T, with which a process counts as reaching noise."""

PredictionType = Literal["epsilon", "v_prediction", "sample", "flow"]

Levels = TypeVar("Levels", Tensor, NDArray[np.float64])


def expand(level: Tensor, like: Tensor) -> Tensor:
    """Appends dimensions of size 1 to levels, so that they broadcast over those of the samples.

    Levels have shape (), (B,), or as many dimensions as the samples (B, *shape).
    """
    return level.reshape(level.shape + (1,) * (like.ndim - level.ndim))


def noise_of_mean(mean: Tensor, noised: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Computes the noise that belongs to a mean of x_0: (x_t - alpha mean) / sigma.

    Shapes are those of :class:`Process`; sigma is positive.
    """
    return (noised - expand(alpha, noised) * mean) / expand(sigma, noised)


def _prediction(kind: PredictionType, alpha: Levels, sigma: Levels) -> tuple[Levels, ...]:
    """The pair (p, q) of a prediction type, and p alpha + q sigma.

    The sum is given in closed form, since computed alpha^2 + sigma^2 is not exactly 1.
    """
    one, zero = alpha**0, 0 * alpha
    if kind == "epsilon":
        return one, zero, alpha
    if kind == "v_prediction":
        return alpha, sigma, one
    if kind == "sample":
        return zero, -one, -sigma
    return one, one, one


class Process(Settings):
    """A noising process: schedule, prediction type and loss.

    Samples, noise, predictions and targets have shape (B, *shape). ``alpha`` and ``sigma`` are
    levels of signal and noise as :func:`expand` takes them.

    Attributes:
        name: Name of the process, as users write it.
        num_timesteps: Number T of steps.
        schedule: ``"squaredcos_cap_v2"``, ``"linear"`` or ``"constant"`` betas, or ``"flow"``, the
            straight line of flow matching.
        beta_start: First beta of ``"linear"``, or the one beta of ``"constant"``.
        beta_end: Last beta of ``"linear"``.
        prediction_type: ``"epsilon"``, ``"v_prediction"`` or ``"sample"``; ``"flow"`` for the
            schedule ``"flow"``, and for no other.
        loss: ``"mse"``, or ``"huber"`` with a threshold of 1.
    """

    name: Annotated[Name, Field(min_length=1)]
    num_timesteps: int = Field(1000, ge=2, le=MOST_TIMESTEPS)
    schedule: Literal["squaredcos_cap_v2", "linear", "constant", "flow"] = "squaredcos_cap_v2"
    beta_start: float = Field(1e-4, gt=0, lt=1)
    beta_end: float = Field(2e-2, gt=0, lt=1)
    prediction_type: PredictionType = "v_prediction"
    loss: Literal["mse", "huber"] = "mse"

    @model_validator(mode="after")
    def _schedule_fits_prediction(self) -> Self:
        if (self.schedule == "flow") != (self.prediction_type == "flow"):
            raise KanDiffusionError(
                f"schedule '{self.schedule}' does not go with prediction_type "
                f"'{self.prediction_type}'; 'flow' goes with 'flow' only"
            )
        return self

    @property
    def is_flow(self) -> bool:
        """Whether this is flow matching, whose levels do not preserve variance."""
        return self.schedule == "flow"

    def scheduler(self) -> SchedulerMixin:
        """Makes a fresh diffusers scheduler of this process, without clipping.

        For flow matching it is Euler's, else the ancestral one with the reverse variance beta_t,
        the choice of Ho et al. 2020 (arXiv:2006.11239) that is optimal for data from N(0, I).
        """
        from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

        if self.is_flow:
            return FlowMatchEulerDiscreteScheduler(num_train_timesteps=self.num_timesteps)
        constant = self.schedule == "constant"
        return DDPMScheduler(
            num_train_timesteps=self.num_timesteps,
            beta_start=self.beta_start,
            beta_end=self.beta_start if constant else self.beta_end,
            beta_schedule="linear" if constant else self.schedule,
            prediction_type=self.prediction_type,
            variance_type="fixed_large",
            clip_sample=False,
            timestep_spacing="trailing",
        )

    def levels(self) -> tuple[Tensor, Tensor]:
        """Computes the signal and noise level of every timestep, on the CPU.

        Returns:
            alpha and sigma, each float64 with shape (T,).

        Raises:
            KanDiffusionError: In single precision, two timesteps have the same level.
        """
        if self.is_flow:
            steps = torch.arange(1, self.num_timesteps + 1, dtype=torch.float64)
            sigma = steps / self.num_timesteps
            return 1 - sigma, sigma
        signal = self.scheduler().alphas_cumprod.double()
        falls = torch.cat([torch.ones(1), signal]).diff() < 0
        if len(wrong := (~(falls & (signal > 0))).nonzero()):
            raise KanDiffusionError(
                f"process '{self.name}' adds no noise at timestep {int(wrong[0]):,} of "
                f"{self.num_timesteps:,} that single precision could tell; choose betas further "
                "from 0 and 1, or fewer timesteps"
            )
        return signal.sqrt(), (1 - signal).sqrt()

    def predicts_as(self, other: Process) -> bool:
        """Whether denoisers of both processes predict the same: levels and type of prediction."""
        same_levels = map(torch.equal, self.levels(), other.levels())
        return self.prediction_type == other.prediction_type and all(same_levels)

    def noise_coefficients(self, alpha: Levels, sigma: Levels) -> tuple[Levels, Levels]:
        """Computes the pair (a, b) with which noise = a * prediction + b * noised.

        Both have the shape of the levels, which are tensors or arrays.
        """
        _, q, whole = _prediction(self.prediction_type, alpha, sigma)
        return alpha / whole, q / whole

    def target(self, clean: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Computes what a denoiser should predict."""
        levels = expand(alpha, clean), expand(sigma, clean)
        p, q, _ = _prediction(self.prediction_type, *levels)
        return p * noise - q * clean

    def predicted_noise(
        self, prediction: Tensor, noised: Tensor, alpha: Tensor, sigma: Tensor
    ) -> Tensor:
        """Turns predictions of this process's type for noised samples into predicted noise."""
        a, b = self.noise_coefficients(expand(alpha, noised), expand(sigma, noised))
        return a * prediction + b * noised

    def prediction_of_mean(
        self, mean: Tensor, noised: Tensor, alpha: Tensor, sigma: Tensor
    ) -> Tensor:
        """Computes the prediction of this process's type for a posterior mean E[x_0 given x_t]."""
        return self.target(mean, noise_of_mean(mean, noised, alpha, sigma), alpha, sigma)

    def loss_of(self, prediction: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
        """Computes the training loss, ``"mean"`` over all numbers or with reduction ``"none"``."""
        loss = functional.huber_loss if self.loss == "huber" else functional.mse_loss
        return loss(prediction, target, reduction=reduction)


def signal_warning(process: Process) -> str | None:
    """Returns a warning if a process keeps signal at its last timestep; None if it does not."""
    left = float(process.levels()[0][-1])
    if left <= _SIGNAL_LIMIT:
        return None
    return (
        f"this process does not reach noise: {left:.1%} of the signal is left at its last "
        "timestep, but sampling starts from pure noise, the wrong distribution, so samples will be "
        "off however good the denoiser; process 'cosine' does"
    )


PROCESSES: Mapping[str, Process] = {
    process.name: process
    for process in (
        Process(name="cosine"),
        Process(name="ddpm", schedule="linear", prediction_type="epsilon"),
        Process(
            name="notebook",
            num_timesteps=250,
            schedule="constant",
            beta_start=0.025**2,
            prediction_type="epsilon",
            loss="huber",
        ),
        Process(name="flow", schedule="flow", prediction_type="flow"),
    )
}
"""The presets: cosine (Nichol and Dhariwal 2021, arXiv:2102.09672), the linear schedule of Ho et
al. 2020, the original notebook's schedule, which never reaches noise, and flow matching."""


def get_process(name: str) -> Process:
    """Looks up a preset by name.

    Raises:
        KanDiffusionError: There is no such process; the message lists those there are.
    """
    return look_up("process", name, PROCESSES)
