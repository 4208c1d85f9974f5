"""Versions and hardware of a study, in a file that has the digests of the files beside it."""

from __future__ import annotations

import hashlib
import os
import platform
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from pydantic import TypeAdapter

from kan_diffusion._version import __version__
from kan_diffusion.errors import RunFolderError, valid_settings
from kan_diffusion.files import (
    digest,
    read_json,
    read_sealed,
    require_unchanged,
    sealed_json,
    write_bytes,
)
from kan_diffusion.limits import MOST_RESULT_BYTES
from kan_diffusion.study.folder import STUDY, VERSION, require_version

__all__ = [
    "ROWS",
    "environment",
    "read_environment",
    "require_study_version",
    "write_environment",
]

ROWS = "results.parquet"
_ENVIRONMENT = "environment.json"
_VERSIONS = TypeAdapter(dict[str, str])

_LIBRARIES = (
    "torch",
    "diffusers",
    "accelerate",
    "numpy",
    "scipy",
    "scikit-learn",
    "numba",
    "pytorch-optimizer",
)


def environment() -> dict[str, str]:
    """Lists the versions and the hardware that timings depend on."""
    versions = {name: metadata.version(name) for name in _LIBRARIES}
    return {
        "kan-diffusion": __version__,
        "python": platform.python_version(),
        **versions,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "threads a trial": "1",
    }


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def write_environment(folder: Path, rows: bytes | None = None) -> None:
    """Writes versions and hardware, with digests of the study and of its rows.

    Args:
        folder: Folder of a study.
        rows: Content of ``results.parquet`` where it will be written next.
    """
    files = [folder / name for name in (STUDY, ROWS) if (folder / name).is_file()]
    digests = {path.name: digest(path) for path in files}
    if rows is not None:
        digests[ROWS] = hashlib.sha256(rows).hexdigest()
    content = {"version": VERSION, **environment()}
    write_bytes(folder / _ENVIRONMENT, sealed_json(content, digests))


def require_study_version(folder: Path) -> None:
    """Checks that a folder, if it holds a study, holds one of this version.

    Raises:
        RunFolderError: It does not.
    """
    path = folder / _ENVIRONMENT
    try:
        content = read_json(path, "a list of versions", "", MOST_RESULT_BYTES)
    except RunFolderError:  # what cannot be read is written again
        return
    require_version(content, path)


def read_environment(folder: Path) -> dict[str, str]:
    """Reads versions and hardware, and checks that the files of the study have not changed.

    Raises:
        RunFolderError: The file is missing, damaged or of another version, or one beside it has
            changed.
    """
    path, again = folder / _ENVIRONMENT, "run the study again"
    content, digests = read_sealed(path, "a list of versions", again, MOST_RESULT_BYTES)
    require_version(content, path)
    for name in (STUDY, ROWS):
        if name not in digests and (folder / name).exists():
            raise RunFolderError(f"'{path}' has no digest of '{name}'; {again}")
    require_unchanged(folder, digests, again)
    with valid_settings(f"'{path}'"):
        return _VERSIONS.validate_python(content)
