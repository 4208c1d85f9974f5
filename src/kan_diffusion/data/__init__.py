"""Data: toy densities with exact oracles, tables from files and scikit-learn, standardisation."""

from kan_diffusion.data.densities import (
    CurveDensity,
    CurveSegment,
    Density,
    GaussianMixture,
    UniformBoxes,
)
from kan_diffusion.data.scaling import Standardizer
from kan_diffusion.data.tables import TABLES, Table, read_table
from kan_diffusion.data.toys import TOYS, make_toy

__all__ = [
    "TABLES",
    "TOYS",
    "CurveDensity",
    "CurveSegment",
    "Density",
    "GaussianMixture",
    "Standardizer",
    "Table",
    "UniformBoxes",
    "make_toy",
    "read_table",
]
