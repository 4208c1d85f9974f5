"""Gathers the contents of a report from a study's run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from numpy.typing import NDArray
from pyarrow import ArrowException, parquet
from pydantic import TypeAdapter

from kan_diffusion.data.datasets import Dataset, ToyData, load_dataset
from kan_diffusion.diffusion.sampling import PointDiffusionPipeline, make_scheduler
from kan_diffusion.errors import RunFolderError
from kan_diffusion.evaluation.oracles import OracleDenoiser
from kan_diffusion.files import read_as, require_file
from kan_diffusion.pictures.codec import PictureCodec
from kan_diffusion.pictures.scores import EACH, shown
from kan_diffusion.processes import Process, signal_warning
from kan_diffusion.randomness import torch_generator
from kan_diffusion.report.contents import (
    CURVE_COLUMNS,
    LEVEL_COLUMNS,
    ReportContents,
    smoothed_curve,
)
from kan_diffusion.report.points import Panels
from kan_diffusion.study.config import StudyConfig, TrialConfig
from kan_diffusion.study.folder import (
    CURVES,
    REVERSE,
    SAMPLES,
    TrialResult,
    load_points,
    recorded_steps,
)
from kan_diffusion.study.results.rows import Results
from kan_diffusion.study.results.statistics import SIGNIFICANCE, smallest_permutation_p
from kan_diffusion.study.results.wording import capitalised, listed
from kan_diffusion.study.run import StudyResults, environment
from kan_diffusion.study.trial import NUM_PANELS, followed, record_reverse

__all__ = ["report_contents", "runs_contents"]

_ENVIRONMENT = TypeAdapter(dict[str, str])


def _corruption(dataset: Dataset, process: Process, points: torch.Tensor) -> Panels:
    """Noises points (n, d) at evenly spaced times of the forward process."""
    alpha, sigma = process.levels()
    noise = torch.randn(
        points.shape, generator=torch_generator("corruption", dataset.name), dtype=points.dtype
    )
    panels: Panels = []
    for fraction in np.linspace(0, 1, NUM_PANELS):
        steps = round(float(fraction) * process.num_timesteps)
        state = points if steps == 0 else alpha[steps - 1] * points + sigma[steps - 1] * noise
        panels.append((float(fraction), state.numpy()))
    return panels


def _states(
    trial: TrialResult, num: int | None, shape: tuple[int, ...]
) -> list[tuple[str, NDArray[np.float32]]]:
    """Reads the reverse process (panels, n, *shape) recorded at each moment of training."""
    training = trial.config.training
    moments = []
    for step in recorded_steps(trial.folder):
        path = trial.folder / REVERSE / f"{step}.safetensors"
        states = load_points(path, NUM_PANELS, num, *shape)
        label = f"step {step:,}"
        data = trial.config.data
        if training.batches == "epochs" and hasattr(data, "num_points"):
            label = f"epoch {step // -(-data.num_points // training.batch_size):,}"
        moments.append((label, states))
    return moments


def _trajectories(trial: TrialResult, dim: int) -> list[tuple[str, Panels]]:
    fractions = np.linspace(1, 0, NUM_PANELS)
    return [
        (label, [(float(t), state) for t, state in zip(fractions, states, strict=True)])
        for label, states in _states(trial, None, (dim,))
    ]


def _curve(trial: TrialResult, label: str) -> pd.DataFrame:
    """Reads a trial's losses and smooths them at once: a study may have millions of them."""
    path = trial.folder / CURVES
    try:
        require_file(path)
        table = parquet.read_table(path, columns=["step", "loss"])
        columns = [table[name].to_numpy().astype(float) for name in ("step", "loss")]
        if not np.array_equal(columns[0], np.arange(1, len(table) + 1)):
            raise ValueError("the steps are not 1, 2, 3, ...")
        if not np.isfinite(columns[1]).all():
            raise ValueError("a loss is infinite or no number")
    except (OSError, ValueError, TypeError, LookupError, ArrowException) as error:
        reason = " ".join(str(error).split())
        raise RunFolderError(f"'{path}' cannot be read ({reason}); run the trial again") from error
    steps, losses = smoothed_curve(*columns)
    return _placed(pd.DataFrame({"step": steps, "loss": losses}), trial, label, CURVE_COLUMNS)


def _levels(trial: TrialResult, label: str) -> pd.DataFrame:
    levels = pd.DataFrame(trial.levels)
    levels["t_mid"] = (levels["t_low"] + levels["t_high"]) / 2
    return _placed(levels, trial, label, LEVEL_COLUMNS)


def _placed(
    frame: pd.DataFrame, trial: TrialResult, label: str, columns: Sequence[str]
) -> pd.DataFrame:
    place = {"setting": label, "name": trial.row["name"], "seed": trial.row["seed"]}
    return frame.assign(**place)[list(columns)]


def _unseen(dataset: Dataset, num: int) -> torch.Tensor:
    """Draws at most ``num`` points (n, d) that no model was trained on."""
    if dataset.heldout is None:
        return dataset.fresh(num, torch_generator("drawn points", dataset.name))
    return dataset.heldout[:num]


def _environment(folder: Path) -> dict[str, str]:
    """Reads the environment in which the study was run; this one where none was recorded."""
    path = folder / "environment.json"
    if not path.exists():
        return environment()
    return read_as(_ENVIRONMENT, path, "a list of versions", "restore it")


def _settings(config: StudyConfig) -> list[tuple[str, str]]:
    """Lists every setting of a study under its key in ``study.yaml``."""
    pairs = []
    for key, value in yaml.safe_load(config.to_yaml()).items():
        if key not in ("name", "title", "question"):
            parts = value if isinstance(value, list) else [value]
            pairs += [(key, _written(part)) for part in parts if part is not None]
    return pairs


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
            "The same command without --quick judges them again and trains none of them again."
        )
    for process in config.process:
        mismatch = signal_warning(process)
        if mismatch is not None:
            warnings.append(capitalised(mismatch) + ".")
    if any(process.loss == "huber" for process in config.process):
        warnings.append(
            "The Huber loss does not aim at the posterior mean, which the oracle gives; a denoiser "
            "trained with it can have a loss a little below the floor drawn here."
        )
    oracles = {
        data.name: datasets[data.name].oracle
        for data in config.data
        if not isinstance(data, ToyData)
    }
    without = [name for name, oracle in oracles.items() if oracle == "none"]
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
    datasets = {data.name: load_dataset(data, config.seed, 0) for data in config.data}
    contents = ReportContents(
        title=config.title,
        question=config.question,
        results=Results.of(results.rows, config.evaluation.metrics),
        command=command,
        environment=_environment(results.folder),
        settings=_settings(config),
        warnings=_warnings(config, results.trials, datasets),
    )
    measured = [trial for trial in results.trials if trial.row["error"] is None]
    num_rows = int(results.rows["error"].isna().sum())
    if 0 < len(measured) < num_rows:
        contents.warnings.append(
            f"Of {num_rows - len(measured):,} of {num_rows:,} trials the rows alone were kept: "
            "what is drawn of losses, noise levels and samples is of the others, all else of all."
        )
    rows = contents.results.rows
    labels = dict(zip(rows["trial"], rows["setting"], strict=True))
    if measured:
        places = [(trial, labels[trial.row["trial"]]) for trial in measured]
        contents.curves = pd.concat([_curve(*place) for place in places], ignore_index=True)
        levels = [_levels(*place) for place in places if place[0].levels]
        if levels:
            contents.excess_by_level = pd.concat(levels, ignore_index=True)
    for name, dataset in datasets.items():
        if isinstance(dataset.codec, PictureCodec):
            asked, real = shown(dataset, config.evaluation.num_drawn)
            contents.asked[name] = asked.words(dataset.classes)
            contents.real[name] = real[:, None].numpy()
            continue
        drawn = _unseen(dataset, config.evaluation.num_drawn)
        contents.originals[name] = drawn.numpy()
        contents.columns[name] = list(dataset.columns)
        contents.corruption[name] = _corruption(dataset, config.process[0], drawn)
    gathered: set[tuple[str, str]] = set()
    for trial in measured:
        label, floor = labels[trial.row["trial"]], trial.row["floor"]
        if floor is not None:
            contents.floors[label] = float(floor)
        key = label, str(trial.row["name"])
        if key in gathered:  # figures show the first seed
            continue
        gathered.add(key)
        evaluation = trial.config.judging
        if trial.config.data.name in contents.real:
            _gather_pictures(contents, trial, key)
            continue
        dim = len(contents.columns[trial.config.data.name])
        # Some stages of an explanation cannot be sampled.
        if evaluation.num_samples and trial.row.get("sample_seconds") is not None:
            points = load_points(trial.folder / SAMPLES, evaluation.num_samples, dim)
            contents.samples[key] = points[: evaluation.num_drawn]
        trajectories = _trajectories(trial, dim)
        if trajectories:
            contents.trajectories[key] = trajectories
            if label not in contents.exact and isinstance(trial.config.data, ToyData):
                contents.exact[label] = _exact(trial.config)
    return contents


def _exact(config: TrialConfig) -> Panels:
    """Draws the reverse process of a toy's exact denoiser, from the same noise as its trials."""
    dataset = load_dataset(config.data, config.study_seed, config.seed)
    assert dataset.density is not None
    pipeline = PointDiffusionPipeline(
        OracleDenoiser(dataset.density, config.process),
        config.process,
        scheduler=make_scheduler(config.sampling.scheduler, config.process),
    )
    states = record_reverse(
        pipeline,
        followed(config, dataset),
        config.sampling.steps,
        torch_generator("reverse process", config.study_seed, config.data.name),
    )
    return list(zip(np.linspace(1, 0, NUM_PANELS).tolist(), states.numpy(), strict=True))


def _gather_pictures(contents: ReportContents, trial: TrialResult, key: tuple[str, str]) -> None:
    """Adds the pictures that a trial drew and their reverse processes."""
    real = contents.real[trial.config.data.name]
    num, _, *shape = real.shape
    if trial.row.get("sample_seconds") is not None:
        pictures = load_points(trial.folder / SAMPLES, num * EACH, *shape)
        contents.drawn[key] = pictures.reshape(num, EACH, *shape)
    states = _states(trial, num, tuple(shape))
    if states:
        contents.states[key] = [(label, each.swapaxes(0, 1)) for label, each in states]


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
        if trial.row.get("stage") is not None and not isinstance(trial.config.data, ToyData)
    ]
    if chosen:
        contents.warnings.append(
            f"{capitalised(listed(chosen))} came about by choices that were made "
            "on these held-out rows, so the numbers are a little too good for "
            f"{'it' if len(chosen) == 1 else 'them'}; fresh rows would tell."
        )
    return contents
