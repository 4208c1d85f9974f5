"""What tests share: seeded draws, random layers, and refusals of one line."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn

from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.kan import KANLinear, LearnedFunctions
from kan_diffusion.kan.functions import BasisLayer

Layer = TypeVar("Layer", bound=BasisLayer)


def seeded(seed: int = 0) -> torch.Generator:
    """A generator of its own for every draw of a test."""
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Normal numbers from a generator of their own."""
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)


def scrambled(layer: Layer, seed: int = 0) -> Layer:
    """The layer with normal parameters and another grid each."""
    generator = seeded(seed)
    for parameter in layer.parameters():
        parameter.detach().normal_(generator=generator)
    count = layer.basis.in_features
    layer.basis.grid_origin.add_(torch.rand(count, generator=generator) - 0.5)
    layer.basis.grid_step.mul_(0.5 + torch.rand(count, generator=generator))
    return layer


def random_layer(
    in_features: int = 3, out_features: int = 2, *, seed: int = 0, **settings: object
) -> KANLinear:
    """A float64 layer with normal parameters and a grid for each input."""
    layer = KANLinear(in_features, out_features, **{"dtype": torch.float64, **settings})
    return scrambled(layer, seed)


def function_by_function(module: LearnedFunctions, x: Tensor) -> Tensor:
    """Learned functions (n, in, R) of inputs (n, in), each evaluated by itself."""
    values = torch.empty(*x.shape, module.functions, dtype=x.dtype)
    for i, group in enumerate(module.group.tolist()):
        own = slice(group, group + 1)
        grid = module.basis.grid_origin[own], module.basis.grid_step[own]
        basis = module.basis(x[:, i : i + 1], grid)[:, 0]
        for r in range(module.functions):
            values[:, i, r] = (basis * module.coefficients[r, group]).sum(1)
    return values


def is_fused(output: Tensor) -> bool:
    """Tells whether a compiled kernel computed it."""
    return type(output.grad_fn).__name__ == "_FusedBackward"


def scattered(tensor: Tensor) -> Tensor:
    """The same numbers with others between them in memory."""
    room = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1]), math.nan, dtype=tensor.dtype)
    room[..., ::2] = tensor
    return room[..., ::2]


def assert_as_exact(
    ours: Iterable[Tensor], theirs: Iterable[Tensor], exact: Iterable[Tensor], tolerance: float
) -> None:
    """Tensors are as near to exact ones as others are, within three times, or nearly."""
    for one, other, truth in zip(ours, theirs, exact, strict=True):
        if one.numel():
            scale = max(1.0, float(truth.abs().max()))
            allowed = tolerance * scale + 3 * float((other - truth).abs().max())
            torch.testing.assert_close(one.to(truth.dtype), truth, rtol=0, atol=allowed)


def assert_same_state(one: nn.Module, other: nn.Module | dict[str, Tensor]) -> None:
    """Two modules, or a module and a state dict, have the same tensors to the bit."""
    state = other.state_dict() if isinstance(other, nn.Module) else other
    assert list(one.state_dict()) == list(state)
    for name, value in one.state_dict().items():
        assert torch.equal(value, state[name]), name


@contextmanager
def refused(
    message: str, error: type[Exception] = KanDiffusionError
) -> Iterator[pytest.ExceptionInfo[Exception]]:
    """Expects an error of one line that matches the message."""
    with pytest.raises(error, match=message) as caught:
        yield caught
    assert "\n" not in str(caught.value)
