"""The folder of a trial: its files, and how they are read.

The folder of a trained trial is a diffusers pipeline (``model_index.json``, ``denoiser/``), with
``curves.parquet`` (losses and learning rate of every step) and ``reverse/<step>.safetensors`` (the
reverse process at moments of training). Judging adds ``samples-<judgement>.safetensors`` (generated
points or pictures). ``trial.json`` is written after each of the two: it says what was
trained, then how that was judged, with the date and settings of both. While a trial is trained, its
state is in ``checkpoint.safetensors``.

``trial.json`` holds the digests of all files that the trial wrote, and one of itself; a file that
changed afterwards is refused. A judgement bears its id in the name of its file, so another one
leaves it whole until ``trial.json`` is replaced.

The process that runs a trial holds a lock on its folder (``.lock``), which the operating system
releases when the process ends, even if it is killed. Each file is written under a temporary name
and then renamed. Reading takes no lock and writes nothing.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter, model_validator
from pydantic.dataclasses import dataclass
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from kan_diffusion import limits
from kan_diffusion.diffusion.sampling import SamplePipeline
from kan_diffusion.errors import RunFolderError, valid_settings
from kan_diffusion.evaluation.denoising import LevelScore
from kan_diffusion.files import (
    DIGESTS,
    SEAL,
    digest,
    inside,
    make_folder,
    read_json,
    read_parquet,
    remove_file,
    require_file,
    require_free_space,
    require_tensors,
    sealed_json,
    stamp,
    sync_folder,
    whole_file,
    write_bytes,
    write_parquet,
    write_text,
    writing,
)
from kan_diffusion.study.config import Judgement, TrialConfig

_VERSION = 1
"""Version of the folders of trials and studies; those of another one are refused."""

_KIND, _AGAIN = "the result of a trial", "delete '{}' and run again"
"""What errors call a trial's record, and their remedy."""

STUDY, TRIALS = "study.yaml", "trials"  # in the folder of a study
CHECKPOINT = "checkpoint.safetensors"
RESULT = "trial.json"
REVERSE = "reverse"
TABLE = "rows.parquet"  # the rows of a table that an estimator was fitted to, where they are kept

_INDEX, _CURVES, _POINTS, _HOLDER = "model_index.json", "curves.parquet", "points", ".holder"
_WHOLE = ".whole"  # a folder in that of a trial, with the files of one that replaces it
_SAMPLES = "samples-{}.safetensors"
_HALF_SAVED = ".pipeline-"
"""Start of the name of a folder whose files are renamed when all of them are written."""

_TEMPORARY = re.compile(rf"\..+\.[0-9a-f]{{8}}\.tmp(\.\w+)?|{_HALF_SAVED}[a-z0-9_]{{8}}")
_STARTING_SECONDS = 2.0
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)
_SPACE_NEEDED = 20_000_000

_DIGESTS = TypeAdapter(dict[str, str])
_CHANGED = "'{}' is not what the run wrote (its SHA-256 is another); restore it, or {}"

_FILES = ("denoiser/[!.]*", _INDEX, _CURVES, f"{REVERSE}/[!.]*.safetensors", TABLE)
"""Files of a trained trial beside its result."""

Row = dict[str, str | int | float | None]
"""A trial's row of results: flat keys, plain values, None where nothing was measured."""

_WORDS = ("data", "process", "match", "family", "kind", "name", "trial", "oracle", "error", "stage")
_OF_CONFIG = ("data", "process", "name", "seed")
"""Keys of a row that follow from the trial's configuration, even for a stage of its denoiser."""
_OF_JUDGED = {"oracle", "floor", "excess", "excess_se"}


class TrialTakenError(RunFolderError):
    """Another process is running the trial, or another study in the same folder."""


class Trained(BaseModel):
    """What ``trial.json`` says of training.

    Attributes:
        row: The part of the trial's row that is known from it.
        date: When it ended, in ISO 8601.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    row: dict[str, str | int | FiniteFloat | None]
    date: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))


class Judged(Trained):
    """What it says of judging, with the sampling and evaluation of its configuration.

    Attributes:
        versions: Versions of the metrics, by key.
        levels: Loss and excess by noise level, a dictionary a level.
    """

    versions: dict[str, int]
    levels: list[dict[str, FiniteFloat | None]]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TrialResult:
    """A trained trial, and what judging it gave: all that ``trial.json`` says.

    Attributes:
        config: Its configuration; where it is judged, with the sampling and evaluation of that.
        folder: Its folder.
        trained: What training gave.
        judged: What judging gave; None where it is not judged.

    Raises:
        ValidationError: A value of its row is of another type or missing, or differs from the
            configuration.
    """

    config: TrialConfig
    folder: Path
    trained: Trained
    judged: Judged | None = None

    @model_validator(mode="after")
    def _require_row(self) -> Self:
        """Checks that the row has the entries of a trial, of their kinds and of this trial."""
        row, keys = self.row, self.config.keys
        for key, value in row.items():
            if value is not None and isinstance(value, str) != (key in _WORDS):
                raise RunFolderError(f"row.{key} = {str(value)[:80]!r} is of the wrong kind")
        for key in _OF_CONFIG:
            if row.get(key) != keys[key]:
                raise RunFolderError(
                    f"row.{key} = {str(row.get(key))[:80]!r} is not that of config"
                )
        needed = {*keys, "error", "parameters"}
        if "heldout_loss" in row and row.get("error") is None:
            needed |= _OF_JUDGED
        if missing := sorted(needed - row.keys()):
            raise RunFolderError(f"there is no row.{missing[0]}")
        names = {field.name for field in fields(LevelScore)}
        if any(level.keys() != names for level in self.levels):
            raise RunFolderError(f"a level has not the keys {', '.join(sorted(names))}")
        return self

    @property
    def row(self) -> Row:
        """Its row of results."""
        return {**self.trained.row, **(self.judged.row if self.judged else {})}

    @property
    def levels(self) -> list[dict[str, float | None]]:
        """Its loss and excess by noise level."""
        return self.judged.levels if self.judged else []

    @property
    def judgement(self) -> Judgement:
        """How it was judged."""
        asked = self.config.judgement
        return asked.model_copy(update={"versions": self.judged.versions}) if self.judged else asked

    @property
    def samples(self) -> Path:
        """The file of the samples that it was judged by, if it has any."""
        return self.folder / _SAMPLES.format(self.judgement.id)

    def answers(self, asked: TrialConfig) -> bool:
        """Whether nothing is left to do of a trial; where training failed, it is over."""
        if self.trained.row["error"] is not None:
            return True
        return self.judged is not None and self.judgement.answers(asked.judgement)

    def changed(
        self, config: TrialConfig | None = None, **entries: str | int | float | None
    ) -> Self:
        """Returns a copy with another configuration, and other entries of its row."""
        row = {**self.trained.row, **entries}
        trained = self.trained.model_copy(update={"row": row})
        return replace(self, config=config or self.config, trained=trained)


_RESULT = TypeAdapter(TrialResult)


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
        if not study:  # what a process that was killed has left
            _settle(folder)
            for left in (p for name in _FILES for p in inside(folder, name).parent.glob(".*")):
                if _TEMPORARY.fullmatch(left.name):
                    with suppress(OSError):
                        shutil.rmtree(left) if left.is_dir() else left.unlink()
        yield
    finally:
        if lock.is_locked:
            with suppress(OSError):
                holder.unlink()
        lock.release()


def write_record(path: Path, content: Mapping[str, object], files: Iterable[Path]) -> None:
    """Writes what a folder says of itself, with the digests of files in it.

    Args:
        path: The file to write.
        content: What it says, of JSON values.
        files: The files, which must not change afterwards.
    """
    digests = {_name(file, path.parent): digest(file) for file in files}
    write_bytes(path, sealed_json({"version": _VERSION, **content}, digests))


def read_record(path: Path, kind: str, patterns: Sequence[str], again: str) -> dict[str, Any]:
    """Reads what a folder says of itself, and checks that its files have not changed.

    Args:
        path: The file that :func:`write_record` wrote.
        kind: What it is, for messages.
        patterns: Files of the folder that must have a digest, if they are there.
        again: How to make the folder anew, for messages.

    Raises:
        RunFolderError: The file is missing, damaged or of another version, or a file of the folder
            has changed or no digest.
    """
    content, digests = read_digests(path, kind, again)
    for file in _files(path.parent, patterns):
        if (name := _name(file, path.parent)) not in digests:
            raise RunFolderError(f"'{path}' has no digest of '{name}'; move that file, or {again}")
    room = limits.MOST_LISTED_BYTES
    for name, expected in digests.items():
        try:
            if {"..", ""} & set(name.split("/")):
                raise OSError(errno.EINVAL, "it is no file of the folder")
            file = inside(path.parent, name)
            room -= require_file(file, room)
            actual = digest(file)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise RunFolderError(
                f"'{path.parent / name[:200]}' cannot be read ({reason}); restore it, or {again}"
            ) from error
        if actual != expected:
            raise RunFolderError(_CHANGED.format(file, again))
    return content


def read_digests(path: Path, kind: str, again: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Reads what a folder says of itself, and no other file; arguments are those of `read_record`.

    Returns:
        What it says, and the digests of files by their names in the folder.

    Raises:
        RunFolderError: The file is missing, damaged or of another version.
    """
    before = stamp(path) if path.is_file() else ()
    content = read_json(path, kind, again, limits.MOST_RESULT_BYTES)
    content.pop(SEAL, None)
    digests, is_whole = content.pop(DIGESTS, {}), False
    with suppress(ValueError):  # other values than digests, or numbers that JSON lacks
        is_whole = path.read_bytes() == sealed_json(content, _DIGESTS.validate_python(digests))
    if not is_whole and stamp(path) != before:  # another process has replaced it meanwhile
        return read_digests(path, kind, again)
    if not is_whole:
        raise RunFolderError(_CHANGED.format(path, again))
    if (version := content.pop("version", None)) != _VERSION:
        raise RunFolderError(
            f"'{path}' is of a folder of version {str(version)[:20]}, and this is version "
            f"{_VERSION}; choose another folder"
        )
    return content, digests


def _name(file: Path, folder: Path) -> str:
    return file.relative_to(folder).as_posix()


def _files(folder: Path, patterns: Iterable[str] = _FILES) -> list[Path]:
    """Lists the files of a folder by patterns, without going through links to other folders."""
    return [
        path
        for pattern in patterns
        for path in sorted(inside(folder, pattern).parent.glob(Path(pattern).name))
        if path.is_file()
    ]


def _trial_files(folder: Path) -> list[Path]:
    """Lists the files of a trial: those whose digests it has, and before that, its records.

    Raises:
        RunFolderError: Its ``trial.json`` is damaged, or of another version.
    """
    files = _files(folder, (*_FILES, _SAMPLES.format("*")))
    if not (folder / RESULT).exists():
        return files if (folder / CHECKPOINT).exists() else []
    _, digests = read_digests(folder / RESULT, _KIND, _AGAIN.format(folder))
    return [file for file in files if _name(file, folder) in digests]


@contextmanager
def replaced_trial(folder: Path) -> Iterator[Path]:
    """Gives a new folder, with whose trial that of ``folder`` is replaced when the block succeeds.

    The trial is replaced whole or not at all: a process that is killed leaves the old one until the
    new folder has been renamed, and from then on the new one, which is read where it is until
    whoever locks the trial next has copied its files. Files that are no trial's stay.

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
        if others := {*_files(folder)}.difference(_trial_files(folder)):
            raise RunFolderError(
                f"'{min(others)}' is no file of the run in that folder and would be in the way; "
                "move it, or choose another folder"
            )
        with tempfile.TemporaryDirectory(prefix=_HALF_SAVED, dir=folder) as temporary:
            new = Path(temporary) / _WHOLE
            new.mkdir()
            yield new
            with writing(folder):
                new.replace(folder / _WHOLE)
                sync_folder(folder)
        _settle(folder)


def _settle(folder: Path) -> None:
    """Copies the files of a trial that replaces the one in a folder; again, if it was begun.

    Until its result is copied, nothing in the folder is read. The index comes next to last: without
    it nobody takes the files of both for a pipeline.

    Raises:
        RunFolderError: A file cannot be written.
    """
    new = inside(folder, _WHOLE, in_place=True)
    if not (new / RESULT).exists():
        return
    with writing(folder):
        before = _trial_files(folder) if (folder / RESULT).exists() else []
        for file in (folder / _INDEX, *before):
            remove_file(file)
        files = sorted(_trial_files(new), key=lambda file: file.name == _INDEX)
        for file in (*files, new / RESULT):
            with whole_file(inside(folder, _name(file, new))) as place:
                shutil.copyfile(file, place)
        with tempfile.TemporaryDirectory(prefix=_HALF_SAVED, dir=folder) as temporary:
            new.replace(Path(temporary) / _WHOLE)


def keep_trial(
    result: TrialResult,
    pipeline: SamplePipeline | None = None,
    curves: pd.DataFrame | None = None,
    samples: Tensor | None = None,
) -> None:
    """Writes a trained or a judged trial into its folder, ``trial.json`` last.

    Args:
        result: The trial.
        pipeline: Its denoiser with its sampler; None where it stands there already, or training
            failed.
        curves: Loss and learning rate of each step, likewise.
        samples: Generated points, standardised, or pictures, with shape (n, *shape).

    Raises:
        RunFolderError: It cannot be written.
    """
    folder = result.folder
    if pipeline is not None:
        _save_pipeline(pipeline, folder)
    if curves is not None:
        write_parquet(folder / _CURVES, curves)
    if samples is not None:
        save_points(result.samples, samples.float())
    kept = [result.samples] if result.judged and result.samples.exists() else []
    content = _RESULT.dump_python(result, mode="json", exclude={"folder"})
    write_record(folder / RESULT, content, [*_files(folder), *kept])
    for path in {*_files(folder, [_SAMPLES.format("*")])}.difference(kept):
        with suppress(OSError):  # the next judgement does
            path.unlink()


def _save_pipeline(pipeline: SamplePipeline, folder: Path) -> None:
    """Saves a pipeline, each of its files whole or not at all, and its index last."""
    with writing(folder):
        make_folder(folder)
        with tempfile.TemporaryDirectory(prefix=_HALF_SAVED, dir=folder) as temporary:
            try:
                pipeline.save_pretrained(temporary)
            except SafetensorError as error:  # the disk is full
                raise OSError(error) from error
            for file in _files(Path(temporary)):
                with whole_file(inside(folder, _name(file, Path(temporary)))) as place:
                    file.chmod(place.stat().st_mode)  # safetensors hides its files from others
                    file.replace(place)


def load_trial(folder: Path, expected: TrialConfig | None = None) -> TrialResult | None:
    """Reads a trained trial; None if the folder holds none.

    Args:
        folder: Its folder.
        expected: The trial it should be, if that is known.

    Raises:
        RunFolderError: The folder's ``trial.json`` is damaged or of another version, a file has
            changed, or the folder holds another trial.
        KanDiffusionError: One of its settings is wrong.
    """
    if (inside(folder, _WHOLE, in_place=True) / RESULT).exists():  # which replaces the one there
        folder /= _WHOLE
    path = folder / RESULT
    if not path.exists():
        return None
    content = read_record(path, _KIND, _FILES, _AGAIN.format(folder))
    with valid_settings(f"'{path}'"):
        result = _RESULT.validate_python({**content, "folder": folder})
    if expected is not None and result.config.id != expected.id:
        there = differences(result.config.decisive(), expected.decisive())
        raise RunFolderError(
            f"'{folder}' holds another run, {result.config.label} ({there}); choose another "
            "folder, or train afresh"
        )
    return result


def differences(there: Mapping[str, object], asked: Mapping[str, object]) -> str:
    """Lists up to three settings that differ, such as ``training.steps 40, not 20``."""
    return ", ".join(islice(_differing(there, asked), 3))


def _differing(there: object, asked: object, name: str = "") -> Iterator[str]:
    if isinstance(there, list) and isinstance(asked, list):
        there, asked = dict(enumerate(there)), dict(enumerate(asked))
    if isinstance(there, Mapping) and isinstance(asked, Mapping):
        for key in {**there, **asked}:
            yield from _differing(there.get(key), asked.get(key), f"{name}.{key}".strip("."))
    elif there != asked:
        yield f"{name} {str(there)[:40]}, not {str(asked)[:40]}"


def save_points(path: Path, points: Tensor) -> None:
    """Saves a set of points, whole or not at all."""
    write_bytes(path, safetensors_bytes({_POINTS: points.contiguous()}))


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError, ValueError, TypeError, LookupError) as error:
        raise RunFolderError(f"'{path}' cannot be read ({error}); run the trial again") from error


def load_points(path: Path, *shape: int | None) -> NDArray[np.float32]:
    """Reads a set of points that :func:`save_points` wrote.

    Args:
        path: The file.
        *shape: Shape the points must have, with None for any number; not checked when not given.

    Raises:
        RunFolderError: The file is missing or damaged, or holds no such points.
    """
    with _reading(path):
        require_tensors(path, limits.MOST_POINTS_BYTES)
        with safe_open(path, framework="np") as file:
            points: NDArray[np.float32] = file.get_tensor(_POINTS)
        wanted = tuple(n if n is not None else m for n, m in zip(shape, points.shape, strict=False))
        if shape and (wanted != points.shape or len(shape) != points.ndim):
            raise ValueError(f"points of shape {points.shape}")
        if not (np.issubdtype(points.dtype, np.floating) and np.isfinite(points).all()):
            raise ValueError("points that are infinite or no numbers")
    return points


def load_curves(folder: Path) -> pd.DataFrame:
    """Reads the loss and the learning rate of each step of a trial, and losses of validation.

    Raises:
        RunFolderError: The file is missing or damaged.
    """
    kinds = {"step": int, "loss": float, "learning_rate": float, "heldout_loss": float}
    with _reading(path := folder / _CURVES):
        require_file(path)
        table = read_parquet(path, [*kinds], len(kinds) * limits.MOST_STEPS)
        curves = table.to_pandas(ignore_metadata=True).astype(kinds)
        counted = np.array_equal(curves["step"], np.arange(1, len(curves) + 1))
        if not (counted and np.isfinite(curves["loss"]).all()):
            raise ValueError("the steps are not 1, 2, 3, ..., or a loss is no number")
    return curves


def recorded_steps(folder: Path) -> list[int]:
    """Lists the steps at which a trial recorded its reverse process, in order."""
    names = (path.stem for path in _files(folder, [f"{REVERSE}/[0-9]*.safetensors"]))
    return sorted(int(name) for name in names if name.isdecimal() and name.isascii())


def prepare_trial_folder(folder: Path, config: TrialConfig, *, fresh: bool = False) -> None:
    """Checks that a single trial may use a folder: it is empty or holds this trial.

    Args:
        folder: The folder, which need not exist.
        config: The trial.
        fresh: Whether to delete the trial that is in the folder, finished or not. Other files stay.

    Raises:
        RunFolderError: It holds another run, or other files, or cannot be cleared.
        TrialTakenError: Another process is running the trial that is to be deleted.
    """
    if not holds_run(folder, "run", (RESULT, CHECKPOINT), _SPACE_NEEDED):
        return
    if not fresh:
        load_trial(folder, config)
        return
    _trial_files(folder)  # refuses another version before anything is written
    with claimed(folder), writing(folder):
        files = _trial_files(folder)  # of a run that was being replaced, the new one's
        # The result first: a half removed run does not count as finished.
        for file in (*_files(folder, (RESULT, CHECKPOINT)), *files):
            remove_file(file)


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
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"'{folder}' is a file; choose a folder")
    require_free_space(folder, space)
    if not folder.exists():
        return False
    if any((folder / mark).exists() for mark in marks):
        return True
    if any(not entry.name.startswith(".") for entry in folder.iterdir()):
        raise RunFolderError(
            f"'{folder}' holds other files and no {kind}; choose an empty or new folder"
        )
    return False
