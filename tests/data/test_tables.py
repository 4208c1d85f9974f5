from __future__ import annotations

import csv
import datetime
import gzip
import hashlib
import os
import time
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pyarrow import parquet

from helpers import refused
from kan_diffusion.data.tables import read_frame, require_writable_ending, write_frame
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


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=arrays(
        np.float64,
        st.tuples(st.integers(1, 6), st.integers(1, 3)),
        elements=st.floats(-1e30, 1e30, allow_nan=False),
    ),
    header=st.booleans(),
)
def test_every_format_gives_back_the_same_numbers(
    tmp_path: Path, values: np.ndarray, header: bool
) -> None:
    names = [f"field {place}" for place in range(values.shape[1])]
    frame = pd.DataFrame(values, columns=names)
    frame.to_csv(tmp_path / "points.csv", index=False, header=header)
    frame.to_parquet(tmp_path / "points.parquet")
    np.save(tmp_path / "points.npy", values)
    tables = [read_frame(tmp_path / f"points.{end}") for end in ("csv", "parquet", "npy")]
    np.testing.assert_allclose(tables[0].frame, values, rtol=1e-14, atol=1e-300)
    for table in tables[1:]:
        np.testing.assert_array_equal(table.frame, values)
    for table in tables:
        assert table.sha256 == hashlib.sha256(table.path.read_bytes()).hexdigest()
        assert table.num_rows == len(table.frame)
        assert table.columns == tuple(table.frame.columns)
    numbered = tuple(f"column_{place + 1}" for place in range(values.shape[1]))
    assert tables[0].columns == (tuple(names) if header else numbered)
    assert tables[1].columns == tuple(names)
    assert tables[2].columns == numbered


def _cells(kind: str) -> st.SearchStrategy[object]:
    """Cells of one kind, some of them gaps."""
    words = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), min_size=1, max_size=8)
    cells: dict[str, st.SearchStrategy[object]] = {
        "whole": st.integers(-(2**63), 2**63 - 1),
        "real": st.floats(-1e300, 1e300, allow_nan=False),
        "truth": st.booleans(),
        # A letter, so that text neither looks like a number nor says that there is nothing.
        "text": words.map(lambda word: f"w{word}".strip()),
        "date": st.dates().map(pd.Timestamp),
    }
    return st.one_of(st.none(), cells[kind], cells[kind])


_DTYPES = {"whole": "Int64", "real": "float64", "truth": "boolean", "date": "datetime64[s]"}


@st.composite
def _frames(draw: st.DrawFn) -> pd.DataFrame:
    """Frames of mixed columns, each with at least one value."""
    num_rows = draw(st.integers(1, 8))
    columns = {}
    for place in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["whole", "real", "truth", "text", "date"]))
        cells = draw(st.lists(_cells(kind), min_size=num_rows, max_size=num_rows))
        series = pd.Series(cells, dtype=_DTYPES.get(kind, "str"))
        if series.notna().any():
            columns[f"{kind}, {place}"] = series
    columns = columns or {"real, 0": pd.Series([0.5] * num_rows)}
    # Without gaps integers and truth values are NumPy's.
    whole = {
        name: "int64"
        for name in columns
        if name.startswith("whole") and columns[name].notna().all()
    }
    truth = {
        name: "bool" for name in columns if name.startswith("truth") and columns[name].notna().all()
    }
    return pd.DataFrame(columns).astype(whole | truth)


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".tsv", ".parquet"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(frame=_frames())
def test_mixed_columns_come_back_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, frame: pd.DataFrame
) -> None:
    monkeypatch.setattr("kan_diffusion.data.tables._BATCH", 3)
    path = tmp_path / f"mixed{ending}"
    write_frame(path, frame)
    table = read_frame(path)
    if ending == ".parquet":  # it has no dates in seconds
        frame = frame.astype({name: "datetime64[ms]" for name in frame if name.startswith("date")})
    pd.testing.assert_frame_equal(table.frame, frame)
    batches = list(table.batches())
    assert [len(batch) for batch in batches[:-1]] == [3] * (len(batches) - 1)
    for number, batch in enumerate(batches):
        expected = frame.iloc[3 * number : 3 * number + 3]
        pd.testing.assert_frame_equal(batch.reset_index(drop=True), expected.reset_index(drop=True))
    some = np.arange(0, len(frame), 2)
    pd.testing.assert_frame_equal(table.take(some), frame.iloc[some].reset_index(drop=True))


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
        ("x|y\n1|2,5\n3|4\n", ("x", "y"), [[1, 2.5], [3, 4]]),
        ("a;b,c\n1,2\n3,4\n", ("a;b", "c"), [[1, 2], [3, 4]]),
    ],
)
def test_csv_dialects(tmp_path: Path, text: str, columns: tuple[str, ...], values: list) -> None:
    table = read_frame(str(_file(tmp_path, text)))
    assert table.columns == columns
    assert table.frame.to_numpy().tolist() == values


@pytest.mark.parametrize(
    ("text", "columns", "values"),
    [
        ("2019,name,size\n5,bob,3\n7,al,\n", ("2019", "name", "size"), [5, 7]),
        ("2019;name;size\n5;bob;3,5\n7;al;4\n", ("2019", "name", "size"), [5, 7]),
        ('2019,name,"size"\n5,"bob, jr",3\n', ("2019", "name", "size"), [5]),
        ("land,2019,2020\nSpain,high,\nItaly,,low\n", ("land", "2019", "2020"), ["Spain", "Italy"]),
        ("a,12,B7\nb,A1,C2\nc,D3,\n", ("column_1", "column_2", "column_3"), ["a", "b", "c"]),
        ("39,nurse,5\n41,clerk,6\n", ("column_1", "column_2", "column_3"), [39, 41]),
        ("39,NA,5\n41,3,6\n", ("column_1", "column_2", "column_3"), [39, 41]),
        ("39,2024-01-01\n41,\n", ("column_1", "column_2"), [39, 41]),
    ],
)
def test_names_may_be_numbers_where_the_first_line_differs_from_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, columns: tuple[str, ...],
    values: list,
) -> None:  # fmt: skip
    table = read_frame(_file(tmp_path, text))
    assert table.columns == columns
    assert table.frame.iloc[:, 0].tolist() == values
    assert ("the first line is read as names" in caplog.text) == ("2019" in columns)


def test_errors_below_names_that_are_numbers_have_the_right_line(tmp_path: Path) -> None:
    path = _file(tmp_path, "2019,size\n5,3\n1e400,4\n")
    with refused(r"infinite values in 1 row \(line 3; '2019'\)", DataError):
        read_frame(path)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("x;y\n1.234,56;2\n1.999,50;3\n7,5;4\n", "1.234,56"),
        ("x;y\n1.234.567;2\n;3\n", "1.234.567"),
        ('x,y\n"1,234.56",2\n"999",3\n"3,000",3\n', "1,234.56"),
        ('x,y\n"1,5",2\n"2,75",3\n', "1,5"),
        ("x;y\n1,5;2.5\n2,5;3.5\n", "1,5"),
        ("x;y\n29.02.2024;2\n01.03.2024;3\n", None),
        ('x,y\n"1,234",2\n"red",3\n"blue",3\n', None),
    ],
)
def test_numbers_that_are_read_as_text_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, shown: str | None
) -> None:
    table = read_frame(_file(tmp_path, text))
    assert not pd.api.types.is_numeric_dtype(table.frame["x"].dtype)
    messages = [record.getMessage() for record in caplog.records]
    if shown is None:
        assert messages == []
    else:
        (message,) = messages
        assert f"column 'x' is read as text, since it has numbers such as '{shown}'" in message


TEXT, GAP = "str" if pd.__version__ >= "3" else "object", None


@pytest.mark.parametrize(
    ("cells", "dtype", "values"),
    [
        (["1", "+2", "-3"], "int64", [1, 2, -3]),
        (["1", "", "3"], "Int64", [1, GAP, 3]),
        (["9223372036854775807", "1"], "int64", [2**63 - 1, 1]),
        (["9223372036854775808", "1"], "float64", [2.0**63, 1]),
        (["1", "2.5", "+3e1", "1.", ".5"], "float64", [1, 2.5, 30, 1, 0.5]),
        (["1", "NA", "n/a", "None", "null", "NaN", "nan", "<NA>", "#N/A", "-nan"], "Int64",
         [1, *[GAP] * 9]),
        (["1.5", "none", "NULL", "Nan"], "float64", [1.5, GAP, GAP, GAP]),
        (["1e-400", "1"], "float64", [0, 1]),
        (["01234", "99999"], TEXT, ["01234", "99999"]),
        (["0", "10", "-0.5"], "float64", [0, 10, -0.5]),
        (["0.10", "00.5"], "float64", [0.1, 0.5]),
        (["NA", "", "nan"], "float64", [GAP] * 3),
        (["True", "False"], "bool", [True, False]),
        (["TRUE", "false", "NA"], "boolean", [True, False, GAP]),
        (["True", "False", "maybe"], TEXT, ["True", "False", "maybe"]),
        (["yes", "no"], TEXT, ["yes", "no"]),
        (["red", "", " blue ", "none", "na"], TEXT, ["red", GAP, "blue", "none", "na"]),
        (["none", "none"], TEXT, ["none"] * 2),
        (["a", "b", "3"], TEXT, ["a", "b", "3"]),
        (["1_000", "x"], TEXT, ["1_000", "x"]),
        (["0x10", "0x11"], TEXT, ["0x10", "0x11"]),
        (["１２", "x"], TEXT, ["１２", "x"]),
        (["质量, 😀", 'a "b"', "c\nd"], TEXT, ["质量, 😀", 'a "b"', "c\nd"]),
        (["2024-02-29", "1999-12-31"], "datetime64[s]", ["2024-02-29", "1999-12-31"]),
        (["2024-02-29", "NA"], "datetime64[s]", ["2024-02-29", pd.NaT]),
        (["2024-02-29 10:30", "2024-02-29T10:30:59"], "datetime64[s]",
         ["2024-02-29 10:30", "2024-02-29 10:30:59"]),
        (["2024-02-29 10:30:00.25", "2024-01-01"], "datetime64[us]",
         ["2024-02-29 10:30:00.25", "2024-01-01"]),
        (["2024-02-29T10:30:00Z", "2024-02-29T10:30:00+02:00"], "datetime64[s, UTC]",
         ["2024-02-29T10:30:00Z", "2024-02-29T08:30:00Z"]),
        (["29.02.2024", "01.03.2024"], TEXT, ["29.02.2024", "01.03.2024"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("quoted", [False, True])
def test_a_column_of_text_is_what_all_its_cells_are(
    tmp_path: Path, cells: list[str], dtype: str, values: list, quoted: bool
) -> None:
    frame = pd.DataFrame({"a cell": cells, "other": "o"})
    path = tmp_path / "points.csv"
    frame.to_csv(path, index=False, quoting=csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL)
    column = read_frame(path).frame["a cell"]
    pd.testing.assert_series_equal(column, pd.Series(values, name="a cell").astype(dtype))


@pytest.mark.parametrize("content", ["a,b\n1,x y\n2,z\n", 'a,b\n1,"x\ny"\n2,z\n'])
@pytest.mark.parametrize("members", [1, 2])
def test_packed_files_are_what_is_in_them(tmp_path: Path, content: str, members: int) -> None:
    (tmp_path / "plain.csv").write_text(content)
    middle = len(content) // 2
    parts = [content] if members == 1 else [content[:middle], content[middle:]]
    packed = b"".join(gzip.compress(part.encode()) for part in parts)
    (tmp_path / "packed.csv.gz").write_bytes(packed)
    table = read_frame(tmp_path / "packed.csv.gz")
    pd.testing.assert_frame_equal(table.frame, read_frame(tmp_path / "plain.csv").frame)
    assert table.sha256 == hashlib.sha256(packed).hexdigest()
    for wrong in (packed[:-9], b"a,b\n1,2\n", packed + b"x"):
        (tmp_path / "packed.csv.gz").write_bytes(wrong)
        with refused("is a broken gzip file", DataError):
            read_frame(tmp_path / "packed.csv.gz")


def test_a_packed_file_does_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kan_diffusion.data.tables.MOST_BYTES", 10_000)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"1\n" * 5_000))
    assert read_frame(tmp_path / "a.csv.gz").num_rows == 5_000
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"1\n" * 5_001))
    with refused("holds more than 10,000 bytes", DataError):
        read_frame(tmp_path / "a.csv.gz")


def test_parquet_keeps_the_dtypes_that_pandas_wrote(tmp_path: Path) -> None:
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
    frame.index = [5, 6, 9]  # an index is no column
    frame.to_parquet(tmp_path / "points.parquet")
    table = read_frame(tmp_path / "points.parquet")
    pd.testing.assert_frame_equal(table.frame, frame.reset_index(drop=True))
    pd.testing.assert_frame_equal(table.take(np.array([1])), frame.iloc[[1]].reset_index(drop=True))


def test_an_index_with_a_name_is_a_column(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": [1.5, 2.5, 3.5], "flag": pd.array([True, None, False], "boolean")})
    days = pd.to_datetime(["2024-01-01", "2024-01-02", "2024-01-05"]).astype("datetime64[ms]")
    frame.index = pd.MultiIndex.from_arrays([days, [7, 8, 9]], names=["day", None])
    frame.to_parquet(tmp_path / "points.parquet")
    table = read_frame(tmp_path / "points.parquet")
    assert table.columns == ("x", "flag", "day")
    expected = frame.reset_index(drop=True).assign(day=days)
    pd.testing.assert_frame_equal(table.frame, expected)
    pd.testing.assert_frame_equal(table.take(np.array([2])), expected[2:].reset_index(drop=True))


def test_parquet_of_other_programs(tmp_path: Path) -> None:
    columns = {
        "whole": pa.array([2**53 + 1, None, 3]),
        "positive": pa.array([1, None, 3], pa.uint16()),
        "truth": pa.array([True, None, False]),
        "day": pa.array([datetime.date(2024, 2, 29), None, None]),
        "decimal": pa.array([Decimal("1.25"), None, Decimal("2.5")]),
        "nothing": pa.nulls(3),
    }
    parquet.write_table(pa.table(columns), tmp_path / "points.parquet")
    frame = read_frame(tmp_path / "points.parquet").frame
    assert [str(dtype) for dtype in frame.dtypes[:-1]] == [
        "Int64", "UInt16", "boolean", "datetime64[s]", "float64",
    ]  # fmt: skip
    assert frame["whole"].tolist() == [2**53 + 1, pd.NA, 3]
    assert frame["decimal"].tolist()[::2] == [1.25, 2.5]
    assert frame["nothing"].isna().all()
    flat = read_frame(_file(tmp_path, np.array([3, 1, 2], dtype=">u2")))
    assert flat.frame["column_1"].tolist() == [3, 1, 2]
    assert flat.frame["column_1"].dtype == np.uint16


def _shards(folder: Path, frames: list[pd.DataFrame]) -> Path:
    (folder / "deeper").mkdir(parents=True)
    for number, frame in enumerate(frames):
        place = folder / "deeper" if number == len(frames) - 1 else folder
        frame.to_parquet(place / f"part-{number}.parquet", row_group_size=7)
    (folder / "README.txt").write_text("about these files")
    return folder


def test_a_folder_of_shards_is_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kan_diffusion.data.tables._BATCH", 8)
    generator = np.random.default_rng(0)
    whole = pd.DataFrame(
        {
            "x": generator.normal(size=50),
            "age": pd.array(generator.integers(0, 99, 50), dtype="Int64"),
            "job": pd.Categorical(generator.choice(["nurse", "teacher"], 50)),
        }
    )
    whole.loc[40, "age"] = pd.NA  # in the last shard alone
    parts = [whole[20:35], whole[35:], whole[:20]]  # the order of names, the deeper one first
    folder = _shards(tmp_path / "shards", parts)
    table = read_frame(folder)
    expected = pd.concat([parts[2], *parts[:2]]).reset_index(drop=True)
    assert table.num_rows == 50
    pd.testing.assert_frame_equal(table.frame, expected)
    batches = list(table.batches())
    assert max(map(len, batches)) <= 8
    assert all(batch["age"].dtype == "Int64" for batch in batches)
    together = pd.concat(batches).reset_index(drop=True).astype({"job": "category"})
    pd.testing.assert_frame_equal(together, expected)
    some = np.sort(generator.choice(50, 20, replace=False))
    pd.testing.assert_frame_equal(table.take(some), expected.iloc[some].reset_index(drop=True))
    again = _shards(tmp_path / "again", parts)
    assert read_frame(again).sha256 == table.sha256
    (again / "part-0.parquet").rename(again / "part-00.parquet")
    assert read_frame(again).sha256 != table.sha256


def test_shards_that_differ_are_refused(tmp_path: Path) -> None:
    first = pd.DataFrame({"x": [1.5, 2.5], "age": [1, 2]})
    for number, (other, words) in enumerate((
        (first.rename(columns={"x": "y"}), "part-1.parquet' have different columns.*'x'"),
        (first.assign(z=1), "different columns.*'z'"),
        (first.astype({"age": str}), "columns of different types: .*age"),
        (first.assign(x=[1.0, np.inf]), r"infinite values in 1 row \(row 2; 'x'\)"),
        (first[:0], None),
        (first.astype({"age": float}), None),
    )):  # fmt: skip
        folder = _shards(tmp_path / str(number), [first, other])
        if words is None:
            assert read_frame(folder).num_rows == len(first) + len(other)
        else:
            with refused(words, DataError):
                read_frame(folder)
    (tmp_path / "0" / "part-0.parquet").write_bytes(b"")
    with refused("part-0.parquet' is empty", DataError):
        read_frame(tmp_path / "0")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is empty"),
        ("  \n\n", "is empty"),
        ("\ufeff\n\n", "is empty"),
        ("x,y\n", "no rows"),
        ("x,y\n1,2\n3,abc\n", "column 'y', line 3 holds 'abc'"),
        ("x,y\n1,2\n\n3,4\nabc,5\n", "column 'x', line 5 holds 'abc'"),
        ("x,y\nTrue,2\n3,4\n", "mixes numbers and text: column 'x', line 2 holds 'True'"),
        ('x,y\n1,"a\nb"\n\n3,4\nabc,5\n', "column 'x', line 6 holds 'abc'"),
        ("x\n2024-01-01\n2024-02-30\n", "mixes dates and text: column 'x', line 3 holds '2024-02"),
        ("x\n2024-01-01\nNA\nsoon\n", "column 'x', line 4 holds 'soon'; replace it by a date"),
        ("x\n2024-01-01T10:00Z\n2024-01-01\n", "column 'x', line 3 holds '2024-01-01'"),
        ("x,y\n1,2\n1_000,4\n", "line 3 holds '1_000'"),
        ("day,2.5\n1,2\n3,4\n", "line 1 holds 'day'.*header line has no number"),
        ("day,2,2\n1,2,3\n3,4,5\n", "line 1 holds 'day'.*header line has no number"),
        ("day,2\n1,2\nsome,4\n5,6\n7,8\n", "line 1 holds 'day'.*header line has no number"),
        ("x;y\n1,5;2\n1.5;3\n", "column 'x', line 2 holds '1,5'"),
        ("x;y\n1,500;2\n1,250,000;3\n", "'1,500', where the comma may mark decimals or thousands"),
        ("x;y\n1;2\n3;red\n", "column 'y', line 3 holds 'red'"),
        ("x,y\n1,2\n3\n4,5\n", r"number of values in line 3 \(1 for 2 columns\)"),
        ("x,y\n1,2\n3,4,5\n", r"number of values in line 3 \(3 for 2 columns\)"),
        ("x,y\n1,2,3\n4,5,6\n", r"number of values in line 2 \(3 for 2 columns\)"),
        ("x,y\n1,2\n-inf,4\n5,6\n7,\n8,inf\n", r"2 rows \(lines 3, 6; 'x', 'y'\); remove"),
        ("x\n" + "inf\n" * 9 + "1\n2\n", r"9 rows \(lines 2, 3, 4, 5, 6, \.\.\.; 'x'\)"),
        ("x\n1\n1e400\n", r"infinite values in 1 row \(line 3"),
        ("x\n1\n1e301\n", r"values beyond 1e\+300 in 1 row \(line 3"),
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
        ({"x": [1.0, 2.0], "many": [[1.0], [2.0]]}, "a column 'many' of type list"),
        ({"x": [b"a", b"b"]}, "a column 'x' of type binary"),
        ({"x": [datetime.time(1), datetime.time(2)]}, "a column 'x' of type time64"),
        ({"x": [1.0, np.nan, np.inf]}, r"infinite values in 1 row \(row 3; 'x'\)"),
        ({"x": np.array([1, np.inf], dtype=np.float16)}, r"1 row \(row 2; 'x'\)"),
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
        (np.array([1.0, np.nan, np.inf]), r"1 row \(row 3; 'column_1'\)"),
        (np.array([1.0, -1.1e300]), r"beyond 1e\+300"),
    ],
)
def test_a_broken_file_is_refused_with_the_place(
    tmp_path: Path, content: str | bytes | np.ndarray | dict[str, object], words: str
) -> None:
    path = _file(tmp_path, content)
    with refused(words, DataError) as caught:
        read_frame(path)
    assert str(path) in str(caught.value)


def test_truncated_and_foreign_files_are_refused(tmp_path: Path) -> None:
    whole = _file(tmp_path, np.arange(100.0)).read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[:-100])
    with refused("broken NumPy file", DataError):
        read_frame(tmp_path / "cut.npy")
    (tmp_path / "text.npy").write_text("1,2\n3,4\n")
    with refused("not a NumPy array file", DataError):
        read_frame(tmp_path / "text.npy")
    whole = _file(tmp_path, {"x": np.arange(100.0)}).read_bytes()
    for content in (whole[:-20], b"PAR1 nothing", whole[: len(whole) // 2] + whole[-8:]):
        (tmp_path / "cut.parquet").write_bytes(content)
        with refused("not a readable Parquet file", DataError):
            read_frame(tmp_path / "cut.parquet")


def test_loading_never_runs_what_a_file_holds(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self):
            return (Path(tmp_path / "ran").touch, ())

    path = _file(tmp_path, np.array([Trap(), Trap()], dtype=object))
    with pytest.raises(DataError):
        read_frame(path)
    assert not (tmp_path / "ran").exists()


def test_missing_file_folder_and_unknown_ending(tmp_path: Path) -> None:
    with refused("there is no file", DataError):
        read_frame(tmp_path / "nothing.csv")
    with refused("is a folder without Parquet files", DataError):
        read_frame(tmp_path)
    for name in ("points.xlsx", "points"):
        (tmp_path / name).write_text("1\n2\n")
        with refused(r"\.csv, \.csv\.gz, \.tsv, \.parquet, \.npy", DataError):
            read_frame(tmp_path / name)


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".npy"])
def test_what_is_no_file_is_refused_and_not_read(tmp_path: Path, ending: str) -> None:
    pipe, zeros = tmp_path / f"pipe{ending}", tmp_path / f"zeros{ending}"
    os.mkfifo(pipe)  # reading it would never end
    zeros.symlink_to("/dev/zero")
    for path in (pipe, zeros):
        with refused("cannot be read: it is no file", DataError):
            read_frame(path)
    with refused("File name too long", DataError):
        read_frame(tmp_path / f"{'x' * 300}{ending}")


def test_unreadable_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    path = _file(tmp_path, "1\n2\n")
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with refused("cannot be read: Permission denied", DataError):
        read_frame(path)


POINTS = pd.DataFrame(
    np.random.default_rng(0).normal(size=(20, 3)) * [1e-9, 1.0, 1e12],
    columns=["height, in m", 'a "quoted" name', "ü"],
)


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".tsv", ".parquet", ".npy", ".CSV"])
def test_what_is_written_is_read_back_exactly(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "new" / f"points{ending}"
    write_frame(path, POINTS)
    table = read_frame(path)
    np.testing.assert_array_equal(table.frame, POINTS)
    if ending != ".npy":
        assert table.columns == tuple(POINTS.columns)
        other_program = pd.read_parquet if ending == ".parquet" else pd.read_csv
        options = {"sep": "\t"} if ending == ".tsv" else {}
        pd.testing.assert_frame_equal(other_program(path, **options), POINTS)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_arrays_take_numbers_only(tmp_path: Path) -> None:
    path = tmp_path / "points.npy"
    write_frame(path, pd.DataFrame({"a": [1, 2], "b": pd.array([3, 2**62 + 1], dtype="Int64")}))
    assert np.load(path).tolist() == [[1, 3], [2, 2**62 + 1]]
    write_frame(path, pd.DataFrame({"a": [1.5, 2], "b": pd.array([3, None], dtype="Int64")}))
    np.testing.assert_array_equal(np.load(path), [[1.5, 3], [2, np.nan]])
    for cells in (["x", "y"], [pd.Timestamp(0)] * 2, pd.Categorical([1, 2])):
        with refused(r"column 'b' to '.*points\.npy', which takes numbers only"):
            write_frame(path, pd.DataFrame({"a": [1, 2], "b": cells}))
    np.testing.assert_array_equal(np.load(path), [[1.5, 3], [2, np.nan]])  # as it was


def test_packed_files_do_not_depend_on_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    for now in (1.0, 2.0):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        write_frame(tmp_path / "points.csv.gz", POINTS)
        written.append((tmp_path / "points.csv.gz").read_bytes())
    assert written[0] == written[1]


@pytest.mark.parametrize("name", ["points.txt", "points", "points.gz"])
def test_places_that_cannot_be_written_are_refused(tmp_path: Path, name: str) -> None:
    with refused(r"ending must be \.csv, \.csv\.gz, \.tsv, \.parquet, \.npy"):
        require_writable_ending(tmp_path / name)
    with refused("cannot write rows"):
        write_frame(tmp_path / name, POINTS)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with refused("cannot write", RunFolderError):
        write_frame(tmp_path / "file" / "points.csv", POINTS)
