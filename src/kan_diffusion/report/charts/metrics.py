"""Sample metrics of every model of a setting."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from kan_diffusion.report.charts.axes import dot_rows, setting_label
from kan_diffusion.report.contents import MANY_MODELS, ReportContents
from kan_diffusion.report.style import REAL, model_styles, report_style

__all__ = ["metrics_figure"]


@report_style()
def metrics_figure(contents: ReportContents, label: str | None = None) -> Figure:
    """Each sample metric of every seed with mean and interval, beside real against real.

    Args:
        contents: The study.
        label: The setting; the first one when None.
    """
    label = setting_label(contents, label)
    rows = contents.results.of_setting(label)
    names, styles = contents.model_names(label), model_styles(contents.results.rows)
    keys = [key for key in contents.results.metrics if rows[key].notna().any()]
    columns = min(3, max(1, len(keys)))
    lines = max(1, -(-len(keys) // columns))
    layout = ConstrainedLayoutEngine(wspace=0.03, hspace=0.09)
    figure = Figure(
        figsize=(
            10.0,
            lines * (1.25 + (0.27 if len(names) > MANY_MODELS else 0.36) * len(names)) + 0.4,
        ),
        layout=layout,
    )
    panels = figure.subplots(lines, columns, sharey=True, squeeze=False)
    for axes, key in zip(panels.flat, keys, strict=False):
        metric = contents.results.metrics[key]
        values = {n: rows.loc[rows["name"] == n, key].to_numpy() for n in names}
        real = rows[f"{key}_real"].dropna().to_numpy()
        dot_rows(
            axes,
            values,
            styles,
            also=[*real, *([metric.ideal] if metric.ideal else [])],
            log=not metric.ideal,
        )
        if len(real):
            axes.axvspan(real.min(), real.max(), color=REAL, alpha=0.2, linewidth=0)
            axes.axvline(real.mean(), color=REAL, linestyle="--", linewidth=1.5)
        axes.set_title(metric.title[0].upper() + metric.title[1:])
        axes.set_xlabel(f"{metric.label} ({metric.unit})" if metric.unit else metric.label)
    for axes in panels.flat[len(keys) :]:
        axes.set_visible(False)
    dashed = Line2D([], [], color=REAL, linestyle="--", linewidth=1.5, label="real against real")
    figure.legend(handles=[dashed], loc="outside lower center")
    return figure
