"""Data sets: the samples that a denoiser is trained on and judged with.

A toy has unlimited fresh points and an exact oracle. Other samples are split: some are trained on,
the others are held out, and models are judged by their loss on these, since the posterior mean of
held-out samples is not known. Each trial seed has its own split, which all models of a seed share,
so that a comparison over seeds is also one over splits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kan_diffusion.data.coordinates import CoordinateMap
from kan_diffusion.data.densities import Density
from kan_diffusion.data.scaling import Standardizer
from kan_diffusion.randomness import torch_generator

FEWEST_JUDGED = 4
"""Fewest held-out samples: real-against-real compares two samples of at least two each."""

OracleKind = Literal["exact", "none"]
"""Whether the posterior mean is known."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Samples to train on and to judge with.

    Attributes:
        name: Name of the data set.
        columns: Names of the coordinates; empty where samples are no points.
        standardizer: The map between the data's own units and standardised units.
        train: Training samples with shape (N, *shape), float32.
        density: The exact density of a toy's standardised points; None for other data.
        heldout: Held-out samples to noise, with shape (m, *shape), points in float64; None for a
            toy, which has unlimited fresh points.
    """

    name: str
    columns: tuple[str, ...]
    standardizer: Standardizer
    train: Tensor
    density: Density | None = None
    heldout: Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a sample: (d,) for points, (C, S, S) for pictures."""
        return tuple(self.train.shape[1:])

    @property
    def dim(self) -> int:
        """Number of coordinates of a point, or of values of another sample."""
        return math.prod(self.shape)

    @property
    def maps(self) -> tuple[CoordinateMap, ...]:
        """How each coordinate of a point follows from the data."""
        units = zip(self.columns, self.standardizer.mean, self.standardizer.scale, strict=True)
        return tuple(CoordinateMap.standardised(*unit) for unit in units)

    @property
    def oracle(self) -> OracleKind:
        """Whether the posterior mean is known; if not, each trial is judged on its own split."""
        return "none" if self.density is None else "exact"

    def posterior_mean(
        self, noised: Tensor, alpha: Tensor, sigma: Tensor, rows: Tensor | None
    ) -> Tensor | None:
        """Returns the exact posterior mean of noised samples; None where it is not known.

        Args:
            noised: Shape (n, *shape), float64.
            alpha: Signal levels with shape (n,).
            sigma: Noise levels with shape (n,).
            rows: Indices of the clean samples among the held-out ones, with shape (n,), on which
                denoisers may be conditioned; None where they are fresh.
        """
        return None if self.density is None else self.density.posterior_mean(noised, alpha, sigma)

    def to_noise(self, num: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Returns samples (num, *shape), float64, that no denoiser was trained on, and their rows.

        These are fresh draws of the density, without rows, or held-out samples with their indices
        (num,), in random order and each equally often.
        """
        if self.heldout is None:
            assert self.density is not None
            return self.density.sample(num, generator), None
        rows = self.heldout_rows(num, generator)
        return self.heldout[rows].double(), rows

    def heldout_rows(self, num: int, generator: torch.Generator) -> Tensor:
        """Returns indices (num,) of held-out samples in random order, each equally often."""
        assert self.heldout is not None
        rows = torch.arange(num) % len(self.heldout)
        return rows[torch.randperm(num, generator=generator)]

    def fresh_pair(self, num: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Returns two disjoint samples of points that no denoiser was trained on, float64.

        Each has ``num`` points, or half of the held-out rows if they are fewer than twice ``num``.
        """
        if self.density is not None:
            points = self.density.sample(2 * num, generator)
        else:
            assert self.heldout is not None
            points = self.heldout[torch.randperm(len(self.heldout), generator=generator)]
            num = min(num, len(points) // 2)
        return points[:num], points[num : 2 * num]

    def fresh(self, num: int, generator: torch.Generator) -> Tensor:
        """Returns at most ``num`` points that no denoiser was trained on, float64.

        If the held-out rows are fewer than twice ``num``, it returns half of them, as many as each
        sample of :meth:`fresh_pair` has, so that metrics of both are comparable.
        """
        if self.density is not None:
            return self.density.sample(num, generator)
        return self.fresh_pair(num, generator)[0]


def split(
    count: int, share: float, study_seed: int, trial_seed: int, most: int | None = None
) -> tuple[Tensor, Tensor]:
    """Draws which samples are trained on and which are held out.

    Args:
        count: Number of samples.
        share: Fraction to hold out; if any is, at least ``FEWEST_JUDGED`` samples are, and at least
            2 are trained on.
        study_seed: Seed of a study, which the draw derives from.
        trial_seed: Number of the trial, which has a split of its own.
        most: Most samples to hold out; no limit when None.

    Returns:
        Indices that are trained on and indices that are held out, in random order.
    """
    order = torch.randperm(count, generator=torch_generator("split", study_seed, trial_seed))
    num = min(max(round(share * count), FEWEST_JUDGED), count - 2, count if most is None else most)
    num = num if share else 0
    return order[num:], order[:num]
