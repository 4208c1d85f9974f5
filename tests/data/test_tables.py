from __future__ import annotations

import datetime
import hashlib
import os
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from helpers import refused
from kan_diffusion.data.tables import read_table, require_writable_ending, write_table
from kan_diffusion.errors import DataError, RunFolderError


def _file(folder: Path, content: str | bytes | np.ndarray | dict[str, object]) -> Path:
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


TABLES = arrays(
    np.float64,
    st.tuples(st.integers(2, 6), st.integers(1, 3)),
    elements=st.floats(-1e30, 1e30, allow_nan=False),
).filter(lambda values: bool((np.ptp(values, axis=0) > 1e-9 * np.abs(values).max(axis=0)).all()))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=TABLES, header=st.booleans())
def test_every_format_gives_back_the_same_numbers(
    tmp_path: Path, values: np.ndarray, header: bool
) -> None:
    names = [f"field {place}" for place in range(values.shape[1])]
    frame = pd.DataFrame(values, columns=names)
    frame.to_csv(tmp_path / "points.csv", index=False, header=header)
    frame.to_parquet(tmp_path / "points.parquet")
    np.save(tmp_path / "points.npy", values)
    tables = [read_table(tmp_path / f"points.{end}") for end in ("csv", "parquet", "npy")]
    np.testing.assert_allclose(tables[0].values, values, rtol=1e-14, atol=1e-300)
    for table in tables[1:]:
        np.testing.assert_array_equal(table.values, values)
    for table in tables:
        assert table.sha256 == hashlib.sha256(table.path.read_bytes()).hexdigest()
    numbered = tuple(f"column_{place + 1}" for place in range(values.shape[1]))
    assert tables[0].columns == (tuple(names) if header else numbered)
    assert tables[1].columns == tuple(names)
    assert tables[2].columns == numbered


@pytest.mark.parametrize(
    ("text", "columns", "values"),
    [
        ("x,y\n1,2\n3,4\n", ("x", "y"), [[1, 2], [3, 4]]),
        ("1,2\n3,4", ("column_1", "column_2"), [[1, 2], [3, 4]]),
        ("\ufeffx\n1\n2\n", ("x",), [[1], [2]]),
        ("x, y\r\n1, 2\r\n3, 4\r\n\r\n", ("x", "y"), [[1, 2], [3, 4]]),
        ("\n\nx,\n1,2\n\n3,4\n\n", ("x", "column_2"), [[1, 2], [3, 4]]),
        ("\n1,2\n3,4\n", ("column_1", "column_2"), [[1, 2], [3, 4]]),
        ('"a\nb","c, d"\n"1","2"\n3,4\n', ("a\nb", "c, d"), [[1, 2], [3, 4]]),
        ("x\n1e-3\n-2.5E+2\n", ("x",), [[0.001], [-250]]),
        ("x;y\n1;2\n3.5;4\n", ("x", "y"), [[1, 2], [3.5, 4]]),
        ("1,5;2\n3,25;-4,125\n", ("column_1", "column_2"), [[1.5, 2], [3.25, -4.125]]),
        ('a, b;"c;d"\n1,5;2\n0,125;1e-3\n', ("a, b", "c;d"), [[1.5, 2], [0.125, 0.001]]),
        ("x\ty\n1\t2\n3\t4\n", ("x", "y"), [[1, 2], [3, 4]]),
        ("a;b,c\n1,2\n3,4\n", ("a;b", "c"), [[1, 2], [3, 4]]),
    ],
)
def test_csv_dialects(tmp_path: Path, text: str, columns: tuple[str, ...], values: list) -> None:
    table = read_table(str(_file(tmp_path, text)))
    assert table.columns == columns
    assert table.values.tolist() == values


def test_other_number_types_become_float64(tmp_path: Path) -> None:
    path = _file(
        tmp_path,
        {
            "small": np.array([1, 2], dtype=np.int8),
            "half": np.array([0.5, 1.5], dtype=np.float32),
            "nullable": pd.array([3, 4], dtype="Int64"),
            "decimal": [Decimal("1.25"), Decimal("2.5")],
        },
    )
    table = read_table(path)
    assert table.values.tolist() == [[1, 0.5, 3, 1.25], [2, 1.5, 4, 2.5]]
    assert table.values.dtype == np.float64
    flat = read_table(_file(tmp_path, np.array([3, 1, 2], dtype=np.uint8)))
    assert flat.values.tolist() == [[3], [1], [2]]
    assert flat.columns == ("column_1",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is empty"),
        ("  \n\n", "is empty"),
        ("\ufeff\n\n", "is empty"),
        ("x,y\n", "no rows"),
        ("x,y\n1,2\n", "a single row"),
        ("1,2\n", "a single row"),
        ("x,y\n1,2\n3,abc\n", "column 'y', line 3 holds 'abc'"),
        ("x,y\n1,2\n\n3,4\nabc,5\n", "column 'x', line 5 holds 'abc'"),
        ("x,y\nTrue,2\nFalse,4\n", "column 'x', line 2 holds 'True'"),
        ("x,y\n1,2\n1_000,4\n", "line 3 holds '1_000'"),
        ("day,2\n1,2\n3,4\n", "line 1 holds 'day'.*header line has no number"),
        ("x;y\n1,5;2\n1.5;3\n", "column 'x', line 2 holds '1,5'"),
        ("x;y\n1,500;2\n1,250,000;3\n", "'1,500', where the comma may mark decimals or thousands"),
        ("x;y\n1;2\n3;red\n", "column 'y', line 3 holds 'red'"),
        ("x,y\n1,2\n3\n4,5\n", r"number of values in line 3 \(1 for 2 columns\)"),
        ("x,y\n1,2\n3,4,5\n", r"number of values in line 3 \(3 for 2 columns\)"),
        ("x,y\n1,2,3\n4,5,6\n", r"number of values in line 2 \(3 for 2 columns\)"),
        ("x,y\n1,2\nnan,4\n5,6\n7,\n8,inf\n", r"3 rows \(lines 3, 5, 6; 'x', 'y'\); remove"),
        ("x,y\n1,2\n,\n3,4\n", r"1 row \(line 3;"),
        ("x\n" + "nan\n" * 9 + "1\n2\n", r"9 rows \(lines 2, 3, 4, 5, 6, \.\.\.; 'x'\)"),
        ("x\n1\n1e400\n", r"infinite values in 1 row \(line 3"),
        ("x\n1\n1e301\n", r"values beyond 1e\+300 in 1 row \(line 3"),
        ("x,y,z\n1,2,3\n1,4,3\n", "constant columns: 'x', 'z'"),
        ("x,x\n1,2\n3,4\n", "same name: 'x'"),
        (b"x,y\n1,2\n3,\xff\xfe4\n", r"not UTF-8 text \(line 3\)"),
        (b"x,y\n1,2\n\0\0\0,4\n", "not a text file"),
        ('x,y\n1,2\n"3,4\n5,6\n', "quotation mark is opened in line 3 and never closed"),
        ('x,y\n1,"2\n"\n3,4\n5,"6\n', "quotation mark is opened in line 5 and never"),
        ('x;y\r\n1;2\r\n"3;4\r\n', "quotation mark is opened in line 3 and never"),
        ('x,y\n1,2\n"3"4,5\n', "broken CSV file: line 3: .* expected after"),
        (",".join(map(str, range(10_001))) + "\n", "10,001 columns; a table has at most 10,000"),
        ('1\n2\n"\n', "broken CSV file"),
        ("x,y\n1,2\n3,4\n5\n6,7,8\n", r"line 4 \(1 for 2 columns\)"),
        ({"x": [1.0, 2.0], "label": ["a", "b"]}, "column 'label', row 1 holds 'a'"),
        ({"x": [1.0, 2.0], "y": [None, "b"]}, "column 'y', row 2 holds 'b'"),
        ({"flag": [True, False]}, "row 1 holds 'True'"),
        ({"when": [datetime.datetime(2020, 1, 1)] * 2}, "column 'when', row 1 holds '2020"),
        ({"many": [[1.0], [2.0]]}, "column 'many', row 1"),
        ({"x": [1.0, np.nan, np.inf]}, r"2 rows \(rows 2, 3; 'x'\)"),
        ({"x": pd.array([1, None, 2], dtype="Int64")}, r"1 row \(row 2; 'x'\)"),
        ({"x": [1.0, 1.0]}, "constant columns: 'x'"),
        ({"x": [1.0]}, "a single row"),
        ({"x": np.array([])}, "no rows"),
        ({}, "no columns"),
        ({"x": [1.0, 1e301]}, r"beyond 1e\+300"),
        (np.array([[1, "a"]], dtype=object), "Python objects, which are not loaded"),
        (np.array([["a", "b"]]), "type <U1, not real numbers"),
        (np.ones((3, 2), dtype=complex), "complex128, not real"),
        (np.ones((3, 2), dtype=bool), "bool, not real"),
        (np.ones((4, 3, 3)), r"shape \(4, 3, 3\); reshape it to \(rows, columns\)"),
        (np.array(1.0), r"shape \(\); reshape"),
        (np.empty((0, 2)), "no rows"),
        (np.empty((5, 0)), "no columns"),
        (np.empty((0, 10**9)), "1,000,000,000 columns; a table has at most 10,000"),
        (np.empty((0, 2, 2)), "shape"),
        (np.array([[1.0, 2.0]]), "a single row"),
        (np.array([1.0, np.nan, 2.0]), r"1 row \(row 2; 'column_1'\)"),
        (np.array([[1.0, 2.0], [1.0, 3.0]]), "constant columns: 'column_1'"),
        (np.array([1.0, -1.1e300]), r"beyond 1e\+300"),
    ],
)
def test_a_broken_file_is_refused_with_the_place(
    tmp_path: Path, content: str | bytes | np.ndarray | dict[str, object], words: str
) -> None:
    path = _file(tmp_path, content)
    with refused(words, DataError) as caught:
        read_table(path)
    assert str(path) in str(caught.value)


def test_truncated_and_foreign_files_are_refused(tmp_path: Path) -> None:
    whole = _file(tmp_path, np.arange(100.0)).read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[:-100])
    with refused("broken NumPy file", DataError):
        read_table(tmp_path / "cut.npy")
    (tmp_path / "text.npy").write_text("1,2\n3,4\n")
    with refused("not a NumPy array file", DataError):
        read_table(tmp_path / "text.npy")
    whole = _file(tmp_path, {"x": np.arange(100.0)}).read_bytes()
    for content in (whole[:-20], b"PAR1 nothing", whole[: len(whole) // 2] + whole[-8:]):
        (tmp_path / "cut.parquet").write_bytes(content)
        with refused("not a readable Parquet file", DataError):
            read_table(tmp_path / "cut.parquet")


def test_loading_never_runs_what_a_file_holds(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self):
            return (Path(tmp_path / "ran").touch, ())

    path = _file(tmp_path, np.array([Trap(), Trap()], dtype=object))
    with pytest.raises(DataError):
        read_table(path)
    assert not (tmp_path / "ran").exists()


def test_missing_file_folder_and_unknown_ending(tmp_path: Path) -> None:
    with refused("there is no file", DataError):
        read_table(tmp_path / "nothing.csv")
    with refused("is a folder", DataError):
        read_table(tmp_path)
    for name in ("points.xlsx", "points"):
        (tmp_path / name).write_text("1\n2\n")
        with refused(r"\.csv, \.parquet, \.npy", DataError):
            read_table(tmp_path / name)


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".npy"])
def test_what_is_no_file_is_refused_and_not_read(tmp_path: Path, ending: str) -> None:
    pipe, zeros = tmp_path / f"pipe{ending}", tmp_path / f"zeros{ending}"
    os.mkfifo(pipe)  # reading it would never end
    zeros.symlink_to("/dev/zero")
    for path in (pipe, zeros):
        with refused("cannot be read: it is no file", DataError):
            read_table(path)
    with refused("File name too long", DataError):
        read_table(tmp_path / f"{'x' * 300}{ending}")


def test_unreadable_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    path = _file(tmp_path, "1\n2\n")
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with refused("cannot be read: Permission denied", DataError):
        read_table(path)


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
        other_program = pd.read_parquet if ending == ".parquet" else pd.read_csv
        pd.testing.assert_frame_equal(
            other_program(path), pd.DataFrame(POINTS, columns=list(COLUMNS))
        )
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["points.txt", "points", "points.csv.gz"])
def test_places_that_cannot_be_written_are_refused(tmp_path: Path, name: str) -> None:
    with refused(r"ending must be \.csv, \.parquet, \.npy"):
        require_writable_ending(tmp_path / name)
    with refused("cannot write points"):
        write_table(tmp_path / name, POINTS, COLUMNS)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with refused("cannot write", RunFolderError):
        write_table(tmp_path / "file" / "points.csv", POINTS, COLUMNS)
