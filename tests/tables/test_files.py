import csv
import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers import refused
from kan_diffusion.data.frames import require_writable_ending, write_frame
from kan_diffusion.errors import DataError, RunFolderError
from kan_diffusion.tables.files import read_frame
from table_files import require_refused, written

WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), min_size=1, max_size=8)
CELLS = {  # cells of a kind, its dtype, and that without gaps
    "whole": (st.integers(-(2**63), 2**63 - 1), "Int64", "int64"),
    "real": (st.floats(-1e300, 1e300, allow_nan=False), "float64", "float64"),
    "truth": (st.booleans(), "boolean", "bool"),
    # A letter, so that text neither looks like a number nor says that there is nothing.
    "text": (WORDS.map(lambda word: f"w{word}".strip()), "str", "str"),
    "date": (st.dates().map(pd.Timestamp), "datetime64[s]", "datetime64[s]"),
}


@st.composite
def frames(draw):
    """Frames of mixed columns, each with at least one value."""
    num_rows = draw(st.integers(1, 8))
    columns = {"real, 0": pd.Series([0.5] * num_rows)}
    for place, kind in enumerate(draw(st.lists(st.sampled_from(sorted(CELLS)), max_size=4))):
        cells, dtype, whole = CELLS[kind]
        series = pd.Series(
            draw(st.lists(st.none() | cells, min_size=num_rows, max_size=num_rows)), dtype=dtype
        )
        if series.notna().any():
            columns[f"{kind}, {place + 1}"] = series.astype(
                whole if series.notna().all() else dtype
            )
    return pd.DataFrame(columns)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(frame=frames(), ending=st.sampled_from([".csv", ".csv.gz", ".tsv", ".parquet"]))
def test_mixed_columns_come_back_as_they_were(tmp_path, ending, frame):
    path = tmp_path / f"mixed{ending}"
    write_frame(path, frame)
    table = read_frame(path)
    if ending == ".parquet":  # it has no dates in seconds
        frame = frame.astype({name: "datetime64[ms]" for name in frame if name.startswith("date")})
    pd.testing.assert_frame_equal(table, frame)


@pytest.mark.parametrize(
    ("text", "columns", "values"),
    [
        ("1,2\n3,4", ("column_1", "column_2"), [[1, 2], [3, 4]]),
        ("\ufeffx, y\r\n1, 2\r\n3, 4\r\n\r\n", ("x", "y"), [[1, 2], [3, 4]]),
        ('"a\nb","c, d"\n"1","2"\n3,4\n', ("a\nb", "c, d"), [[1, 2], [3, 4]]),
        ('a, b;"c;d"\n1,5;2\n0,125;1e-3\n', ("a, b", "c;d"), [[1.5, 2], [0.125, 0.001]]),
    ],
)
def test_csv_dialects(tmp_path, text, columns, values):
    table = read_frame(str(written(tmp_path, text)))
    assert tuple(table) == columns
    assert table.to_numpy().tolist() == values


TEXT, GAP = "str" if pd.__version__ >= "3" else "object", None


def test_a_column_of_text_is_what_all_its_cells_are(tmp_path):
    for cells, dtype, values in (
        (["1", "+2", "-3"], "int64", [1, 2, -3]),
        (["1", "", "3"], "Int64", [1, GAP, 3]),
        (["9223372036854775807", "1"], "int64", [2**63 - 1, 1]),
        (["9223372036854775808", "1"], "float64", [2.0**63, 1]),
        (["1", "2.5", "+3e1", "1.", ".5"], "float64", [1, 2.5, 30, 1, 0.5]),
        (["1", "NA", "n/a", "None", "null", "NaN", "nan", "<NA>", "#N/A", "-nan"], "Int64",
         [1, *[GAP] * 9]),
        (["1e-400", "1"], "float64", [0, 1]),
        (["01234", "99999"], TEXT, ["01234", "99999"]),
        (["250", "401", "V57", "410.1"], TEXT, ["250", "401", "V57", "410.1"]),
        (["0", "10", "-0.5"], "float64", [0, 10, -0.5]),
        (["0.10", "00.5"], "float64", [0.1, 0.5]),
        (["NA", "", "nan"], "float64", [GAP] * 3),
        (["True", "False"], "bool", [True, False]),
        (["TRUE", "false", "NA"], "boolean", [True, False, GAP]),
        (["yes", "no"], TEXT, ["yes", "no"]),
        (["red", "", " blue ", "none", "na"], TEXT, ["red", GAP, "blue", "none", "na"]),
        (["a", "b", "3"], TEXT, ["a", "b", "3"]),
        (["1_000", "x"], TEXT, ["1_000", "x"]),
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
    ):  # fmt: skip
        frame = pd.DataFrame({"a cell": cells, "other": "o"})
        expected = pd.Series(values, name="a cell").astype(dtype)
        for quoting in (csv.QUOTE_ALL, csv.QUOTE_MINIMAL):
            frame.to_csv(tmp_path / "points.csv", index=False, quoting=quoting)
            column = read_frame(tmp_path / "points.csv")["a cell"]
            pd.testing.assert_series_equal(column, expected)


@pytest.mark.parametrize("members", [1, 2])
def test_packed_files_are_what_is_in_them(tmp_path, members):
    content = 'a,b\n1,"x\ny"\n2,z\n'
    plain, path = written(tmp_path, content), tmp_path / "packed.csv.gz"
    middle = len(content) // 2
    parts = [content] if members == 1 else [content[:middle], content[middle:]]
    packed = b"".join(gzip.compress(part.encode()) for part in parts)
    path.write_bytes(packed)
    table = read_frame(path)
    pd.testing.assert_frame_equal(table, read_frame(plain))
    for wrong in (packed[:-9], b"a,b\n1,2\n", packed + b"x"):
        path.write_bytes(wrong)
        with refused("is a broken gzip file", DataError):
            read_frame(path)


POINTS = pd.DataFrame(
    np.random.default_rng(0).normal(size=(20, 3)) * [1e-9, 1.0, 1e12],
    columns=["height, in m", 'a "quoted" name', "ü"],
)


@pytest.mark.parametrize("ending", [".csv.gz", ".tsv", ".parquet", ".npy", ".CSV"])
def test_what_is_written_is_read_back_exactly(tmp_path, ending):
    path = tmp_path / "new" / f"points{ending}"
    write_frame(path, POINTS)
    table = read_frame(path)
    np.testing.assert_array_equal(table, POINTS)
    names = [f"column_{place}" for place in (1, 2, 3)] if ending == ".npy" else list(POINTS)
    assert list(table) == names
    if ending == ".npy":
        np.testing.assert_array_equal(np.load(path), POINTS)
    else:
        other_program = pd.read_parquet if ending == ".parquet" else pd.read_csv
        options = {"sep": "\t"} if ending == ".tsv" else {}
        pd.testing.assert_frame_equal(other_program(path, **options), POINTS)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is empty"),
        (
            "x,y\n1,2\n3,abc\n",
            "column 'y', row 2 holds 'abc'; correct .* \\(missing\\), .* a category",
        ),
        ("x,y\n1,2\n3\n4,5\n", r"wrong number of values.* \(1 for 2 columns\): '3'"),
        (b"x,y\n1,2\n3,\xff\xfe4\n", r"not UTF-8 text \(line 3\)"),
        (np.array([[1, "a"]], dtype=object), "Python objects, which are not loaded"),
    ],
)
def test_a_broken_file_is_refused_with_the_place(tmp_path, content, words):
    require_refused(tmp_path, content, words)


def test_loading_never_runs_what_a_file_holds(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path(tmp_path / "ran").touch, ())

    path = written(tmp_path, np.array([Trap(), Trap()], dtype=object))
    with pytest.raises(DataError):
        read_frame(path)
    assert not (tmp_path / "ran").exists()


def test_missing_file_folder_and_unknown_ending(tmp_path):
    with refused("there is no file", DataError):
        read_frame(tmp_path / "nothing.csv")
    (tmp_path / "folder.csv").mkdir()
    with refused("it is no file", DataError):
        read_frame(tmp_path / "folder.csv")
    for name in ("points.xlsx", "points"):
        with refused(r"ending must be \.csv, \.csv\.gz, \.tsv, \.parquet, \.npy"):
            require_writable_ending(tmp_path / name)
        with refused("cannot write rows"):
            write_frame(tmp_path / name, POINTS)
        assert not (tmp_path / name).exists()
        (tmp_path / name).touch()
        with refused(r"\.csv, \.csv\.gz, \.tsv, \.parquet, \.npy", DataError):
            read_frame(tmp_path / name)
    with refused("cannot write", RunFolderError):
        write_frame(tmp_path / "points" / "points.csv", POINTS)


def test_words_for_gaps_and_kinds_are_told(tmp_path):
    lines = ["age,job,zip,code,day", "31,?,10115,V57,?", "40,nurse,20095,250,", "Unknown,clerk,,?,"]
    path = written(tmp_path, "\n".join(lines))
    with refused("'age', row 3 holds 'Unknown'", DataError):
        read_frame(path)
    frame = read_frame(path, ("?", "unknown"), {"zip": "category", "code": "category"})
    assert frame["age"].tolist() == [31, 40, pd.NA]
    assert frame["job"].tolist()[1:] == ["nurse", "clerk"]
    assert frame["zip"].tolist()[:2] == ["10115", "20095"]
    assert frame["code"].tolist()[:2] == ["V57", "250"]
    assert frame.isna().sum().tolist() == [1, 1, 1, 1, 3]
    padded = written(tmp_path, "x\n007\n012\n")
    assert read_frame(padded)["x"].tolist() == ["007", "012"]
    assert read_frame(padded, kinds={"x": "number"})["x"].tolist() == [7, 12]
