r"""One training run: its state, and the two halves of a step.

The loss of a batch is computed over the coordinates that are not observed. An update computes its
gradient, sums it over processes, clips it, and moves the parameters and their moving average
(:mod:`.optimization`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor, nn

from kan_diffusion.denoisers.base import Denoiser
from kan_diffusion.errors import KanDiffusionError, NonFiniteLossError
from kan_diffusion.interrupts import interrupts_wait
from kan_diffusion.kan import out_of_range_fractions
from kan_diffusion.kan.importance import edge_penalty
from kan_diffusion.kan.linear import EdgeLayer
from kan_diffusion.processes import Process
from kan_diffusion.training import parallel
from kan_diffusion.training.batches import OBSERVED_SHARE, Batch
from kan_diffusion.training.config import TrainingConfig
from kan_diffusion.training.optimization import (
    ParameterVector,
    Plan,
    learning_rate,
    make_optimizer,
    update_average,
)

Ending = Literal["finished", "early", "time", "stopped"]
"""Why a run ended: all steps were taken; the held-out loss had not fallen for long; a time limit
set another number of steps than ``steps``, or ran out; a callback stopped it."""

_WATCHED_ROWS = 256
"""Samples of a batch that the penalty uses: it then costs less than the step itself."""

_FINITE_CHECK_EVERY = 50

_TIMED_STEPS = 60
"""Fewest steps before a budget of time has settled their number."""

_VALIDATIONS = 40
"""Most validations of a run."""

_FEWEST_VALIDATED, _MOST_VALIDATED = 256, 8192
"""Bounds on held-out points of a validation, ``_VALIDATED_SHARE`` of the points of all steps."""

_VALIDATED_SHARE = 1 / 400

_STEPS_A_VALIDATED_BATCH = 7
"""Steps between two validations for each batch of one. Such a batch has no backward pass and costs
a third of a step, so that all validations take at most 5 % of the time."""


def penalised_layers(module: nn.Module) -> list[EdgeLayer]:
    """Lists the layers of a module whose edges are functions of one input.

    Edges of gated layers are not, so gated layers are left out.

    Raises:
        KanDiffusionError: The module has no such layers.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, EdgeLayer)]
    if not layers:
        raise KanDiffusionError(
            f"sparsifying is for the edges of KAN layers, and {type(module).__name__} has "
            "none (those of gated layers are no functions of one input); leave it out or "
            "choose another family, such as 'full-kan' for points"
        )
    return layers


@contextmanager
def inputs_of(layers: Sequence[EdgeLayer]) -> Iterator[dict[EdgeLayer, Tensor]]:
    """Remembers what passes into layers inside the block, the first rows of the last batch."""
    inputs: dict[EdgeLayer, Tensor] = {}

    def remember(layer: EdgeLayer, given: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        inputs[layer] = (*given, *named.values())[0][:_WATCHED_ROWS]

    with ExitStack() as hooks:
        for layer in layers:
            hooks.callback(layer.register_forward_pre_hook(remember, with_kwargs=True).remove)
        yield inputs


class Clock:
    """Seconds that steps and validations take, on the wall and of the processor that trains.

    A GPU works behind the program, which therefore waits for it at both ends of what is timed; its
    processor seconds are those on the wall.

    Attributes:
        wall: Wall-clock seconds.
        processor: Processor seconds of all threads of this process, or of the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._started = 0.0, 0.0
        self.wall = 0.0
        self.processor = 0.0

    def _now(self) -> tuple[float, float]:
        if self._device.type == "cpu":
            return time.perf_counter(), time.process_time()
        torch.accelerator.synchronize(self._device)
        return (now := time.perf_counter()), now

    def start(self) -> None:
        """Begins to count."""
        self._started = self._now()

    def stop(self) -> None:
        """Adds the seconds since the start."""
        wall, processor = self._now()
        self.wall += wall - self._started[0]
        self.processor += processor - self._started[1]


class TrainingRun:
    """One training run.

    The denoiser's parameters are views of one vector inside the run's context.

    Args:
        denoiser: The denoiser, with its initial parameters; moved to the device.
        process: Noising process.
        config: How to train.
        device: Where to train.

    Attributes:
        step: Number of steps taken.
        plan: Which steps will be taken.
        ending: Why the run is over; None while it is not.
        averaged: The averaged weights, with shape (P,); without an average the weights themselves.
        validation: Held-out loss by step, of the averaged weights.
        best: Weights of the lowest one, with shape (P,); None before the first.
        best_step: Their step.
        batch: The batch of the last step.
        clock: Seconds of steps and validations.
        kept_in: The file that holds a good state.

    Raises:
        KanDiffusionError: The parameters, or their edges, cannot be trained so.
    """

    def __init__(
        self, denoiser: Denoiser, process: Process, config: TrainingConfig, device: torch.device
    ) -> None:
        # A denoiser that has no edges to penalise is refused before anything of it is changed.
        self._layers = penalised_layers(denoiser) if config.sparsify > 0 else []
        self._inputs: dict[EdgeLayer, Tensor] = {}
        self.config = config
        self.process = process
        self.device = device
        self.denoiser = denoiser.to(device).train()
        self.weights = ParameterVector(self.denoiser)
        self.optimizer = make_optimizer(config.optimizer, self.weights, config.learning_rate)
        steps = config.steps
        if config.processor_seconds is not None:  # a first guess, large enough not to end it
            steps = max(steps, _TIMED_STEPS)
        self.plan = Plan(total=steps, steps=steps)
        self.averaged = self.weights.vector.detach()
        if config.ema_decay is not None:
            self.averaged = self.averaged.clone()
        self.clock = Clock(device)
        self.step = 0
        self.ending: Ending | None = None
        self.batch: Batch | None = None
        self.validation: dict[int, float] = {}
        self.best_step = 0
        self.best: Tensor | None = None
        self.kept_in: Path | None = None
        self._request: Ending | None = None
        self.begin_at(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Makes the denoiser an ordinary module again."""
        self.weights.release()

    # Steps

    def steps(self) -> Iterator[int]:
        """Yields the number of each step until the run ends, and says then why.

        Raises:
            NonFiniteLossError: A loss or a parameter is not finite.
        """
        while not self.is_ending:
            if self.step % _FINITE_CHECK_EVERY == 0:
                self.require_finite()
            self.clock.start()
            yield self.step
        self.require_finite()
        finished: Ending = "finished" if self.plan.steps == self.config.steps else "time"
        self.ending = self._request or finished

    @property
    def is_settled(self) -> bool:
        """Whether a limit of time, if there is one, has settled the number of steps."""
        limit = self.config.max_seconds or self.config.processor_seconds
        return limit is None or self.plan.since > 0

    @property
    def is_ending(self) -> bool:
        """Whether no step follows."""
        return self._request is not None or self.step >= self.plan.steps

    def stop(self, reason: Ending = "stopped") -> None:
        """Ends training before the next step, where it does not end anyway."""
        if not self.is_ending:
            self._request = reason

    def loss(self, batch: Batch) -> Tensor:
        """Computes the loss of this process's part of a batch, weighted by its share of rows."""
        self.batch = batch
        total, rows = len(batch.noised), parallel.rows_here(len(batch.noised))
        share = (rows.stop - rows.start) / total
        if share == 1:
            return self.forward(batch)
        # The last batch of an epoch may leave nothing: one row of weight 0.
        return share * self.forward(batch.rows(rows if share > 0 else slice(1)))

    def update(self, loss: Tensor) -> None:
        """Moves the parameters and their average by a loss, and counts the step."""
        minimised = loss
        if self._layers:
            weight = self.config.sparsify / parallel.num_processes()
            edges = [layer.edge_outputs(input).float() for layer, input in self._inputs.items()]
            minimised = loss + weight * edge_penalty(edges)
        minimised.backward()
        self.weights.collect_gradients()
        loss = parallel.sum_over_processes(self.weights.gradient, loss.detach())
        if self.config.max_grad_norm is not None:
            self.weights.clip_gradient(self.config.max_grad_norm)
        rate = learning_rate(self.config, self.plan, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with interrupts_wait():  # half an update is no state to save
            with self.weights.at_rates():
                self.optimizer.step()
            if (decay := self.config.ema_decay) is not None:
                update_average(self.averaged, self.weights.vector.detach(), decay, self.step)
            self._losses.append(loss)
            self._rates.append(torch.tensor(rate, dtype=torch.float64))
            self.step += 1
            self.clock.stop()

    def forward(self, batch: Batch) -> Tensor:
        """Computes the loss of a batch, over the coordinates that are not observed."""
        given = {**batch.conditions, "return_dict": False}
        mixed = self.config.mixed_precision == "bf16"
        precision = torch.autocast(self.device.type, torch.bfloat16) if mixed else nullcontext()
        with inputs_of(self._layers) as self._inputs, precision:
            prediction: Tensor = self.denoiser(batch.noised, batch.timesteps, **given)[0]
        if mixed:
            prediction = prediction.float()
        if (observed := batch.conditions.get("observed")) is None:
            return self.process.loss_of(prediction, batch.target)
        prediction = torch.where(observed.isnan(), prediction, batch.target)
        # Divided by the expected share, because the batch's own differs between processes.
        return self.process.loss_of(prediction, batch.target) / (1 - OBSERVED_SHARE)

    # What is known of the run

    @property
    def num_validated(self) -> int:
        """Number of batches of a validation; it changes only where the steps are first settled."""
        size = self.config.batch_size
        points = _VALIDATED_SHARE * self.plan.total * size
        return math.ceil(min(max(points, _FEWEST_VALIDATED), _MOST_VALIDATED) / size)

    @property
    def stretch(self) -> int:
        """Steps between two validations."""
        return max(self.plan.steps // _VALIDATIONS, _STEPS_A_VALIDATED_BATCH * self.num_validated)

    def scaled(self, step: int) -> float:
        """A number of steps, scaled so that training ends at ``config.steps``."""
        return self.config.steps * step / self.plan.steps

    def begin_at(self, step: int) -> None:
        """Begins after so many steps, whose losses and learning rates are to be filled in."""
        self.step = step
        self._losses: list[Tensor] = [torch.empty(step, device=self.device)]
        self._rates: list[Tensor] = [torch.empty(step, dtype=torch.float64)]

    def losses(self) -> Tensor:
        """The losses of the steps taken, with shape (step,)."""
        self._losses = [torch.cat([losses.reshape(-1) for losses in self._losses])]
        return self._losses[0]

    @property
    def learning_rates(self) -> Tensor:
        """The learning rates of the steps taken, with shape (step,), float64, on the CPU."""
        self._rates = [torch.cat([rates.reshape(-1) for rates in self._rates])]
        return self._rates[0]

    def require_finite(self) -> None:
        """Checks losses and parameters; a NaN, once there, stays.

        Raises:
            NonFiniteLossError: One of them is not finite.
        """
        losses = self.losses()
        wrong = (~torch.isfinite(losses)).nonzero()
        # The last step may have spoilt the parameters; its loss, computed before, is still finite.
        if len(wrong) == 0 and bool(torch.isfinite(self.weights.vector).all()):
            return
        fault = f"parameters became NaN or infinite at step {self.step:,}"
        if len(wrong) > 0:
            first = int(wrong[0])
            fault = f"loss became {float(losses[first])} at step {first + 1:,}"
        kept = "no checkpoint was kept"
        if self.kept_in is not None:
            kept = f"the last good state is kept in '{self.kept_in}'"
        raise NonFiniteLossError(
            f"the {fault} of {self.plan.steps:,} with learning rate "
            f"{self.config.learning_rate:g}; {kept}; lower the learning rate"
        )

    def out_of_range(self, batch: Batch, rows: int | None = None) -> dict[str, float]:
        """Fraction of out-of-range inputs of each KAN layer on the first rows of a batch."""
        part = batch.rows(slice(rows))
        given = {**part.conditions, "return_dict": False}  # a tuple, as in a step
        return out_of_range_fractions(self.denoiser, part.noised, part.timesteps, **given)

    # Weights

    @property
    def kept(self) -> Tensor:
        """The weights to end with, shape (P,): the best or, without held-out points, averaged."""
        return self.averaged if self.best is None else self.best

    @contextmanager
    def lent(self, values: Tensor) -> Iterator[Denoiser]:
        """Puts weights (P,) in place inside the block, in eval mode and without gradients."""
        self.denoiser.eval()
        with torch.no_grad(), self.weights.lent(values):
            yield self.denoiser
        self.denoiser.train()

    def settle(self) -> None:
        """Sets the weights to those to end with, in eval mode."""
        self.weights.vector.detach().copy_(self.kept)
        self.denoiser.eval()


Callback = Callable[[TrainingRun], object]
"""Called before the first step, after each, and once at the end, when ``ending`` says why."""
