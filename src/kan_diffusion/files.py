"""Files written whole or not at all: a temporary name beside the target, then one rename."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import secrets
import shutil
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from kan_diffusion.errors import RunFolderError

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "CHECKSUMS",
    "digest",
    "finite",
    "json_bytes",
    "parquet_bytes",
    "read_as",
    "read_json",
    "require_file",
    "require_free_space",
    "require_unchanged",
    "whole_file",
    "write_bytes",
    "write_checksums",
    "write_json",
    "write_parquet",
    "write_text",
]

T = TypeVar("T")

CHECKSUMS = "SHA256SUMS"
"""Name of the list of a folder's files with their digests."""

_LARGEST_READ = 100_000_000
_OBJECT = TypeAdapter(dict[str, Any])


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Gives a temporary path beside ``path``; renames it to ``path`` when the block succeeds.

    Args:
        path: The file to write. Its folder is made when missing.

    Yields:
        The temporary path.

    Raises:
        RunFolderError: The file cannot be written (full disk, no permission); whatever stood
            under ``path`` before is still there, untouched.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp{path.suffix}"
        temporary.touch(exist_ok=False)  # for whom the umask says, unlike tempfile's
        try:
            yield temporary
            with temporary.open("r+b") as written:  # Windows flushes only what may be written
                os.fsync(written.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise RunFolderError(
            f"cannot write '{path}': {error.strerror or error}; free some space or choose another "
            "folder with --out"
        ) from error


def write_bytes(path: str | Path, content: bytes) -> None:
    """Writes ``content`` to ``path``, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | Path, content: str) -> None:
    """Writes ``content`` to ``path`` as UTF-8, whole or not at all."""
    write_bytes(path, content.encode())


def finite(content: T) -> T:
    """Copies JSON content and replaces NaN and infinite numbers by None.

    Args:
        content: Dictionaries, lists and tuples of any depth.
    """
    made: object = content
    if isinstance(content, dict):
        made = {key: finite(value) for key, value in content.items()}
    elif isinstance(content, list | tuple):
        made = [finite(value) for value in content]
    elif isinstance(content, float) and not math.isfinite(content):
        made = None
    return cast(T, made)


def require_file(path: Path) -> None:
    """Checks that a path is a file; reading a pipe or a device may never end.

    Raises:
        OSError: It is something else, or missing.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is no file")


def digest(path: Path) -> str:
    """Computes the hexadecimal SHA-256 digest of a file.

    Raises:
        OSError: It cannot be read.
    """
    require_file(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_checksums(folder: Path, files: Iterable[Path], to_come: Mapping[str, bytes]) -> None:
    """Lists the digests of files in ``SHA256SUMS``, in the format of the program sha256sum.

    Args:
        folder: The folder.
        files: Files in it.
        to_come: Contents by name of files that will be written next.

    Raises:
        RunFolderError: The list cannot be written.
    """
    sums = {path.relative_to(folder).as_posix(): digest(path) for path in files}
    sums |= {name: hashlib.sha256(content).hexdigest() for name, content in to_come.items()}
    lines = [f"{sums[name]}  {name}\n" for name in sorted(sums)]
    write_text(folder / CHECKSUMS, "".join(lines))


def require_unchanged(
    folder: Path, files: Iterable[Path], again: str, but: Collection[str] = ()
) -> None:
    """Checks by digests that a folder's files have not changed since they were written.

    Args:
        folder: The folder.
        files: Files in it that must be listed.
        again: What makes them anew, for messages.
        but: Names of files that may have changed.

    Raises:
        RunFolderError: A file is missing, is not listed or has changed, or the list of digests
            cannot be read.
    """
    listed = set()
    remedy = f"restore it, {again}, or read it all the same with --unverified"
    place = folder / CHECKSUMS
    try:
        require_file(place)
        for line in place.read_text("utf-8").splitlines():
            expected, _, name = line.partition("  ")
            if not name or {"..", ""} & set(name.split("/")):
                raise ValueError(f"{line[:80]!r} is no digest of a file")
            path = folder / name
            listed.add(path)
            if name in but:
                continue
            try:
                found = digest(path)
            except OSError as error:
                raise RunFolderError(
                    f"'{path}' cannot be read ({error.strerror}); {remedy}"
                ) from error
            if found != expected:
                raise RunFolderError(
                    f"'{path}' is not what the run wrote (its SHA-256 is not that of "
                    f"'{CHECKSUMS}'); {remedy}"
                )
    except RunFolderError:
        raise
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RunFolderError(f"'{place}' cannot be read ({reason}); {remedy}") from error
    for path in files:
        if path not in listed:
            raise RunFolderError(f"'{place}' has no digest of '{path.name}'; {remedy}")


def read_json(path: Path, kind: str, remedy: str) -> dict[str, Any]:
    """Reads a JSON object; arguments and errors are those of :func:`read_as`."""
    return read_as(_OBJECT, path, kind, remedy)


def read_as(shape: TypeAdapter[T], path: Path, kind: str, remedy: str) -> T:
    """Reads a JSON file, or the rows of a Parquet file, and checks what is in it.

    Args:
        shape: Type of the content, down to every value. Rows are a list of dictionaries with the
            same keys, and a value that a row lacks is None.
        path: The file; it holds rows if its name ends in ``.parquet``.
        kind: What it should be, such as ``"the result of a trial"``, for messages.
        remedy: What to do if it is something else, for messages.

    Raises:
        RunFolderError: It is missing, too large, damaged or holds something else.
    """
    try:
        require_file(path)
        if path.stat().st_size > _LARGEST_READ:
            raise ValueError(f"{path.stat().st_size / 1e6:.0f} MB are too many")
        in_rows = path.suffix == ".parquet"
        content = _parquet_rows(path) if in_rows else json.loads(path.read_text("utf-8"))
        return shape.validate_python(content, strict=True)
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            reason = ": ".join([".".join(map(str, first["loc"])), first["msg"]]).strip(": ")
        raise RunFolderError(f"'{path}' is not {kind} ({reason}); {remedy}") from error


def _parquet_rows(path: Path) -> object:
    # Slow to import, and most files are JSON.
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            return file.read().to_pylist()
    except ArrowException as error:  # some are no ValueError
        raise ValueError(error) from error


def json_bytes(content: object) -> bytes:
    """Encodes content as indented JSON (no NaN)."""
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()


def write_json(path: str | Path, content: object) -> None:
    """Writes ``content`` to ``path`` as indented JSON (no NaN), whole or not at all."""
    write_bytes(path, json_bytes(content))


def parquet_bytes(frame: pd.DataFrame) -> bytes:
    """Encodes a data frame as Parquet, without its index."""
    return frame.to_parquet(index=False)


def write_parquet(path: str | Path, frame: pd.DataFrame) -> None:
    """Writes ``frame`` to ``path`` as Parquet, whole or not at all."""
    write_bytes(path, parquet_bytes(frame))


def require_free_space(folder: str | Path, num_bytes: int) -> None:
    """Checks before any work starts that ``folder``'s disk has room for what will be written.

    Raises:
        RunFolderError: Less than ``num_bytes`` are free.
    """
    existing = Path(folder).absolute()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < num_bytes:
        raise RunFolderError(
            f"the disk of '{folder}' has {free / 1e6:.0f} MB free and this run may write "
            f"{num_bytes / 1e6:.0f} MB; free some space or choose another folder with --out"
        )
