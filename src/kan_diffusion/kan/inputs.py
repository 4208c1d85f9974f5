"""Checks the inputs of a layer and who watches its call; makes layers leaves of torch.fx graphs.

``torch.fx.symbolic_trace`` calls a module with proxies, whose shape and dtype are not known. A
layer needs both, to check its input and to choose a compiled kernel. So it is a leaf of the graph:
a node that calls the module.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.fx import Proxy, Tracer

from kan_diffusion.errors import KanDiffusionError

__all__ = ["leaf", "must_be_called", "require_input"]


def must_be_called(module: nn.Module) -> bool:
    """Tells whether a layer has hooks or its own ``forward``, so that no kernel may replace it."""
    if module._forward_pre_hooks or module._forward_hooks:
        return True
    if torch.compiler.is_compiling():
        return False  # the compiler cannot look at the others
    hooks = module._backward_pre_hooks or module._backward_hooks
    return bool(hooks) or "forward" in vars(module)


def require_input(layer: nn.Module, input: Tensor, width: int) -> None:
    """Checks the input of a layer.

    Raises:
        KanDiffusionError: Its shape is not (*, width), or its dtype is not floating-point.
    """
    name = type(layer).__name__
    if input.ndim == 0 or input.shape[-1] != width:
        raise KanDiffusionError(
            f"this {name} takes inputs with shape (*, {width}), not {tuple(input.shape)}"
        )
    if not input.is_floating_point():
        raise KanDiffusionError(
            f"this {name} takes floating-point numbers, as nn.Linear does, not {input.dtype}; "
            "convert them with .float()"
        )


def leaf(layer: nn.Module, input: Proxy, *others: Tensor | None) -> Tensor:
    """Adds a call of the layer, with these inputs, to the graph that torch.fx is tracing.

    Raises:
        KanDiffusionError: The layer itself is traced, not a module that holds it.
    """
    tracer = input.tracer
    assert isinstance(tracer, Tracer)
    path = tracer.path_of_module(layer)
    if not path:
        raise KanDiffusionError(
            f"a {type(layer).__name__} is a leaf of torch.fx and has no graph of its own; trace "
            "the module that holds it"
        )
    return cast("Tensor", tracer.create_proxy("call_module", path, (input, *others), {}))
