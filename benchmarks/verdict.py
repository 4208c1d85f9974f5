"""The verdict on KANs and MLPs as denoisers: ``make verdict``, or ``python benchmarks/verdict.py``.

Each part has folders of ``results/verdict`` with its studies and their rows: searches for settings
with equal effort, and studies with the settings that the searches found, one for each budget. Where
a model has another size on each data set, there is a study for each of them. Tables and figures are
written into ``docs/verdict.md``, below the plan; no number there is typed by hand, and nothing is
trained.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.files import write_bytes, write_text
from kan_diffusion.report.charts import lead_forest
from kan_diffusion.report.figures import png
from kan_diffusion.report.style import model_styles
from kan_diffusion.report.tables import format_half_width, format_interval, format_number, format_p
from kan_diffusion.study.results.rows import Results, read_results
from kan_diffusion.study.results.statistics import mean_interval
from kan_diffusion.study.results.verdicts import (
    Comparison,
    Decision,
    Lead,
    compare,
    correct,
    decide,
)
from kan_diffusion.study.results.wording import listed, overall, say_lead
from markdown_table import markdown_table

KAN = "kan"
"""The family that the target is about."""


BETTER_ON, MEDIAN, MOONSHOT = 9, 0.8, 0.7
"""The target: how many of the 13 exact data sets, and bounds of the median ratio."""

RESULTS = Path("results/verdict")
PAGE = Path("docs/verdict.md")
_FOUND = "<!-- results: written by `make verdict` -->\n", "<!-- end of results -->\n"


@dataclass(frozen=True)
class Part:
    """A search or the studies of the verdict.

    Attributes:
        name: Name of its folder.
        tuned: The part that found the settings of its models; None for a search.
        title: Its title in tables.
    """

    name: str
    tuned: str | None
    title: str

    def results(self, folder: Path) -> list[Results]:
        """Reads its finished rows, those of each budget together.

        Args:
            folder: The folder of all parts. Studies are in order of the names of their folders.
        """
        studies = sorted(path.parent for path in (folder / self.name).glob("**/results.parquet"))
        rows = pd.concat([pd.DataFrame(), *(read_results(study).rows for study in studies)])
        by_budget = rows.groupby(["match", "budget"], sort=False) if len(rows) else []
        return [Results.of(of_budget) for _, of_budget in by_budget]


AGAIN = "equal time, again: 13 data sets"
"""Title of the part whose settings were searched at the budget of time."""

PARTS = (
    Part("tuning", None, "search at 2,300 parameters"),
    Part("study", "tuning", "17 data sets; equal operations and time on six"),
    Part("ablation", "tuning", "the ablation"),
    Part("tuning-22000", None, "search at 22,000 parameters"),
    Part("study-22000", "tuning-22000", "22,000 parameters, six data sets"),
    Part("time/tuning", None, "search at 8 s of training"),
    Part("time/study", "time/tuning", AGAIN),
    Part("time/first", "tuning", "equal time, the first settings again"),
    Part("time/study-60", "time/tuning", "equal time, ample: 60 s on six data sets"),
)


# --- the results ------------------------------------------------------------------------------


def _called(found: Lead) -> str:
    """Says on how many data sets which side is called better."""
    better, worse = len(found.better) or "none", len(found.worse) or "none"
    return (
        f"of {len(found.comparisons)} data sets the KAN is called better on {better}, the best MLP "
        f"on {worse}"
    )


def judge_winner(found: Lead) -> str:
    """Says which side wins at equal parameters."""
    better, worse = len(found.better), len(found.worse)
    winner = (
        "The MLP wins" if worse > better else "The KAN wins" if better > worse else "Neither wins"
    )
    return f"**{winner} at {found.amount}**: {_called(found)}."


def judge_target(found: Lead) -> str:
    """Says whether the target was met, and where it was, whether the moonshot was."""
    said = []
    for name, ratio in (("target", MEDIAN), ("moonshot", MOONSHOT)):
        met = len(found.better) >= BETTER_ON and found.ratio.mean <= ratio
        said.append(
            f"The {name} (better on at least {BETTER_ON}, a median ratio of at most {ratio}) is "
            f"{'met' if met else 'not met'}."
        )
        if not met:
            break
    return " ".join(said)


def judge_time(found: Lead) -> str:
    """Says whether the KAN is behind at equal time."""
    better, worse, low = len(found.better), len(found.worse), found.ratio.low
    behind = worse > better or (low is not None and low > 1)
    return (
        f"At equal time the KAN is {'**behind**' if behind else 'not behind'}: called better on "
        f"{better or 'none'} and worse on {worse or 'none'} of {len(found.comparisons)} data sets, "
        f"a median ratio of {format_interval(found.ratio)}."
    )


def judge_time_again(found: Lead) -> str:
    """Says who wins at equal time by the plan of the second answer."""
    better, worse, ratio = len(found.better), len(found.worse), found.ratio
    winner = "Neither wins"
    if better > worse and ratio.high is not None and ratio.high < 1:
        winner = "The KAN wins"
    elif worse > better or (ratio.low is not None and ratio.low > 1):
        winner = "The MLP wins"
    return (
        f"**{winner} at {found.amount}**, each model with settings found at that budget: "
        f"{_called(found)}; the ratio is {format_interval(ratio)} in the median."
    )


def _name(results: Results, family: str) -> str:
    """The name of the model of a family."""
    rows = results.rows
    return str(rows.loc[rows["family"] == family, "name"].iloc[0])


def _means(results: Results, decision: Decision) -> str:
    """Writes a table of means with half of their intervals, the best of each kind in bold."""
    kinds, columns = results.models(), {}
    for data in results.data_sets():
        values = results.values(data, results.judged(data))
        # Excesses in thousandths.
        scale = 1000.0 if results.judged(data) == "excess" else 1.0
        # Of the models that have half of their seeds, the best first.
        ranked = decision.verdicts[data].means
        best = {next((n for n in ranked if kinds[n] == kind), None) for kind in ("kan", "mlp")}
        columns[data] = {
            name: f"**{text}**" if name in best else text
            for name in values
            for text in [format_half_width(mean_interval(scale * values[name]))]
        }
    lines = [(name, *(columns[data].get(name, "–") for data in columns)) for name in kinds]
    return markdown_table(["model", *columns], [line for line in lines if set(line[1:]) != {"–"}])


def _comparisons(comparisons: Sequence[Comparison]) -> str:
    """Writes a table of comparisons: difference with interval, ratio, tests."""
    thousand = 1.0 if comparisons[0].measure == "c2st" else 1000.0
    lines = []
    for c in comparisons:
        low, high = c.ratio_interval or (None, None)
        ratio = replace(c.interval, mean=c.ratio, low=low, high=high)
        low, high = (end and thousand * end for end in (c.interval.low, c.interval.high))
        scaled = replace(c.interval, mean=thousand * c.interval.mean, low=low, high=high)
        lines.append((
            c.data, c.model, c.baseline, format_interval(scaled), format_interval(ratio),
            str(c.interval.n), format_p(c.p_value), format_p(c.p_holm),
            c.winner or "not distinguishable",
        ))  # fmt: skip
    difference = "difference × 1,000" if thousand > 1 else "difference"
    heads = ("data", "model", "against", difference, "ratio", "seeds", "p", "p, Holm", "better")
    return markdown_table(heads, lines)


def _of_budget(results: Results, decision: Decision, figures: Path, page: Path) -> str:
    """Writes the whole section of one budget."""
    styles = model_styles(results.rows)
    amount, name = results.amount, _name(results, KAN)
    own = [c for c in decision.comparisons if c.model == name]
    if not own:  # no trial of it has been run yet
        return ""
    text = f"\n### At {amount}\n\n"
    for found in decision.leads:
        if found.model == name:
            text += f"{say_lead(found)}\n\n"
            file = figures / f"{amount.replace(' ', '-').replace(',', '')}.png"
            write_bytes(file, png(lead_forest(results, found, styles)))
            place = os.path.relpath(file, page.parent)
            text += f"![{name} against the best MLP, {amount}]({place})\n\n"
    text += (
        "Means over seeds ± half of Student's 95 % interval, excesses in thousandths, tables by "
        "held-out loss; in bold the best of each kind.\n\n"
    )
    for data in results.data_sets():
        if absent := sorted(results.models().keys() - results.models(data).keys()):
            text += f"On {data} no {listed(absent)} comes in this size.\n\n"
    text += _means(results, decision) + "\n" + _comparisons(own) + "\n"
    lines = []
    for found in decision.leads:
        ahead = f"{len(found.ahead)} of {len(found.comparisons)}"
        counts = ahead, str(len(found.better)), str(len(found.worse))
        name = found.model or "best KAN of each data set"
        lines.append((name, *counts, format_interval(found.ratio)))
    heads = ("model", "ahead on", "better on", "worse on", "median ratio")
    return text + (markdown_table(heads, lines) if lines else "")


def _samples(results: Results) -> str:
    """Compares models on the tables by C2ST, the share that a classifier assigns right."""
    tables = [data for data in results.data_sets() if results.judged(data) != "excess"]
    name = _name(results, KAN)
    found = [c for data in tables for c in compare(results, data, "c2st") if c.model == name]
    if not found:
        return ""
    return (
        "\nThe tables by C2ST, the share of rows that a classifier assigns right (0.5 is best):\n\n"
        + _comparisons(correct(found))
    )


def _searched(folder: Path) -> str:
    """Writes a table of the best settings, with the excess of the first, best and median try."""
    table = pd.DataFrame(json.loads((folder / "tuning.json").read_text()))
    lines = []
    for family, tries in table.groupby("family", sort=False):
        done = tries.dropna(subset=["value"])
        best = done.sort_values("value", kind="stable").iloc[0]
        first = tries["value"].iloc[:1]
        settings = ", ".join(
            f"{key} {f'{value:.3g}' if isinstance(value, float) else value}"
            for key, value in best["settings"].items()
        )
        numbers = (float(np.exp(v)) for v in (first.mean(), best["value"], done["value"].median()))
        lines.append(
            (str(family), str(len(tries)), *(format_number(1000 * v) for v in numbers), settings)
        )
    heads = ("family", "tries", "first", "best", "median", "settings of the best")
    return markdown_table(heads, lines)


def _kept(results: Results) -> str:
    """Says how closely trials kept to their budget of time, and how many steps models took."""
    rows = results.rows.dropna(subset=["train_cpu_seconds"])
    near = (rows["train_cpu_seconds"] / rows["budget"] - 1).abs() <= 0.01
    steps = rows.groupby("name", sort=False)["steps"].median()
    taken = ", ".join(f"{name} {count:,.0f}" for name, count in steps.items())
    return (
        f"Of {len(rows):,} trials at equal time {int(near.sum()):,} ended within 1 % of the "
        f"budget. Steps in the median: {taken}."
    )


def _ablation(results: Results) -> str:
    """Writes tables of every variant against the first model of its kind."""
    kinds = results.models()
    text = (
        "Ratios of mean excesses; a star says that one of the two is called better (p below 0.05 "
        "after Holm's correction over the data sets, and an interval that leaves out 0).\n\n"
    )
    for base in dict.fromkeys(kinds.values()):
        whole = next(name for name, kind in kinds.items() if kind == base)
        found = correct(
            [c for data in results.data_sets() for c in compare(results, data, baseline=whole)]
        )
        lines = []
        for name in kinds:
            own = [c for c in found if c.model == name and kinds[name] == base]
            if own:
                ratio = format_interval(Lead.of(results, name, own).ratio)
                cells = (f"{format_number(c.ratio)}{' *' * (c.winner is not None)}" for c in own)
                lines.append((name, *cells, ratio))
        heads = (f"against {whole}", *results.data_sets(), "median ratio")
        text += markdown_table(heads, lines) + "\n"
    return text


def write_results(parts: Sequence[Part], results: Path, page: Path) -> None:
    """Writes the finished results into the page, between its marks.

    Raises:
        KanDiffusionError: The page has no marks, or results cannot be read.
    """
    figures, text, first = results / "figures", "", ""
    for part in parts:
        folder = results / part.name
        if part.tuned is None:
            if (folder / "tuning.json").exists():
                text += f"\n## Found by the {part.title}\n\n{_searched(folder)}"
            continue
        studies = part.results(results)
        if not studies:
            continue
        text += f"\n## {part.title[:1].upper()}{part.title[1:]}\n"
        number = sum(len(found.rows) for found in studies)
        missing = sum(int((found.rows["error"] == "not run").sum()) for found in studies)
        if missing:
            text += f"\nSo far {number - missing:,} of {number:,} trials are finished.\n"
        if part.name.startswith("ablation"):
            text += f"\n{_ablation(studies[0])}"
            continue
        decisions = [decide(found) for found in studies]
        for found, decision in zip(studies, decisions, strict=True):
            own = [lead for lead in decision.leads if lead.model == _name(found, KAN)]
            if missing or not own:
                continue
            if found.match == "params":
                target = [judge_target(*own)] if part is PARTS[1] else []
                first += " ".join([judge_winner(*own), *target, say_lead(*own)]) + "\n"
            if found.match == "time" and part.name == "study":
                first += f"{judge_time(*own)} Its settings were found for 4,000 steps.\n"
            if found.match == "time" and part.title == AGAIN:
                first += f"{judge_time_again(*own)}\n"
        if not missing:
            text += "".join(f"\n{_kept(found)}\n" for found in studies if found.match == "time")
        text += f"\n{' '.join(overall(decision) for decision in decisions)}\n"
        drawn = folder / "figures" if "/" in part.name else figures
        for found, decision in zip(studies, decisions, strict=True):
            text += _of_budget(found, decision, drawn, page) + _samples(found)
    if not first:
        first = "Not finished yet.\n"
    before, mark, rest = page.read_text().partition(_FOUND[0])
    _, end, after = rest.partition(_FOUND[1])
    if not (mark and end):
        raise KanDiffusionError(f"'{page}' has not the lines {listed(_FOUND)}; restore them")
    write_text(page, f"{before}{mark}\n{first}{text}\n{end}{after}")


def main() -> None:
    """Writes the results of the verdict into its page."""
    write_results(PARTS, RESULTS, PAGE)
    print(f"Verdict: {PAGE}")


if __name__ == "__main__":
    try:
        main()
    except KanDiffusionError as error:
        sys.exit(f"error: {error}")
