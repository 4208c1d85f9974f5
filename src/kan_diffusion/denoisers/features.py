r"""Features of the points and of the timestep.

A network gets each coordinate x and, with M > 0 frequencies, its Fourier features (Tancik et al.
2020, arXiv:2006.10739)

.. math:: \cos(2^m \pi x / 4), \; \sin(2^m \pi x / 4), \qquad m = 0, \dots, M - 1.

The lowest frequency has the period 8. Nearly all standardised and noised points lie between -4 and
4, so no two of their coordinates have the same features.

A timestep is an index t = 0, ..., T - 1 of a diffusers schedule; at index t, t + 1 steps of noise
have been added. Networks get the fraction :math:`\tau = (t + 1) / T \in (0, 1]` as

- ``"raw"``: :math:`\tau` itself, one more coordinate, as in the original notebook;
- ``"fourier"``: :math:`\cos(2^{m-1} \pi \tau), \sin(2^{m-1} \pi \tau)` for m = 0, ..., M - 1,
  all in [-1, 1]. The lowest pair makes a quarter turn, so no two timesteps have the same features.

The features of all whole timesteps are computed once and looked up afterwards.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from kan_diffusion.errors import require_known, require_whole
from kan_diffusion.kan.bases import Constants

TimeEncoding = Literal["raw", "fourier"]


def waves(x: Tensor, count: int, lowest: float) -> Tensor:
    """Computes cosines, then sines, of the angles 2^m pi lowest x for m = 0, ..., count - 1.

    Args:
        x: Numbers with shape (B, d), of any floating dtype.
        count: Number of frequencies, at least 1.
        lowest: The lowest frequency, a power of two.

    Returns:
        Shape (B, 2 d count), in float32 or more; number by number, the lowest frequency first.
    """
    # In half precision, errors of the angles would exceed the width of the finest features.
    wide = x.to(torch.promote_types(x.dtype, torch.float32)).unsqueeze(-1)
    octaves = lowest * 2.0 ** torch.arange(count, device=x.device, dtype=wide.dtype)
    angles = (wide * (math.pi * octaves)).flatten(1)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimeFeatures(Constants):
    """Timesteps (B,) -> features (B, num_features).

    Args:
        encoding: ``"raw"`` or ``"fourier"``.
        num_train_timesteps: T, the number of steps of the process.
        num_frequencies: M, used by ``"fourier"`` only.

    Attributes:
        num_features: Number of features a timestep is expanded into.
    """

    table: Tensor

    def __init__(
        self, encoding: TimeEncoding, num_train_timesteps: int, num_frequencies: int
    ) -> None:
        super().__init__()
        require_known("time encoding", encoding, get_args(TimeEncoding))
        require_whole("num_time_frequencies", num_frequencies)
        require_whole("num_train_timesteps", num_train_timesteps)
        self.encoding = encoding
        self.num_train_timesteps = num_train_timesteps
        self.num_frequencies = num_frequencies
        self.num_features = 1 if encoding == "raw" else 2 * num_frequencies
        self.constant("table", self._encode(torch.arange(num_train_timesteps, device="cpu")))

    def _encode(self, timestep: Tensor) -> Tensor:
        """Features (B, num_features), float32, of timesteps (B,)."""
        fraction = ((timestep.to(torch.float32) + 1) / self.num_train_timesteps).unsqueeze(-1)
        return fraction if self.encoding == "raw" else waves(fraction, self.num_frequencies, 0.5)

    def forward(self, timestep: Tensor, dtype: torch.dtype) -> Tensor:
        """Encodes timesteps (B,), whole or fractional, as (B, num_features) of ``dtype``.

        Timesteps of an integer dtype are clamped to 0, ..., T - 1; floating-point ones are not.
        """
        if timestep.is_floating_point():
            return self._encode(timestep).to(dtype)
        rows = timestep.long().clamp(0, self.num_train_timesteps - 1)
        return self.table.index_select(0, rows).to(dtype)
