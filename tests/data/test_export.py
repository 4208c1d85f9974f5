from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kan_diffusion.data.export import require_writable_ending, write_table
from kan_diffusion.data.tables import read_table
from kan_diffusion.errors import KanDiffusionError, RunFolderError

POINTS = np.random.default_rng(0).normal(size=(20, 3)) * [1e-9, 1.0, 1e12]
COLUMNS = ("height, in m", 'a "quoted" name', "ü")


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".npy", ".CSV"])
def test_what_is_written_is_read_back_exactly(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "new" / f"points{ending}"
    write_table(path, POINTS, COLUMNS)
    table = read_table(path)
    np.testing.assert_array_equal(table.values, POINTS)
    if ending != ".npy":
        assert table.columns == COLUMNS
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_files_are_as_other_programs_read_them(tmp_path: Path) -> None:
    for ending, read in ((".csv", pd.read_csv), (".parquet", pd.read_parquet)):
        path = tmp_path / f"points{ending}"
        write_table(path, POINTS, COLUMNS)
        pd.testing.assert_frame_equal(read(path), pd.DataFrame(POINTS, columns=list(COLUMNS)))


@pytest.mark.parametrize("name", ["points.txt", "points", "points.csv.gz"])
def test_unknown_endings_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(KanDiffusionError, match=r"ending must be \.csv, \.parquet, \.npy"):
        require_writable_ending(tmp_path / name)
    with pytest.raises(KanDiffusionError, match="cannot write points"):
        write_table(tmp_path / name, POINTS, COLUMNS)
    assert not list(tmp_path.iterdir())


def test_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot write"):
        write_table(tmp_path / "file" / "points.csv", POINTS, COLUMNS)
