"""Data: toy densities with exact oracles, tables and their codec, standardisation."""

from kan_diffusion.data.codec import Block, TableCodec
from kan_diffusion.data.densities import (
    CurveDensity,
    CurveSegment,
    Density,
    GaussianMixture,
    UniformBoxes,
)
from kan_diffusion.data.scaling import Standardizer
from kan_diffusion.data.tables import TABLES, FrameFile, read_frame
from kan_diffusion.data.toys import CLASSES, TOYS, make_toy

__all__ = [
    "CLASSES",
    "TABLES",
    "TOYS",
    "Block",
    "CurveDensity",
    "CurveSegment",
    "Density",
    "FrameFile",
    "GaussianMixture",
    "Standardizer",
    "TableCodec",
    "UniformBoxes",
    "make_toy",
    "read_frame",
]
