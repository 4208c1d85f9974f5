"""Checkpoints: one file with all that a run needs to continue as if it had never stopped.

It is a safetensors file with the denoiser, the optimiser's state, the moving average, losses and
learning rates of all steps, and the tensors of callbacks. What is no tensor, such as the plan of
steps and the clock, is JSON in its header, so that nothing is unpickled. It is always replaced as a
whole, and its digest stands in it. Everything that is read is checked by type, shape and range
before it is used, because a stranger's digest may be right, too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Protocol, runtime_checkable

import torch
from pydantic import Field, FiniteFloat
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from kan_diffusion.errors import RunFolderError
from kan_diffusion.files import require_tensors, write_bytes
from kan_diffusion.interrupts import interrupts_wait
from kan_diffusion.limits import MOST_CHECKPOINT_BYTES, MOST_TIMES_WEIGHTS
from kan_diffusion.ranks import is_main_process
from kan_diffusion.settings import Settings
from kan_diffusion.training.config import Step
from kan_diffusion.training.optimization import Plan
from kan_diffusion.training.run import Callback, TrainingRun

BYTES_A_PARAMETER = 40
"""Bytes on the disk while it is trained: weights, two moments, average and best weights in float32,
in a checkpoint and in the last one, which stands until it is replaced."""


@runtime_checkable
class StatefulCallback(Protocol):
    """A callback whose state is kept in checkpoints: tensors and values of JSON."""

    def __call__(self, run: TrainingRun) -> object:
        """Is called as every callback is."""

    def state_dict(self) -> dict[str, object]:
        """Returns the state."""

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Restores a state that a file held, which may be a stranger's; raises if it cannot be."""


class _State(Settings):
    """What is no tensor: see the run's plan, clock and validation."""

    step: Step
    plan: Plan
    wall: FiniteFloat
    processor: FiniteFloat
    validation: tuple[tuple[Step, Annotated[float, Field(ge=0)]], ...]
    best_step: Step
    callbacks: dict[str, Any]


class Checkpoint:
    """Writes the state of a run and of its callbacks to a file; the last callback of a run.

    Args:
        path: The file.
        identity: Identity of the run; a file with another one is refused.
        callbacks: The other callbacks of the run.
    """

    def __init__(self, path: Path, identity: str, callbacks: Sequence[Callback]) -> None:
        self._path = path
        self._identity = identity
        stateful = [each for each in callbacks if isinstance(each, StatefulCallback)]
        self._callbacks = {f"{i} {type(each).__name__}": each for i, each in enumerate(stateful)}
        self._saved: int | None = None

    def __call__(self, run: TrainingRun) -> None:
        """Writes the first state, which shows whose folder it is, and each that is due."""
        if run.ending is None and run.step % run.config.checkpoint_every == 0:
            self.save(run)

    def save(self, run: TrainingRun) -> None:
        """Writes a good state, whole or not at all, in the main process alone.

        Raises:
            NonFiniteLossError: It is not a good one.
        """
        run.require_finite()
        if not is_main_process() or self._saved == run.step:
            return
        tensors = _tensors_of(run)
        states = {name: each.state_dict() for name, each in self._callbacks.items()}
        state = _State(
            step=run.step,
            plan=run.plan,
            wall=run.clock.wall,
            processor=run.clock.processor,
            validation=tuple(run.validation.items()),
            best_step=run.best_step,
            callbacks={k: _pack(each, f"callbacks.{k}", tensors) for k, each in states.items()},
        )
        tensors = {k: v.detach().to("cpu", copy=True).contiguous() for k, v in tensors.items()}
        metadata = {"identity": self._identity, "state": json.dumps(state.model_dump())}
        metadata["digest"] = _digest(tensors, metadata)
        with interrupts_wait():
            write_bytes(self._path, safetensors_bytes(tensors, metadata=metadata))
            self._saved, run.kept_in = run.step, self._path

    def load(self, run: TrainingRun) -> bool:
        """Restores the state in the file.

        Returns:
            Whether there is a file. Another process may finish the run and remove the file at any
            moment.

        Raises:
            RunFolderError: The file is not a checkpoint, was changed, or is one of another run or
                version.
        """
        path = self._path
        try:
            most = max(MOST_CHECKPOINT_BYTES, MOST_TIMES_WEIGHTS * run.weights.vector.nbytes)
            require_tensors(path, most)
            with safe_open(path, framework="pt", device=str(run.device)) as file:
                metadata = file.metadata() or {}
                identity = metadata["identity"]
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except FileNotFoundError:
            return False
        except (SafetensorError, KeyError, OSError) as error:
            raise RunFolderError(
                f"'{path}' is not a checkpoint of kan-diffusion ({error}); delete it or choose "
                "another folder"
            ) from error
        if identity != self._identity:
            raise RunFolderError(
                f"'{path}' is the checkpoint of a run with other settings; give the settings it "
                "was started with, or another folder"
            )
        if metadata.pop("digest", None) != _digest(tensors, metadata):
            raise RunFolderError(
                f"'{path}' has changed since it was written; delete it to begin anew"
            )
        try:
            self._restore(run, _State.model_validate(json.loads(metadata["state"])), tensors)
        except Exception as error:  # a state may be wrong in many ways
            raise RunFolderError(
                f"'{path}' is not a checkpoint of this version of kan-diffusion with these "
                f"callbacks ({error}); delete it to begin anew"
            ) from error
        run.kept_in, self._saved = path, run.step
        return True

    def _restore(self, run: TrainingRun, state: _State, tensors: dict[str, Tensor]) -> None:
        """Restores a state, or raises an error of any kind."""
        states: dict[str, Any] = {k: _unpack(each, tensors) for k, each in state.callbacks.items()}
        if states.keys() != self._callbacks.keys():
            raise ValueError("it is of other callbacks")
        run.begin_at(state.step)
        if state.step > 0:
            run.optimizer.step()  # makes its state, which is filled like all else
        for group in run.optimizer.param_groups:
            if "step" in group:  # of SOAP and Muon
                group["step"] = state.step
        run.best = run.averaged.clone() if "run.best" in tensors else None
        own = _tensors_of(run)
        for name in own.keys() | tensors.keys():
            given, wanted = tensors[name], own[name]
            if (given.shape, given.dtype) != (wanted.shape, wanted.dtype):
                raise ValueError(f"'{name}' does not fit this run")
        # In place: products with a matrix in another layout differ in the last digits.
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
        run.plan, run.best_step = state.plan, state.best_step
        run.validation = dict(state.validation)
        run.clock.wall, run.clock.processor = state.wall, state.processor
        for name, callback in self._callbacks.items():
            callback.load_state_dict(states[name])


def _tensors_of(run: TrainingRun) -> dict[str, Tensor]:
    """The tensors of a run by name, in the memory in which it has them."""
    tensors: dict[str, Tensor] = {}
    optimizer = run.optimizer.state_dict()["state"]
    parts = {"denoiser": run.denoiser.state_dict(), "optimizer": optimizer, "best": run.best}
    parts |= {"averaged": run.averaged, "losses": run.losses(), "rates": run.learning_rates}
    _pack(parts, "run", tensors)
    return tensors


def _pack(value: object, name: str, tensors: dict[str, Tensor]) -> object:
    """Returns a state with its tensors moved to ``tensors``, and their names in their place."""
    match value:
        case Tensor():
            tensors[name] = value
            return {"name of tensor": name}
        case Mapping():
            return {str(k): _pack(each, f"{name}.{k}", tensors) for k, each in value.items()}
        case list() | tuple():
            return [_pack(each, f"{name}.{i}", tensors) for i, each in enumerate(value)]
    return value


def _unpack(value: object, tensors: dict[str, Tensor]) -> object:
    """Returns the state that :func:`_pack` has taken apart, whose tensors it takes away.

    Raises:
        KeyError: A tensor is missing.
    """
    match value:
        case {"name of tensor": name}:
            return tensors.pop(name)
        case dict():
            return {key: _unpack(each, tensors) for key, each in value.items()}
        case list():
            return [_unpack(each, tensors) for each in value]
    return value


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """The SHA-256 digest of a checkpoint's content."""
    total = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].cpu().reshape(-1)
        total.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        total.update(tensor.view(torch.uint8).numpy().data)
    return total.hexdigest()
