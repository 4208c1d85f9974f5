"""KAN layers, usable without diffusion."""

from kan_diffusion.kan.bases import RBF, Basis, BSpline, Chebyshev
from kan_diffusion.kan.conv import KANConv2d
from kan_diffusion.kan.convert import from_efficient_kan, from_pykan
from kan_diffusion.kan.functions import LearnedFunctions
from kan_diffusion.kan.gated import GatedLinear
from kan_diffusion.kan.grids import moved, out_of_range_fractions, refined
from kan_diffusion.kan.importance import pruned, sparsity_penalty
from kan_diffusion.kan.linear import KAN, KANLinear, SharedKANLinear

__all__ = [
    "KAN",
    "RBF",
    "BSpline",
    "Basis",
    "Chebyshev",
    "GatedLinear",
    "KANConv2d",
    "KANLinear",
    "LearnedFunctions",
    "SharedKANLinear",
    "from_efficient_kan",
    "from_pykan",
    "moved",
    "out_of_range_fractions",
    "pruned",
    "refined",
    "sparsity_penalty",
]
