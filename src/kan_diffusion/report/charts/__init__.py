"""Charts of measurements, model by model."""

from kan_diffusion.report.charts.forest import differences_figure, forest_figure, metrics_figure
from kan_diffusion.report.charts.lines import by_level_figure, loss_figure

__all__ = [
    "by_level_figure",
    "differences_figure",
    "forest_figure",
    "loss_figure",
    "metrics_figure",
]
