"""What the truth lab recovered, as a page, a picture and a table in Markdown."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import jinja2
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from kan_diffusion.files import finite, write_bytes, write_json, write_text
from kan_diffusion.report.figures import figure_png
from kan_diffusion.report.style import FAMILY_STYLES, INK, MUTED, report_style
from truth_lab.lab import LAB, LabResult, LabResults

__all__ = ["constants_figure", "lab_markdown", "write_lab"]

_WITH_CONSTANTS = tuple(name for name, case in LAB.items() if case.bound is not None)


def constants_figure(results: LabResults) -> Figure:
    """Relative error of every constant at every noise level, a panel a density, all seeds."""
    names = [name for name in _WITH_CONSTANTS if results.of(name)]
    with report_style():
        figure, axes = plt.subplots(
            1, max(1, len(names)), figsize=(3.6 * max(1, len(names)), 3.3), squeeze=False
        )
        for axis, name in zip(axes[0], names, strict=False):
            bound = LAB[name].bound or 0.0
            missing = 0
            for result in results.of(name):
                if not result.has_form:
                    missing += 1
                    continue
                sigmas = [constant.sigma for constant in result.constants]
                errors = [100 * constant.error for constant in result.constants]
                axis.plot(
                    sigmas,
                    errors,
                    FAMILY_STYLES["kan"].marker,
                    color=FAMILY_STYLES["kan"].colour,
                    markersize=4,
                    alpha=0.55,
                    markeredgewidth=0,
                )
            axis.axhline(100 * bound, color=INK, linewidth=1, linestyle="--")
            axis.annotate(
                f"bound {bound:.0%}",
                (1.0, 100 * bound),
                xycoords=("axes fraction", "data"),
                ha="right",
                va="bottom",
                fontsize=9,
                color=MUTED,
            )
            title = name if not missing else f"{name} ({missing} without the form)"
            axis.set_title(title)
            axis.set_xlabel("noise level σ")
            axis.set_xlim(0, 1.02)
            axis.set_ylim(0, None)
        axes[0][0].set_ylabel("relative error of a constant (%)")
        figure.tight_layout()
        plt.close(figure)
    return figure


def _percent(value: float) -> str:
    return "form not found" if math.isinf(value) else f"{100 * value:.2f} %"


def _seed_rows(results: Sequence[LabResult]) -> list[list[str]]:
    rows = []
    for result in results:
        excess = result.excess
        rows.append(
            [
                str(result.seed),
                _percent(result.worst) if LAB[result.toy].bound is not None else "–",
                f"{excess.get('network', math.nan):.2g}",
                f"{excess['formula']:.2g}" if "formula" in excess else "no formula",
                f"{result.edges} ({result.curves})",
                "yes" if result.separate else "no",
                f"{result.energy_ratio:.2f}" if "formula" in result.energy else "–",
                f"{result.seconds:.0f} s",
            ]
        )
    return rows


_HEADINGS = (
    "seed",
    "worst constant",
    "excess, network",
    "excess, formula",
    "edges (curves)",
    "coordinates apart",
    "energy distance / real",
    "time",
)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(headings) + " |", "| " + " | ".join("---" for _ in headings) + " |"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def _constant_rows(results: Sequence[LabResult]) -> list[list[str]]:
    """True against recovered: mean and range over seeds, at each noise level."""
    found: dict[tuple[str, float], list[float]] = {}
    true: dict[tuple[str, float], float] = {}
    for result in results:
        for constant in result.constants:
            key = constant.name, constant.sigma
            found.setdefault(key, []).append(constant.found)
            true[key] = constant.true
    rows = []
    for key, values in found.items():
        low, high = min(values), max(values)
        rows.append(
            [
                key[0],
                f"{key[1]:.2f}",
                f"{true[key]:.4f}",
                f"{np.mean(values):.4f}",
                f"{low:.4f} to {high:.4f}",
                f"{100 * max(abs(v - true[key]) / abs(true[key]) for v in values):.2f} %",
            ]
        )
    return rows


_CONSTANT_HEADINGS = ("constant", "σ", "true", "recovered, mean", "range over seeds", "worst error")


def _pykan_rows(results: LabResults) -> list[list[str]]:
    rows = []
    for result in results.results:
        errors = result.pykan.get("errors")
        if isinstance(errors, dict):
            seconds = result.pykan["pykan_seconds"]
            rows.append(
                [
                    result.toy,
                    f"{errors['network']:.4f}",
                    f"{errors['with formulas']:.4f}" if "with formulas" in errors else "–",
                    f"{errors['formula']:.4f}" if "formula" in errors else "no formula",
                    f"{errors['pykan']:.4f}",
                    f"{seconds:.0f} s" if isinstance(seconds, float) else "–",
                ]
            )
    return rows


_PYKAN_HEADINGS = (
    "density",
    "network",
    "network with formulas",
    "formula",
    "pykan's formulas",
    "pykan's search",
)


def lab_markdown(results: LabResults) -> str:
    """All tables of the lab in Markdown."""
    parts = ["# Truth lab", _table(("density", "question", "answer"), results.summary())]
    for name in LAB:
        of_case = results.of(name)
        if not of_case:
            continue
        parts += [f"## {name}", _table(_HEADINGS, _seed_rows(of_case))]
        formulas = [f"- seed {r.seed}: ${f}$" for r in of_case for f in r.formula]
        if formulas:
            parts.append("\n".join(formulas))
        rows = _constant_rows(of_case)
        if rows:
            parts.append(_table(_CONSTANT_HEADINGS, rows))
    rows = _pykan_rows(results)
    if rows:
        parts += [
            "## Beside pykan's own search",
            "Root mean square error of the predicted noise against the exact one at σ = 0.5, seed "
            "0. pykan turns every edge of the trained network into the function it finds best.",
            _table(_PYKAN_HEADINGS, rows),
        ]
    return "\n\n".join(parts) + "\n"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Truth lab</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>{{ style }}
table { margin: 1rem 0; } .formula img { max-width: 100%; background: white; padding: .3rem; }
</style></head><body><main>
<header><h1>Truth lab</h1>
<p class="question">Densities whose exact score is known: what is recovered of it?</p></header>
{% macro table(headings, rows) %}<div class="scroll"><table><thead><tr>
{% for heading in headings %}<th scope="col">{{ heading }}</th>{% endfor %}</tr></thead><tbody>
{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}
</tbody></table></div>{% endmacro %}
{{ table(("density", "question", "answer"), summary) }}
<figure><img src="{{ picture }}" alt="Relative error of each recovered constant over noise levels">
</figure>
{% for case in cases %}<section><h2>{{ case.name }}</h2>
{{ table(headings, case.rows) }}
{% for seed, picture, latex in case.formulas %}<p class="formula">seed {{ seed }}:
{% if picture %}<img src="{{ picture }}" alt="{{ latex }}">{% else %}<code>{{ latex }}</code>
{% endif %}</p>{% endfor %}
{% if case.constants %}<details><summary>Constants at each noise level</summary>
{{ table(constant_headings, case.constants) }}</details>{% endif %}</section>{% endfor %}
{% if pykan %}<section><h2>Beside pykan’s own search</h2>
<p>Root mean square error of the predicted noise against the exact one at σ = 0.5, seed 0. pykan
turns every edge of the trained network into the function it finds best.</p>
{{ table(pykan_headings, pykan) }}</section>{% endif %}
<section><h2>Run it again</h2><pre><code>make lab</code></pre></section>
</main></body></html>
"""


def _formula_pictures(results: Sequence[LabResult]) -> list[tuple[int, str | None, str]]:
    from kan_diffusion.report.explanation.mathematics import formula_svg

    pictures = []
    for result in results:
        for number, latex in enumerate(result.formula):
            name = "s" if len(result.formula) == 1 else f"s_{{{number}}}"
            drawn = formula_svg(name, latex)
            address = None
            if drawn is not None:
                encoded = base64.b64encode(drawn).decode()
                address = f"data:image/svg+xml;base64,{encoded}"
            pictures.append((result.seed, address, latex))
    return pictures


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
    png = figure_png(constants_figure(results))
    write_bytes(folder / "figures" / "constants.png", png)
    write_json(folder / "truth-lab.json", [_plain(result) for result in results.results])
    write_text(folder / "truth-lab.md", lab_markdown(results))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("kan_diffusion.report"), autoescape=True
    )
    style = environment.get_template("style.css").render()
    page = environment.from_string(_PAGE).render(
        style=style,
        summary=results.summary(),
        picture=f"data:image/png;base64,{base64.b64encode(png).decode()}",
        headings=_HEADINGS,
        constant_headings=_CONSTANT_HEADINGS,
        pykan_headings=_PYKAN_HEADINGS,
        cases=[
            {
                "name": name,
                "rows": _seed_rows(results.of(name)),
                "formulas": _formula_pictures(results.of(name)),
                "constants": _constant_rows(results.of(name)),
            }
            for name in LAB
            if results.of(name)
        ],
        pykan=_pykan_rows(results),
    )
    path = folder / "truth-lab.html"
    write_text(path, page)
    return path


def _plain(result: LabResult) -> dict[str, object]:
    return finite({**asdict(result), "worst": result.worst})
