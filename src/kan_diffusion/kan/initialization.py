r"""Initialisation of the weights of a layer.

With n inputs, m outputs, D functions per input, base weights w and coefficients c:

``"glorot"``
    Both branches carry the variance that Glorot and Bengio's weights carry through SiLU:
    :math:`w \sim N(0, \tfrac{2}{n + m})` and
    :math:`c \sim N(0, \tfrac{2}{n + m} \cdot \tfrac{E[\mathrm{silu}(z)^2]}{P})`, where z is
    standard normal and P the mean of :math:`\sum_g B_g(u)^2` over the grid.
``"noise"``
    The base branch and a little noise, about as in efficient-KAN:
    :math:`w \sim U(\pm n^{-1/2})`, :math:`c \sim U(\pm 0.05 / G)`.
``"original"``
    As in the first KAN (Liu et al. 2024, arXiv:2404.19756, and its package):
    :math:`w \sim U(\pm n^{-1/2})`; c are the smallest coefficients with which the spline has values
    drawn from :math:`U(\pm 0.15 / G)` at the knots; the scale is :math:`n^{-1/2}`.
``"power-law"``
    :math:`w \sim N(0, \sigma^2)` with :math:`\sigma = (n (D + 1))^{-0.25}` and c likewise with the
    exponent -1.75 (Rigas et al. 2025, arXiv:2509.03417).

Without a base branch, layers would start near zero by all but ``"glorot"``, and only that is
taken. Edge scales start at 1, except by ``"noise"``, which draws them as w, and ``"original"``,
which sets :math:`n^{-1/2}`; what is not a parameter is a factor of c. The bias starts at zero.
"""

from __future__ import annotations

import copy
import math
from typing import Literal, get_args

import torch
from torch import Tensor

from kan_diffusion.kan.bases import Basis

Initialization = Literal["glorot", "noise", "original", "power-law"]
INITIALIZATIONS: tuple[Initialization, ...] = get_args(Initialization)
"""The schemes by name."""

_SILU_POWER = 0.3557
"""E[silu(z)^2] for a standard normal z, by quadrature."""


def _functions(basis: Basis, count: int) -> Tensor:
    """Evaluates the functions at ``count`` places from end to end of a grid, in float64."""
    places = torch.linspace(0, basis.num_intervals, count, dtype=torch.float64, device="cpu")
    return copy.deepcopy(basis).cpu().double().values(places)


@torch.no_grad()
def initialize(
    scheme: Initialization,
    edges: Tensor,
    scale: Tensor | None,
    basis: Basis,
    generator: torch.Generator | None = None,
) -> None:
    """Draws the weights of a layer.

    Args:
        scheme: Name of the scheme, see the module.
        edges: Weights with shape (out, in, functions), beside local functions with one of the base
            branch first; overwritten.
        scale: Edge scales with shape (out, in), overwritten, or None.
        basis: The functions.
        generator: Where the draws come from; torch's default generator when None.
    """
    if edges.is_meta:
        return
    outputs, inputs, _ = edges.shape
    base, coefficients = edges[..., : int(basis.local)], edges[..., int(basis.local) :]
    intervals, bound, start = basis.num_intervals, 1 / math.sqrt(inputs), 1.0
    if scheme == "glorot":
        std = math.sqrt(2 / (inputs + outputs))
        base.normal_(0, std, generator=generator)
        power = float(_functions(basis, 257).square().sum(-1).mean())
        coefficients.normal_(0, std * math.sqrt(_SILU_POWER / power), generator=generator)
    elif scheme == "power-law":
        size = inputs * (basis.num_functions + 1)
        base.normal_(0, size**-0.25, generator=generator)
        coefficients.normal_(0, size**-1.75, generator=generator)
    elif scheme == "noise":
        base.uniform_(-bound, bound, generator=generator)
        coefficients.uniform_(-0.05 / intervals, 0.05 / intervals, generator=generator)
        if scale is not None:
            scale.uniform_(-bound, bound, generator=generator)
        return
    else:
        base.uniform_(-bound, bound, generator=generator)
        values = coefficients.new_empty(outputs, inputs, intervals + 1)
        values.uniform_(-0.15 / intervals, 0.15 / intervals, generator=generator)
        knots = _functions(basis, intervals + 1)
        coefficients.copy_(values.cpu().double() @ torch.linalg.pinv(knots).T)
        start = bound
    if scale is not None:
        scale.fill_(start)
    else:
        coefficients.mul_(start)
