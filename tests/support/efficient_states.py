"""State dicts of efficient-KAN and knots, even ones, for the tests of conversions."""

import itertools

import torch

from helpers import seeded


def inputs(num_features, seed, reach=4.0):
    """Points inside a grid near (-1, 1), on the rest of its knots and past them all."""
    share = torch.rand(64, num_features, generator=seeded(seed), dtype=torch.float64)
    return reach * (2 * share - 1)


def even_knots(num_inputs, grid_size, order, generator):
    """Knots (in, G + 2k + 1) whose origin and step differ between the inputs."""
    low = -1 + 0.3 * torch.rand(num_inputs, 1, generator=generator, dtype=torch.float64)
    step = (1.5 + torch.rand(num_inputs, 1, generator=generator, dtype=torch.float64)) / grid_size
    return low + step * torch.arange(-order, grid_size + order + 1)


def efficient_state(sizes, grid_size=4, order=3, scaled=True, seed=0):
    generator, state = seeded(seed), {}
    for index, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        shapes = {
            "base_weight": (fan_out, fan_in),
            "spline_weight": (fan_out, fan_in, grid_size + order),
            **({"spline_scaler": (fan_out, fan_in)} if scaled else {}),
        }
        for name, shape in shapes.items():
            weight = torch.randn(shape, generator=generator, dtype=torch.float64)
            state[f"layers.{index}.{name}"] = weight
        state[f"layers.{index}.grid"] = even_knots(fan_in, grid_size, order, generator)
    return state
