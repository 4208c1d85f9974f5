import datetime
import gzip
import os
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from helpers import refused
from kan_diffusion.data.frames import write_frame
from kan_diffusion.errors import DataError
from kan_diffusion.tables.files import read_frame
from table_files import require_refused, written


@pytest.mark.parametrize(
    ("text", "columns", "first"),
    [
        ("x,y\n1,2\n3,4\n", ("x", "y"), [1, 3]),
        ("\n\nx,\n1,2\n\n3,4\n\n", ("x", "column_2"), [1, 3]),
        ("y;x\n1;2\n3.5;4\n", ("y", "x"), [1, 3.5]),
        ("1,5;2\n3,25;-4,12\n", ("column_1", "column_2"), [1.5, 3.25]),
        ("y|x\n2,5|1\n4|3\n", ("y", "x"), [2.5, 4]),
        ("x;y\n1,5;2.5\n2,5;3.5\n", ("x", "y"), [1.5, 2.5]),
        ("a;b,c\n1,2\n3,4\n", ("a;b", "c"), [1, 3]),
        ("name,1960,1961,1962\nbob,3,5,\n", ("name", "1960", "1961", "1962"), ["bob"]),
        ("39,NA,5\n41,3,6\n", ("column_1", "column_2", "column_3"), [39, 41]),
        ("39,2024-01-01\n41,\n", ("column_1", "column_2"), [39, 41]),
    ],
)
def test_csv_dialects(tmp_path, text, columns, first):
    table = read_frame(written(tmp_path, text))
    assert tuple(table) == columns
    assert table.iloc[:, 0].tolist() == first


def test_numbers_with_marks_are_refused_and_codes_are_text(tmp_path, caplog):
    for text, shown in (
        ("x;y\n1.234,56;2\n1.999,50;3\n7,5;4\n", "1.234,56"),
        ('x,y\n"1,234.56",2\n"999",3\n"3,000",3\n', "1,234.56"),
        ('x,y\n"1,5",2\n"2,75",3\n', "1,5"),
    ):
        words = f"row 1 holds '{shown}'; .*decimal points and no marks of thousands"
        require_refused(tmp_path, text, words)
    for text, told in (
        ("x;y\n29.02.2024;2\n01.03.2024;3\n", False),
        ('x,y\n"1,234",2\n"red",3\n"blue",3\n', False),
        ("x,y\n250,2\nV57,3\n401,3\n", True),
    ):
        column = read_frame(written(tmp_path, text))["x"]
        assert not pd.api.types.is_numeric_dtype(column.dtype)
        assert ("column 'x' is read as text, since row 2 holds 'V57'" in caplog.text) is told


def test_a_packed_file_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("kan_diffusion.tables.files.MOST_BYTES", 10_000)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"1\n" * 5_000))
    assert len(read_frame(tmp_path / "a.csv.gz")) == 5_000
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"1\n" * 5_001))
    with refused("holds more than 10,000 bytes", DataError):
        read_frame(tmp_path / "a.csv.gz")


def test_parquet_keeps_the_dtypes_that_pandas_wrote(tmp_path):
    frame = pd.DataFrame(
        {
            "small": np.array([1, 2, 3], dtype=np.int8),
            "half": np.array([0.5, np.nan, 1], dtype=np.float32),
            "nullable": pd.array([3, None, 4], dtype="Int64"),
            "flag": pd.array([True, None, False], dtype="boolean"),
            "colour": pd.Categorical(["red", None, "red"], ["blue", "red"], ordered=True),
            "arrow": pd.array([1, 2, None], dtype="int32[pyarrow]"),
            "when": pd.to_datetime(["2024-01-01", None, "2024-01-03"]).tz_localize("Asia/Tokyo"),
            "word": pd.array(["a", None, "b"], dtype="string"),
            " ": [1.5, 2.5, 3.5],
        }
    )
    days = pd.to_datetime(["2024-01-01", "2024-01-02", "2024-01-05"]).astype("datetime64[ms]")
    for index, more in (
        ([5, 6, 9], {}),  # an index is no column, unless it has a name
        (pd.MultiIndex.from_arrays([days, [7, 8, 9]], names=["day", None]), {"day": days}),
    ):
        frame.set_axis(index).to_parquet(tmp_path / "points.parquet")
        table, expected = read_frame(tmp_path / "points.parquet"), frame.assign(**more)
        pd.testing.assert_frame_equal(table, expected)


def test_arrays_and_parquet_of_other_programs(tmp_path):
    columns = {
        "whole": pa.array([2**53 + 1, None, 3]),
        "positive": pa.array([1, None, 3], pa.uint16()),
        "truth": pa.array([True, None, False]),
        "day": pa.array([datetime.date(2024, 2, 29), None, None]),
        "decimal": pa.array([Decimal("1.25"), None, Decimal("2.5")]),
        "nothing": pa.nulls(3),
    }
    parquet.write_table(pa.table(columns), tmp_path / "points.parquet")
    frame = read_frame(tmp_path / "points.parquet")
    dtypes = ["Int64", "UInt16", "boolean", "datetime64[s]", "float64"]
    assert [str(dtype) for dtype in frame.dtypes[:-1]] == dtypes
    assert frame["whole"].tolist() == [2**53 + 1, pd.NA, 3]
    assert frame["decimal"].tolist()[::2] == [1.25, 2.5]
    assert frame["nothing"].isna().all()
    flat = read_frame(written(tmp_path, np.array([3, 1, 2], dtype=">u2")))["column_1"]
    assert (flat.tolist(), flat.dtype) == ([3, 1, 2], np.uint16)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("  \n\n", "is empty"),
        ("x,y\n", "no rows"),
        ("x,y\n1,2\n\n3,4\nabc,5\n", "column 'x', row 3 holds 'abc'"),
        ("x,y\nTrue,2\n3,4\n", "mixes numbers and text: column 'x', row 1 holds 'True'"),
        ("day,2025\n1,2\n3,4\n", "row 1 holds 'day'.*header line has no number"),
        ("x;y\n1,500;2\n999;3\n", "'1,500' in column 'x', where the comma may mark decimals or"),
        ("x,y\n1,2\n3,4,5\n", r"wrong number of values.* \(3 for 2 columns\)"),
        ("x,x\n1,2\n3,4\n", "same name: 'x'"),
        (b"x,y\n1,2\n\0\0\0,4\n", "not a text file"),
        ('x,y\n1,2\n"3,4\n5,6\n', "close its quotation marks"),
        (",".join(map(str, range(10_001))) + "\n", "10,001 columns; a table has at most 10,000"),
        ({"x": [1.0, 2.0], "many": [[1.0], [2.0]]}, "a column 'many' of lists"),
        ({}, "no columns"),
        (np.array([["a", "b"]]), "type <U1 and shape .*; save real numbers"),
        (np.ones((3, 2), dtype=complex), "type complex128"),
        (np.ones((4, 3, 3)), r"shape \(4, 3, 3\); save .* in the shape \(rows, columns\)"),
        (np.empty((0, 2)), "no rows"),
        (np.empty((0, 10**9)), "1,000,000,000 columns; a table has at most 10,000"),
    ],
)
def test_a_broken_file_is_refused_with_the_place(tmp_path, content, words):
    require_refused(tmp_path, content, words)


def test_truncated_and_foreign_files_are_refused(tmp_path):
    array = written(tmp_path, np.arange(100.0)).read_bytes()
    columns = written(tmp_path, {"x": np.arange(100.0)}).read_bytes()
    for name, content, words in (
        ("cut.npy", array[:-100], "not a readable NumPy array file"),
        ("cut.npy", b"1,2\n3,4\n", "not a readable NumPy array file"),
        ("cut.parquet", columns[:-20], "not a readable Parquet file"),
        ("cut.parquet", columns[:500] + columns[-8:], "not a readable Parquet file"),
    ):
        (tmp_path / name).write_bytes(content)
        with refused(words, DataError):
            read_frame(tmp_path / name)


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".npy"])
def test_what_is_no_file_is_refused_and_not_read(tmp_path, ending):
    pipe, zeros = tmp_path / f"pipe{ending}", tmp_path / f"zeros{ending}"
    os.mkfifo(pipe)  # reading it would never end
    zeros.symlink_to("/dev/zero")
    for path in (pipe, zeros):
        with refused("cannot be read: it is no file", DataError):
            read_frame(path)
    with refused("cannot be read: File name too long", DataError):
        read_frame(tmp_path / f"{'x' * 300}{ending}")


def test_arrays_take_numbers_only(tmp_path):
    path = tmp_path / "points.npy"
    write_frame(path, pd.DataFrame({"a": [1, 2], "b": pd.array([3, 2**62 + 1], dtype="Int64")}))
    assert np.load(path).tolist() == [[1, 3], [2, 2**62 + 1]]
    write_frame(path, pd.DataFrame({"a": [1.5, 2], "b": pd.array([3, None], dtype="Int64")}))
    for cells in (["x", "y"], [pd.Timestamp(0)] * 2, pd.Categorical([1, 2])):
        with refused(r"column 'b' to '.*points\.npy', which takes numbers only"):
            write_frame(path, pd.DataFrame({"a": [1, 2], "b": cells}))
    np.testing.assert_array_equal(np.load(path), [[1.5, 3], [2, np.nan]])  # as it was
