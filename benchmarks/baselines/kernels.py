"""Networks of the dense bases and of learned activations, by kernel and by torch's operations.

A kernel of ours has to be at least 1.3 times as fast as torch: eager, eager and recomputing all but
the input in the backward pass (as kernels do), and compiled. Rational functions have no kernel:
there our own network is torch's, eager.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
from kan_diffusion.kan.kernels.edges import edge_features
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from baselines.contender import Case, Contender, NetworkWorkload
from kan_diffusion.kan import KANLinear, LearnedFunctions

__all__ = ["KERNELS", "KERNEL_CONTENDERS", "own_network"]

KERNELS = ("rbf", "chebyshev", "fourier", "rational", "activation")
_PATHS = {
    "": "as it is imported",
    "-eager": "in torch's operations",
    "-recompute": "in torch's operations, which are repeated in the backward pass",
    "-compiled": "in torch's operations under `torch.compile`",
}


def own_network(name: str) -> str:
    """The contender that another is compared with: the same network as it is imported."""
    return name.partition("-")[0]


def _by_torch(layer: nn.Module, x: Tensor) -> Tensor:
    if isinstance(layer, KANLinear):
        features = edge_features(x, layer.basis, layer.base_activation is not None)
        return nn.functional.linear(features.flatten(1), layer.weight, layer.bias)
    if isinstance(layer, LearnedFunctions):
        return layer.by_torch(x, layer.coefficients)
    return layer(x)


def _layers(kernel: str, case: Case) -> list[nn.Module]:
    pairs = list(pairwise(case.widths))
    if kernel != "activation":
        return [KANLinear(a, b, basis=kernel, grid_size=case.grid_size) for a, b in pairs]
    layers: list[nn.Module] = []
    for a, b in pairs:
        layers += [nn.Linear(a, b), LearnedFunctions(b, grid_size=case.grid_size)]
    return layers[:-1]


def _build(kernel: str, path: str, case: Case, device: torch.device) -> NetworkWorkload:
    network = nn.Sequential(*_layers(kernel, case)).to(device)

    def call(x: Tensor) -> Tensor:
        for layer in network:
            if path == "-recompute" and not isinstance(layer, nn.Linear):
                run: Callable[[Tensor], Tensor] = partial(_by_torch, layer)
                x = checkpoint(run, x, use_reentrant=False, preserve_rng_state=False)
            else:
                x = _by_torch(layer, x) if path else layer(x)
        return x

    return NetworkWorkload(
        network, case, device, torch.compile(call) if path == "-compiled" else call
    )


KERNEL_CONTENDERS = tuple(
    Contender(
        f"{kernel}{path}",
        f"{kernel}, torch {path[1:]}" if path else kernel,
        f"{'Learned activations' if kernel == 'activation' else f'Basis `{kernel}`'} {how}.",
        partial(_build, kernel, path),
        compiled=path == "-compiled",
        patient=not path,
    )
    for kernel in KERNELS
    for path, how in _PATHS.items()
    if (kernel, path) != ("rational", "-eager")
)
