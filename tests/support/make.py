"""Small things that tests are made of: points, processes, denoisers, studies."""

from __future__ import annotations

import torch
from torch import Tensor

from helpers import seeded
from kan_diffusion.denoisers.base import Denoiser
from kan_diffusion.denoisers.registry import build_denoiser
from kan_diffusion.processes import Process, get_process
from kan_diffusion.study.config import StudyConfig

FEW_STEPS = 100
"""Timesteps of a small process."""


def points(
    num: int = 100, dim: int = 2, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Standard normal points with shape (num, dim)."""
    return torch.randn(num, dim, generator=seeded(seed), dtype=dtype)


def process(prediction_type: str = "v_prediction", **settings: object) -> Process:
    """The cosine process with few timesteps."""
    given = {"prediction_type": prediction_type, "num_timesteps": FEW_STEPS, **settings}
    return Process.model_validate({**get_process("cosine").model_dump(), **given})


def denoiser(
    family: str = "mlp", dim: int | tuple[int, ...] = 2, *, seed: int = 0, **options: object
) -> Denoiser:
    """An untrained denoiser with two hidden layers of eight units, unless options say otherwise."""
    given: dict[str, object] = {"num_train_timesteps": FEW_STEPS, **options}
    if not given.keys() & {"params", "flops", "hidden"}:
        given["hidden"] = (8, 8)
    return build_denoiser(family, dim, generator=seeded(seed), **given)


def study(**changes: object) -> StudyConfig:
    """A study of a KAN and an MLP with 600 parameters on 500 points, judged quickly.

    Args:
        **changes: Other settings of the study.
    """
    settings: dict[str, object] = {
        "name": "tiny",
        "title": "Tiny",
        "seeds": 1,
        "data": [{"toy": "gaussian-mixture", "num_points": 500}],
        "training": {"steps": 40, "batch_size": 64, "checkpoint_every": 10},
        "models": [
            {"name": "KAN", "family": "kan", "params": 600},
            {"name": "MLP", "family": "mlp", "params": 600},
        ],
        "sampling": {"steps": 5},
        "evaluation": EVALUATION,
    }
    return StudyConfig.model_validate({**settings, **changes})


EVALUATION = {"num_noised": 200, "num_drawn": 50, "effort": "quick"}
"""Settings of an evaluation where nothing asks how good a model is."""
