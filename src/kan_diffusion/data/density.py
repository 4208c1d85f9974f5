r"""What a density with exact noised versions is, and what such densities share.

Clean data x_0 ~ p is noised to x_t = alpha x_0 + sigma eps with eps ~ N(0, I). The density p_t of
x_t, its score and the posterior mean are tied together by Tweedie's formula (Robbins 1956; Efron
2011, "Tweedie's formula and selection bias"):

    E[x_0 | x_t = x] = (x + sigma^2 grad log p_t(x)) / alpha.

All arithmetic is float64 on the CPU; answers are float64 on the device of x. Everything can be
differentiated with respect to x. Every row may have a noise level of its own.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Self

import torch
from torch import Tensor

from kan_diffusion.errors import DataError

__all__ = [
    "Density",
    "draw_components",
    "float64",
    "noise_levels",
    "normalised",
    "on_device_of",
    "row_chunks",
    "shared_variance_logits",
    "shift_and_scale",
]

LOG_2PI = math.log(2 * math.pi)
CHUNK_ELEMENTS = 2**21  # float64 numbers in one intermediate: 16 MB, of which a few live at once


def noise_levels(
    x: Tensor, alpha: float | Tensor, sigma: float | Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Points and noise levels in float64 on the CPU, the levels as columns.

    Args:
        x: Points, shape (n, d).
        alpha: Signal level, at least 0; a number or shape (n,).
        sigma: Noise level, at least 0; a number or shape (n,). Not 0 where alpha is.

    Returns:
        x with shape (n, d), alpha and sigma with shape (n, 1).

    Raises:
        DataError: x is not a table of points, or a level is out of range or of another shape.
    """
    if x.ndim != 2:
        raise DataError(f"points must have shape (n, d), got {tuple(x.shape)}; reshape them")
    levels = []
    for name, value in (("alpha", alpha), ("sigma", sigma)):
        level = float64(value)
        if level.ndim > 1 or (level.ndim == 1 and len(level) != len(x)):
            raise DataError(
                f"{name} must be a number or have shape ({len(x)},), a value for each point, "
                f"got {tuple(level.shape)}"
            )
        refused = level[~((level >= 0) & level.isfinite())]
        if refused.numel():
            raise DataError(f"{name} must be finite and at least 0, got {show(refused)}")
        levels.append(level.expand(len(x)).unsqueeze(1))
    if bool(((levels[0] == 0) & (levels[1] == 0)).any()):
        raise DataError("alpha and sigma are both 0 for some point; one of them must be positive")
    return x.to("cpu").double(), levels[0], levels[1]


def on_device_of(x: Tensor, answer: Tensor) -> Tensor:
    """A float64 answer on the device of x; float32 on Apple's, which has no float64."""
    return (answer.float() if x.device.type == "mps" else answer).to(x.device)


def row_chunks(num_rows: int, num_columns: int) -> Iterator[slice]:
    """Slices of rows such that a (rows, num_columns) intermediate stays small."""
    rows = max(1, CHUNK_ELEMENTS // max(1, num_columns))
    for start in range(0, num_rows, rows):
        yield slice(start, min(start + rows, num_rows))


def shared_variance_logits(
    x: Tensor, alpha: Tensor, variance: Tensor, points: Tensor, log_weights: Tensor
) -> Tensor:
    """Log w_k + log N(x; alpha m_k, diag(variance)) up to a term that does not depend on k.

    The squared distance is multiplied out, so that all rows and points take one matrix product.

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
    """

    mean: Tensor
    std: Tensor

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return len(self.mean)

    @abstractmethod
    def sample(self, num: int, generator: torch.Generator) -> Tensor:
        """Independent exact draws of clean points.

        Args:
            num: How many.
            generator: A CPU generator; the only source of randomness.

        Returns:
            Shape (num, dim), float64.
        """

    @abstractmethod
    def rescaled(self, shift: Tensor, scale: Tensor) -> Self:
        """The density of (x_0 - shift) / scale.

        Args:
            shift: Shape (dim,).
            scale: Shape (dim,), positive.
        """

    def log_density(
        self, x: Tensor, alpha: float | Tensor = 1.0, sigma: float | Tensor = 0.0
    ) -> Tensor:
        """Log p_t at x, the natural logarithm of the density of alpha x_0 + sigma eps.

        Args:
            x: Shape (n, dim).
            alpha: Signal level, at least 0; a number or shape (n,).
            sigma: Noise level, at least 0; a number or shape (n,).

        Returns:
            Shape (n,), float64.
        """
        return self._by_chunks(self._log_density, x, alpha, sigma)

    def score(self, x: Tensor, alpha: float | Tensor = 1.0, sigma: float | Tensor = 0.0) -> Tensor:
        """Gradient of log p_t at x; arguments as in `log_density`.

        Returns:
            Shape (n, dim), float64.
        """
        return self._by_chunks(self._score, x, alpha, sigma)

    def posterior_mean(self, x: Tensor, alpha: float | Tensor, sigma: float | Tensor) -> Tensor:
        """E[x_0 | alpha x_0 + sigma eps = x]; arguments as in `log_density`.

        Returns:
            Shape (n, dim), float64. At sigma = 0 it is x / alpha, at alpha = 0 the mean.
        """
        return self._by_chunks(self._posterior_mean, x, alpha, sigma)

    @property
    @abstractmethod
    def _numbers_per_row(self) -> int:
        """How many numbers an intermediate holds for one point; decides the chunks."""

    @abstractmethod
    def _log_density(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """`log_density` of one chunk; alpha and sigma have shape (n, 1)."""

    @abstractmethod
    def _score(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """`score` of one chunk."""

    @abstractmethod
    def _posterior_mean(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """`posterior_mean` of one chunk."""

    def _by_chunks(
        self,
        function: Callable[[Tensor, Tensor, Tensor], Tensor],
        x: Tensor,
        alpha: float | Tensor,
        sigma: float | Tensor,
    ) -> Tensor:
        points, alphas, sigmas = noise_levels(x, alpha, sigma)
        if points.shape[1] != self.dim:
            raise DataError(
                f"points have {points.shape[1]} coordinates and the density {self.dim}; "
                f"give points of shape (n, {self.dim})"
            )
        chunks = row_chunks(len(points), self._numbers_per_row) if len(points) else [slice(0, 0)]
        answer = torch.cat([function(points[rows], alphas[rows], sigmas[rows]) for rows in chunks])
        return on_device_of(x, answer)


def draw_components(weights: Tensor, num: int, generator: torch.Generator) -> Tensor:
    """Component of each of num points, shape (num,)."""
    if num == 0:
        return torch.empty(0, dtype=torch.long)
    return torch.multinomial(weights, num, replacement=True, generator=generator)


def normalised(weights: Tensor | Sequence[float] | None, count: int) -> Tensor:
    """Weights of shape (count,) that sum to 1; equal when left out.

    Raises:
        DataError: They are not that many positive numbers.
    """
    values = torch.ones(count) if weights is None else weights
    values = float64(values)
    if values.shape != (count,) or not bool(((values > 0) & values.isfinite()).all()):
        raise DataError(f"weights must be {count} positive numbers, got {show(values)}")
    return values / values.sum()


def shift_and_scale(shift: Tensor, scale: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Both checked and in float64, shape (dim,).

    Raises:
        DataError: A shape does not fit, a value is not finite, or a scale is not positive.
    """
    shift, scale = float64(shift), float64(scale)
    if shift.shape != (dim,) or scale.shape != (dim,):
        raise DataError(
            f"shift and scale must have shape ({dim},), "
            f"got {tuple(shift.shape)} and {tuple(scale.shape)}"
        )
    if not bool(((scale > 0) & scale.isfinite()).all() and shift.isfinite().all()):
        raise DataError(f"scale must be positive and shift finite, got scale {show(scale)}")
    return shift, scale


def float64(values: object) -> Tensor:
    """Numbers as a float64 tensor on the CPU."""
    if isinstance(values, Tensor):
        return values.to("cpu").double()  # in two steps: some devices have no float64
    return torch.as_tensor(values, dtype=torch.float64)


def show(values: Tensor) -> str:
    """The first few values, for an error line."""
    flat = values.detach().flatten().tolist()
    text = ", ".join(f"{value:g}" for value in flat[:4])
    return text + (", ..." if len(flat) > 4 else "")
