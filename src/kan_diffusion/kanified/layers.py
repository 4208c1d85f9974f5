"""Learned functions in place of an activation, in whatever precision the network has.

The functions are evaluated in at least the precision of their coefficients, and the result is
rounded to the dtype of the input, as by torch's own activations.
"""

from __future__ import annotations

from torch import Tensor, nn

from kan_diffusion.kan import LearnedFunctions

__all__ = ["ActivatedLinear", "LearnedActivation"]


class LearnedActivation(LearnedFunctions):
    """One learned function for each unit, shared in groups: (*, units) -> (*, units)."""

    def forward(self, input: Tensor) -> Tensor:
        """Applies the functions; the output has the dtype of the input."""
        return super().forward(input).to(input.dtype)


class ActivatedLinear(nn.Module):
    """A linear map and learned functions of its outputs: the first part of a ``FeedForward``.

    Args:
        proj: The linear map.
        functions: The functions, one for each unit.
        gated: Whether the map gives values, then gates; functions of the gates then multiply the
            values.
    """

    def __init__(self, proj: nn.Linear, functions: LearnedActivation, gated: bool) -> None:
        super().__init__()
        self.proj = proj
        self.functions = functions
        self.gated = gated

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Maps (*, in_features) to (*, units)."""
        hidden_states = self.proj(hidden_states)
        if not self.gated:
            return self.functions(hidden_states)
        values, gates = hidden_states.chunk(2, dim=-1)
        return values * self.functions(gates)

    def extra_repr(self) -> str:
        """The settings that differ between layers, for ``print``."""
        return f"gated={self.gated}"
