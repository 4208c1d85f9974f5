"""KAN layers, usable without diffusion."""

from kan_diffusion.kan.linear import KANLinear
from kan_diffusion.kan.network import KAN

__all__ = ["KAN", "KANLinear"]
