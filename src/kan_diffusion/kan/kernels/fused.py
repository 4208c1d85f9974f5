"""Functions of tensors that have a compiled CPU kernel, under autograd and inside torch.compile.

A kernel takes plain float32 and float64 tensors on the CPU. It steps aside for everything else:
GPUs, other dtypes, vmap and the other torch.func transforms, forward-mode derivatives, tracing,
torch.export, and modes that see each operation, as counters of operations do. Torch's own
operations then compute the function. They also compute a gradient that is to be differentiated
again. ``KAN_KERNELS=0`` in the environment turns all kernels off.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from itertools import compress
from types import ModuleType
from typing import TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = ["FusedFunction", "autocasts", "in_full_precision", "is_transformed"]

Setting = str | int | float | bool
"""An argument of a kernel that is not a tensor."""
Gradients = tuple[Tensor | None, ...]
Output = Tensor | tuple[Tensor, ...]
Shape = tuple[int, ...]
T = TypeVar("T", bound=Output)

_ENABLED = os.environ.get("KAN_KERNELS") != "0"
_DTYPES = (torch.float32, torch.float64)
_PLAIN_TYPES = (Tensor, torch.nn.Parameter, torch.nn.Buffer)
_is_batched = torch._C._functorch.is_legacy_batchedtensor  # by a vectorised Jacobian
_transforms_are_active = torch._C._are_functorch_transforms_active  # torch.func's


def autocasts(x: Tensor) -> bool:
    """Tells whether autocast chooses the precision of products with this tensor."""
    if not torch._C._is_any_autocast_enabled():
        return False
    kind = x.device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def in_full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Returns a context in which functions of this tensor keep its precision under autocast."""
    return torch.autocast(x.device.type, enabled=False) if autocasts(x) else nullcontext()


def is_transformed() -> bool:
    """Tells whether something looks into each operation: a transform, a trace, an export."""
    if torch.compiler.is_compiling():
        return torch.compiler.is_exporting() or _transforms_are_active()
    tracing = torch._C._is_tracing()
    return tracing or _transforms_are_active() or forward_ad._current_level >= 0


def _is_plain(tensor: Tensor, dtype: torch.dtype) -> bool:
    """Tells whether this is an ordinary tensor of this dtype on the CPU."""
    return (
        tensor.dtype is dtype
        and tensor.is_cpu
        and type(tensor) in _PLAIN_TYPES
        and not _is_batched(tensor)
        and not tensor.is_neg()  # whose numbers stand in memory with the other sign
    )


def _module(name: str) -> ModuleType:
    from kan_diffusion.kan.kernels import spline, units

    return {"spline": spline, "units": units}[name]


class FusedFunction:
    """A function of tensors that is computed by a compiled kernel where there is one for them.

    It keeps only its operands and recomputes the rest in the backward pass. Inside torch.compile it
    is the operator ``torch.ops.kan_diffusion.<name>``, which the compiler does not look into.

    Args:
        name: Name of the operator, and of the module with its kernel, which is imported, and numba
            with it, when it is first needed.
        operands: The tensors, declared as in an operator's schema; ``Tensor?`` may be None.
        settings: The other arguments of the kernel, declared likewise.
        num_gradients: Number of operands, the first ones, that the kernel has gradients for.
        output_shapes: Shapes of the outputs, given the operands.
        num_outputs: Number of outputs.
        may_leave_x: Whether the last argument of the kernel's ``backward`` says if the gradient of
            the first operand is wanted.
    """

    def __init__(
        self,
        name: str,
        operands: str,
        settings: str,
        num_gradients: int,
        output_shapes: Callable[..., tuple[Shape, ...]],
        num_outputs: int = 1,
        may_leave_x: bool = False,
    ) -> None:
        kernel = self.kernel = cache(lambda: _module(name))
        self.may_leave_x = may_leave_x
        self.num_gradients = num_gradients
        num_operands = len(operands.split(","))
        returned = ", ".join(["Tensor"] * num_gradients)
        given = "Tensor" if num_outputs == 1 else f"({', '.join(['Tensor'] * num_outputs)})"
        arriving = ", ".join(f"Tensor grad{index}" for index in range(num_outputs))
        forward = torch.library.custom_op(
            f"kan_diffusion::{name}",
            lambda *inputs: kernel().forward(*inputs),
            mutates_args=(),
            device_types="cpu",
            schema=f"({operands}, {settings}) -> {given}",
        )
        backward = torch.library.custom_op(
            f"kan_diffusion::{name}_backward",
            lambda *inputs: tuple(
                inputs[0].new_empty(0) if one is None else one for one in kernel().backward(*inputs)
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
        self.operator = forward

    def takes(self, *operands: Tensor | None) -> bool:
        """Tells whether the kernel takes these operands and has the gradients they require."""
        given = [operand for operand in operands if operand is not None]
        x = given[0]
        if not _ENABLED or not x.is_cpu or x.dtype not in _DTYPES or is_transformed():
            return False
        if any(one is not None and one.requires_grad for one in operands[self.num_gradients :]):
            return False  # a gradient that the kernel does not have
        if torch.compiler.is_compiling():
            return all(operand.dtype == x.dtype for operand in given)
        seen = torch._C._len_torch_dispatch_stack() > 0  # each operation, as by a counter
        return not seen and all(_is_plain(operand, x.dtype) for operand in given)

    def __call__(
        self,
        operands: Sequence[Tensor | None],
        settings: Sequence[Setting],
        reference: Callable[..., T],
        fused: bool = True,
    ) -> T:
        """Computes the function, by the kernel if it takes the operands.

        Args:
            operands: The tensors.
            settings: The other arguments of the kernel.
            reference: The same function of the operands in torch's own operations, for other
                operands and for gradients that are differentiated again.
            fused: Whether the kernel computes this function at all.
        """
        if not (fused and self.takes(*operands)):
            return reference(*operands)
        if torch.compiler.is_compiling():
            output: T = self.operator(*operands, *settings)
        else:
            output = _Fused.apply(self, settings, reference, *operands)
        return output


class _Fused(torch.autograd.Function):
    """A fused function under autograd.

    It does not call operators, because torch's dispatcher costs more than a small layer, and has no
    ``setup_context``, for which torch inspects a signature at every call.
    """

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx,  # noqa: ANN001
        function: FusedFunction,
        settings: Sequence[Setting],
        reference: Callable[..., Output],
        *operands: Tensor | None,
    ) -> Output:
        ctx.save_for_backward(*operands)
        ctx.set_materialize_grads(False)
        ctx.parts = function, settings, reference
        return function.kernel().forward(*operands, *settings)

    @staticmethod
    def backward(ctx, *grads: Tensor | None) -> Gradients:  # type: ignore[no-untyped-def]  # noqa: ANN001
        function, settings, reference = ctx.parts
        operands, needed = ctx.saved_tensors, ctx.needs_input_grad[3:]
        if all(grad is None for grad in grads):
            return None, None, None, *[None] * len(operands)
        # Where gradients are enabled, the result is to be differentiated again.
        if (
            torch.is_grad_enabled()
            or _transforms_are_active()
            or not all(grad is None or _is_plain(grad, operands[0].dtype) for grad in grads)
        ):
            return None, None, None, *_by_reference(reference, operands, grads, needed)
        if function.may_leave_x:
            settings = *settings, needed[0]
        found = function.kernel().backward(*grads, *operands, *settings)
        return None, None, None, *found, *[None] * (len(operands) - len(found))


def _by_reference(
    reference: Callable[..., Output],
    operands: Sequence[Tensor | None],
    grads: Sequence[Tensor | None],
    needed: Sequence[bool],
) -> Gradients:
    """Computes differentiable gradients of all operands, None where none is needed."""
    with torch.enable_grad():
        # A tensor that is several operands, as of a layer used twice, has a gradient as each.
        operands = tuple(None if one is None else one.view_as(one) for one in operands)
        output = reference(*operands)
        values = (output,) if isinstance(output, Tensor) else output
        wanted = [one for one in compress(operands, needed) if one is not None]
        # An output may depend on nothing that needs a gradient, such as the state beside a weight.
        reached = [
            (value, grad)
            for value, grad in zip(values, grads, strict=True)
            if grad is not None and value.requires_grad
        ]
        outputs, directions = zip(*reached, strict=True)
        derivatives = iter(
            torch.autograd.grad(outputs, wanted, directions, create_graph=True, allow_unused=True)
        )
    return tuple(next(derivatives) if need else None for need in needed)
