"""What tests share: seeded draws, random layers, and refusals of one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.kan import KANLinear
from kan_diffusion.kan.bases import GridBasis


def seeded(seed: int = 0) -> torch.Generator:
    """A generator of its own for every draw of a test."""
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Normal numbers from a generator of their own."""
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)


def random_layer(
    in_features: int = 3, out_features: int = 2, *, seed: int = 0, **settings: object
) -> KANLinear:
    """A float64 layer with normal parameters and, where it has one, a grid for each input."""
    layer = KANLinear(in_features, out_features, **{"dtype": torch.float64, **settings})
    generator = seeded(seed)
    for parameter in layer.parameters():
        parameter.detach().normal_(generator=generator)
    if isinstance(layer.basis, GridBasis):
        layer.grid_origin.add_(torch.rand(in_features, generator=generator) - 0.5)
        layer.grid_step.mul_(0.5 + torch.rand(in_features, generator=generator))
    return layer


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
