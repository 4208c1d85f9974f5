"""Names of torch that it does not promise to keep; no other module of the layers has one.

All are in torch 2.13. Where another version has moved one, a layer fails when it is imported or
first called, and this is the module to mend.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.autograd import forward_ad

autocast_is_on = torch._C._is_any_autocast_enabled
"""Tells whether autocast is on for any device."""
is_batched = torch._C._functorch.is_legacy_batchedtensor
"""Tells whether a tensor is one of a vectorised Jacobian."""
is_transformed = torch._C._are_functorch_transforms_active
"""Tells whether a transform of torch.func is active."""

_HOOKS = "_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks"


def is_traced() -> bool:
    """Tells whether torch.jit.trace or a forward-mode derivative is at work."""
    return torch._C._is_tracing() or forward_ad._current_level >= 0


def is_watched() -> bool:
    """Tells whether a mode sees each operation, as a counter of operations does."""
    return torch._C._len_torch_dispatch_stack() > 0


def has_hooks(module: nn.Module) -> bool:
    """Tells whether somebody wants to see the calls of this very module."""
    return any(getattr(module, name) for name in _HOOKS)
