"""readable KAN on correlated-gaussian: a formula for the score at every noise level.

Points are standardised and noised: alpha * clean + sigma * noise with alpha^2 + sigma^2 = 1.
"""

import numpy as np


def score(x, alpha, sigma):
    """Gradient of the log-density of noised points x (n, 2)."""
    x = np.asarray(x, dtype=float)
    alpha, sigma = np.asarray(alpha, dtype=float), np.asarray(sigma, dtype=float)
    x0, x1, = np.moveaxis(x, -1, 0)
    s0 = 0.799581944942474*alpha**2*x1/(1 - 0.638832747936249*alpha**4) - x0/(1 - 0.638832747936249*alpha**4)
    s1 = 0.800464451313019*alpha**2*x0/(1 - 0.636459469795227*alpha**4) - x1/(1 - 0.636459469795227*alpha**4)
    return np.stack(np.broadcast_arrays(s0, s1, x0)[:-1], axis=-1)


def predicted_noise(x, alpha, sigma):
    """What the noise in the points x is expected to be."""
    return -np.asarray(sigma, dtype=float)[..., None] * score(x, alpha, sigma)
