r"""The judge of edges: a denoiser's data, its process, draws of noised points, and the clock.

The loss of the whole denoiser decides about an edge, after a short fine-tuning of the rest. It is
measured on points that were not trained on, with the same points, timesteps and noise for all
candidates. Training and judging use averaged targets (:mod:`.averaged`): in one or two dimensions
the loss is then little more than the squared distance to the best prediction, and a few hundred
steps come close to the result of many thousands. In many dimensions few clean points may be behind
a noised one, and averaging helps less (in 32 dimensions half of the variance is left).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kan_diffusion.data.datasets import Dataset
from kan_diffusion.denoisers.base import Denoiser
from kan_diffusion.denoisers.edges import Edge
from kan_diffusion.denoisers.readable import ReadableDenoiser
from kan_diffusion.errors import NonFiniteLossError
from kan_diffusion.evaluation.denoising import (
    DenoisingScores,
    NoisedPoints,
    draw_noised_points,
    measure_denoising,
)
from kan_diffusion.evaluation.effort import EffortName
from kan_diffusion.formulas.averaged import AveragedPoints, draw_averaged
from kan_diffusion.kan.importance import attribution
from kan_diffusion.kan.linear import EdgeLayer
from kan_diffusion.processes import Process
from kan_diffusion.randomness import torch_generator
from kan_diffusion.training.batches import Batch
from kan_diffusion.training.config import TrainingConfig
from kan_diffusion.training.loop import optimize
from kan_diffusion.training.run import TrainingRun

_PROBED = 4096
"""Noised points that importance is measured on."""
_FITTED, _JUDGED = 131_072, 16_384
_BATCH = 1024
"""Points in a step of fine-tuning."""
_QUICK = 8
"""A first look is fine-tuned on one of so many points,"""
_QUICK_STEPS = 200
"""and in so many steps at most."""

Progress = Callable[[str, str, float], None]
"""Called with the phase, what was just done, in words, and the share of the phase done, 0 to 1."""


def tell_nobody(*_: object) -> None:
    """Does nothing: the default callback of progress."""


class Importance(NamedTuple):
    """Importance of the edges of a network, measured on samples that pass through it.

    Attributes:
        shares: Share of the outputs that goes back to the edges of each layer, (out, in) each.
        inputs: Inputs of each layer, (n, in) each.
        outputs: Values of its edges, (n, out, in) each, without the scales of the units.
    """

    shares: tuple[Tensor, ...]
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]

    @classmethod
    @torch.no_grad()
    def of(cls, walk: Iterable[tuple[EdgeLayer, Tensor, Tensor, Tensor]]) -> Importance:
        """Measures it on a way through a network, see :meth:`.ReadableDenoiser.walk`."""
        inputs, outputs, scaled, units = [], [], [], []
        for layer, state, factor, unit in walk:
            inputs.append(state)
            outputs.append(layer.edge_outputs(state))
            scaled.append(outputs[-1] * factor.unsqueeze(-1))
            units.append(unit)
        return cls(attribution(scaled, units), inputs, outputs)

    def share(self, edge: Edge) -> float:
        """Gives the attribution of an edge."""
        return float(self.shares[edge.layer][edge.output, edge.input])

    def samples(self, edge: Edge) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Gives the inputs and the values of an edge, (n,) each, in random order."""
        x = self.inputs[edge.layer][:, edge.input]
        y = self.outputs[edge.layer][:, edge.output, edge.input]
        # The draw goes through the timesteps in order.
        order = np.random.default_rng(0).permutation(len(x))
        return x.double().numpy()[order], y.double().numpy()[order]


@torch.no_grad()
def keep_edges(
    denoiser: ReadableDenoiser, importance: Importance, kept: list[Edge]
) -> ReadableDenoiser:
    """Keeps some of the edges; the mean value of each other edge is added to its output's bias."""
    left = denoiser.with_edges(kept)
    places = {edge.place for edge in kept}
    for edge in denoiser.edges:
        if edge.place not in places:
            constant = importance.outputs[edge.layer][:, edge.output, edge.input].mean()
            left.kan_layers[edge.layer].bias[edge.output] += constant
    return left


@dataclass
class Context:
    """Data and process of denoisers, with the points they are judged and fine-tuned on.

    Attributes:
        dataset: The data.
        process: The noising process.
        seed: Seed of all draws.
        num_noised: Number of noised points of the draw.
        effort: How much is computed.
        until: Time to stop at, by the monotonic clock: what is not reached by then stays.
        on_progress: Called after every step of a phase.
        tunings: Number of calls of :meth:`tune`, each of which draws other batches.
    """

    dataset: Dataset
    process: Process
    seed: int
    num_noised: int = 32_768
    effort: EffortName = "full"
    until: float = math.inf
    on_progress: Progress = tell_nobody
    tunings: int = field(default=0, init=False)

    @property
    def is_quick(self) -> bool:
        """Whether little is computed, for a first look."""
        return self.effort == "quick"

    @property
    def is_over(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() > self.until

    @cached_property
    def draw(self) -> NoisedPoints:
        """Noised points that were not trained on, drawn as in a study."""
        generator = torch_generator("stages are judged on", self.seed, self.dataset.name)
        return draw_noised_points(self.dataset, self.process, self.num_noised, generator)

    def scores(self, denoiser: Denoiser) -> DenoisingScores:
        """Measures loss, floor and excess of a denoiser on the draw."""
        return measure_denoising(denoiser, self.draw, self.process)

    @cached_property
    def fitted(self) -> AveragedPoints:
        """Noised training points, for fine-tuning."""
        generator = torch_generator("edges are tuned on", self.seed, self.dataset.name)
        num = _FITTED // _QUICK if self.is_quick else _FITTED
        return draw_averaged(self.dataset.train, self.process, num, generator)

    @cached_property
    def judged(self) -> AveragedPoints:
        """Noised points that were not trained on."""
        generator = torch_generator("edges are judged on", self.seed, self.dataset.name)
        points, _ = self.dataset.to_noise(_JUDGED, generator)
        return draw_averaged(points, self.process, _JUDGED, generator)

    @torch.no_grad()
    def loss(self, denoiser: Denoiser) -> float:
        """Computes the squared error against averaged targets; infinite where it is NaN."""
        points = self.judged
        prediction = denoiser(points.noised.to(denoiser.dtype), points.timesteps).sample
        loss = float((prediction.double() - points.target).square().mean())
        return loss if loss == loss else float("inf")

    def tuned_loss(self, denoiser: Denoiser, steps: int, learning_rate: float) -> float:
        """Fine-tunes a denoiser in place and measures its loss; infinite where it diverged."""
        try:
            self.tune(denoiser, steps, learning_rate)
        except NonFiniteLossError:
            return float("inf")
        return self.loss(denoiser)

    def tune(self, denoiser: Denoiser, steps: int, learning_rate: float) -> None:
        """Fine-tunes a denoiser in place, with a learning rate that decays to zero.

        Raises:
            NonFiniteLossError: It diverged.
        """
        self.tunings += 1
        steps = min(steps, _QUICK_STEPS) if self.is_quick else steps
        config = TrainingConfig(
            steps=steps,
            batch_size=_BATCH,
            learning_rate=learning_rate,
            warmup_steps=min(20, steps // 4),
            ema_decay=0.99,
        )
        generator = torch_generator("fine-tuning", self.seed, self.tunings)
        points = self.fitted
        noised, target = points.noised.float(), points.target.float()
        # Averaged targets are means, whatever the loss of training is.
        process = self.process.model_copy(update={"loss": "mse"})

        def draw(_: int) -> Batch:
            rows = torch.randint(len(noised), (_BATCH,), generator=generator)
            return Batch(noised[rows], points.timesteps[rows], {}, target[rows])

        with TrainingRun(denoiser, process, config, torch.device("cpu")) as run:
            optimize(run, draw)

    def noised(self, timestep: int, num: int) -> Tensor:
        """Draws noised points of one timestep, (num, d), the same ones at every call."""
        clean = self.draw.clean
        generator = torch_generator("points that are looked at", self.seed)
        rows = torch.randint(len(clean), (num,), generator=generator)
        noise = torch.randn(num, clean.shape[1], generator=generator, dtype=torch.float64)
        alpha, sigma = self.process.levels()
        return alpha[timestep] * clean[rows] + sigma[timestep] * noise

    def importance(
        self, denoiser: ReadableDenoiser, at: tuple[Tensor, int] | None = None
    ) -> Importance:
        """Measures the importance of edges on the draw, or on points (n, d) of one timestep."""
        every = max(1, len(self.draw.noised) // _PROBED)
        points, steps = self.draw.noised[::every], self.draw.timesteps[::every]
        if at is not None:
            points, steps = at[0], torch.full((len(at[0]),), at[1])
        with torch.no_grad():
            return Importance.of(denoiser.walk(points.to(denoiser.dtype), steps))
