r"""Batches of training: noised samples, timesteps, conditions and targets.

A batch is

.. math:: \big(\alpha_t x_0 + \sigma_t \varepsilon,\; t,\; c,\;
    \mathrm{target}(x_0, \varepsilon, t)\big), \qquad
    t \sim U\{0, \dots, T - 1\}, \quad \varepsilon \sim N(0, I),

with :math:`x_0` and its conditions c drawn from the data; a tenth of the samples have their
conditions dropped, that is, set to absent. Timesteps may instead be
:math:`\lfloor T / (1 + e^{-z}) \rfloor` with :math:`z \sim N(0, 1)`, which favours the middle
(*logit-normal*, Esser et al. 2024, arXiv:2403.03206). If coordinates may be observed, none is in
half of the rows; in each other row, every coordinate is with a probability that is itself uniform
on (0, 1), so that any set of them occurs. Small batches are drawn in chunks of consecutive steps,
each chunk from one generator seeded with the seed and the number of the chunk. The length of a
chunk depends on the size of a sample and of a batch alone, so a batch is a function of the seed and
its step, whatever was drawn before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from kan_diffusion.denoisers.base import Denoiser
from kan_diffusion.processes import Process, expand
from kan_diffusion.randomness import torch_generator
from kan_diffusion.training.config import TrainingConfig

_CHUNK_VALUES = 2**14
"""Coordinates of samples in a chunk: few enough for the arrays to stay in a core's cache."""

_DROPPED = 0.1
"""Share of the samples whose conditions are dropped."""

_UNOBSERVED = 0.5
"""Share of the rows in which no coordinate is observed."""

OBSERVED_SHARE = (1 - _UNOBSERVED) / 2
"""Expected share of all coordinates that is observed."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The data of one training step.

    Attributes:
        noised: Noised samples with shape (B, *shape).
        timesteps: Timesteps with shape (B,), int64.
        conditions: Conditions by name, with shape (B, ...), a tenth of them dropped. If the
            coordinates may be observed, ``observed`` holds them with shape (B, d), NaN where one
            is not.
        target: What the denoiser should predict, with shape (B, *shape).
    """

    noised: Tensor
    timesteps: Tensor
    conditions: dict[str, Tensor]
    target: Tensor

    def rows(self, rows: slice) -> Batch:
        """The part of the batch with these rows."""
        conditions = {name: values[rows] for name, values in self.conditions.items()}
        return Batch(self.noised[rows], self.timesteps[rows], conditions, self.target[rows])


class Batches:
    """Draws the batch of each step as a function of the seed and the step.

    Draws are made on the CPU, so that they are the same for every device.

    Args:
        samples: Clean samples with shape (N, *shape).
        conditions: Their conditions by name, each with shape (N, ...).
        denoiser: What they are drawn for, which says how a condition is marked as absent, and
            whether coordinates are observed at random.
        process: Noising process.
        config: Size and kind of batches, and the distribution of timesteps.
        seed: Seed of all draws.
        device: Device of the batches.
    """

    def __init__(
        self,
        samples: Tensor,
        conditions: Mapping[str, Tensor],
        denoiser: Denoiser,
        process: Process,
        config: TrainingConfig,
        *,
        seed: int,
        device: torch.device,
    ) -> None:
        self._samples = samples.to("cpu", torch.float32)
        self._conditions = {name: values.cpu() for name, values in conditions.items()}
        self._absent = {name: denoiser.absent[name].cpu() for name in conditions}
        self._process, self._config = process, config
        levels = process.levels()
        self._levels = [expand(level.to(device, torch.float32), samples) for level in levels]
        self._seed = seed
        self._device = device
        self._observable = denoiser.observable
        self._length = max(1, _CHUNK_VALUES // (config.batch_size * samples[0].numel()))
        self._chunk: tuple[int, list[Batch]] = -1, []
        self._order: tuple[int, Tensor] = -1, torch.empty(0)

    def at(self, step: int) -> Batch:
        """The batch of a step."""
        number, offset = divmod(step, self._length)
        if self._chunk[0] != number:
            self._chunk = number, self._draw(number)
        return self._chunk[1][offset]

    def _rows_of_epochs(self, step: int) -> Tensor:
        num_samples, batch_size = len(self._samples), self._config.batch_size
        epoch, batch = divmod(step, math.ceil(num_samples / batch_size))
        if self._order[0] != epoch:
            shuffler = torch_generator("epoch", self._seed, epoch)
            self._order = epoch, torch.randperm(num_samples, generator=shuffler)
        return self._order[1][batch * batch_size : (batch + 1) * batch_size]

    def _observed(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """Clean samples (n, d), NaN where they are not observed."""
        count = len(clean)
        share = torch.rand(count, 1, generator=generator)
        share[torch.rand(count, generator=generator) < _UNOBSERVED] = 0
        observed = torch.rand(clean.shape, generator=generator) < share
        return clean.where(observed, torch.nan)

    def _draw_timesteps(self, count: int, generator: torch.Generator) -> Tensor:
        total = self._process.num_timesteps
        if self._config.timesteps == "uniform":
            return torch.randint(total, (count,), generator=generator)
        share = torch.sigmoid(torch.randn(count, generator=generator))
        return (total * share).long().clamp(max=total - 1)

    def _draw(self, number: int) -> list[Batch]:
        generator = torch_generator("chunk", self._seed, number)
        if self._config.batches == "replacement":
            sizes = [self._config.batch_size] * self._length
            rows = torch.randint(len(self._samples), (sum(sizes),), generator=generator)
        else:
            start = number * self._length
            epochs = [self._rows_of_epochs(start + offset) for offset in range(self._length)]
            sizes = [len(part) for part in epochs]
            rows = torch.cat(epochs)
        device = self._device
        clean = self._samples.index_select(0, rows)
        timesteps = self._draw_timesteps(len(rows), generator)
        noise = torch.randn(clean.shape, generator=generator).to(device)
        given: dict[str, Tensor] = {}
        if self._conditions:
            dropped = torch.rand(len(rows), generator=generator) < _DROPPED
            for name, values in self._conditions.items():
                drawn = values.index_select(0, rows)
                drawn[dropped] = self._absent[name].to(drawn.dtype)
                given[name] = drawn
        if self._observable:
            given["observed"] = self._observed(clean, generator)
        parts = {name: values.to(device).split(sizes) for name, values in given.items()}
        conditions = [{name: part[i] for name, part in parts.items()} for i in range(len(sizes))]
        clean, timesteps = clean.to(device), timesteps.to(device)
        alpha, sigma = (level.index_select(0, timesteps) for level in self._levels)
        noised = alpha * clean + sigma * noise
        target = self._process.target(clean, noise, alpha, sigma)
        noised, timesteps, target = (whole.split(sizes) for whole in (noised, timesteps, target))
        columns = noised, timesteps, conditions, target
        return [Batch(*batch) for batch in zip(*columns, strict=True)]
