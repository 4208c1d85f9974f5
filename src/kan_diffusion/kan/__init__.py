"""KAN layers, usable without diffusion."""

from kan_diffusion.kan.grids import out_of_range_fractions, refine, update_grid
from kan_diffusion.kan.linear import KANLinear
from kan_diffusion.kan.network import KAN

__all__ = ["KAN", "KANLinear", "out_of_range_fractions", "refine", "update_grid"]
