"""The project's own network, as it is imported; and compiled, for GPUs."""

from __future__ import annotations

import torch

from baselines.contender import ORDER, Case, Contender, NetworkWorkload
from kan_diffusion import KAN

__all__ = ["OURS", "OURS_COMPILED", "our_parameters"]


def _network(case: Case) -> KAN:
    return KAN(case.widths, grid_size=case.grid_size, order=ORDER)


def our_parameters(case: Case) -> int:
    """Number of parameters of the network that the others are compared with."""
    return sum(p.numel() for p in _network(case).parameters())


def _build(case: Case, device: torch.device) -> NetworkWorkload:
    return NetworkWorkload(_network(case).to(device), case, device)


def _build_compiled(case: Case, device: torch.device) -> NetworkWorkload:
    network = _network(case).to(device)
    return NetworkWorkload(network, case, device, torch.compile(network))


OURS = Contender(
    "ours",
    "kan-diffusion",
    "`kan_diffusion.KAN(widths, grid_size=G)`.",
    _build,
    patient=True,
)
OURS_COMPILED = Contender(
    "ours-compiled",
    "kan-diffusion, compiled",
    "The same under `torch.compile`.",
    _build_compiled,
    compiled=True,
    patient=True,
)
