"""From a study's run folder to the contents of its report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from kan_diffusion.data.datasets import Dataset, FileData, ToyData, load_dataset
from kan_diffusion.errors import RunFolderError
from kan_diffusion.processes import Process, signal_warning
from kan_diffusion.randomness import torch_generator
from kan_diffusion.report.contents import Panels, ReportContents
from kan_diffusion.study.config import StudyConfig
from kan_diffusion.study.folder import (
    REVERSE,
    SAMPLES,
    TrialResult,
    load_points,
    recorded_steps,
)
from kan_diffusion.study.measure import oracle_warning
from kan_diffusion.study.run import StudyResults, environment
from kan_diffusion.study.trials import NUM_PANELS

__all__ = ["report_contents"]


def _corruption(dataset: Dataset, process: Process, points: torch.Tensor) -> Panels:
    """Points (n, d) at ``NUM_PANELS`` evenly spaced moments of the forward process."""
    alpha, sigma = process.levels()
    noise = torch.randn(
        points.shape,
        generator=torch_generator("corruption", dataset.name),
        dtype=points.dtype,
    )
    panels: Panels = []
    for fraction in np.linspace(0, 1, NUM_PANELS):
        steps = round(float(fraction) * process.num_timesteps)
        state = points if steps == 0 else alpha[steps - 1] * points + sigma[steps - 1] * noise
        panels.append((float(fraction), state.numpy()))
    return panels


def _trajectories(trial: TrialResult) -> list[tuple[str, Panels]]:
    training = trial.config.training
    moments = []
    for step in recorded_steps(trial.folder):
        states = load_points(trial.folder / REVERSE / f"{step}.safetensors")
        label = f"step {step:,}"
        data = trial.config.data
        if training.batches == "epochs" and hasattr(data, "num_points"):
            label = f"epoch {step // -(-data.num_points // training.batch_size):,}"
        fractions = np.linspace(1, 0, NUM_PANELS)
        panels = [(float(t), state) for t, state in zip(fractions, states, strict=True)]
        moments.append((label, panels))
    return moments


def _curve(trial: TrialResult) -> pd.DataFrame:
    path = trial.folder / "curves.parquet"
    try:
        curve = pd.read_parquet(path, columns=["step", "loss"])
    except (OSError, ValueError) as error:
        raise RunFolderError(f"'{path}' cannot be read ({error}); run the trial again") from error
    return curve.assign(data=trial.row["data"], name=trial.row["name"], seed=trial.row["seed"])


def _levels(trial: TrialResult) -> list[dict[str, object]]:
    return [
        {
            "data": trial.row["data"],
            "name": trial.row["name"],
            "seed": trial.row["seed"],
            "t_mid": (level["t_low"] + level["t_high"]) / 2,
            **level,
        }
        for level in trial.levels
    ]


def _environment(folder: Path) -> dict[str, str]:
    """Where the study was run, which need not be where it is reported."""
    path = folder / "environment.json"
    if not path.exists():
        return environment()
    try:
        content = json.loads(path.read_text())
        return {str(key): str(value) for key, value in content.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise RunFolderError(f"'{path}' cannot be read ({error}); delete it") from error


def _settings(config: StudyConfig) -> list[tuple[str, str]]:
    process, training = config.process, config.training
    length = f"{training.steps:,} steps of {training.batch_size:,} points"
    if training.batches == "epochs" and isinstance(config.data[0], ToyData):
        epochs = training.steps // config.steps_per_epoch()
        length = f"{epochs:,} epochs in batches of {training.batch_size:,}"
    ema = "none" if training.ema_decay is None else f"decay {training.ema_decay:g}"
    settings = [
        ("process", f"{process.name}, T = {process.num_timesteps:,}"),
        ("prediction and loss", f"{process.prediction_type}, {process.loss}"),
        ("training", f"{length}; Adam, {training.schedule} learning rate; EMA: {ema}"),
        ("seeds a model", str(config.seeds)),
        ("sampler", f"{config.sampling.scheduler}, {config.sampling.steps} steps"),
        (
            "judged with",
            f"{config.evaluation.num_noised:,} noised points, {config.evaluation.num_samples:,} "
            "generated points",
        ),
    ]
    for data in config.data:
        size = (
            f"{data.num_points:,} training points"
            if hasattr(data, "num_points")
            else str(data.path)
        )
        settings.append((f"data: {data.name}", size))
    for model in config.models:
        rate = model.learning_rate or training.learning_rate
        details = ", ".join(f"{key} = {value}" for key, value in model.settings.items())
        settings.append(
            (
                f"model: {model.name}",
                f"learning rate {rate:g}" + (f"; {details}" if details else ""),
            )
        )
    return settings


def _warnings(config: StudyConfig, trials: tuple[TrialResult, ...]) -> list[str]:
    warnings = []
    mismatch = signal_warning(config.process.scheduler())
    if mismatch is not None:
        warnings.append(mismatch[0].upper() + mismatch[1:] + ".")
    if config.process.loss == "huber":
        warnings.append(
            "The Huber loss does not aim at the posterior mean, which the oracle gives; a denoiser "
            "trained with it can have a loss a little below the floor drawn here."
        )
    if any(not hasattr(data, "toy") for data in config.data):
        warnings.append(
            "The data come from a file, so the oracle is estimated from two reference samples; the "
            "excess carries a bias, largest at small noise."
        )
        of_files = [trial for trial in trials if isinstance(trial.config.data, FileData)]
        doubts = [oracle_warning(trial.row) for trial in of_files]
        first = next((doubt for doubt in doubts if doubt is not None), None)
        if first is not None:
            warnings.append(first[0].upper() + first[1:] + ".")
    if config.seeds < 10:
        warnings.append(
            f"{config.seeds} seed{'s' if config.seeds != 1 else ''} a model: intervals are wide, "
            "and an exact paired test needs more to call a difference."
        )
    return warnings


def report_contents(results: StudyResults, command: str) -> ReportContents:
    """What the report of a study shows.

    Args:
        results: The study's results.
        command: The command that runs it again.

    Raises:
        RunFolderError: A file of a finished trial is missing or damaged.
    """
    config = results.config
    contents = ReportContents(
        title=config.title,
        question=config.question,
        rows=results.rows,
        command=command,
        environment=_environment(results.folder),
        settings=_settings(config),
        warnings=_warnings(config, results.trials),
    )
    measured = [trial for trial in results.trials if trial.row["error"] is None]
    if measured:
        contents.curves = pd.concat([_curve(trial) for trial in measured], ignore_index=True)
        levels = [level for trial in measured for level in _levels(trial)]
        if levels:
            contents.excess_by_level = pd.DataFrame(levels)
    for data in config.data:
        dataset = load_dataset(data, config.seed, 0)
        num_drawn = config.evaluation.num_drawn
        if dataset.density is None:
            drawn = dataset.untrained()[:num_drawn]
        else:
            drawn = dataset.fresh(num_drawn, torch_generator("drawn points", data.name))
        contents.originals[data.name] = drawn.numpy()
        contents.columns[data.name] = list(dataset.columns)
        contents.corruption[data.name] = _corruption(dataset, config.process, drawn)
    for trial in measured:
        key = str(trial.row["data"]), str(trial.row["name"])
        contents.floors[key[0]] = float(trial.row["floor"] or 0)
        if key in contents.samples:  # pictures show the first seed
            continue
        samples = load_points(trial.folder / SAMPLES)
        contents.samples[key] = samples[: config.evaluation.num_drawn]
        trajectories = _trajectories(trial)
        if trajectories:
            contents.trajectories[key] = trajectories
    return contents
