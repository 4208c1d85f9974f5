"""Gathers the contents of a report from a study's run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import yaml

from kan_diffusion.data.datasets import Dataset
from kan_diffusion.data.sources import load_dataset
from kan_diffusion.processes import signal_warning
from kan_diffusion.report.contents import (
    CURVE_COLUMNS,
    LEVEL_COLUMNS,
    ReportContents,
    smoothed_curve,
)
from kan_diffusion.report.views import view_of
from kan_diffusion.study.config import StudyConfig
from kan_diffusion.study.environment import environment, read_environment
from kan_diffusion.study.folder import STUDY, TrialResult, load_curves
from kan_diffusion.study.results.rows import Results
from kan_diffusion.study.results.statistics import SIGNIFICANCE, smallest_permutation_p
from kan_diffusion.study.results.wording import capitalised, listed
from kan_diffusion.study.run import StudyResults

__all__ = ["report_contents", "runs_contents"]


def _curve(trial: TrialResult, label: str) -> pd.DataFrame:
    """Reads a trial's losses and smooths them at once: a study may have millions of them."""
    curves = load_curves(trial.folder)
    steps, losses = smoothed_curve(curves["step"].to_numpy(), curves["loss"].to_numpy())
    return _placed(pd.DataFrame({"step": steps, "loss": losses}), trial, label, CURVE_COLUMNS)


def _levels(trial: TrialResult, label: str) -> pd.DataFrame:
    levels = pd.DataFrame(trial.levels)
    levels["t_mid"] = (levels["t_low"] + levels["t_high"]) / 2
    return _placed(levels, trial, label, LEVEL_COLUMNS)


def _placed(
    frame: pd.DataFrame, trial: TrialResult, label: str, columns: Sequence[str]
) -> pd.DataFrame:
    place = {"data": label, "name": trial.row["name"], "seed": trial.row["seed"]}
    return frame.assign(**place)[list(columns)]


def _environment(folder: Path) -> dict[str, str]:
    """Reads the environment in which the study was run; this one where none was recorded."""
    return read_environment(folder) if (folder / STUDY).exists() else environment()


def _settings(config: StudyConfig) -> list[tuple[str, str]]:
    """Lists every setting of a study under its key in ``study.yaml``."""
    pairs = []
    for key, value in yaml.safe_load(config.to_yaml()).items():
        if key not in ("name", "title", "question"):
            parts = value if isinstance(value, list) else [value]
            pairs += [(key, _written(part)) for part in parts if part is not None]
    return pairs


def _dates(trials: Sequence[TrialResult]) -> list[tuple[str, str]]:
    """Says from when to when trials were trained, and judged."""
    found = []
    for what in ("trained", "judged"):
        parts = [getattr(trial, what) for trial in trials]
        days = sorted({part.date[:10] for part in parts if part is not None})
        if days:
            found.append((what, days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"))
    return found


def _written(value: object) -> str:
    """Writes a setting as one line of YAML, without values that are not set."""
    if isinstance(value, dict):
        value = {key: part for key, part in value.items() if part not in (None, [], {})}
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000)
    return text.removesuffix("...\n").strip().strip("{}")


def _warnings(
    config: StudyConfig, trials: tuple[TrialResult, ...], datasets: Mapping[str, Dataset]
) -> list[str]:
    warnings = []
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
        warnings.append(
            f"{config.seeds} seed{'s' if config.seeds != 1 else ''} a model: intervals are wide"
            + (
                ", and an exact paired test needs more to call a difference."
                if reach >= SIGNIFICANCE
                else "."
            )
        )
    return warnings


def report_contents(results: StudyResults, command: str) -> ReportContents:
    """Gathers what the report of a study shows.

    Args:
        results: The study's results.
        command: The command that runs it again.

    Raises:
        RunFolderError: A file of a finished trial is missing or damaged.
    """
    config = results.config
    for data in config.data:
        data.require_recorded()
    datasets = {data.name: load_dataset(data, config.seed, 0) for data in config.data}
    contents = ReportContents(
        title=config.title,
        question=config.question,
        results=Results.of(results.rows, config.evaluation.metrics, config.data),
        command=command,
        environment=_environment(results.folder),
        settings=[*_settings(config), *_dates(results.trials)],
        warnings=_warnings(config, results.trials, datasets),
    )
    measured = [trial for trial in results.trials if trial.row["error"] is None]
    rows = contents.results.rows
    labels = dict(zip(rows["trial"], rows["data"], strict=True))
    if measured:
        places = [(trial, labels[trial.row["trial"]]) for trial in measured]
        contents.curves = pd.concat([_curve(*place) for place in places], ignore_index=True)
        levels = [_levels(*place) for place in places if place[0].levels]
        if levels:
            contents.excess_by_level = pd.concat(levels, ignore_index=True)
    for source in config.data:
        view_of(source).gather_data(contents, source, datasets[source.name], config)
    gathered: set[tuple[str, str]] = set()
    for trial in measured:
        label, floor = labels[trial.row["trial"]], trial.row["floor"]
        if floor is not None:
            contents.floors[label] = float(floor)
        key = label, str(trial.row["name"])
        if key not in gathered:  # figures show the first seed
            gathered.add(key)
            source = trial.config.data
            view_of(source).gather_trial(contents, trial, label, datasets[source.name])
    return contents


def runs_contents(results: StudyResults, command: str) -> ReportContents:
    """Gathers what a report on several runs side by side shows.

    Args:
        results: The runs.
        command: The command that reports them again.

    Raises:
        RunFolderError: A file of a run is missing or damaged.
    """
    contents = report_contents(results, command)
    contents.environment = {}  # where each run was trained is not known
    trials = results.trials
    by_model: dict[str, list[TrialResult]] = {}
    for trial in trials:
        by_model.setdefault(str(trial.row["name"]), []).append(trial)
    counts = {len({trial.config.seed for trial in of_model}) for of_model in by_model.values()}
    if len(counts) > 1:
        contents.settings = [
            (key, f"{min(counts)} to {max(counts)}" if key == "seeds" else value)
            for key, value in contents.settings
        ]
    if len({trial.config.training for trial in trials}) > 1:
        contents.settings = [pair for pair in contents.settings if pair[0] != "training"]
        contents.settings += [
            (f"training of {name}", _written(of_model[0].config.training.model_dump(mode="json")))
            for name, of_model in by_model.items()
        ]
    chosen = [
        name
        for name, of_model in by_model.items()
        for trial in of_model[:1]
        if trial.row.get("stage") is not None and trial.row.get("oracle") == "none"
    ]
    if chosen:
        contents.warnings.append(
            f"{capitalised(listed(chosen))} came about by choices that were made "
            "on these held-out rows, so the numbers are a little too good for "
            f"{'it' if len(chosen) == 1 else 'them'}; fresh rows would tell."
        )
    return contents
