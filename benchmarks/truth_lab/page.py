"""The recoveries of the truth lab as tables in Markdown, a picture and numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from matplotlib.figure import Figure

from kan_diffusion.files import finite, write_json, write_text
from markdown_table import markdown_table
from truth_lab.lab import LAB, LabResult

_SEEDS = (
    *("seed", "worst constant", "excess, network", "excess, formula", "edges (curves)"),
    *("coordinates apart", "energy distance / real", "time"),
)


def _by_toy(results: Iterable[LabResult]) -> dict[str, list[LabResult]]:
    groups: dict[str, list[LabResult]] = {name: [] for name in LAB}
    for result in results:
        groups[result.toy].append(result)
    return {name: group for name, group in groups.items() if group}


def summary(results: Iterable[LabResult]) -> list[tuple[str, str, str]]:
    """Density, question and answer, a row each."""
    rows = []
    for toy, group in _by_toy(results).items():
        case, count = LAB[toy], len(group)
        if case.bound is None:
            none = sum(not result.formula for result in group)
            curves = ", ".join(f"{r.curves} of {r.edges}" for r in group)
            answer = f"no formula in {none} of {count}; edges that stay curves: {curves}"
        else:
            good = sum(result.worst <= case.bound for result in group)
            of_form = [result.worst for result in group if result.has_form]
            notes = [f"worst {max(of_form):.2%}"] if of_form else []
            if len(of_form) < count:
                notes.append(f"form not found in {count - len(of_form)}")
            answer = f"constants within {case.bound:.0%} in {good} of {count} ({', '.join(notes)})"
            if toy == "four-modes":
                apart = sum(result.separate for result in group)
                answer = f"no such edge in {apart} of {count}; {answer}"
        rows.append((toy, case.question, answer))
    return rows


def constants_figure(results: Iterable[LabResult]) -> Figure:
    """Draws the relative error of every constant at every noise level, a panel for each density."""
    groups = {toy: group for toy, group in _by_toy(results).items() if LAB[toy].bound is not None}
    columns = min(3, max(len(groups), 1))
    rows = -(-len(groups) // columns) or 1
    figure = Figure(figsize=(3.5 * columns, 2.6 * rows), layout="constrained", dpi=150)
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat[len(groups) :]:
        axes.remove()
    for axes, (toy, group) in zip(panels.flat, groups.items(), strict=False):
        bound = 100 * (LAB[toy].bound or 0.0)
        missing = sum(not result.has_form for result in group)
        for result in group:
            levels = [constant.sigma for constant in result.constants]
            errors = [100 * constant.error for constant in result.constants]
            axes.plot(levels, errors, "o", color="#0a6ca8", markersize=4, alpha=0.55, mew=0)
        axes.axhline(
            bound, color="#1b1f24", linewidth=1, linestyle="--", label=f"bound {bound:g} %"
        )
        axes.set_title(toy if not missing else f"{toy} ({missing} without the form)")
        axes.set(xlabel="noise level σ", ylabel="relative error (%)", xlim=(0, 1.02))
        axes.set_ylim(0, 1.12 * axes.get_ylim()[1])
        axes.legend(loc="upper right", frameon=False)
    return figure


def _seed_row(result: LabResult) -> tuple[str, ...]:
    worst = "form not found" if math.isinf(result.worst) else f"{100 * result.worst:.2f} %"
    return (
        str(result.seed),
        "–" if LAB[result.toy].bound is None else worst,
        f"{result.excess.get('network', math.nan):.2g}",
        f"{result.excess['formula']:.2g}" if "formula" in result.excess else "no formula",
        f"{result.edges} ({result.curves})",
        "yes" if result.separate else "no",
        "–" if result.energy_ratio is None else f"{result.energy_ratio:.2f}",
        f"{result.seconds:.0f} s",
    )


def write_lab(results: Sequence[LabResult], folder: Path) -> Path:
    """Writes tables, a picture and numbers of the lab, and returns the path of the tables.

    Raises:
        RunFolderError: A file cannot be written.
    """
    parts = ["# Truth lab", markdown_table(("density", "question", "answer"), summary(results))]
    for toy, group in _by_toy(results).items():
        parts += [f"## {toy}", markdown_table(_SEEDS, map(_seed_row, group))]
        parts += [f"- seed {r.seed}: ${part}$" for r in group for part in r.formula]
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    constants_figure(results).savefig(folder / "figures" / "constants.png")
    content = [finite({**asdict(result), "worst": result.worst}) for result in results]
    write_json(folder / "truth-lab.json", content)
    write_text(folder / "truth-lab.md", "\n\n".join(map(str.strip, parts)) + "\n")
    return folder / "truth-lab.md"
