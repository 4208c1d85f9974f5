"""Files written whole or not at all: a temporary name beside the target, then one rename."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from kan_diffusion.errors import RunFolderError

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "finite",
    "require_free_space",
    "whole_file",
    "write_bytes",
    "write_json",
    "write_json_once",
    "write_parquet",
    "write_text",
]

T = TypeVar("T")


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Makes the folder of a file, and turns what goes wrong with the disk into a line."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise RunFolderError(
            f"cannot write '{path}': {error.strerror or error}; free some space or choose another "
            "folder with --out"
        ) from error


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
    with _writing(path):
        descriptor, name = tempfile.mkstemp(
            prefix=f".{path.name}.", suffix=f".tmp{path.suffix}", dir=path.parent
        )
        os.close(descriptor)
        temporary = Path(name)
        try:
            temporary.chmod(0o644)
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Writes ``content`` to ``path``, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | Path, content: str) -> None:
    """Writes ``content`` to ``path`` as UTF-8, whole or not at all."""
    write_bytes(path, content.encode())


def finite(content: T) -> T:
    """A copy of JSON content with None for numbers that JSON has not: infinite ones and no numbers.

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


def write_json(path: str | Path, content: object) -> None:
    """Writes ``content`` to ``path`` as indented JSON (no NaN), whole or not at all."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_json_once(path: str | Path, content: object) -> bool:
    """Writes ``content`` as `write_json` does, unless the file is there already.

    Of several processes that do so at the same time one wins.

    Returns:
        Whether it was written.
    """
    path = Path(path)
    hidden = f".{path.name}."
    with _writing(path), tempfile.TemporaryDirectory(prefix=hidden, dir=path.parent) as folder:
        whole = Path(folder) / path.name
        write_json(whole, content)
        with suppress(FileExistsError):
            os.link(whole, path)  # fails where the name is taken, unlike a renaming
            return True
    return False


def write_parquet(path: str | Path, frame: pd.DataFrame) -> None:
    """Writes ``frame`` to ``path`` as Parquet, whole or not at all."""
    with whole_file(path) as temporary:
        frame.to_parquet(temporary, index=False)


def require_free_space(folder: str | Path, num_bytes: int) -> None:
    """Checks before any work starts that ``folder``'s disk can take what will be written.

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
