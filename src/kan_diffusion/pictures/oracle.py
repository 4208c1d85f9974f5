r"""The exact oracle of scenes: the posterior mean that no denoiser of them beats.

Scenes (:mod:`kan_diffusion.pictures.scenes`) are a finite mixture of renderings b + m (c - b) with
coverages m, colours c and backgrounds b. The inner products of a picture with all renderings follow
from those with coverages, and so does the mean

.. math:: E[x_0 \mid \alpha x_0 + \sigma \varepsilon = x] = \sum_k w_k(x) r_k,
    \qquad w_k(x) \propto w_k \exp(-\|x - \alpha r_k\|^2 / (2 \sigma^2)).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
from torch import Tensor

from kan_diffusion.data.densities import noise_levels, on_device_of, row_chunks
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

__all__ = ["SceneOracle"]


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
