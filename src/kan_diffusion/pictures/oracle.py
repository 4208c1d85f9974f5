r"""The exact oracle of scenes, and their reader: sums over all renderings, and the largest.

Scenes (:mod:`kan_diffusion.pictures.scenes`) are a finite mixture of renderings b + m (c - b) with
coverages m, colours c and backgrounds b. The inner products of a picture with all renderings r_k
follow from those with coverages, and so does the posterior mean that no denoiser beats,

.. math:: E[x_0 \mid \alpha x_0 + \sigma \varepsilon = x] = \sum_k w_k(x) r_k,
    \qquad w_k(x) \propto w_k \exp((\alpha x \cdot r_k - \alpha^2 \|r_k\|^2 / 2) / \sigma^2).

A generated picture is read as the scene with the nearest rendering: the one with the largest
exponent at :math:`\alpha = 1`, whatever the noise.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from kan_diffusion.data.densities import Level, by_chunks
from kan_diffusion.errors import DataError
from kan_diffusion.pictures.scenes import (
    PAIRS,
    PROPERTIES,
    Combinations,
    all_scenes,
    coverages,
    parse,
    render,
)

__all__ = ["SceneOracle", "read_scenes", "score_scenes"]


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
        self.size = size
        self.masks = coverages(size).double()
        self.shades, colours = (PAIRS / 127.5 - 1).double().unbind(1)
        self.steps = colours - self.shades
        areas, squares = self.masks.sum(dim=1), self.masks.square().sum(dim=1)
        self.norms = (
            self.shades.square().sum(dim=1, keepdim=True) * size**2
            + 2 * (self.shades * self.steps).sum(dim=1, keepdim=True) * areas
            + self.steps.square().sum(dim=1, keepdim=True) * squares
        )
        scenes = all_scenes()
        rooms = scenes["size"].map(scenes["size"].value_counts()).astype(float)
        wanted = scenes["held_out"].eq(combinations == "held-out") | (combinations == "all")
        weights = torch.tensor((wanted / rooms).to_numpy())
        self.log_weights = weights.log().reshape(self.norms.shape)

    def _weights_of(self, prompt: str) -> Tensor:
        """Computes the log-weights of scenes that a prompt allows, (12, m), -inf of all others."""
        if not prompt:
            return self.log_weights
        scenes = all_scenes()
        met = [scenes[kind].eq(value).to_numpy() for kind, value in parse(prompt).items()]
        allowed = torch.from_numpy(np.logical_and.reduce(met)).reshape(self.norms.shape)
        weights = self.log_weights.masked_fill(~allowed, -torch.inf)
        if not bool(weights.isfinite().any()):
            raise DataError(
                f"'{prompt}' is held out: no picture of these combinations is as it asks; take "
                "combinations='all'"
            )
        return weights

    @torch.no_grad()
    def posterior_mean(
        self, x: Tensor, alpha: Level, sigma: Level, prompts: Collection[str] | None = None
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
            DataError: A shape is wrong, sigma is not positive, or a prompt cannot be read or allows
                no picture.
        """
        flat, size = x.flatten(1), self.size
        if flat.shape[1] != 3 * size**2:
            raise DataError(
                f"pictures must have shape (n, 3, {size}, {size}), got {tuple(x.shape)}"
            )
        told = [""] * len(flat) if prompts is None else list(prompts)
        if len(told) != len(flat):
            raise DataError(f"{len(flat)} pictures and {len(told)} prompts; give one for each")
        count = self.norms.numel()
        mean = by_chunks(self._mean, flat, alpha, sigma, flat.shape[1], count, told, noised=True)
        return mean.reshape(x.shape)

    def _mean(self, x: Tensor, alpha: Tensor, sigma: Tensor, prompts: Sequence[str]) -> Tensor:
        given = torch.stack([self._weights_of(prompt) for prompt in prompts])
        logits = self.exponents(x, alpha) / sigma[:, :, None] ** 2 + given
        weights = logits.flatten(1).softmax(dim=1).unflatten(1, self.norms.shape)
        shades = weights.sum(dim=2) @ self.shades
        covered = (self.steps.T @ weights).flatten(0, 1) @ self.masks
        return (shades.reshape(-1, 1) + covered).reshape(len(weights), -1)

    def exponents(self, x: Tensor, alpha: Tensor) -> Tensor:
        """Computes alpha x r - alpha² |r|² / 2 of pictures (n, 3 S S) and all r, (n, 12, m)."""
        pixels = x.reshape(-1, self.size**2)
        seen = (pixels @ self.masks.T).unflatten(0, (-1, 3))
        sums = pixels.sum(dim=1).unflatten(0, (-1, 3))
        products = (sums @ self.shades.T)[:, :, None] + self.steps @ seen
        alpha = alpha[:, :, None]
        return alpha * products - alpha**2 / 2 * self.norms


def read_scenes(samples: Tensor) -> pd.DataFrame:
    """Reads each picture as the nearest scene of all.

    Args:
        samples: Shape (n, 3, S, S) with values in [-1, 1] and S of 16 or 32.

    Returns:
        The rows of :func:`kan_diffusion.pictures.scenes.all_scenes`, and the Euclidean ``distance``
        of each picture to the scene's rendering.

    Raises:
        DataError: The shape is wrong, or a value is not finite.
    """
    if samples.ndim != 4 or samples.shape[1] != 3 or samples.shape[2] != samples.shape[3]:
        raise DataError(f"pictures must have shape (n, 3, S, S), got {tuple(samples.shape)}")
    if not bool(samples.isfinite().all()):
        raise DataError("pictures have values that are not finite; sample again or train longer")
    pictures, size = samples.detach().cpu(), samples.shape[2]
    oracle = SceneOracle(size, "all")

    def nearest(x: Tensor, alpha: Tensor, _: Tensor) -> Tensor:
        return oracle.exponents(x, alpha).flatten(1).argmax(dim=1)

    flat = pictures.flatten(1)
    rows = by_chunks(nearest, flat, 1.0, 0.0, flat.shape[1], oracle.norms.numel()).numpy()
    away = (pictures - render(rows, size)).flatten(1).norm(dim=1)
    return all_scenes().iloc[rows].assign(distance=away.numpy())


def score_scenes(samples: Tensor, prompts: Collection[str]) -> dict[str, float | None]:
    """Judges pictures by what their prompts ask for.

    Args:
        samples: Shape (n, 3, S, S) with values in [-1, 1] and S of 16 or 32.
        prompts: A prompt for each picture; see :func:`kan_diffusion.pictures.scenes.parse`.

    Returns:
        Shares from 0 to 1 of the pictures whose ``"shape"``, ``"colour"``, ``"size"``, ``"place"``
        and ``"background"`` are as asked, each of those whose prompts say something about it, None
        where none does; the share in which ``"all"`` is as asked; and the median ``"distance"`` to
        the scene that was read.

    Raises:
        DataError: The numbers of pictures and prompts differ, or a prompt cannot be read.
    """
    if len(samples) != len(prompts) or not len(prompts):
        raise DataError(
            f"{len(samples)} pictures and {len(prompts)} prompts; give a prompt for each picture"
        )
    asked = pd.DataFrame(map(parse, prompts), columns=list(PROPERTIES), dtype=object)
    read = read_scenes(samples)
    said = asked.notna().to_numpy()
    met = asked.to_numpy() == read[asked.columns].astype(object).to_numpy()
    scores: dict[str, float | None] = {}
    for column, kind in enumerate(PROPERTIES):
        of_kind = met[said[:, column], column]
        scores[kind] = float(of_kind.mean()) if len(of_kind) else None
    scores["all"] = float((met | ~said).all(axis=1).mean())
    scores["distance"] = float(read["distance"].median())
    return scores
