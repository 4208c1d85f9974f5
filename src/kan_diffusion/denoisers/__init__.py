"""Networks and formulas that predict noise."""

from kan_diffusion.denoisers.base import UNLABELLED, Denoiser, DenoiserOutput
from kan_diffusion.denoisers.family import Choice, Family, IntRange, Range
from kan_diffusion.denoisers.formula import FormulaDenoiser
from kan_diffusion.denoisers.gated import GatedDenoiser
from kan_diffusion.denoisers.kan import KANDenoiser
from kan_diffusion.denoisers.library import EdgeFunction
from kan_diffusion.denoisers.mlp import MLPDenoiser
from kan_diffusion.denoisers.points import PointDenoiser
from kan_diffusion.denoisers.rbf_2015 import RBF2015Denoiser
from kan_diffusion.denoisers.readable import ReadableDenoiser
from kan_diffusion.denoisers.registry import FAMILIES, build_denoiser, get_family
from kan_diffusion.denoisers.spline_mlp import SplineMLPDenoiser

__all__ = [
    "FAMILIES",
    "UNLABELLED",
    "Choice",
    "Denoiser",
    "DenoiserOutput",
    "EdgeFunction",
    "Family",
    "FormulaDenoiser",
    "GatedDenoiser",
    "IntRange",
    "KANDenoiser",
    "MLPDenoiser",
    "PointDenoiser",
    "RBF2015Denoiser",
    "Range",
    "ReadableDenoiser",
    "SplineMLPDenoiser",
    "build_denoiser",
    "get_family",
]
