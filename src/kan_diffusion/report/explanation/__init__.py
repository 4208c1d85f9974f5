"""Figures of a trained denoiser, and one page on which it can be explored."""

from kan_diffusion.report.explanation.curves import curves_figure
from kan_diffusion.report.explanation.diagram import network_figure
from kan_diffusion.report.explanation.page import write_explanation
from kan_diffusion.report.explanation.scores import samples_figure, score_figure

__all__ = [
    "curves_figure", "network_figure", "samples_figure", "score_figure",
    "write_explanation",
]  # fmt: skip
