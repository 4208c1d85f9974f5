"""From a trained KAN denoiser to a formula that samples."""

from kan_diffusion.denoisers.edges import Edge, Match
from kan_diffusion.denoisers.formula import FormulaDenoiser, formula_denoiser
from kan_diffusion.denoisers.library import LIBRARY, EdgeFunction
from kan_diffusion.denoisers.readable import ReadableDenoiser, readable
from kan_diffusion.formulas.context import Context
from kan_diffusion.formulas.levels import formula_over_levels
from kan_diffusion.formulas.match import ExplainOptions, find_formulas, match_curve
from kan_diffusion.formulas.simplify import drop_idle, prune, straighten
from kan_diffusion.formulas.views import default_levels, view_network, view_score

__all__ = [
    "LIBRARY", "Context", "Edge", "EdgeFunction", "ExplainOptions", "FormulaDenoiser", "Match",
    "ReadableDenoiser", "default_levels", "drop_idle", "find_formulas", "formula_denoiser",
    "formula_over_levels", "match_curve", "prune", "readable", "straighten",
    "view_network", "view_score",
]  # fmt: skip
