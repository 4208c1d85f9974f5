"""Finds a device by name and sets up accelerate for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import is_tensorboard_available

from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.imports import from_extra

__all__ = ["make_accelerator", "one_thread", "resolve_device"]


def resolve_device(device: str) -> torch.device:
    """Finds a device: ``"auto"`` is a GPU if there is one; other names are torch's.

    Raises:
        KanDiffusionError: The device does not exist here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.zeros(1, device=resolved).item()  # the device "meta" has no values
    except (RuntimeError, AssertionError) as error:
        raise KanDiffusionError(
            f"device '{device}' cannot be used here; choose cpu or auto"
        ) from error
    return resolved


def make_accelerator(
    device: torch.device, mixed_precision: str, log_folder: Path | None
) -> Accelerator:
    """Makes an accelerator for a device, with a TensorBoard tracker if a folder is given.

    Args:
        device: Where to compute.
        mixed_precision: ``"no"``, ``"bf16"`` or ``"fp16"``.
        log_folder: Folder for TensorBoard's event files, or None.

    Raises:
        KanDiffusionError: accelerate refuses, or TensorBoard is not installed.
    """
    with from_extra("tensorboard", "logs of training"):
        if log_folder is not None and not is_tensorboard_available():  # nothing would be logged
            raise ImportError(name="tensorboard")
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # accelerate uses the current one
    # accelerate keeps one device per process; reset it when another one is asked for.
    if PartialState._shared_state and (
        PartialState().device.type != device.type
        or AcceleratorState._shared_state.get("_mixed_precision") != mixed_precision
    ):
        AcceleratorState._reset_state(reset_partial_state=True)
    try:
        accelerator = Accelerator(
            cpu=device.type == "cpu",
            mixed_precision=mixed_precision,
            log_with=None if log_folder is None else "tensorboard",
            project_dir=None if log_folder is None else str(log_folder),
        )
        if log_folder is not None:
            accelerator.init_trackers("tensorboard")
    except (ImportError, ValueError) as error:
        raise KanDiffusionError(
            f"accelerate cannot be set up for device {device} and mixed precision "
            f"{mixed_precision} ({error}); choose another of the two"
        ) from error
    return accelerator


@contextmanager
def one_thread() -> Iterator[None]:
    """Limits torch to one thread inside the block.

    A step of a small network gains nothing from a second thread. If another program runs as well,
    the threads wait for each other and the step takes twenty times as long.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
