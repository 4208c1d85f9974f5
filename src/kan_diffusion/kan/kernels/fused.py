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
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad

from kan_diffusion.errors import KanDiffusionError

__all__ = ["FusedFunction", "Setting", "Step", "run"]

logger = logging.getLogger(__name__)

Setting = str | int | float | bool
"""An argument of a kernel that is no tensor."""
Gradients = tuple[Tensor | None, ...]

_HAS_NUMBA = find_spec("numba") is not None
_DTYPES = (torch.float32, torch.float64)
_PLAIN_TYPES = (Tensor, torch.nn.Parameter, torch.nn.Buffer)
_is_batched = torch._C._functorch.is_legacy_batchedtensor  # by a vectorised Jacobian
_transforms_are_active = torch._C._are_functorch_transforms_active  # torch.func's


class _Kernel(Protocol):
    """The output, given operands and settings; and gradients, given that of the output besides."""

    forward: Callable[..., Tensor]
    backward: Callable[..., tuple[Tensor, ...]]


@cache
def _kernel(name: str) -> _Kernel | None:
    """The module of a kernel, or None where numba does not work."""
    try:
        from kan_diffusion.kan.kernels import dense, spline, units
    except ImportError as error:
        logger.warning("KAN layers run without their compiled kernel: %s", error)
        return None
    return cast("_Kernel", {"dense": dense, "spline": spline, "units": units}[name])


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
        operands: The tensors as an operator's schema declares them.
        settings: The other arguments of the kernel, declared likewise.
        num_gradients: How many of the operands, the first ones, the kernel has gradients for.
        output_shape: Shape of the output, given the operands.
        may_leave_x: Whether the kernel's ``backward`` takes, last, if the gradient of the first
            operand is wanted.
    """

    def __init__(
        self,
        name: str,
        module: str,
        operands: str,
        settings: str,
        num_gradients: int,
        output_shape: Callable[..., tuple[int, ...]],
        may_leave_x: bool = False,
    ) -> None:
        self.module = module
        self.may_leave_x = may_leave_x
        self.num_gradients = num_gradients
        num_operands = operands.count("Tensor ")
        returned = ", ".join(["Tensor"] * num_gradients)
        forward = torch.library.custom_op(
            f"kan_diffusion::{name}",
            lambda *inputs: _require_kernel(module).forward(*inputs),
            mutates_args=(),
            device_types="cpu",
            schema=f"({operands}, {settings}) -> Tensor",
        )
        backward = torch.library.custom_op(
            f"kan_diffusion::{name}_backward",
            lambda *inputs: _require_kernel(module).backward(*inputs),
            mutates_args=(),
            device_types="cpu",
            schema=f"(Tensor grad, {operands}, {settings}) -> ({returned})",
        )

        @forward.register_fake
        def _(x: Tensor, *rest: object) -> Tensor:
            return x.new_empty(output_shape(x, *rest))

        @backward.register_fake
        def _(grad: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
            return tuple(grad.new_empty(operand.shape) for operand in rest[:num_gradients])

        def save(ctx, inputs: tuple[object, ...], output: Tensor) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
            ctx.save_for_backward(*inputs[:num_operands])
            ctx.settings = inputs[num_operands:]

        def differentiate(ctx, grad: Tensor) -> Gradients:  # type: ignore[no-untyped-def]  # noqa: ANN001
            found = backward(grad, *ctx.saved_tensors, *ctx.settings)
            return *found, *(None for _ in ctx.needs_input_grad[num_gradients:])

        forward.register_autograd(differentiate, setup_context=save)
        self.operator: Callable[..., Tensor] = forward

    def takes(self, operands: Sequence[Tensor]) -> bool:
        """True where the kernel is for these operands and the gradients that they want."""
        x = operands[0]
        dtype = x.dtype
        if not _HAS_NUMBA or dtype not in _DTYPES or _transforms_are_active():
            return False
        for operand in operands[self.num_gradients :]:
            if operand.requires_grad:
                return False  # a gradient that the kernel has not
        if torch.compiler.is_compiling():
            return (
                not torch.compiler.is_exporting()
                and x.device.type == "cpu"
                and all(operand.dtype == dtype for operand in operands)
            )
        for operand in operands:
            if not _is_plain(operand, dtype):
                return False
        return (
            forward_ad._current_level < 0
            and not torch._C._get_tracing_state()
            and _kernel(self.module) is not None
        )

    def __call__(
        self,
        operands: Sequence[Tensor],
        settings: tuple[Setting, ...],
        reference: Callable[..., Tensor],
    ) -> Tensor:
        """Computes the output of operands that the kernel takes.

        It is as often differentiable as ``reference``, the same function in torch's operations.
        """
        return run([Step(self, tuple(operands[1:]), settings, reference)], operands[0])


class Step(NamedTuple):
    """A fused function of the output of the step before.

    Attributes:
        function: The function.
        operands: Its operands but the first, which its kernel takes.
        settings: The other arguments of its kernel.
        reference: The same function, of all operands, in torch's operations.
    """

    function: FusedFunction
    operands: tuple[Tensor, ...]
    settings: tuple[Setting, ...]
    reference: Callable[..., Tensor]


def run(steps: Sequence[Step], x: Tensor) -> Tensor:
    """Computes steps one after another, the first of ``x``.

    To autograd they are one function: what it does for a function takes longer than a small layer.
    """
    if torch.compiler.is_compiling():
        for step in steps:
            x = step.function.operator(x, *step.operands, *step.settings)
        return x
    output: Tensor = _Fused.apply(steps, x, *(one for step in steps for one in step.operands))
    return output


class _Fused(torch.autograd.Function):
    """Steps under autograd.

    Not as operators: the way through torch's dispatcher costs more than a small layer. Nor with
    ``setup_context``, for which torch inspects a signature at every call.
    """

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx,  # noqa: ANN001
        steps: Sequence[Step],
        x: Tensor,
        *operands: Tensor,
    ) -> Tensor:
        inputs = []
        for step in steps:
            inputs.append(x)
            kernel = _require_kernel(step.function.module)
            x = kernel.forward(x, *step.operands, *step.settings)
        ctx.save_for_backward(*inputs, *operands)
        ctx.steps = steps
        return x

    @staticmethod
    def backward(ctx, grad: Tensor) -> Gradients:  # type: ignore[no-untyped-def]  # noqa: ANN001
        steps: Sequence[Step] = ctx.steps
        saved = ctx.saved_tensors
        inputs, operands = saved[: len(steps)], saved[len(steps) :]
        # Where gradients are enabled, the result is to be differentiated once more.
        if (
            torch.is_grad_enabled()
            or _transforms_are_active()
            or not _is_plain(grad, inputs[0].dtype)
        ):
            needed = ctx.needs_input_grad[1:]
            return None, *_by_reference(steps, (inputs[0], *operands), grad, needed)
        gradients: list[Tensor | None] = []
        end = len(operands)
        for step, x in zip(reversed(steps), reversed(inputs), strict=True):
            own = operands[end - len(step.operands) : end]
            kernel = _require_kernel(step.function.module)
            settings = step.settings
            if step.function.may_leave_x:
                settings = *settings, x is not inputs[0] or ctx.needs_input_grad[1]
            grad, *found = kernel.backward(grad, x, *own, *settings)
            gradients = [*found, *[None] * (len(own) - len(found)), *gradients]
            end -= len(own)
        return None, grad, *gradients


def _by_reference(
    steps: Sequence[Step], operands: tuple[Tensor, ...], grad: Tensor, needed: Sequence[bool]
) -> Gradients:
    """Differentiable gradients of the operands of all steps, None where none is needed."""
    with torch.enable_grad():
        output, *rest = operands
        for step in steps:
            count = len(step.operands)
            output, rest = step.reference(output, *rest[:count]), rest[count:]
        wanted = list(compress(operands, needed))
        derivatives = iter(torch.autograd.grad(output, wanted, grad, create_graph=True))
    return tuple(next(derivatives) if need else None for need in needed)
