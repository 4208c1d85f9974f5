"""Tables and sentences on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.table import Table

from kan_diffusion.data.sources import Source
from kan_diffusion.evaluation.metrics import SAMPLE_METRICS
from kan_diffusion.progress import TextConsole
from kan_diffusion.report.tables import (
    MISSING,
    REAL_ROW,
    format_half_width,
    format_number,
    summary_table,
)
from kan_diffusion.study.folder import Row
from kan_diffusion.study.results.rows import Results
from kan_diffusion.study.results.verdicts import Decision
from kan_diffusion.study.results.wording import capitalised, sentences
from kan_diffusion.study.tasks import measures_of

if TYPE_CHECKING:
    from kan_diffusion.formulas.explain import Explanation
    from kan_diffusion.report.views import JudgedPage
    from kan_diffusion.study.tuning import Tuned


def _show(title: str, frame: pd.DataFrame, *sentences: str) -> None:
    """Prints a table of texts, the first column of words, and sentences below it.

    Columns in which all but `REAL_ROW` is missing are left out.
    """
    frame = frame.fillna(MISSING).replace("", MISSING)
    models = frame[frame.iloc[:, 0] != REAL_ROW]
    frame = frame.loc[:, (models != MISSING).any()]
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for name in frame:
        table.add_column(str(name), justify="right" if len(table.columns) else "left")
    for cells in frame.itertuples(index=False):
        table.add_row(*cells, style="dim" if cells[0] == REAL_ROW else "")
    TextConsole().print("", table, *sentences, sep="\n")


def show_standings(explanation: Explanation) -> None:
    """Prints the stages of an explanation, with one of the metrics that its page has."""
    metric, stages = SAMPLE_METRICS["energy"], explanation.standings
    records = [
        {
            "stage": stage.name,
            "edges": MISSING if stage.edges is None else str(stage.edges),
            "constants": str(stage.constants),
            "held-out loss": f"{stage.loss:.5f}",
            "excess": MISSING if stage.excess is None else f"{stage.excess:.2g}",
            metric.title: format_number(stage.metrics.get(metric.key)),
        }
        for stage in stages
    ]
    real = next((stage.real for stage in stages if stage.real), {})
    if metric.key in real:
        records.append({"stage": REAL_ROW, metric.title: format_number(real[metric.key])})
    _show(explanation.title, pd.DataFrame(records))


_DENOISING = {
    "parameters": "parameters",
    "flops": "FLOPs",
    "heldout_loss": "held-out\nloss",
    "floor": "floor",
    "excess": "excess",
    "train time": "training",
}


def show_summary(results: Results) -> None:
    """Prints a study's summary: tables for each data set, means with 95 % intervals over seeds."""
    metrics = results.metrics.values()
    tables = {"denoising (± half of the 95 % interval)": _DENOISING}
    for metric in metrics:
        tables.setdefault(metric.group, {})[metric.key] = metric.label
    for data, part in summary_table(results, format_half_width).groupby("data", sort=False):
        if part["heldout_loss"].isin(["", MISSING]).all():
            TextConsole().print(f"\n{data}: no trial finished")
            continue
        for title, heads in tables.items():
            models = part if heads is not _DENOISING else part[part["model"] != REAL_ROW]
            _show(f"{data}: {title}", models[["model", *heads]].rename(columns=heads))
    for better in ("lower", "higher"):
        if named := [f"{m.label}: {m.title}" for m in metrics if m.better == better]:
            text = f"{better.capitalize()} is better: {'; '.join(named)}"
            TextConsole().print(text, style="dim")
    for note in results.notes:
        TextConsole().say(note)


def show_conclusions(decision: Decision) -> None:
    """Prints what a study concludes: a paragraph for each data set, then all together."""
    for sentence in sentences(decision):
        TextConsole().print("", capitalised(sentence), sep="\n")


def show_scores(row: Row, title: str, data: Source) -> None:
    """Prints the scores of one denoiser, each score of samples beside real-against-real."""
    measures = {**measures_of([data]), **SAMPLE_METRICS}
    scores: dict[str, tuple[object, object]] = {
        name.replace("_", " "): (row.get(name), None)
        for name in ("parameters", "flops", "train_seconds")
    }
    scores["inputs outside the grid (worst layer)"] = row.get("out_of_range"), None
    scores["held-out loss (floor)"] = row["heldout_loss"], row["floor"]
    scores["excess"] = row["excess"], 0.0
    scores["negative log-likelihood (exact)"] = row.get("nll"), row.get("nll_real")
    for key in row:
        if key != "nll" and f"{key}_real" in row:
            named = measures[key].title if key in measures else key
            scores[f"{named} (real against real)"] = row[key], row[f"{key}_real"]
    records = [
        {"score": name, "model": _number(value), "best possible": _number(best)}
        for name, (value, best) in scores.items()
        if value is not None
    ]
    _show(title, pd.DataFrame(records))


def _number(value: object) -> str:
    return format_number(float(value)) if isinstance(value, int | float) else MISSING


def show_judged(page: JudgedPage, title: str) -> None:
    """Prints the scores of drawn samples, each beside a perfect model's."""
    frame = pd.DataFrame(page.scores, columns=["score", "synthetic", "perfect"])
    _show(title, frame, *page.sentences)


def show_tuned(tuned: Tuned) -> None:
    """Prints the best try of each family: judged measure on each data set, and settings."""
    from kan_diffusion.study.tuning import best_try

    records = []
    for family, tries in tuned.tries.items():
        best = best_try(tries)
        settings = (
            f"{key} {f'{value:.3g}' if isinstance(value, float) else value}"
            for key, value in best.settings.items()
        )
        measures = {data: format_number(value) for data, value in best.measures.items()}
        records.append(
            {
                "family": family,
                "tries": str(len(tries)),
                **measures,
                "settings": ", ".join(settings),
            }
        )
    _show("Best settings of each family", pd.DataFrame(records))
