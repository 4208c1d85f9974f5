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
from itertools import compress
from types import ModuleType
from typing import Protocol, TypeVar, get_type_hints

import torch
from torch import Tensor

from kan_diffusion.kan.kernels import internals

Setting = str | int | float | bool
"""An argument of a kernel that is not a tensor."""
Gradients = tuple[Tensor | None, ...]
Output = Tensor | tuple[Tensor, ...]
Shape = tuple[int, ...]
T = TypeVar("T", bound=Output)

_ENABLED = os.environ.get("KAN_KERNELS") != "0"
_DTYPES = (torch.float32, torch.float64)
_PLAIN_TYPES = (Tensor, torch.nn.Parameter, torch.nn.Buffer)
_SCHEMA = {Tensor: "Tensor", Tensor | None: "Tensor?", int: "int", bool: "bool"}


def autocasts(x: Tensor) -> bool:
    """Tells whether autocast chooses the precision of products with this tensor."""
    if not internals.autocast_is_on():
        return False
    kind = x.device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def in_full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Returns a context in which functions of this tensor keep its precision under autocast."""
    return torch.autocast(x.device.type, enabled=False) if autocasts(x) else nullcontext()


def is_transformed() -> bool:
    """Tells whether something looks into each operation: a transform, a trace, an export."""
    if torch.compiler.is_compiling():
        return torch.compiler.is_exporting() or internals.is_transformed()
    return internals.is_traced() or internals.is_transformed()


def is_plain(tensor: Tensor) -> bool:
    """Tells whether this is an ordinary tensor, and no subclass or batch."""
    return type(tensor) in _PLAIN_TYPES and not internals.is_batched(tensor)


def hides_operations(*operands: Tensor | None) -> bool:
    """Tells whether a function of these operands may keep its operations from torch's autograd."""
    if torch.compiler.is_compiling() or is_transformed():
        return False
    return all(operand is None or is_plain(operand) for operand in operands)


def _suits(tensor: Tensor, dtype: torch.dtype) -> bool:
    """Tells whether a kernel can read this tensor as numbers of this dtype in memory."""
    # The numbers of a negated view stand in memory with the other sign.
    return tensor.dtype is dtype and tensor.is_cpu and is_plain(tensor) and not tensor.is_neg()


class Operands(Protocol):
    """The tensors of a kernel, then its settings: a ``NamedTuple``, of which operators are made."""

    def __init__(self, *operands: object) -> None: ...

    def output_shapes(self) -> tuple[Shape, ...]:
        """Returns the shapes of the outputs."""
        ...


class FusedFunction:
    """A function of tensors that is computed by a compiled kernel where there is one for them.

    It keeps only its operands and recomputes the rest in the backward pass. Inside torch.compile it
    is the operator ``torch.ops.kan_diffusion.<name>``, which the compiler does not look into.

    Args:
        name: Name of the operator.
        operands: What the kernel takes.
        kernel: Imports the module with the kernel, which is compiled when it is needed, as two
            functions. ``forward`` takes the operands and returns the outputs. ``backward`` takes
            them and a list of the outputs' gradients and returns those of the first operands; that
            of the very first may be None unless ``for_first`` is set.
        num_gradients: Number of operands, the first ones, that the kernel has gradients for.
        num_outputs: Number of outputs.
    """

    def __init__(
        self,
        name: str,
        operands: type[Operands],
        kernel: Callable[[], ModuleType],
        num_gradients: int,
        num_outputs: int = 1,
    ) -> None:
        self.operands, self.kernel, self.num_gradients = operands, kernel, num_gradients
        kinds = {field: _SCHEMA[kind] for field, kind in get_type_hints(operands).items()}
        num_operands = sum(kind.startswith("Tensor") for kind in kinds.values())
        taken = ", ".join(f"{kind} {field}" for field, kind in kinds.items())
        arriving = ", ".join(f"Tensor grad{index}" for index in range(num_outputs))
        given = "Tensor" if num_outputs == 1 else f"({', '.join(['Tensor'] * num_outputs)})"
        returned = ", ".join(["Tensor"] * num_gradients)

        def gradients(*inputs: Tensor) -> tuple[Tensor, ...]:
            grads, rest = inputs[:num_outputs], inputs[num_outputs:]
            # An operator returns tensors alone, of which no two may be one.
            of_operands = kernel().backward(operands(*rest), grads)
            return tuple(grads[0].new_empty(0) if g is None else g for g in of_operands)

        forward = torch.library.custom_op(
            f"kan_diffusion::{name}",
            lambda *inputs: kernel().forward(operands(*inputs)),
            mutates_args=(),
            device_types="cpu",
            schema=f"({taken}) -> {given}",
        )
        backward = torch.library.custom_op(
            f"kan_diffusion::{name}_backward",
            gradients,
            mutates_args=(),
            device_types="cpu",
            schema=f"({arriving}, {taken}) -> ({returned})",
        )

        @forward.register_fake
        def _(*inputs: Tensor) -> Output:
            shapes = operands(*inputs).output_shapes()
            outputs = tuple(inputs[0].new_empty(shape) for shape in shapes)
            return outputs[0] if num_outputs == 1 else outputs

        @backward.register_fake
        def _(*inputs: Tensor | None) -> tuple[Tensor, ...]:
            grad, rest = inputs[0], inputs[num_outputs:]
            assert grad is not None
            return tuple(
                grad.new_empty(0 if operand is None else operand.shape)
                for operand in rest[:num_gradients]
            )

        def save(ctx, inputs: tuple[object, ...], output: Output) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
            ctx.save_for_backward(*inputs[:num_operands])
            ctx.settings = inputs[num_operands:]

        def differentiate(ctx, *grads: Tensor) -> Gradients:  # type: ignore[no-untyped-def]  # noqa: ANN001
            saved = ctx.saved_tensors
            gradients = zip(backward(*grads, *saved, *ctx.settings), saved, strict=False)
            kept = [None if operand is None else gradient for gradient, operand in gradients]
            return *kept, *(None for _ in ctx.needs_input_grad[num_gradients:])

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
        return not internals.is_watched() and all(_suits(operand, x.dtype) for operand in given)

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
        output: Output = function.kernel().forward(function.operands(*operands, *settings))
        return output

    @staticmethod
    def backward(ctx, *grads: Tensor | None) -> Gradients:  # type: ignore[no-untyped-def]  # noqa: ANN001
        function, settings, reference = ctx.parts
        operands, needed = ctx.saved_tensors, ctx.needs_input_grad[3:]
        if all(grad is None for grad in grads):
            return None, None, None, *[None] * len(operands)
        # Where gradients are enabled, the result is to be differentiated again.
        if (
            torch.is_grad_enabled()
            or internals.is_transformed()
            or not all(grad is None or _suits(grad, operands[0].dtype) for grad in grads)
        ):
            return None, None, None, *by_reference(reference, operands, grads, needed)
        given = function.operands(*operands, *settings)
        gradients = function.kernel().backward(given, grads, for_first=needed[0])
        return None, None, None, *gradients, *[None] * (len(operands) - len(gradients))


def by_reference(
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
