"""What tests share: seeded draws, random layers, refusals of one line, and no network."""

import socket
from contextlib import contextmanager

import pytest
import torch

from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.kan import KANLinear, SharedKANLinear


def seeded(seed=0):
    """A generator of its own for every draw of a test."""
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0, dtype=torch.float64):
    """Normal numbers from a generator of their own."""
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)


def scrambled(layer, seed=0):
    """The layer with normal parameters and another grid each."""
    generator = seeded(seed)
    for parameter in layer.parameters():
        parameter.detach().normal_(generator=generator)
    count = layer.basis.in_features
    layer.basis.grid_origin.add_(torch.rand(count, generator=generator) - 0.5)
    layer.basis.grid_step.mul_(0.5 + torch.rand(count, generator=generator))
    return layer


def random_layer(in_features=3, out_features=2, *, seed=0, **settings):
    """A float64 layer with normal parameters and a grid for each input."""
    kind = SharedKANLinear if "functions" in settings else KANLinear
    layer = kind(in_features, out_features, **{"dtype": torch.float64, **settings})
    return scrambled(layer, seed)


def function_by_function(module, x):
    """Learned functions (n, in, R) of inputs (n, in), each evaluated by itself."""
    values = torch.empty(*x.shape, module.functions, dtype=x.dtype)
    for i, group in enumerate(module.group.tolist()):
        own = slice(group, group + 1)
        grid = module.basis.grid_origin[own], module.basis.grid_step[own]
        basis = module.basis(x[:, i : i + 1], grid)[:, 0]
        for r in range(module.functions):
            values[:, i, r] = (basis * module.coefficients[r, group]).sum(1)
    return values


def is_fused(output):
    """Tells whether a compiled kernel computed it, or what it is put together of."""
    nodes, seen = [output.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if type(node).__name__ == "_FusedBackward":
            return True
        if node not in seen:
            seen.add(node)
            nodes += [before for before, _ in getattr(node, "next_functions", ()) if before]
    return False


def assert_same_state(one, other):
    """Two modules, or a module and a state dict, have the same tensors to the bit."""
    state = other if isinstance(other, dict) else other.state_dict()
    assert list(one.state_dict()) == list(state)
    for name, value in one.state_dict().items():
        assert torch.equal(value, state[name]), name


@contextmanager
def refused(message, error=KanDiffusionError):
    """Expects an error of one line that matches the message."""
    with pytest.raises(error, match=message) as caught:
        yield caught
    assert "\n" not in str(caught.value)


def without_network(monkeypatch):
    """Lets Python reach no other machine; returns the addresses that it has asked for."""
    asked, connect = [], socket.socket.connect

    def refuse(host, *_, **__):
        asked.append(host)
        raise OSError(f"'{host}' is another machine")

    def connect_here(own, address):
        if own.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1"):
            refuse(address)
        return connect(own, address)

    monkeypatch.setattr(socket.socket, "connect", connect_here)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return asked
