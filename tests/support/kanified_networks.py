"""Kanified networks: saved and read, in both ways at once, and their gradients."""

import copy

import torch
from torch import Tensor

from helpers import seeded
from kan_diffusion.kanified import find_blocks, kanify, load_kanified, save_kanified
from picture_networks import change, make, output


def saved(folder, name, **settings):
    network, call = make(name)
    kanify(network, generator=seeded(), **settings)
    save_kanified(network, folder / name)
    return network, call, folder / name


def require_same_after_saving(name, kind, folder):
    """Checks that a network is read as it was, whole and in half precision."""
    network, call, folder = saved(folder, name, kind=kind)
    expected = output(network, call)
    read = load_kanified(folder)
    assert type(read) is type(network) is type(make(name)[0])
    assert torch.equal(output(read, call), expected)
    assert torch.equal(output(copy.deepcopy(read), call), expected)
    assert not list(folder.rglob("*.bin"))
    half = load_kanified(folder, dtype=torch.bfloat16)
    low = output(half, tuple(x.bfloat16() if x.is_floating_point() else x for x in call))
    assert low.dtype is torch.bfloat16
    assert change(expected, low) < 0.03


def kanify_in_both_ways(network):
    """The first block grouped, all others full."""
    first, *others = (path for path, block in find_blocks(network).items() if not block.embedding)
    kanify(network, layers=first, generator=seeded())
    kanify(network, layers=others, kind="full", generator=seeded())


def loss_of(network, call):
    found = network(*call)
    found = found if isinstance(found, Tensor) else found[0]
    return found.square().mean()


def gradients(network, call):
    network.zero_grad()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # class labels are dropped at random
        loss_of(network, call).backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
