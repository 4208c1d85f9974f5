r"""Batches of training: noised samples, timesteps, labels and targets.

A batch is

.. math:: \big(\alpha_t x_0 + \sigma_t \varepsilon,\; t,\; c,\;
    \mathrm{target}(x_0, \varepsilon, t)\big), \qquad
    t \sim U\{0, \dots, T - 1\}, \quad \varepsilon \sim N(0, I),

with :math:`x_0` and its label c drawn from the data. Where a denoiser may be told blocks of
coordinates, half of the rows are told none, and of each other row every block with a probability
that is itself uniform on (0, 1), so that any set of blocks occurs. Small batches are made many at a
time, a chunk of consecutive steps from one generator seeded with the number of the chunk. How many
steps make a chunk depends on the size of a batch alone, so a batch is a function of the seed and
its step, whatever was drawn before it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from kan_diffusion.denoisers.base import UNLABELLED
from kan_diffusion.processes import Process, expand
from kan_diffusion.randomness import torch_generator

__all__ = ["TOLD_SHARE", "Batch", "Batches"]

_CHUNK_VALUES = 2**14
"""Coordinates of points in a chunk: little enough for the arrays to stay in a core's cache."""

_MOST_TILED = 64
"""Coordinates up to which levels are stored once for each."""

_LABEL_DROPOUT = 0.1

_UNTOLD = 0.5
"""Share of the rows of which no block is told."""

TOLD_SHARE = (1 - _UNTOLD) / 2
"""Share of all blocks that is told."""


class Batch(NamedTuple):
    """The data of one training step.

    Attributes:
        noised: Noised samples with shape (B, *shape).
        timesteps: Timesteps with shape (B,), int64.
        labels: Labels with shape (B,), a tenth of them dropped; None where there are no classes.
        observed: Told coordinates with shape (B, d), NaN where one is not told; None where the
            denoiser may be told none.
        target: What the denoiser should predict, with shape (B, *shape).
    """

    noised: Tensor
    timesteps: Tensor
    labels: Tensor | None
    observed: Tensor | None
    target: Tensor


class Batches:
    """The batch of every step, a function of the seed and the step.

    The draws are made on the CPU, the same everywhere.

    Args:
        points: Clean samples with shape (N, *shape).
        labels: Their labels with shape (N,), or None.
        process: Noising process.
        batch_size: Points a step.
        batches: As in :class:`~kan_diffusion.training.TrainingConfig`.
        seed: What all draws derive from.
        device: Where the batches are wanted.
        blocks: Widths of the blocks of coordinates that are told at random; none when empty.
    """

    def __init__(
        self,
        points: Tensor,
        labels: Tensor | None,
        process: Process,
        *,
        batch_size: int,
        batches: Literal["replacement", "epochs"],
        seed: int,
        device: torch.device,
        blocks: Sequence[int] = (),
    ) -> None:
        self._points = points.to("cpu", torch.float32)
        self._labels = None if labels is None else labels.cpu()
        self._process = process
        # One column a coordinate where they are few: arrays of one shape are multiplied in a single
        # sweep, a column and points of two coordinates in sweeps of two.
        width = points[0].numel()
        tiled = points.shape[1:] if width <= _MOST_TILED else (1,) * (points.ndim - 1)
        self._levels = [
            expand(level.float(), points).repeat(1, *tiled) for level in process.levels(device)
        ]
        self._batch_size = batch_size
        self._with_replacement = batches == "replacement"
        self._seed = seed
        self._device = device
        self._blocks = torch.tensor(blocks, dtype=torch.long)
        self._length = max(1, _CHUNK_VALUES // (batch_size * width))
        self._chunk: tuple[int, list[Batch]] = -1, []
        self._order: tuple[int, Tensor] = -1, torch.empty(0)

    def at(self, step: int) -> Batch:
        """The batch of a step."""
        number, offset = divmod(step, self._length)
        if self._chunk[0] != number:
            self._chunk = number, self._draw(number)
        return self._chunk[1][offset]

    def _rows_of_epochs(self, step: int) -> Tensor:
        num_points, batch_size = len(self._points), self._batch_size
        epoch, batch = divmod(step, math.ceil(num_points / batch_size))
        if self._order[0] != epoch:
            shuffler = torch_generator("epoch", self._seed, epoch)
            self._order = epoch, torch.randperm(num_points, generator=shuffler)
        return self._order[1][batch * batch_size : (batch + 1) * batch_size]

    def _told(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """Clean samples (n, d), NaN in blocks that are not told."""
        count = len(clean)
        share = torch.rand(count, 1, generator=generator)
        share[torch.rand(count, generator=generator) < _UNTOLD] = 0
        told = torch.rand(count, len(self._blocks), generator=generator) < share
        return torch.where(told.repeat_interleave(self._blocks, dim=1), clean, torch.nan)

    def _draw(self, number: int) -> list[Batch]:
        generator = torch_generator("chunk", self._seed, number)
        if self._with_replacement:
            sizes = [self._batch_size] * self._length
            rows = torch.randint(len(self._points), (sum(sizes),), generator=generator)
        else:
            start = number * self._length
            parts = [self._rows_of_epochs(start + offset) for offset in range(self._length)]
            sizes = [len(part) for part in parts]
            rows = torch.cat(parts)
        device = self._device
        clean = self._points.index_select(0, rows)
        timesteps = torch.randint(self._process.num_timesteps, (len(rows),), generator=generator)
        noise = torch.randn(clean.shape, generator=generator).to(device)
        labels: tuple[Tensor, ...] | list[None] = [None] * self._length
        observed: tuple[Tensor, ...] | list[None] = [None] * self._length
        if self._labels is not None:
            dropped = torch.rand(len(rows), generator=generator) < _LABEL_DROPOUT
            drawn = self._labels.index_select(0, rows).masked_fill(dropped, UNLABELLED)
            labels = drawn.to(device).split(sizes)
        if len(self._blocks):
            observed = self._told(clean, generator).to(device).split(sizes)
        clean, timesteps = clean.to(device), timesteps.to(device)
        alpha, sigma = (level.index_select(0, timesteps) for level in self._levels)
        noised = alpha * clean + sigma * noise
        target = self._process.target(clean, noise, alpha, sigma)
        given = noised.split(sizes), timesteps.split(sizes), labels, observed
        columns = *given, target.split(sizes)
        return [Batch(*parts) for parts in zip(*columns, strict=True)]
