r"""The function of a library that a curve is, if any.

For given a and b the best c, s and d of

.. math:: y \approx c\,f(a x + b) + s x + d

are a linear least-squares problem, so only a and b are searched: on a grid laid over the samples,
then by Levenberg-Marquardt from its best points (variable projection; Golub and Pereyra 1973). Half
of the samples are fitted; :math:`R^2` is that of the other half, so a function with more freedom is
not better for that alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import least_squares

from kan_diffusion.denoisers.edges import Match
from kan_diffusion.denoisers.library import LIBRARY, LINEAR, EdgeFunction, Library
from kan_diffusion.errors import KanDiffusionError

__all__ = ["match_curve"]

Array = NDArray[np.float64]

_GRID_SAMPLES = 400
_SCALES = np.geomspace(0.15, 12.0, 14)
_SHIFTS = np.linspace(-2.0, 2.0, 13)
_FAR_SHIFTS = np.array([-9.0, -6.0, -4.0, -3.0, -2.5, 2.5, 3.0, 4.0, 6.0, 9.0])
"""For functions without symmetry, whose ends (of log and sqrt) may be far from all samples."""
_REFINED = 2
_HUGE = 1e100
"""Values of a function from here on are of no use: their squares overflow."""

_LARGEST = 30.0
"""Of the function's own part, in standard deviations of the curve."""


def _columns(function: EdgeFunction, x: Array, a: float, b: float, has_slope: bool) -> Array:
    with torch.no_grad():
        values = function.values(torch.from_numpy(a * x + b)).numpy()
    parts = [values, x, np.ones_like(x)] if has_slope else [values, np.ones_like(x)]
    return np.stack(parts, axis=-1)


def _is_usable(columns: Array) -> bool:
    return bool((np.abs(columns) < _HUGE).all())  # NaN is not less


def _solve(columns: Array, y: Array) -> Array:
    return np.asarray(np.linalg.lstsq(columns, y, rcond=1e-10)[0], dtype=np.float64)


def _grid(function: EdgeFunction, x: Array, y: Array, has_slope: bool) -> list[tuple[float, float]]:
    """The best places (a, b) of the grid."""
    centre, spread = float(x.mean()), float(x.std())
    scales = (_SCALES if function.parity else np.concatenate([_SCALES, -_SCALES])) / spread
    if function.scaleless:
        scales = np.ones(1)
    shifts = _SHIFTS if function.parity else np.concatenate([_SHIFTS, _FAR_SHIFTS])
    a = np.repeat(scales, len(shifts))
    b = -a * np.tile(centre + spread * shifts, len(scales))
    if function.shiftless:
        a, b = scales, np.zeros_like(scales)
    with torch.no_grad():
        z = torch.from_numpy(a[:, None] * x + b[:, None])
        values = function.values(z).numpy()
    usable = (np.abs(values) < _HUGE).all(1)
    a, b, values = a[usable], b[usable], values[usable]
    if len(a) == 0:
        return []
    # What the other columns explain is taken out of both sides; one column is then left to fit.
    others = np.stack([x, np.ones_like(x)] if has_slope else [np.ones_like(x)], -1)
    q, _ = np.linalg.qr(others)
    rest = y - q @ (q.T @ y)
    values = values - (values @ q) @ q.T
    power = (values**2).sum(1)
    gain = np.where(power > 1e-9 * len(x), (values @ rest) ** 2 / np.maximum(power, 1e-300), 0)
    order = np.argsort(-gain)[:_REFINED]
    return [(float(a[k]), float(b[k])) for k in order]


def _refine(
    function: EdgeFunction, x: Array, y: Array, start: tuple[float, float], has_slope: bool
) -> tuple[float, float]:
    scale = 1 / float(x.std())
    first = np.array([start[0] / scale, start[1]])
    free = np.array([not function.scaleless, not function.shiftless])

    def place(p: Array) -> tuple[float, float]:
        full = first.copy()
        full[free] = p
        return float(full[0] * scale), float(full[1])

    def residuals(p: Array) -> Array:
        columns = _columns(function, x, *place(p), has_slope)
        if not _is_usable(columns):
            return np.full_like(y, 1e6)
        answer: Array = columns @ _solve(columns, y) - y
        return answer

    try:
        return place(least_squares(residuals, first[free], method="lm", max_nfev=60).x)
    except (ValueError, np.linalg.LinAlgError):
        return start


def _r2(predicted: Array, y: Array) -> float:
    variance = float(((y - y.mean()) ** 2).mean())
    with np.errstate(over="ignore", invalid="ignore"):  # far from where the function was fitted
        return 1 - float(((y - predicted) ** 2).mean()) / max(variance, 1e-300)


def _match(
    function: EdgeFunction, fitted: tuple[Array, Array], judged: tuple[Array, Array], slope: bool
) -> Match | None:
    x, y = fitted
    if function.name == LINEAR:
        solution = _solve(np.stack([x, np.ones_like(x)], -1), y)
        places = [(1.0, 0.0)]
    else:
        few = slice(None, _GRID_SAMPLES)
        places = [
            _refine(function, x[few], y[few], place, slope)
            for place in _grid(function, x[few], y[few], slope)
        ]
    best: Match | None = None
    for a, b in places:
        if function.name == LINEAR:
            c, s, d = 0.0, float(solution[0]), float(solution[1])
            predicted = s * judged[0] + d
        else:
            columns = _columns(function, x, a, b, slope)
            if not _is_usable(columns):
                continue
            solution = _solve(columns, y)
            if abs(solution[0]) * columns[:, 0].std() > _LARGEST * y.std():
                continue  # two large parts that cancel describe a curve, but say nothing of it
            c, d = float(solution[0]), float(solution[-1])
            s = float(solution[1]) if slope else 0.0
            predicted = _columns(function, judged[0], a, b, slope) @ solution
        r2 = _r2(predicted, judged[1])
        if math.isfinite(r2) and (best is None or r2 > best.r2):
            has_slope = slope or function.name == LINEAR
            complexity = function.complexity + int(slope)
            best = Match(function.name, has_slope, a, b, c, s, d, r2, complexity)
    return best


def match_curve(
    x: Sequence[float] | Array,
    y: Sequence[float] | Array,
    library: Library = LIBRARY,
    *,
    max_complexity: int | None = None,
) -> list[Match]:
    """Matches a curve with every function of a library, with and without a linear part.

    Args:
        x: Samples of the input as they occur, in random order, with shape (n,), n at least 8.
        y: The curve at them, with shape (n,).
        library: Functions to try.
        max_complexity: Highest complexity to try; any when None.

    Returns:
        The matches, the lowest cost first; none where x or y does not vary.

    Raises:
        KanDiffusionError: There are too few samples, or some are not finite.
    """
    x = np.asarray(x, dtype=np.float64)
    y = np.asarray(y, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape or len(x) < 8:
        raise KanDiffusionError(
            f"a curve needs at least 8 samples of x and as many of y, not shapes {x.shape} and "
            f"{y.shape}"
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise KanDiffusionError("a curve to match has samples that are not finite; leave them out")
    half = len(x) // 2
    if x[:half][:_GRID_SAMPLES].std() < 1e-9 or y.std() < 1e-12:
        return []
    fitted, judged = (x[:half], y[:half]), (x[half:], y[half:])
    matches = []
    for function in library.values():
        for slope in (False,) if function.name == LINEAR else (False, True):
            if max_complexity is not None and function.complexity + slope > max_complexity:
                continue
            match = _match(function, fitted, judged, slope)
            if match is not None:
                matches.append(match)
    return sorted(matches, key=lambda match: match.cost)
