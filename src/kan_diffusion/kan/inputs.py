"""Checks the inputs of a layer, and who watches its calls."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kan_diffusion.errors import KanDiffusionError

__all__ = ["must_be_called", "require_input"]


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
