from __future__ import annotations

import itertools

import pytest
import torch

from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.kan import KAN, KANLinear


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_kan_is_the_composition_of_its_layers() -> None:
    options = {"grid_size": 4, "order": 2, "grid_range": (-2.0, 2.0), "extrapolation": "zero"}
    network = KAN([3, 5, 4, 2], bias=False, edge_scale=True, **options)
    layers = []
    for layer, (fan_in, fan_out) in zip(
        network.layers, itertools.pairwise([3, 5, 4, 2]), strict=True
    ):
        twin = KANLinear(fan_in, fan_out, bias=False, edge_scale=True, **options)
        twin.load_state_dict(layer.state_dict())
        layers.append(twin)
    x = 2 * torch.randn(2, 6, 3, generator=_generator(0))
    assert torch.equal(network(x), layers[2](layers[1](layers[0](x))))
    assert network.flops == sum(layer.flops for layer in layers)


def test_a_generator_decides_every_parameter() -> None:
    network, twin = KAN([2, 6, 1]), KAN([2, 6, 1])
    state = torch.get_rng_state()
    network.reset_parameters(_generator(1))
    twin.reset_parameters(_generator(1))
    assert torch.equal(state, torch.get_rng_state())
    x = torch.randn(8, 2, generator=_generator(0))
    assert torch.equal(network(x), twin(x))
    # One stream runs through the layers: the second does not start where the first did.
    twin.layers[1].reset_parameters(_generator(1))
    assert not torch.equal(network(x), twin(x))


def test_a_small_kan_learns_a_function_that_edges_alone_can_express() -> None:
    # x0 * x1 = exp(log x0 + log x1): two layers of univariate functions are enough.
    x = 0.2 + 1.6 * torch.rand(512, 2, generator=_generator(0))
    y = x.prod(-1, keepdim=True)
    network = KAN([2, 2, 1], grid_range=(0.0, 2.0))
    network.reset_parameters(_generator(1))
    optimizer = torch.optim.LBFGS(network.parameters(), max_iter=150, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (network(x) - y).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    held_out = 0.2 + 1.6 * torch.rand(512, 2, generator=_generator(2))
    error = (network(held_out) - held_out.prod(-1, keepdim=True)).square().mean()
    # What the best plane leaves is 9 % of the variance.
    assert float(error.detach()) < 1e-3 * float(y.var())


def test_fewer_than_two_widths_are_refused() -> None:
    with pytest.raises(KanDiffusionError, match=r"at least two widths, not \[3\]"):
        KAN([3])
