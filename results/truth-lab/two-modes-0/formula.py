"""readable KAN on two-modes: a formula for the score at every noise level.

Points are standardised and noised: alpha * clean + sigma * noise with alpha^2 + sigma^2 = 1.
"""

import numpy as np


def score(x, alpha, sigma):
    """Gradient of the log-density of noised points x (n, 1)."""
    x = np.asarray(x, dtype=float)
    alpha, sigma = np.asarray(alpha, dtype=float), np.asarray(sigma, dtype=float)
    x0, = np.moveaxis(x, -1, 0)
    s0 = 0.893300473690033*alpha*np.tanh(0.893300473690033*alpha*x0/(1 - 0.800566077232361*alpha**2))/(1 - 0.800566077232361*alpha**2) - x0/(1 - 0.800566077232361*alpha**2)
    return np.stack(np.broadcast_arrays(s0, x0)[:-1], axis=-1)


def predicted_noise(x, alpha, sigma):
    """What the noise in the points x is expected to be."""
    return -np.asarray(sigma, dtype=float)[..., None] * score(x, alpha, sigma)
