r"""Toy densities with exact oracles.

Every toy has one of three densities: points c(u) on curves, u uniform, plus N(0, noise^2 I); a
mixture of Gaussians; or uniform boxes. Its score, log-density and posterior mean are therefore
known at every noise level. ``noise``, which is positive, is the standard deviation of the noise
about a curve, or of each round Gaussian of a mixture. The toys keep the units of their sources;
standardise them with `Standardizer.from_density`. Most have two coordinates;
``two-modes``, ``narrow-modes`` and ``uneven-modes`` have one; the names of the others end in their
number. Constants drawn at random come from named streams, so that a toy is the same everywhere.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from kan_diffusion.data.datasets import Dataset
from kan_diffusion.data.densities import CurveDensity, Density, GaussianMixture, UniformBoxes
from kan_diffusion.data.scaling import Standardizer
from kan_diffusion.data.sources import Source
from kan_diffusion.errors import DataError, KanDiffusionError, look_up
from kan_diffusion.limits import MOST_POINTS
from kan_diffusion.randomness import numpy_generator, torch_generator

_PI = math.pi


def _on_circle(
    angle: Tensor, radius: float | Tensor = 1.0, centre: tuple[float, float] = (0.0, 0.0)
) -> Tensor:
    x = centre[0] + radius * torch.cos(angle)
    y = centre[1] + radius * torch.sin(angle)
    return torch.stack([x, y], dim=1)


def _rotation(dim: int, *name: str | int) -> Tensor:
    """Draws a rotation or reflection (dim, dim) from a named stream, uniformly (Haar measure)."""
    normal = torch.from_numpy(numpy_generator(*name).standard_normal((dim, dim)))
    axes, triangle = torch.linalg.qr(normal)
    # A positive diagonal makes the factors unique, whichever library computes them.
    return axes * triangle.diagonal().sign()


def circles(noise: float, radii: Sequence[float], weights: Sequence[float]) -> CurveDensity:
    """Circles about 0 that hold shares of the points in proportion to the weights, plus noise."""
    curves = [(partial(_on_circle, radius=radius), 0.0, 2 * _PI) for radius in radii]
    return CurveDensity(curves, noise, weights)


def swiss_roll(noise: float = 0.2, dim: int = 2) -> CurveDensity:
    """The curve (t cos t, t sin t), t uniform in [1.5 pi, 4.5 pi], plus noise.

    Columns 0 and 2 of scikit-learn's ``make_swiss_roll(noise=noise)``, in its units. In more than
    two dimensions the curve lies in the plane of the first two rows of a fixed random rotation, so
    that every coordinate has a share of it.
    """
    turned = _rotation(dim, f"swiss-roll-{dim}d") if dim > 2 else torch.eye(2).double()
    curve = (lambda t: _on_circle(t, radius=t) @ turned[:2]), 1.5 * _PI, 4.5 * _PI
    return CurveDensity([curve], noise)


def moons(noise: float = 0.1) -> CurveDensity:
    """Two half circles, (cos t, sin t) and (1 - cos t, 1/2 - sin t), t uniform in [0, pi].

    scikit-learn's ``make_moons(noise=noise)``, in its units.
    """
    lower = partial(_on_circle, centre=(1.0, 0.5))
    return CurveDensity([(_on_circle, 0.0, _PI), (lower, _PI, 2 * _PI)], noise)


def s_curve(noise: float = 0.1) -> CurveDensity:
    """The curve (sin t, sign(t) (cos t - 1)), t uniform in [-1.5 pi, 1.5 pi], plus noise.

    Columns 0 and 2 of scikit-learn's ``make_s_curve(noise=noise)``, in its units.
    """

    def half(t: Tensor, sign: float) -> Tensor:
        return torch.stack([torch.sin(t), sign * (torch.cos(t) - 1)], dim=1)

    # The curvature jumps at t = 0, so each half is a curve of its own.
    first, second = (partial(half, sign=sign) for sign in (-1.0, 1.0))
    return CurveDensity([(first, -1.5 * _PI, 0.0), (second, 0.0, 1.5 * _PI)], noise)


def checkerboard() -> UniformBoxes:
    """Uniform on the eight fields of one colour of a 4 x 4 board on [-4, 4]^2.

    The board is the one common in work on normalising flows. The field at column i and row j is
    filled where i + j is even.
    """
    fields = [(i, j) for i in range(4) for j in range(4) if (i + j) % 2 == 0]
    lower = [[2.0 * i - 4, 2.0 * j - 4] for i, j in fields]
    return UniformBoxes(lower, [[x + 2, y + 2] for x, y in lower])


def pinwheel(noise: float = 0.08) -> CurveDensity:
    """Five arms at distance r uniform in [0.3, 2] and angle 2 pi k / 5 + exp(r) / 4, plus noise.

    The twist is that of the pinwheel of Johnson et al. (2016, "Composing graphical models with
    neural networks"), but with round noise about a curve instead of an elongated Gaussian.
    """

    def arm(radius: Tensor, turn: float) -> Tensor:
        return _on_circle(turn + 0.25 * torch.exp(radius), radius=radius)

    arms = [(partial(arm, turn=2 * _PI * k / 5), 0.3, 2.0) for k in range(5)]
    return CurveDensity(arms, noise)


def two_spirals(noise: float = 0.25) -> CurveDensity:
    """Two arms +-(t cos t, t sin t), t^2 uniform in [(pi / 2)^2, (3 pi)^2], plus noise.

    With t^2 uniform the points lie almost evenly along an arm; the arms are pi apart.
    """

    def arm(u: Tensor, turn: float) -> Tensor:
        return _on_circle(u.sqrt() + turn, radius=u.sqrt())

    ends = (_PI / 2) ** 2, (3 * _PI) ** 2
    return CurveDensity([(partial(arm, turn=turn), *ends) for turn in (0.0, _PI)], noise)


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


def correlated_gaussian() -> GaussianMixture:
    """One Gaussian of unit variances and correlation 0.8: its score is linear at every level."""
    return GaussianMixture([[0.0, 0.0]], [[[1.0, 0.8], [0.8, 1.0]]])


def round_modes(
    centres: Sequence[Sequence[float]], noise: float = 0.5, weights: Sequence[float] | None = None
) -> GaussianMixture:
    """Round Gaussians of one standard deviation; equally heavy where there are no weights."""
    return GaussianMixture(centres, weights=weights, variances=noise**2)


def mixture(dim: int, noise: float = 0.1) -> GaussianMixture:
    """Ten Gaussians with axes of their own each, in ``dim`` dimensions, weighted 1 : 2 : ... : 10.

    The centres are drawn from N(0, 9 / dim I), the standard deviations along a component's axes
    log-uniformly from 0.2 to 1, the axes uniformly; noise is added. With the default and in 8
    dimensions, the exact posterior mistakes the component of about 1 in 100 points, and of 1 in 3
    after adding noise as large as the standard deviation of a coordinate. In 32 it hardly ever
    mistakes that of a point, but does so for 1 in 20 with that noise, and for 1 in 3 with twice as
    much.
    """
    means, covariances = [], []
    for component in range(10):
        draws = numpy_generator(f"mixture-{dim}d", component)
        means.append(torch.from_numpy(draws.normal(scale=3 / dim**0.5, size=dim)))
        spread = torch.from_numpy(np.exp(draws.uniform(math.log(0.2), 0.0, dim)))
        axes = _rotation(dim, f"mixture-{dim}d", component, "axes")
        covariance = (axes * (spread**2 + noise**2)) @ axes.T
        covariances.append((covariance + covariance.T) / 2)
    weights = torch.arange(1, 11)
    return GaussianMixture(torch.stack(means), torch.stack(covariances), weights)


_TWO = [[-1.0], [1.0]]
_EIGHT = _on_circle(2 * _PI * torch.arange(8, dtype=torch.float64) / 8, radius=4.0).tolist()
_RADII = [1.0, 2.0, 3.0, 4.0]

TOYS: dict[str, Callable[..., Density]] = {
    "swiss-roll": swiss_roll,
    "moons": moons,
    # scikit-learn's ``make_circles(noise=noise, factor=0.5)``, in its units.
    "circles": partial(circles, radii=[1.0, 0.5], weights=[1.0, 1.0], noise=0.08),
    "s-curve": s_curve,
    "checkerboard": checkerboard,
    "pinwheel": pinwheel,
    "two-spirals": two_spirals,
    # Evenly filled along every circle.
    "rings": partial(circles, radii=_RADII, weights=_RADII, noise=0.12),
    "eight-gaussians": partial(round_modes, _EIGHT),
    "gaussian-mixture": gaussian_mixture,
    "correlated-gaussian": correlated_gaussian,
    # Of two modes the score of noised points is (-x + m tanh(m x / v + log(1 / share - 1) / 2)) / v
    # with v = alpha^2 noise^2 + sigma^2, m = alpha and the share of the left one, before
    # standardisation, which puts the mean alpha (1 - 2 share) at 0.
    "two-modes": partial(round_modes, _TWO),
    # The two coordinates are independent.
    "four-modes": partial(round_modes, [[x, y] for x in (-1.0, 1.0) for y in (-1.0, 1.0)]),
    "narrow-modes": partial(round_modes, _TWO, noise=0.35),
    "uneven-modes": partial(round_modes, _TWO, weights=[0.3, 0.7]),
    # The score bends obliquely to the axes: it is no sum of functions of one coordinate each.
    "oblique-modes": partial(round_modes, [[1.0, 0.5], [-1.0, -0.5]]),
    "mixture-8d": partial(mixture, 8),
    "mixture-32d": partial(mixture, 32),
    "swiss-roll-16d": partial(swiss_roll, dim=16),
}
"""The builders of the toy densities, by the name a user writes."""


def make_toy(name: str, noise: float | None = None) -> Density:
    """Makes a toy density by its name.

    Args:
        name: One of `TOYS`.
        noise: Standard deviation of its noise, positive; the toy's own when None.

    Raises:
        KanDiffusionError: There is no toy of that name, or its noise is fixed.
        DataError: The noise is out of range.
    """
    builder = look_up("toy", name, TOYS)
    if noise is None:
        return builder()
    if "noise" not in inspect.signature(builder).parameters:
        raise KanDiffusionError(f"toy '{name}' has no noise to set; leave it out")
    if not 0 < noise < math.inf:
        raise DataError(f"noise must be a positive number, got {noise}")
    return builder(noise=noise)


class ToyData(Source):
    """Points of a built-in toy density.

    Attributes:
        toy: Name of the toy, a key of ``TOYS``.
        noise: Its noise, in the toy's own units; None for the toy's default.
        num_points: Size of the training set.
        divide_by: Scale that points are divided by instead of being standardised.
    """

    key = "toy"
    known = TOYS
    toy: str
    noise: float | None = Field(None, ge=1e-6, le=1e6)
    num_points: int = Field(50_000, ge=1, le=MOST_POINTS)
    divide_by: float | None = Field(None, ge=1e-6, le=1e6)

    @property
    def density(self) -> Density:
        """The density in its own units."""
        return make_toy(self.toy, self.noise)

    def is_same(self, other: Source) -> bool:
        """Whether ``other`` is the same toy with the same noise."""
        return isinstance(other, ToyData) and (other.toy, other.noise) == (self.toy, self.noise)

    def load(self, study_seed: int = 0, trial_seed: int = 0) -> Dataset:
        """Draws training points, standardised with the moments of the density."""
        density = self.density
        dim = density.dim
        if self.divide_by is None:
            standardizer = Standardizer.from_density(density)
        else:
            standardizer = Standardizer((0.0,) * dim, (self.divide_by,) * dim)
        columns = "xyz" if dim <= 3 else [f"x{index}" for index in range(1, dim + 1)]
        dataset = self.for_points(tuple(columns[:dim]), standardizer, study_seed)
        assert dataset.density is not None
        generator = torch_generator("training points", study_seed, trial_seed, self.toy)
        return replace(dataset, train=dataset.density.sample(self.num_points, generator).float())

    def for_points(
        self, columns: tuple[str, ...], standardizer: Standardizer, seed: int
    ) -> Dataset:
        """Gives the density in the units of a model, see :meth:`Source.for_points`."""
        density = self.density
        if density.dim != len(columns):
            raise DataError(
                f"toy '{self.name}' has {density.dim} coordinates and the model was trained on "
                f"{len(columns)}; judge it with its own data or another toy"
            )
        return Dataset(
            name=self.name,
            columns=columns,
            standardizer=standardizer,
            train=torch.empty(0, len(columns)),
            density=standardizer.rescale(density),
        )
