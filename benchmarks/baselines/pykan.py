"""pykan, the reference implementation of KANs, with its symbolic branch off (``speed()``)."""

from __future__ import annotations

import torch

from baselines.contender import ORDER, Case, Contender, NetworkWorkload

__all__ = ["PYKAN"]


def _build(case: Case, device: torch.device) -> NetworkWorkload:
    from kan import KAN

    network = KAN(
        width=list(case.widths),
        grid=case.grid_size,
        k=ORDER,
        grid_range=[-1, 1],
        seed=0,
        auto_save=False,  # else it writes a folder of checkpoints
        device=str(device),
    )
    return NetworkWorkload(network.speed(), case, device)


PYKAN = Contender(
    "pykan",
    "pykan",
    "`speed()`, which turns the symbolic branch off.",
    _build,
    package="pykan",
    try_small=True,
)
