"""A layer's product of functions and weights; what computes it is chosen here.

Compiled CPU kernels take the package's own bases of plain float32 and float64 tensors on the CPU:
:mod:`kan_diffusion.kan.kernels.cpu` B-splines, :mod:`kan_diffusion.kan.kernels.dense` those whose
functions all differ from zero. They step aside for whatever else there is - bases of one's own,
GPUs, other dtypes, autocast, vmap and the other torch.func transforms, torch.export, a machine
without numba - and the layer is then the functions of its inputs times its weight, in torch's own
operations. That is also how a gradient is differentiated once more.

Inside torch.compile the kernels are the operators ``torch.ops.kan_diffusion.bspline_linear`` and
``dense_linear``, which the compiler does not look into.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.functional import linear, silu

from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.kan.bases import RBF, Basis, BSpline, Chebyshev, Fourier, GridBasis, Rational

__all__ = ["edge_features", "edge_linear"]

logger = logging.getLogger(__name__)

_HAS_NUMBA = find_spec("numba") is not None
_DTYPES = (torch.float32, torch.float64)
_PLAIN_TYPES = (Tensor, torch.nn.Parameter, torch.nn.Buffer)
_is_batched = torch._C._functorch.is_legacy_batchedtensor  # by a vectorised Jacobian
_transforms_are_active = torch._C._are_functorch_transforms_active  # torch.func's


@cache
def _kernel() -> Mapping[str, ModuleType] | None:
    """The modules of compiled kernels by name, or None where numba does not work."""
    try:
        from kan_diffusion.kan.kernels import cpu, dense
    except ImportError as error:
        logger.warning("KAN layers run without their compiled kernel: %s", error)
        return None
    return {"bspline": cpu, "dense": dense}


def _require_kernel(name: str) -> ModuleType:
    kernels = _kernel()
    if kernels is None:
        raise KanDiffusionError(
            "numba is installed but does not import; repair or uninstall it and compile again"
        )
    return kernels[name]


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


def _takes(x: Tensor, weight: Tensor, bias: Tensor | None, operands: tuple[Tensor, ...]) -> bool:
    """Whether a compiled kernel is for these."""
    dtype = x.dtype
    return (
        dtype in _DTYPES
        and _is_plain(x, dtype)
        and _is_plain(weight, dtype)
        and (bias is None or _is_plain(bias, dtype))
        and all(_is_plain(operand, dtype) for operand in operands)
        and not _transforms_are_active()
        and forward_ad._current_level < 0
        and not torch._C._get_tracing_state()
        and _kernel() is not None
    )


def _takes_traced(
    x: Tensor, weight: Tensor, bias: Tensor | None, operands: tuple[Tensor, ...]
) -> bool:
    """The same, of what torch.compile traces."""
    return (
        not torch.compiler.is_exporting()
        and x.device.type == "cpu"
        and x.dtype in _DTYPES
        and x.dtype == weight.dtype
        and all(x.dtype == operand.dtype for operand in operands)
        and (bias is None or bias.dtype == x.dtype)
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
    kernel = _KERNELS.get(type(basis))
    if kernel is not None and _HAS_NUMBA and not _autocasts(x):
        operands = kernel.operands_of(basis)
        if kernel.learned or not any(operand.requires_grad for operand in operands):
            settings = *kernel.settings(basis), has_base
            if torch.compiler.is_compiling():
                if _takes_traced(x, weight, bias, operands):
                    compiled: Tensor = kernel.operator(x, weight, bias, *operands, *settings)
                    return compiled
            elif _takes(x, weight, bias, operands):
                fused: Tensor = _FusedLinear.apply(
                    x, weight, bias, *operands, kernel, basis, settings
                )
                return fused
    return linear(edge_features(x, basis, has_base).flatten(1), weight, bias)


class _FusedLinear(torch.autograd.Function):
    """A compiled kernel under autograd; keeps x and recomputes in the backward pass.

    Not one of the operators below: their way through torch's dispatcher costs more than a small
    layer. Nor ``setup_context``, for which torch inspects a signature at every call.
    """

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx,  # noqa: ANN001
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        first: Tensor,
        second: Tensor,
        kernel: _Kernel,
        basis: Basis,
        settings: Settings,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, first, second)
        ctx.kernel, ctx.basis, ctx.settings = kernel, basis, settings
        module = _require_kernel(kernel.module)
        output: Tensor = module.linear(x, weight, bias, first, second, *settings)
        return output

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        kernel, settings, needed = ctx.kernel, ctx.settings, ctx.needs_input_grad[:5]
        x, weight, first, second = ctx.saved_tensors
        # Gradients are only enabled here when the result is to be differentiated once more.
        if torch.is_grad_enabled() or _transforms_are_active() or not _is_plain(grad, x.dtype):
            basis = kernel.with_operands(ctx.basis, first, second)
            found = _reference_gradients(
                grad, x, weight, first, second, basis, settings[-1], needed
            )
            return *found, None, None, None
        module = _require_kernel(kernel.module)
        found = module.linear_backward(grad, x, weight, first, second, *settings)
        return *_where_needed(found, needed), None, None, None


def _where_needed(
    gradients: tuple[Tensor, ...], needed: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """The gradients of the five tensors, None where there is none or none is needed."""
    return tuple(
        gradients[i] if need and i < len(gradients) else None for i, need in enumerate(needed)
    )


def _reference_gradients(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    first: Tensor,
    second: Tensor,
    basis: Basis,
    has_base: bool,
    needed: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    """Gradients through torch's operations, which can be differentiated where that is wanted."""
    tensors = (x, weight, None, first, second)
    with torch.enable_grad():
        output = linear(edge_features(x, basis, has_base).flatten(1), weight)
        wanted = [t for t, need in zip(tensors, needed, strict=True) if need and t is not None]
        found = iter(torch.autograd.grad(output, wanted, grad, create_graph=True) if wanted else ())
    bias = grad.sum(0) if needed[2] else None
    return tuple(
        bias if tensor is None else (next(found) if need else None)
        for tensor, need in zip(tensors, needed, strict=True)
    )


def _operators(
    module: str, operands: str, settings: str, num_gradients: int
) -> Callable[..., Tensor]:
    """Registers a module's kernel and its gradients as operators.

    Args:
        module: Name of the module, and of the operators.
        operands: How the schema declares the tensors of the basis.
        settings: How it declares the rest.
        num_gradients: How many of the five tensors (x, weight, bias and the operands) have one.

    Returns:
        The operator, differentiable in those tensors.
    """
    rest = f"{operands}, {settings}, bool has_base"
    name = f"kan_diffusion::{module}_linear"

    def run(*inputs: object) -> Tensor:
        output: Tensor = _require_kernel(module).linear(*inputs)
        return output

    def run_backward(*inputs: object) -> tuple[Tensor, ...]:
        gradients: tuple[Tensor, ...] = _require_kernel(module).linear_backward(*inputs)
        return gradients

    forward = torch.library.custom_op(
        name,
        run,
        mutates_args=(),
        device_types="cpu",
        schema=f"(Tensor x, Tensor weight, Tensor? bias, {rest}) -> Tensor",
    )
    returned = ", ".join(["Tensor"] * num_gradients)
    backward = torch.library.custom_op(
        f"{name}_backward",
        run_backward,
        mutates_args=(),
        device_types="cpu",
        schema=f"(Tensor grad, Tensor x, Tensor weight, {rest}) -> ({returned})",
    )

    @forward.register_fake
    def _(x: Tensor, weight: Tensor, *_: object) -> Tensor:
        return x.new_empty(x.shape[0], weight.shape[0])

    @backward.register_fake
    def _(
        grad: Tensor, x: Tensor, weight: Tensor, first: Tensor, second: Tensor, *_: object
    ) -> tuple[Tensor, ...]:
        shapes = (x.shape, weight.shape, weight.shape[:1], first.shape, second.shape)
        return tuple(x.new_empty(shape) for shape in shapes[:num_gradients])

    def save(ctx, inputs: tuple[object, ...], output: Tensor) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
        x, weight, _, first, second, *ctx.settings = inputs
        ctx.save_for_backward(x, weight, first, second)

    def differentiate(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        found = backward(grad, *ctx.saved_tensors, *ctx.settings)
        none = (None,) * len(ctx.settings)
        return *_where_needed(found, ctx.needs_input_grad[:5]), *none

    forward.register_autograd(differentiate, setup_context=save)
    return forward


Settings = tuple[str | int | bool, ...]
"""What a kernel is told beside tensors; whether there is a base activation comes last."""


@dataclass(frozen=True)
class _Kernel:
    """How the compiled kernel of a basis is called.

    Attributes:
        module: Which module has it.
        operator: The same as an operator.
        operands: Names of the basis's two tensors.
        settings: Its numbers and words.
        learned: Whether the tensors are parameters, for which the kernel has gradients.
    """

    module: str
    operator: Callable[..., Tensor]
    operands: tuple[str, str]
    settings: Callable[..., Settings]
    learned: bool = False

    def operands_of(self, basis: Basis) -> tuple[Tensor, Tensor]:
        first, second = self.operands
        return getattr(basis, first), getattr(basis, second)

    def with_operands(self, basis: Basis, *operands: Tensor) -> Basis:
        """The basis as it was when it had these, which torch.func may have lent it."""
        twin = copy.copy(basis)
        place = "_parameters" if self.learned else "_buffers"
        named = dict(zip(self.operands, operands, strict=True))
        twin.__dict__[place] = {**twin.__dict__[place], **named}
        return twin


def _spline_settings(basis: BSpline) -> Settings:
    return basis.order, basis.extrapolation


def _grid_settings(basis: GridBasis) -> Settings:
    return basis.name, basis.extrapolation


def _rational_settings(basis: Rational) -> Settings:
    return basis.name, "none"


_bspline = _operators("bspline", "Tensor origin, Tensor step", "int order, str extrapolation", 3)
_dense = _operators("dense", "Tensor first, Tensor second", "str basis, str extrapolation", 5)
_GRID = ("grid_origin", "grid_step")
_COEFFICIENTS = ("numerator", "denominator")
_KERNELS: Mapping[type[Basis], _Kernel] = {
    BSpline: _Kernel("bspline", _bspline, _GRID, _spline_settings),
    RBF: _Kernel("dense", _dense, _GRID, _grid_settings),
    Chebyshev: _Kernel("dense", _dense, _GRID, _grid_settings),
    Fourier: _Kernel("dense", _dense, _GRID, _grid_settings),
    Rational: _Kernel("dense", _dense, _COEFFICIENTS, _rational_settings, learned=True),
}
"""The kernel of each basis; one of one's own, or derived from these, has none."""
