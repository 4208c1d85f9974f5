"""Denoisers of two families with as many parameters: what a step of training costs with each.

A step is that of :func:`kan_diffusion.train` without its draws and averages: points and timesteps
go through the whole denoiser, the features of the timestep included.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from baselines.contender import Case, Contender, NetworkWorkload
from kan_diffusion import build_denoiser
from kan_diffusion.denoisers import get_family
from kan_diffusion.denoisers.base import Denoiser

__all__ = ["FAMILY_CONTENDERS"]

_TIMESTEPS = 1000


class _DenoiserWorkload(NetworkWorkload):
    """A denoiser of plane points that is trained on the squared error to noise."""

    def load(self, batch: int) -> None:
        """Draws points, noise and timesteps."""
        super().load(batch)
        self._timesteps = torch.randint(_TIMESTEPS, (batch,)).to(self._input.device)

    def forward_backward(self) -> None:
        """Predicts, compares and goes back."""
        denoiser = self.network
        assert isinstance(denoiser, Denoiser)
        predicted: Tensor = denoiser(self._input, self._timesteps, return_dict=False)[0]
        nn.functional.mse_loss(predicted, self._wanted).backward()


def _build(family: str, case: Case, device: torch.device) -> NetworkWorkload:
    denoiser = build_denoiser(family, 2, num_train_timesteps=_TIMESTEPS, params=case.parameters)
    return _DenoiserWorkload(denoiser.to(device), case, device)


FAMILY_CONTENDERS = tuple(
    Contender(
        f"family-{name}",
        get_family(name).title,
        f"Family `{name}` with its default settings, its width by the number of parameters.",
        partial(_build, name),
        patient=True,
    )
    for name in ("full-kan", "mlp", "kan", "gated-mlp")
)
"""The families that are compared, the one that the others are compared with first."""
