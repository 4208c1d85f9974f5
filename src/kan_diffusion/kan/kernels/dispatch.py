"""One function for a layer's edge features; the kernel that evaluates them is chosen here.

The compiled CPU kernel takes cubic splines of plain float32 and float64 tensors on the CPU;
everything else (other orders, GPUs, other dtypes, vmap and the other torch.func transforms,
torch.compile and export, a second derivative, a machine without numba) is evaluated by the
reference. Under autocast the features keep the grid's precision, in which a place in a cell is
told; the matrix product that follows is what autocast makes cheaper.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from types import ModuleType

import torch
from torch import Tensor

from kan_diffusion.kan.kernels import reference
from kan_diffusion.kan.kernels.reference import EdgeBasis

__all__ = ["edge_features"]

_KERNEL_DTYPES = (torch.float32, torch.float64)
_PLAIN_TYPES = (Tensor, torch.nn.Parameter, torch.nn.Buffer)


def _fused_kernel(basis: EdgeBasis, *tensors: Tensor) -> ModuleType | None:
    """The compiled kernel, where it covers what is asked for."""
    dtype = tensors[0].dtype
    if dtype not in _KERNEL_DTYPES or torch.compiler.is_compiling():
        return None
    for tensor in tensors:
        if (
            tensor.device.type != "cpu"
            or tensor.dtype != dtype
            or type(tensor) not in _PLAIN_TYPES
            or torch._C._functorch.is_functorch_wrapped_tensor(tensor)
        ):
            return None
    try:
        from kan_diffusion.kan.kernels import cpu
    except ImportError:
        return None
    return cpu if basis.order == cpu.ORDER else None


def _without_autocast(device: torch.device) -> AbstractContextManager[object]:
    kind = device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


class _FusedFeatures(torch.autograd.Function):
    """The compiled kernel under autograd; keeps x and recomputes in the backward pass."""

    @staticmethod
    def forward(ctx, x: Tensor, origin: Tensor, step: Tensor, basis: EdgeBasis) -> Tensor:  # type: ignore[no-untyped-def]  # noqa: ANN001
        from kan_diffusion.kan.kernels import cpu

        ctx.save_for_backward(x, origin, step)
        ctx.basis = basis
        return cpu.features(x, origin, step, basis)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        x, origin, step = ctx.saved_tensors
        kernel = _fused_kernel(ctx.basis, grad, x)
        # Gradients are only enabled here when the result is to be differentiated once more.
        if kernel is None or torch.is_grad_enabled():
            kernel = reference
        return kernel.features_backward(grad, x, origin, step, ctx.basis), None, None, None


class _ReferenceFeatures(torch.autograd.Function):
    """The reference under autograd and torch.func; keeps x and recomputes, too.

    Apart from the fused one because torch inspects the signature of a function with
    ``setup_context`` at every call, which costs more than a small layer.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, origin: Tensor, step: Tensor, basis: EdgeBasis) -> Tensor:
        return reference.features(x, origin, step, basis)

    @staticmethod
    def setup_context(
        ctx: torch.autograd.function.FunctionCtx,
        inputs: tuple[Tensor, Tensor, Tensor, EdgeBasis],
        output: Tensor,
    ) -> None:
        x, origin, step, basis = inputs
        ctx.save_for_backward(x, origin, step)
        ctx.basis = basis  # type: ignore[attr-defined]

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        x, origin, step = ctx.saved_tensors
        with _without_autocast(x.device):
            grad_x = reference.features_backward(grad, x, origin, step, ctx.basis)
        return grad_x, None, None, None


def edge_features(x: Tensor, origin: Tensor, step: Tensor, basis: EdgeBasis) -> Tensor:
    """The features of every input: its base activation, then its B-splines.

    Args:
        x: Inputs with shape (N, in).
        origin: Left end of each input's grid, with shape (in,).
        step: Width of one interval of each input's grid, with shape (in,), positive.
        basis: What the features are.

    Returns:
        Features with shape (N, in, width), twice differentiable with respect to x; the grid takes
        no gradient.
    """
    with _without_autocast(x.device) as autocast:
        rows = x if autocast is None else x.to(origin.dtype)
        fused = _fused_kernel(basis, rows, origin, step) is not None
        function = _FusedFeatures if fused else _ReferenceFeatures
        features: Tensor = function.apply(rows, origin, step, basis)
    return features
