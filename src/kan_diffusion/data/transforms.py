r"""Smooth monotone maps of a column of numbers to about N(0, 1), and categories as analog bits.

**Linear**, z = (x - mean) / std, where the shape is mild: a skewness within 1/2, an excess kurtosis
of at most 1, no cell beyond six standard deviations, and no bound within three of the mean.

**Spline** otherwise. Knots are quantiles x_i = Q(Phi(z_i)) at normal scores z_i; between two of
them, with w = x_{i+1} - x_i, h = z_{i+1} - z_i, xi = (x - x_i) / w and slopes a and b at the two
ends in units of h / w (Gregory and Delbourgo 1982; as in the flows of Durkan et al. 2019,
arXiv:1906.04032),

    z = z_i + h (xi^2 + a xi (1 - xi)) / (1 + (a + b - 2) xi (1 - xi)),

which is monotone, has a continuous derivative for any positive slopes and is inverted by a
quadratic. A slope is the geometric mean of the two secants, each to the power of the other
interval's share.

Beyond the last knots x moves away from the knot by s (exp(c t) - 1) / c, where t is the distance in
z and s = dx/dz there: linear tails for curvature c = 0, exponential ones (c > 0, heavy columns) and
such that approach a bound and never reach it (c = -s / distance). So nothing piles up at the ends,
and a column that is never negative stays so.

**Categories** are analog bits (Chen, Zhang and Hinton 2022, arXiv:2208.04202): the category of rank
r by frequency is the binary number r, with -1 for 0 and +1 for 1; whatever a model draws is read as
the nearest known category.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Annotated, Self

import numpy as np
import torch
from annotated_types import Len
from pydantic import Field, FiniteFloat, model_validator
from scipy.special import ndtr, ndtri

from kan_diffusion.data.scaling import LARGEST, Standardizer
from kan_diffusion.errors import DataError
from kan_diffusion.settings import Settings

__all__ = [
    "Linear",
    "Spline",
    "Transform",
    "category_codes",
    "category_coordinates",
    "category_width",
    "fit_levels",
    "fit_numbers",
]

_MOST_KNOTS = 33
_TAIL_ROWS = 5  # rows beyond the last knot: none of them can be read off the knots
_WIDEST_GAP = 0.5  # between knots of levels, in normal scores
_MOST_CURVATURE = 20.0
_MILD_SKEWNESS, _MILD_KURTOSIS, _MILD_RANGE, _MILD_BOUND = 0.5, 1.0, 6.0, 3.0
_NEAREST_AT_ONCE = 1 << 24


class Linear(Settings):
    """The map z = (x - mean) / scale.

    Attributes:
        mean: What is subtracted.
        scale: What is then divided by, positive.
    """

    mean: FiniteFloat
    scale: Annotated[FiniteFloat, Field(gt=0)]

    def forward(self, x: np.ndarray) -> np.ndarray:
        """From numbers of shape (n,) to about N(0, 1), in float64."""
        return (x / 4 - self.mean / 4) / (self.scale / 4)

    def inverse(self, z: np.ndarray) -> np.ndarray:
        """From z of shape (n,) to numbers; those too large for float64 are its largest."""
        with np.errstate(over="ignore"):
            return z * self.scale + self.mean

    def log_slope(self, x: np.ndarray) -> np.ndarray:
        """The logarithm of dz/dx at numbers of shape (n,)."""
        return np.full(len(x), -math.log(self.scale))


Knots = Annotated[tuple[FiniteFloat, ...], Len(2, 1_000)]


class Spline(Settings):
    """A monotone rational-quadratic spline with smooth tails.

    Attributes:
        x: Increasing knots, in the units of the numbers.
        z: Their normal scores, increasing.
        lower: Curvature of the tail below the first knot: 0 is linear, positive exponential, and
            negative approaches a bound.
        upper: Curvature of the tail above the last knot.
    """

    x: Knots
    z: Knots
    lower: FiniteFloat = 0.0
    upper: FiniteFloat = 0.0

    @model_validator(mode="after")
    def _require_increasing(self) -> Self:
        if len(self.x) != len(self.z):
            raise DataError(f"{len(self.x)} knots need as many scores, got {len(self.z)}")
        x, z = np.array(self.x), np.array(self.z)
        with np.errstate(over="ignore"):
            secants = np.diff(z) / np.diff(x)
        if not (np.isfinite(secants) & (secants > 0) & (np.diff(x) > 0)).all():
            raise DataError("knots and scores must increase; fit the codec anew")
        return self

    @cached_property
    def _pieces(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Knots, scores, and the slope dz/dx at each knot."""
        x, z = np.array(self.x), np.array(self.z)
        width, secant = np.diff(x), np.log(np.diff(z)) - np.log(np.diff(x))
        # The share of the other interval; an eighth, for their sum may be too large a number.
        share = (width[1:] / 8) / (width[1:] / 8 + width[:-1] / 8)
        inner = share * secant[:-1] + (1 - share) * secant[1:]
        return x, z, np.exp(np.concatenate([secant[:1], inner, secant[-1:]]))

    def forward(self, x: np.ndarray) -> np.ndarray:
        """From numbers of shape (n,) to about N(0, 1), in float64."""
        return self._evaluate(x)[0]

    def log_slope(self, x: np.ndarray) -> np.ndarray:
        """The logarithm of dz/dx at numbers of shape (n,)."""
        return self._evaluate(x)[1]

    def _evaluate(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        knots, scores, slopes = self._pieces
        place = np.clip(np.searchsorted(knots, x, "right") - 1, 0, len(knots) - 2)
        width, height = np.diff(knots)[place], np.diff(scores)[place]
        secant = height / width
        a, b = slopes[place] / secant, slopes[place + 1] / secant
        xi = np.clip((x - knots[place]) / width, 0, 1)
        mixed = xi * (1 - xi)
        bottom = 1 + (a + b - 2) * mixed
        z = scores[place] + height * (xi * xi + a * mixed) / bottom
        top = b * xi * xi + 2 * mixed + a * (1 - xi) ** 2
        log_slope = np.log(secant) + np.log(top) - 2 * np.log(bottom)
        for beyond, sign, end, curvature in self._tails(x, knots):
            if beyond.any():
                with np.errstate(over="ignore"):
                    away = np.abs(x[beyond] - knots[end]) * slopes[end]
                # What is past a bound is far away, and no further.
                growth = np.maximum(curvature * away, -1 + 1e-12)
                z[beyond] = scores[end] + sign * (
                    np.log1p(growth) / curvature if curvature else away
                )
                log_slope[beyond] = np.log(slopes[end]) - np.log1p(growth)
        return z, log_slope

    def inverse(self, z: np.ndarray) -> np.ndarray:
        """From z of shape (n,) to numbers; those too large for float64 are infinite."""
        knots, scores, slopes = self._pieces
        place = np.clip(np.searchsorted(scores, z, "right") - 1, 0, len(knots) - 2)
        width, height = np.diff(knots)[place], np.diff(scores)[place]
        secant = height / width
        a, b = slopes[place] / secant, slopes[place + 1] / secant
        y = np.clip((z - scores[place]) / height, 0, 1)
        linear = a - y * (a + b - 2)
        root = np.sqrt(linear**2 + 4 * (1 - linear) * y)
        x = knots[place] + width * np.clip(2 * y / (linear + root), 0, 1)
        for beyond, sign, end, curvature in self._tails(z, scores):
            if beyond.any():
                with np.errstate(over="ignore"):
                    away = np.abs(z[beyond] - scores[end])
                    away = np.expm1(curvature * away) / curvature if curvature else away
                    x[beyond] = knots[end] + sign * away / slopes[end]
        return x

    def _tails(
        self, values: np.ndarray, ends: np.ndarray
    ) -> tuple[tuple[np.ndarray, int, int, float], ...]:
        """Of each tail: which values are in it, its direction, its knot and its curvature."""
        return (
            (values < ends[0], -1, 0, self.lower),
            (values > ends[-1], 1, -1, self.upper),
        )


Transform = Linear | Spline


def fit_numbers(
    values: np.ndarray,
    low: float | None = None,
    high: float | None = None,
    where: str = "",
) -> Transform:
    """Fits the map of a column: linear where its shape is mild, else a spline.

    Args:
        values: Shape (n,), finite, not all equal.
        low: What all values are above and samples should be; None if there is nothing.
        high: What all values are below; None if there is nothing.
        where: What the line of an error names, such as a column.

    Raises:
        DataError: The values are beyond 1e300 or have a spread below 1e-305.
    """
    column = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64))[:, None]
    standard = Standardizer.from_points(column, [where])
    linear = Linear(mean=standard.mean[0], scale=standard.scale[0])
    if _is_mild(linear, values, low, high):
        return linear
    ordered = np.sort(values)
    count = len(ordered)
    outside = min(0.1, _TAIL_ROWS / count)
    knots = int(np.clip(count // _TAIL_ROWS, 4, _MOST_KNOTS))
    z = np.linspace(ndtri(outside), -ndtri(outside), knots)
    x, z = _distinct(_rounded(np.quantile(ordered, ndtr(z), method="hazen")), z)
    inside = (x > (-np.inf if low is None else low)) & (x < (np.inf if high is None else high))
    x, z = x[inside], z[inside]
    if len(x) < 2:
        return linear
    spline = Spline(x=tuple(x.tolist()), z=tuple(z.tolist()))
    slopes = spline._pieces[2]
    scores = ndtri((np.arange(count) + 0.5) / count)
    below, above = ordered < x[0], ordered > x[-1]
    return spline.model_copy(
        update={
            "lower": _curvature(x[0] - ordered[below], z[0] - scores[below], slopes[0], x[0], low),
            "upper": _curvature(
                ordered[above] - x[-1], scores[above] - z[-1], slopes[-1], x[-1], high
            ),
        }
    )


def fit_levels(frequencies: np.ndarray) -> Transform:
    """Fits the map of levels 0, 1, ..., K - 1, each spread evenly over the step above it.

    The edges between levels are knots, so normal numbers give each level in its frequency.

    Args:
        frequencies: Shape (K,), positive, K at least 2.
    """
    shares = np.cumsum(frequencies / frequencies.sum())[:-1]
    x, z = _distinct(np.arange(1.0, len(frequencies)), ndtri(np.clip(shares, 1e-9, 1 - 1e-9)))
    if len(x) > _MOST_KNOTS:
        chosen = np.unique(np.searchsorted(z, np.linspace(z[0], z[-1], _MOST_KNOTS)))
        x, z = x[chosen], z[chosen]
    # A knot within the first and the last level: a sixteenth of it is beyond.
    ends = ndtri(np.array([ndtr(z[0]) / 16, 1 - (1 - ndtr(z[-1])) / 16]))
    first, last = x[0] / 16, (len(frequencies) - x[-1]) / 16
    x = np.concatenate([[first], x, [len(frequencies) - last]])
    z = np.concatenate([ends[:1], z, ends[1:]])
    # Within a wide level the dequantised numbers are even, which normal scores are not.
    finer_x, finer_z = [x[:1]], [z[:1]]
    for i in range(len(x) - 1):
        pieces = math.ceil((z[i + 1] - z[i]) / _WIDEST_GAP)
        between = np.linspace(z[i], z[i + 1], pieces + 1)[1:]
        p, start, stop = ndtr(between), ndtr(z[i]), ndtr(z[i + 1])
        finer_x.append(x[i] + (x[i + 1] - x[i]) * np.clip((p - start) / (stop - start), 0, 1))
        finer_z.append(between)
    x, z = _distinct(np.concatenate(finer_x), np.concatenate(finer_z))
    spline = Spline(x=tuple(x.tolist()), z=tuple(z.tolist()))
    slopes = spline._pieces[2]
    return spline.model_copy(
        update={"lower": -1 / (slopes[0] * first), "upper": -1 / (slopes[-1] * last)}
    )


def _is_mild(linear: Linear, values: np.ndarray, low: float | None, high: float | None) -> bool:
    z = linear.forward(np.asarray(values, dtype=np.float64))
    bounds = [float(linear.forward(np.array([b]))[0]) for b in (low, high) if b is not None]
    return bool(
        abs((z**3).mean()) <= _MILD_SKEWNESS
        and (z**4).mean() - 3 <= _MILD_KURTOSIS
        and np.abs(z).max() <= _MILD_RANGE
        and all(abs(bound) >= _MILD_BOUND for bound in bounds)
    )


def _distinct(x: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One knot for each x, at the mean of its scores, and no two of about the same score."""
    unique, place, counts = np.unique(x, return_inverse=True, return_counts=True)
    scores = np.bincount(place, z) / counts
    kept = np.concatenate([[True], np.diff(scores) > 1e-9])
    return unique[kept], scores[kept]


def _rounded(x: np.ndarray) -> np.ndarray:
    """Knots to about a fiftieth of their distance, so that they are no cells of anybody's."""
    gaps = np.diff(x)
    near = np.minimum(np.append(gaps, np.inf), np.insert(gaps, 0, np.inf))
    rounded = x.copy()
    some = (near > 1e-12 * np.abs(x)) & (near > 1e-300)
    unit = 10.0 ** np.floor(np.log10(near[some] / 50))
    rounded[some] = np.round(x[some] / unit) * unit
    return rounded


def _curvature(
    away: np.ndarray, score: np.ndarray, slope: float, knot: float, bound: float | None
) -> float:
    """Curvature of a tail: that of its bound, or the one with which its rows lie as normal ones.

    Args:
        away: Distances of the tail's rows from its knot, shape (m,).
        score: Distances of their normal scores from the knot's.
        slope: dz/dx at the knot.
        knot: The knot.
        bound: What a tail of curvature 0 would cross.
    """
    found = 0.0
    reached = np.maximum(score, 0)
    with np.errstate(over="ignore"):
        wanted = float(
            np.minimum(away * slope, LARGEST / max(1, len(away))).mean() if len(away) else 0
        )
    if len(away) and wanted > reached.mean() > 0:
        from scipy.optimize import brentq

        def excess(curvature: float) -> float:
            return math.log(float(np.expm1(curvature * reached).mean()) / curvature / wanted)

        most = min(_MOST_CURVATURE, 600 / float(reached.max()))
        if excess(most) <= 0:
            found = most
        elif excess(1e-6) < 0:
            found = float(brentq(excess, 1e-6, most))
    if found == 0 and bound is not None:
        return -1 / (slope * abs(knot - bound))
    return float(f"{found:.2g}")


def category_width(count: int) -> int:
    """Number of coordinates of a column with so many categories."""
    return max(1, math.ceil(math.log2(count)))


def category_coordinates(codes: np.ndarray, count: int) -> np.ndarray:
    """Coordinates of categories.

    Args:
        codes: Shape (n,), ranks by frequency from 0 to count - 1.
        count: Number of categories.

    Returns:
        Shape (n, width), each -1 or +1, float32.
    """
    bits = (codes[:, None] >> np.arange(category_width(count))) & 1
    return (2 * bits - 1).astype(np.float32)


def category_codes(coordinates: np.ndarray, count: int) -> np.ndarray:
    """The category nearest to each row of coordinates, the most frequent of several.

    Args:
        coordinates: Shape (n, width).
        count: Number of categories.

    Returns:
        Shape (n,), int64, ranks from 0 to count - 1.
    """
    codes = ((coordinates > 0) << np.arange(coordinates.shape[1])).sum(axis=1)
    known = category_coordinates(np.arange(count), count).T
    unknown = np.flatnonzero(codes >= count)
    size = max(1, _NEAREST_AT_ONCE // count)
    for start in range(0, len(unknown), size):
        rows = unknown[start : start + size]
        codes[rows] = np.argmax(coordinates[rows] @ known, axis=1)  # all have one length
    return codes
