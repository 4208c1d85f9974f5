"""Small files of tables."""

import numpy as np
import pandas as pd

from helpers import refused
from kan_diffusion.errors import DataError
from kan_diffusion.tables.files import read_frame


def written(folder, content):
    """A file of the format that takes the content: text, an array or columns."""
    if isinstance(content, np.ndarray):
        path = folder / "points.npy"
        np.save(path, content, allow_pickle=True)
    elif isinstance(content, dict):
        path = folder / "points.parquet"
        pd.DataFrame(content).to_parquet(path)
    else:
        path = folder / "points.csv"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def require_refused(folder, content, words):
    """Checks that a file is refused in one line, which names it."""
    path = written(folder, content)
    with refused(words, DataError) as caught:
        read_frame(path)
    assert str(path) in str(caught.value)
