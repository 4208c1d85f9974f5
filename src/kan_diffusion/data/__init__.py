"""Data: toy densities with exact oracles, sources of points, standardisation."""

from kan_diffusion.data.densities import (
    CurveDensity,
    CurveSegment,
    Density,
    GaussianMixture,
    UniformBoxes,
)
from kan_diffusion.data.scaling import Standardizer
from kan_diffusion.data.toys import TOYS, make_toy

__all__ = [
    "TOYS",
    "CurveDensity",
    "CurveSegment",
    "Density",
    "GaussianMixture",
    "Standardizer",
    "UniformBoxes",
    "make_toy",
]
