"""Small networks that the tests of explanations share."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from helpers import seeded
from kan_diffusion.denoisers import KANDenoiser
from kan_diffusion.denoisers.edges import Edge
from kan_diffusion.denoisers.readable import CurveSettings, ReadableDenoiser

T = 100


def stir(module: torch.nn.Module, seed: int = 0, spread: float = 0.4) -> None:
    """Leaves no parameter at a special value."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, spread, generator=seeded(seed))


def kan(seed: int = 0, **settings: object) -> KANDenoiser:
    """A float64 KAN denoiser with no parameter at a special value."""
    settings = {"data_dim": 2, "hidden": (4, 3), "num_train_timesteps": T, **settings}
    made = KANDenoiser(**settings).double()
    stir(made, seed)
    return made


def network(
    edges: Sequence[Sequence[tuple[int, int, str, bool]]],
    hidden: Sequence[int],
    *,
    seed: int = 0,
    **settings: object,
) -> ReadableDenoiser:
    """A float64 network of given edges with no parameter at a special value."""
    settings = {"data_dim": 2, "num_train_timesteps": T, "time_encoding": "raw", **settings}
    curves = {key: settings.pop(key) for key in CurveSettings.__annotations__ if key in settings}
    made = ReadableDenoiser(hidden=list(hidden), edges=edges, curves=curves, **settings)
    torch.nn.Module.to(made, torch.float64)
    stir(made, seed)
    return made.eval()


def batch(dim: int = 2, num: int = 64) -> tuple[Tensor, Tensor]:
    points = torch.randn(num, dim, dtype=torch.float64, generator=seeded(5))
    return points, torch.randint(0, T, (num,), generator=seeded(6))


def everything(widths: Sequence[int], kind: str = "curve") -> list[list]:
    return [
        [(i, o, kind, False) for o in range(fan_out) for i in range(fan_in)]
        for fan_in, fan_out in pairwise(widths)
    ]


def without(denoiser: ReadableDenoiser, *places: tuple[int, int, int]) -> list[Edge]:
    return [edge for edge in denoiser.edges if edge.place not in places]
