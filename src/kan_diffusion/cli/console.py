"""Tables and sentences on the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

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

__all__ = [
    "show_conclusions",
    "show_judged",
    "show_scores",
    "show_standings",
    "show_summary",
    "show_tuned",
]


def _table(title: str, words: Iterable[str], numbers: Iterable[str]) -> Table:
    """Makes a table with columns of words, then columns of numbers."""
    table = Table(
        *words, title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD,
        padding=(0, 1),
    )  # fmt: skip
    for head in numbers:
        table.add_column(head, justify="right")
    return table


def show_standings(explanation: Explanation) -> None:
    """Prints a table of the stages of an explanation, with the scores of each."""
    # Only the page has the other metrics: a table of all is wider than a terminal.
    metrics = [
        name for name in ("energy",) if any(name in s.metrics for s in explanation.standings)
    ]
    columns = ("edges", "constants", "held-out loss", "excess")
    titles = (SAMPLE_METRICS[name].title for name in metrics)
    table = _table(explanation.title, ["stage"], [*columns, *titles])
    for standing in explanation.standings:
        table.add_row(
            standing.name,
            MISSING if standing.edges is None else str(standing.edges),
            str(standing.constants),
            f"{standing.loss:.5f}",
            MISSING if standing.excess is None else f"{standing.excess:.2g}",
            *(
                f"{standing.metrics[name]:.4f}" if name in standing.metrics else MISSING
                for name in metrics
            ),
        )
    real = next((s.real for s in explanation.standings if s.real), {})
    if real:
        values = (f"{real[name]:.4f}" if name in real else MISSING for name in metrics)
        table.add_row(REAL_ROW, MISSING, MISSING, MISSING, MISSING, *values)
    TextConsole().print(table)


_DENOISING = {
    "model": "model",
    "parameters": "parameters",
    "flops": "FLOPs",
    "heldout_loss": "held-out\nloss",
    "floor": "floor",
    "excess": "excess",
    "train time": "training",
}


def show_summary(results: Results) -> None:
    """Prints a study's summary: tables for each data set, means with 95 % intervals over seeds."""
    console = TextConsole()
    for label, part in summary_table(results, format_half_width).groupby("data", sort=False):
        models = part[part["model"] != REAL_ROW]
        if models["heldout_loss"].isin(["", MISSING]).all():
            console.print(f"\n{label}: no trial finished")
            continue
        groups: dict[str, dict[str, str]] = {}
        for key, score in results.metrics.items():
            groups.setdefault(score.group, {"model": "model"})[key] = score.label
        tables = [("denoising (± half of the 95 % interval)", models, _DENOISING)]
        tables += [(title, part, heads) for title, heads in groups.items()]
        for title, records, heads in tables:
            shown = [
                key
                for key in heads
                if key in records and not records[key].isin(["", MISSING]).all()
            ]
            if shown == ["model"]:  # nothing of this was measured here
                continue
            numbers = [heads[key] for key in shown[1:]]
            table = _table(f"{label}: {title}", [heads["model"]], numbers)
            for record in records.to_dict("records"):
                style = "dim" if record["model"] == REAL_ROW else ""
                table.add_row(*(str(record[key]) for key in shown), style=style)
            console.print("", table, sep="\n")
    for better in ("lower", "higher"):
        named = [m for m in results.metrics.values() if m.better == better]
        if named:
            text = "; ".join(f"{metric.label}: {metric.title}" for metric in named)
            console.print(f"{better.capitalize()} is better: {text}", style="dim")


def show_conclusions(decision: Decision) -> None:
    """Prints what a study concludes: a paragraph for each data set, then all together."""
    console = TextConsole()
    for sentence in sentences(decision):
        console.print("", capitalised(sentence), sep="\n")


def show_scores(row: Row, title: str, data: Source) -> None:
    """Prints the scores of one denoiser, each score of samples beside real-against-real."""
    measures = {**measures_of([data]), **SAMPLE_METRICS}
    table = Table(title=title, title_justify="left", box=None)
    for head in ("", "model", "best possible"):
        table.add_column(head, justify="left" if not head else "right")

    def add(name: str, value: object, best: object) -> None:
        cells = [
            format_number(float(v)) if isinstance(v, (int, float)) else "–" for v in (value, best)
        ]
        table.add_row(name, *cells)

    for name in ("parameters", "flops", "train_seconds"):
        if name in row:
            add(name.replace("_", " "), row[name], None)
    if row.get("out_of_range") is not None:
        add("inputs outside the grid (worst layer)", row["out_of_range"], None)
    add("held-out loss (floor)", row["heldout_loss"], row["floor"])
    if row["excess"] is not None:
        add("excess", row["excess"], 0.0)
    if row.get("nll") is not None:
        add("negative log-likelihood (exact)", row["nll"], row["nll_real"])
    for key in row:
        if key != "nll" and f"{key}_real" in row:
            title = measures[key].title if key in measures else key
            add(f"{title} (real against real)", row[key], row[f"{key}_real"])
    TextConsole().print("", table, sep="\n")


def show_judged(page: JudgedPage, title: str) -> None:
    """Prints the scores of drawn samples, each beside a perfect model's."""
    table = _table(title, ["score"], ["synthetic", "perfect"])
    for cells in page.scores:
        table.add_row(*cells)
    TextConsole().print("", table, *page.sentences, sep="\n")


def show_tuned(tuned: Tuned) -> None:
    """Prints the best try of each family: judged measure on each data set, and settings."""
    from kan_diffusion.study.tuning import best_try

    best = {family: best_try(tries) for family, tries in tuned.tries.items()}
    datas = next(iter(best.values())).measures
    table = _table("Best settings of each family", ["family"], ["tries", *datas])
    table.add_column("settings")
    for family, found in best.items():
        settings = ", ".join(f"{key} {_short(value)}" for key, value in found.settings.items())
        numbers = [format_number(found.measures[data]) for data in datas]
        table.add_row(family, str(len(tuned.tries[family])), *numbers, settings)
    TextConsole().print("", table, sep="\n")


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
