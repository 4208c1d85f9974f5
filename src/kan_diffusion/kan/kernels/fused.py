"""Functions of tensors that have a compiled CPU kernel, under autograd and inside torch.compile.

A kernel takes plain float32 and float64 tensors on the CPU. It steps aside for everything else:
GPUs, other dtypes, vmap and the other torch.func transforms, torch.export, a machine without numba.
Torch's own operations then compute the function. They also compute a gradient that is to be
differentiated again.
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

Setting = str | int | float | bool | tuple[int, ...]
"""An argument of a kernel that is not a tensor."""
Gradients = tuple[Tensor | None, ...]
Output = Tensor | tuple[Tensor, ...]
Shape = tuple[int, ...]

_HAS_NUMBA = find_spec("numba") is not None
_DTYPES = (torch.float32, torch.float64)
_PLAIN_TYPES = (Tensor, torch.nn.Parameter, torch.nn.Buffer)
_is_batched = torch._C._functorch.is_legacy_batchedtensor  # by a vectorised Jacobian
_transforms_are_active = torch._C._are_functorch_transforms_active  # torch.func's


class _Kernel(Protocol):
    """The passes of a kernel; ``backward`` takes the outputs' gradients before the operands."""

    forward: Callable[..., Output]
    backward: Callable[..., Gradients]


@cache
def _kernel(name: str) -> _Kernel | None:
    """Imports the module of a kernel; None if numba does not work."""
    try:
        from numba import config

        from kan_diffusion.kan.kernels import dense, functions, gated, spline

        if config.DISABLE_JIT:
            raise ImportError("NUMBA_DISABLE_JIT is set")
    except ImportError as error:
        logger.warning("KAN layers run without their compiled kernel: %s", error)
        return None
    known = {"dense": dense, "functions": functions, "gated": gated, "spline": spline}
    return cast("_Kernel", known[name])


def _works(name: str) -> bool:
    """Tells whether a kernel works, without torch.compile tracing the import of numba."""
    return _kernel(name) is not None


# What torch.compiler.assume_constant_result sets; the decorator itself imports the compiler.
_works._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _require_kernel(name: str) -> _Kernel:
    kernel = _kernel(name)
    if kernel is None:
        raise KanDiffusionError(
            "numba is installed but does not import; repair or uninstall it and compile again"
        )
    return kernel


def _is_plain(tensor: Tensor, dtype: torch.dtype) -> bool:
    """Tells whether this is an ordinary tensor of this dtype on the CPU."""
    return (
        tensor.dtype is dtype
        and tensor.is_cpu
        and type(tensor) in _PLAIN_TYPES
        and not _is_batched(tensor)
        and not tensor.is_neg()  # whose numbers stand in memory with the other sign
    )


class FusedFunction:
    """A function of tensors that is computed by a compiled kernel where there is one for them.

    It keeps only its operands and recomputes the rest in the backward pass. Inside torch.compile it
    is the operator ``torch.ops.kan_diffusion.<name>``, which the compiler does not look into.

    Args:
        name: Name of the operator.
        module: Name of the module in ``kan_diffusion.kan.kernels`` whose ``forward`` and
            ``backward`` are the kernel.
        operands: The tensors, declared as in an operator's schema; ``Tensor?`` may be None.
        settings: The other arguments of the kernel, declared likewise.
        num_gradients: Number of operands, the first ones, that the kernel has gradients for.
        output_shapes: Shapes of the outputs, given the operands.
        num_outputs: Number of outputs, and of operands that may come from the step before.
        may_leave_x: Whether the last argument of the kernel's ``backward`` says if the gradient of
            the first operand is wanted.
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
        may_leave_x: bool = False,
    ) -> None:
        self.module = module
        self.may_leave_x = may_leave_x
        self.num_gradients = num_gradients
        self.num_outputs = num_outputs
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
            lambda *inputs: tuple(
                inputs[0].new_empty(0) if one is None else one
                for one in _require_kernel(module).backward(*inputs)
            ),
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
            own = rest[num_outputs - 1 :]
            return tuple(
                grad.new_empty(0 if operand is None else operand.shape)
                for operand in own[:num_gradients]
            )

        def save(ctx, inputs: tuple[object, ...], output: Output) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
            ctx.save_for_backward(*inputs[:num_operands])
            ctx.settings = inputs[num_operands:]

        def differentiate(ctx, *grads: Tensor) -> Gradients:  # type: ignore[no-untyped-def]  # noqa: ANN001
            found = backward(*grads, *ctx.saved_tensors, *ctx.settings)
            owners = zip(found, ctx.saved_tensors, strict=False)
            own = (None if operand is None else one for one, operand in owners)
            return *own, *(None for _ in ctx.needs_input_grad[num_gradients:])

        forward.register_autograd(differentiate, setup_context=save)
        self.operator: Callable[..., Output] = forward

    def takes(self, operands: Sequence[Tensor | None]) -> bool:
        """Tells whether the kernel takes these operands and has the gradients they require."""
        x = operands[0]
        assert x is not None
        dtype = x.dtype
        if not _HAS_NUMBA or dtype not in _DTYPES or _transforms_are_active():
            return False
        for operand in operands[self.num_gradients :]:
            if operand is not None and operand.requires_grad:
                return False  # a gradient that the kernel does not have
        if torch.compiler.is_compiling():
            return (
                not torch.compiler.is_exporting()
                and x.device.type == "cpu"
                and all(operand is None or operand.dtype == dtype for operand in operands)
                and _works(self.module)
            )
        for operand in operands:
            if operand is not None and not _is_plain(operand, dtype):
                return False
        return (
            forward_ad._current_level < 0
            and not torch._C._get_tracing_state()
            and _works(self.module)
        )


class Step(NamedTuple):
    """A fused function of the outputs of the step before.

    Attributes:
        function: The function.
        operands: Its operands except those outputs, which come first.
        settings: The other arguments of its kernel.
        reference: The same function of all operands in torch's own operations.
    """

    function: FusedFunction
    operands: tuple[Tensor | None, ...]
    settings: tuple[Setting, ...]
    reference: Callable[..., Output]


def _given(function: FusedFunction, values: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
    """Fills the first operands of a function: outputs of the step before, then None."""
    return *values, *(None,) * (function.num_outputs - len(values))


def _as_tuple(output: Output) -> tuple[Tensor, ...]:
    return (output,) if isinstance(output, Tensor) else output


def run(steps: Sequence[Step], *values: Tensor | None) -> tuple[Tensor, ...]:
    """Computes steps one after another, starting with ``values``; returns the last outputs.

    To autograd they are one function: its overhead per function exceeds the time of a small layer.
    """
    if torch.compiler.is_compiling():
        for step in steps:
            values = _given(step.function, values)
            values = _as_tuple(step.function.operator(*values, *step.operands, *step.settings))
        return cast("tuple[Tensor, ...]", values)
    operands = (one for step in steps for one in step.operands)
    return _as_tuple(_Fused.apply(steps, *values, *operands))


class _Fused(torch.autograd.Function):
    """Steps as one function of autograd.

    It does not call operators, because torch's dispatcher costs more than a small layer, and has no
    ``setup_context``, for which torch inspects a signature at every call.
    """

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx,  # noqa: ANN001
        steps: Sequence[Step],
        *tensors: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        count = steps[0].function.num_outputs
        values, operands = tensors[:count], tensors[count:]
        inputs: list[Tensor | None] = []
        for step in steps:
            values = _given(step.function, values)
            inputs += values
            kernel = _require_kernel(step.function.module)
            values = _as_tuple(kernel.forward(*values, *step.operands, *step.settings))
        ctx.save_for_backward(*inputs, *operands)
        ctx.set_materialize_grads(False)
        ctx.steps = steps
        return values

    @staticmethod
    def backward(ctx, *grads: Tensor | None) -> Gradients:  # type: ignore[no-untyped-def]  # noqa: ANN001
        if all(grad is None for grad in grads):
            return (None,) * len(ctx.needs_input_grad)
        steps: Sequence[Step] = ctx.steps
        count = steps[0].function.num_outputs
        saved = ctx.saved_tensors
        end = sum(step.function.num_outputs for step in steps)
        inputs, operands = saved[:end], saved[end:]
        # Where gradients are enabled, the result is to be differentiated again.
        if (
            torch.is_grad_enabled()
            or _transforms_are_active()
            or not all(grad is None or _is_plain(grad, inputs[0].dtype) for grad in grads)
        ):
            needed = ctx.needs_input_grad[1:]
            return None, *_by_reference(steps, (*inputs[:count], *operands), grads, needed)
        gradients: list[Tensor | None] = []
        last = len(operands)
        for step in reversed(steps):
            own = operands[last - len(step.operands) : last]
            count = step.function.num_outputs
            grads = grads[:count]
            values = inputs[end - count : end]
            kernel = _require_kernel(step.function.module)
            settings = step.settings
            if step.function.may_leave_x:
                settings = *settings, end > count or ctx.needs_input_grad[1]
            found = kernel.backward(*grads, *values, *own, *settings)
            grads, of_own = found[:count], found[count:]
            gradients = [*of_own, *[None] * (len(own) - len(of_own)), *gradients]
            last -= len(own)
            end -= count
        return None, *grads, *gradients


def _by_reference(
    steps: Sequence[Step],
    operands: tuple[Tensor | None, ...],
    grads: Sequence[Tensor | None],
    needed: Sequence[bool],
) -> Gradients:
    """Computes differentiable gradients of all operands, None where none is needed."""
    with torch.enable_grad():
        # A tensor that is several operands, as of a layer used twice, has a gradient as each.
        operands = tuple(None if one is None else one.view_as(one) for one in operands)
        count = steps[0].function.num_outputs
        values, rest = operands[:count], operands[count:]
        for step in steps:
            size = len(step.operands)
            values = _given(step.function, values)
            values, rest = _as_tuple(step.reference(*values, *rest[:size])), rest[size:]
        wanted = [one for one in compress(operands, needed) if one is not None]
        # An output may depend on nothing that needs a gradient, such as the state beside a weight.
        reached = [
            (value, grad)
            for value, grad in zip(values, grads, strict=True)
            if grad is not None and value is not None and value.requires_grad
        ]
        outputs, directions = zip(*reached, strict=True)
        derivatives = iter(
            torch.autograd.grad(outputs, wanted, directions, create_graph=True, allow_unused=True)
        )
    return tuple(next(derivatives) if need else None for need in needed)
