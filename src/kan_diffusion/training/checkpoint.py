"""Checkpoints: one file with all that a run needs to continue as if it had never stopped.

It is a safetensors file with the denoiser, the optimiser's state, the moving average, losses and
learning rates of all steps, the plan of steps, the clock, and the states of callbacks. What is no
tensor is JSON in its header, so that nothing is unpickled. It is always replaced as a whole, and
its digest stands in it. Everything that is read is checked by type, shape and range before it is
used, because a stranger's digest may be right, too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Protocol, runtime_checkable

import torch
from pydantic import Field, FiniteFloat
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor
from torch.optim import Optimizer

from kan_diffusion.errors import RunFolderError
from kan_diffusion.files import require_tensors, write_bytes
from kan_diffusion.interrupts import interrupts_wait
from kan_diffusion.limits import MOST_CHECKPOINT_BYTES, MOST_STEPS, MOST_TIMES_WEIGHTS
from kan_diffusion.ranks import is_main_process
from kan_diffusion.settings import Settings
from kan_diffusion.training.config import Step
from kan_diffusion.training.optimization import make_optimizer
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


_PLAN = {"total", "steps", "since", "done"}


class _Numbers(Settings):
    """The numbers of a run in a checkpoint; see its schedule, clock and validation."""

    step: Step
    total: Annotated[int, Field(ge=1, le=MOST_STEPS)]
    steps: Step
    since: Step
    done: Annotated[float, Field(ge=0, le=MOST_STEPS)]
    wall: FiniteFloat
    processor: FiniteFloat
    validation: tuple[tuple[Step, Annotated[float, Field(ge=0)]], ...]
    best_step: Step


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
        names = [f"{index} {type(each).__name__}" for index, each in enumerate(stateful)]
        self._callbacks = dict(zip(names, stateful, strict=True))
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
        tensors: dict[str, Tensor] = {}
        state = _pack(self._state(run, run.optimizer), "run", tensors)
        tensors = {k: v.detach().to("cpu", copy=True).contiguous() for k, v in tensors.items()}
        metadata = {"identity": self._identity, "state": json.dumps(state)}
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
            self._restore(run, _unpack(json.loads(metadata["state"]), tensors))
        except Exception as error:  # a state may be wrong in many ways
            raise RunFolderError(
                f"'{path}' is not a checkpoint of this version of kan-diffusion with these "
                f"callbacks ({error}); delete it to begin anew"
            ) from error
        run.kept_in, self._saved = path, run.step
        return True

    def _state(self, run: TrainingRun, optimizer: Optimizer) -> dict[str, Any]:
        numbers = {name: getattr(run.schedule, name) for name in _PLAN}
        numbers |= {"step": run.step, "wall": run.clock.wall, "processor": run.clock.processor}
        numbers |= {"validation": list(run.validation.items()), "best_step": run.best_step}
        return {
            "denoiser": run.denoiser.state_dict(),
            "optimizer": _state_of(optimizer),
            "averaged": run.averaged,
            "best": run.best,
            "losses": run.losses(),
            "rates": torch.tensor(run.learning_rates.tolist(), dtype=torch.float64),
            "numbers": numbers,
            "callbacks": {name: each.state_dict() for name, each in self._callbacks.items()},
        }

    def _restore(self, run: TrainingRun, state: object) -> None:
        """Restores a state, or raises an error of any kind."""
        if not isinstance(state, dict):
            raise TypeError("it holds no state")
        numbers = _Numbers.model_validate(state["numbers"])
        expected = make_optimizer(run.config.optimizer, run.weights, run.config.learning_rate)
        if numbers.step > 0:
            expected.step()  # the weights that it moves are those that are replaced next
        losses = torch.empty(numbers.step)
        like = self._state(run, expected) | {"losses": losses, "rates": losses.double()}
        like["best"] = None if state["best"] is None else run.averaged
        for key in like.keys() | state.keys():
            given, wanted = state[key], like[key]
            if key == "callbacks":  # which check what they load
                given, wanted = dict.fromkeys(given), dict.fromkeys(wanted)
            if key != "numbers" and _outline(given) != _outline(wanted):
                raise ValueError(f"'{key}' does not fit this run")
        run.denoiser.load_state_dict(state["denoiser"])
        _restore_state(run.optimizer, state["optimizer"])
        run.averaged.copy_(state["averaged"])
        run.schedule = replace(run.schedule, **numbers.model_dump(include=_PLAN))
        run.clock.wall, run.clock.processor = numbers.wall, numbers.processor
        run.validation, run.best_step = dict(numbers.validation), numbers.best_step
        run.best = state["best"]
        run.resume(state["losses"], state["rates"].tolist())
        for name, callback in self._callbacks.items():
            callback.load_state_dict(state["callbacks"][name])


def _state_of(optimizer: Optimizer) -> dict[str, object]:
    """The state of an optimiser without settings, with the count of steps of SOAP and Muon."""
    state = optimizer.state_dict()
    moments = {str(key): each for key, each in state["state"].items()}
    return {"state": moments, "steps": [group.get("step") for group in state["param_groups"]]}


def _restore_state(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Restores what :func:`_state_of` returned of an optimiser made in the same way."""
    groups = optimizer.state_dict()["param_groups"]
    for group, step in zip(groups, state["steps"], strict=True):
        if step is not None:
            group["step"] = step
    moments = {int(key): each for key, each in state["state"].items()}
    optimizer.load_state_dict({"state": moments, "param_groups": groups})


def _pack(value: object, name: str, tensors: dict[str, Tensor]) -> object:
    """Returns a state with its tensors moved to ``tensors``.

    ``{"tensor": name, "strides": ...}`` stands for a tensor and its layout in memory: products with
    a matrix in another layout differ in the last digits.
    """
    match value:
        case Tensor():
            tensors[name] = value
            return {"tensor": name, "strides": value.stride()}
        case Mapping():
            return {str(k): _pack(each, f"{name}.{k}", tensors) for k, each in value.items()}
        case list() | tuple():
            return [_pack(each, f"{name}.{i}", tensors) for i, each in enumerate(value)]
    return value


def _unpack(value: object, tensors: Mapping[str, Tensor]) -> object:
    """Returns the state that :func:`_pack` has taken apart, with numbers in place of their names.

    Raises:
        KeyError: A tensor is missing.
        ValueError: A layout needs more memory than the tensor has.
    """
    match value:
        case {"tensor": name, "strides": strides}:
            tensor = tensors[name]
            along = zip(tensor.shape, strides, strict=True)
            if sum((size - 1) * stride for size, stride in along) >= max(tensor.numel(), 1):
                raise ValueError(f"'{name}' has strides {strides}")
            empty = torch.empty_strided(
                tensor.shape, strides, dtype=tensor.dtype, device=tensor.device
            )
            return empty.copy_(tensor)
        case dict():
            return {key: _unpack(each, tensors) for key, each in value.items()}
        case list():
            return [_unpack(each, tensors) for each in value]
    return value


def _outline(value: object) -> object:
    """Returns keys, types and shapes of a state.

    Raises:
        ValueError: A number is out of range.
    """
    match value:
        case Tensor():
            return value.shape, value.dtype
        case Mapping():
            return {key: _outline(each) for key, each in value.items()}
        case list():
            return [_outline(each) for each in value]
        case int() | float() if not 0 <= value <= MOST_STEPS:
            raise ValueError(f"{value} is out of range")
    return type(value)


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """The SHA-256 digest of a checkpoint's content."""
    total = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].cpu().reshape(-1)
        total.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        total.update(tensor.view(torch.uint8).numpy().data)
    return total.hexdigest()
