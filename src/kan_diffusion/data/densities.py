r"""Densities whose noised versions are known exactly.

Clean data x_0 ~ p is noised to x_t = alpha x_0 + sigma eps with eps ~ N(0, I). For every density
here the density p_t of x_t, its score and the posterior mean are closed forms (or, for a curve, a
quadrature exact to about 1e-10), tied together by Tweedie's formula (Robbins 1956; Efron 2011,
"Tweedie's formula and selection bias"):

    E[x_0 | x_t = x] = (x + sigma^2 grad log p_t(x)) / alpha.

* `GaussianMixture`, sum_k w_k N(m_k, S_k): p_t is the mixture of N(alpha m_k, C_k) with
  C_k = alpha^2 S_k + sigma^2 I, and component k has the posterior mean
  m_k + alpha S_k C_k^-1 (x - alpha m_k).
* `CurveDensity`, c(u) + N(0, s^2) with u uniform: the integral over u, done by Gauss-Legendre
  quadrature, is a mixture over the nodes with one shared diagonal covariance.
* `UniformBoxes`: a coordinate of x_0 that is uniform in [l, u] makes the noise
  Z = (x - alpha x_0) / sigma, given x, a standard normal truncated to
  [(x - alpha u) / sigma, (x - alpha l) / sigma].

alpha and sigma are any two levels: their squares need not sum to 1, and every row may have its own.
All arithmetic is float64 on the CPU, results are float64 on the device of x, and everything can be
differentiated with respect to x.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor

from kan_diffusion.errors import DataError, listed

Level = float | Tensor
"""A signal or noise level: one number for all points, or one for each with shape (n,)."""

Curve = tuple[Callable[[Tensor], Tensor], float, float]
"""A smooth piece of a curve: takes u of shape (m,), float64, to points (m, dim); then the least and
the largest u. Split a curve where it has a kink."""

NODES_PER_PANEL = 16
PANEL_LENGTH = 5.0  # in noise standard deviations: 16 nodes integrate such a Gaussian to 1e-13
MIN_PANELS = 8
MAX_NODES = 200_000
LOG_2PI = math.log(2 * math.pi)
CHUNK_ELEMENTS = 2**21  # float64 numbers in one intermediate: 16 MB, of which a few live at once

_REACH = 9.0  # standard deviations around its mode that hold all but 1e-18 of a normal
_BOX_NODES, _BOX_WEIGHTS = (
    torch.from_numpy(array) for array in np.polynomial.legendre.leggauss(64)
)


def numbers(name: str, values: object, *shape: int | str) -> Tensor:
    """Converts numbers to float64, and checks their shape, in which a letter is any length but 0.

    Raises:
        DataError: They have another shape, or one of them is not finite.
    """
    found = _float64(values)
    if found.ndim != len(shape) or not all(
        size > 0 if isinstance(wanted, str) else size == wanted
        for size, wanted in zip(found.shape, shape, strict=True)
    ):
        wanted = f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
        raise DataError(f"{name} must have shape {wanted}, got {tuple(found.shape)}")
    if not bool(found.isfinite().all()):
        raise DataError(f"{name} must be finite, got {_few(found[~found.isfinite()])}")
    return found


def _float64(values: object) -> Tensor:
    """Converts numbers to float64 on the CPU, in two steps: some devices have no float64."""
    on_cpu = values.to("cpu") if isinstance(values, Tensor) else values
    return torch.as_tensor(on_cpu, dtype=torch.float64)


def _few(values: Tensor) -> str:
    """Formats the first few values for an error message."""
    return listed((f"{value:g}" for value in values.detach().flatten().tolist()), 4)


def _shares(weights: object | None, count: int) -> Tensor:
    """Scales positive weights (count,), by default equal ones, so that they sum to 1."""
    values = numbers("weights", torch.ones(count) if weights is None else weights, count)
    if not bool((values > 0).all()):
        raise DataError(f"weights must be positive, got {_few(values)}")
    return values / values.sum()


def by_chunks(
    function: Callable[..., Tensor],
    x: Tensor,
    alpha: Level,
    sigma: Level,
    dim: int,
    size: int,
    *more: Sequence[str],
    noised: bool = False,
) -> Tensor:
    """Applies a function to chunks of noised points such that intermediates stay small.

    Args:
        function: Takes points (m, dim), signal and noise levels (m, 1), all float64 on the CPU, and
            a part of each of ``more``.
        x: Points, shape (n, dim).
        alpha: Signal level, at least 0; a number or shape (n,).
        sigma: Noise level, at least 0; a number or shape (n,). Not 0 where alpha is 0.
        dim: Number of coordinates.
        size: Numbers that an intermediate holds for one point.
        more: What else there is of each point, n of each.
        noised: Whether sigma must be positive.

    Returns:
        What the function returns, joined, on the device of x; float32 on Apple's, which has no
        float64.

    Raises:
        DataError: x has another shape, or a level is out of range or of another shape.
    """
    if x.ndim != 2 or x.shape[1] != dim:
        raise DataError(f"points must have shape (n, {dim}), got {tuple(x.shape)}; reshape them")
    levels = []
    for name, value in (("alpha", alpha), ("sigma", sigma)):
        level = _float64(value)
        level = numbers(name, level if level.ndim else level.expand(len(x)), len(x))
        if bool((level < 0).any()):
            raise DataError(f"{name} must be at least 0, got {_few(level[level < 0])}")
        levels.append(level.unsqueeze(1))
    signal, noise = levels
    if noised and not bool((noise > 0).all()):
        raise DataError("a sample has no posterior mean at sigma = 0; use sigma > 0")
    if bool(((signal == 0) & (noise == 0)).any()):
        raise DataError("alpha and sigma are both 0 for some point; one of them must be positive")
    points, rows = _float64(x), max(1, CHUNK_ELEMENTS // size)
    parts = [slice(start, start + rows) for start in range(0, max(1, len(x)), rows)]
    answers = [
        function(points[part], signal[part], noise[part], *(each[part] for each in more))
        for part in parts
    ]
    answer = torch.cat(answers)
    return (answer.float() if x.device.type == "mps" else answer).to(x.device)


def shared_variance_logits(
    x: Tensor, alpha: Tensor, variance: Tensor, points: Tensor, log_weights: Tensor
) -> Tensor:
    """Log w_k + log N(x; alpha m_k, diag(variance)) up to a term that does not depend on k.

    The squared distance is expanded, so that all rows and points take one matrix product.

    Args:
        x: Shape (n, d).
        alpha: Shape (n, 1).
        variance: Shape (n, d).
        points: The m_k, shape (k, d).
        log_weights: Shape (k,).

    Returns:
        Shape (n, k).
    """
    rows = torch.cat([alpha * x / variance, alpha**2 / variance, torch.ones_like(alpha)], dim=1)
    columns = torch.cat([points, -0.5 * points**2, log_weights.unsqueeze(1)], dim=1)
    return rows @ columns.T


class Density(ABC):
    """A density of clean points that is known exactly at every noise level.

    Attributes:
        mean: Mean of the clean points, shape (dim,), float64.
        std: Standard deviation of each coordinate of the clean points, shape (dim,), float64.
        weights: Weights of the components, shape (k,), float64; they sum to 1.
    """

    mean: Tensor
    std: Tensor
    weights: Tensor
    _size: int  # numbers that an intermediate holds for one point

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return len(self.mean)

    def sample(self, num: int, generator: torch.Generator) -> Tensor:
        """Draws clean points, independent and exact.

        Args:
            num: How many.
            generator: A CPU generator; the only source of randomness.

        Returns:
            Shape (num, dim), float64.
        """
        components = torch.empty(0, dtype=torch.long)
        if num:  # of none, torch draws none
            components = torch.multinomial(self.weights, num, replacement=True, generator=generator)
        return self._sample(components, generator)

    def rescaled(self, shift: Tensor | Sequence[float], scale: Tensor | Sequence[float]) -> Self:
        """The density of (x_0 - shift) / scale.

        Args:
            shift: Shape (dim,).
            scale: Shape (dim,), positive.

        Raises:
            DataError: A shape does not fit, a number is not finite, or a scale is not positive.
        """
        by = numbers("scale", scale, self.dim)
        if not bool((by > 0).all()):
            raise DataError(f"scale must be positive, got {_few(by)}")
        return self._rescaled(numbers("shift", shift, self.dim), by)

    def log_density(self, x: Tensor, alpha: Level = 1.0, sigma: Level = 0.0) -> Tensor:
        """Log p_t at x, the natural logarithm of the density of alpha x_0 + sigma eps.

        Args:
            x: Shape (n, dim).
            alpha: Signal level, at least 0; a number or shape (n,).
            sigma: Noise level, at least 0; a number or shape (n,).

        Returns:
            Shape (n,), float64.

        Raises:
            DataError: A shape does not fit, or a level is out of range.
        """
        return by_chunks(self._log_density, x, alpha, sigma, self.dim, self._size)

    def score(self, x: Tensor, alpha: Level, sigma: Level) -> Tensor:
        """Gradient of log p_t at x, by Tweedie's formula; sigma is positive.

        Arguments are otherwise as in `log_density`.

        Returns:
            Shape (n, dim), float64.
        """
        return by_chunks(self._score, x, alpha, sigma, self.dim, self._size)

    def posterior_mean(self, x: Tensor, alpha: Level, sigma: Level) -> Tensor:
        """E[x_0 | alpha x_0 + sigma eps = x]; arguments as in `log_density`.

        Returns:
            Shape (n, dim), float64. At sigma = 0 it is x / alpha, at alpha = 0 the mean.
        """
        return by_chunks(self._posterior_mean, x, alpha, sigma, self.dim, self._size)

    @abstractmethod
    def _sample(self, components: Tensor, generator: torch.Generator) -> Tensor:
        """Draws a clean point (n, dim) of each of the components (n,), by their numbers."""

    @abstractmethod
    def _rescaled(self, shift: Tensor, scale: Tensor) -> Self:
        """`rescaled` by checked numbers, each float64 with shape (dim,)."""

    # Each of a chunk of points (n, dim), with levels (n, 1).

    def _score(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return (alpha * self._posterior_mean(x, alpha, sigma) - x) / sigma**2

    @abstractmethod
    def _log_density(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor: ...

    @abstractmethod
    def _posterior_mean(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor: ...


class GaussianMixture(Density):
    """Mixture of Gaussians with full covariances, in any dimension.

    Example:
        >>> import torch
        >>> mixture = GaussianMixture([[-2.0, 0.0], [2.0, 0.0]], variances=0.25)
        >>> mixture.posterior_mean(torch.zeros(1, 2), alpha=0.5, sigma=0.5)
        tensor([[0., 0.]], dtype=torch.float64)
    """

    def __init__(
        self,
        means: Tensor | Sequence[Sequence[float]],
        covariances: Tensor | Sequence[Sequence[Sequence[float]]] | None = None,
        weights: Tensor | Sequence[float] | None = None,
        *,
        variances: float | None = None,
    ) -> None:
        """Makes the mixture; exactly one of ``covariances`` and ``variances`` is given.

        Args:
            means: Shape (k, d).
            covariances: Shape (k, d, d), symmetric and positive definite.
            weights: Shape (k,), positive; normalised here. Equal when left out.
            variances: The variance of all coordinates of round components.

        Raises:
            DataError: A shape does not fit, or a covariance is not positive definite.
        """
        self.means = numbers("means", means, "k", "d")
        count, dim = self.means.shape
        if (covariances is None) == (variances is None):
            raise DataError("give exactly one of covariances and variances")
        if variances is not None:
            covariances = (variances * torch.eye(dim).double()).expand(count, dim, dim)
        self.covariances = numbers("covariances", covariances, count, dim, dim)
        if not torch.allclose(self.covariances, self.covariances.mT, rtol=1e-10, atol=0):
            raise DataError("covariances must be symmetric; use (C + C.mT) / 2")
        self.weights = _shares(weights, count)
        self._eigenvalues, self._axes = torch.linalg.eigh(self.covariances)
        if not bool((self._eigenvalues > 0).all()):
            worst = int(self._eigenvalues.min(dim=1).values.argmin())
            raise DataError(
                f"covariance {worst} is not positive definite (smallest eigenvalue "
                f"{float(self._eigenvalues[worst].min()):.3g}); add a little to its diagonal"
            )
        self._rotated_means = torch.einsum("kd,kde->ke", self.means, self._axes)
        self._size = self.means.numel()
        self.mean = self.weights @ self.means
        variance = torch.diagonal(self.covariances, dim1=1, dim2=2)
        self.std = (self.weights @ ((self.means - self.mean) ** 2 + variance)).sqrt()

    def _sample(self, components: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(len(components), self.dim, dtype=torch.float64, generator=generator)
        roots = torch.linalg.cholesky(self.covariances)  # unlike eigenvectors, rescales with x_0
        points = torch.empty_like(noise)
        for component in range(len(self.means)):
            rows = components == component
            points[rows] = self.means[component] + noise[rows] @ roots[component].T
        return points

    def _rescaled(self, shift: Tensor, scale: Tensor) -> Self:
        covariances = self.covariances / torch.outer(scale, scale)
        return type(self)((self.means - shift) / scale, covariances, self.weights)

    def _parts(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Log-joint of point and component (n, k), and C_k^-1 (x - alpha m_k) on its axes."""
        count, dim = self.means.shape
        rotated = (x @ self._axes.permute(1, 0, 2).reshape(dim, -1)).view(-1, count, dim)
        offset = rotated - alpha.unsqueeze(2) * self._rotated_means  # (n, k, d)
        variance = (alpha**2).unsqueeze(2) * self._eigenvalues + (sigma**2).unsqueeze(2)
        exponent = (offset**2 / variance + variance.log() + LOG_2PI).sum(dim=2)
        return self.weights.log() - 0.5 * exponent, offset / variance

    def _log_density(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return self._parts(x, alpha, sigma)[0].logsumexp(dim=1)

    def _posterior_mean(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        logits, pull = self._parts(x, alpha, sigma)
        shares = logits.softmax(dim=1)
        on_axes = shares.unsqueeze(2) * self._eigenvalues * pull  # (n, k, d), of each component
        shifted = on_axes.flatten(1) @ self._axes.mT.reshape(-1, self.dim)
        return shares @ self.means + alpha * shifted


class CurveDensity(Density):
    """Density of points on curves, u uniform on each, plus Gaussian noise.

    The panels of the quadrature have equal arc length, at most five standard deviations of the
    noise, with 16 Gauss-Legendre nodes each. Samples are drawn from the curve itself.
    """

    def __init__(
        self,
        curves: Sequence[Curve],
        noise: float,
        weights: Tensor | Sequence[float] | None = None,
    ) -> None:
        """Makes the density of c(u) + noise N(0, I).

        Args:
            curves: At least one, k of them.
            noise: Standard deviation in the units of the curves, positive.
            weights: Shares of the points, shape (k,), positive; normalised here. Equal when left
                out.

        Raises:
            DataError: A shape does not fit, or the noise is not positive, or so small that the
                quadrature gets too large.
        """
        if not curves or not all(lower < upper for _, lower, upper in curves):
            raise DataError("give at least one curve, each with its least u below its largest")
        if not (math.isfinite(noise) and noise > 0):
            raise DataError(f"noise must be a positive number, got {noise}")
        self.curves, self.noise = tuple(curves), float(noise)
        self.weights = _shares(weights, len(curves))
        rules = [
            _curve_rule(curve, share, self.noise)
            for curve, share in zip(curves, self.weights.tolist(), strict=True)
        ]
        self._nodes, self._masses = (torch.cat(parts) for parts in zip(*rules, strict=True))
        self._size, dim = self._nodes.shape
        self._set_units(torch.zeros(dim, dtype=torch.float64), torch.ones(dim, dtype=torch.float64))

    def _set_units(self, shift: Tensor, scale: Tensor) -> None:
        """Makes it the density of (c(u) + noise N(0, I) - shift) / scale."""
        self._shift, self._scale = shift, scale
        self._points = (self._nodes - shift) / scale
        self._variance = (self.noise / scale) ** 2
        self.mean = self._masses @ self._points
        self.std = (self._masses @ (self._points - self.mean) ** 2 + self._variance).sqrt()

    def _sample(self, components: Tensor, generator: torch.Generator) -> Tensor:
        num = len(components)
        place = torch.rand(num, dtype=torch.float64, generator=generator)
        points = torch.randn(num, self.dim, dtype=torch.float64, generator=generator) * self.noise
        for index, (curve, lower, upper) in enumerate(self.curves):
            rows = components == index
            points[rows] += curve(lower + (upper - lower) * place[rows])
        return (points - self._shift) / self._scale

    def _rescaled(self, shift: Tensor, scale: Tensor) -> Self:
        made = copy.copy(self)
        made._set_units(self._shift + self._scale * shift, self._scale * scale)
        return made

    def _parts(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Log-joint of point and node (n, k), up to a common term; variance at a node (n, d)."""
        variance = alpha**2 * self._variance + sigma**2
        logits = shared_variance_logits(x, alpha, variance, self._points, self._masses.log())
        return logits, variance

    def _log_density(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        logits, variance = self._parts(x, alpha, sigma)
        return logits.logsumexp(dim=1) - 0.5 * (x**2 / variance + variance.log() + LOG_2PI).sum(1)

    def _posterior_mean(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        logits, variance = self._parts(x, alpha, sigma)
        on_curve = logits.softmax(dim=1) @ self._points
        return on_curve + alpha * self._variance * (x - alpha * on_curve) / variance


def _curve_rule(piece: Curve, share: float, noise: float) -> tuple[Tensor, Tensor]:
    """Returns quadrature points (m, dim) on a curve and weights (m,) that sum to its share."""
    curve, lower, upper = piece
    u = torch.linspace(lower, upper, 4097, dtype=torch.float64)
    steps = curve(u).diff(dim=0).norm(dim=1).numpy()
    length = np.concatenate([[0.0], np.cumsum(steps)])
    panels = max(MIN_PANELS, math.ceil(length[-1] / (PANEL_LENGTH * noise)))
    if panels * NODES_PER_PANEL > MAX_NODES:
        smallest = length[-1] * NODES_PER_PANEL / (PANEL_LENGTH * MAX_NODES)
        raise DataError(
            f"noise {noise:g} is too small for a curve of length {length[-1]:.4g}; "
            f"use at least {smallest:.2g}"
        )
    ends = np.interp(np.linspace(0, length[-1], panels + 1), length, u.numpy())
    nodes, weights = np.polynomial.legendre.leggauss(NODES_PER_PANEL)
    widths = np.diff(ends)[:, None]
    places = torch.from_numpy((ends[:-1, None] + widths * (nodes + 1) / 2).ravel())
    masses = torch.from_numpy((widths * weights / 2).ravel())
    return curve(places), masses * (share / (upper - lower))


class UniformBoxes(Density):
    """Uniform density on a union of axis-aligned boxes.

    Boxes share the points in proportion to their volume unless weights are given; where boxes
    overlap, their densities add. Without noise (sigma = 0) the log-density outside every box is
    -inf.
    """

    def __init__(
        self,
        lower: Tensor | Sequence[Sequence[float]],
        upper: Tensor | Sequence[Sequence[float]],
        weights: Tensor | Sequence[float] | None = None,
    ) -> None:
        """Makes the density.

        Args:
            lower: Lower corners, shape (k, d).
            upper: Upper corners, shape (k, d), above ``lower`` in every coordinate.
            weights: Shape (k,), positive; normalised here. The volumes when left out.

        Raises:
            DataError: The corners do not make boxes.
        """
        self.lower = numbers("lower", lower, "k", "d")
        self.upper = numbers("upper", upper, *self.lower.shape)
        if not bool((self.upper > self.lower).all()):
            raise DataError("every upper corner must lie above its lower corner in each coordinate")
        self._log_volume = (self.upper - self.lower).log().sum(dim=1)
        volumes = (self._log_volume - self._log_volume.max()).exp()
        self.weights = _shares(volumes if weights is None else weights, len(self.lower))
        self._middle = (self.lower + self.upper) / 2
        self._half = (self.upper - self.lower) / 2
        self._size = self.lower.numel() * len(_BOX_NODES)
        self.mean = self.weights @ self._middle
        self.std = (self.weights @ ((self._middle - self.mean) ** 2 + self._half**2 / 3)).sqrt()

    def _sample(self, components: Tensor, generator: torch.Generator) -> Tensor:
        place = torch.rand(len(components), self.dim, dtype=torch.float64, generator=generator)
        return self.lower[components] + (self.upper - self.lower)[components] * place

    def _rescaled(self, shift: Tensor, scale: Tensor) -> Self:
        return type(self)((self.lower - shift) / scale, (self.upper - shift) / scale, self.weights)

    def _parts(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Log-joint of point and box (n, k), and the place of the mean noise in it (n, k, d)."""
        sigma = torch.where(sigma > 0, sigma, 1.0)  # rows without noise are handled elsewhere
        centre = (x.unsqueeze(1) - alpha.unsqueeze(2) * self._middle) / sigma.unsqueeze(2)
        half = (alpha / sigma).unsqueeze(2) * self._half
        log_average, place = _truncated_normal(centre, half.expand_as(centre))
        logits = self.weights.log() + (log_average - sigma.log().unsqueeze(2)).sum(dim=2)
        return logits, place

    def _log_density(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        place = (x / alpha).unsqueeze(1)
        inside = ((place >= self.lower) & (place <= self.upper)).all(dim=2)
        clean = self.weights.log() - self._log_volume - self.dim * alpha.log()  # (n, k)
        clean = torch.where(inside, clean, -math.inf)
        noised = self._parts(x, alpha, sigma)[0]
        return torch.where(sigma > 0, noised, clean).logsumexp(dim=1)

    def _posterior_mean(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        logits, place = self._parts(x, alpha, sigma)
        in_box = self._middle - self._half * place  # noise that points up means x_0 lies below
        noised = (logits.softmax(dim=1).unsqueeze(2) * in_box).sum(dim=1)
        return torch.where(sigma > 0, noised, x / alpha)


def _truncated_normal(centre: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """Integrates a standard normal Z over [centre - half, centre + half], by quadrature.

    Args:
        centre: Any shape.
        half: Half-width, at least 0, same shape.

    Returns:
        The logarithm of the average of the normal's density over the interval, and
        (E[Z] - centre) / half, which lies in (-1, 1) and has a limit at half = 0.
    """
    # By symmetry the interval's centre is at or to the right of zero.
    sign = torch.where(centre < 0, -1.0, 1.0).to(centre)
    centre, half = centre * sign, half.clamp(min=1e-300)
    # Where the density is largest, and how far it counts on either side, in half-widths.
    place = (-centre / half).clamp(min=-1)
    mode = centre + half * place
    before = torch.minimum(place + 1, _REACH / half)
    decay = (40 / mode.clamp(min=40 / _REACH)) / half  # exp(-mode z) falls below 1e-17
    length = before + torch.minimum(1 - place, decay)
    steps = length.unsqueeze(-1) * (_BOX_NODES + 1) / 2 - before.unsqueeze(-1)
    along = half.unsqueeze(-1) * steps
    terms = (-along * (mode.unsqueeze(-1) + along / 2)).exp() * _BOX_WEIGHTS
    total = terms.sum(dim=-1)
    log_average = (total * length / 4).log() - 0.5 * (mode**2 + LOG_2PI)
    return log_average, sign * (place + (terms * steps).sum(dim=-1) / total)
