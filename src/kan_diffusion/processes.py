r"""Noising processes, on diffusers noise schedules.

A process is a Gaussian corruption of clean points,

.. math:: x_t = \alpha_t x_0 + \sigma_t \varepsilon, \qquad \varepsilon \sim N(0, I), \qquad
    \alpha_t = \sqrt{\bar\alpha_t}, \quad \sigma_t = \sqrt{1 - \bar\alpha_t},

for timesteps t = 0, ..., T - 1 as diffusers counts them (index t has seen t + 1 noise steps, so the
first index already carries noise and the last is the most corrupted state), together with what the
denoiser is asked to predict and the loss it is trained with. Predictions of one kind turn into
another exactly:

================  =======================================  =====================================
prediction type   target                                   as predicted noise
================  =======================================  =====================================
``epsilon``       :math:`\varepsilon`                      itself
``v_prediction``  :math:`\alpha\varepsilon - \sigma x_0`   :math:`\alpha v + \sigma x_t`
``sample``        :math:`x_0`                              :math:`(x_t - \alpha x_0) / \sigma`
================  =======================================  =====================================

(v: Salimans and Ho 2022, arXiv:2202.00512.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from diffusers import DDPMScheduler, SchedulerMixin
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from kan_diffusion.errors import unknown_name

__all__ = ["PROCESSES", "SIGNAL_LIMIT", "Process", "get_process", "signal_left", "signal_warning"]

SIGNAL_LIMIT = 0.05
"""Largest fraction of signal, sqrt(alpha_bar_T), with which a process counts as reaching noise."""

PredictionType = Literal["epsilon", "v_prediction", "sample"]


class Process(BaseModel):
    """A noising process: schedule, prediction type and loss.

    Attributes:
        name: What users write.
        num_timesteps: Number T of steps.
        schedule: Schedule of the betas by diffusers' name, or ``"constant"``.
        beta_start: First beta of ``"linear"``, or the one beta of ``"constant"``.
        beta_end: Last beta of ``"linear"``.
        prediction_type: ``"epsilon"``, ``"v_prediction"`` or ``"sample"``.
        loss: ``"mse"``, or ``"huber"`` with a threshold of 1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    num_timesteps: int = Field(1000, ge=2)
    schedule: Literal["squaredcos_cap_v2", "linear", "constant"] = "squaredcos_cap_v2"
    beta_start: float = Field(1e-4, gt=0, lt=1)
    beta_end: float = Field(2e-2, gt=0, lt=1)
    prediction_type: PredictionType = "v_prediction"
    loss: Literal["mse", "huber"] = "mse"

    def scheduler(self) -> DDPMScheduler:
        """A fresh diffusers scheduler of this process, ancestral, without clipping.

        The reverse variance is beta_t, the choice of Ho et al. 2020 (arXiv:2006.11239) that is
        optimal for data from N(0, I).
        """
        constant = self.schedule == "constant"
        return DDPMScheduler(
            num_train_timesteps=self.num_timesteps,
            beta_start=self.beta_start,
            beta_end=self.beta_end,
            prediction_type=self.prediction_type,
            variance_type="fixed_large",
            clip_sample=False,
            timestep_spacing="trailing",
            beta_schedule="linear" if constant else self.schedule,
            trained_betas=[self.beta_start] * self.num_timesteps if constant else None,
        )

    def levels(self, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Signal and noise level of every timestep.

        Returns:
            alpha and sigma, each float64 with shape (T,).
        """
        signal = self.scheduler().alphas_cumprod.to(device=device, dtype=torch.float64)
        return signal.sqrt(), (1 - signal).sqrt()

    def target(self, clean: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """What a denoiser should predict.

        Args:
            clean: Clean points with shape (B, d).
            noise: Noise with shape (B, d).
            alpha: Signal levels with shape (B, 1) or (B, d).
            sigma: Noise levels with shape (B, 1) or (B, d).

        Returns:
            Targets with shape (B, d).
        """
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "v_prediction":
            return alpha * noise - sigma * clean
        return clean

    def predicted_noise(
        self, prediction: Tensor, noised: Tensor, alpha: Tensor, sigma: Tensor
    ) -> Tensor:
        """A prediction of this process's type, expressed as predicted noise.

        Args:
            prediction: Predictions with shape (B, d).
            noised: The noised points they were made for, with shape (B, d).
            alpha: Signal levels with shape (B, 1).
            sigma: Noise levels with shape (B, 1).

        Returns:
            Predicted noise with shape (B, d).
        """
        if self.prediction_type == "epsilon":
            return prediction
        if self.prediction_type == "v_prediction":
            return alpha * prediction + sigma * noised
        return (noised - alpha * prediction) / sigma

    def prediction_of_mean(
        self, mean: Tensor, noised: Tensor, alpha: Tensor, sigma: Tensor
    ) -> Tensor:
        """The prediction of this process's type that corresponds to a posterior mean.

        Args:
            mean: Posterior means E[x_0 given x_t] with shape (B, d).
            noised: The noised points with shape (B, d).
            alpha: Signal levels with shape (B, 1).
            sigma: Noise levels with shape (B, 1).

        Returns:
            Predictions with shape (B, d).
        """
        return self.target(mean, (noised - alpha * mean) / sigma, alpha, sigma)

    def loss_of(self, prediction: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
        """The training loss: squared error, or Huber loss with a threshold of 1.

        Args:
            prediction: Predictions with shape (B, d).
            target: Targets with shape (B, d).
            reduction: ``"mean"`` over points and coordinates, or ``"none"``.
        """
        if self.loss == "huber":
            return torch.nn.functional.huber_loss(prediction, target, reduction=reduction)
        return torch.nn.functional.mse_loss(prediction, target, reduction=reduction)


def signal_left(scheduler: SchedulerMixin) -> float:
    """Fraction of signal at the last timestep, sqrt(alpha_bar_T); 0 when noise is reached."""
    return float(scheduler.alphas_cumprod[-1]) ** 0.5


def signal_warning(scheduler: SchedulerMixin) -> str | None:
    """What to tell the user when a schedule does not reach noise, else None."""
    left = signal_left(scheduler)
    if left <= SIGNAL_LIMIT:
        return None
    return (
        f"this process does not reach noise: {left:.1%} of the signal is left at its last "
        "timestep, but sampling starts from pure noise, the wrong distribution, so samples will be "
        "off however good the denoiser; train with --process cosine for one that does"
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
    )
}
"""The presets: cosine (Nichol and Dhariwal 2021, arXiv:2102.09672), the linear schedule of Ho et
al. 2020, and the original notebook's, which never reaches noise."""


def get_process(name: str) -> Process:
    """Looks a preset up by name.

    Raises:
        KanDiffusionError: There is no such process; the message lists those there are.
    """
    if name not in PROCESSES:
        raise unknown_name("process", name, PROCESSES)
    return PROCESSES[name]
