r"""The training loop.

Each step draws a batch of clean points :math:`x_0`, timesteps t and noise :math:`\varepsilon`, and
takes one Adam step on

.. math:: \mathrm{loss}\big(\mathrm{denoiser}(\alpha_t x_0 + \sigma_t \varepsilon, t),\;
    \mathrm{target}(x_0, \varepsilon, t)\big),

with linear warm-up and cosine decay of the learning rate, clipping of the gradient's norm and an
exponential moving average (EMA) of the parameters, which is what the trained denoiser keeps.

What step k draws is a function of the seed and k alone. A run that is killed and resumed from its
checkpoint therefore ends, on a CPU, with the very parameters of a run that was not. A checkpoint is
one safetensors file, replaced whole.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from kan_diffusion.denoisers.base import UNLABELLED, Denoiser
from kan_diffusion.devices import make_accelerator, resolve_device
from kan_diffusion.errors import KanDiffusionError, NonFiniteLossError, RunFolderError
from kan_diffusion.files import write_bytes
from kan_diffusion.processes import Process
from kan_diffusion.randomness import stream_seed

__all__ = [
    "TrainingConfig",
    "TrainingResult",
    "read_checkpoint_identity",
    "train",
]

logger = logging.getLogger(__name__)

_FINITE_CHECK_EVERY = 50
_PROGRESS_SECONDS = 0.25
_LABEL_DROPOUT = 0.1

ProgressCallback = Callable[[int, float], None]
"""Called now and then with the number of finished steps and the latest loss."""

MomentCallback = Callable[[int, Denoiser], None]
"""Called at chosen steps with the step and the denoiser as it is then, EMA weights in place."""


class TrainingConfig(BaseModel):
    """How to train.

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
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(4000, ge=1)
    batch_size: int = Field(1024, ge=1)
    batches: Literal["replacement", "epochs"] = "replacement"
    learning_rate: float = Field(5e-3, gt=0, allow_inf_nan=False)
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: int = Field(100, ge=0)
    ema_decay: float | None = Field(0.999, gt=0, lt=1)
    max_grad_norm: float | None = Field(1.0, gt=0)
    checkpoint_every: int = Field(1000, ge=1)
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"


@dataclass(frozen=True)
class TrainingResult:
    """What training leaves beside the denoiser.

    Attributes:
        losses: Training loss of every step, with shape (steps,).
        learning_rates: Learning rate of every step, with shape (steps,).
        seconds: Wall-clock seconds of the steps, checkpoints and callbacks left out; over all
            parts of a run that was resumed.
        resumed_from: Step the run was resumed from, 0 when it was not.
    """

    losses: np.ndarray
    learning_rates: np.ndarray
    seconds: float
    resumed_from: int


class _Batches:
    """What each step draws: points, labels, timesteps and noise, a function of (seed, step)."""

    def __init__(
        self,
        points: Tensor,
        labels: Tensor | None,
        process: Process,
        config: TrainingConfig,
        seed: int,
        device: torch.device,
    ) -> None:
        self._points = points.to(torch.float32)
        self._labels = labels
        self._config = config
        self._seed = seed
        self._device = device
        self._num_timesteps = process.num_timesteps
        self._generator = torch.Generator()
        self._order: tuple[int, Tensor] | None = None

    def _rows(self, step: int) -> Tensor:
        num_points, batch_size = len(self._points), self._config.batch_size
        if self._config.batches == "replacement":
            return torch.randint(num_points, (batch_size,), generator=self._generator)
        epoch, batch = divmod(step, math.ceil(num_points / batch_size))
        if self._order is None or self._order[0] != epoch:
            shuffler = torch.Generator().manual_seed(stream_seed("epoch", self._seed, epoch))
            self._order = epoch, torch.randperm(num_points, generator=shuffler)
        return self._order[1][batch * batch_size : (batch + 1) * batch_size]

    def draw(self, step: int) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        """Points (B, d), labels (B,) or None, timesteps (B,) and noise (B, d) of a step."""
        self._generator.manual_seed(stream_seed("step", self._seed, step))
        rows = self._rows(step)
        points = self._points[rows]
        timesteps = torch.randint(self._num_timesteps, (len(rows),), generator=self._generator)
        noise = torch.randn(points.shape, generator=self._generator)
        labels = None
        if self._labels is not None:
            dropped = torch.rand(len(rows), generator=self._generator) < _LABEL_DROPOUT
            labels = self._labels[rows].masked_fill(dropped, UNLABELLED).to(self._device)
        return points.to(self._device), labels, timesteps.to(self._device), noise.to(self._device)


def _learning_rates(config: TrainingConfig, optimizer: torch.optim.Optimizer) -> np.ndarray:
    """The learning rate of every step, with shape (steps,): known before the first."""
    schedule = get_scheduler(
        "constant_with_warmup" if config.schedule == "constant" else "cosine",
        optimizer,
        num_warmup_steps=min(config.warmup_steps, config.steps // 4),
        num_training_steps=config.steps,
    )
    factor = schedule.lr_lambdas[0]
    return config.learning_rate * np.array([factor(step) for step in range(config.steps)])


@torch.no_grad()
def _clip_gradients(parameters: list[torch.nn.Parameter], max_norm: float) -> None:
    """Scales the gradients down to a joint norm of ``max_norm``, where it is larger.

    What ``torch.nn.utils.clip_grad_norm_`` computes, without its grouping by device and dtype,
    which costs a small network a tenth of its step.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    torch._foreach_mul_(gradients, (max_norm / (norm + 1e-6)).clamp(max=1.0))


class _Run:
    """The state of one training run: everything a checkpoint holds."""

    def __init__(
        self, denoiser: Denoiser, config: TrainingConfig, accelerator: Accelerator
    ) -> None:
        self.config = config
        self.accelerator = accelerator
        self.denoiser = denoiser.to(accelerator.device).train()
        optimizer = torch.optim.Adam(
            self.denoiser.parameters(), lr=config.learning_rate, fused=True
        )
        self.model, prepared = accelerator.prepare(self.denoiser, optimizer)
        # accelerate's own step and backward look for packages on the disk every time they are
        # called; only scaled gradients (fp16) need them.
        self.scaled = accelerator.scaler is not None
        self.optimizer = prepared if self.scaled else optimizer
        self.learning_rates = _learning_rates(config, optimizer)
        self.parameters = list(self.denoiser.parameters())
        self.ema: EMAModel | None = None
        if config.ema_decay is not None:
            self.ema = EMAModel(self.parameters, decay=config.ema_decay, foreach=True)
        self.step = 0
        self.whole = True
        """False while a step or a swap of weights is under way: no state to save then."""
        self.seconds = 0.0
        self.losses = torch.zeros(config.steps, device=accelerator.device)

    def advance(self, process: Process, batches: _Batches, alpha: Tensor, sigma: Tensor) -> None:
        """Takes one optimiser step."""
        clean, labels, timesteps, noise = batches.draw(self.step)
        a, s = alpha[timesteps], sigma[timesteps]
        noised = a * clean + s * noise
        prediction = self.model(noised, timesteps, labels, return_dict=False)[0]
        loss = process.loss_of(prediction, process.target(clean, noise, a, s))
        if self.scaled:
            self.accelerator.backward(loss)
            self.accelerator.unscale_gradients(self.optimizer)
        else:
            loss.backward()
        if self.config.max_grad_norm is not None:
            _clip_gradients(self.parameters, self.config.max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rates[self.step]
        self.whole = False
        self.optimizer.step()
        for parameter in self.parameters:
            parameter.grad = None
        if self.ema is not None:
            self.ema.step(self.parameters)
        self.losses[self.step] = loss.detach()
        self.step += 1
        self.whole = True

    def fault(self) -> str | None:
        """What is not finite and since when, else None; a NaN, once there, stays."""
        finite = torch.isfinite(self.losses[: self.step])
        if not bool(finite.all()):
            first = int((~finite).nonzero()[0])
            return f"loss became {float(self.losses[first])} at step {first + 1:,}"
        # A last step may spoil the parameters and its loss, taken before it, not show that yet.
        if not all(bool(torch.isfinite(parameter).all()) for parameter in self.parameters):
            return f"parameters became NaN or infinite at step {self.step:,}"
        return None

    def require_finite(self, checkpoint: Path | None) -> None:
        """Raises when a loss or a parameter is not finite."""
        fault = self.fault()
        if fault is None:
            return
        kept = "no checkpoint was kept"
        if checkpoint is not None and checkpoint.exists():
            kept = f"the last good state is kept in '{checkpoint}'"
        raise NonFiniteLossError(
            f"the {fault} of {self.config.steps:,} with learning rate "
            f"{self.config.learning_rate:g}; {kept}; lower the learning rate"
        )

    def save(self, path: Path, identity: str) -> None:
        """Writes the state to ``path``, whole or not at all."""
        tensors = {f"denoiser.{k}": v for k, v in self.denoiser.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
        if self.ema is not None:
            shadows = self.ema.shadow_params
            tensors |= {f"ema.{index}": shadow for index, shadow in enumerate(shadows)}
        tensors["losses"] = self.losses[: self.step]
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        progress = {
            "step": self.step,
            "seconds": self.seconds,
            "ema_step": None if self.ema is None else self.ema.optimization_step,
        }
        metadata = {"identity": identity, "progress": json.dumps(progress)}
        write_bytes(path, safetensors_bytes(tensors, metadata=metadata))

    def load(self, path: Path, identity: str) -> None:
        """Takes up the state that ``path`` holds.

        Raises:
            RunFolderError: The file is not a checkpoint, or one of another run.
        """
        if read_checkpoint_identity(path) != identity:
            raise RunFolderError(
                f"'{path}' is the checkpoint of a run with other settings; give the settings it "
                "was started with, or another folder with --out"
            )
        with safe_open(path, framework="pt", device=str(self.accelerator.device)) as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            progress = json.loads(file.metadata()["progress"])
        self.denoiser.load_state_dict(_strip(tensors, "denoiser."))
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _strip(tensors, "optimizer.").items():
            index, key = name.split(".")
            # Adam keeps its step count on the CPU unless the kernel is fused on a GPU.
            state.setdefault(int(index), {})[key] = tensor
        self.optimizer.load_state_dict(
            {"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]}
        )
        if self.ema is not None:
            shadows = _strip(tensors, "ema.")
            self.ema.shadow_params = [shadows[str(i)] for i in range(len(shadows))]
            self.ema.optimization_step = progress["ema_step"]
        self.step = progress["step"]
        self.seconds = progress["seconds"]
        self.losses[: self.step] = tensors["losses"]

    def show(self, callback: MomentCallback) -> None:
        """Hands the denoiser to a callback with its EMA weights in place."""
        self.denoiser.eval()
        ema = self.ema if self.ema is not None and self.ema.optimization_step > 0 else None
        self.whole = False
        if ema is not None:
            ema.store(self.parameters)
            ema.copy_to(self.parameters)
        try:
            with torch.no_grad():
                callback(self.step, self.denoiser)
        finally:  # a callback that is interrupted leaves the weights in training as they were
            if ema is not None:
                ema.restore(self.parameters)
            self.whole = True
        self.denoiser.train()

    def release(self) -> None:
        """Takes what accelerate put around the denoiser off again: autocast of its forward."""
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        vars(self.denoiser).pop("forward", None)


def _strip(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def read_checkpoint_identity(path: Path) -> str:
    """The identity of the run a checkpoint belongs to, as given to :func:`train`.

    Raises:
        RunFolderError: The file is not a checkpoint.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return str((file.metadata() or {})["identity"])
    except (SafetensorError, KeyError, OSError) as error:
        raise RunFolderError(
            f"'{path}' is not a checkpoint of kan-diffusion; delete it or choose another folder "
            "with --out"
        ) from error


def train(
    denoiser: Denoiser,
    process: Process,
    points: Tensor,
    config: TrainingConfig,
    *,
    seed: int,
    labels: Tensor | None = None,
    device: str = "auto",
    checkpoint: Path | None = None,
    identity: str = "",
    resume: bool = False,
    on_progress: ProgressCallback | None = None,
    moments: Collection[int] = (),
    on_moment: MomentCallback | None = None,
    log_folder: Path | None = None,
) -> TrainingResult:
    """Trains a denoiser in place; it ends with its EMA weights, on ``device``, in eval mode.

    Args:
        denoiser: The network; its initial parameters are its own affair.
        process: Noising process.
        points: Standardised clean points with shape (N, d).
        config: How to train.
        seed: What all draws of the run derive from.
        labels: Class labels with shape (N,), whole numbers from 0; a tenth of them is dropped at
            random so that the unconditional model is trained too.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
        checkpoint: File to keep the state in; None keeps none.
        identity: What the checkpoint is a checkpoint of; one with another identity is refused.
        resume: Whether to go on from ``checkpoint`` where it exists.
        on_progress: Told the number of finished steps and the loss a few times a second.
        moments: Steps (0 is before training) at which ``on_moment`` is called.
        on_moment: Handed the denoiser at the moments.
        log_folder: Folder for TensorBoard's event files; None logs nothing.

    Returns:
        Losses, learning rates and the time taken.

    Raises:
        NonFiniteLossError: The loss became NaN or infinite; the last good checkpoint is kept.
        RunFolderError: The checkpoint cannot be written or belongs to another run.
        KanDiffusionError: The device, points or labels cannot be used.
    """
    if points.ndim != 2 or len(points) == 0:
        raise KanDiffusionError(f"points must have shape (N, d), N > 0, not {tuple(points.shape)}")
    if labels is not None and labels.shape != points.shape[:1]:
        raise KanDiffusionError(
            f"labels must have shape ({len(points)},), one a point, not {tuple(labels.shape)}"
        )
    if labels is not None:
        denoiser.require_labels(labels)
    where = resolve_device(device)
    run = _Run(denoiser, config, make_accelerator(where, config.mixed_precision, log_folder))
    if resume and checkpoint is not None and checkpoint.exists():
        run.load(checkpoint, identity)
        logger.info("resuming at step %d of %d", run.step, config.steps)
    resumed_from = run.step
    batches = _Batches(points.cpu(), labels, process, config, seed, where)
    alpha, sigma = (level.float().unsqueeze(-1) for level in process.levels(where))
    last_report = 0.0
    shown = set(moments) if on_moment is not None else set()

    try:
        if checkpoint is not None and run.step == 0:
            run.save(checkpoint, identity)  # shows from the start whose folder this is
        while run.step < config.steps:
            if run.step in shown and on_moment is not None:
                run.show(on_moment)
            started = time.perf_counter()
            run.advance(process, batches, alpha, sigma)
            now = time.perf_counter()
            run.seconds += now - started
            last = run.step == config.steps
            saving = checkpoint is not None and run.step % config.checkpoint_every == 0
            if saving or last or run.step % _FINITE_CHECK_EVERY == 0:
                run.require_finite(checkpoint)
            if saving and checkpoint is not None:
                run.save(checkpoint, identity)
            if now - last_report > _PROGRESS_SECONDS or last:
                last_report = now
                loss = float(run.losses[run.step - 1])
                if on_progress is not None:
                    on_progress(run.step, loss)
                if log_folder is not None:
                    rate = float(run.learning_rates[run.step - 1])
                    run.accelerator.log({"loss": loss, "learning_rate": rate}, step=run.step)
    except KeyboardInterrupt:
        # In the middle of a step there is no state worth keeping: the last checkpoint stands.
        if checkpoint is not None and run.whole and run.fault() is None:
            run.save(checkpoint, identity)
        raise
    finally:
        run.release()
        if log_folder is not None:
            run.accelerator.end_training()
    if run.step in shown and on_moment is not None:
        run.show(on_moment)
    if run.ema is not None:
        run.ema.copy_to(run.parameters)
    denoiser.eval()
    return TrainingResult(
        losses=run.losses.cpu().numpy(),
        learning_rates=run.learning_rates,
        seconds=run.seconds,
        resumed_from=resumed_from,
    )
