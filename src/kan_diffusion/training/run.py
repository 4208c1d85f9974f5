r"""A training run: its settings, its state, the parts of a step and its checkpoints.

A run with held-out points keeps the best weights and can stop early. At steps
:math:`s_1 < s_2 < \dots` it computes the loss of the averaged weights on one fixed draw of
held-out points, timesteps and noise, and keeps the weights of the lowest loss.

A run with a limit of S wall-clock seconds settles its number of steps after the first few: with
t(s) the seconds until step s and p the seconds per step, it will take

.. math:: K = s + (0.95\, S - t(s)) / p

steps, and its learning rate decays to zero at step K. If the machine becomes slower, K is reduced
and the rest of the schedule is compressed. A run of S seconds of processor time computes K from
processor time and without the reserve of 5 %, and later corrects it in both directions.

A checkpoint is one safetensors file with everything a run needs to continue as if it had never
stopped: parameters, the optimiser's state, the moving average, the best weights, the losses so far,
the step, and the settled number of steps. It is always replaced as a whole.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import torch
from pydantic import Field, FiniteFloat, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

from kan_diffusion import limits
from kan_diffusion.denoisers.base import Denoiser
from kan_diffusion.errors import KanDiffusionError, NonFiniteLossError, RunFolderError
from kan_diffusion.files import require_file, require_tensors, write_bytes
from kan_diffusion.interrupts import interrupts_wait
from kan_diffusion.kan import out_of_range_fractions
from kan_diffusion.kan.importance import edge_penalty
from kan_diffusion.kan.linear import EdgeLayer
from kan_diffusion.processes import Process
from kan_diffusion.ranks import is_main_process
from kan_diffusion.settings import Settings
from kan_diffusion.training import parallel
from kan_diffusion.training.batches import TOLD_SHARE, Batch, Timesteps
from kan_diffusion.training.optimization import (
    OptimizerName,
    ParameterVector,
    WeightAverage,
    learning_rates,
    make_optimizer,
    restore_state,
    state_of,
)

__all__ = [
    "BYTES_A_PARAMETER",
    "EdgeWatch",
    "Ending",
    "MomentCallback",
    "TrainingConfig",
    "TrainingRun",
    "num_held_out",
    "read_checkpoint_identity",
]

Ending = Literal["finished", "early", "time", "stopped"]
"""Why a run ended: all steps were taken; the held-out loss had not fallen for long; a time limit
set another number of steps than ``steps``, or ran out; a callback stopped it."""

MomentCallback = Callable[[int, Denoiser], None]
"""Called at chosen steps with the step and the denoiser with its EMA weights of that step."""


BYTES_A_PARAMETER = 40
"""Bytes on the disk while it is trained: weights, two moments, average and best weights in float32,
in a checkpoint and in the last one, which stands until it is replaced."""

_ENOUGH_HELD_OUT, _MOST_HELD_OUT = 50, 5_000
_FEWEST_ROWS = 10
"""Rows below which none is held out: too few would be left to learn from."""


def num_held_out(num_rows: int) -> int:
    """Number of rows to hold out of training, so that it can stop early.

    A tenth, at most 5,000; of few rows up to a fifth, since the loss on ten rows is luck.
    """
    if num_rows < _FEWEST_ROWS:
        return 0
    return min(max(num_rows // 10, min(num_rows // 5, _ENOUGH_HELD_OUT)), _MOST_HELD_OUT)


class TrainingConfig(Settings):
    """Settings of training.

    Attributes:
        steps: Number of optimiser steps.
        batch_size: Samples per step; with ``batches="replacement"``, it may exceed the data's.
        timesteps: ``"uniform"``, or ``"logit-normal"``, see :mod:`.batches`.
        batches: ``"replacement"`` draws every batch afresh; ``"epochs"`` goes through the data in
            random order, and the last batch of an epoch holds the rest.
        optimizer: ``"adam"``, ``"soap"`` or ``"muon"``, see :mod:`.optimization`.
        learning_rate: Peak learning rate, in the size that suits Adam.
        schedule: ``"cosine"`` decays to zero after the warm-up, ``"constant"`` stays at the peak.
        warmup_steps: Steps over which the learning rate rises linearly from zero.
        ema_decay: Decay of the moving average of the parameters; None turns it off. The decay
            itself warms up as (1 + k) / (10 + k).
        max_grad_norm: Norm to which the gradient is clipped; None turns clipping off.
        checkpoint_every: Steps between checkpoints.
        mixed_precision: ``"bf16"`` computes what the network computes in bfloat16 where torch's
            autocast does; ``"no"`` in the precision of its weights.
        sparsify: Weight of a penalty, added to the loss, on sizes and entropies of the edges of KAN
            layers other than gated ones (:mod:`kan_diffusion.kan.importance`); 0 for none.
        patience: Training stops when the held-out loss has not improved for this fraction of the
            steps; None never stops early. Needs held-out points.
        max_seconds: Wall-clock seconds that training may take, compilation of kernels and what is
            ``reserved`` for what comes before and after it included; the number of steps then
            follows from the machine's speed and is at most ``steps``. Two runs of one seed then
            differ. None for no limit.
        processor_seconds: Seconds of processor time that training takes, within a few per cent; the
            number of steps then follows from the machine's speed and ``steps`` has no effect on it.
            Two runs of one seed then differ. None for ``steps`` steps.
    """

    steps: int = Field(2500, ge=1, le=limits.MOST_STEPS)
    batch_size: int = Field(2048, ge=1, le=limits.MOST_POINTS)
    batches: Literal["replacement", "epochs"] = "replacement"
    timesteps: Timesteps = "uniform"
    optimizer: OptimizerName = "adam"
    learning_rate: float = Field(5e-3, gt=0, allow_inf_nan=False)
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: int = Field(100, ge=0, le=limits.MOST_STEPS)
    ema_decay: float | None = Field(0.999, gt=0, lt=1)
    max_grad_norm: float | None = Field(1.0, gt=0)
    checkpoint_every: int = Field(1000, ge=1, le=limits.MOST_STEPS)
    mixed_precision: Literal["no", "bf16"] = "no"
    sparsify: float = Field(0.0, ge=0, allow_inf_nan=False)
    patience: float | None = Field(None, gt=0, le=1)
    max_seconds: float | None = Field(None, gt=0, le=limits.MOST_SECONDS)
    processor_seconds: float | None = Field(None, gt=0, le=limits.MOST_SECONDS)

    @model_validator(mode="after")
    def _one_clock(self) -> Self:
        if self.max_seconds is not None and self.processor_seconds is not None:
            raise KanDiffusionError(
                "max_seconds and processor_seconds both settle the number of steps; give one"
            )
        return self


_WATCHED_ROWS = 256
"""Samples of a batch that the penalty uses: it then costs less than the step itself."""

_PROGRESS = ("step", "seconds", "cpu_seconds", "warm_seconds", "paused", "best_step")

_Step = Annotated[int, Field(ge=0, le=limits.MOST_STEPS)]


class _Progress(Settings):
    """What a checkpoint holds beside tensors; see :class:`TrainingRun` for its parts."""

    step: _Step
    seconds: FiniteFloat
    cpu_seconds: FiniteFloat
    warm_seconds: FiniteFloat
    paused: _Step
    best_step: _Step
    plans: Annotated[tuple[tuple[_Step, _Step], ...], Field(max_length=1_000)]
    validation: tuple[tuple[_Step, float], ...]
    optimizer: dict[str, object]
    ema_step: _Step = 0


_PAUSES = 40
"""Most validations, with a look at the clock, in a run."""

_VALIDATIONS_OF_PATIENCE = 3
"""Fewest validations without a better loss after which a run ends."""

_FEWEST_VALIDATED, _MOST_VALIDATED = 256, 8192
"""Bounds on held-out points of a validation, ``_VALIDATED_SHARE`` of the points of all steps."""

_VALIDATED_SHARE = 1 / 400

_STEPS_A_VALIDATED_BATCH = 7
"""Steps between two validations for each batch of one. Such a batch has no backward pass and costs
a third of a step, so that all validations take at most 5 % of the time."""

_WARM_STEPS, _TIMED_STEPS = 5, 30
"""The steps between these two are timed: compilation and cold caches come before them."""

_TIMED_SHARE = 0.1
"""Share of a time limit after which fewer timed steps are enough."""

_RESERVE = 0.05
"""Share of a time limit that the settled number of steps leaves free."""

_MOST_RESERVED = 0.8
"""Largest share of a time limit that is not for steps."""


class EdgeWatch:
    """Remembers the inputs of the layers of a module whose edges are functions of one input.

    Edges of gated layers are not, so gated layers are left out.

    Raises:
        KanDiffusionError: The module has no such layers.
    """

    def __init__(self, module: nn.Module) -> None:
        self._inputs: dict[EdgeLayer, Tensor] = {}
        layers = [layer for layer in module.modules() if isinstance(layer, EdgeLayer)]
        if not layers:
            raise KanDiffusionError(
                f"sparsifying is for the edges of KAN layers, and {type(module).__name__} has "
                "none (those of gated layers are no functions of one input); leave it out or "
                "choose another family, such as 'full-kan'"
            )
        self._handles = [
            layer.register_forward_pre_hook(self._remember, with_kwargs=True) for layer in layers
        ]

    def _remember(
        self, layer: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]
    ) -> None:
        assert isinstance(layer, EdgeLayer)
        self._inputs[layer] = (*inputs, *named.values())[0][:_WATCHED_ROWS]

    def penalty(self) -> Tensor:
        """Computes sizes plus entropies of the edges in the last forward pass, and forgets it."""
        outputs = [layer.edge_outputs(input) for layer, input in self._inputs.items()]
        self._inputs.clear()
        with torch.autocast(outputs[0].device.type, enabled=False):
            return edge_penalty([values.float() for values in outputs])

    def release(self) -> None:
        """Stops watching."""
        for handle in self._handles:
            handle.remove()
        self._inputs.clear()


class TrainingRun:
    """The state of one training run, which checkpoints save, and the parts of a step.

    The denoiser's parameters are views of one vector until :meth:`release`.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        process: Process,
        config: TrainingConfig,
        device: torch.device,
        reserved: float = 0.0,
    ) -> None:
        # A denoiser that has no edges to watch is refused before anything of it is changed.
        self._edges = EdgeWatch(denoiser) if config.sparsify > 0 else None
        self.config = config
        self.process = process
        self.device = device
        self.denoiser = denoiser.to(device).train()
        with ExitStack() as undone:  # where one of them is refused
            if self._edges is not None:
                undone.callback(self._edges.release)
            self.weights = ParameterVector(self.denoiser)
            undone.callback(self.weights.release)
            self.optimizer = make_optimizer(config.optimizer, self.weights, config.learning_rate)
            undone.pop_all()
        self.steps = config.steps
        """Number of steps the run will take if it does not end before."""
        if config.processor_seconds is not None:  # a first guess, large enough not to end it
            self.steps = max(config.steps, 2 * _TIMED_STEPS)
        self.plans: list[tuple[int, int]] = []
        """Step at which the number of steps was settled, and that number."""
        self._rates = self._schedule(self.steps)
        self.average: WeightAverage | None = None
        if config.ema_decay is not None:
            self.average = WeightAverage(self.weights.vector, config.ema_decay)
        self.step = 0
        self.whole = True
        """False while a step or a swap of weights is under way: no state to save then."""
        self.seconds = 0.0
        self.reserved = min(reserved, _MOST_RESERVED * (config.max_seconds or 0.0))
        self.cpu_seconds = 0.0
        self.warm_seconds = 0.0  # before the steps that are timed
        self.paused = 0  # step of the last look at clock and held-out loss
        self.validation: list[tuple[int, float]] = []
        self.best_step = 0
        self._best: Tensor | None = None
        self._heldout: list[Batch] = []
        self._losses = torch.zeros(self.steps, device=device)
        self._recent: list[Tensor] = []  # losses not yet written into _losses
        self._stopped = False
        self._num_checked = 0  # how many of the losses are known to be finite

    def advance(self, batch: Batch) -> None:
        """Takes one optimiser step."""
        loss = self.differentiate(batch)
        with interrupts_wait():  # half an update is no state to save
            self.whole = False
            self.optimize()
            self.update_average()
            self._recent.append(loss)
            self.step += 1
            self.whole = True

    def differentiate(self, batch: Batch) -> Tensor:
        """Computes the clipped gradient, and returns the loss without the penalty."""
        total, rows = len(batch.noised), parallel.own_rows(len(batch.noised))
        part, weight = batch, (rows.stop - rows.start) / total
        if weight < 1:  # the last batch of an epoch may leave nothing: one row of weight 0
            part = batch.rows(rows if weight > 0 else slice(1))
        loss = minimised = self.forward(part)
        if self._edges is not None:
            minimised = minimised + self.config.sparsify * self._edges.penalty()
        if weight < 1:
            loss, minimised = weight * loss, weight * minimised
        self.backward(minimised)
        loss = self.collect(loss.detach())
        self.clip()
        return loss

    def _schedule(self, steps: int) -> np.ndarray:
        config = self.config
        return learning_rates(config.schedule, config.learning_rate, config.warmup_steps, steps)

    @property
    def learning_rates(self) -> np.ndarray:
        """The learning rate of every step taken, with shape (step,)."""
        return self._rates[: self.step].copy()

    @property
    def ending(self) -> Ending | None:
        """Why the run is over; None while it is not."""
        patience, limit = self.config.patience, self.config.max_seconds
        if self._stopped:
            return "stopped"
        if self.step >= self.steps:
            return "finished" if self.steps == self.config.steps else "time"
        if limit is not None and self._elapsed() >= limit:
            return "time"
        if patience is not None:
            waited = self.step - self.best_step
            if waited >= max(patience * self.steps, _VALIDATIONS_OF_PATIENCE * self._stretch):
                return "early"
        return None

    def stop(self) -> None:
        """Ends training before the next step, as a callback may ask for."""
        self._stopped = True

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Adds the time of the block to the seconds of the run."""
        started, cpu_started = time.perf_counter(), time.process_time()
        yield
        self.seconds += time.perf_counter() - started
        self.cpu_seconds += time.process_time() - cpu_started

    def pause(self, heldout: Callable[[int], Batch] | None) -> None:
        """Between two steps, settles the number of steps and computes the held-out loss if due.

        Args:
            heldout: Gives batches of held-out points by number; None where there are none.
        """
        limit = self.config.max_seconds or self.config.processor_seconds
        if limit is not None and not self.plans and self.step < self.steps:
            late = self._elapsed() - self.reserved > _TIMED_SHARE * limit
            if self.step == _WARM_STEPS:
                self.warm_seconds = self._elapsed()
            elif self.step >= (_WARM_STEPS if late else _TIMED_STEPS):
                self._settle_steps(limit)
        elif self.step > self.paused and (
            self.step == self.steps or self.step - self.paused >= self._stretch
        ):
            if limit is not None and self.plans and self.step < self.steps:
                self._settle_steps(limit)
            if heldout is not None:
                with self.timed():
                    self._validate(heldout)
            self.paused = self.step

    def conclude(self, heldout: Callable[[int], Batch] | None) -> None:
        """At the end, computes the held-out loss of the last step if it is still missing."""
        if heldout is not None and self.step > self.paused:
            self._validate(heldout)

    @property
    def _num_validated(self) -> int:
        """Number of batches of a validation, settled with the number of steps."""
        size = self.config.batch_size
        steps = self.plans[0][1] if self.plans else self.config.steps
        points = min(max(_VALIDATED_SHARE * steps * size, _FEWEST_VALIDATED), _MOST_VALIDATED)
        return math.ceil(points / size)

    @property
    def _stretch(self) -> int:
        """Steps between two pauses."""
        return max(self.steps // _PAUSES, _STEPS_A_VALIDATED_BATCH * self._num_validated)

    def _elapsed(self) -> float:
        """Seconds of the limit so far, averaged over processes so that all decide alike."""
        limited = self.config.processor_seconds is None
        seconds = self.seconds + self.reserved if limited else self.cpu_seconds
        if parallel.num_processes() == 1:
            return seconds
        total = parallel.summed(torch.tensor(seconds, device=self.device))
        return float(total) / parallel.num_processes()

    def _settle_steps(self, limit: float) -> None:
        elapsed = self._elapsed()
        pace = (elapsed - self.warm_seconds) / (self.step - _WARM_STEPS)
        if self.config.processor_seconds is not None:
            self._follow(self.step, self.step + max(0, round((limit - elapsed) / pace)))
        elif not self.plans or elapsed + pace * (self.steps - self.step) > limit:
            affordable = max(0.0, (1 - _RESERVE) * limit - elapsed) / pace
            self._follow(self.step, min(self.steps, self.step + int(affordable)))

    def _follow(self, step: int, steps: int) -> None:
        """Settles the number of steps, first with a new schedule, then by resampling its rest."""
        ahead = self._rates[step:]
        if not self.plans:
            ahead = self._schedule(steps)[step:]
        elif len(ahead):
            places = np.linspace(0, len(ahead) - 1, steps - step)
            ahead = np.interp(places, np.arange(len(ahead)), ahead)
        self._rates = np.concatenate([self._rates[:step], ahead])
        if steps > len(self._losses):
            more = self._losses.new_zeros(steps - len(self._losses))
            self._losses = torch.cat([self._losses, more])
        self.steps = steps
        self.plans.append((step, steps))

    def _validate(self, heldout: Callable[[int], Batch]) -> None:
        """Computes the held-out loss of the averaged weights, and keeps the best weights."""
        if not self._heldout:
            self._heldout = [heldout(number) for number in range(self._num_validated)]
        with self._lent(self._average_values()):
            loss = float(torch.stack([self.forward(batch) for batch in self._heldout]).mean())
        self.validation.append((self.step, loss if math.isfinite(loss) else math.inf))
        if loss <= min(known for _, known in self.validation):
            self.best_step = self.step
            self._best = self._average_values().clone()

    def forward(self, batch: Batch) -> Tensor:
        """Computes the loss of a batch, over the coordinates that are not observed."""
        given = {**batch.conditions, "return_dict": False}
        mixed = self.config.mixed_precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16) if mixed else nullcontext():
            prediction: Tensor = self.denoiser(batch.noised, batch.timesteps, **given)[0]
        if mixed:
            prediction = prediction.float()
        if (observed := batch.observed) is None:
            return self.process.loss_of(prediction, batch.target)
        prediction = torch.where(observed.isnan(), prediction, batch.target)
        # Divided by the expected share, because the batch's own differs between processes.
        return self.process.loss_of(prediction, batch.target) / (1 - TOLD_SHARE)

    def backward(self, loss: Tensor) -> None:
        """Computes the gradients of the parameters."""
        loss.backward()

    def collect(self, loss: Tensor) -> Tensor:
        """Moves gradients to the parameter vector, and sums them and the loss over processes."""
        self.weights.collect_gradients()
        gradient = self.weights.vector.grad
        if parallel.num_processes() > 1 and gradient is not None:
            both = parallel.summed(torch.cat([gradient, loss.reshape(1).to(gradient)]))
            gradient.copy_(both[:-1])
            loss = both[-1]
        return loss

    def clip(self) -> None:
        """Clips the gradient's norm."""
        if self.config.max_grad_norm is not None:
            self.weights.clip_gradient(self.config.max_grad_norm)

    def optimize(self) -> None:
        """Updates the parameters by the optimiser."""
        for group in self.optimizer.param_groups:
            group["lr"] = float(self._rates[self.step])
        with self.weights.at_rates():
            self.optimizer.step()

    def update_average(self) -> None:
        """Updates the moving average of the parameters."""
        if self.average is not None:
            self.average.update()

    def losses(self) -> Tensor:
        """The losses of the steps taken, with shape (step,)."""
        if self._recent:
            self._losses[self.step - len(self._recent) : self.step] = torch.stack(self._recent)
            self._recent.clear()
        return self._losses[: self.step]

    def fault(self) -> str | None:
        """Says what is not finite and since which step, else None; a NaN, once there, stays."""
        losses = self.losses()
        finite = torch.isfinite(losses[self._num_checked :])
        if not bool(finite.all()):
            first = self._num_checked + int((~finite).nonzero()[0])
            return f"loss became {float(losses[first])} at step {first + 1:,}"
        self._num_checked = self.step
        # The last step may have spoilt the parameters; its loss, computed before, is still finite.
        if not bool(torch.isfinite(self.weights.vector).all()):
            return f"parameters became NaN or infinite at step {self.step:,}"
        return None

    def require_finite(self, checkpoint: Path | None) -> None:
        """Raises when a loss or a parameter is not finite."""
        if fault := self.fault():
            kept = "no checkpoint was kept"
            if checkpoint is not None and checkpoint.exists():
                kept = f"the last good state is kept in '{checkpoint}'"
            raise NonFiniteLossError(
                f"the {fault} of {self.steps:,} with learning rate "
                f"{self.config.learning_rate:g}; {kept}; lower the learning rate"
            )

    def out_of_range(self, batch: Batch, rows: int | None = None) -> dict[str, float]:
        """Fraction of out-of-range inputs of each KAN layer on the first rows of a batch."""
        part = batch.rows(slice(rows))
        given = {**part.conditions, "return_dict": False}  # a tuple, as in a step
        return out_of_range_fractions(self.denoiser, part.noised, part.timesteps, **given)

    def save(self, path: Path, identity: str) -> None:
        """Writes the state to ``path``, whole or not at all, in the main process alone."""
        if not is_main_process():
            return
        tensors = {f"denoiser.{k}": v for k, v in self.denoiser.state_dict().items()}
        # Everything is saved by parameter, so that files do not depend on the vector's layout.
        state, moments = state_of(self.optimizer, self.weights)
        tensors |= moments
        if self.average is not None:
            parts = self.weights.split(self.average.values)
            tensors |= {f"ema.{index}": part for index, part in enumerate(parts)}
        if self._best is not None:
            parts = self.weights.split(self._best)
            tensors |= {f"best.{index}": part for index, part in enumerate(parts)}
        tensors["losses"] = self.losses()
        tensors = {k: v.detach().to("cpu", copy=True).contiguous() for k, v in tensors.items()}
        progress = {name: getattr(self, name) for name in _PROGRESS}
        progress |= {"plans": self.plans, "validation": self.validation, "optimizer": state}
        progress["ema_step"] = 0 if self.average is None else self.average.num_updates
        metadata = {"identity": identity, "progress": json.dumps(progress)}
        metadata["digest"] = _digest(tensors, metadata)
        with interrupts_wait():
            write_bytes(path, safetensors_bytes(tensors, metadata=metadata))

    def load(self, path: Path, identity: str) -> bool:
        """Restores the state that ``path`` holds.

        Returns:
            Whether there is a file. Another process may finish the run and remove the file at any
            moment.

        Raises:
            RunFolderError: The file is not a checkpoint, was changed, or is one of another run or
                version.
        """
        try:
            size = self.weights.vector.nbytes
            require_file(path, max(limits.MOST_CHECKPOINT_BYTES, limits.MOST_TIMES_WEIGHTS * size))
            if read_checkpoint_identity(path) != identity:
                raise RunFolderError(
                    f"'{path}' is the checkpoint of a run with other settings; give the settings "
                    "it was started with, or another folder with --out"
                )
            with safe_open(path, framework="pt", device=str(self.device)) as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                metadata = file.metadata()
            if metadata.pop("digest", None) != _digest(tensors, metadata):
                raise RunFolderError(
                    f"'{path}' has changed since it was written; delete it to begin anew"
                )
        except FileNotFoundError:
            return False
        except (OSError, SafetensorError) as error:
            raise RunFolderError(f"'{path}' cannot be read ({error}); delete it") from error
        self.whole = False
        with self.resuming(path):
            self._restore(tensors, _Progress.model_validate_json(metadata["progress"]))
        self.whole = True
        return True

    @contextmanager
    def resuming(self, path: Path | None) -> Iterator[None]:
        """Turns whatever a stranger's checkpoint makes fail into one line, unless it is None.

        Raises:
            RunFolderError: Something fails.
        """
        try:
            yield
        except KanDiffusionError:
            raise
        except Exception as error:  # a state of an optimiser may be wrong in many ways
            if path is None:
                raise
            raise RunFolderError(
                f"'{path}' is not a checkpoint of this version of kan-diffusion ({error}); delete "
                "it to begin anew"
            ) from error

    def _restore(self, tensors: Mapping[str, Tensor], progress: _Progress) -> None:
        """Restores the state that :meth:`save` has written.

        Raises:
            KeyError: A part is missing.
            RuntimeError: Weights are missing, or of another shape.
            ValueError: Layouts need more memory than the tensors have.
        """
        own = "denoiser."
        state = {k.removeprefix(own): v for k, v in tensors.items() if k.startswith(own)}
        self.denoiser.load_state_dict(state)

        def joined(name: str) -> Tensor:
            return self.weights.join([tensors[name.format(i)] for i in range(len(self.weights))])

        restore_state(self.optimizer, self.weights, progress.optimizer, tensors)
        if self.average is not None:
            self.average.values = joined("ema.{}")
            self.average.num_updates = progress.ema_step
        if "best.0" in tensors:
            self._best = joined("best.{}")
        for name in _PROGRESS:
            setattr(self, name, getattr(progress, name))
        self.validation = list(progress.validation)
        for step, steps in progress.plans:
            self._follow(step, steps)
        self._losses[: self.step] = tensors["losses"]

    def show(self, callback: MomentCallback, *, kept: bool = False) -> None:
        """Calls a callback with the denoiser, in the main process alone.

        Args:
            callback: The callback.
            kept: Whether it gets the weights that are kept at the end, not the averaged ones.
        """
        if not is_main_process():
            return
        with self._lent(self._kept_values() if kept else self._average_values()):
            callback(self.step, self.denoiser)

    def _kept_values(self) -> Tensor:
        """The best weights or, without held-out points, the averaged ones, with shape (P,)."""
        return self._average_values() if self._best is None else self._best

    def _average_values(self) -> Tensor:
        """The averaged weights, with shape (P,); the weights themselves without an average."""
        if self.average is not None and self.average.num_updates > 0:
            return self.average.values
        return self.weights.vector.detach()

    @contextmanager
    def _lent(self, values: Tensor) -> Iterator[None]:
        """Puts weights (P,) in place inside the block, in eval mode and without gradients."""
        self.denoiser.eval()
        self.whole = False
        try:
            with torch.no_grad(), self.weights.lent(values):
                yield
        finally:  # a callback that is interrupted leaves the weights in training as they were
            self.whole = True
        self.denoiser.train()

    def settle(self) -> None:
        """Sets the weights to the best ones or, without held-out points, to the EMA weights."""
        self.whole = False
        self.weights.vector.detach().copy_(self._kept_values())
        self.denoiser.eval()

    def release(self) -> None:
        """Makes the denoiser an ordinary module again."""
        if self._edges is not None:
            self._edges.release()
        self.weights.release()


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """The SHA-256 digest of a checkpoint's content."""
    total = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].cpu().reshape(-1)
        total.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        total.update(tensor.view(torch.uint8).numpy().data)
    return total.hexdigest()


def read_checkpoint_identity(path: Path) -> str:
    """Reads the identity of the run that a checkpoint belongs to, as given to :func:`train`.

    Raises:
        FileNotFoundError: There is no file.
        RunFolderError: The file is not a checkpoint.
    """
    try:
        require_tensors(path)
        with safe_open(path, framework="pt") as file:
            return str((file.metadata() or {})["identity"])
    except FileNotFoundError:
        raise
    except (SafetensorError, KeyError, OSError) as error:
        raise RunFolderError(
            f"'{path}' is not a checkpoint of kan-diffusion; delete it or choose another folder "
            "with --out"
        ) from error
