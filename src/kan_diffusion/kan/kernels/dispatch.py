"""A layer's product of functions and weights; what computes it is chosen here.

The compiled CPU kernel (:mod:`kan_diffusion.kan.kernels.cpu`) takes B-splines of plain float32 and
float64 tensors on the CPU. It steps aside for whatever else there is - other bases, GPUs, other
dtypes, autocast, vmap and the other torch.func transforms, torch.export, a machine without numba -
and the layer is then the functions of its inputs times its weight, in torch's own operations. That
is also how a gradient is differentiated once more.

Inside torch.compile the kernel is the operator ``torch.ops.kan_diffusion.bspline_linear``, which
the compiler does not look into.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.functional import linear, silu

from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.kan.bases import Basis, BSpline

__all__ = ["edge_features", "edge_linear"]

logger = logging.getLogger(__name__)

_HAS_NUMBA = find_spec("numba") is not None
_DTYPES = (torch.float32, torch.float64)
_PLAIN_TYPES = (Tensor, torch.nn.Parameter, torch.nn.Buffer)
_is_batched = torch._C._functorch.is_legacy_batchedtensor  # by a vectorised Jacobian
_transforms_are_active = torch._C._are_functorch_transforms_active  # torch.func's

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


@cache
def _kernel() -> ModuleType | None:
    """The compiled kernels, or None where numba does not work."""
    try:
        from kan_diffusion.kan.kernels import cpu
    except ImportError as error:
        logger.warning("KAN layers run without their compiled kernel: %s", error)
        return None
    return cpu


def _require_kernel() -> ModuleType:
    kernel = _kernel()
    if kernel is None:
        raise KanDiffusionError(
            "numba is installed but does not import; repair or uninstall it and compile again"
        )
    return kernel


def _autocasts(x: Tensor) -> bool:
    if not torch._C._is_any_autocast_enabled():
        return False
    kind = x.device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def _is_plain(tensor: Tensor, dtype: torch.dtype) -> bool:
    """Whether it is an ordinary tensor on the CPU of this dtype."""
    return (
        tensor.dtype is dtype
        and tensor.is_cpu
        and type(tensor) in _PLAIN_TYPES
        and not _is_batched(tensor)
    )


def _takes(x: Tensor, weight: Tensor, bias: Tensor | None, origin: Tensor, step: Tensor) -> bool:
    """Whether the compiled kernel is for these; it has no gradient for the grid."""
    dtype = x.dtype
    return (
        dtype in _DTYPES
        and _is_plain(x, dtype)
        and _is_plain(weight, dtype)
        and (bias is None or _is_plain(bias, dtype))
        and _is_plain(origin, dtype)
        and _is_plain(step, dtype)
        and not (origin.requires_grad or step.requires_grad)
        and not _transforms_are_active()
        and forward_ad._current_level < 0
        and not torch._C._get_tracing_state()
        and _kernel() is not None
    )


def _takes_traced(x: Tensor, weight: Tensor, bias: Tensor | None, step: Tensor) -> bool:
    """The same, of what torch.compile traces."""
    return (
        not torch.compiler.is_exporting()
        and x.device.type == "cpu"
        and x.dtype in _DTYPES
        and x.dtype == weight.dtype == step.dtype
        and (bias is None or bias.dtype == x.dtype)
        and not step.requires_grad
        and not _transforms_are_active()
    )


def edge_features(x: Tensor, basis: Basis, has_base: bool) -> Tensor:
    """What each input is expanded into: its base activation, then the functions of its basis.

    Under autocast the functions keep the precision of the basis, in which a place on a grid is
    told; the product that follows is what autocast makes cheaper.

    Args:
        x: Inputs with shape (N, in).
        basis: The functions.
        has_base: Whether SiLU comes before them.

    Returns:
        Features with shape (N, in, has_base + functions), differentiable in x.
    """
    if _autocasts(x):
        dtype = next((t.dtype for t in (*basis.buffers(), *basis.parameters())), x.dtype)
        with torch.autocast(x.device.type, enabled=False):
            return edge_features(x.to(dtype), basis, has_base)
    functions: Tensor = basis(x)
    if not has_base:
        return functions
    return torch.cat([silu(x).unsqueeze(-1), functions], dim=-1)


def edge_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, basis: Basis, has_base: bool
) -> Tensor:
    """The output of a layer.

    Args:
        x: Inputs with shape (N, in).
        weight: Packed weight with shape (out, in * (has_base + functions)).
        bias: Constants with shape (out,), or None.
        basis: The functions.
        has_base: Whether SiLU comes before them.

    Returns:
        Outputs with shape (N, out), differentiable twice in x, weight and bias.
    """
    if type(basis) is BSpline and _HAS_NUMBA and not _autocasts(x):
        origin, step, settings = basis.grid_origin, basis.grid_step, _settings(basis, has_base)
        if torch.compiler.is_compiling():
            if _takes_traced(x, weight, bias, step):
                compiled: Tensor = _linear(x, weight, bias, origin, step, *settings)
                return compiled
        elif _takes(x, weight, bias, origin, step):
            fused: Tensor = _FusedLinear.apply(x, weight, bias, basis, has_base)
            return fused
    return linear(edge_features(x, basis, has_base).flatten(1), weight, bias)


def _settings(basis: BSpline, has_base: bool) -> tuple[int, str, bool]:
    return basis.order, basis.extrapolation, has_base


class _FusedLinear(torch.autograd.Function):
    """The compiled kernel under autograd; keeps x and recomputes in the backward pass.

    Not the operator below: its way through torch's dispatcher costs more than a small layer. Nor
    ``setup_context``, for which torch inspects a signature at every call.
    """

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx,  # noqa: ANN001
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        basis: BSpline,
        has_base: bool,
    ) -> Tensor:
        kernel = _kernel()
        assert kernel is not None
        origin, step, settings = basis.grid_origin, basis.grid_step, _settings(basis, has_base)
        ctx.save_for_backward(x, weight, origin, step)
        ctx.basis, ctx.settings = basis, settings
        output: Tensor = kernel.linear(x, weight, bias, origin, step, *settings)
        return output

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        x, weight, origin, step = ctx.saved_tensors
        # Gradients are only enabled here when the result is to be differentiated once more.
        if torch.is_grad_enabled() or _transforms_are_active() or not _is_plain(grad, x.dtype):
            needed = ctx.needs_input_grad[:3]
            has_base = ctx.settings[-1]
            return *_reference_gradients(grad, x, weight, ctx.basis, has_base, needed), None, None
        kernel = _kernel()
        assert kernel is not None
        grad_x, grad_weight, grad_bias = kernel.linear_backward(
            grad, x, weight, origin, step, *ctx.settings
        )
        return grad_x, grad_weight, grad_bias if ctx.needs_input_grad[2] else None, None, None


def _reference_gradients(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    basis: Basis,
    has_base: bool,
    needed: tuple[bool, bool, bool],
) -> Gradients:
    """Gradients through torch's operations, which can be differentiated where that is wanted."""
    with torch.enable_grad():
        output = linear(edge_features(x, basis, has_base).flatten(1), weight)
        wanted = [t for t, need in zip((x, weight), needed, strict=False) if need]
        found = iter(torch.autograd.grad(output, wanted, grad, create_graph=True) if wanted else ())
    grad_x, grad_weight = (next(found) if need else None for need in needed[:2])
    return grad_x, grad_weight, grad.sum(0) if needed[2] else None


@torch.library.custom_op("kan_diffusion::bspline_linear", mutates_args=(), device_types="cpu")
def _linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    origin: Tensor,
    step: Tensor,
    order: int,
    extrapolation: str,
    has_base: bool,
) -> Tensor:
    kernel = _require_kernel()
    output: Tensor = kernel.linear(x, weight, bias, origin, step, order, extrapolation, has_base)
    return output


@torch.library.custom_op(
    "kan_diffusion::bspline_linear_backward", mutates_args=(), device_types="cpu"
)
def _linear_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    origin: Tensor,
    step: Tensor,
    order: int,
    extrapolation: str,
    has_base: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    kernel = _require_kernel()
    grads: tuple[Tensor, Tensor, Tensor] = kernel.linear_backward(
        grad, x, weight, origin, step, order, extrapolation, has_base
    )
    return grads


@_linear.register_fake
def _(
    x: Tensor, weight: Tensor, bias: Tensor | None, origin: Tensor, step: Tensor, *_: object
) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


@_linear_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape), weight.new_empty(weight.shape[:1])


def _save(ctx, inputs: tuple[object, ...], output: Tensor) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    x, weight, _, origin, step, *settings = inputs
    ctx.save_for_backward(x, weight, origin, step)
    ctx.settings = settings


def _differentiate(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]  # noqa: ANN001
    backward: Callable[..., tuple[Tensor, Tensor, Tensor]] = _linear_backward
    grad_x, grad_weight, grad_bias = backward(grad, *ctx.saved_tensors, *ctx.settings)
    bias = grad_bias if ctx.needs_input_grad[2] else None
    return grad_x, grad_weight, bias, None, None, None, None, None


_linear.register_autograd(_differentiate, setup_context=_save)
