"""A training run: its settings, its state, the parts of a step and its checkpoints.

A checkpoint is one safetensors file with everything a run needs to go on as if it had never
stopped: parameters, Adam's moments, the moving average, the losses so far and the step. It is
replaced whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

from kan_diffusion.denoisers.base import Denoiser
from kan_diffusion.errors import KanDiffusionError, NonFiniteLossError, RunFolderError
from kan_diffusion.files import write_bytes
from kan_diffusion.interrupts import interrupts_wait
from kan_diffusion.kan import KANLinear, out_of_range_fractions
from kan_diffusion.kan.importance import sparsity_penalty
from kan_diffusion.limits import MOST_POINTS, MOST_STEPS
from kan_diffusion.processes import Process
from kan_diffusion.settings import Settings
from kan_diffusion.training.batches import TOLD_SHARE, Batch
from kan_diffusion.training.optimization import ParameterVector, WeightAverage, learning_rates

__all__ = [
    "EdgeWatch",
    "MomentCallback",
    "TrainingConfig",
    "TrainingRun",
    "read_checkpoint_identity",
]

MomentCallback = Callable[[int, Denoiser], None]
"""Called at chosen steps with the step and the denoiser as it is then, EMA weights in place."""


class TrainingConfig(Settings):
    """Settings of training.

    Attributes:
        steps: Number of optimiser steps.
        batch_size: Points a step; with ``batches="replacement"`` it may exceed the data's rows.
        batches: ``"replacement"`` draws every batch afresh; ``"epochs"`` goes through the data in
            random order, the last batch of an epoch being what is left.
        learning_rate: Peak learning rate of Adam.
        schedule: ``"cosine"`` decays to zero after the warm-up, ``"constant"`` stays at the peak.
        warmup_steps: Steps over which the learning rate rises linearly from zero.
        ema_decay: Decay of the moving average of the parameters; None turns it off. The decay
            itself warms up as (1 + k) / (10 + k).
        max_grad_norm: Norm to which the gradient is clipped; None turns it off.
        checkpoint_every: Steps between checkpoints.
        mixed_precision: ``"no"``, ``"bf16"`` or ``"fp16"``, as accelerate has it.
        sparsify: Weight of a penalty on sizes and entropies of the edges of KAN layers
            (:mod:`kan_diffusion.kan.importance`) beside the loss; 0 for none.
    """

    steps: int = Field(4000, ge=1, le=MOST_STEPS)
    batch_size: int = Field(1024, ge=1, le=MOST_POINTS)
    batches: Literal["replacement", "epochs"] = "replacement"
    learning_rate: float = Field(5e-3, gt=0, allow_inf_nan=False)
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: int = Field(100, ge=0, le=MOST_STEPS)
    ema_decay: float | None = Field(0.999, gt=0, lt=1)
    max_grad_norm: float | None = Field(1.0, gt=0)
    checkpoint_every: int = Field(1000, ge=1, le=MOST_STEPS)
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    sparsify: float = Field(0.0, ge=0, allow_inf_nan=False)


_WATCHED_ROWS = 256
"""Points of a batch that the penalty looks at: it then costs less than the step itself."""

_PROGRESS = ("step", "seconds", "cpu_seconds")


class EdgeWatch:
    """Remembers what the KAN layers of a module were given.

    Raises:
        KanDiffusionError: It has none.
    """

    def __init__(self, module: nn.Module) -> None:
        self._inputs: dict[KANLinear, Tensor] = {}
        layers = [layer for layer in module.modules() if isinstance(layer, KANLinear)]
        if not layers:
            raise KanDiffusionError(
                f"sparsifying is for the edges of KAN layers, and {type(module).__name__} has "
                "none; leave it out or choose another family, such as 'kan'"
            )
        self._handles = [layer.register_forward_pre_hook(self._remember) for layer in layers]

    def _remember(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, KANLinear)
        self._inputs[layer] = inputs[0][:_WATCHED_ROWS]

    def penalty(self) -> Tensor:
        """Sizes plus entropies of the edges in the last forward pass; forgets it."""
        outputs = [layer.edge_outputs(input) for layer, input in self._inputs.items()]
        self._inputs.clear()
        with torch.autocast(outputs[0].device.type, enabled=False):
            return sparsity_penalty([values.float() for values in outputs])

    def release(self) -> None:
        """Stops watching."""
        for handle in self._handles:
            handle.remove()
        self._inputs.clear()


class TrainingRun:
    """The state of one training run, everything a checkpoint holds, and the parts of a step.

    The denoiser's parameters are views of one vector until :meth:`release`.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        process: Process,
        config: TrainingConfig,
        accelerator: Accelerator,
    ) -> None:
        # A denoiser that has no edges to watch is refused before anything of it is changed.
        self._edges = EdgeWatch(denoiser) if config.sparsify > 0 else None
        self.config = config
        self.process = process
        self.accelerator = accelerator
        self.denoiser = denoiser.to(accelerator.device).train()
        # Several processes share the gradient of the vector instead of one for each parameter.
        self.model = accelerator.prepare_model(self.denoiser, evaluation_mode=True)
        try:
            self.weights = ParameterVector(self.denoiser)
        except KanDiffusionError:
            if self._edges is not None:
                self._edges.release()
            raise
        peak, warmup = config.learning_rate, config.warmup_steps
        optimizer = torch.optim.Adam([self.weights.vector], lr=peak, fused=True)
        self.learning_rates = learning_rates(optimizer, config.schedule, peak, warmup, config.steps)
        self._rates: list[float] = self.learning_rates.tolist()
        # accelerate's own step and backward look for packages on the disk every time they are
        # called; only scaled gradients (fp16) need them.
        self.scaled = accelerator.scaler is not None
        self.optimizer = accelerator.prepare(optimizer) if self.scaled else optimizer
        self.average: WeightAverage | None = None
        if config.ema_decay is not None:
            self.average = WeightAverage(self.weights.vector, config.ema_decay)
        self.step = 0
        self.whole = True
        """False while a step or a swap of weights is under way: no state to save then."""
        self.seconds = 0.0
        self.cpu_seconds = 0.0
        self._losses = torch.zeros(config.steps, device=accelerator.device)
        self._recent: list[Tensor] = []  # losses not yet written into _losses
        self._num_checked = 0  # how many of the losses are known to be finite

    def advance(self, batch: Batch) -> None:
        """Takes one optimiser step."""
        batch, share = self.own_part(batch)
        loss = self.forward(batch)
        if share != 1:
            loss = loss * share
        edges = self._edges
        self.backward(loss if edges is None else loss + self.config.sparsify * edges.penalty())
        self.collect()
        self.clip()
        with interrupts_wait():  # half an update is no state to save
            self.whole = False
            self.optimize()
            self.update_average()
            self._recent.append(self.shared(loss.detach()))
            self.step += 1
            self.whole = True

    def own_part(self, batch: Batch) -> tuple[Batch, float]:
        """The rows of a batch for this process, and their weight in the mean over processes."""
        total, count = len(batch.noised), self.accelerator.num_processes
        if count == 1:
            return batch, 1.0
        index = self.accelerator.process_index
        rows = slice(total * index // count, total * (index + 1) // count)
        part = Batch(*(None if given is None else given[rows] for given in batch))  # type: ignore[arg-type]
        return part, len(part.noised) * count / total

    def shared(self, values: Tensor) -> Tensor:
        """The mean of a tensor over the processes that train together."""
        if self.accelerator.num_processes == 1:
            return values
        mean: Tensor = self.accelerator.reduce(values, "mean")
        return mean

    def forward(self, batch: Batch) -> Tensor:
        """The loss of a batch, a mean over the coordinates that are not told."""
        given = batch.noised, batch.timesteps, batch.labels, batch.observed
        prediction = self.model(*given, return_dict=False)[0]
        if batch.observed is None:
            return self.process.loss_of(prediction, batch.target)
        prediction = torch.where(batch.observed.isnan(), prediction, batch.target)
        # Divided by the expected share: that of the batch would be another in each process.
        return self.process.loss_of(prediction, batch.target) / (1 - TOLD_SHARE)

    def backward(self, loss: Tensor) -> None:
        """Leaves the gradients at the parameters."""
        if self.scaled:
            self.accelerator.backward(loss)
        else:
            loss.backward()

    def collect(self) -> None:
        """Moves the gradients, in their true size, to the vector of parameters."""
        self.weights.collect_gradients()
        if self.accelerator.num_processes > 1:
            assert self.weights.vector.grad is not None
            self.weights.vector.grad.copy_(self.shared(self.weights.vector.grad))
        if self.scaled:
            self.accelerator.unscale_gradients(self.optimizer)

    def clip(self) -> None:
        """Clips the gradient's norm."""
        if self.config.max_grad_norm is not None:
            self.weights.clip_gradient(self.config.max_grad_norm)

    def optimize(self) -> None:
        """Lets Adam move the parameters."""
        self.optimizer.param_groups[0]["lr"] = self._rates[self.step]
        self.optimizer.step()

    def update_average(self) -> None:
        """Takes the parameters into their moving average."""
        if self.average is not None:
            self.average.update()

    def losses(self) -> Tensor:
        """The losses of the steps taken, with shape (step,)."""
        if self._recent:
            self._losses[self.step - len(self._recent) : self.step] = torch.stack(self._recent)
            self._recent.clear()
        return self._losses[: self.step]

    def fault(self) -> str | None:
        """Says which number is not finite and since when, else None; a NaN, once there, stays."""
        losses = self.losses()
        finite = torch.isfinite(losses[self._num_checked :])
        if not bool(finite.all()):
            first = self._num_checked + int((~finite).nonzero()[0])
            return f"loss became {float(losses[first])} at step {first + 1:,}"
        self._num_checked = self.step
        # A last step may spoil the parameters and its loss, taken before it, not show that yet.
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
                f"the {fault} of {self.config.steps:,} with learning rate "
                f"{self.config.learning_rate:g}; {kept}; lower the learning rate"
            )

    def out_of_range(self, batch: Batch, rows: int | None = None) -> dict[str, float]:
        """Fraction of out-of-range inputs of each KAN layer on the first rows of a batch."""
        given = batch.noised, batch.timesteps, batch.labels, batch.observed
        inputs = (None if values is None else values[:rows] for values in given)
        return out_of_range_fractions(self.denoiser, *inputs, False)  # a tuple, as in a step

    def save(self, path: Path, identity: str) -> None:
        """Writes the state to ``path``, whole or not at all; of several processes the first."""
        if not self.accelerator.is_main_process:
            return
        tensors = {f"denoiser.{k}": v for k, v in self.denoiser.state_dict().items()}
        # The vector's layout is no business of the file's: everything is kept by parameter.
        for name, value in self.optimizer.state.get(self.weights.vector, {}).items():
            parts = self.weights.split(value) if value.ndim else [value] * len(self.weights)
            tensors |= {f"optimizer.{index}.{name}": part for index, part in enumerate(parts)}
        if self.average is not None:
            parts = self.weights.split(self.average.values)
            tensors |= {f"ema.{index}": part for index, part in enumerate(parts)}
        tensors["losses"] = self.losses()
        tensors = {k: v.detach().to("cpu", copy=True).contiguous() for k, v in tensors.items()}
        progress = {name: getattr(self, name) for name in _PROGRESS}
        progress["ema_step"] = None if self.average is None else self.average.num_updates
        metadata = {"identity": identity, "progress": json.dumps(progress)}
        metadata["digest"] = _digest(tensors, metadata)
        write_bytes(path, safetensors_bytes(tensors, metadata=metadata))

    def load(self, path: Path, identity: str) -> bool:
        """Takes up the state that ``path`` holds.

        Returns:
            False where there is no file, or none any more: another process may have finished the
            run, and removed it, at any moment.

        Raises:
            RunFolderError: The file is not a checkpoint, or one of another run.
        """
        try:
            if read_checkpoint_identity(path) != identity:
                raise RunFolderError(
                    f"'{path}' is the checkpoint of a run with other settings; give the settings "
                    "it was started with, or another folder with --out"
                )
            with safe_open(path, framework="pt", device=str(self.accelerator.device)) as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                metadata = file.metadata()
            if metadata.pop("digest", None) != _digest(tensors, metadata):
                raise RunFolderError(
                    f"'{path}' has changed since it was written; delete it to begin anew"
                )
            progress = json.loads(metadata["progress"])
        except FileNotFoundError:
            return False
        self.whole = False
        own = "denoiser."
        state = {k.removeprefix(own): v for k, v in tensors.items() if k.startswith(own)}
        self.denoiser.load_state_dict(state)

        def joined(name: str) -> Tensor:
            return self.weights.join([tensors[name.format(i)] for i in range(len(self.weights))])

        if "optimizer.0.step" in tensors:
            moments = {n: joined(f"optimizer.{{}}.{n}") for n in ("exp_avg", "exp_avg_sq")}
            step = tensors["optimizer.0.step"]
            self.optimizer.state[self.weights.vector] = {"step": step, **moments}
        if self.average is not None:
            self.average.values = joined("ema.{}")
            self.average.num_updates = progress["ema_step"]
        for name in _PROGRESS:
            setattr(self, name, progress[name])
        self._losses[: self.step] = tensors["losses"]
        self.whole = True
        return True

    def show(self, callback: MomentCallback) -> None:
        """Hands the denoiser to a callback with its EMA weights in place, in one process."""
        if not self.accelerator.is_main_process:
            return
        self.denoiser.eval()
        values = self.weights.vector.detach()
        if self.average is not None and self.average.num_updates > 0:
            values = self.average.values
        self.whole = False
        try:
            with torch.no_grad(), self.weights.lent(values):
                callback(self.step, self.denoiser)
        finally:  # a callback that is interrupted leaves the weights in training as they were
            self.whole = True
        self.denoiser.train()

    def unwrap(self) -> None:
        """Takes what accelerate put around the denoiser off again: autocast of its forward."""
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        vars(self.denoiser).pop("forward", None)

    def settle(self) -> None:
        """Puts the EMA weights in place for good."""
        self.whole = False
        if self.average is not None:
            self.weights.vector.detach().copy_(self.average.values)
        self.denoiser.eval()

    def release(self) -> None:
        """Makes the denoiser an ordinary module again."""
        self.unwrap()
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
    """The identity of the run a checkpoint belongs to, as given to :func:`train`.

    Raises:
        FileNotFoundError: There is no file.
        RunFolderError: The file is not a checkpoint.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return str((file.metadata() or {})["identity"])
    except FileNotFoundError:
        raise
    except (SafetensorError, KeyError, OSError) as error:
        raise RunFolderError(
            f"'{path}' is not a checkpoint of kan-diffusion; delete it or choose another folder "
            "with --out"
        ) from error
