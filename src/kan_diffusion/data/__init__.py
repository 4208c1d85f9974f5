"""Data: toy densities with exact oracles, tables from files and scikit-learn, standardisation."""

from kan_diffusion.data.densities import (
    CurveDensity,
    CurveSegment,
    Density,
    GaussianMixture,
    UniformBoxes,
)
from kan_diffusion.data.scaling import Standardizer
from kan_diffusion.data.tables import TABLES, FrameFile, read_frame
from kan_diffusion.data.toys import TOYS, make_toy

__all__ = [
    "TABLES",
    "TOYS",
    "CurveDensity",
    "CurveSegment",
    "Density",
    "FrameFile",
    "GaussianMixture",
    "Standardizer",
    "UniformBoxes",
    "make_toy",
    "read_frame",
]
