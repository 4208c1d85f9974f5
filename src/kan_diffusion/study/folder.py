"""The folder of a trial: its files, and how they are read.

A finished trial's folder is a diffusers pipeline (``model_index.json``, ``denoiser/``),
with ``curves.parquet`` (losses and learning rate of every step), ``samples.safetensors`` (generated
points or pictures), ``reverse/<step>.safetensors`` (the reverse process at moments of training),
``weights/<step>.safetensors`` (the weights at these moments, of a small KAN whose edges can be
read) and ``trial.json`` (the configuration, the row of results and the excess by noise level).
``trial.json`` is written last: if it exists, the trial is finished and is not run again. While a
trial runs, its state is in ``checkpoint.safetensors``.

``trial.json`` holds the digests of all these files, and one of itself; a file that changed
afterwards is refused.

The process that runs a trial holds a lock on its folder (``.lock``), which the operating system
releases when the process ends, even if it is killed. Each file is written under a temporary name
and then renamed.
"""

from __future__ import annotations

import copy
import errno
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from pydantic import FiniteFloat, TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

from kan_diffusion import limits
from kan_diffusion.diffusion.sampling import SamplePipeline
from kan_diffusion.errors import RunFolderError, valid_settings
from kan_diffusion.evaluation.denoising import LevelScore
from kan_diffusion.files import (
    digest,
    inside,
    make_folder,
    read_parquet,
    read_sealed,
    remove_file,
    require_file,
    require_free_space,
    require_tensors,
    require_unchanged,
    sealed_json,
    sync_folder,
    whole_file,
    write_bytes,
    write_parquet,
    write_text,
    writing,
)
from kan_diffusion.study.config import TrialConfig

__all__ = [
    "CHECKPOINT",
    "CURVES",
    "RESULT",
    "REVERSE",
    "SAMPLES",
    "STUDY",
    "TABLE",
    "TRIALS",
    "WEIGHTS",
    "Level",
    "Row",
    "TrialResult",
    "TrialTakenError",
    "claimed",
    "holds_run",
    "keep_trial",
    "load_curves",
    "load_points",
    "load_sufficient",
    "load_trial",
    "load_weights",
    "prepare_trial_folder",
    "recorded_steps",
    "replaced_trial",
    "save_pipeline",
    "save_points",
    "save_weights",
]

STUDY, TRIALS = "study.yaml", "trials"  # in the folder of a study
CHECKPOINT = "checkpoint.safetensors"
RESULT = "trial.json"
REVERSE = "reverse"
SAMPLES = "samples.safetensors"
WEIGHTS = "weights"
CURVES = "curves.parquet"
TABLE = "rows.parquet"  # the rows of a table that an estimator was fitted to, where they are kept

_POINTS = "points"
_HOLDER = ".holder"
_HALF_SAVED = ".pipeline-"
"""Start of the name of the folder in which a pipeline is before it is saved."""

_TEMPORARY = re.compile(rf"\..+\.[0-9a-f]{{8}}\.tmp(\.\w+)?|{_HALF_SAVED}[a-z0-9_]{{8}}")
_STARTING_SECONDS = 2.0
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)

_FILES = (
    "model_index.json",
    "denoiser/[!.]*",
    CURVES,
    SAMPLES,
    f"{REVERSE}/[!.]*.safetensors",
    f"{WEIGHTS}/[!.]*.safetensors",
)
"""Files of a trial beside its result."""

_WHOLE = ".whole"  # a folder in that of a trial, with the files of one that replaces it

_SPACE_NEEDED = 20_000_000

Denoising = TypeVar("Denoising", bound=nn.Module)

Row = dict[str, str | int | float | None]
"""A trial's row of results: flat keys, plain values, None where nothing was measured."""

Level = dict[str, float | None]
"""Loss and excess in one range of noise levels."""

_ROW = TypeAdapter(dict[str, str | int | FiniteFloat | None])
_LEVELS = TypeAdapter(list[dict[str, FiniteFloat | None]])

_WORDS = ("data", "process", "match", "family", "kind", "name", "trial", "oracle", "error", "stage")
_OWN_KEYS = ("data", "process", "name", "seed")
"""Keys of a row that follow from the trial's configuration, even for a stage of its denoiser."""
_LEVEL_KEYS = {field.name for field in fields(LevelScore)}


class TrialTakenError(RunFolderError):
    """Another process is running the trial, or another study in the same folder."""


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
    levels: list[Level]
    folder: Path

    def suffices(self, asked: TrialConfig) -> bool:
        """Whether it was judged with the effort that a trial asks for; a failed one is over."""
        efforts = self.config.evaluation.effort, asked.evaluation.effort
        return self.row["error"] is not None or efforts != ("quick", "full")


@contextmanager
def claimed(folder: Path, study: str = "") -> Iterator[None]:
    """Locks the folder of a trial or a study, so that no other process runs another one in it.

    The operating system releases the lock when the process ends, however it ends.

    Args:
        folder: The folder.
        study: Settings of the study; several processes may run the same one. Empty for a trial.

    Raises:
        TrialTakenError: Another process holds the lock.
        RunFolderError: The folder cannot be written, or its disk has no locks.
    """
    # Of drivers that start together, the first has said which study it runs by then.
    wait = _STARTING_SECONDS if study else 0
    lock = FileLock(inside(folder, ".lock", in_place=True), timeout=wait)
    holder = inside(folder, _HOLDER, in_place=True)
    try:
        make_folder(folder)
        lock.acquire()
    except Timeout as error:
        who, other = "unknown", ""
        with suppress(OSError, ValueError):  # it may just be removed
            require_file(holder, limits.MOST_STUDY_BYTES)
            who, other = holder.read_text("utf-8").split("\n", 1)
        if not study or other != study:
            raise TrialTakenError(
                f"another process is running {'another study' if study else 'the trial'} in "
                f"'{folder}' ({who}); wait for it, or choose another folder"
            ) from error
    except OSError as error:
        reason = f"cannot write '{folder}': {error.strerror or error}"
        if error.errno in _NO_LOCKS:
            reason = f"the disk of '{folder}' has no locks, which keep processes apart"
        raise RunFolderError(f"{reason}; choose another folder") from error
    try:
        if lock.is_locked:
            with suppress(RunFolderError):  # others are only told less
                write_text(holder, f"{socket.gethostname()}:{os.getpid()}\n{study}")
        if not study:
            _sweep(folder)
            _settle(folder)
        yield
    finally:
        if lock.is_locked:
            with suppress(OSError):
                holder.unlink()
        lock.release()


def _sweep(folder: Path) -> None:
    """Deletes temporary files of a process that was killed, by the names that it gives them."""
    for place in {inside(folder, name).parent for name in _FILES}:
        for left in place.glob(".*"):
            if _TEMPORARY.fullmatch(left.name):
                with suppress(OSError):
                    shutil.rmtree(left) if left.is_dir() else left.unlink()


@contextmanager
def replaced_trial(folder: Path) -> Iterator[Path]:
    """Gives a new folder, with whose trial that of ``folder`` is replaced when the block succeeds.

    The trial is replaced whole or not at all: a process that is killed leaves the old one until the
    new folder has been renamed, and from then on the new one, whose files are moved by whoever
    reads the trial or locks it next. Files that are no trial's stay.

    Args:
        folder: The folder of the trial, made when missing.

    Yields:
        The new folder, which is within the other.

    Raises:
        TrialTakenError: Another process is running the trial.
        RunFolderError: The folder holds other files and no run, or training that has not finished,
            or cannot be written.
    """
    holds_run(folder, "run", (RESULT, CHECKPOINT, _WHOLE), _SPACE_NEEDED)
    with claimed(folder):
        if (folder / CHECKPOINT).exists():
            raise RunFolderError(
                f"'{folder}' holds training that has not finished; choose another folder"
            )
        trial_files = _trial_files(folder)
        if others := {*_files(folder, (*_FILES, TABLE))}.difference(trial_files):
            raise RunFolderError(
                f"'{min(others)}' is no file of the run in that folder and would be in the way; "
                "move it, or choose another folder"
            )
        with tempfile.TemporaryDirectory(prefix=_HALF_SAVED, dir=folder) as temporary:
            new = Path(temporary) / _WHOLE
            new.mkdir()
            yield new
            for left in trial_files:
                if not (stand_in := new / left.relative_to(folder)).exists():
                    write_bytes(stand_in, b"")
            with writing(folder):
                new.replace(folder / _WHOLE)
                sync_folder(folder)
        _settle(folder)


def _trial_files(folder: Path) -> list[Path]:
    """Lists the files of a trial: those whose digests it has, and before that, its records.

    Raises:
        RunFolderError: Its ``trial.json`` is damaged.
    """
    files = _files(folder, (*_FILES, TABLE))
    if (folder / CHECKPOINT).exists():
        return files
    digests = _content(folder)[1] if (folder / RESULT).exists() else {}
    return [path for path in files if path.relative_to(folder).as_posix() in digests]


def _settle(folder: Path) -> None:
    """Moves the files of a trial that replaces the one in a folder; again, if it was begun.

    An empty file stands for one that the new trial has not.

    Raises:
        RunFolderError: A file cannot be moved.
    """
    new = inside(folder, _WHOLE, in_place=True)
    if not new.is_dir():
        return
    with writing(folder):
        for path in _files(new, (*_FILES, TABLE, RESULT)):
            target = inside(folder, str(path.relative_to(new)))
            if path.stat().st_size:
                target.parent.mkdir(exist_ok=True)
                path.replace(target)
            else:
                target.unlink(missing_ok=True)
                path.unlink()
        shutil.rmtree(new)


def save_pipeline(pipeline: SamplePipeline, folder: Path) -> None:
    """Saves a pipeline, each of its files whole or not at all, and its index last.

    Files are replaced and never removed: another process may be reading them.

    Args:
        pipeline: The pipeline.
        folder: The folder to write.

    Raises:
        RunFolderError: It cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=_HALF_SAVED, dir=folder) as temporary:
            pipeline.save_pretrained(temporary)
            files = [path for path in Path(temporary).rglob("*") if path.is_file()]
            files.sort(key=lambda path: len(path.parts), reverse=True)
            for path in files:
                with whole_file(inside(folder, str(path.relative_to(temporary)))) as place:
                    path.chmod(place.stat().st_mode)  # safetensors hides its files from others
                    path.replace(place)
    except (OSError, SafetensorError) as error:
        raise RunFolderError(
            f"cannot write the denoiser to '{folder}': {error}; free some space or choose another "
            "folder"
        ) from error


def keep_trial(
    result: TrialResult,
    pipeline: SamplePipeline | None = None,
    curves: pd.DataFrame | None = None,
    samples: Tensor | None = None,
) -> None:
    """Writes a finished trial into its folder, ``trial.json`` with the digests of all files last.

    Args:
        result: The trial.
        pipeline: Its denoiser with its sampler; None when its training failed.
        curves: Loss and learning rate of each step.
        samples: Generated points, standardised, or pictures, with shape (n, *shape).

    Raises:
        RunFolderError: It cannot be written.
    """
    folder = result.folder
    if pipeline is not None:
        save_pipeline(pipeline, folder)
    if curves is not None:
        write_parquet(folder / CURVES, curves)
    if samples is not None:
        save_points(folder / SAMPLES, samples.float())
    content = {
        "config": result.config.model_dump(mode="json"),
        "row": result.row,
        "levels": result.levels,
    }
    files = _files(folder, (*_FILES, TABLE))
    digests = {path.relative_to(folder).as_posix(): digest(path) for path in files}
    write_bytes(folder / RESULT, sealed_json(content, digests))


def _files(folder: Path, patterns: Iterable[str] = _FILES) -> list[Path]:
    """Lists the files of a folder by patterns, without going through links to other folders."""
    return [
        path
        for pattern in patterns
        for path in sorted(inside(folder, pattern).parent.glob(Path(pattern).name))
        if path.is_file()
    ]


def _content(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Reads a trial's ``trial.json`` and the digests in it.

    Raises:
        RunFolderError: It is damaged.
    """
    again, path = f"delete '{folder}' and run again", folder / RESULT
    return read_sealed(path, "the result of a trial", again, limits.MOST_RESULT_BYTES)


def load_trial(
    folder: Path, expected: TrialConfig | None = None, *, but: Collection[str] = ()
) -> TrialResult | None:
    """Reads a finished trial; None if the folder holds none.

    Args:
        folder: Its folder.
        expected: The trial it should be, if that is known.
        but: Names of files that may have changed.

    Raises:
        RunFolderError: The folder's ``trial.json`` is damaged, a file has changed, or the folder
            holds another trial.
        KanDiffusionError: One of its settings is wrong.
    """
    _settle(folder)
    path, again = folder / RESULT, f"delete '{folder}' and run again"
    if not path.exists():
        return None
    content, digests = _content(folder)
    try:
        with valid_settings(f"'{path}'"):
            config = TrialConfig.model_validate(content["config"])
            row = _ROW.validate_python(content["row"], strict=True)
            levels = _LEVELS.validate_python(content["levels"], strict=True)
            _require_row(config, row)
    except KeyError as error:
        raise RunFolderError(f"'{path}' has no {error}; {again}") from error
    except RunFolderError as error:
        raise RunFolderError(f"'{path}': {error}; {again}") from error
    if any(level.keys() != _LEVEL_KEYS for level in levels):
        raise RunFolderError(
            f"'{path}': a level has not the keys {', '.join(sorted(_LEVEL_KEYS))}; {again}"
        )
    if expected is not None and config.identity != expected.identity:
        raise RunFolderError(
            f"'{folder}' holds another trial ({config.label}); choose another folder, or delete it"
        )
    result = TrialResult(config, row, levels, folder)
    for file in _files(folder):
        if (name := file.relative_to(folder).as_posix()) not in digests:
            raise RunFolderError(f"'{path}' has no digest of '{name}'; move that file, or {again}")
    kept = digests.items()
    require_unchanged(folder, {name: value for name, value in kept if name not in but}, again)
    return result


def load_sufficient(folder: Path, asked: TrialConfig) -> TrialResult | None:
    """Reads a finished trial that was judged with the effort asked for; None if there is none.

    Another one is judged again: its samples may differ from their digest, since whoever did so
    before may have been killed between two files.

    Args:
        folder: Its folder.
        asked: The trial it should be.

    Raises:
        RunFolderError: As of :func:`load_trial`.
        KanDiffusionError: One of its settings is wrong.
    """
    result = load_trial(folder, asked, but=(SAMPLES,))
    if result is None or not result.suffices(asked):
        return None
    return load_trial(folder, asked)


def _require_row(config: TrialConfig, row: Row) -> None:
    """Checks the types of a row's values, and that they agree with the configuration.

    Raises:
        RunFolderError: A value has another type, or differs from the configuration.
        KeyError: A key is missing.
    """
    for key, value in row.items():
        if value is not None and isinstance(value, str) != (key in _WORDS):
            raise RunFolderError(f"row.{key} = {str(value)[:80]!r} is of the wrong kind")
    for key in _OWN_KEYS:
        if row[key] != config.keys[key]:
            raise RunFolderError(f"row.{key} = {str(row[key])[:80]!r} is not that of 'config'")
    needed = {"error", "trial", "match", "budget", "family", "kind", "parameters"}
    if "heldout_loss" in row and row["error"] is None:
        needed |= {"oracle", "floor", "excess", "excess_se"}
    if missing := sorted(needed - row.keys()):
        raise KeyError(f"row.{missing[0]}")


def save_points(path: Path, points: Tensor) -> None:
    """Saves a set of points, whole or not at all."""
    write_bytes(path, safetensors_bytes({_POINTS: points.contiguous()}))


def load_points(path: Path, *shape: int | None) -> NDArray[np.float32]:
    """Reads a set of points that :func:`save_points` wrote.

    Args:
        path: The file.
        *shape: Shape the points must have, with None for any number; not checked when not given.

    Raises:
        RunFolderError: The file is missing or damaged, or holds no such points.
    """
    try:
        require_tensors(path, limits.MOST_POINTS_BYTES)
        with safe_open(path, framework="np") as file:
            points: NDArray[np.float32] = file.get_tensor(_POINTS)
        found = points.shape
        fits = len(found) == len(shape) and all(
            wanted in (None, there) for there, wanted in zip(found, shape, strict=True)
        )
        if shape and not fits:
            raise ValueError(f"points of shape {found}")
        if not (np.issubdtype(points.dtype, np.floating) and np.isfinite(points).all()):
            raise ValueError("points that are infinite or no numbers")
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        raise RunFolderError(f"'{path}' cannot be read ({error}); run the trial again") from error
    return points


def load_curves(folder: Path) -> pd.DataFrame:
    """Reads the loss and the learning rate of each step of a trial, and losses of validation.

    Raises:
        RunFolderError: The file is missing or damaged.
    """
    path = folder / CURVES
    try:
        require_file(path)
        kinds = {"step": int, "loss": float, "learning_rate": float, "heldout_loss": float}
        table = read_parquet(path, [*kinds], len(kinds) * limits.MOST_STEPS)
        curves = table.to_pandas(ignore_metadata=True).astype(kinds)
        if not np.array_equal(curves["step"], np.arange(1, len(curves) + 1)):
            raise ValueError("the steps are not 1, 2, 3, ...")
        if not np.isfinite(curves["loss"]).all():
            raise ValueError("a loss is infinite or no number")
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise RunFolderError(f"'{path}' cannot be read ({error}); run the trial again") from error
    return curves


def save_weights(path: Path, denoiser: nn.Module) -> None:
    """Saves the state dict of a network, whole or not at all."""
    state = {name: value.contiguous() for name, value in denoiser.state_dict().items()}
    write_bytes(path, safetensors_bytes(state))


def load_weights(path: Path, denoiser: Denoising) -> Denoising:
    """Returns a copy of a network with the weights that :func:`save_weights` wrote.

    Args:
        path: The file.
        denoiser: A network with the same settings.

    Raises:
        RunFolderError: The file is damaged, or of another network.
    """
    then = copy.deepcopy(denoiser)
    try:
        # It has the bytes of the network's own tensors, and a header.
        size = sum(value.nbytes for value in then.state_dict().values())
        require_tensors(path, size + limits.MOST_JSON_BYTES)
        then.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise RunFolderError(f"'{path}' cannot be read ({error}); run the trial again") from error
    return then


def recorded_steps(folder: Path, what: str = REVERSE) -> list[int]:
    """Lists the steps at which a trial recorded its reverse process, or its weights, in order."""
    names = (path.stem for path in _files(folder, [f"{what}/[0-9]*.safetensors"]))
    return sorted(int(name) for name in names if name.isdecimal() and name.isascii())


def prepare_trial_folder(folder: Path, config: TrialConfig, *, fresh: bool = False) -> None:
    """Checks that a single trial may use a folder: it is empty or holds this trial.

    Args:
        folder: The folder, which need not exist.
        config: The trial.
        fresh: Whether to delete the trial that is in the folder, finished or not. Other files stay.

    Raises:
        RunFolderError: It holds another finished run, or other files, or cannot be cleared.
        TrialTakenError: Another process is running the trial that is to be deleted.
    """
    if not holds_run(folder, "run", (RESULT, CHECKPOINT), _SPACE_NEEDED):
        return
    if fresh:
        with claimed(folder):
            _clear(folder)
        return
    finished = load_trial(folder, but=(SAMPLES,))
    if finished is not None and finished.config.identity != config.identity:
        raise RunFolderError(
            f"'{folder}' holds another run ({finished.config.label}); choose another folder "
            "or start afresh"
        )


def holds_run(folder: Path, kind: str, marks: Sequence[str], space: int) -> bool:
    """Checks that a run may use a folder: it is new or empty, or holds a run already.

    Args:
        folder: The folder, which need not exist.
        kind: The kind of run, in words.
        marks: Names of files, any of which marks a run.
        space: Largest number of bytes that will be written.

    Returns:
        Whether it holds a run.

    Raises:
        RunFolderError: It is a file or holds other files, or there is too little space.
    """
    require_free_space(folder, space)
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise RunFolderError(f"'{folder}' is a file; choose a folder")
    if any((folder / mark).exists() for mark in marks):
        return True
    if any(not entry.name.startswith(".") for entry in folder.iterdir()):
        raise RunFolderError(
            f"'{folder}' holds other files and no {kind}; choose an empty or new folder"
        )
    return False


def _clear(folder: Path) -> None:
    """Deletes what a trial wrote into its folder."""
    try:
        for path in [*_trial_files(folder), *_files(folder, (RESULT, CHECKPOINT))]:
            remove_file(path)
        for place in {(folder / name).parent for name in _FILES} - {folder}:
            with suppress(OSError):  # it holds other files, or is not there
                place.rmdir()
    except OSError as error:
        raise RunFolderError(f"'{folder}' cannot be cleared: {error}") from error
