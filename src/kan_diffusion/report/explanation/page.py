"""An explanation as figures and as one page that opens from disk with no network."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jinja2
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

from kan_diffusion.files import write_bytes, write_text
from kan_diffusion.report.explanation.curves import contributions_figure, curves_figure
from kan_diffusion.report.explanation.data import named_views, page_data
from kan_diffusion.report.explanation.looks import INPUT_COLOURS, level_colours, level_label
from kan_diffusion.report.explanation.mathematics import formula_svg
from kan_diffusion.report.explanation.network import network_figure
from kan_diffusion.report.explanation.scores import axis_names, samples_figure, score_figure
from kan_diffusion.report.explanation.tables import edge_table, standing_table
from kan_diffusion.report.figures import figure_png
from kan_diffusion.report.style import report_style
from kan_diffusion.report.tables import format_number
from kan_diffusion.symbolic.explain import Explanation, LevelFormula

__all__ = ["write_explanation"]

_SVG_DPI = 144
_MOST_BYTES = 2_700_000
"""Of pictures and data in a page, about."""
# Dots an inch and colours: the first with which they are not too large.
_SHARPNESS = ((144, 256), (110, 64), (84, 24), (60, 12))
_CSS_DPI = 96


@dataclass(frozen=True)
class _Drawing:
    """A figure of an explanation: its file's name, what it shows, its caption, its maker."""

    name: str
    alternative: str
    caption: str
    draw: Callable[[], Figure]


@dataclass(frozen=True)
class _Picture:
    """A figure as the page shows it; ``width`` in CSS pixels."""

    source: str
    width: int
    alternative: str
    caption: str


@dataclass(frozen=True)
class _Formula:
    """A formula as the page shows it; ``source`` is empty where it cannot be set."""

    source: str
    latex: str
    name: str


@dataclass(frozen=True)
class _Formulas:
    """Formulas of one kind."""

    title: str
    note: str
    formulas: list[_Formula]


def write_explanation(explanation: Explanation, folder: str | Path) -> Path:
    """Writes ``explanation.html``, and its figures once more under ``figures/`` as PNG and SVG.

    Args:
        explanation: What to show.
        folder: Where to. Files that are there are replaced, each whole or not at all.

    Returns:
        The path of the page.

    Raises:
        RunFolderError: A file cannot be written.
    """
    folder = Path(folder)
    drawings = _drawings(explanation)
    figures = [drawing.draw() for drawing in drawings]
    for drawing, figure in zip(drawings, figures, strict=True):
        write_bytes(folder / "figures" / f"{drawing.name}.svg", _figure_svg(figure))
    data = _safe_json(explanation)
    levels = {*explanation.network.levels, *explanation.score.levels}
    kept = [*level_colours(sorted(levels, key=lambda level: level.timestep)), *INPUT_COLOURS]
    pictures = []
    for drawing, (png, dpi) in zip(
        drawings, _pngs(figures, _MOST_BYTES - len(data), kept), strict=True
    ):
        write_bytes(folder / "figures" / f"{drawing.name}.png", png)
        # The width in a PNG's header, which comes first in every one.
        width = int.from_bytes(png[16:20], "big") * _CSS_DPI // dpi
        source = _address(png, "png")
        pictures.append(_Picture(source, width, drawing.alternative, drawing.caption))
    page = folder / "explanation.html"
    write_text(page, _render(explanation, pictures, data))
    return page


def _pngs(figures: list[Figure], most: int, kept: list[str]) -> list[tuple[bytes, int]]:
    """Figures as PNG and their dots an inch; the largest are less sharp, so that all fit."""
    sharpness = [0] * len(figures)
    made = [figure_png(figure, *_SHARPNESS[0], kept) for figure in figures]
    while sum(map(len, made)) * 4 / 3 > most:
        large = [place for place in range(len(made)) if sharpness[place] + 1 < len(_SHARPNESS)]
        if not large:
            break
        place = max(large, key=lambda place: len(made[place]))
        sharpness[place] += 1
        made[place] = figure_png(figures[place], *_SHARPNESS[sharpness[place]], kept)
    return [(png, _SHARPNESS[place][0]) for png, place in zip(made, sharpness, strict=True)]


def _figure_svg(figure: Figure) -> bytes:
    """A figure as SVG; the same figure gives the same bytes."""
    made = io.BytesIO()
    with report_style(), rc_context({"svg.hashsalt": "kan-diffusion"}):
        figure.savefig(
            made, format="svg", dpi=_SVG_DPI, bbox_inches="tight", pad_inches=0.08,
            metadata={"Date": None},
        )  # fmt: skip
    return made.getvalue()


def _safe_json(explanation: Explanation) -> Markup:
    """The script's data as JSON in which nothing ends a script."""
    return htmlsafe_json_dumps(
        page_data(explanation),
        dumps=json.dumps,
        allow_nan=False,
        separators=(",", ":"),
        ensure_ascii=True,
    )


def _address(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _drawings(explanation: Explanation) -> list[_Drawing]:
    """All figures, in the order in which they are read."""
    views = named_views(explanation)
    columns = explanation.columns
    drawings = [
        _Drawing(
            name.replace(" ", "-"),
            f"The network's diagram, {name}",
            f"{name[0].upper()}{name[1:]}: {len(view.edges)} edges, from the inputs below to the "
            "outputs above. Fainter edges matter less.",
            partial(network_figure, view, None, name, columns),
        )
        for name, view in views.items()
    ]
    last_name, last = list(views.items())[-1]
    drawings.append(
        _Drawing(
            "curves", f"The most important curves, {last_name}",
            f"The most important edges ({last_name}) over the inputs that they really have at each "
            "noise level. What an edge gives is drawn around its mean, so curves of one function "
            "at two levels may differ by a constant.",
            partial(curves_figure, last),
        )
    )  # fmt: skip
    drawings.append(
        _Drawing(
            "contributions", "What each input contributes at each noise level",
            "What each input of the trained network contributes to the outputs at each noise "
            "level.",
            partial(contributions_figure, explanation.network),
        )
    )  # fmt: skip
    if explanation.score.scores:
        beside = "" if explanation.score.exact is None else " beside the exact one"
        drawings.append(
            _Drawing(
                "score", f"The learned score{beside}",
                f"The learned score{beside}: where it points is where points get denser.",
                partial(score_figure, explanation.score, columns),
            )
        )  # fmt: skip
    if explanation.samples:
        drawings.append(
            _Drawing(
                "samples", "Generated points beside real ones",
                "Real points and generated ones, on the same axes.",
                partial(samples_figure, explanation.samples, columns),
            )
        )  # fmt: skip
    return drawings


def _render(explanation: Explanation, pictures: list[_Picture], data: Markup) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("kan_diffusion.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    names = axis_names(explanation.columns, explanation.score.points[0].shape[1])
    return environment.get_template("explanation.html.j2").render(
        explanation=explanation,
        data=data,
        tabs=list(named_views(explanation)),
        levels=[level_label(level) for level in explanation.network.levels],
        field=bool(explanation.score.scores) and len(names) <= 2,
        symbols=[(f"x{index}", name) for index, name in enumerate(names)],
        formulas=_formulas(explanation),
        edges=edge_table(explanation),
        standings=standing_table(explanation),
        pictures=pictures,
    )


def _formulas(explanation: Explanation) -> list[_Formulas]:
    """All formulas, those for all noise levels first."""
    found = []
    if explanation.formula:
        found.append(_Formulas("The score at all noise levels", "", _set("s", explanation.formula)))
    if explanation.noise:
        found.append(
            _Formulas(
                "The predicted noise at all noise levels", "",
                _set(r"\hat{\epsilon}", explanation.noise),
            )
        )  # fmt: skip
    found += [_of_level(formula) for formula in explanation.level_formulas]
    return found


def _of_level(formula: LevelFormula) -> _Formulas:
    ranges = "; ".join(
        f"x{index} from {format_number(float(low))} to {format_number(float(high))}"
        for index, (low, high) in enumerate(formula.ranges)
    )
    error = format_number(formula.error)
    note = f"Checked for {ranges}. Its predicted noise differs from the network’s by {error} (RMS)."
    title = f"The score at {level_label(formula.level)}"
    return _Formulas(title, note, _set("s", formula.score))


def _set(name: str, coordinates: tuple[str, ...]) -> list[_Formula]:
    formulas = []
    for index, latex in enumerate(coordinates):
        symbol = f"{name}_{{{index}}}"
        svg = formula_svg(symbol, latex)
        source = "" if svg is None else _address(svg, "svg+xml")
        formulas.append(_Formula(source, f"{symbol} = {latex}", f"Coordinate {index}"))
    return formulas
