"""The features of a layer's inputs, and their product with its weight.

Bases on a grid have compiled CPU kernels: :mod:`kan_diffusion.kan.kernels.spline` for B-splines,
most of which are zero at any input, :mod:`kan_diffusion.kan.kernels.dense` for Gaussians,
polynomials and harmonics. Torch's own operations multiply features by weights where a kernel steps
aside (:mod:`kan_diffusion.kan.kernels.fused`), under autocast, for rational functions and for
user-defined bases.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear, silu

from kan_diffusion.kan.bases import RBF, Basis, BSpline, Chebyshev, Fourier, GridBasis
from kan_diffusion.kan.inputs import has_hooks
from kan_diffusion.kan.kernels.fused import FusedFunction, Step, run

__all__ = [
    "Edges",
    "autocasts",
    "edge_chain",
    "edge_features",
    "edge_linear",
    "in_full_precision",
    "with_grid",
]


def _kernel(name: str, module: str, setting: str) -> FusedFunction:
    return FusedFunction(
        f"{name}_linear",
        module,
        "Tensor x, Tensor weight, Tensor bias, Tensor origin, Tensor step",
        f"bool has_base, {setting}, str extrapolation",
        num_gradients=3,
        output_shapes=lambda x, weight, *_: ((x.shape[0], weight.shape[0]),),
        may_leave_x=True,
    )


_SPLINE = _kernel("bspline", "spline", "int order")
_DENSE = _kernel("dense", "dense", "str basis")
_KERNELS: Mapping[type[Basis], tuple[FusedFunction, str]] = {
    BSpline: (_SPLINE, "order"),
    RBF: (_DENSE, "name"),
    Chebyshev: (_DENSE, "name"),
    Fourier: (_DENSE, "name"),
}
"""The kernel of each basis, and the attribute of the basis that is passed to it.

Rational functions, user-defined bases and subclasses of the bases above have no kernel.
"""


def autocasts(x: Tensor) -> bool:
    """Tells whether autocast chooses the precision of products with this tensor."""
    if not torch._C._is_any_autocast_enabled():
        return False
    kind = x.device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def in_full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Returns a context in which functions of this tensor keep its precision under autocast."""
    return torch.autocast(x.device.type, enabled=False) if autocasts(x) else nullcontext()


def with_grid(basis: Basis, origin: Tensor, step: Tensor) -> Basis:
    """Copies the basis with another grid, for example one that torch.func passes in."""
    twin = copy.copy(basis)
    twin._buffers = {**basis._buffers, "grid_origin": origin, "grid_step": step}
    return twin


def edge_features(x: Tensor, basis: Basis, has_base: bool) -> Tensor:
    """Expands each input into its base activation and the functions of its basis.

    Under autocast the functions keep the precision of the basis, which places on a grid need;
    autocast only makes the product with the weight cheaper.

    Args:
        x: Inputs with shape (N, in).
        basis: The functions.
        has_base: Whether SiLU comes before the functions.

    Returns:
        Features with shape (N, in, has_base + functions), differentiable in x.
    """
    if autocasts(x):
        dtype = next((t.dtype for t in (*basis.buffers(), *basis.parameters())), x.dtype)
        with in_full_precision(x):
            return edge_features(x.to(dtype), basis, has_base)
    functions: Tensor = basis(x)
    if not has_base:
        return functions
    return torch.cat([silu(x).unsqueeze(-1), functions], dim=-1)


class Edges(NamedTuple):
    """The edges of a layer.

    Attributes:
        weight: Packed weight with shape (out, in * (has_base + functions)).
        bias: Constants with shape (out,), or None.
        basis: The functions.
        has_base: Whether SiLU comes before the functions.
    """

    weight: Tensor
    bias: Tensor | None
    basis: Basis
    has_base: bool


def _step(x: Tensor, edges: Edges) -> Step | None:
    """Returns the layer as a step of its kernel, or None if no kernel takes it."""
    weight, bias, basis, has_base = edges
    known = _KERNELS.get(type(basis))
    if known is None or not isinstance(basis, GridBasis) or not x.is_cpu or autocasts(x):
        return None
    if has_hooks(basis):
        return None
    kernel, setting = known
    constants = weight.new_zeros(weight.shape[0]) if bias is None else bias
    operands = weight, constants, basis.grid_origin, basis.grid_step
    if not kernel.takes((x, *operands)):
        return None

    def reference(
        x: Tensor, weight: Tensor, constants: Tensor, origin: Tensor, step: Tensor
    ) -> Tensor:
        # With the grid that the layer had in the forward pass.
        features = edge_features(x, with_grid(basis, origin, step), has_base)
        return linear(features.flatten(1), weight, constants)

    settings = has_base, getattr(basis, setting), basis.extrapolation
    return Step(kernel, operands, settings, reference)


def edge_linear(x: Tensor, edges: Edges) -> Tensor:
    """Computes the output of a layer.

    Args:
        x: Inputs with shape (N, in).
        edges: The layer.

    Returns:
        Outputs with shape (N, out), differentiable twice in x, weight and bias.
    """
    step = _step(x, edges)
    if step is not None:
        return run([step], x)[0]
    features = edge_features(x, edges.basis, edges.has_base)
    return linear(features.flatten(1), edges.weight, edges.bias)


def edge_chain(x: Tensor, layers: Sequence[Edges]) -> Tensor:
    """Computes layers one after another, in one go if all have a kernel.

    Args:
        x: Inputs with shape (N, in).
        layers: The layers, each with as many inputs as the one before has outputs.

    Returns:
        Outputs with shape (N, out), differentiable as those of one layer.
    """
    steps = [step for edges in layers if (step := _step(x, edges)) is not None]
    if len(steps) == len(layers):
        return run(steps, x)[0]
    for edges in layers:
        x = edge_linear(x, edges)
    return x
