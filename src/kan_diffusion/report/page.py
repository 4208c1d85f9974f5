"""A report as one HTML page that opens from disk with no network: figures and styles inside."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

import jinja2

from kan_diffusion.files import write_bytes, write_text
from kan_diffusion.report.charts.axes import measure_of
from kan_diffusion.report.contents import ReportContents
from kan_diffusion.report.figures import ReportFigure, report_figures
from kan_diffusion.report.images import FigureImages, figure_images
from kan_diffusion.report.tables import (
    BADGES,
    REAL_ROW,
    Anchors,
    Table,
    TimeUse,
    model_table,
    time_use,
    trials_table,
    verdict_table,
)
from kan_diffusion.study.results.rows import Setting
from kan_diffusion.study.results.verdicts import Verdict
from kan_diffusion.study.results.wording import overall, say

__all__ = ["write_report"]

_SECTIONS = {
    "samples": "What the models generate",
    "excess": "Excess over the best possible denoiser",
    "levels": "Excess by noise level",
    "losses": "Training losses",
    "metrics": "Sample metrics",
    "process": "Data and process",
}
_LOSS_SECTIONS = {"excess": "Held-out loss", "levels": "Held-out loss by noise level"}
_OVERVIEW_SECTIONS = {
    "differences": "Every model against the best MLP",
}
# With more figures than this a page would grow too large: (figures, dots an inch, colours).
_SHARPNESS = ((24, 192, 256), (220, 128, 80))
_LEAST_SHARP = (96, 48)


@dataclass(frozen=True)
class _Picture:
    """A figure as the page shows it; ``width`` in CSS pixels."""

    source: str
    width: int
    alternative: str
    caption: str


@dataclass(frozen=True)
class _Section:
    """Figures of one subject."""

    anchor: str
    title: str
    pictures: list[_Picture]


@dataclass(frozen=True)
class _Verdict:
    """A verdict as the page says it."""

    badge: str
    text: str
    link: str
    label: str
    sentence: str


@dataclass(frozen=True)
class _Block:
    """One setting: its table and its figures."""

    anchor: str
    title: str
    verdict: _Verdict | None
    table: Table
    time: TimeUse | None
    sections: list[_Section]


@dataclass(frozen=True)
class _Page:
    """One data set: its settings, then what they share."""

    anchor: str
    title: str
    blocks: list[_Block]
    sections: list[_Section]


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
    figures = report_figures(contents)
    dpi, colours = next(
        ((dpi, colours) for most, dpi, colours in _SHARPNESS if len(figures) <= most), _LEAST_SHARP
    )
    pictures: dict[tuple[str, str, str], list[_Picture]] = {}
    for figure in figures:
        images = figure_images(figure.draw(), dpi, colours, figure.cloud)
        write_bytes(folder / "figures" / f"{figure.name}.png", images.png)
        pictures.setdefault(_place(figure), []).append(_picture(figure, images))
    page = folder / "report.html"
    write_text(page, _render(contents, pictures))
    return page


def _place(figure: ReportFigure) -> tuple[str, str, str]:
    # Reverse processes stand with the data they lead to.
    return figure.section, figure.data, "" if figure.section == "process" else figure.label


def _picture(figure: ReportFigure, images: FigureImages) -> _Picture:
    source = "data:image/webp;base64," + base64.b64encode(images.webp).decode()
    return _Picture(source, images.width, figure.alternative, figure.caption)


def _render(
    contents: ReportContents,
    pictures: dict[tuple[str, str, str], list[_Picture]],
) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("kan_diffusion.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    anchors = Anchors()
    for fixed in ("overview", "trials", "settings"):
        anchors(fixed)
    settings = contents.results.settings()
    # First, so that their ids in the page are as expected.
    for setting in settings:
        anchors("setting", setting.label)
    rows, decision = contents.results.rows, contents.decision
    return environment.get_template("report.html.j2").render(
        contents=contents,
        paged=len(settings) > 1,
        overall=overall(decision),
        answers=[say(verdict) for verdict in decision.verdicts.values() if not verdict.outcome],
        verdicts=[
            _verdict(verdict, anchors) for verdict in decision.verdicts.values() if verdict.outcome
        ],
        verdict_table=verdict_table(contents, anchors),
        overview=[
            _Section(anchors("part", key), title, pictures[key, "", ""])
            for key, title in _OVERVIEW_SECTIONS.items()
            if (key, "", "") in pictures
        ],
        pages=[
            _page(contents, data, settings, pictures, anchors) for data in contents.data_names()
        ],
        trials=trials_table(contents.results, anchors),
        failures=rows[rows["failed"]].to_dict("records"),
        metrics=list(contents.results.metrics.values()),
        likelihood=bool(rows["nll"].notna().any()),
        compared=bool(decision.comparisons),
        background=bool(contents.settings or contents.environment or contents.command),
        real_row=REAL_ROW,
    )


def _page(
    contents: ReportContents,
    data: str,
    settings: list[Setting],
    pictures: dict[tuple[str, str, str], list[_Picture]],
    anchors: Anchors,
) -> _Page:
    blocks = []
    for setting in settings:
        if setting.data != data:
            continue
        label = setting.label
        table = model_table(contents, label, anchors)
        verdict = contents.decision.verdicts[label]
        judged = measure_of(contents, label)
        titles = _SECTIONS | (_LOSS_SECTIONS if judged == "heldout_loss" else {})
        sections = [
            _Section(anchors("part", label, key), title, pictures[key, data, label])
            for key, title in titles.items()
            if (key, data, label) in pictures
        ]
        blocks.append(
            _Block(
                anchors("setting", label),
                setting.amount or data,
                _verdict(verdict, anchors) if verdict.outcome else None,
                table,
                time_use(contents, label, anchors),
                sections,
            )
        )
    shared = pictures.get(("process", data, ""), [])
    sections = [_Section(anchors("part", data, "process"), _SECTIONS["process"], shared)]
    return _Page(anchors("data", data), data, blocks, sections if shared else [])


def _verdict(verdict: Verdict, anchors: Anchors) -> _Verdict:
    label = verdict.setting.label
    assert verdict.outcome is not None
    return _Verdict(
        badge=BADGES[verdict.outcome],
        text=verdict.outcome,
        link=anchors("setting", label),
        label=label,
        sentence=say(verdict, with_label=False),
    )
