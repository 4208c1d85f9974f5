r"""Toy densities with exact oracles.

Every toy has one of three densities: points c(u) on a curve, u uniform, plus N(0, noise^2 I); a
mixture of Gaussians; or uniform boxes. Its score, log-density and posterior mean are therefore
known at every noise level. ``noise`` is the standard deviation of the noise about a curve, ``std``
that of each Gaussian of a mixture; both are positive. The toys keep the units of their sources;
standardise them with `kan_diffusion.data.Standardizer.from_density`. Most have two coordinates;
`two_modes`, `narrow_modes` and `uneven_modes` have one; the names of the others end in their
number. Constants drawn at random come from named streams, so that a toy is the same everywhere.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from kan_diffusion.data.densities import (
    CurveDensity,
    CurveSegment,
    Density,
    GaussianMixture,
    UniformBoxes,
)
from kan_diffusion.errors import DataError, look_up, require_known
from kan_diffusion.randomness import numpy_generator

__all__ = ["TOYS", "make_toy"]


def _on_circle(
    angle: Tensor, radius: float | Tensor = 1.0, centre: tuple[float, float] = (0.0, 0.0)
) -> Tensor:
    x = centre[0] + radius * torch.cos(angle)
    y = centre[1] + radius * torch.sin(angle)
    return torch.stack([x, y], dim=1)


def _spiral(t: Tensor) -> Tensor:
    return _on_circle(t, radius=t)


def _arm_by_square(u: Tensor, turn: float) -> Tensor:
    t = u.sqrt()
    return _on_circle(t + turn, radius=t)


def _pinwheel_arm(radius: Tensor, turn: float, twist: float) -> Tensor:
    return _on_circle(turn + twist * torch.exp(radius), radius=radius)


def _s_half(t: Tensor, sign: float) -> Tensor:
    return torch.stack([torch.sin(t), sign * (torch.cos(t) - 1)], dim=1)


def _laid_out(u: Tensor, curve: Callable[[Tensor], Tensor], axes: Tensor) -> Tensor:
    return curve(u) @ axes


def _rotation(dim: int, *name: str | int) -> Tensor:
    """Draws a rotation or reflection (dim, dim) from a named stream, uniformly (Haar measure)."""
    normal = torch.from_numpy(numpy_generator(*name).standard_normal((dim, dim)))
    axes, triangle = torch.linalg.qr(normal)
    # A positive diagonal makes the factors unique, whichever library computes them.
    return axes * triangle.diagonal().sign()


def swiss_roll(noise: float = 0.2) -> CurveDensity:
    """The curve (t cos t, t sin t), t uniform in [1.5 pi, 4.5 pi], plus noise.

    Columns 0 and 2 of scikit-learn's ``make_swiss_roll(noise=noise)``, in its units.
    """
    return CurveDensity([CurveSegment(_spiral, 1.5 * math.pi, 4.5 * math.pi)], noise)


def moons(noise: float = 0.1) -> CurveDensity:
    """Two half circles, (cos t, sin t) and (1 - cos t, 1/2 - sin t), t uniform in [0, pi].

    scikit-learn's ``make_moons(noise=noise)``, in its units.
    """
    lower = partial(_on_circle, centre=(1.0, 0.5))
    return CurveDensity(
        [CurveSegment(_on_circle, 0.0, math.pi), CurveSegment(lower, math.pi, 2 * math.pi)], noise
    )


def circles(noise: float = 0.08, factor: float = 0.5) -> CurveDensity:
    """Two circles of radius 1 and ``factor`` that hold half of the points each.

    scikit-learn's ``make_circles(noise=noise, factor=factor)``, in its units.

    Args:
        noise: Standard deviation of the Gaussian noise, positive.
        factor: Radius of the inner circle, between 0 and 1.
    """
    if not 0 < factor < 1:
        raise DataError(f"factor must lie between 0 and 1, got {factor}")
    return CurveDensity(
        [
            CurveSegment(partial(_on_circle, radius=radius), 0.0, 2 * math.pi)
            for radius in (1.0, factor)
        ],
        noise,
    )


def s_curve(noise: float = 0.1) -> CurveDensity:
    """The curve (sin t, sign(t) (cos t - 1)), t uniform in [-1.5 pi, 1.5 pi], plus noise.

    Columns 0 and 2 of scikit-learn's ``make_s_curve(noise=noise)``, in its units.
    """
    # The curvature jumps at t = 0, so each half is a segment of its own.
    return CurveDensity(
        [
            CurveSegment(partial(_s_half, sign=-1.0), -1.5 * math.pi, 0.0),
            CurveSegment(partial(_s_half, sign=1.0), 0.0, 1.5 * math.pi),
        ],
        noise,
    )


def checkerboard(squares: int = 4, width: float = 2.0) -> UniformBoxes:
    """Uniform on the fields of one colour of a squares x squares board centred at 0.

    The field at column i and row j is filled where i + j is even. The defaults are the board on
    [-4, 4]^2 common in work on normalising flows.

    Args:
        squares: Fields along a side, at least 2.
        width: Side of a field, positive.
    """
    if squares < 2 or width <= 0:
        raise DataError(
            f"a checkerboard needs squares >= 2 and width > 0, got squares {squares}, width {width}"
        )
    corner = -squares * width / 2
    lower = [
        [corner + width * i, corner + width * j]
        for i in range(squares)
        for j in range(squares)
        if (i + j) % 2 == 0
    ]
    return UniformBoxes(lower, [[x + width, y + width] for x, y in lower])


def pinwheel(noise: float = 0.08, arms: int = 5, twist: float = 0.25) -> CurveDensity:
    """Arms at distance r uniform in [0.3, 2] and angle 2 pi k / arms + twist exp(r), plus noise.

    The twist is that of the pinwheel of Johnson et al. (2016, "Composing graphical models with
    neural networks"), but with round noise about a curve instead of an elongated Gaussian.

    Args:
        noise: Standard deviation of the Gaussian noise, positive.
        arms: Number of arms, at least 1.
        twist: How far the arms bend, in radians at r = 0.
    """
    if arms < 1:
        raise DataError(f"a pinwheel needs at least one arm, got {arms}")
    return CurveDensity(
        [
            CurveSegment(
                partial(_pinwheel_arm, turn=2 * math.pi * arm / arms, twist=twist), 0.3, 2.0
            )
            for arm in range(arms)
        ],
        noise,
    )


def two_spirals(noise: float = 0.25) -> CurveDensity:
    """Two arms +-(t cos t, t sin t), t^2 uniform in [(pi / 2)^2, (3 pi)^2], plus noise.

    With t^2 uniform the points lie almost evenly along an arm; the arms are pi apart.
    """
    bounds = ((math.pi / 2) ** 2, (3 * math.pi) ** 2)
    return CurveDensity(
        [CurveSegment(partial(_arm_by_square, turn=turn), *bounds) for turn in (0.0, math.pi)],
        noise,
    )


def rings(noise: float = 0.12, count: int = 4) -> CurveDensity:
    """Circles of radius 1, 2, ..., count about 0, evenly filled along every circle, plus noise.

    Args:
        noise: Standard deviation of the Gaussian noise, positive.
        count: Number of rings, at least 1.
    """
    if count < 1:
        raise DataError(f"rings need a count of at least 1, got {count}")
    return CurveDensity(
        [
            CurveSegment(
                partial(_on_circle, radius=float(radius)), 0.0, 2 * math.pi, weight=float(radius)
            )
            for radius in range(1, count + 1)
        ],
        noise,
    )


def eight_gaussians(std: float = 0.5, radius: float = 4.0) -> GaussianMixture:
    """Eight equal round Gaussians evenly spaced on a circle.

    Args:
        std: Standard deviation of each Gaussian, positive.
        radius: Radius of the circle, positive.
    """
    if std <= 0 or radius <= 0:
        raise DataError(f"std and radius must be positive, got std {std}, radius {radius}")
    angles = 2 * math.pi * torch.arange(8, dtype=torch.float64) / 8
    return GaussianMixture(_on_circle(angles, radius=radius), variances=std**2)


def gaussian_mixture() -> GaussianMixture:
    """Five overlapping correlated Gaussians of unequal weight (0.3, 0.25, 0.2, 0.15, 0.1)."""
    # Centre, standard deviations along the axes of the ellipse, and its angle in degrees.
    ellipses = [
        ((-2.0, -1.0), (1.2, 0.25), 55.0),
        ((1.5, 1.5), (1.0, 0.35), -30.0),
        ((2.0, -1.8), (0.7, 0.2), 10.0),
        ((-1.5, 2.2), (0.5, 0.3), 80.0),
        ((0.2, 0.0), (0.3, 0.15), -60.0),
    ]
    covariances = []
    for _, (major, minor), degrees in ellipses:
        c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        axes = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
        spread = torch.tensor([major**2, minor**2], dtype=torch.float64)
        covariances.append((axes * spread) @ axes.T)
    return GaussianMixture(
        [list(centre) for centre, _, _ in ellipses],
        torch.stack(covariances),
        weights=[0.3, 0.25, 0.2, 0.15, 0.1],
    )


def correlated_gaussian(correlation: float = 0.8) -> GaussianMixture:
    """One Gaussian with unit variances: its score is linear at every noise level.

    Args:
        correlation: Correlation of the two coordinates, between -1 and 1.
    """
    if not -1 < correlation < 1:
        raise DataError(f"correlation must be between -1 and 1, got {correlation}")
    return GaussianMixture(
        [[0.0, 0.0]], torch.tensor([[[1.0, correlation], [correlation, 1.0]]], dtype=torch.float64)
    )


def two_modes(std: float = 0.5) -> GaussianMixture:
    """Two Gaussians on a line, at -1 and 1.

    With v = alpha^2 std^2 + sigma^2 and m = alpha, the score of noised points is
    (-x + m tanh(m x / v)) / v.
    """
    return GaussianMixture([[-1.0], [1.0]], variances=_variance(std))


def four_modes(std: float = 0.5) -> GaussianMixture:
    """Four Gaussians at (-1 or 1, -1 or 1); the two coordinates are independent."""
    centres = [[x, y] for x in (-1.0, 1.0) for y in (-1.0, 1.0)]
    return GaussianMixture(centres, variances=_variance(std))


def narrow_modes(std: float = 0.35) -> GaussianMixture:
    """The Gaussians of `two_modes`, narrower: their score bends more sharply."""
    return two_modes(std)


def uneven_modes(std: float = 0.5, share: float = 0.3) -> GaussianMixture:
    """The Gaussians of `two_modes` with unequal weights.

    With m and v as in `two_modes`, the score is (-x + m tanh(m x / v + log(1 / share - 1) / 2)) / v
    before standardisation, which puts the mean alpha (1 - 2 share) at 0.

    Args:
        std: Standard deviation of each Gaussian, positive.
        share: Weight of the left Gaussian, between 0 and 1.
    """
    if not 0 < share < 1:
        raise DataError(f"share must lie between 0 and 1, got {share}")
    return GaussianMixture([[-1.0], [1.0]], variances=_variance(std), weights=[share, 1 - share])


def oblique_modes(std: float = 0.5) -> GaussianMixture:
    """Two round Gaussians in the plane, at (1, 1/2) and (-1, -1/2).

    Their score bends along a direction oblique to the axes, so it is not a sum of functions of one
    coordinate each.
    """
    return GaussianMixture([[1.0, 0.5], [-1.0, -0.5]], variances=_variance(std))


def _variance(std: float) -> float:
    if not (math.isfinite(std) and std > 0):
        raise DataError(f"std must be positive, got {std}")
    return std**2


def swiss_roll_16d(noise: float = 0.2) -> CurveDensity:
    """The curve of `swiss_roll` in a plane in 16 dimensions, plus noise in all of them.

    The plane is spanned by the first two rows of a fixed random rotation, so that every coordinate
    has a share of the curve.
    """
    curve = partial(_laid_out, curve=_spiral, axes=_rotation(16, "swiss-roll-16d")[:2])
    return CurveDensity([CurveSegment(curve, 1.5 * math.pi, 4.5 * math.pi)], noise)


def _mixture(dim: int, noise: float, components: int) -> GaussianMixture:
    if not (math.isfinite(noise) and noise > 0) or components < 1:
        raise DataError(
            f"a mixture needs noise > 0 and at least one component, got noise {noise}, "
            f"components {components}"
        )
    means, covariances = [], []
    for component in range(components):
        draws = numpy_generator(f"mixture-{dim}d", component)
        means.append(torch.from_numpy(draws.normal(scale=3 / dim**0.5, size=dim)))
        spread = torch.from_numpy(np.exp(draws.uniform(math.log(0.2), 0.0, dim)))
        axes = _rotation(dim, f"mixture-{dim}d", component, "axes")
        covariance = (axes * (spread**2 + noise**2)) @ axes.T
        covariances.append((covariance + covariance.T) / 2)
    weights = [float(component + 1) for component in range(components)]
    return GaussianMixture(torch.stack(means), torch.stack(covariances), weights)


def mixture_8d(noise: float = 0.1, components: int = 10) -> GaussianMixture:
    """Gaussians in 8 dimensions, each with axes of its own, with weights 1 : 2 : ... : components.

    The centres are drawn from N(0, 9/8 I), the standard deviations along a component's axes
    log-uniformly from 0.2 to 1, the axes uniformly; noise is added. With the defaults, the exact
    posterior mistakes the component of about 1 in 100 points, and of 1 in 3 after adding noise as
    large as the standard deviation of a coordinate.

    Args:
        noise: Standard deviation of the Gaussian noise, positive.
        components: Number of Gaussians, at least 1; the first few stay the same with more.
    """
    return _mixture(8, noise, components)


def mixture_32d(noise: float = 0.1, components: int = 10) -> GaussianMixture:
    """Gaussians in 32 dimensions, made like those of `mixture_8d`, with centres from N(0, 9/32 I).

    With the defaults, the exact posterior hardly ever mistakes the component of a point, but does
    so for 1 in 20 after adding noise as large as the standard deviation of a coordinate, and for 1
    in 3 with twice as much.

    Args:
        noise: Standard deviation of the Gaussian noise, positive.
        components: Number of Gaussians, at least 1; the first few stay the same with more.
    """
    return _mixture(32, noise, components)


TOYS: dict[str, Callable[..., Density]] = {
    "swiss-roll": swiss_roll,
    "moons": moons,
    "circles": circles,
    "s-curve": s_curve,
    "checkerboard": checkerboard,
    "pinwheel": pinwheel,
    "two-spirals": two_spirals,
    "rings": rings,
    "eight-gaussians": eight_gaussians,
    "gaussian-mixture": gaussian_mixture,
    "correlated-gaussian": correlated_gaussian,
    "two-modes": two_modes,
    "four-modes": four_modes,
    "narrow-modes": narrow_modes,
    "uneven-modes": uneven_modes,
    "oblique-modes": oblique_modes,
    "mixture-8d": mixture_8d,
    "mixture-32d": mixture_32d,
    "swiss-roll-16d": swiss_roll_16d,
}
"""The builders of the toy densities, by the name a user writes."""


def make_toy(name: str, **options: float) -> Density:
    """Makes a toy density by its name.

    Args:
        name: One of `TOYS`.
        **options: Arguments of its builder, such as ``noise=0.1``.

    Raises:
        KanDiffusionError: There is no toy of that name, or it has no such option.
        DataError: An option is out of range.
    """
    builder = look_up("toy", name, TOYS)
    for option in options:
        require_known(f"option of toy '{name}'", option, inspect.signature(builder).parameters)
    return builder(**options)
