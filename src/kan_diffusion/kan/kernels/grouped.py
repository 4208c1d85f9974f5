r"""CPU kernel of a layer of learned functions, shared by groups of inputs.

The functions h of :mod:`kan_diffusion.kan.kernels.functions` are multiplied by the weight,
:math:`y = h W^\top + \beta`: by a small one in the same pass, by a large one with torch's GEMM. The
backward pass recomputes h while it turns :math:`\partial h = \partial y\,W` into the gradients of
inputs and coefficients, so that only the layer's inputs are kept.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import linear

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

    The arguments are those of the functions' kernel, with a weight (out, in * R) and constants
    (out,) or None.
    """
    if functions.is_small(weight):
        return functions.forward(x, coefficients, origin, step, group_of, order, weight, bias)
    return linear(functions.forward(x, coefficients, origin, step, group_of, order), weight, bias)


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
) -> tuple[Tensor, ...]:
    """Computes the gradients of x, coefficients, weight and bias, given that of the output."""
    if functions.is_small(weight):
        found = functions.backward(
            grad, x, coefficients, origin, step, group_of, order, None, weight, bias
        )
        return found if bias is not None else (*found, x.new_empty(0))
    h = x.new_empty(x.shape[0], weight.shape[1])
    grad_h = grad @ weight
    of_inputs = functions.backward(grad_h, x, coefficients, origin, step, group_of, order, h)
    grad_bias = x.new_empty(0) if bias is None else grad.sum(0)
    return *of_inputs[:2], grad.t() @ h, grad_bias
