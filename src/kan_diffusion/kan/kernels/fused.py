"""Functions of tensors that have a compiled CPU kernel, under autograd and inside torch.compile.

A kernel takes plain float32 and float64 tensors on the CPU. It steps aside for everything else -
GPUs, other dtypes, vmap and the other torch.func transforms, torch.export, a machine without
numba - and the function is then made of torch's own operations. So is a gradient that is to be
differentiated once more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from itertools import compress
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad

from kan_diffusion.errors import KanDiffusionError

__all__ = ["FusedFunction", "Setting"]

logger = logging.getLogger(__name__)

Setting = str | int | float | bool | tuple[int, ...]
"""An argument of a kernel that is no tensor."""
Gradients = tuple[Tensor | None, ...]
Output = Tensor | tuple[Tensor, ...]
Shape = tuple[int, ...]

_HAS_NUMBA = find_spec("numba") is not None
_DTYPES = (torch.float32, torch.float64)
_PLAIN_TYPES = (Tensor, torch.nn.Parameter, torch.nn.Buffer)
_is_batched = torch._C._functorch.is_legacy_batchedtensor  # by a vectorised Jacobian
_transforms_are_active = torch._C._are_functorch_transforms_active  # torch.func's


class _Kernel(Protocol):
    """The output or outputs, given operands and settings; and gradients, given theirs besides."""

    forward: Callable[..., Output]
    backward: Callable[..., tuple[Tensor, ...]]


@cache
def _kernel(name: str) -> _Kernel | None:
    """The module of a kernel, or None where numba does not work."""
    try:
        from kan_diffusion.kan.kernels import dense, functions, gated, grouped, spline
    except ImportError as error:
        logger.warning("KAN layers run without their compiled kernel: %s", error)
        return None
    known = {
        "dense": dense,
        "functions": functions,
        "gated": gated,
        "grouped": grouped,
        "spline": spline,
    }
    return cast("_Kernel", known[name])


def _require_kernel(name: str) -> _Kernel:
    kernel = _kernel(name)
    if kernel is None:
        raise KanDiffusionError(
            "numba is installed but does not import; repair or uninstall it and compile again"
        )
    return kernel


def _is_plain(tensor: Tensor, dtype: torch.dtype) -> bool:
    """True for an ordinary tensor on the CPU of this dtype."""
    return (
        tensor.dtype is dtype
        and tensor.is_cpu
        and type(tensor) in _PLAIN_TYPES
        and not _is_batched(tensor)
    )


class FusedFunction:
    """A function of tensors that is computed by a compiled kernel where there is one for them.

    It keeps its operands alone and recomputes the rest in the backward pass. Inside torch.compile
    it is the operator ``torch.ops.kan_diffusion.<name>``, which the compiler does not look into.

    Args:
        name: Name of the operator.
        module: Name of the module in ``kan_diffusion.kan.kernels`` whose ``forward`` and
            ``backward`` are the kernel.
        operands: The tensors as an operator's schema declares them; ``Tensor?`` may be None.
        settings: The other arguments of the kernel, declared likewise.
        num_gradients: How many of the operands, the first ones, the kernel has gradients for.
        output_shapes: Shapes of the outputs, given the operands; a function of one output may
            give a tensor.
    """

    def __init__(
        self,
        name: str,
        module: str,
        operands: str,
        settings: str,
        num_gradients: int,
        output_shapes: Callable[..., tuple[Shape, ...]],
        num_outputs: int = 1,
    ) -> None:
        self.module = module
        self.num_gradients = num_gradients
        num_operands = len(operands.split(","))
        returned = ", ".join(["Tensor"] * num_gradients)
        given = "Tensor" if num_outputs == 1 else f"({', '.join(['Tensor'] * num_outputs)})"
        arriving = ", ".join(f"Tensor grad{index}" for index in range(num_outputs))
        forward = torch.library.custom_op(
            f"kan_diffusion::{name}",
            lambda *inputs: _require_kernel(module).forward(*inputs),
            mutates_args=(),
            device_types="cpu",
            schema=f"({operands}, {settings}) -> {given}",
        )
        backward = torch.library.custom_op(
            f"kan_diffusion::{name}_backward",
            lambda *inputs: _require_kernel(module).backward(*inputs),
            mutates_args=(),
            device_types="cpu",
            schema=f"({arriving}, {operands}, {settings}) -> ({returned})",
        )

        @forward.register_fake
        def _(x: Tensor, *rest: object) -> Output:
            made = tuple(x.new_empty(shape) for shape in output_shapes(x, *rest))
            return made[0] if num_outputs == 1 else made

        @backward.register_fake
        def _(grad: Tensor, *rest: Tensor | None) -> tuple[Tensor, ...]:
            first = num_outputs - 1
            return tuple(
                grad.new_empty(0 if operand is None else operand.shape)
                for operand in rest[first : first + num_gradients]
            )

        def save(ctx, inputs: tuple[object, ...], output: Output) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
            ctx.save_for_backward(*inputs[:num_operands])
            ctx.settings = inputs[num_operands:]

        def differentiate(ctx, *grads: Tensor) -> Gradients:  # type: ignore[no-untyped-def]  # noqa: ANN001
            found = backward(*grads, *ctx.saved_tensors, *ctx.settings)
            gradients = self.where_needed(found, ctx.needs_input_grad)
            return *gradients, *(None for _ in ctx.settings)

        forward.register_autograd(differentiate, setup_context=save)
        self.operator: Callable[..., Any] = forward

    def where_needed(self, found: tuple[Tensor, ...], needed: Sequence[bool]) -> Gradients:
        """The gradients of all operands, None where there is none or none is needed."""
        return tuple(
            found[i] if need and i < self.num_gradients else None for i, need in enumerate(needed)
        )

    def takes(self, operands: Sequence[Tensor | None]) -> bool:
        """True where the kernel is for these operands and the gradients that they want."""
        x = operands[0]
        assert x is not None
        dtype = x.dtype
        if not _HAS_NUMBA or dtype not in _DTYPES or _transforms_are_active():
            return False
        if any(operand.requires_grad for operand in operands[self.num_gradients :] if operand is not None):
            return False  # a gradient that the kernel has not
        given = [operand for operand in operands if operand is not None]
        if torch.compiler.is_compiling():
            return (
                not torch.compiler.is_exporting()
                and x.device.type == "cpu"
                and all(operand.dtype == dtype for operand in given)
            )
        return (
            all(_is_plain(operand, dtype) for operand in given)
            and forward_ad._current_level < 0
            and not torch._C._get_tracing_state()
            and _kernel(self.module) is not None
        )

    def __call__(
        self,
        operands: Sequence[Tensor | None],
        settings: tuple[Setting, ...],
        reference: Callable[..., Output],
    ) -> Any:  # noqa: ANN401  # a tensor, or a tuple where the function has several outputs
        """Computes the output of operands that the kernel takes.

        It is as often differentiable as ``reference``, the same function in torch's operations.
        """
        if torch.compiler.is_compiling():
            return self.operator(*operands, *settings)
        return _Fused.apply(self, settings, reference, *operands)

    def gradients(
        self,
        grads: Sequence[Tensor],
        operands: tuple[Tensor | None, ...],
        settings: tuple[Setting, ...],
        reference: Callable[..., Output],
        needed: Sequence[bool],
    ) -> Gradients:
        """Gradients of all operands.

        Where gradients are enabled, the result is to be differentiated once more: then, and
        wherever the kernel steps aside, they are those of the reference.
        """
        if (
            not torch.is_grad_enabled()
            and not _transforms_are_active()
            and all(_is_plain(grad, operands[0].dtype) for grad in grads)
        ):
            found = _require_kernel(self.module).backward(*grads, *operands, *settings)
            return self.where_needed(found, needed)
        with torch.enable_grad():
            wanted = list(compress(operands, needed))
            output = reference(*operands)
            outputs = (output,) if isinstance(output, Tensor) else output
            found = torch.autograd.grad(
                outputs, wanted, tuple(grads), create_graph=True, allow_unused=True
            )
            derivatives = iter(found)
        return tuple(next(derivatives) if need else None for need in needed)


class _Fused(torch.autograd.Function):
    """A fused function under autograd.

    Not its operator: the way through torch's dispatcher costs more than a small layer. Nor
    ``setup_context``, for which torch inspects a signature at every call.
    """

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx,  # noqa: ANN001
        function: FusedFunction,
        settings: tuple[Setting, ...],
        reference: Callable[..., Output],
        *operands: Tensor | None,
    ) -> Output:
        ctx.save_for_backward(*operands)
        ctx.function, ctx.settings, ctx.reference = function, settings, reference
        return _require_kernel(function.module).forward(*operands, *settings)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> Gradients:  # type: ignore[no-untyped-def]  # noqa: ANN001
        function: FusedFunction = ctx.function
        gradients = function.gradients(
            grads, ctx.saved_tensors, ctx.settings, ctx.reference, ctx.needs_input_grad[3:]
        )
        return None, None, None, *gradients
