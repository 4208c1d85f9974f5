"""The files of a run: all rows as JSON, a page of Markdown, and figures; each written whole."""

from __future__ import annotations

import json
import re
from pathlib import Path

from kan_diffusion.files import write_bytes, write_json, write_text
from kan_diffusion.report.images import figure_png
from layer_speed.plan import Plan
from layer_speed.plots import growth_figure, ratio_figure
from layer_speed.tables import markdown_page, target_records
from layer_speed.targets import Results, measured
from layer_speed.timing import Row

__all__ = ["PARTS", "find_results", "keep_others", "read_results", "write_results"]

PARTS = ("timing", "growth", "kernels", "families", "blocks", "memory", "first_use")
"""Keys of the rows of each part."""
_STEM = "kan_layer"


def _file_stem(card: str | None) -> str:
    """What all file names start with: the card's name is in those of a GPU."""
    if card is None:
        return _STEM
    return f"{_STEM}-" + re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-")


def write_results(folder: Path, head: Row, results: Results, plan: Plan) -> list[Path]:
    """Writes everything; returns the paths, the page first.

    Args:
        folder: Where to.
        head: Title, command, environment and settings of the run.
        results: Rows by part.
        plan: What was measured.
    """
    environment = head["environment"]
    assert isinstance(environment, dict)
    stem = _file_stem(environment.get("card"))
    pictures: dict[str, bytes] = {}
    alternatives: dict[str, str] = {}
    for threads in sorted(
        {int(str(row["threads"])) for row in results["timing"] + results["kernels"]}
    ):
        count = f"{threads}-thread" + "s" * (threads > 1)
        if rows := [row for row in results["timing"] if row["threads"] == threads]:
            name = f"{stem}-ratios-{count}.png"
            pictures[name] = figure_png(ratio_figure(rows, threads))
            alternatives[name] = (
                f"Time of a step relative to kan-diffusion, {count.replace('-', ' ')}"
            )
        if rows := [row for row in results["kernels"] if row["threads"] == threads]:
            name = f"{stem}-kernels-{count}.png"
            pictures[name] = figure_png(ratio_figure(rows, threads))
            alternatives[name] = (
                f"Time of a step by torch, relative to our own, {count.replace('-', ' ')}"
            )
    if measured(results["growth"], "ms"):
        name = f"{stem}-growth.png"
        by_axis = {series.axis: series for series in reversed(plan.growth)}  # the first of each
        shown = [series for series in plan.growth if by_axis[series.axis] is series]
        pictures[name] = figure_png(growth_figure(results["growth"], shown))
        alternatives[name] = "Time of a step against the number of intervals, the width, the batch"
    head = {**head, "figures": alternatives}
    page, data = folder / f"{stem}.md", folder / f"{stem}.json"
    for name, png in pictures.items():
        write_bytes(folder / name, png)
    write_json(data, {**head, "targets": target_records(results), **results})
    write_text(page, markdown_page(head, results))
    return [page, data, *(folder / name for name in pictures)]


def find_results(folder: Path) -> Path:
    """The JSON of a run in ``folder``.

    Raises:
        FileNotFoundError: There is none.
    """
    found = sorted(folder.glob(f"{_STEM}*.json"))
    if not found:
        raise FileNotFoundError(f"'{folder}' holds no results; run without --render first")
    return found[0]


def read_results(path: Path) -> tuple[Row, Results]:
    """The head and the rows that :func:`write_results` wrote."""
    content = json.loads(path.read_text())
    results = {part: content.pop(part, []) for part in PARTS}
    content.pop("targets")
    return content, results


def keep_others(folder: Path, head: Row, results: Results) -> None:
    """Adds the parts that were not run, as they are in ``folder``, to the results of a run."""
    try:
        earlier, rows = read_results(find_results(folder))
    except FileNotFoundError:
        return
    if (earlier["quick"], earlier["device"]) != (head["quick"], head["device"]):
        return
    runs, others = head["parts"], earlier["parts"]
    assert isinstance(runs, dict)
    assert isinstance(others, dict)
    for part in others.keys() - runs.keys():
        results[part], runs[part] = rows[part], others[part]
