"""Figures of a study: its measurements model by model, and its points."""

from kan_diffusion.report.charts.clouds import (
    corruption_figure,
    data_figure,
    reverse_figure,
    samples_figure,
)
from kan_diffusion.report.charts.forest import (
    differences_figure,
    forest_figure,
    forest_lines,
    lead_figure,
    lead_lines,
    metrics_figure,
)
from kan_diffusion.report.charts.lines import by_level_figure, loss_figure
from kan_diffusion.report.charts.motions import process_motion, training_motion

__all__ = [
    "by_level_figure", "corruption_figure", "data_figure", "differences_figure",
    "forest_figure", "forest_lines", "lead_figure", "lead_lines", "loss_figure",
    "metrics_figure", "process_motion", "reverse_figure", "samples_figure", "training_motion",
]  # fmt: skip
