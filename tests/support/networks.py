"""Small networks that the tests of explanations share."""

import torch

from helpers import seeded
from kan_diffusion.denoisers import NetworkDenoiser
from kan_diffusion.denoisers.edges import CURVE
from kan_diffusion.denoisers.readable import ReadableDenoiser, readable

T = 100
FOURIER = {"time_encoding": "fourier", "num_time_frequencies": 2}
MODULATED = {**FOURIER, "modulated": True}


def stir(module, seed=0, spread=0.4):
    """Leaves no parameter at a special value."""
    for parameter in module.parameters():
        parameter.detach().normal_(0, spread, generator=seeded(seed))


def kan(seed=0, **settings):
    """A float64 KAN denoiser with no parameter at a special value."""
    shape = {"data_dim": 2, "hidden": (4, 3), "num_train_timesteps": T, "num_time_frequencies": 3}
    grid = {"edges": True, "grid_size": 5, "grid_range": (-2.0, 2.0)}
    made = NetworkDenoiser(**{**shape, **grid, **settings}).double()
    stir(made, seed)
    return made


def network(edges, hidden, *, seed=0, **settings):
    """A float64 network of given edges, layer by layer, with no parameter at a special value."""
    settings = {"data_dim": 2, "num_train_timesteps": T, "time_encoding": "raw", **settings}
    kept = [(index, *edge) for index, layer in enumerate(edges) for edge in layer]
    made = ReadableDenoiser(hidden=list(hidden), edges=True, kept_edges=kept, **settings)
    torch.nn.Module.to(made, torch.float64)
    stir(made, seed)
    return made.eval()


def batch(dim=2, num=64):
    points = torch.randn(num, dim, dtype=torch.float64, generator=seeded(5))
    return points, torch.randint(0, T, (num,), generator=seeded(6))


def mixed(num_inputs):
    """Two layers of curves, lines and functions, from every input."""
    kinds = [(CURVE, False), ("tanh", True), ("linear", True), ("gaussian", False), ("sin", False)]
    first = [(i, o, *kinds[(i + 2 * o) % 5]) for i in range(num_inputs) for o in range(3)]
    second = [(i, o, *kinds[(2 * i + o) % 5]) for i in range(3) for o in range(2)]
    return [first, second]


def mixed_networks():
    """Readable networks of every kind of input and modulation, by name."""
    both = {**MODULATED, "scaled_inputs": True, "num_input_frequencies": 2}
    some = {**MODULATED, "num_input_frequencies": 2, "kept_inputs": [1, 3, 6, 9]}
    deep = [
        mixed(2)[0],
        [(0, 0, "tanh", True), (1, 1, "square", False), (2, 1, CURVE, False)],
        [(0, 0, "exp", False), (1, 0, "linear", True), (1, 1, "abs", True)],
    ]
    return {
        "raw time": network(mixed(3), [3]),
        "time": network(mixed(6), [3], **FOURIER),
        "modulated": network(mixed(2), [3], **MODULATED),
        "scaled inputs": network(mixed(2), [3], **MODULATED, scaled_inputs=True),
        "Fourier inputs": network(mixed(11), [3], num_input_frequencies=2),
        "Fourier and scaled": network(mixed(10), [3], **both),
        "some inputs": network(mixed(4), [3], **some),
        "curves": readable(kan(modulated=True, scaled_inputs=True)),
        "deep": network(deep, [3, 2], **MODULATED),
        "no hidden layer": network([[(0, 0, "tanh", True), (1, 1, CURVE, False)]], []),
        "no edge": network([[], [(0, 0, "tanh", True), (1, 1, "linear", True)]], [2], **MODULATED),
    }
