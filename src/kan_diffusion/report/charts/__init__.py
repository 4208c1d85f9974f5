"""Figures of measurements, model by model.

Every dot is a seed. A mean comes with Student's 95 % interval over the seeds; an end of an
interval that lies outside the axis ends in an arrowhead at its edge.
"""

from kan_diffusion.report.charts.differences import ratio_figure, ratio_groups
from kan_diffusion.report.charts.excess import excess_by_level_figure, excess_figure
from kan_diffusion.report.charts.losses import loss_figure
from kan_diffusion.report.charts.metrics import metrics_figure

__all__ = [
    "excess_by_level_figure",
    "excess_figure",
    "loss_figure",
    "metrics_figure",
    "ratio_figure",
    "ratio_groups",
]
