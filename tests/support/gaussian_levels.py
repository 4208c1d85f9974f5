"""Gaussians, whose score is known at all noise levels, and a network that has it."""

import numpy as np
import torch

from helpers import randn, seeded
from kan_diffusion.data.densities import GaussianMixture
from kan_diffusion.formulas.averaged import draw_averaged
from kan_diffusion.formulas.combination import Atom, Combination
from kan_diffusion.formulas.context import Context
from kan_diffusion.formulas.levels.coordinate import first_formula
from kan_diffusion.processes import get_process
from make import dataset
from networks import network

PROCESS = get_process("cosine").model_copy(update={"num_timesteps": 200})
RHO = 0.8
DENSITY = GaussianMixture(torch.zeros(1, 2), covariances=torch.tensor([[[1, RHO], [RHO, 1]]]))


def exact_score(alpha):
    """Coefficients of the own and of the other coordinate in the score."""
    below = 1 - RHO**2 * alpha**4
    return -1 / below, RHO * alpha**2 / below


def exact_network():
    """The exact prediction of v, as nearly as the features of the timestep let it be.

    Along x0 + x1 and x0 - x1 the coordinates do not see each other: two modulated lines.
    """
    line = ("linear", True)
    edges = [[(i, o, *line) for i in range(2) for o in range(2)]] * 2
    time = {"time_encoding": "fourier", "num_time_frequencies": 6}
    denoiser = network(edges, [2], num_train_timesteps=200, modulated=True, **time)
    alpha, sigma = PROCESS.levels()
    variances = [alpha**2 * (1 + sign * RHO) + sigma**2 for sign in (1, -1)]
    noise = torch.stack([sigma / variance for variance in variances], -1)
    alpha, sigma = alpha[:, None], sigma[:, None]
    wanted = (noise - sigma) / alpha
    time = denoiser.time_features(torch.arange(200), torch.float64)
    columns = torch.cat([time, torch.ones(200, 1, dtype=torch.float64)], -1)
    solution = torch.linalg.lstsq(columns, wanted - 1).solution
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.zero_()
        signs = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
        denoiser.kan_layers[0].constants[3] = signs / 2
        denoiser.kan_layers[1].constants[3] = signs
        denoiser.layers[0].modulation[:, 0] = solution
    return denoiser


def context_of(density=DENSITY, num=50_000, process=PROCESS):
    return Context(dataset(density, num), process, 0, effort="quick")


def noised(seed, variance):
    """Noised Gaussian points on a line, with targets averaged over all of them."""
    clean = variance**0.5 * randn(2000, 1, seed=seed)
    return draw_averaged(clean, PROCESS, 2000, seeded(seed + 1000), num_timesteps=180)


def formula(offset, own):
    """The score offset α - x / (1 - own α²)."""
    alpha = np.linspace(0.05, 0.99, 40)
    score = Combination({None: offset * alpha, Atom(0): -1 / (1 - own * alpha**2)})
    x = np.random.default_rng(0).standard_normal((40, 50, 1))
    return first_formula(0, score, alpha, x, np.ones(40))
