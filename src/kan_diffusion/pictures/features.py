r"""Features of pictures: the code of a small autoencoder trained on real pictures alone.

An encoder e maps a picture to 64 numbers. With training pictures x, corruptions k of them (none,
noise, blur, half of another picture, fading), y = k(x), a decoder d and a classifier c, training
solves

    min  E |d(e(y)) - y|^2 + E [-log c(k | e(y))] / 10,

so the features hold what is in a picture and how it is corrupted. They are standardised by their
mean and standard deviation over the clean training pictures. Nothing is shipped or downloaded: the
network follows from the pictures and a seed, trains in seconds on one core and is kept in memory.
So distances between features compare models of one data set, and say nothing across data sets.

Pictures of more than 32 pixels a side are averaged down to 32 first.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from kan_diffusion.data.datasets import PictureData, load_dataset
from kan_diffusion.errors import DataError
from kan_diffusion.evaluation.effort import EFFORTS, EffortName
from kan_diffusion.randomness import torch_generator

__all__ = ["PictureFeatures", "picture_features"]

_WIDTH, _FEATURES = 32, 64
_BATCH, _RATE = 64, 2e-3
_KINDS = 5
_WEIGHT = 0.1
_AT_A_TIME = 1_024


class PictureFeatures(nn.Module):
    """Encoder and decoder of pictures; a call computes features of samples.

    Args:
        channels: Channels C of the samples.
        size: Pixels of a side S.
        generator: Draws the initial weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, size: int, generator: torch.Generator) -> None:
        super().__init__()
        self.shape = channels, size, size
        side = min(32, max(8, size // 4 * 4))
        narrow, wide = _WIDTH, 2 * _WIDTH
        self.shrink = nn.AdaptiveAvgPool2d(side)
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, narrow, 4, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(narrow, wide, 4, stride=2, padding=1),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(wide * (side // 4) ** 2, _FEATURES),
        )
        self.decoder = nn.Sequential(
            nn.Linear(_FEATURES, wide * (side // 4) ** 2),
            nn.Unflatten(1, (wide, side // 4, side // 4)),
            nn.GELU(),
            nn.ConvTranspose2d(wide, narrow, 4, stride=2, padding=1),
            nn.GELU(),
            nn.ConvTranspose2d(narrow, channels, 4, stride=2, padding=1),
        )
        self.classifier = nn.Sequential(
            nn.Linear(_FEATURES, _FEATURES), nn.GELU(), nn.Linear(_FEATURES, _KINDS)
        )
        self.register_buffer("mean", torch.zeros(_FEATURES))
        self.register_buffer("std", torch.ones(_FEATURES))
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter, generator=generator)
            else:
                nn.init.zeros_(parameter)

    @classmethod
    def fit(cls, train: Tensor, generator: torch.Generator, steps: int) -> PictureFeatures:
        """Trains the network.

        Args:
            train: Training samples with shape (N, C, S, S), from -1 to 1.
            generator: Draws weights, batches and noise.
            steps: Steps of Adam.

        Raises:
            DataError: The samples are not square pictures, or there are none.
        """
        if train.ndim != 4 or train.shape[2] != train.shape[3] or not len(train):
            raise DataError(f"pictures must have shape (n, C, S, S), got {tuple(train.shape)}")
        network = cls(train.shape[1], train.shape[2], generator)
        optimizer = torch.optim.Adam(network.parameters(), _RATE)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = _RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
            rows = torch.randint(len(train), (_BATCH,), generator=generator)
            pictures, kinds = _spoilt(network.shrink(train[rows]), generator)
            codes = network.encoder(pictures)
            loss = functional.mse_loss(network.decoder(codes), pictures)
            loss = loss + _WEIGHT * functional.cross_entropy(network.classifier(codes), kinds)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        network.requires_grad_(False)
        features = network(train[:20_000])
        network.mean.copy_(features.mean(dim=0))
        network.std.copy_(features.std(dim=0).clamp_min(1e-6))
        return network

    @torch.no_grad()
    def forward(self, samples: Tensor) -> Tensor:
        """Computes features (n, 64), float64, of samples (n, C, S, S).

        Raises:
            DataError: The samples have another shape.
        """
        if samples.shape[1:] != self.shape:
            raise DataError(
                f"features are of samples (n, {', '.join(map(str, self.shape))}), got "
                f"{tuple(samples.shape)}"
            )
        parts = samples.detach().cpu().float().split(_AT_A_TIME)
        return (
            (torch.cat([self.encoder(self.shrink(part)) for part in parts]) - self.mean) / self.std
        ).double()


def _spoilt(clean: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Corrupts each picture (n, C, s, s) in one of `_KINDS` ways; also returns which, (n,)."""
    count, side = len(clean), clean.shape[3]
    kinds = torch.randint(_KINDS, (count,), generator=generator)
    strength = torch.rand(count, 1, 1, 1, generator=generator)
    noise = torch.randn(clean.shape, generator=generator)
    others = clean[torch.randperm(count, generator=generator)]
    halved = torch.cat((clean[..., : side // 2], others[..., side // 2 :]), dim=3)
    blurred = functional.avg_pool2d(functional.pad(clean, (1, 1, 1, 1), "replicate"), 3, stride=1)
    made = torch.stack(
        (
            clean,
            clean + (0.05 + 0.35 * strength) * noise,
            clean + (0.3 + 0.7 * strength) * (blurred - clean),
            halved,
            clean * (0.6 + 0.35 * strength),
        )
    )
    return made[kinds, torch.arange(count)], kinds


def picture_features(
    config: PictureData, study_seed: int = 0, effort: EffortName = "full"
) -> PictureFeatures:
    """Fits the features with which all models of a study on some pictures are judged.

    Args:
        config: The pictures; the network is fitted to the training pictures of seed 0.
        study_seed: All draws derive from it.
        effort: How long they are trained.

    Raises:
        DataError: The pictures cannot be read.
    """
    return _fitted(config.pinned(), study_seed, EFFORTS[effort].feature_steps)


@lru_cache(maxsize=4)
def _fitted(config: PictureData, study_seed: int, steps: int) -> PictureFeatures:
    """Fits the features to pictures that are pinned, since those of a folder may change."""
    train = load_dataset(config, study_seed).train
    return PictureFeatures.fit(train, torch_generator("features", study_seed, config.name), steps)
