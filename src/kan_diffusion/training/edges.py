"""Sparsifying training: the penalty on the edges of KAN layers, from what passes through them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.kan.importance import sparsity_penalty
from kan_diffusion.kan.linear import KANLinear

__all__ = ["EdgeWatch"]

_ROWS = 256
"""Points of a batch that the penalty looks at: it then costs less than the step itself."""


class EdgeWatch:
    """Remembers what the KAN layers of a module were given.

    Args:
        module: The module, which has at least one KAN layer.

    Raises:
        KanDiffusionError: It has none.
    """

    def __init__(self, module: nn.Module) -> None:
        self._inputs: dict[KANLinear, Tensor] = {}
        layers = [layer for layer in module.modules() if isinstance(layer, KANLinear)]
        if not layers:
            raise KanDiffusionError(
                f"sparsifying is for the edges of KAN layers, and {type(module).__name__} has "
                "none; leave it out or choose another family, such as 'kan'"
            )
        self._handles = [layer.register_forward_pre_hook(self._remember) for layer in layers]

    def _remember(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, KANLinear)
        self._inputs[layer] = inputs[0][:_ROWS]

    def penalty(self) -> Tensor:
        """Sizes plus entropies of the edges in the last forward pass; forgets it."""
        outputs = [layer.edge_outputs(input) for layer, input in self._inputs.items()]
        self._inputs.clear()
        with torch.autocast(outputs[0].device.type, enabled=False):
            return sparsity_penalty([values.float() for values in outputs])

    def release(self) -> None:
        """Stops watching."""
        for handle in self._handles:
            handle.remove()
        self._inputs.clear()
