"""Points into files, by the file's ending."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.files import whole_file

__all__ = ["require_writable_ending", "write_table"]

_ENDINGS = (".csv", ".parquet", ".npy")


def require_writable_ending(path: Path) -> None:
    """Checks that points can be written to a file of this name.

    Raises:
        KanDiffusionError: The ending is not one of .csv, .parquet and .npy.
    """
    if path.suffix.lower() not in _ENDINGS:
        raise KanDiffusionError(
            f"cannot write points to '{path}': the ending must be {', '.join(_ENDINGS)}"
        )


def write_table(path: Path, points: np.ndarray, columns: Sequence[str]) -> None:
    """Writes points to a file, whole or not at all.

    Args:
        path: A .csv, .parquet or .npy file.
        points: Points with shape (n, d).
        columns: Names of the d coordinates; a .npy file has none.

    Raises:
        KanDiffusionError: The ending is unknown.
        RunFolderError: The file cannot be written.
    """
    require_writable_ending(path)
    frame = pd.DataFrame(points, columns=list(columns))
    ending = path.suffix.lower()
    with whole_file(path) as temporary:
        if ending == ".csv":
            frame.to_csv(temporary, index=False)
        elif ending == ".parquet":
            frame.to_parquet(temporary, index=False)
        else:
            with temporary.open("wb") as file:
                np.save(file, points, allow_pickle=False)
