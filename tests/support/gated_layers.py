"""Gated layers with normal parameters, alone and in a chain."""

from __future__ import annotations

import torch

from helpers import scrambled, seeded
from kan_diffusion.kan import GatedLinear, LearnedFunctions

DOUBLE = torch.float64


def layer_of(order, units, outputs=3, *, seed=0, **own):
    """A layer of SiLU (order 0) or of splines, in uneven groups with grids of their own."""
    functions = None
    if order:
        count = min(3, units)
        groups = [i if i < count else (i * i) % count for i in range(units)]
        settings = {"grid_size": 4, "order": order, "start": [torch.zeros_like]}
        functions = scrambled(LearnedFunctions(units, 1, groups, dtype=DOUBLE, **settings), seed)
    layer = GatedLinear(units, outputs, functions=functions, dtype=DOUBLE, **own)
    for place, parameter in enumerate(layer.parameters()):
        parameter.detach().normal_(generator=seeded(100 * seed + place))
    return layer


def chain_of(order, **own):
    """Three layers, of two outputs, that differ in width."""
    own = {"rank": 2, "gated": True, **own}
    wide = 1 + bool(own["gated"])
    widths = (8, wide * 11), (11, wide * 9), (9, 2)
    layers = [layer_of(order, *pair, seed=seed, **own) for seed, pair in enumerate(widths)]
    for layer in layers:
        layer.weight.detach().div_(layer.in_features)
    return layers


def one_by_one(layers, x, code):
    state = None
    for layer in layers:
        x, state = layer(x, state, code)
    return x
