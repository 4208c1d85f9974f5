"""The page of a study: verdicts first, then a part for each data set, then every trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from kan_diffusion.data.datasets import Dataset
from kan_diffusion.data.sources import load_dataset
from kan_diffusion.evaluation.denoising import draw_noised_points
from kan_diffusion.files import write_text
from kan_diffusion.processes import signal_warning
from kan_diffusion.randomness import torch_generator
from kan_diffusion.report.charts import (
    Scale,
    by_level,
    lead_forest,
    lines,
    losses,
    model_forest,
    smoothed_curve,
    value_scale,
)
from kan_diffusion.report.motion import EXACT, LARGEST_PLAYER, Motion
from kan_diffusion.report.page import Page, Section, badge
from kan_diffusion.report.style import INK, ModelStyle, model_styles
from kan_diffusion.report.tables import (
    BADGES,
    lead_table,
    model_table,
    trial_texts,
)
from kan_diffusion.report.views import exact_process, recorded, view_of
from kan_diffusion.study.environment import environment, read_environment
from kan_diffusion.study.folder import STUDY, TrialResult, load_curves, recorded_steps
from kan_diffusion.study.results.rows import MEASURES, Results
from kan_diffusion.study.results.statistics import SIGNIFICANCE, smallest_permutation_p
from kan_diffusion.study.results.verdicts import Comparison, Verdict, decide
from kan_diffusion.study.results.wording import capitalised, listed, overall, say
from kan_diffusion.study.run import StudyResults

__all__ = ["MOST_BYTES", "curves_of", "floor_error", "levels_of", "write_report"]

MOST_BYTES = 2_000_000
"""Most bytes of a page."""
_SHARES = (1.0, 0.3, 0.0)
"""Shares of the usual sizes of clouds and players that are tried until a page is small enough."""
_MOST_TRIALS = 1_000
_MANY_MODELS = 6
_KINDS = {"kan": "KANs", "mlp": "MLPs", "other": "others"}
_TO_JUDGE_FLOOR, _RANGES = 2_000, 50
_POINTS = 40_000
"""Most points in all clouds of a page."""
_PLAYERS = 700_000
"""Approximate bytes of all players of a page."""


class _Room(NamedTuple):
    """Most points of a cloud, and bytes of a player or of the pictures of a data set."""

    points: int
    bytes: int


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
    data_sets = results.data_sets()
    several = len(data_sets) > 1
    size = int(share * min(LARGEST_PLAYER, _PLAYERS / max(len(data_sets), 1)))
    room = _Room(max(int(share * _POINTS / max(len(data_sets) * len(styles), 1)), 100), size)
    page = Page(config.title, config.question, drawn=share > 0, linked=several)
    verdicts = decision.verdicts
    plain = [say(verdict) for verdict in verdicts.values() if not verdict.outcome]
    page.say(overall(decision), *plain, kind="answer")
    if several:
        page.items(
            [_badged(verdict, True) for verdict in verdicts.values() if verdict.outcome], "verdicts"
        )
    page.items(_warnings(study, datasets, runs), "warnings", "Before you read the numbers")
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
    for data in data_sets:
        part = page.section(data) if several else page
        if verdicts[data].outcome:
            part.say(_badged(verdicts[data], False), kind="verdict")
        trials = [
            trial for trial in study.trials
            if trial.row["data"] == data and trial.row["error"] is None
        ]  # fmt: skip
        comparisons = decision.of_data(data)
        _add_figures(part, results, data, styles, trials, datasets[data], comparisons, room)
        part.table(*model_table(results, decision, data, styles))
    page.say(_explanation(results), kind="note")
    if runs:  # which were trained each in its way, nobody noted where
        trainings = {str(trial.row["name"]): trial.config.training for trial in study.trials}
        page.section("Training").facts({
            name: ", ".join(f"{key} {value}" for key, value in training.model_dump().items())
            for name, training in trainings.items()
        })  # fmt: skip
    else:
        page.section("Settings").code(config.to_yaml())
    _add_trials(page.section("All trials"), results, runs)
    dates = _dates(study.trials)
    if not runs:
        known = (study.folder / STUDY).exists()
        versions = read_environment(study.folder) if known else environment()
        page.section("Environment").facts({**dates, **versions})
    page.section("Run it again").code(command)
    return page


_MARKS = (
    "Small marks are seeds, the large mark is the mean, the line its 95 % interval; an arrowhead "
    "says that it goes on beyond the axis; n: seeds."
)
_COLUMNS = (
    "Means over seeds, ± half the width of their 95 % intervals (Student’s t). Excess: mean over t "
    "of the squared distance between a model’s prediction and that of the oracle, both as "
    "predicted noise; 0 is perfect. NLL: negative log-likelihood of held-out points through the "
    "probability-flow ODE, in nats a point. “− best MLP”: paired difference of the judged measure "
    "to the MLP with the lowest mean, with its 95 % bootstrap interval; p: sign-flip test, "
    "corrected by Holm’s method over the data sets. The row “real against real” is what a perfect "
    "model would score."
)
_LEADS = (
    "Each model against the best MLP of each data set with an exact oracle. Ahead on: the data "
    "sets where its mean excess is lower. Better and worse on: those where it, or that MLP, is "
    "called better (p below 0.05 after Holm’s correction, and an interval that leaves out 0). "
    "Median ratio: of its mean excess to that MLP’s, with the 95 % bootstrap interval over seeds."
)


def _badged(verdict: Verdict, with_label: bool) -> str:
    assert verdict.outcome is not None
    return badge(BADGES[verdict.outcome], verdict.outcome) + " " + say(verdict, with_label)


def _add_figures(
    part: Section,
    results: Results,
    data: str,
    styles: Mapping[str, ModelStyle],
    trials: Sequence[TrialResult],
    dataset: Dataset,
    comparisons: Mapping[str, Comparison],
    room: _Room,
) -> None:
    """Adds the figures of one data set."""
    measure = results.judged(data)
    if results.of_data(data)[measure].notna().any():
        against = (
            " relative to the best MLP (vertical line); bold: p below 0.05 after Holm’s correction"
        )
        part.figure(
            partial(model_forest, results, data, styles, comparisons),
            f"{capitalised(MEASURES[measure])} of each model{against if comparisons else ''}. Left "
            f"is better. {_MARKS}",
            f"{capitalised(MEASURES[measure])} of each model, {data}",
        )
    if not trials:
        return
    kinds, (levels, curves) = results.models(data), (levels_of(trials), curves_of(trials))
    if len(levels):
        shown = "excess" if levels["excess"].notna().any() else "heldout_loss"
        points = by_level(levels, shown)
        _add_lines(
            part, f"{capitalised(MEASURES[shown])} by noise level",
            "mean over seeds in ranges of noise levels, against log(α²/σ²); band: 95 % interval. "
            "Ranges whose estimate is not above 0 are not drawn.",
            data, _by_kind(points, kinds), styles,
            ("log SNR: more noise ← → less noise", MEASURES[shown]), value_scale(points["y"]),
        )  # fmt: skip
    if len(curves):
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
        points = losses(curves, floor if error else 0.0)
        _add_lines(
            part, "Training losses",
            f"running means over windows that grow with the step; band: range of the seeds.{said}",
            data, _by_kind(points, kinds), styles, ("training step", loss),
            value_scale(points["y"]), error, steps=True,
        )  # fmt: skip
    first: dict[str, TrialResult] = {}
    for trial in trials:  # figures of samples show the first seed
        first.setdefault(str(trial.row["name"]), trial)
    view, colours = view_of(trials[0].config.data), {n: s.colour for n, s in styles.items()}
    drawn = {
        name: trial for name, trial in first.items()
        if trial.config.judging.num_samples and trial.row.get("sample_seconds") is not None
    }  # fmt: skip
    if drawn:
        part.panels(
            partial(view.panels, dataset, drawn, colours, room.points),
            "Fresh real samples, which no model was trained on, beside those that each model draws "
            "(first seed).",
            f"Samples beside real ones, {data}",
            room.bytes,
        )
    if moving := [name for name, trial in first.items() if recorded_steps(trial.folder)]:
        models = "every model" if len(moving) == len(first) else listed(moving)
        exact = " beside that of the exact denoiser" if dataset.density is not None else ""
        part.player(
            partial(_motion, first, dataset, colours),
            f"The reverse process of {models} after training{exact}, all from the same noise "
            "(first seed). Between recorded times, a tenth of T apart, it moves straight.",
            f"From noise to samples, {data}",
            room.bytes,
        )


def _motion(
    trials: Mapping[str, TrialResult], dataset: Dataset, colours: Mapping[str, str]
) -> Motion:
    """Shows the reverse processes of trained models from the same noise."""
    states = {}
    for name, trial in trials.items():
        if snapshots := recorded(trial, dataset):
            *_, states[name] = snapshots.values()
    first = next(iter(trials.values()))
    if dataset.density is not None:
        states[EXACT] = exact_process(first.config, dataset)
    count = len(next(iter(states.values())))
    labels = tuple(f"t = {time:.1f} T" for time in np.linspace(1, 0, count))
    return view_of(first.config.data).motion(states, {**colours, EXACT: INK}, labels)


def _add_lines(
    part: Section,
    title: str,
    caption: str,
    data: str,
    groups: Sequence[tuple[str, pd.DataFrame, pd.DataFrame | None]],
    styles: Mapping[str, ModelStyle],
    labels: tuple[str, str],
    scale: Scale,
    error: float | None = None,
    *,
    steps: bool = False,
) -> None:
    """Adds a figure of lines for each group of models."""
    for words, own, behind in groups:
        draw = partial(
            lines, own, styles, labels, scale=scale, steps=steps, behind=behind, error=error
        )
        part.figure(draw, f"{title}{words}: {caption}", f"{title}{words}, {data}")


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


def _by_kind(
    points: pd.DataFrame, kinds: Mapping[str, str]
) -> list[tuple[str, pd.DataFrame, pd.DataFrame | None]]:
    """Splits the lines of many models by kind, the others behind; a word for each figure."""
    if points["name"].nunique() <= _MANY_MODELS:
        return [("", points, None)]
    own = points["name"].map(kinds)
    return [
        (f" of {word}", points[own == kind], points[own != kind])
        for kind, word in _KINDS.items()
        if (own == kind).any()
    ]


def levels_of(trials: Sequence[TrialResult]) -> pd.DataFrame:
    """Reads excess and held-out loss of trials in ranges of noise levels.

    Returns:
        Columns ``name``, ``seed``, ``t_low``, ``t_high`` and ``t_mid`` (fractions of T),
        ``log_snr``, ``excess`` and ``heldout_loss``.
    """
    parts = [
        pd.DataFrame(trial.levels).assign(name=trial.row["name"], seed=trial.row["seed"])
        for trial in trials
        if trial.levels
    ]
    levels = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"t_low": []})
    return levels.assign(t_mid=(levels["t_low"] + levels.get("t_high", 0)) / 2)


def curves_of(trials: Sequence[TrialResult]) -> pd.DataFrame:
    """Reads the training losses of trials, smoothed at once: there may be millions of them.

    Returns:
        Columns ``name``, ``seed``, ``step`` and ``loss``.

    Raises:
        RunFolderError: A file is missing or damaged.
    """
    parts = []
    for trial in trials:
        curves = load_curves(trial.folder)
        steps, smooth = smoothed_curve(curves["step"].to_numpy(), curves["loss"].to_numpy())
        line = pd.DataFrame({"step": steps, "loss": smooth})
        parts.append(line.assign(name=trial.row["name"], seed=trial.row["seed"]))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


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


def _explanation(results: Results) -> str:
    """Explains the columns of a table of models."""
    metrics = "".join(
        f" {metric.label}: {metric.title}{f' ({metric.unit})' if metric.unit else ''}"
        f"{'' if metric.better == 'lower' else '; higher is better'}."
        for metric in results.metrics.values()
    )
    return f"{_COLUMNS}{metrics}"


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
    table = trial_texts(results)
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
