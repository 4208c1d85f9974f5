"""``flashkan`` from the package index, compiled as it comes, and eager.

It evaluates all cubic splines as differences of truncated powers and has no switch for eager mode:
its layer always calls the compiled basis, which is a name in the layer's module. The eager
contender is a second copy of that module in which the name stands for the package's own eager
function, so that both modes can be measured in one process.
"""

from __future__ import annotations

from functools import cache
from importlib import util
from itertools import pairwise
from types import ModuleType

import torch
from torch import nn

from baselines.contender import ORDER, Case, Contender, NetworkWorkload

__all__ = ["FLASHKAN", "FLASHKAN_EAGER"]


@cache
def _layer_module(compiled: bool) -> ModuleType:
    import flashkan.layer
    from flashkan.basis import bspline_basis_eager

    if compiled:
        return flashkan.layer
    spec = util.find_spec("flashkan.layer")
    assert spec is not None
    assert spec.loader is not None
    copy = util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    if not hasattr(copy, "bspline_basis"):
        raise RuntimeError("this version of flashkan keeps its basis elsewhere")
    copy.bspline_basis = bspline_basis_eager
    return copy


def _workload(case: Case, device: torch.device, compiled: bool) -> NetworkWorkload:
    module = _layer_module(compiled)
    layers = [
        module.KANLayer(fan_in, fan_out, grid_size=case.grid_size, spline_order=ORDER)
        for fan_in, fan_out in pairwise(case.widths)
    ]
    return NetworkWorkload(nn.Sequential(*layers).to(device), case, device)


def _build(case: Case, device: torch.device) -> NetworkWorkload:
    return _workload(case, device, compiled=True)


def _build_eager(case: Case, device: torch.device) -> NetworkWorkload:
    return _workload(case, device, compiled=False)


FLASHKAN = Contender(
    "flashkan",
    "flashkan, compiled",
    "As it comes: the basis under `torch.compile`.",
    _build,
    package="flashkan",
    compiled=True,
)
FLASHKAN_EAGER = Contender(
    "flashkan-eager",
    "flashkan, eager",
    "The same layer with the package's eager basis.",
    _build_eager,
    package="flashkan",
    try_small=True,
)
