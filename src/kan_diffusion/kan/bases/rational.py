r"""Grouped rational functions (Kolmogorov-Arnold Transformer, Yang & Wang 2024, arXiv:2409.10594).

.. math:: B(x) = \frac{a_0 + a_1 x + \dots + a_m x^m}{1 + |b_1 x + \dots + b_n x^n|},
    \qquad m = 5,\; n = 4,

one function per input, whose coefficients are learned and shared by the inputs of a group (a "safe"
Pade unit, Molina et al. 2020, arXiv:1907.06732). An edge is a multiple of it, with 1 parameter; a
group has m + n + 1. Operations per input: 2 (m + n) + 6; an edge costs 2. The functions are defined
everywhere and grow linearly: there is no grid and nothing to extrapolate.

The function starts as the best fit to SiLU (by least squares on [-4, 4], computed when it is first
needed) or as the identity, (x + c x^3) / (1 + |c x^2|), whose denominator can be learned from the
first step. As in the paper, the first layer of a network starts with the identity: SiLU would hide
inputs below 0 from all later layers.
"""

from __future__ import annotations

from functools import cache
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from kan_diffusion.errors import KanDiffusionError, unknown_name
from kan_diffusion.kan.bases.base import Basis

__all__ = ["Rational", "Start"]

Start = Literal["silu", "identity"]
"""Functions that a rational function can start as."""

NUMERATOR_DEGREE = 5
DENOMINATOR_DEGREE = 4

_CURVATURE = 0.05  # c
_IDENTITY = (0.0, 1.0, 0.0, _CURVATURE, 0.0, 0.0), (0.0, _CURVATURE, 0.0, 0.0)
"""Numerator and denominator of the identity."""


@cache
def _silu_coefficients() -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Numerator and denominator of the rational function nearest to SiLU on [-4, 4]."""
    from scipy.optimize import least_squares

    x = np.linspace(-4, 4, 401)
    silu = x / (1 + np.exp(-x))
    powers = np.vander(x, NUMERATOR_DEGREE + 1, increasing=True)

    def errors(coefficients: np.ndarray) -> np.ndarray:
        numerator, denominator = np.split(coefficients, [NUMERATOR_DEGREE + 1])
        below = 1 + np.abs(powers[:, 1 : DENOMINATOR_DEGREE + 1] @ denominator)
        return powers @ numerator / below - silu

    start = np.zeros(NUMERATOR_DEGREE + 1 + DENOMINATOR_DEGREE)
    start[1], start[2], start[NUMERATOR_DEGREE + 2] = 0.5, 0.25, 0.1
    solution = least_squares(errors, start, xtol=1e-12, ftol=1e-12).x
    numerator, denominator = np.split(solution, [NUMERATOR_DEGREE + 1])
    return tuple(map(float, numerator)), tuple(map(float, denominator))


class Rational(Basis):
    """Learned rational functions, one per group of inputs.

    Args:
        in_features: Number of inputs.
        num_groups: Number of groups of neighbouring inputs that share coefficients, capped at
            ``in_features``.
        start: Functions before training, ``"silu"`` or ``"identity"``.
        device: Device of the coefficients.
        dtype: Floating dtype of the coefficients.

    Attributes:
        numerator: Coefficients a with shape (groups, m + 1).
        denominator: Coefficients b with shape (groups, n).

    Raises:
        KanDiffusionError: ``num_groups`` is less than 1, or the start is unknown.
    """

    name: ClassVar[str] = "rational"

    def __init__(
        self,
        in_features: int,
        num_groups: int = 8,
        *,
        start: Start = "silu",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if num_groups < 1:
            raise KanDiffusionError(f"num_groups must be at least 1, not {num_groups}")
        if start not in get_args(Start):
            raise unknown_name("start", start, get_args(Start))
        self.in_features = in_features
        self.start: Start = start
        self._most_groups = num_groups
        self.num_groups = min(num_groups, in_features)
        self.num_functions = self.num_active = 1
        self.flops_per_input = 2 * (NUMERATOR_DEGREE + DENOMINATOR_DEGREE) + 6

        def parameter(count: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(self.num_groups, count, device=device, dtype=dtype))

        self.numerator = parameter(NUMERATOR_DEGREE + 1)
        self.denominator = parameter(DENOMINATOR_DEGREE)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Resets every function to its start."""
        numerator, denominator = _IDENTITY if self.start == "identity" else _silu_coefficients()
        self.numerator.copy_(self.numerator.new_tensor(numerator))
        self.denominator.copy_(self.denominator.new_tensor(denominator))

    def forward(self, x: Tensor) -> Tensor:
        """Evaluates the function of each input: (N, in) -> (N, in, 1)."""
        group = torch.arange(self.in_features, device=x.device)
        group = group * self.num_groups // self.in_features
        a, b = self.numerator[group], self.denominator[group]
        above = a[:, NUMERATOR_DEGREE]
        for degree in range(NUMERATOR_DEGREE - 1, -1, -1):
            above = above * x + a[:, degree]
        below = b[:, DENOMINATOR_DEGREE - 1]
        for degree in range(DENOMINATOR_DEGREE - 2, -1, -1):
            below = below * x + b[:, degree]
        return (above / (1 + (below * x).abs())).unsqueeze(-1)

    def for_inputs(self, in_features: int) -> Rational:
        """Makes freshly initialised functions with these settings for a number of inputs."""
        return Rational(
            in_features,
            self._most_groups,
            start=self.start,
            device=self.numerator.device,
            dtype=self.numerator.dtype,
        )

    @torch.no_grad()
    def one_input(self, i: int) -> Rational:
        """Copies the function of input ``i`` alone."""
        alone = self.for_inputs(1)
        group = i * self.num_groups // self.in_features
        alone.numerator.copy_(self.numerator[group : group + 1])
        alone.denominator.copy_(self.denominator[group : group + 1])
        return alone

    def extra_repr(self) -> str:
        """The settings that differ between layers, for ``print``."""
        return f"num_groups={self.num_groups}"
