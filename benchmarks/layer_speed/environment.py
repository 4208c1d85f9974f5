"""Hardware and versions that the figures depend on; nothing that tells one machine's owner."""

from __future__ import annotations

from importlib import metadata

import torch

from baselines import CONTENDERS
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.study import run

__all__ = ["environment"]

_KEYS = ("kan-diffusion", "python", "torch", "numba", "numpy", "system", "processor", "cores")


def environment(device: str) -> dict[str, str]:
    """Versions by distribution, processor and cores, and the card's name on a GPU.

    Raises:
        KanDiffusionError: The device cannot be used.
    """
    resolved = torch.device(device)
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise KanDiffusionError(
            f"device '{device}' cannot be used here: torch finds no GPU; choose cpu"
        )
    here = run.environment()
    found = {key: here[key] for key in _KEYS if key in here}
    found["vector instructions"] = torch.backends.cpu.get_cpu_capability()
    for package in dict.fromkeys(c.package for c in CONTENDERS.values() if c.package):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    if resolved.type == "cuda":
        found["card"] = torch.cuda.get_device_name(resolved)
        found["cuda"] = str(torch.version.cuda)
    return found
