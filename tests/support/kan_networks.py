"""Layers of every kind and small networks of them."""

from functools import partial

import torch
from torch import nn

from helpers import randn, seeded
from kan_diffusion.kan import KAN, GatedLinear, KANLinear, LearnedFunctions
from kan_diffusion.kan.functions import BasisLayer

BASES = ("bspline", "rbf", "chebyshev")


class Gated(nn.Module):
    """Gated layers, of learned functions or SiLU, modulated by two of three inputs."""

    def __init__(self, learned, dtype=None):
        super().__init__()
        self.first = nn.Linear(3, 16, dtype=dtype)
        self.layers = nn.ModuleList()
        for outputs in (16, 2):
            functions = LearnedFunctions(8, 1, 3, dtype=dtype)
            own = functions if learned else None
            self.layers.append(GatedLinear(8, outputs, rank=2, functions=own, dtype=dtype))

    def forward(self, x):
        h, state = self.first(x), None
        for layer in self.layers:
            h, state = layer(h, state, x[:, :2])
        return h


LEARNED = {
    "functions": lambda dtype=None: nn.Sequential(
        LearnedFunctions(3, dtype=dtype),
        LearnedFunctions(3, 2, 2, dtype=dtype),
        nn.Linear(6, 2, dtype=dtype),
    ),
    "grouped": lambda dtype=None: nn.Sequential(
        KANLinear(3, 5, functions=2, groups=2, dtype=dtype),
        KANLinear(5, 2, functions=3, grid_size=8, dtype=dtype),
    ),
    "gated": partial(Gated, True),
    "gated-silu": partial(Gated, False),
}
"""Networks of layers whose functions are shared, or gated, from three inputs to two outputs."""

LAYERS = {
    **{name: partial(KANLinear, 3, 2, basis=name) for name in BASES},
    "functions": partial(LearnedFunctions, 3),
    "shared": partial(LearnedFunctions, 3, 2, 2),
    "grouped": partial(KANLinear, 3, 2, functions=2, groups=2),
}
"""Layers of three inputs."""


def network_of(basis="bspline", seed=0, sizes=(3, 5, 2), **own):
    """A small network with grids and parameters that are not those of the start.

    Those in ``LEARNED`` have none of the settings but a dtype.
    """
    if basis in LEARNED:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = LEARNED[basis](dtype=own.get("dtype"))
    else:
        network = KAN(sizes, basis=basis, **own)
        network.reset_parameters(seeded(seed))
    for place, parameter in enumerate(network.parameters()):
        parameter.detach().add_(0.3 * randn(*parameter.shape, seed=100 * seed + place))
    for layer in network.modules():
        if isinstance(layer, BasisLayer):
            layer.basis.grid_step.mul_(0.7)
            count = layer.basis.in_features
            layer.basis.grid_origin.add_(torch.rand(count, generator=seeded(seed)))
    return network


def points(rows=40, seed=1, dtype=torch.float32):
    """Points inside and outside of the grids."""
    return 1.5 * randn(rows, 3, seed=seed, dtype=dtype)


def results(module, network, x):
    """The output and the gradients of a loss with respect to input and parameters."""
    x = x.detach().clone().requires_grad_()
    output = module(x)
    gradients = torch.autograd.grad(output.square().sum(), [x, *network.parameters()])
    return [output.detach(), *gradients]


def assert_near(ours, theirs, tolerance=2e-5):
    """Equal up to a share of the largest number."""
    for one, other in zip(ours, theirs, strict=True):
        scale = max(1.0, float(other.detach().abs().max())) if other.numel() else 1.0
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance * scale)
