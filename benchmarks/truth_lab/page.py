"""The recoveries of the truth lab as a page, a picture and tables in Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from kan_diffusion.files import finite, write_bytes, write_json, write_text
from kan_diffusion.report.html import Page
from kan_diffusion.report.images import embedded, figure_png
from kan_diffusion.report.points import panel_figure, row_counts
from kan_diffusion.report.style import INK, MUTED, NARROW, family_styles, report_style
from kan_diffusion.report.tables import Cell, Head, Line, Table
from truth_lab.lab import LAB, LabResult, LabResults

__all__ = ["constants_figure", "lab_markdown", "write_lab"]

_WITH_CONSTANTS = tuple(name for name, case in LAB.items() if case.bound is not None)
_SUMMARY = ("density", "question", "answer")
_SEEDS = (
    *("seed", "worst constant", "excess, network", "excess, formula", "edges (curves)"),
    *("coordinates apart", "energy distance / real", "time"),
)
_CONSTANTS = ("constant", "σ", "true", "recovered, mean", "range over seeds", "worst error")


@report_style()
def constants_figure(results: LabResults, width: float = 10.5) -> Figure:
    """Draws the relative error of every constant at every noise level, a panel for each density.

    Args:
        results: The lab's results; all seeds are drawn.
        width: The most inches across.
    """
    names = [name for name in _WITH_CONSTANTS if results.of(name)]
    counts = row_counts(max(len(names), 1), int(width / 3.5))
    figure, panels = panel_figure(counts, width, 0.72, (0.55, 0.95), (0.75, 0.6, 0.4), 3.4)
    style = family_styles()["kan"]
    for axes, name in zip([axes for row in panels for axes in row], names, strict=False):
        bound = 100 * (LAB[name].bound or 0.0)
        found = [result for result in results.of(name) if result.has_form]
        missing = len(results.of(name)) - len(found)
        for result in found:
            axes.plot(
                [constant.sigma for constant in result.constants],
                [100 * constant.error for constant in result.constants],
                style.marker, color=style.colour, markersize=4, alpha=0.55, markeredgewidth=0,
            )  # fmt: skip
        axes.axhline(bound, color=INK, linewidth=1, linestyle="--")
        axes.annotate(
            f"bound {bound:.0f} %", (1.0, bound), xycoords=("axes fraction", "data"),
            xytext=(0, 2), textcoords="offset points", ha="right", va="bottom", fontsize=9,
            color=MUTED,
        )  # fmt: skip
        axes.set_title(name if not missing else f"{name} ({missing} without the form)")
        axes.set(xlabel="noise level σ", xlim=(0, 1.02), ylim=(0, None))
        axes.set_ylim(0, 1.12 * axes.get_ylim()[1])
    for row in panels:
        row[0].set_ylabel("relative error (%)")
    return figure


def _percent(value: float) -> str:
    return "form not found" if math.isinf(value) else f"{100 * value:.2f} %"


def _seed_rows(results: Sequence[LabResult]) -> list[list[str]]:
    return [
        [
            str(result.seed),
            _percent(result.worst) if LAB[result.toy].bound is not None else "–",
            f"{result.excess.get('network', math.nan):.2g}",
            f"{result.excess['formula']:.2g}" if "formula" in result.excess else "no formula",
            f"{result.edges} ({result.curves})",
            "yes" if result.separate else "no",
            f"{result.energy_ratio:.2f}" if "formula" in result.energy else "–",
            f"{result.seconds:.0f} s",
        ]
        for result in results
    ]


def _constant_rows(results: Sequence[LabResult]) -> list[list[str]]:
    """Compares true and recovered constants: mean and range over seeds, at each noise level."""
    found: dict[tuple[str, float, float], list[float]] = {}
    for constant in (constant for result in results for constant in result.constants):
        key = constant.name, constant.sigma, constant.true
        found.setdefault(key, []).append(constant.found)
    return [
        [
            name,
            f"{sigma:.2f}",
            f"{true:.4f}",
            f"{np.mean(values):.4f}",
            f"{min(values):.4f} to {max(values):.4f}",
            f"{100 * max(abs(value - true) / abs(true) for value in values):.2f} %",
        ]
        for (name, sigma, true), values in found.items()
    ]


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def lab_markdown(results: LabResults) -> str:
    """Writes all tables of the lab in Markdown."""
    parts = ["# Truth lab", _table(_SUMMARY, results.summary())]
    for name, of_case in _cases(results):
        parts += [f"## {name}", _table(_SEEDS, _seed_rows(of_case))]
        formulas = [f"- seed {r.seed}: ${f}$" for r in of_case for f in r.formula]
        if formulas:
            parts.append("\n".join(formulas))
        rows = _constant_rows(of_case)
        if rows:
            parts.append(_table(_CONSTANTS, rows))
    return "\n\n".join(parts) + "\n"


def _cases(results: LabResults) -> list[tuple[str, Sequence[LabResult]]]:
    return [(name, results.of(name)) for name in LAB if results.of(name)]


def write_lab(results: LabResults, folder: Path) -> Path:
    """Writes page, picture, tables and numbers of the lab.

    Args:
        results: The lab's results.
        folder: Its folder.

    Returns:
        The page.

    Raises:
        RunFolderError: A file cannot be written.
    """
    figure = constants_figure(results)
    write_bytes(folder / "figures" / "constants.png", figure_png(figure))
    write_json(
        folder / "truth-lab.json",
        [finite({**asdict(result), "worst": result.worst}) for result in results.results],
    )
    write_text(folder / "truth-lab.md", lab_markdown(results))
    page = Page("Truth lab", "Densities whose exact score is known: how much of it is recovered?")
    page.table(_page_table("Densities", _SUMMARY, results.summary()))
    page.figure(
        embedded(figure, narrow=partial(constants_figure, results, width=NARROW)),
        "Relative error of each recovered constant, a mark for each seed; dashed: the largest "
        "error that counts as recovered.",
        "Relative error of each recovered constant over noise levels",
    )
    for name, of_case in _cases(results):
        section = page.section(name).table(_page_table(name, _SEEDS, _seed_rows(of_case)))
        for result in of_case:
            for number, latex in enumerate(result.formula):
                symbol = "s" if len(result.formula) == 1 else f"s_{{{number}}}"
                section.formula(symbol, latex, f"Seed {result.seed}")
        rows = _constant_rows(of_case)
        if rows:
            caption = f"Constants at each noise level, {name}"
            section.folded("Constants at each noise level", _page_table(caption, _CONSTANTS, rows))
    page.section("Run it again").code("make lab")
    return page.write(folder / "truth-lab.html")


def _page_table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Makes a table of texts, with a caption for those who cannot see it."""
    columns = [Head(head, words=True) for head in heads]
    return Table(columns, [Line([Cell(text) for text in row]) for row in rows], caption=caption)
