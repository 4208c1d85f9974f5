"""``inkan`` from the package index, in both of its modes.

Its layers evaluate the four non-zero pieces of cubic splines in closed form and scatter them into a
dense operand. ``compile_basis`` is its own switch for compiling that evaluation.
"""

from __future__ import annotations

import torch

from baselines.contender import ORDER, Case, Contender, NetworkWorkload

__all__ = ["INKAN", "INKAN_EAGER"]


def _workload(case: Case, device: torch.device, compiled: bool) -> NetworkWorkload:
    from inkan import KANNetwork

    network = KANNetwork(
        list(case.widths),
        grid_size=case.grid_size,
        spline_order=ORDER,
        grid_range=(-1.0, 1.0),
        compile_basis=compiled,
    )
    return NetworkWorkload(network.to(device), case, device)


def _build(case: Case, device: torch.device) -> NetworkWorkload:
    return _workload(case, device, compiled=True)


def _build_eager(case: Case, device: torch.device) -> NetworkWorkload:
    return _workload(case, device, compiled=False)


INKAN = Contender(
    "inkan",
    "inkan, compiled",
    "Its default: the basis under `torch.compile`.",
    _build,
    package="inkan",
    compiled=True,
)
INKAN_EAGER = Contender(
    "inkan-eager",
    "inkan, eager",
    "`compile_basis=False`.",
    _build_eager,
    package="inkan",
    try_small=True,
)
