r"""Toy densities with exact oracles.

Every toy has one of three densities: points c(u) on a curve, u uniform, plus N(0, noise^2 I); a
mixture of Gaussians; or uniform boxes. Its score, log-density and posterior mean are therefore
known at every noise level. ``noise`` is the standard deviation of the noise about a curve, ``std``
that of each Gaussian of a mixture; both are positive. The toys keep the units of their sources;
standardise them with `kan_diffusion.data.Standardizer.from_density`. Most have two coordinates;
``two-modes``, ``narrow-modes`` and ``uneven-modes`` have one; the names of the others end in their
number. Constants drawn at random come from named streams, so that a toy is the same everywhere.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
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

_PI = math.pi


def _require(holds: bool, message: str) -> None:
    """Refuses an option that is out of range."""
    if not holds:
        raise DataError(message)


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


def _round(
    centres: Tensor | Sequence[Sequence[float]],
    std: float,
    weights: Sequence[float] | None = None,
) -> GaussianMixture:
    """Round Gaussians of one standard deviation."""
    _require(math.isfinite(std) and std > 0, f"std must be positive, got {std}")
    return GaussianMixture(centres, weights=weights, variances=std**2)


def swiss_roll(noise: float = 0.2) -> CurveDensity:
    """The curve (t cos t, t sin t), t uniform in [1.5 pi, 4.5 pi], plus noise.

    Columns 0 and 2 of scikit-learn's ``make_swiss_roll(noise=noise)``, in its units.
    """
    return CurveDensity([CurveSegment(_spiral, 1.5 * _PI, 4.5 * _PI)], noise)


def moons(noise: float = 0.1) -> CurveDensity:
    """Two half circles, (cos t, sin t) and (1 - cos t, 1/2 - sin t), t uniform in [0, pi].

    scikit-learn's ``make_moons(noise=noise)``, in its units.
    """
    lower = partial(_on_circle, centre=(1.0, 0.5))
    halves = [CurveSegment(_on_circle, 0.0, _PI), CurveSegment(lower, _PI, 2 * _PI)]
    return CurveDensity(halves, noise)


def circles(noise: float = 0.08, factor: float = 0.5) -> CurveDensity:
    """Two circles of radius 1 and ``factor`` that hold half of the points each.

    scikit-learn's ``make_circles(noise=noise, factor=factor)``, in its units.

    Args:
        noise: Standard deviation of the Gaussian noise, positive.
        factor: Radius of the inner circle, between 0 and 1.
    """
    _require(0 < factor < 1, f"factor must lie between 0 and 1, got {factor}")
    both = [partial(_on_circle, radius=radius) for radius in (1.0, factor)]
    return CurveDensity([CurveSegment(circle, 0.0, 2 * _PI) for circle in both], noise)


def s_curve(noise: float = 0.1) -> CurveDensity:
    """The curve (sin t, sign(t) (cos t - 1)), t uniform in [-1.5 pi, 1.5 pi], plus noise.

    Columns 0 and 2 of scikit-learn's ``make_s_curve(noise=noise)``, in its units.
    """
    # The curvature jumps at t = 0, so each half is a segment of its own.
    first, second = (partial(_s_half, sign=sign) for sign in (-1.0, 1.0))
    halves = [CurveSegment(first, -1.5 * _PI, 0.0), CurveSegment(second, 0.0, 1.5 * _PI)]
    return CurveDensity(halves, noise)


def checkerboard(squares: int = 4, width: float = 2.0) -> UniformBoxes:
    """Uniform on the fields of one colour of a squares x squares board centred at 0.

    The field at column i and row j is filled where i + j is even. The defaults are the board on
    [-4, 4]^2 common in work on normalising flows.

    Args:
        squares: Fields along a side, at least 2.
        width: Side of a field, positive.
    """
    _require(
        squares >= 2 and width > 0,
        f"a checkerboard needs squares >= 2 and width > 0, got squares {squares}, width {width}",
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
    _require(arms >= 1, f"a pinwheel needs at least one arm, got {arms}")
    turns = [2 * _PI * arm / arms for arm in range(arms)]
    curves = [partial(_pinwheel_arm, turn=turn, twist=twist) for turn in turns]
    return CurveDensity([CurveSegment(curve, 0.3, 2.0) for curve in curves], noise)


def two_spirals(noise: float = 0.25) -> CurveDensity:
    """Two arms +-(t cos t, t sin t), t^2 uniform in [(pi / 2)^2, (3 pi)^2], plus noise.

    With t^2 uniform the points lie almost evenly along an arm; the arms are pi apart.
    """
    bounds = (_PI / 2) ** 2, (3 * _PI) ** 2
    arms = [partial(_arm_by_square, turn=turn) for turn in (0.0, _PI)]
    return CurveDensity([CurveSegment(arm, *bounds) for arm in arms], noise)


def rings(noise: float = 0.12, count: int = 4) -> CurveDensity:
    """Circles of radius 1, 2, ..., count about 0, evenly filled along every circle, plus noise.

    Args:
        noise: Standard deviation of the Gaussian noise, positive.
        count: Number of rings, at least 1.
    """
    _require(count >= 1, f"rings need a count of at least 1, got {count}")
    radii = [float(radius) for radius in range(1, count + 1)]
    segments = [
        CurveSegment(partial(_on_circle, radius=radius), 0.0, 2 * _PI, weight=radius)
        for radius in radii
    ]
    return CurveDensity(segments, noise)


def eight_gaussians(std: float = 0.5, radius: float = 4.0) -> GaussianMixture:
    """Eight equal round Gaussians evenly spaced on a circle.

    Args:
        std: Standard deviation of each Gaussian, positive.
        radius: Radius of the circle, positive.
    """
    _require(radius > 0, f"radius must be positive, got {radius}")
    angles = 2 * _PI * torch.arange(8, dtype=torch.float64) / 8
    return _round(_on_circle(angles, radius=radius), std)


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
    centres = [list(centre) for centre, _, _ in ellipses]
    return GaussianMixture(centres, torch.stack(covariances), weights=[0.3, 0.25, 0.2, 0.15, 0.1])


def correlated_gaussian(correlation: float = 0.8) -> GaussianMixture:
    """One Gaussian with unit variances: its score is linear at every noise level.

    Args:
        correlation: Correlation of the two coordinates, between -1 and 1.
    """
    _require(-1 < correlation < 1, f"correlation must be between -1 and 1, got {correlation}")
    return GaussianMixture([[0.0, 0.0]], [[[1.0, correlation], [correlation, 1.0]]])


def two_modes(std: float = 0.5, share: float = 0.5) -> GaussianMixture:
    """Two Gaussians on a line, at -1 and 1.

    With v = alpha^2 std^2 + sigma^2 and m = alpha, the score of noised points is
    (-x + m tanh(m x / v + log(1 / share - 1) / 2)) / v before standardisation, which puts the mean
    alpha (1 - 2 share) at 0. The narrower Gaussians of ``narrow-modes`` bend it more sharply, and
    those of ``uneven-modes`` have unequal weights.

    Args:
        std: Standard deviation of each Gaussian, positive.
        share: Weight of the left Gaussian, between 0 and 1.
    """
    _require(0 < share < 1, f"share must lie between 0 and 1, got {share}")
    return _round([[-1.0], [1.0]], std, [share, 1 - share])


def four_modes(std: float = 0.5) -> GaussianMixture:
    """Four Gaussians at (-1 or 1, -1 or 1); the two coordinates are independent."""
    return _round([[x, y] for x in (-1.0, 1.0) for y in (-1.0, 1.0)], std)


def oblique_modes(std: float = 0.5) -> GaussianMixture:
    """Two round Gaussians in the plane, at (1, 1/2) and (-1, -1/2).

    Their score bends along a direction oblique to the axes, so it is not a sum of functions of one
    coordinate each.
    """
    return _round([[1.0, 0.5], [-1.0, -0.5]], std)


def swiss_roll_16d(noise: float = 0.2) -> CurveDensity:
    """The curve of `swiss_roll` in a plane in 16 dimensions, plus noise in all of them.

    The plane is spanned by the first two rows of a fixed random rotation, so that every coordinate
    has a share of the curve.
    """
    curve = partial(_laid_out, curve=_spiral, axes=_rotation(16, "swiss-roll-16d")[:2])
    return CurveDensity([CurveSegment(curve, 1.5 * _PI, 4.5 * _PI)], noise)


def mixture(dim: int, noise: float = 0.1, components: int = 10) -> GaussianMixture:
    """Gaussians with axes of their own each, with weights 1 : 2 : ... : components.

    The centres are drawn from N(0, 9 / dim I), the standard deviations along a component's axes
    log-uniformly from 0.2 to 1, the axes uniformly; noise is added. With the defaults and in 8
    dimensions, the exact posterior mistakes the component of about 1 in 100 points, and of 1 in 3
    after adding noise as large as the standard deviation of a coordinate. In 32 it hardly ever
    mistakes that of a point, but does so for 1 in 20 with that noise, and for 1 in 3 with twice as
    much.

    Args:
        dim: Number of dimensions.
        noise: Standard deviation of the Gaussian noise, positive.
        components: Number of Gaussians, at least 1; the first few stay the same with more.
    """
    _require(
        math.isfinite(noise) and noise > 0 and components >= 1,
        f"a mixture needs noise > 0 and at least one component, got noise {noise}, "
        f"components {components}",
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
    "narrow-modes": partial(two_modes, std=0.35),
    "uneven-modes": partial(two_modes, share=0.3),
    "oblique-modes": oblique_modes,
    "mixture-8d": partial(mixture, 8),
    "mixture-32d": partial(mixture, 32),
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
