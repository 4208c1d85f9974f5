r"""Oracles: the posterior mean E[x_0 | x_t], which no denoiser beats in squared error.

A density is its own oracle (:meth:`kan_diffusion.data.densities.Density.posterior_mean`).
`ReferenceOracle` gives the mean under the empirical distribution of reference points r_1, ..., r_N,

    m(x) = sum_k softmax_k(-|x - alpha r_k|^2 / (2 sigma^2)) r_k,

which differs from the posterior mean by an error that is largest at small noise.

`SceneOracle` is exact for scenes (:mod:`kan_diffusion.pictures.scenes`), which are a finite mixture
of renderings b + m (c - b) with coverages m, colours c and backgrounds b. The inner products of a
picture with all renderings follow from those with coverages, and so does the mean.

`OracleDenoiser` makes a denoiser of a density: samplers with it show what the best one would do.

Oracles work on standardised points, or on pictures with values in [-1, 1].
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
from torch import Tensor, nn

from kan_diffusion.data.densities import (
    Density,
    Level,
    noise_levels,
    numbers,
    on_device_of,
    row_chunks,
    shared_variance_logits,
)
from kan_diffusion.denoisers.points import PointDenoiser
from kan_diffusion.errors import DataError
from kan_diffusion.pictures.scenes import (
    BACKGROUNDS,
    COLOURS,
    COVERAGES,
    Combinations,
    coverages,
    in_samples,
    is_held_out,
    parse,
    place_of,
)
from kan_diffusion.processes import Process

__all__ = ["OracleDenoiser", "ReferenceOracle", "SceneOracle"]


class OracleDenoiser(PointDenoiser):
    """The exact denoiser of a density, the best that any network can become.

    Levels between two timesteps of the process are interpolated: linearly in log(sigma / alpha) for
    diffusion, in sigma for flow matching.

    Args:
        density: The density of clean points, standardised.
        process: The noising process.
    """

    def __init__(self, density: Density, process: Process) -> None:
        super().__init__()
        self.density, self.process = density, process
        self._levels = tuple(level.numpy() for level in process.levels())
        self.data_dim, self.point_features = density.dim, None
        # Has the dtype of trained networks, so that samplers start from the same noise.
        self.anchor = nn.Parameter(torch.zeros(()), requires_grad=False)

    def _predict(self, points: Tensor, steps: Tensor, mask: Tensor | None) -> Tensor:
        noised, num = points.double(), len(points)
        alpha, sigma = (level.to(points.device).expand(num) for level in self._levels_at(steps))
        mean = self.density.posterior_mean(noised, alpha, sigma)
        return self.process.prediction_of_mean(mean, noised, alpha, sigma).to(points.dtype)

    def _levels_at(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Interpolates the signal and noise levels of timesteps, float64 with their shape."""
        alphas, sigmas = self._levels
        known, wanted = np.arange(len(sigmas)), steps.cpu().double().numpy()
        if self.process.is_flow:
            sigma = np.interp(wanted, known, sigmas)
            return torch.from_numpy(1 - sigma), torch.from_numpy(sigma)
        ratio = np.exp(np.interp(wanted, known, np.log(sigmas / alphas)))
        alpha = 1 / np.hypot(1.0, ratio)
        return torch.from_numpy(alpha), torch.from_numpy(ratio * alpha)


class ReferenceOracle:
    """The posterior mean under the empirical distribution of reference points.

    Averaged targets of formulas need it; where a density is known, its own posterior mean is exact.

    Args:
        points: Standardised points with shape (n_reference, d), finite.

    Raises:
        DataError: The points do not have shape (n, d) or are not finite.
    """

    def __init__(self, points: Tensor) -> None:
        self.points = numbers("reference points", points.detach(), "n", "d")

    @torch.no_grad()
    def posterior_mean(self, x: Tensor, alpha: Level, sigma: Level) -> Tensor:
        """Computes E[x_0 | alpha x_0 + sigma eps = x].

        Args:
            x: Noised points with shape (n, d).
            alpha: Signal level, at least 0; a number or shape (n,).
            sigma: Noise level, positive; a number or shape (n,).

        Returns:
            Shape (n, d), float64, on the device of x.

        Raises:
            DataError: A shape does not fit, or a level is out of range.
        """
        count, dim = self.points.shape
        noised, alphas, sigmas = noise_levels(x, alpha, sigma, dim)
        if not bool((sigmas > 0).all()):
            raise DataError("a reference sample has no posterior mean at sigma = 0; use sigma > 0")
        weights = torch.zeros(count, dtype=torch.float64)  # logarithms, up to a constant
        mean = torch.empty_like(noised)
        for rows in row_chunks(len(noised), count):
            levels = alphas[rows], (sigmas[rows] ** 2).expand(-1, dim)
            logits = shared_variance_logits(noised[rows], *levels, self.points, weights)
            mean[rows] = logits.softmax(dim=1) @ self.points
        return on_device_of(x, mean)


class SceneOracle:
    """The exact posterior mean of scenes, with or without a prompt.

    The combination of shape, colour and size, the place for an object of its size, and background
    are uniform and independent, as :func:`kan_diffusion.pictures.scenes.draw_scenes` draws them.

    Args:
        size: Pixels of a side S, 16 or 32.
        combinations: Which combinations of shape, colour and size there are.

    Raises:
        DataError: Scenes are not drawn in that size.
    """

    def __init__(self, size: int, combinations: Combinations = "seen") -> None:
        self.size, self.combinations = size, combinations
        self.masks = coverages(size).double()
        self._pairs = tuple(product(BACKGROUNDS, COLOURS))
        self.shades = in_samples(BACKGROUNDS[ground] for ground, _ in self._pairs).double()
        self.steps = in_samples(COLOURS[colour] for _, colour in self._pairs).double() - self.shades
        areas, squares = self.masks.sum(dim=1), self.masks.square().sum(dim=1)
        self.norms = (
            self.shades.square().sum(dim=1, keepdim=True) * size**2
            + 2 * (self.shades * self.steps).sum(dim=1, keepdim=True) * areas
            + self.steps.square().sum(dim=1, keepdim=True) * squares
        )
        shapes, sizes, *centres = zip(*COVERAGES, strict=True)
        places = [place_of(x, y) for x, y in zip(*centres, strict=True)]
        named = ("shape", shapes), ("size", sizes), ("place", places)
        self._named = {kind: np.array(names) for kind, names in named}
        wanted = {"seen": (False,), "held-out": (True,), "all": (False, True)}[combinations]
        rooms = Counter(sizes)
        weights = [
            [
                (is_held_out(shape, colour, name) in wanted) / rooms[name]
                for shape, name, *_ in COVERAGES
            ]
            for _, colour in self._pairs
        ]
        self.log_weights = torch.tensor(weights, dtype=torch.float64).log()

    def allowed(self, prompt: str) -> Tensor:
        """Tells which pairs of background and colour, and coverages, a prompt allows, (12, m).

        Raises:
            DataError: The prompt cannot be read, or allows no picture.
        """
        asked = vars(parse(prompt))
        masks = np.ones(len(self.masks), dtype=bool)
        for kind, names in self._named.items():
            if asked[kind] is not None:
                masks &= names == asked[kind]
        pairs = [
            asked["background"] in (None, background) and asked["colour"] in (None, colour)
            for background, colour in self._pairs
        ]
        allowed = torch.tensor(pairs)[:, None] & torch.from_numpy(masks)
        if not bool((allowed & self.log_weights.isfinite()).any()):
            raise DataError(
                f"'{prompt}' is held out: no picture of these combinations is as it asks; take "
                "combinations='all'"
            )
        return allowed

    def posterior_mean(
        self,
        x: Tensor,
        alpha: float | Tensor,
        sigma: float | Tensor,
        prompts: Sequence[str] | None = None,
    ) -> Tensor:
        """Computes E[x_0 | alpha x_0 + sigma eps = x, prompt].

        Args:
            x: Noised pictures with shape (n, 3, S, S), or (n, 3 S S).
            alpha: Signal level, at least 0; a number or shape (n,).
            sigma: Noise level, positive; a number or shape (n,).
            prompts: A caption for each picture; an empty one says nothing.

        Returns:
            The shape of x, float64, on its device.

        Raises:
            DataError: A shape does not fit, a level is out of range, or a prompt allows no picture.
        """
        flat, alphas, sigmas = noise_levels(x.flatten(1), alpha, sigma)
        if flat.shape[1] != 3 * self.size**2:
            raise DataError(
                f"pictures must have shape (n, 3, {self.size}, {self.size}), got {tuple(x.shape)}"
            )
        if not bool((sigmas > 0).all()):
            raise DataError("a finite mixture has no posterior mean at sigma = 0; use sigma > 0")
        prompts = [""] * len(flat) if prompts is None else list(prompts)
        if len(prompts) != len(flat):
            raise DataError(f"{len(flat)} pictures and {len(prompts)} prompts; give one for each")
        mean = torch.empty_like(flat)
        with torch.no_grad():
            for prompt in dict.fromkeys(prompts):
                weights = self.log_weights
                if prompt:
                    weights = weights.masked_fill(~self.allowed(prompt), -torch.inf)
                rows = torch.tensor([i for i, each in enumerate(prompts) if each == prompt])
                for part in row_chunks(len(rows), weights.numel()):
                    these = rows[part]
                    mean[these] = self._mean(flat[these], alphas[these], sigmas[these], weights)
        return on_device_of(x, mean.reshape(x.shape))

    def _mean(self, x: Tensor, alpha: Tensor, sigma: Tensor, log_weights: Tensor) -> Tensor:
        """Computes means (n, 3 S S) of a chunk under log-weights (12, m)."""
        pixels = x.reshape(-1, self.size**2)
        seen = (pixels @ self.masks.T).unflatten(0, (-1, 3))
        sums = pixels.sum(dim=1).unflatten(0, (-1, 3))
        products = (sums @ self.shades.T)[:, :, None] + self.steps @ seen
        alpha, variance = alpha[:, :, None], sigma[:, :, None] ** 2
        logits = (alpha * products - alpha**2 / 2 * self.norms) / variance + log_weights
        weights = logits.flatten(1).softmax(dim=1).reshape(logits.shape)
        shades = weights.sum(dim=2) @ self.shades
        covered = (self.steps.T @ weights).flatten(0, 1) @ self.masks
        return (shades.reshape(-1, 1) + covered).reshape(len(x), -1)
