"""Networks that predict noise."""

from kan_diffusion.denoisers.base import UNLABELLED, Denoiser, DenoiserOutput
from kan_diffusion.denoisers.families import FAMILIES, Family, build_denoiser, get_family
from kan_diffusion.denoisers.kan import KANDenoiser
from kan_diffusion.denoisers.mlp import MLPDenoiser

__all__ = [
    "FAMILIES",
    "UNLABELLED",
    "Denoiser",
    "DenoiserOutput",
    "Family",
    "KANDenoiser",
    "MLPDenoiser",
    "build_denoiser",
    "get_family",
]
