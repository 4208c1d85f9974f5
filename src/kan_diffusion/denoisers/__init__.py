"""Networks and formulas that predict noise."""

from kan_diffusion.denoisers.base import Denoiser, DenoiserOutput, PointDenoiser
from kan_diffusion.denoisers.families import FAMILIES, Family, Range, build_denoiser, get_family
from kan_diffusion.denoisers.formula import FormulaDenoiser
from kan_diffusion.denoisers.library import EdgeFunction
from kan_diffusion.denoisers.network import NetworkDenoiser
from kan_diffusion.denoisers.readable import ReadableDenoiser

__all__ = [
    "FAMILIES",
    "Denoiser",
    "DenoiserOutput",
    "EdgeFunction",
    "Family",
    "FormulaDenoiser",
    "NetworkDenoiser",
    "PointDenoiser",
    "Range",
    "ReadableDenoiser",
    "build_denoiser",
    "get_family",
]
