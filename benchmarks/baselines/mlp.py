"""An MLP with SiLU and, as nearly as whole widths allow, as many parameters as our KAN.

It has the KAN's number of hidden layers, all of one width h; with input d, output m and l hidden
layers it has (d + 1) h + (l - 1) (h + 1) h + (h + 1) m parameters, and h is chosen so that this is
nearest to the KAN's count.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from baselines.contender import Case, Contender, NetworkWorkload
from baselines.ours import our_parameters

__all__ = ["MLP", "equal_width", "mlp_parameters"]


def mlp_parameters(widths: Sequence[int]) -> int:
    """Weights and biases of an MLP with these widths."""
    return sum((fan_in + 1) * fan_out for fan_in, fan_out in pairwise(widths))


def equal_width(case: Case, parameters: int) -> int:
    """The hidden width whose MLP comes nearest to a number of parameters."""

    def distance(width: int) -> int:
        return abs(mlp_parameters(_widths(case, width)) - parameters)

    width = 1
    while distance(width + 1) < distance(width):  # the count grows with the width
        width += 1
    return width


def _widths(case: Case, hidden: int) -> list[int]:
    return [case.widths[0], *[hidden] * (len(case.widths) - 2), case.widths[-1]]


def _build(case: Case, device: torch.device) -> NetworkWorkload:
    widths = _widths(case, equal_width(case, our_parameters(case)))
    modules: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        modules += [nn.Linear(fan_in, fan_out), nn.SiLU()]
    return NetworkWorkload(nn.Sequential(*modules[:-1]).to(device), case, device)


MLP = Contender(
    "mlp",
    "MLP, equal parameters",
    "SiLU, the KAN's number of hidden layers, all of the width that gives its number of "
    "parameters.",
    _build,
    patient=True,
)
