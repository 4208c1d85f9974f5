"""The folder of a trial: its files, and how they are read.

A finished trial's folder is a diffusers pipeline (``model_index.json``, ``denoiser/``,
``scheduler/``) with ``curves.parquet`` (loss and learning rate of every step),
``samples.safetensors`` (generated points), ``reverse/<step>.safetensors`` (the reverse process as
it was at moments of training) and ``trial.json`` (the configuration, the row of results and the
excess by noise level). ``trial.json`` is written last: where it is, the trial is finished and is
not run again. While a trial runs its state is in ``checkpoint.safetensors``.

Several processes, also on several machines, may write to one folder without a lock: each file is
written under a name of its own and then renamed into its place, and what the same trial writes is
the same, clocks aside, whoever runs it.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from kan_diffusion.errors import KanDiffusionError, RunFolderError, valid_settings
from kan_diffusion.files import require_free_space, whole_file, write_bytes
from kan_diffusion.sampling import PointDiffusionPipeline
from kan_diffusion.study.config import TrialConfig

__all__ = [
    "CHECKPOINT",
    "CURVES",
    "RESULT",
    "REVERSE",
    "SAMPLES",
    "Row",
    "TrialResult",
    "holds_run",
    "load_points",
    "load_trial",
    "prepare_trial_folder",
    "recorded_steps",
    "save_pipeline",
    "save_points",
]

CHECKPOINT = "checkpoint.safetensors"
RESULT = "trial.json"
REVERSE = "reverse"
SAMPLES = "samples.safetensors"
CURVES = "curves.parquet"

_POINTS = "points"

_SPACE_NEEDED = 20_000_000

Row = dict[str, str | int | float | None]
"""A trial's row of results: flat keys, plain values, None where nothing was measured."""


@dataclass(frozen=True)
class TrialResult:
    """A finished trial.

    Attributes:
        config: Its configuration.
        row: Its row of results.
        levels: Its loss and excess by noise level, a dictionary a level.
        folder: Its folder.
    """

    config: TrialConfig
    row: Row
    levels: list[dict[str, float | None]]
    folder: Path


def load_trial(folder: Path) -> TrialResult | None:
    """Reads a finished trial; None where there is none.

    Raises:
        RunFolderError: The folder's ``trial.json`` is damaged.
        KanDiffusionError: One of its settings is wrong.
    """
    path = folder / RESULT
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text())
        with valid_settings(f"'{path}'"):
            config = TrialConfig.model_validate(content["config"])
        return TrialResult(config, content["row"], content["levels"], folder)
    except KanDiffusionError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFolderError(
            f"'{path}' is not the result of a trial ({error}); delete it and run again"
        ) from error


def save_points(path: Path, points: Tensor) -> None:
    """Saves a set of points, whole or not at all."""
    write_bytes(path, safetensors_bytes({_POINTS: points.contiguous()}))


def load_points(path: Path) -> NDArray[np.float32]:
    """Reads a set of points that :func:`save_points` wrote.

    Raises:
        RunFolderError: The file is missing or damaged.
    """
    try:
        with safe_open(path, framework="np") as file:
            points: NDArray[np.float32] = file.get_tensor(_POINTS)
    except (OSError, SafetensorError) as error:
        raise RunFolderError(f"'{path}' cannot be read ({error}); run the trial again") from error
    return points


def recorded_steps(folder: Path) -> list[int]:
    """Steps at which a trial recorded its reverse process, in order."""
    return sorted(int(path.stem) for path in (folder / REVERSE).glob("[0-9]*.safetensors"))


def prepare_trial_folder(folder: Path, config: TrialConfig, *, fresh: bool = False) -> None:
    """Checks that a folder may take a trial that is run on its own: empty, or holding this one.

    Args:
        folder: The folder, which need not exist.
        config: The trial.
        fresh: Whether to delete the trial that is in the folder, finished or not. Other files stay.

    Raises:
        RunFolderError: It holds another finished run, or other files, or cannot be cleared.
    """
    if not holds_run(folder, "run", (RESULT, CHECKPOINT), _SPACE_NEEDED):
        return
    if fresh:
        _clear(folder)
        return
    finished = load_trial(folder)
    if finished is not None and finished.config.identity != config.identity:
        raise RunFolderError(
            f"'{folder}' holds another run ({finished.config.label}); choose another folder "
            "with --out, or replace the run with --fresh"
        )


def holds_run(folder: Path, kind: str, marks: Sequence[str], space: int) -> bool:
    """Checks that a folder may be run in: it is new or empty, or holds a run already.

    Args:
        folder: The folder, which need not exist.
        kind: The kind of run, in words.
        marks: Names of files by one of which a run is known.
        space: Number of bytes that will be written at most.

    Returns:
        Whether it holds a run.

    Raises:
        RunFolderError: It is a file or holds other files, or there is too little space.
    """
    require_free_space(folder, space)
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise RunFolderError(f"'{folder}' is a file; choose a folder with --out")
    if any((folder / mark).exists() for mark in marks):
        return True
    if any(not entry.name.startswith(".") for entry in folder.iterdir()):
        raise RunFolderError(
            f"'{folder}' holds other files and no {kind}; choose an empty or new folder with --out"
        )
    return False


def _clear(folder: Path) -> None:
    """Deletes what a trial wrote into its folder."""
    try:
        for name in (RESULT, CHECKPOINT, CURVES, SAMPLES, "model_index.json"):
            (folder / name).unlink(missing_ok=True)
        for name in (REVERSE, "denoiser", "scheduler"):
            if (folder / name).is_dir():
                shutil.rmtree(folder / name)
    except OSError as error:
        raise RunFolderError(f"'{folder}' cannot be cleared: {error}") from error


def save_pipeline(pipeline: PointDiffusionPipeline, folder: Path) -> None:
    """Saves a pipeline, each of its files whole or not at all, and what describes it last.

    Nothing is ever taken away, not even for a moment: another process may be saving or reading
    the pipeline of the same trial.

    Raises:
        RunFolderError: It cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".pipeline", dir=folder) as temporary:
            pipeline.save_pretrained(temporary)
            files = [path for path in Path(temporary).rglob("*") if path.is_file()]
            for path in sorted(files, key=lambda path: len(path.parts), reverse=True):
                with whole_file(folder / path.relative_to(temporary)) as place:
                    path.replace(place)
    except (OSError, SafetensorError) as error:
        raise RunFolderError(
            f"cannot write the denoiser to '{folder}': {error}; free some space or choose another "
            "folder with --out"
        ) from error
