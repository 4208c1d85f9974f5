"""A report as one HTML page that opens from disk with no network: figures and styles inside."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from pathlib import Path

import jinja2
import pandas as pd

from kan_diffusion.evaluation.metrics import SAMPLE_METRICS
from kan_diffusion.files import write_bytes, write_text
from kan_diffusion.report.contents import ReportContents, complete_rows
from kan_diffusion.report.figures import figure_png, report_figures
from kan_diffusion.report.style import model_styles
from kan_diffusion.report.tables import (
    REAL_ROW,
    format_number,
    headline,
    summary_table,
    trial_table,
)

__all__ = ["write_report"]

_SECTIONS = {
    "samples": "What the models generate",
    "excess": "Excess over the best possible denoiser",
    "levels": "Excess by noise level",
    "losses": "Training losses",
    "metrics": "Sample metrics",
    "process": "Data and process",
}
_HEADS = {
    "heldout_loss": "held-out loss",
    "excess_se": "± SE",
    "train_seconds": "train (s)",
    "sample_seconds": "sample (s)",
    "flops": "FLOPs",
    "out_of_range": "outside grid",
} | {key: metric.symbol for key, metric in SAMPLE_METRICS.items()}

_TEXT_HEADS = ("data", "model", "trial", "state")


@dataclass(frozen=True)
class _Cell:
    """A cell of a table: its text, its smaller second line, and what it is sorted by."""

    text: str
    note: str = ""
    key: str = ""
    numeric: bool = False


@dataclass(frozen=True)
class _Picture:
    """A figure as the page shows it; ``width`` in CSS pixels, half of its own."""

    source: str
    width: int
    alternative: str
    caption: str


def write_report(contents: ReportContents, folder: str | Path) -> Path:
    """Writes a report: ``report.html``, and its figures once more under ``figures/``.

    Args:
        contents: What to report.
        folder: Where to. Files that are there are replaced, each whole or not at all.

    Returns:
        The path of the page.

    Raises:
        RunFolderError: A file cannot be written.
    """
    folder = Path(folder)
    pictures: dict[str, list[_Picture]] = {}
    for figure in report_figures(contents):
        png = figure_png(figure.draw())
        write_bytes(folder / "figures" / f"{figure.name}.png", png)
        source = "data:image/png;base64," + base64.b64encode(png).decode()
        pictures.setdefault(figure.section, []).append(
            _Picture(source, _png_width(png) // 2, figure.alternative, figure.caption)
        )
    page = folder / "report.html"
    write_text(page, _render(contents, pictures))
    return page


def _render(contents: ReportContents, pictures: dict[str, list[_Picture]]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("kan_diffusion.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    rows = complete_rows(contents.rows)
    metrics = [SAMPLE_METRICS[key] for key in SAMPLE_METRICS if rows[key].notna().any()]
    return environment.get_template("report.html.j2").render(
        contents=contents,
        answers=headline(contents),
        summaries=_summaries(rows),
        sections=[
            (key, title, pictures[key]) for key, title in _SECTIONS.items() if key in pictures
        ],
        trials=_trials(rows),
        text_heads=_TEXT_HEADS,
        failures=rows[rows["failed"]].to_dict("records"),
        metrics=metrics,
        colours={name: style.colour for name, style in model_styles(rows).items()},
        real_row=REAL_ROW,
    )


def _png_width(png: bytes) -> int:
    """The width in a PNG's header, which comes first in every one."""
    return int.from_bytes(png[16:20], "big")


def _summaries(rows: pd.DataFrame) -> list[tuple[str, list[str], list[list[_Cell]]]]:
    """A table for each data set: its name, its heads and its rows."""
    summaries = []
    for data, table in summary_table(rows).groupby("data", sort=False):
        numbers = [head for head in table.columns if head == "excess" or head in SAMPLE_METRICS]
        lines = []
        for record in table.to_dict("records"):
            size = (
                f"{record['parameters']} parameters, {record['flops']} FLOPs a point, "
                f"seeds: {record['seeds']}"
            )
            time = f"sampling {record['sample time']}"
            real = record["model"] == REAL_ROW
            lines.append(
                [
                    _Cell(record["model"], "" if real else size),
                    *(_interval_cell(record[head]) for head in numbers),
                    _Cell(record["train time"], "" if real else time),
                ]
            )
        heads = ["model", *(_HEADS.get(head, head) for head in numbers), "training"]
        summaries.append((str(data), heads, lines))
    return summaries


def _interval_cell(text: str) -> _Cell:
    """``mean [low, high]`` as the mean with the interval below it."""
    value, _, interval = text.partition(" [")
    return _Cell(value, f"[{interval}" if interval else "")


def _trials(rows: pd.DataFrame) -> tuple[list[str], list[list[_Cell]]]:
    table = trial_table(rows)
    lines = [
        [_trial_cell(head, value) for head, value in zip(table.columns, line, strict=True)]
        for line in table.itertuples(index=False, name=None)
    ]
    return [_HEADS.get(head, head) for head in table.columns], lines


def _trial_cell(head: str, value: object) -> _Cell:
    if head in _TEXT_HEADS or not isinstance(value, (int, float)):
        return _Cell("–" if value is None or value != value else str(value))
    number = float(value)
    if not math.isfinite(number):
        return _Cell("–", numeric=True)
    text = f"{number:,.0f}" if head in ("seed", "parameters", "flops") else format_number(number)
    return _Cell(text, key=repr(number), numeric=True)
