"""The page of a study: verdicts first, then a part for each data set, then every trial."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from kan_diffusion.data.datasets import Dataset
from kan_diffusion.data.sources import load_dataset
from kan_diffusion.evaluation.denoising import draw_noised_points
from kan_diffusion.files import write_text
from kan_diffusion.processes import signal_warning
from kan_diffusion.randomness import torch_generator
from kan_diffusion.report.charts import (
    Array,
    by_level,
    lead_forest,
    lines,
    losses,
    model_forest,
    smoothed_curve,
)
from kan_diffusion.report.clouds import Motion
from kan_diffusion.report.page import Page, Section, badge
from kan_diffusion.report.style import INK, ModelStyle, model_styles
from kan_diffusion.report.tables import BADGES, REAL_ROW, lead_table, model_table, trial_table
from kan_diffusion.report.views import EXACT, exact_process, recorded, view_of
from kan_diffusion.study.folder import STUDY, TrialResult, load_curves, recorded_steps
from kan_diffusion.study.results.rows import MEASURES, Results
from kan_diffusion.study.results.statistics import SIGNIFICANCE, smallest_permutation_p
from kan_diffusion.study.results.verdicts import Comparison, Verdict, decide
from kan_diffusion.study.results.wording import capitalised, listed, overall, say
from kan_diffusion.study.run import StudyResults, environment, read_environment

MOST_BYTES = 2_000_000
"""Most bytes of a page."""
_SHARES = (1.0, 0.3, 0.0)
"""Shares of the usual sizes of clouds and players that are tried until a page is small enough."""
_POINTS, _PLAYERS, _LARGEST_PLAYER = 40_000, 700_000, 180_000
"""Most points in all clouds of a page, and approximate bytes of all its players, and of one."""
_MOST_TRIALS = 1_000
_MANY_MODELS = 6
_KINDS = {"kan": "KANs", "mlp": "MLPs", "other": "others"}
_TO_JUDGE_FLOOR, _RANGES = 2_000, 50


def write_report(
    study: StudyResults,
    folder: str | Path,
    command: str = "",
    *,
    figures: bool = True,
    runs: bool = False,
) -> Path:
    """Writes ``report.html``.

    Args:
        study: The study.
        folder: The folder to write to. An existing page is replaced whole or not at all.
        command: The command that runs it again.
        figures: Whether the page has figures.
        runs: Whether the trials are finished runs that are shown side by side.

    Returns:
        The path of the page, which has at most ``MOST_BYTES``.

    Raises:
        RunFolderError: A file of a finished trial is missing or damaged, or the page cannot be
            written.
    """
    text = ""
    for share in _SHARES if figures else (0.0,):
        text = _page(study, command, share, runs).__html__()
        if len(text.encode()) <= MOST_BYTES:
            break
    path = Path(folder) / "report.html"
    write_text(path, text)
    return path


def _page(study: StudyResults, command: str, share: float, runs: bool) -> Page:
    """Makes the page of a study, whose clouds and players have a share of their usual size."""
    config = study.config
    for source in config.data:
        source.require_recorded()
    datasets = {source.name: load_dataset(source, config.seed, 0) for source in config.data}
    results = Results.of(study.rows, config.evaluation.metrics, config.data)
    decision, styles = decide(results), model_styles(results.rows)
    verdicts, several = decision.verdicts, len(decision.verdicts) > 1
    page = Page(config.title, config.question, drawn=share > 0, linked=several)
    plain = [say(verdict) for verdict in verdicts.values() if not verdict.outcome]
    page.say(overall(decision), *plain, kind="answer")
    if several:
        judged = [verdict for verdict in verdicts.values() if verdict.outcome]
        page.items([_badged(verdict, True) for verdict in judged], "verdicts")
    warnings = [*_warnings(study, datasets, runs), *results.notes]
    page.items(warnings, "warnings", "Before you read the numbers")
    if several:
        for lead in decision.leads:
            if lead.model is None:
                page.figure(
                    partial(lead_forest, results, lead, styles),
                    "Excess of the best KAN as a multiple of that of the best MLP, on each data "
                    f"set with an exact oracle; left is better. {_MARKS}",
                    "Best KAN against best MLP on each data set",
                )
        page.table(lead_table(decision, styles), "Models over all data sets")
        page.say(_LEADS if decision.leads else "", kind="note")
    shown: set[str] = set()
    for data, verdict in verdicts.items():
        part = page.section(data) if several else page
        if verdict.outcome:
            part.say(_badged(verdict, False), kind="verdict")
        comparisons = decision.of_data(data)
        if results.of_data(data)[results.judged(data)].notna().any():
            _add_forest(part, results, data, styles, comparisons)
        if trials := [t for t in study.trials if t.row["data"] == data and t.row["error"] is None]:
            most = max(int(share * _POINTS / (len(verdicts) * len(styles))), 100)
            largest = int(share * min(_LARGEST_PLAYER, _PLAYERS / len(verdicts)))
            _add_lines(part, results, data, styles, trials, datasets[data])
            _add_samples(part, data, styles, trials, datasets[data], most, largest)
        frame, caption, feet = model_table(results, decision, data, styles)
        part.table(frame, caption, feet)
        shown |= {*frame, *frame["model"]}
    page.say(_explanation(results, shown), kind="note")
    if runs:  # which were trained each in its way, nobody noted where
        trainings = {str(trial.row["name"]): trial.config.training for trial in study.trials}
        page.section("Training").facts({
            name: ", ".join(f"{key} {value}" for key, value in training.model_dump().items())
            for name, training in trainings.items()
        })  # fmt: skip
    else:
        page.section("Settings").code(config.to_yaml())
    _add_trials(page.section("All trials"), results, runs)
    if not runs:
        known = (study.folder / STUDY).exists()
        versions = read_environment(study.folder) if known else environment()
        page.section("Environment").facts({**_dates(study.trials), **versions})
    page.section("Run it again").code(command)
    return page


_MARKS = (
    "Small marks are seeds, the large mark is the mean, the line its 95 % interval; an arrowhead "
    "says that it goes on beyond the axis; n: seeds."
)
_SHOWN = {
    "excess": "Excess: mean over t of the squared distance between a model’s prediction and that "
    "of the oracle, both as predicted noise; 0 is perfect.",
    "NLL": "NLL: negative log-likelihood of held-out points through the probability-flow ODE, in "
    "nats a point.",
    "− best MLP": "“− best MLP”: paired difference of the judged measure to the MLP with the "
    "lowest mean, with its 95 % bootstrap interval; p: sign-flip test, corrected by Holm’s method "
    "over the data sets.",
    REAL_ROW: "The row “real against real” is what a perfect model would score.",
}
"""What columns and rows of tables of models mean."""
_LEADS = (
    "Each model against the best MLP of each data set with an exact oracle. Ahead on: the data "
    "sets where its mean excess is lower. Better and worse on: those where it, or that MLP, is "
    "called better (p below 0.05 after Holm’s correction, and an interval that leaves out 0). "
    "Median ratio: of its mean excess to that MLP’s, with the 95 % bootstrap interval over seeds."
)


def _badged(verdict: Verdict, with_label: bool) -> str:
    assert verdict.outcome is not None
    return badge(BADGES[verdict.outcome], verdict.outcome) + " " + say(verdict, with_label)


def _add_forest(
    part: Section,
    results: Results,
    data: str,
    styles: Mapping[str, ModelStyle],
    comparisons: Mapping[str, Comparison],
) -> None:
    """Adds the judged measure of the models of a data set."""
    measured = f"{capitalised(MEASURES[results.judged(data)])} of each model"
    against = (
        " relative to the best MLP (vertical line); bold: p below 0.05 after Holm’s correction"
    )
    part.figure(
        partial(model_forest, results, data, styles, comparisons),
        f"{measured}{against if comparisons else ''}. Left is better. {_MARKS}",
        f"{measured}, {data}",
    )


def _add_lines(
    part: Section,
    results: Results,
    data: str,
    styles: Mapping[str, ModelStyle],
    trials: Sequence[TrialResult],
    dataset: Dataset,
) -> None:
    """Adds the loss of the models of a data set by noise level, and while they were trained."""

    def add(
        points: pd.DataFrame,
        title: str,
        caption: str,
        labels: tuple[str, str],
        steps: bool = False,
        error: float | None = None,
    ) -> None:
        """Adds a figure of all models, or one of each kind where there are many."""
        groups: list[tuple[str, pd.DataFrame, pd.DataFrame | None]] = [("", points, None)]
        if points["name"].nunique() > _MANY_MODELS:  # a figure for each kind, the others behind
            kinds = points["name"].map(results.models(data))
            groups = [
                (f" of {word}", points[kinds == kind], points[kinds != kind])
                for kind, word in _KINDS.items()
                if (kinds == kind).any()
            ]
        for words, group, behind in groups:
            draw = partial(lines, group, styles, labels, steps=steps, behind=behind, error=error)
            part.figure(draw, f"{title}{words}: {caption}", f"{title}{words}, {data}")

    levels, curves = levels_of(trials), curves_of(trials)
    if len(levels):
        shown = "excess" if levels["excess"].notna().any() else "heldout_loss"
        add(
            by_level(levels, shown),
            f"{capitalised(MEASURES[shown])} by noise level",
            "mean over seeds in ranges of noise levels, against log(α²/σ²); band: 95 % interval. "
            "Ranges whose estimate is not above 0 are not drawn.",
            ("log SNR: more noise ← → less noise", MEASURES[shown]),
        )
    if curves:
        floor, error, said = results.of_data(data)["floor"].mean(), None, ""
        loss = "training loss, running mean"
        if np.isfinite(floor):
            error, loss = floor_error(trials[0], dataset), f"training loss − floor ({floor:.4g})"
            said = (
                " The floor is the loss of the exact oracle, which no denoiser can beat on "
                f"average. It was measured on {trials[0].config.judging.num_noised:,} noised "
                f"samples, so it is known within ± {error:.2g} (grey: its 95 % interval, where the "
                "axis is linear); a loss is of other samples, those trained on."
            )
        add(
            losses(curves, floor if error else 0.0),
            "Training losses",
            f"running means over windows that grow with the step; band: range of the seeds.{said}",
            ("training step", loss),
            True,
            error,
        )


def _add_samples(
    part: Section,
    data: str,
    styles: Mapping[str, ModelStyle],
    trials: Sequence[TrialResult],
    dataset: Dataset,
    most: int,
    largest: int,
) -> None:
    """Adds samples, at most ``most`` points of a model, and players of ``largest`` bytes.

    They are of the first seed of each model of a data set.
    """
    first: dict[str, TrialResult] = {}
    for trial in trials:
        first.setdefault(str(trial.row["name"]), trial)
    view, colours = view_of(trials[0].config.data), {n: s.colour for n, s in styles.items()}
    drawn = {
        name: trial for name, trial in first.items()
        if trial.config.judging.num_samples and trial.row.get("sample_seconds") is not None
    }  # fmt: skip
    if drawn:
        part.figure(
            partial(view.panels, dataset, drawn, colours, most),
            "Fresh real samples, which no model was trained on, beside those that each model draws "
            "(first seed).",
            f"Samples beside real ones, {data}",
            largest,
        )
    moving = {name: trial for name, trial in first.items() if recorded_steps(trial.folder)}
    if not moving:
        return

    def motion() -> Motion:
        states = {name: list(recorded(t, dataset).values())[-1] for name, t in moving.items()}
        if dataset.density is not None:
            states[EXACT] = exact_process(trials[0].config, dataset)
        count = len(next(iter(states.values())))
        labels = [f"t = {time:.1f} T" for time in np.linspace(1, 0, count)]
        return view.motion(states, {**colours, EXACT: INK}, labels)

    models = "every model" if len(moving) == len(first) else listed(list(moving))
    exact = " beside that of the exact denoiser" if dataset.density is not None else ""
    part.figure(
        motion,
        f"The reverse process of {models} after training{exact}, all from the same noise "
        "(first seed). Between recorded times, a tenth of T apart, it moves straight.",
        f"From noise to samples, {data}",
        largest,
    )


def floor_error(trial: TrialResult, dataset: Dataset) -> float:
    """Estimates half the width of the 95 % interval of the floor that a trial was judged with.

    The floor is the mean loss of the oracle on a draw in which every timestep occurs equally often,
    so that its error comes from the spread of losses at nearly equal timesteps.
    """
    process, generator = trial.config.process, torch_generator("floor's error", dataset.name)
    draw = draw_noised_points(dataset, process, _TO_JUDGE_FLOOR, generator)
    assert draw.mean is not None  # a floor has an oracle
    at = draw.alpha, draw.sigma
    prediction = process.prediction_of_mean(draw.mean, draw.noised, *at)
    target = process.target(draw.clean, draw.noise, *at)
    each = process.loss_of(prediction, target, reduction="none").flatten(1).mean(dim=1)
    variance = each.reshape(_RANGES, -1).var(dim=1).mean()
    return 1.96 * float(variance / trial.config.judging.num_noised) ** 0.5


def levels_of(trials: Sequence[TrialResult]) -> pd.DataFrame:
    """Reads excess and held-out loss of trials in ranges of noise levels.

    Returns:
        Columns ``name``, ``seed``, ``t_low``, ``t_high`` and ``t_mid`` (fractions of T),
        ``log_snr``, ``excess`` and ``heldout_loss``.
    """
    levels = [{"name": t.row["name"], **level} for t in trials for level in t.levels]
    return pd.DataFrame(levels)


def curves_of(trials: Sequence[TrialResult]) -> dict[str, list[tuple[Array, Array]]]:
    """Reads the training losses of trials, smoothed at once: there may be millions of them.

    Returns:
        Steps and losses, (n,) each, of each trial of a model that was trained, by its name.

    Raises:
        RunFolderError: A file is missing or damaged.
    """
    curves: dict[str, list[tuple[Array, Array]]] = {}
    for trial in trials:
        curve = load_curves(trial.folder)
        if len(curve):  # a stage of an explanation has none
            smoothed = smoothed_curve(curve["step"].to_numpy(), curve["loss"].to_numpy())
            curves.setdefault(str(trial.row["name"]), []).append(smoothed)
    return curves


def _dates(trials: Sequence[TrialResult]) -> dict[str, str]:
    """Says from when to when trials were trained, and judged."""
    dates = {}
    for what in ("trained", "judged"):
        parts = [getattr(trial, what) for trial in trials]
        if days := sorted({part.date[:10] for part in parts if part is not None}):
            dates[what] = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    return dates


def _warnings(study: StudyResults, datasets: Mapping[str, Dataset], runs: bool) -> list[str]:
    """Says what a reader must know before believing the numbers."""
    config, trials, warnings = study.config, study.trials, []
    if any(trial.config.evaluation.effort == "quick" for trial in trials):
        warnings.append(
            "This is a first look: models were judged quickly, by few points, samples and trees. "
            "A full judgement judges them again and trains none of them again."
        )
    if (mismatch := signal_warning(config.process)) is not None:
        warnings.append(capitalised(mismatch) + ".")
    if config.process.loss == "huber":
        warnings.append(
            "The Huber loss does not aim at the posterior mean, which the oracle gives; a denoiser "
            "trained with it can have a loss a little below the floor drawn here."
        )
    without = [name for name, dataset in datasets.items() if dataset.oracle == "none"]
    if without:
        warnings.append(
            f"No oracle is known for {listed(without)}: models are judged by their held-out loss "
            "there, and what the best possible one would score is not known."
        )
    if config.seeds < 10:
        reach = len(config.data) * smallest_permutation_p(config.seeds)
        more = ", and an exact paired test needs more to call a difference"
        warnings.append(
            f"{config.seeds} seed{'s' if config.seeds != 1 else ''} a model: intervals are wide"
            f"{more if reach >= SIGNIFICANCE else ''}."
        )
    chosen = dict.fromkeys(
        str(trial.row["name"])
        for trial in trials
        if runs and trial.row.get("stage") is not None and trial.row.get("oracle") == "none"
    )
    if chosen:
        warnings.append(
            f"{capitalised(listed(list(chosen)))} came about by choices that were made on these "
            "held-out rows, so the numbers are a little too good for "
            f"{'it' if len(chosen) == 1 else 'them'}; fresh rows would tell."
        )
    return warnings


def _explanation(results: Results, shown: Collection[str]) -> str:
    """Explains the columns of tables of models that are shown."""
    metrics = [
        f"{metric.label}: {metric.title}{f' ({metric.unit})' if metric.unit else ''}"
        f"{'' if metric.better == 'lower' else '; higher is better'}."
        for metric in results.metrics.values()
    ]
    means = "Means over seeds, ± half the width of their 95 % intervals (Student’s t)."
    return " ".join([means, *(said for key, said in _SHOWN.items() if key in shown), *metrics])


def _add_trials(section: Section, results: Results, runs: bool) -> None:
    """Adds the trials that failed, and the numbers of all; of runs side by side without files."""
    failures = results.rows[results.rows["failed"]].to_dict("records")
    if failures:
        count = len(failures)
        words = "1 trial failed and is" if count == 1 else f"{count} trials failed and are"
        section.say(f"{words} left out of every mean:").items(
            [
                f"{row['data']}, {row['name']}, seed {row['seed']}: {row['error']}"
                for row in failures
            ],
            "failures",
        )
    table = trial_table(results)
    some = f"The first {_MOST_TRIALS:,} of {len(table):,} rows; all"
    section.table(table[:_MOST_TRIALS], "All trials")
    if runs:
        return
    section.say(
        f"{some if len(table) > _MOST_TRIALS else 'The same rows'} are in results.parquet beside "
        "this page; trials/<trial>/ holds each trial’s configuration, denoiser, loss curve and "
        "samples.",
        kind="note",
    )
