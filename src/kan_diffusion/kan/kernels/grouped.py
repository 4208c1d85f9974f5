r"""A layer of learned functions that inputs share in groups, on the CPU.

The functions of :mod:`kan_diffusion.kan.kernels.functions`, h, are multiplied by torch's
GEMM, :math:`y = h W^\top + \beta`. The backward pass computes h once more while it turns
:math:`\partial h = \partial y\,W` into the gradients of inputs and coefficients, so that nothing
but the layer's inputs is kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kan_diffusion.kan.kernels import functions

__all__ = ["backward", "forward"]


def forward(
    x: Tensor,
    coefficients: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    origin: Tensor,
    step: Tensor,
    group_of: tuple[int, ...],
    order: int,
) -> Tensor:
    """Computes the output (N, out) of a layer.

    Arguments as those of the functions' kernel, with a weight (out, in * R) and constants (out,) or
    None.
    """
    h = functions.forward(x, coefficients, origin, step, group_of, order)
    return h @ weight.t() if bias is None else torch.addmm(bias, h, weight.t())


def backward(
    grad: Tensor,
    x: Tensor,
    coefficients: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    origin: Tensor,
    step: Tensor,
    group_of: tuple[int, ...],
    order: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Computes the gradients of x, coefficients, weight and bias, given the output's."""
    h = x.new_empty(x.shape[0], weight.shape[1])
    grad_h = grad @ weight
    of_inputs = functions.backward(grad_h, x, coefficients, origin, step, group_of, order, h)
    grad_bias = x.new_empty(0) if bias is None else grad.sum(0)
    return *of_inputs, grad.t() @ h, grad_bias
