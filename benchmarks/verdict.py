"""The verdict on KANs and MLPs as denoisers: ``make verdict``, or ``python benchmarks/verdict.py``.

The parts run one after another, each in a folder of ``results/verdict``: searches for settings with
equal effort, and studies with the settings that the searches found. Rows are written as trials
finish (``results.parquet``), so trials whose rows are committed are never trained again: on another
machine the same command continues from them. Then the tables and figures of the results are written
into ``docs/verdict.md``, below the plan; no number there is typed by hand.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd

from kan_diffusion.cli.progress import show_study_progress
from kan_diffusion.data.sources import load_dataset
from kan_diffusion.errors import KanDiffusionError, require_known
from kan_diffusion.files import write_bytes, write_text
from kan_diffusion.randomness import numpy_generator
from kan_diffusion.report import ReportContents, charts
from kan_diffusion.report.images import figure_png
from kan_diffusion.report.tables import format_half_width, format_interval, format_number, format_p
from kan_diffusion.study.budgets import SIZES, Budget
from kan_diffusion.study.calibration import estimate_seconds
from kan_diffusion.study.config import StudyConfig, TrialConfig, read_preset, read_study
from kan_diffusion.study.executors import Executor, default_workers, open_executor
from kan_diffusion.study.results.rows import Results, Setting, read_results
from kan_diffusion.study.results.statistics import Interval, mean_interval
from kan_diffusion.study.results.verdicts import (
    Comparison,
    Decision,
    Lead,
    compare,
    correct,
    decide,
    lead,
)
from kan_diffusion.study.results.wording import listed, overall, say_lead
from kan_diffusion.study.run import run_study
from kan_diffusion.study.tasks import task_of
from kan_diffusion.study.tuning import apply_tuned, read_tuned, tune

__all__ = ["PARTS", "Part", "judge_target", "run_parts", "write_results"]

KAN = "kan"
"""The family that the target is about."""

TRIES = 24
TRIES_AT_TIME = 32
BATCH_SIZES = (256, 512, 1024, 2048, 4096, 8192)
OPTIMIZERS = ("adam", "soap")
TUNED_ON = ("checkerboard", "two-spirals", "mixture-8d")

BETTER_ON, MEDIAN, MOONSHOT = 9, 0.8, 0.7
"""The target: how many of the 13 exact data sets, and bounds of the median ratio."""

RESULTS = Path("results/verdict")
PAGE = Path("docs/verdict.md")
_PLAN = "<!-- hours: written by `make verdict ARGS=--plan` -->\n", "<!-- end of hours -->\n"
_FOUND = "<!-- results: written by `make verdict` -->\n", "<!-- end of results -->\n"


@dataclass(frozen=True)
class Part:
    """A search or a study of the verdict.

    Attributes:
        name: Name of its folder.
        preset: The built-in study that it runs.
        tuned: The part that finds the settings of its models; None for a search.
        title: Its title in tables.
        batch_sizes: Samples per step that a search chooses from; none for those of the study.
        rehearsed: Whether sizes at equal time are rehearsed, not taken from the search.
    """

    name: str
    preset: str
    tuned: str | None
    title: str
    batch_sizes: tuple[int, ...] = ()
    rehearsed: bool = False

    @property
    def tries(self) -> int:
        """Tries of each family in a search; equal for all of them."""
        return TRIES_AT_TIME if self.batch_sizes else TRIES

    def study(self, results: Path) -> StudyConfig:
        """The study with the tuned settings; once it has begun, the study as it was saved then.

        Raises:
            KanDiffusionError: The settings have not been found yet.
        """
        begun = results / self.name / "study.yaml"
        if self.tuned is not None and begun.exists():
            return read_study(begun)
        study = read_preset(self.preset)
        if self.tuned is None:
            return study.with_data(TUNED_ON)
        found = apply_tuned(study, read_tuned(results / self.tuned / "tuned.json"))
        # Settings that define a variant override those tuned for its family.
        models = [
            model.model_copy(
                update={
                    "settings": {**model.settings, **own.settings},
                    "params": own.params if self.rehearsed else model.params,
                }
            )
            for model, own in zip(found.models, study.models, strict=True)
        ]
        return _buildable(found.model_copy(update={"models": tuple(models)}).pinned())


def _buildable(study: StudyConfig) -> StudyConfig:
    """Removes models from budgets whose size they cannot meet.

    Budgets of time stay as they are: their sizes are chosen among those that can be built.
    """
    datasets = {data.name: load_dataset(data, study.seed, 0) for data in study.data}
    budgets: list[Budget] = []
    for budget in study.budgets:
        if budget.match == "time":
            budgets.append(budget)
            continue
        fitting: dict[str, list[str]] = {}
        for trial in study.model_copy(update={"seeds": 1, "budgets": (budget,)}).trials():
            with suppress(KanDiffusionError):
                task_of(trial.data).build(trial, datasets[trial.data.name])
                fitting.setdefault(trial.data.name, []).append(trial.model.name)
        for models, group in groupby(fitting.items(), lambda pair: pair[1]):
            names = tuple(name for name, _ in group)
            budgets.append(budget.model_copy(update={"data": names, "models": tuple(models)}))
    return study.model_copy(update={"budgets": tuple(budgets)})


AGAIN = "equal time, again: 13 data sets"
"""Title of the part whose settings were searched at the budget of time."""

PARTS = (
    Part("tuning", "verdict", None, "search at 2,300 parameters"),
    Part(
        "study",
        "verdict",
        "tuning",
        "17 data sets; equal operations and time on six",
        rehearsed=True,
    ),
    Part("ablation", "verdict-ablation", "tuning", "the ablation"),
    Part("tuning-22000", "verdict-22000", None, "search at 22,000 parameters"),
    Part("study-22000", "verdict-22000", "tuning-22000", "22,000 parameters, six data sets"),
    Part("time/tuning", "verdict-time", None, "search at 8 s of training", BATCH_SIZES),
    Part("time/study", "verdict-time", "time/tuning", AGAIN),
    Part("time/first", "verdict-time-first", "tuning", "equal time, the first settings again"),
    Part(
        "time/study-60",
        "verdict-time-60",
        "time/tuning",
        "equal time, ample: 60 s on six data sets",
        rehearsed=True,
    ),
)


def run_parts(parts: Sequence[Part], results: Path, executor: Executor) -> None:
    """Runs the unfinished trials of some parts, in order.

    Raises:
        KanDiffusionError: A trial could not be run, or settings are missing.
    """
    for part in parts:
        folder, study = results / part.name, part.study(results)
        with show_study_progress(part.title) as progress:
            if part.tuned is None:
                if not (folder / "tuned.json").exists():
                    tune(
                        study, folder, tries=part.tries, optimizers=OPTIMIZERS,
                        batch_sizes=part.batch_sizes, executor=executor,
                        on_plan=progress.start, on_event=progress.move, keep_rows=True,
                    )  # fmt: skip
                continue
            done = run_study(
                study, folder, executor=executor, on_plan=progress.start, on_event=progress.move,
                keep_rows=True,
            )  # fmt: skip
        for trial, reason in done.failures.items():
            raise KanDiffusionError(f"trial {trial} of {folder} could not be run: {reason}")


# --- the plan ---------------------------------------------------------------------------------


def _planned(part: Part, results: Path) -> tuple[list[TrialConfig], int]:
    """Returns the trials of a part and how often a list of that length runs: once, or per try."""
    searched = next(p for p in PARTS if p.name == (part.tuned or part.name))
    known = (results / searched.name / "tuned.json").exists()
    study = part.study(results) if known or part.tuned is None else read_preset(part.preset)
    if part.tuned is None:
        study = study.model_copy(update={"seeds": 1, "budgets": study.budgets[:1]})
    return study.trials(), part.tries if part.tuned is None else 1


def plan_table(parts: Sequence[Part], results: Path, workers: int) -> str:
    """Counts trials and estimates hours, a line for each budget of each part, in Markdown."""
    lines, whole, all_trials = [], 0.0, 0
    for part in parts:
        trials, times = _planned(part, results)
        of_budget = sorted(trials, key=lambda t: (str(t.match), t.budget or 0.0))
        for _, group in groupby(of_budget, lambda t: (t.match, t.budget)):
            own = list(group)
            first = own[0]
            amount = Setting(first.data.name, first.match, first.budget).amount
            hours = times * _seconds(own, workers) / 3600
            if first.match == "time" and part.rehearsed:
                pairs = {(_data(trial), _model(trial)) for trial in own}
                tried = len(SIZES) * len(pairs)
                seconds = tried * (first.budget or 0.0) / workers
                lines.append(
                    (
                        "search for sizes", amount, str(len({data for data, _ in pairs})),
                        str(len({model for _, model in pairs})), f"{len(SIZES)} sizes", str(tried),
                        f"{seconds / 3600:.2f}",
                    )
                )  # fmt: skip
                whole, all_trials = whole + seconds / 3600, all_trials + tried
            whole, all_trials = whole + hours, all_trials + times * len(own)
            counts = [len({key(t) for t in own}) for key in (_data, _model)]
            seeds = (
                f"{times} tries" if part.tuned is None else f"{len({t.seed for t in own})} seeds"
            )
            lines.append(
                (
                    part.title,
                    amount,
                    *map(str, counts),
                    seeds,
                    f"{times * len(own):,}",
                    f"{hours:.2f}",
                )
            )
    heads = ("part", "equal", "data sets", "families", "each", "trials", "hours")
    return _table(heads, [*lines, ("all", "", "", "", "", f"{all_trials:,}", f"{whole:.1f}")])


def _data(trial: TrialConfig) -> str:
    return trial.data.name


def _model(trial: TrialConfig) -> str:
    return trial.model.name


def _seconds(trials: Sequence[TrialConfig], workers: int) -> float:
    """Estimates wall-clock seconds of trials; for a budget of time they follow from the budget."""
    if trials[0].match != "time":
        return estimate_seconds(trials, workers)
    return sum(trial.budget or 0.0 for trial in trials) / workers


# --- the results ------------------------------------------------------------------------------


def judge_winner(found: Lead) -> str:
    """Says which side wins at equal parameters."""
    count, better, worse = len(found.comparisons), len(found.better), len(found.worse)
    winner = (
        "The MLP wins" if worse > better else "The KAN wins" if better > worse else "Neither wins"
    )
    return (
        f"**{winner} at {found.comparisons[0].setting.amount}**: of {count} data sets the KAN is "
        f"called better on {better or 'none'}, the best MLP on {worse or 'none'}."
    )


def judge_target(found: Lead) -> str:
    """Says whether the target was met."""
    better = len(found.better)
    judged = (("target", MEDIAN), ("moonshot", MOONSHOT))
    met = {name: better >= BETTER_ON and found.ratio.mean <= ratio for name, ratio in judged}
    said = (
        f"The {name} (better on at least {BETTER_ON}, a median ratio of at most {ratio}) is "
        f"{'met' if met[name] else 'not met'}."
        for name, ratio in judged
        if name == "target" or met["target"]
    )
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


def _by_the_rule(found: Lead) -> str:
    """Applies the rule of equal time, again: a model ``wins``, ``loses`` or does ``neither``."""
    better, worse, ratio = len(found.better), len(found.worse), found.ratio
    wins = better > worse and ratio.high is not None and ratio.high < 1
    loses = worse > better or (ratio.low is not None and ratio.low > 1)
    return "wins" if wins else "loses" if loses else "neither"


def judge_time_again(found: Lead) -> str:
    """Says who wins at equal time by the plan of the second answer."""
    better, worse, ratio = len(found.better), len(found.worse), found.ratio
    winners = {"wins": "The KAN wins", "loses": "The MLP wins", "neither": "Neither wins"}
    winner = winners[_by_the_rule(found)]
    return (
        f"**{winner} at {found.comparisons[0].setting.amount}**, each model with settings found at "
        f"that budget: of {len(found.comparisons)} data sets the KAN is called better on "
        f"{better or 'none'}, the best MLP on {worse or 'none'}; the ratio is "
        f"{format_interval(ratio)} in the median."
    )


def say_losers(results: Results, leads: Sequence[Lead]) -> str:
    """Says which MLPs lose to the best of the others by that rule."""
    kinds = results.models()
    mlps = [found for found in leads if kinds[str(found.model)] == "mlp"]
    losers = [str(found.model) for found in mlps if _by_the_rule(found) == "loses"]
    return (
        f"By the same rule {len(losers)} of the {len(mlps)} MLPs lose to the best of the others"
        f"{': ' * bool(losers)}{listed(losers or [''])}."
    )


def _table(heads: Iterable[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [list(heads), *([text.replace("\n", " ") for text in line] for line in lines)]
    rows.insert(1, ["---"] * len(rows[0]))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _name(results: Results, family: str) -> str:
    """The name of the model of a family."""
    rows = results.rows
    return str(rows.loc[rows["family"] == family, "name"].iloc[0])


def _means(results: Results, settings: Sequence[Setting], decision: Decision) -> str:
    """Writes a table of means with half of their intervals, the best of each kind in bold."""
    kinds, columns = results.models(), {}
    for setting in settings:
        values = results.values(setting.label, results.judged(setting.label))
        # Excesses in thousandths.
        scale = 1000.0 if results.judged(setting.label) == "excess" else 1.0
        # Of the models that have half of their seeds, the best first.
        ranked = decision.verdicts[setting.label].means
        best = {next((n for n in ranked if kinds[n] == kind), None) for kind in ("kan", "mlp")}
        columns[setting.data] = {
            name: f"**{text}**" if name in best else text
            for name in values
            for text in [format_half_width(mean_interval(scale * values[name]))]
        }
    lines = [(name, *(columns[data].get(name, "–") for data in columns)) for name in kinds]
    return _table(["model", *columns], [line for line in lines if set(line[1:]) != {"–"}])


def _comparisons(comparisons: Sequence[Comparison]) -> str:
    """Writes a table of comparisons: difference with interval, ratio, tests."""
    thousand = 1.0 if comparisons[0].measure == "c2st" else 1000.0
    lines = []
    for c in comparisons:
        ends = c.ratio_interval or (None, None)
        ratio = replace(c.interval, mean=c.ratio, low=ends[0], high=ends[1])
        scaled = replace(
            c.interval,
            mean=thousand * c.interval.mean,
            low=None if c.interval.low is None else thousand * c.interval.low,
            high=None if c.interval.high is None else thousand * c.interval.high,
        )
        lines.append((
            c.setting.data, c.model, c.baseline, format_interval(scaled), format_interval(ratio),
            str(c.interval.n), format_p(c.p_value), format_p(c.p_holm),
            c.winner or "not distinguishable",
        ))  # fmt: skip
    difference = "difference × 1,000" if thousand > 1 else "difference"
    heads = ("data", "model", "against", difference, "ratio", "seeds", "p", "p, Holm", "better")
    return _table(heads, lines)


_HALVINGS = 99_999
_COUNTS = ("ahead on", "better on", "worse on", "median ratio")


def _counts(found: Lead) -> tuple[str, str, str]:
    """Counts the data sets on which a model is ahead, better and worse."""
    ahead = f"{len(found.ahead)} of {len(found.comparisons)}"
    return ahead, str(len(found.better)), str(len(found.worse))


def _three_decimals(ratio: Interval) -> str:
    return format_interval(ratio, 4 if ratio.mean >= 1 else 3)


def _of_budget(results: Results, settings: Sequence[Setting], figures: Path, page: Path) -> str:
    """Writes the whole section of one budget."""
    contents = ReportContents("", "", results)
    decision = contents.decision
    amount, name = settings[0].amount, _name(results, KAN)
    key = settings[0].budgeted
    leads = [found for found in decision.leads if found.comparisons[0].setting.budgeted == key]
    own = [c for c in decision.comparisons if c.setting.budgeted == key and c.model == name]
    if not own:  # no trial of it has been run yet
        return ""
    text = f"\n### At {amount}\n\n"
    for found in leads:
        if found.model == name:
            text += f"{say_lead(found)}\n\n"
            file = figures / f"{amount.replace(' ', '-').replace(',', '')}.png"
            write_bytes(file, figure_png(charts.lead_figure(contents, found)))
            place = os.path.relpath(file, page.parent)
            text += f"![{name} against the best MLP, {amount}]({place})\n\n"
    text += (
        "Means over seeds ± half of Student's 95 % interval, excesses in thousandths, tables by "
        "held-out loss; in bold the best of each kind.\n\n"
    )
    everyone = {n for s in settings for n in results.models(s.label)}
    for setting in settings:
        absent = [n for n in everyone if n not in results.models(setting.label)]
        if absent:
            text += f"On {setting.data} no {listed(sorted(absent))} comes in this size.\n\n"
    text += _means(results, settings, decision) + "\n" + _comparisons(own) + "\n"
    lines = [
        (
            found.model or "best KAN of each data set",
            *_counts(found),
            format_interval(found.ratio),
        )
        for found in leads
    ]
    return text + (_table(("model", *_COUNTS), lines) if lines else "")


def _lead_against(results: Results, model: str, baselines: Mapping[str, str]) -> Lead:
    """Compares a model with one other model in each setting, named by the setting's label."""
    found: list[Comparison] = []
    for setting in results.settings():
        rows, baseline = results.of_setting(setting.label), baselines[setting.label]
        two = replace(results, rows=rows[rows["name"].isin((model, baseline))])
        found += compare(two, setting, baseline=baseline)
    return lead(results, model, correct(found))


def _against_others(results: Results, decision: Decision) -> list[Lead]:
    """Compares every model with the best of all the others in each setting."""
    ranked = {label: verdict.means for label, verdict in decision.verdicts.items()}
    return [
        _lead_against(
            results,
            model,
            {label: next(n for n in means if n != model) for label, means in ranked.items()},
        )
        for model in results.models()
    ]


def _chosen_on_half(results: Results, model: str) -> Interval:
    """Chooses the best of the others on one half of the seeds and judges it on the other half.

    Each draw halves the seeds of each data set at random and gives the median of the ratios.

    Returns:
        The mean of these medians, and the range that holds 95 % of them.
    """
    generator, ratios = numpy_generator("halves", 0), []
    for setting in results.settings():
        values = results.values(setting.label, "excess").dropna()
        own, others = values[model].to_numpy(), values.drop(columns=model).to_numpy()
        order = generator.permuted(np.tile(np.arange(len(values)), (_HALVINGS, 1)), axis=1)
        choosing, judging = np.split(order, [len(values) // 2], axis=1)
        best = others[choosing].mean(axis=1).argmin(axis=1)[:, None]
        ratios.append(own[judging].mean(axis=1) / others[judging, best].mean(axis=1))
    medians = np.median(ratios, axis=0)
    low, high = np.quantile(medians, [0.025, 0.975])
    return Interval(float(medians.mean()), float(low), float(high), len(ratios))


def _everyone(results: Results, leads: Sequence[Lead]) -> str:
    """Writes every family against the best of the others, and the KAN against each MLP."""
    name, settings = _name(results, KAN), results.settings()
    means = pd.DataFrame({s.label: results.values(s.label, "excess").mean() for s in settings})
    excess = np.exp(np.log(means).mean(axis=1))
    halves = {found.model: _chosen_on_half(results, str(found.model)) for found in leads}
    lines = [
        (
            str(found.model), *_counts(found), _three_decimals(found.ratio), _by_the_rule(found),
            _three_decimals(halves[found.model]), f"{1000 * excess[found.model]:.3f}",
        )
        for found in leads
    ]  # fmt: skip
    text = (
        "\n### Every family against the best of the others\n\n"
        "On each data set a family is compared with the best of all the others, chosen and tested "
        "as the best MLP is for the KAN. *By the rule* is what the plan's sentence on a win says "
        "of it. *Chosen on a half* says what the choice on the judged seeds costs: the best of "
        "the others is chosen on a random half of the seeds of each data set, and both are judged "
        f"on the other half; the mean of the medians of {_HALVINGS:,} such draws, and the range "
        "that holds 95 % of them. *Excess*: the geometric mean over the data sets of the mean "
        "excesses, in thousandths.\n\n"
    )
    text += _table(("model", *_COUNTS, "by the rule", "chosen on a half", "excess"), lines)
    lines = [
        (mlp, *_counts(found), _three_decimals(found.ratio), f"{excess[name] / excess[mlp]:.3f}")
        for mlp, kind in results.models().items()
        if kind == "mlp"
        for found in [_lead_against(results, name, {s.label: mlp for s in settings})]
    ]
    text += f"\nThe {name} against one MLP throughout, by the same test:\n\n"
    return text + _table(("against", *_COUNTS, "ratio of geometric means"), lines)


def _samples(results: Results, settings: Sequence[Setting]) -> str:
    """Compares models on the tables by C2ST, the share that a classifier assigns right."""
    tables = [s for s in settings if results.judged(s.label) != "excess"]
    name = _name(results, KAN)
    found = [c for s in tables for c in compare(results, s, "c2st") if c.model == name]
    if not found:
        return ""
    return (
        "\nThe tables by C2ST, the share of rows that a classifier assigns right (0.5 is best):\n\n"
        + _comparisons(correct(found))
    )


def _budgets(results: Results) -> list[list[Setting]]:
    found: dict[object, list[Setting]] = {}
    for setting in results.settings():
        found.setdefault(setting.budgeted, []).append(setting)
    return list(found.values())


def _searched(folder: Path) -> str:
    """Writes a table of the best settings, with the excess of the first, best and median try."""
    table = pd.DataFrame(json.loads((folder / "tuning.json").read_text()))
    lines = []
    for family, tries in table.groupby("family", sort=False):
        done = tries.dropna(subset=["value"])
        best = done.sort_values(["value", "try"]).iloc[0]
        first = done[done["try"] == 0]["value"]
        settings = ", ".join(f"{key} {_short(value)}" for key, value in best["settings"].items())
        numbers = (float(np.exp(v)) for v in (first.mean(), best["value"], done["value"].median()))
        lines.append(
            (str(family), str(len(tries)), *(format_number(1000 * v) for v in numbers), settings)
        )
    heads = ("family", "tries", "first", "best", "median", "settings of the best")
    return _table(heads, lines)


def _kept(results: Results) -> str:
    """Says how closely trials kept to their budget of time, and how many steps models took."""
    rows = results.rows[results.rows["match"] == "time"].dropna(subset=["train_cpu_seconds"])
    near = (rows["train_cpu_seconds"] / rows["budget"] - 1).abs() <= 0.01
    steps = rows.groupby("name", sort=False)["steps"].median()
    taken = ", ".join(f"{name} {count:,.0f}" for name, count in steps.items())
    return (
        f"Of {len(rows):,} trials at equal time {int(near.sum()):,} ended within 1 % of the "
        f"budget. Steps in the median: {taken}."
    )


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


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
            [c for s in results.settings() for c in compare(results, s, baseline=whole)]
        )
        lines = []
        for name in kinds:
            own = [c for c in found if c.model == name and kinds[name] == base]
            if own:
                ratio = format_interval(lead(results, name, own).ratio)
                cells = (f"{format_number(c.ratio)}{' *' * (c.winner is not None)}" for c in own)
                lines.append((name, *cells, ratio))
        heads = (f"against {whole}", *(s.data for s in results.settings()), "median ratio")
        text += _table(heads, lines) + "\n"
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
        if not (folder / "results.parquet").exists():
            continue
        found = read_results(folder)
        text += f"\n## {part.title[:1].upper()}{part.title[1:]}\n"
        missing = int((found.rows["error"] == "not run").sum())
        if missing:
            done = len(found.rows) - missing
            text += f"\nSo far {done:,} of {len(found.rows):,} trials are finished.\n"
        if part.name.startswith("ablation"):
            text += f"\n{_ablation(found)}"
            continue
        decision, name = decide(found), _name(found, KAN)
        leads = {
            own.comparisons[0].setting.match: own for own in decision.leads if own.model == name
        }
        if not missing and (equal := leads.get("params")) is not None:
            target = [judge_target(equal)] if part is PARTS[1] else []
            first += " ".join([judge_winner(equal), *target, say_lead(equal)]) + "\n"
            if part.name == "study" and "time" in leads:
                first += f"{judge_time(leads['time'])} Its settings were found for 4,000 steps.\n"
        others = _against_others(found, decision) if part.title == AGAIN and not missing else []
        if others and "time" in leads:
            first += f"{judge_time_again(leads['time'])} {say_losers(found, others)}\n"
        if not missing and (found.rows["match"] == "time").any():
            text += f"\n{_kept(found)}\n"
        text += f"\n{overall(decision)}\n"
        drawn = folder / "figures" if "/" in part.name else figures
        for settings in _budgets(found):
            text += _of_budget(found, settings, drawn, page) + _samples(found, settings)
        if others:
            text += _everyone(found, others)
    if not first:
        first = "Not finished yet.\n"
    _fill(page, _FOUND, f"\n{first}{text}\n")


def _fill(page: Path, marks: tuple[str, str], text: str) -> None:
    """Replaces what stands between two marks of a page."""
    before, mark, rest = page.read_text().partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not (mark and end):
        raise KanDiffusionError(f"'{page}' has not the lines {listed(marks)}; restore them")
    write_text(page, before + mark + text + end + after)


def main() -> None:
    """Runs the unfinished parts of the verdict and writes its results."""
    parser = argparse.ArgumentParser(prog="make verdict", description=main.__doc__)
    parser.add_argument("--plan", action="store_true", help="count trials and hours, train nothing")
    parser.add_argument("--page", action="store_true", help="write the results there are, alone")
    parser.add_argument("--parts", help=f"some of {', '.join(part.name for part in PARTS)}")
    parser.add_argument("--workers", type=int, help="trials side by side (one for each core)")
    given = parser.parse_args()
    known = [part.name for part in PARTS]
    names = given.parts.split(",") if given.parts else known
    for name in names:
        require_known("part of the verdict", name, known)
    parts = [part for part in PARTS if part.name in names]
    workers = given.workers or default_workers("cpu")
    if given.plan:
        _fill(PAGE, _PLAN, f"\n{plan_table(parts, RESULTS, workers)}\n")
        return
    if not given.page:
        with open_executor(workers=workers, device="cpu") as executor:
            run_parts(parts, RESULTS, executor)
    write_results(PARTS, RESULTS, PAGE)
    print(f"Verdict: {PAGE}")


if __name__ == "__main__":
    try:
        main()
    except KanDiffusionError as error:
        sys.exit(f"error: {error}")
