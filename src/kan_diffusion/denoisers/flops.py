r"""Two ways to count the arithmetic of a forward pass, for one point.

*This package's own* (``denoiser.flops``) counts what is computed here: a product of a layer of
linear weights is :math:`2 nm + m` with its bias, the functions of a KAN layer's input are evaluated
once for all its edges, an edge costs two for each function that differs from zero
(``KANLinear.flops``), an elementary function counts four, as SiLU does, and ReLU one.

*By edge* (``denoiser.flops_per_edge``) is the convention of Yu et al. 2024 ("KAN or MLP: A Fairer
Comparison", arXiv:2407.16674): every edge evaluates all its functions for itself, by the recursion
of Cox and de Boor. With n inputs, m outputs, G intervals, order K and the nonlinearity's own count
a (5 for SiLU, 1 for ReLU):

.. math::
    \text{KAN layer:} \quad & a n + nm \, (9 K (G + 1.5 K) + 2 G - 2.5 K + 3), \\
    \text{linear layer and activation:} \quad & 2 nm + a m, \\
    \text{spline of a unit:} \quad & 9 K (G + 1.5 K) + 2 G - 2.5 K - 1.

In the last, the recursion costs 9 for each of its :math:`\sum_{k=1}^K (G + 2K - k)` values and the
sum over G + K functions :math:`2 (G + K) - 1`; an edge adds two for its scale and its sum over the
inputs, and two for its base weight. For a basis of D functions that is not a spline, the same edge
costs what evaluating the D functions of an input does, :math:`2 D - 1`, and those four (two without
a base activation). The scale is counted whether a layer has one or not, as theirs do. Biases are
part of :math:`2 nm` in a linear layer and not counted in a KAN layer.

Neither counts the features of the timestep, which are looked up and the same for every family.
Both count the Fourier features of the points, residual sums and modulation, where there are any.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from kan_diffusion.kan.bases import BSpline
from kan_diffusion.kan.linear import KANLinear

__all__ = [
    "kan_flops_per_edge",
    "linear_flops",
    "linear_flops_per_edge",
    "spline_flops_per_edge",
]

_SILU_PER_EDGE = 5


def spline_flops_per_edge(num_intervals: int, order: int) -> int:
    """Operations of one spline by the recursion, its sum over functions included.

    Args:
        num_intervals: G.
        order: K, at least 1.
    """
    # 13.5 K^2 - 2.5 K is whole for every K.
    return 9 * order * num_intervals + 2 * num_intervals + order * (27 * order - 5) // 2 - 1


def kan_flops_per_edge(layers: Iterable[nn.Module]) -> int:
    """Operations of KAN layers where every edge evaluates its functions for itself.

    Args:
        layers: The layers; what is not a ``KANLinear`` is left out.
    """
    total = 0
    for layer in layers:
        if not isinstance(layer, KANLinear):
            continue
        basis = layer.basis
        if isinstance(basis, BSpline):
            edge = spline_flops_per_edge(basis.num_intervals, basis.order)
        else:
            edge = basis.flops_per_input + 2 * basis.num_functions - 1
        edge += 2
        if layer.base_activation is not None:
            edge += 2
            total += _SILU_PER_EDGE * layer.in_features
        total += layer.in_features * layer.out_features * edge
    return total


def linear_flops(layers: Iterable[nn.Linear]) -> int:
    """Operations of linear layers with their biases, each product and sum counted."""
    return sum(
        2 * layer.weight.numel() + layer.out_features * (layer.bias is not None) for layer in layers
    )


def linear_flops_per_edge(layers: Iterable[nn.Linear]) -> int:
    """Operations of linear layers by the convention of Yu et al."""
    return sum(2 * layer.weight.numel() for layer in layers)
