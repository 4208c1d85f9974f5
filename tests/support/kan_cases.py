"""Layers of every kind, with and without a compiled CPU kernel."""

from contextlib import nullcontext
from dataclasses import dataclass
from unittest.mock import patch

import pytest
import torch
from torch import nn

from helpers import is_fused, randn, seeded
from kan_diffusion.kan import Basis, GatedLinear, KANLinear, LearnedFunctions, SharedKANLinear
from kan_diffusion.kan.kernels import fused

SINGLE, DOUBLE = torch.float32, torch.float64


class Rows(nn.Module):
    """A gated layer as a function of one tensor: its input, a carried state and a code together."""

    def __init__(self, layer, reach):
        super().__init__()
        self.layer = layer
        self.widths = [(1 + layer.gated) * layer.in_features, reach, layer.rank or 0]
        self.in_features = sum(self.widths)

    def forward(self, x):
        rows = x if x.ndim == 2 else x.reshape(-1, self.in_features)
        values, carried, code = rows.split(self.widths, dim=-1)
        carried = carried if self.widths[1] else None
        found = self.layer(values, carried, None if self.layer.rank is None else code)
        output = torch.cat(found, dim=-1)
        return output if x.ndim == 2 else output.view(*x.shape[:-1], output.shape[1])


@dataclass(frozen=True)
class Case:
    """A layer; each with a kernel that differs in more than its mode costs seconds to compile."""

    # A basis of each edge; "functions" of each input, or some that groups share: "shared",
    # "grouped"; or a gated layer of learned functions or SiLU: "gated", "gated-silu".
    kind: str
    mode: str = "linear"
    dtype: torch.dtype = DOUBLE
    order: int = 3

    def __str__(self):
        precision = str(self.dtype).removeprefix("torch.float")
        return "-".join([self.kind, self.mode, precision, str(self.order)])

    @property
    def is_gated(self):
        return self.kind.startswith("gated")

    @property
    def is_learned(self):
        """Whether the module learns its functions, and casts its input."""
        return self.kind in ("functions", "shared", "grouped")

    @property
    def is_full(self):
        """Whether each edge has a function of its own."""
        return not (self.is_learned or self.is_gated)

    def build(self, inputs=3, outputs=5, size=4, bias=True, seed=0):
        """The module with normal parameters and a grid of its own for each input or group.

        Groups are by turns, and where functions are shared there are ``outputs`` of an input. The
        seed decides what gates, modulates and reaches the units of a gated layer.
        """
        own = {"grid_size": size, "order": self.order, "dtype": self.dtype}
        if self.is_full:
            own |= {"basis": self.kind, "extrapolation": self.mode}
            module = KANLinear(inputs, outputs, bias, **own)
        else:
            several = {"shared": outputs, "grouped": 5}.get(self.kind, 1)
            functions = min(several, size + self.order)
            groups = max(1, min(3, inputs - 1))  # some inputs share their functions
            own |= {"functions": functions, "initial": [torch.zeros_like] * functions}
            if self.kind == "grouped":
                module = SharedKANLinear(inputs, outputs, bias=bias, groups=groups, **own)
            else:
                groups = None if self.kind == "functions" else groups
                module = LearnedFunctions(inputs, groups=groups, **own)
        if self.is_gated:
            learned = self.kind == "gated"
            # Without gates and a code, SiLU and a product are torch's own.
            rank = (2, None if learned else 1, 0, 3)[seed % 4]
            own = {"gated": seed % 2 == 0, "rank": rank, "dtype": self.dtype}
            layer = GatedLinear(inputs, outputs, bias, functions=module if learned else None, **own)
            module = Rows(layer, (inputs + 1, inputs, 0, max(1, inputs - 3))[seed // 4 % 4])
        generator = seeded(seed)
        for parameter in module.parameters():
            parameter.detach().normal_(generator=generator)
        for part in module.modules():
            if isinstance(part, Basis):
                part.grid_origin.uniform_(-2, 1, generator=generator)
                part.grid_step.uniform_(0.1, 1, generator=generator)
        return module

    def points(self, module, rows, seed=1, reach=7):
        """Points inside and up to ``reach`` intervals beyond each grid, none near a knot.

        Those of a gated layer are normal, and their states fall where they do.
        """
        shape = rows, module.in_features
        if self.is_gated:
            return randn(*shape, seed=seed, dtype=self.dtype)
        end = module.basis.num_intervals + reach
        cells = torch.randint(-reach, end, shape, generator=seeded(seed))
        u = cells + 0.02 + 0.96 * torch.rand(shape, generator=seeded(seed + 1), dtype=DOUBLE)
        return self.places(module, u)

    def places(self, module, u):
        """The inputs at places u of the grids."""
        grid_of = module.group if self.is_learned else torch.arange(module.in_features)
        origin, step = module.basis.grid
        return (origin[grid_of] + step[grid_of] * u).to(self.dtype)


FORMS = [
    Case(kind) for kind in ("bspline", "functions", "shared", "grouped", "gated", "gated-silu")
]
"""One case for each form of a kernel."""
KINDS = [*FORMS, Case("rbf"), Case("chebyshev")]
"""One case for each kind of layer."""


def over(cases):
    """Runs a test or a class of tests over cases."""
    return pytest.mark.parametrize("case", cases, ids=str)


def by_torch():
    """Turns kernels off, as ``KAN_KERNELS=0`` does."""
    return patch.object(fused, "_ENABLED", new=False)


def operands_of(module, x):
    return [x, *module.parameters()]


def direction_of(output, seed=2):
    return randn(*output.shape, seed=seed).to(output)


def run(module, x, direction=None, fused=True):
    """Output and gradients, of a kernel, of torch's operations (False), or of either (None)."""
    x = x.detach().requires_grad_()
    with by_torch() if fused is False else nullcontext():
        output = module(x)
    assert fused is None or is_fused(output) == fused
    direction = direction_of(output) if direction is None else direction
    return [output.detach(), *torch.autograd.grad(output, operands_of(module, x), direction)]
