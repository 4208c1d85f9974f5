r"""Two ways to count the arithmetic of a forward pass, for one point.

*This package's own count* (``denoiser.flops``) follows what this package computes: a linear layer
costs :math:`2 nm + m`, bias included; a KAN layer evaluates the functions of an input once for all
its edges, and each edge costs two for each function that differs from zero (``KANLinear.flops``);
an elementary function, such as SiLU, costs four and ReLU one.

*By edge* (``denoiser.flops_per_edge``) is the convention of Yu et al. 2024 ("KAN or MLP: A Fairer
Comparison", arXiv:2407.16674): every edge evaluates all its own functions by the recursion of Cox
and de Boor. With n inputs, m outputs, G intervals, order K and a operations of the nonlinearity (5
for SiLU, 1 for ReLU):

.. math::
    \text{KAN layer:} \quad & a n + nm \, (9 K (G + 1.5 K) + 2 G - 2.5 K + 3), \\
    \text{linear layer and activation:} \quad & 2 nm + a m, \\
    \text{spline of a unit:} \quad & 9 K (G + 1.5 K) + 2 G - 2.5 K - 1.

A spline costs 9 for each of the :math:`\sum_{k=1}^K (G + 2K - k)` values of the recursion, and
:math:`2 (G + K) - 1` for the sum over G + K functions. An edge of a KAN layer adds two for its
scale and the sum over the inputs, and two for its base weight. On another basis of D functions, an
edge costs the evaluation of the D functions, :math:`2 D - 1` and the same four (two without a base
activation). As in the paper, the scale is counted whether or not a layer has one. Biases are part
of :math:`2 nm` in a linear layer and not counted in a KAN layer.

Neither count includes the features of the timestep, which are looked up, in every family alike.
Both include the Fourier features of the points, residual sums and modulation, where there are any.
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
    """Counts operations of one spline: of the recursion and of the sum over functions.

    Args:
        num_intervals: G.
        order: K, at least 1.
    """
    # 13.5 K^2 - 2.5 K is whole for every K.
    return 9 * order * num_intervals + 2 * num_intervals + order * (27 * order - 5) // 2 - 1


def kan_flops_per_edge(layers: Iterable[nn.Module]) -> int:
    """Counts operations of KAN layers as if every edge evaluated its own functions.

    Args:
        layers: The layers; only ``KANLinear`` layers are counted.
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
    """Counts products and sums of linear layers, biases included."""
    return sum(
        2 * layer.weight.numel() + layer.out_features * (layer.bias is not None) for layer in layers
    )


def linear_flops_per_edge(layers: Iterable[nn.Linear]) -> int:
    """Counts operations of linear layers by the convention of Yu et al."""
    return sum(2 * layer.weight.numel() for layer in layers)
