"""KAN layers, usable without diffusion."""

from kan_diffusion.kan.bases import RBF, Basis, BSpline, Chebyshev, Fourier, GridBasis, Rational
from kan_diffusion.kan.convert import (
    FitError,
    from_efficient_kan,
    from_kan_linear,
    from_pykan,
    to_kan_linear,
    to_pykan,
)
from kan_diffusion.kan.functions import LearnedFunctions
from kan_diffusion.kan.gated import GatedLinear
from kan_diffusion.kan.grids import out_of_range_fractions, refine, update_grid
from kan_diffusion.kan.grouped import GroupedKANLinear
from kan_diffusion.kan.linear import KANLinear
from kan_diffusion.kan.network import KAN

__all__ = [
    "KAN",
    "RBF",
    "BSpline",
    "Basis",
    "Chebyshev",
    "FitError",
    "Fourier",
    "GatedLinear",
    "GridBasis",
    "GroupedKANLinear",
    "KANLinear",
    "LearnedFunctions",
    "Rational",
    "from_efficient_kan",
    "from_kan_linear",
    "from_pykan",
    "out_of_range_fractions",
    "refine",
    "to_kan_linear",
    "to_pykan",
    "update_grid",
]
