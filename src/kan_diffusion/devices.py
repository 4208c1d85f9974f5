"""Finds a device by name, and keeps torch to one thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from kan_diffusion.errors import KanDiffusionError


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
