"""Networks kanified in both ways at once, and their gradients."""

import torch

from helpers import seeded
from kan_diffusion.kanified import find_blocks, kanify


def in_both_ways(network):
    """Makes the first block grouped, and then the others full."""
    first, *others = (path for path, block in find_blocks(network).items() if not block.embedding)
    kanify(network, layers=first, generator=seeded())
    kanify(network, layers=others, kind="full", generator=seeded())


def loss_of(network, call):
    found = network(*call)
    return (found if isinstance(found, torch.Tensor) else found[0]).square().mean()


def gradients(network, call):
    network.zero_grad()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # class labels are dropped at random
        loss_of(network, call).backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
