"""B-splines as scipy evaluates them."""

import numpy as np
from scipy.interpolate import BSpline


def scipy_splines(x, knots, order, extrapolation, derivative=0):
    """B-splines (n, G + k) of points (n,) on G + 2k + 1 knots, or their derivatives.

    They are continued beyond the grid, the knots but k at each end, as the extrapolation says.
    """
    count = len(knots) - order - 1
    if extrapolation == "zero":
        # With more knots, so that scipy's own interval reaches every function's end.
        more = np.arange(1, order + 1)
        longer = np.concatenate([knots[0] - more[::-1], knots, knots[-1] + more])
        functions = np.eye(count + 2 * order)[:, order : order + count]
        values = BSpline(longer, functions, order)(x, nu=derivative)
        outside = (x < knots[0]) | (x > knots[-1])
        return np.where(outside[:, None], 0.0, values)
    splines = BSpline(knots, np.eye(count), order)
    nearest = np.clip(x, knots[order], knots[-order - 1])
    if derivative == 0:
        return splines(nearest) + splines(nearest, nu=1) * (x - nearest)[:, None]
    outside = (nearest != x)[:, None]
    return np.where(outside & (derivative > 1), 0.0, splines(nearest, nu=derivative))
