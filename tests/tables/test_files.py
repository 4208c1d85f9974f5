import csv
import datetime
import gzip
import os
from decimal import Decimal
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from helpers import refused
from kan_diffusion.data.frames import TextForm, write_frame
from kan_diffusion.errors import DataError, RunFolderError
from kan_diffusion.tables.codec import TableCodec
from kan_diffusion.tables.conditions import read_conditions
from kan_diffusion.tables.files import read_table
from kan_diffusion.tables.kinds import fit_column


def read_frame(*given, **settings):
    return read_table(*given, **settings)[0]


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
    columns = {"first": pd.Series([0.5] * num_rows)}
    for place, kind in enumerate(draw(st.lists(st.sampled_from(sorted(CELLS)), max_size=4))):
        cells, dtype, whole = CELLS[kind]
        values = draw(st.lists(st.none() | cells, min_size=num_rows, max_size=num_rows))
        if (gaps := values.count(None)) < num_rows:
            columns[f"{kind}, {place}"] = pd.Series(values, dtype=dtype if gaps else whole)
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


TEXT, GAP = "str" if pd.__version__ >= "3" else "object", None


def test_csv_dialects(tmp_path):
    for text, columns, rows, *mark in (
        ("1,2\n3,4", ["column_1", "column_2"], [[1, 2], [3, 4]]),
        ("x,y\n1,2\n3,4\n", ["x", "y"], [[1, 2], [3, 4]]),
        ("\ufeffx, y\r\n1, 2\r\n3, 4\r\n\r\n", ["x", "y"], [[1, 2], [3, 4]]),
        ("\n\nx,\n1,2\n\n3,4\n\n", ["x", "column_2"], [[1, 2], [3, 4]]),
        ('"a\nb","c, d"\n"1","2"\n3,4\n', ["a\nb", "c, d"], [[1, 2], [3, 4]]),
        ("a;b,c\n1,2\n3,4\n", ["a;b", "c"], [[1, 2], [3, 4]]),
        ("y;x\n1;2\n3.5;4\n", ["y", "x"], [[1, 2], [3.5, 4]]),
        ('a, b;"c;d"\n1,5;2\n0,125;1e-3\n', ["a, b", "c;d"], [[1.5, 2], [0.125, 0.001]]),
        ("1,5;2\n3,25;-4,12\n", ["column_1", "column_2"], [[1.5, 2], [3.25, -4.12]]),
        ("x;y\n1,5;2.5\n2,5;3.5\n", ["x", "y"], [[1.5, 2.5], [2.5, 3.5]]),
        ("y|x\n2,5|1\n4|3\n", ["y", "x"], [[2.5, 1], [4, 3]]),
        ("39,NA,5\n41,3,6\n", ["column_1", "column_2", "column_3"], [[39, GAP, 5], [41, 3, 6]]),
        ("39,2024-01-01\n41,\n", ["column_1", "column_2"], [[39, "2024-01-01"], [41, GAP]]),
        # With a mark of thousands.
        ('x\n"1,234.56"\n999\n"-3,000"\n', ["x"], [[1234.56], [999], [-3000]], ","),
        ("x;y\n1.234,56;7,5\n1.234.567;4", ["x", "y"], [[1234.56, 7.5], [1_234_567, 4]], "."),
        ("x;y\n1,500;2\n999;3\n", ["x", "y"], [[1500, 2], [999, 3]], ","),
        ("x;y\n1,500;2\n999;3\n", ["x", "y"], [[1.5, 2], [999, 3]], "."),
        ("x,y\n1 500,2\n12,3\n", ["x", "y"], [[1500, 2], [12, 3]], " "),
        ("x;y\n1\u202f500,5;2\n12;1\u00a0000\n", ["x", "y"], [[1500.5, 2], [12, 1000]], " "),
    ):
        table = read_frame(str(written(tmp_path, text)), thousands="".join(mark))
        expected = pd.DataFrame(rows, columns=columns)
        pd.testing.assert_frame_equal(table, expected.astype(table.dtypes))


def test_a_first_line_with_numbers_is_said_to_be_a_row(tmp_path, caplog):
    for first, said in (("red,1,2", "is a row and no names"), ("a,b,inf", "")):
        caplog.clear()
        frame = read_frame(written(tmp_path, f"{first}\nblue,4,5\n"))
        assert (list(frame) == first.split(",")) == (first == "a,b,inf")
        assert said in caplog.text
        assert len(caplog.records) == (said != "")


def test_a_column_of_text_is_what_all_its_cells_are(tmp_path, caplog):
    for cells, dtype, values in (
        (["1", "+2", "-3"], "int64", [1, 2, -3]),
        (["1", "", "3"], "Int64", [1, GAP, 3]),
        (["9223372036854775807", "1"], "int64", [2**63 - 1, 1]),
        (["18446744073709551615", "1"], "uint64", [2**64 - 1, 1]),
        (["18446744073709551616", "1"], TEXT, ["18446744073709551616", "1"]),
        (["1", "2.5", "+3e1", "1.", ".5"], "float64", [1, 2.5, 30, 1, 0.5]),
        (["12E4", "12E5", "7"], TEXT, ["12E4", "12E5", "7"]),
        (["1E+4", "1E+5"], "float64", [10_000, 100_000]),
        (["+491701234567", "+491701234568"], TEXT, ["+491701234567", "+491701234568"]),
        (["+170123456", "1"], "int64", [170_123_456, 1]),
        ([" 1", "2 "], "int64", [1, 2]),
        (["WD ", "New", "  "], TEXT, ["WD ", "New", GAP]),
        ([" 29.02.2024", "01.03.2024"], TEXT, ["29.02.2024", "01.03.2024"]),
        (["1", "NA", "n/a", "None", "null", "NaN", "nan", "<NA>", "#N/A", "-nan"], "Int64",
         [1, *[GAP] * 9]),
        (["1e-400", "1"], "float64", [0, 1]),
        (["01234", "99999"], TEXT, ["01234", "99999"]),
        (["250", "401", "V57", "410.1"], TEXT, ["250", "401", "V57", "410.1"]),
        (["0", "10", "-0.5"], "float64", [0, 10, -0.5]),
        (["0.10", "00.5"], "float64", [0.1, 0.5]),
        (["NA", "", "nan"], "float64", [GAP] * 3),
        (["True", "False"], "bool", [True, False]),
        (["True", "False", "NA"], "boolean", [True, False, GAP]),
        (["TRUE", "false", "NA"], TEXT, ["TRUE", "false", GAP]),
        (["true", "false"], TEXT, ["true", "false"]),
        (["20201114", "", "19991231"], TEXT, ["20201114", GAP, "19991231"]),
        (["20201114", "20201131"], "int64", [20201114, 20201131]),
        (["20201114", "21010101"], "int64", [20201114, 21010101]),
        (["yes", "no"], TEXT, ["yes", "no"]),
        (["red", "", " blue ", "none", "na"], TEXT, ["red", GAP, " blue ", "none", "na"]),
        (["a", "b", "3"], TEXT, ["a", "b", "3"]),
        (["1_000", "x"], TEXT, ["1_000", "x"]),
        (["1,234", "red", "blue"], TEXT, ["1,234", "red", "blue"]),
        (["１２", "x"], TEXT, ["１２", "x"]),
        (["质量, 😀", 'a "b"', "c\nd"], TEXT, ["质量, 😀", 'a "b"', "c\nd"]),
        (["2024-02-29", "1999-12-31"], "datetime64[s]", ["2024-02-29", "1999-12-31"]),
        (["2024-02-29", "NA"], "datetime64[s]", ["2024-02-29", pd.NaT]),
        (["2024-02-29 10:30", "2024-02-29T10:30:59"], "datetime64[s]",
         ["2024-02-29 10:30", "2024-02-29 10:30:59"]),
        (["2024-02-29 10:30:00.25", "2024-01-01"], "datetime64[us]",
         ["2024-02-29 10:30:00.25", "2024-01-01"]),
        (["2024-02-29T10:30:00Z", "2024-02-29T10:30:00+02:00"], TEXT,
         ["2024-02-29T10:30:00Z", "2024-02-29T10:30:00+02:00"]),
        (["29.02.2024", "01.03.2024"], TEXT, ["29.02.2024", "01.03.2024"]),
    ):  # fmt: skip
        frame = pd.DataFrame({"a cell": cells, "other": "o"})
        expected = pd.Series(values, name="a cell").astype(dtype)
        for quoting in (csv.QUOTE_ALL, csv.QUOTE_MINIMAL):
            caplog.clear()
            frame.to_csv(tmp_path / "points.csv", index=False, quoting=quoting)
            column = read_frame(tmp_path / "points.csv")["a cell"]
            pd.testing.assert_series_equal(column, expected)
            told = "column 'a cell' is read as text, since row 3 holds 'V57'" in caplog.text
            assert told == ("V57" in cells)


def test_the_share_of_words_among_numbers_decides_whatever_the_order_of_rows(tmp_path):
    ages = [str(20 + k % 50) for k in range(100)]
    for words, said in (
        (["3O"], "holds '3O'; correct the cell .* word for gaps"),
        (
            ["unknown"] * 6 + ["3O"] * 4,
            "holds 'unknown'; correct the 10 such cells .*call 'unknown' a word for gaps",
        ),
        (["V57"] * 12, None),
        (["unknown"] * 101, None),
        (["1.234,56"], "holds '1.234,56'; .*name the mark of thousands '.'"),
        (["1 234"] * 200, "holds '1 234'; .*name the mark of thousands ' '"),
        (["12’345.60", "2’000"], "holds '12’345.60'; .*name the mark of thousands '’'"),
        (["1\u202f234,5"], "holds .*name the mark of thousands ' '"),
        (
            ["(3.50)"] * 9,
            "holds '.3.50.'; correct the 9 such cells .*write what is below zero with a minus",
        ),
        (["412 34 56"] * 200, None),
    ):
        for cells in (ages + words, words + ages, [*ages[:50], *words, *ages[50:]]):
            path = written(tmp_path, "\n".join(["x;y", *(f"{cell};1" for cell in cells)]))
            if said is None:
                assert read_frame(path)["x"].tolist() == cells
                continue
            row = cells.index(words[0]) + 1
            with refused(f"column 'x', row {row} {said}", DataError):
                read_frame(path)


def test_a_text_file_is_written_as_it_was(tmp_path):
    content = (
        '\ufeff;when;"a;b";cost;price; size ;pm;ok\n'
        "0;2013-01-01 06:00;WD ;1,5;1.80;7;+3;TRUE\n"
        "1;2013-02-01 18:00; x;;-12.05;1.5;-2;FALSE\n"
    )
    path = written(tmp_path, content)
    frame, form = read_table(path)
    assert list(frame) == ["column_1", "when", "a;b", "cost", "price", "size", "pm", "ok"]
    assert form == TextForm.model_validate_json(form.model_dump_json())
    for ending, same in ((".csv", True), (".csv.gz", True), (".tsv", False)):
        write_frame(tmp_path / f"new{ending}", frame, form)
        opened = gzip.open if ending == ".csv.gz" else open
        with opened(tmp_path / f"new{ending}", "rt", encoding="utf-8") as file:
            assert (file.read() == content) == same
        again = read_frame(tmp_path / f"new{ending}")
        pd.testing.assert_frame_equal(again, frame)
    frame, form = read_table(written(tmp_path, "x,y,z\n1.80,1.8,0.10\n2.25,2.25,\n"))
    assert {name: amount.decimals for name, amount in form.amounts.items()} == {"x": 2, "z": 2}
    more = pd.DataFrame({"x": [3.1, 4.123], "y": [3.1, 4.0], "z": [None, 2]})
    write_frame(tmp_path / "new.csv", more.astype({"z": "Int64"}), form)
    assert (tmp_path / "new.csv").read_text() == "x,y,z\n3.10,3.1,\n4.123,4.0,2.00\n"
    codec = TableCodec.fit(pd.DataFrame({"a": np.arange(30) / 2, "b": range(30)}))
    frame, form = codec.read(written(tmp_path, "1,5;2\n2,0;3\n"))  # without names
    write_frame(tmp_path / "new.csv", frame, form)
    assert (tmp_path / "new.csv").read_text() == "a;b\n1,5;2\n2,0;3\n"
    # Columns without a number are written as in the rows trained on, if others are, too.
    trained = "a;b;c\n" + "".join(f"{row / 2};1.{row}5;{row}.50\n" for row in range(30))
    rows, form = read_table(written(tmp_path, trained.replace(".", ",")))
    codec = TableCodec.fit(rows).model_copy(update={"form": form})
    _, form = codec.read(written(tmp_path, "a;b\n1,5;\n"))
    assert {name: amount.point for name, amount in form.amounts.items()} == dict.fromkeys(
        "abc", ","
    )
    assert form.amounts["c"].decimals == 2
    assert codec.read(written(tmp_path, "a;b\n1;\n"))[1].amounts == form.amounts
    assert codec.read(written(tmp_path, "a;b\n1.5;\n"))[1].amounts == {}


@pytest.mark.parametrize(("mark", "point"), [(",", "."), (".", ","), ("\u202f", ",")])
def test_marks_of_thousands_are_written_and_may_be_asked_for(tmp_path, mark, point):
    lines = ["limit;rate;year"]
    for row in range(60):
        limit = f"{row * 137 % 4000:,}".replace(",", mark)
        lines.append(f"{limit};{row % 7}{point}5;{1990 + row % 9}")
    path = written(tmp_path, "\n".join([*lines, ""]))
    thousands = " " if mark == "\u202f" else mark
    frame, form = read_table(path, thousands=thousands)
    write_frame(tmp_path / "new.csv", frame, form)
    assert (tmp_path / "new.csv").read_bytes() == path.read_bytes()
    codec = TableCodec.fit(frame).model_copy(update={"form": form, "thousands": thousands})
    _, form = codec.read(written(tmp_path, "limit;rate;year\n5;;1990\n"))
    assert form.amounts == codec.form.amounts
    for low in (f"1{mark}500", "1500", 1500):
        (condition,) = read_conditions({"limit": (low, None)}, codec).values()
        assert condition.ends == (1500, None)


def test_packed_files_are_what_is_in_them_and_do_not_fill_the_memory(tmp_path, monkeypatch):
    plain, path = written(tmp_path, 'a,b\n1,"x\ny"\n2,z\n'), tmp_path / "packed.csv.gz"
    content = plain.read_bytes()
    for members in ([content], [content[:9], content[9:]]):
        packed = b"".join(map(gzip.compress, members))
        path.write_bytes(packed)
        pd.testing.assert_frame_equal(read_frame(path), read_frame(plain))
        for wrong in (packed[:-9], content, packed + b"x"):
            path.write_bytes(wrong)
            with refused("is a broken gzip file", DataError):
                read_frame(path)
    monkeypatch.setattr("kan_diffusion.limits.MOST_UNPACKED_BYTES", 10_000)
    monkeypatch.setattr("kan_diffusion.limits.MOST_TIMES_PACKED", 1)
    path.write_bytes(gzip.compress(b"1\n" * 5_000))
    assert len(read_frame(path)) == 5_000
    path.write_bytes(gzip.compress(b"1\n" * 5_001))
    with refused("holds more than 10,000 bytes", DataError):
        read_frame(path)


POINTS = pd.DataFrame(
    np.random.default_rng(0).normal(size=(20, 3)) * [1e-9, 1.0, 1e12],
    columns=["height, in m", 'a "quoted" name', "ü"],
)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is empty"),
        ("  \n\n", "is empty"),
        ("x,y\n", "no rows"),
        (
            "x,y\n1,2\n3,abc\n",
            r"'y', row 2 holds 'abc'; correct the cell .*call 'abc' a word for gaps.* a category",
        ),
        ("x,y\n1,2\n\n3,4\nabc,5\n", "column 'x', row 3 holds 'abc'"),
        ("x,y\nTrue,2\n3,4\n", "mixes numbers and text: column 'x', row 1 holds 'True'"),
        ("day,2025\n1,2\n3,4\n", "row 1 holds 'day'.*header line has no number"),
        ("x;y\n1.234,56;2\n1.999,50;3\n7,5;4\n", "row 1 holds '1.234,56'; .*no marks of thousands"),
        ('x,y\n"1,234.56",2\n"999",3\n"3,000",3\n', "row 1 holds '1,234.56'; .*decimal points"),
        ('x,y\n"1,5",2\n"2,75",3\n', "row 1 holds '1,5'; .*separate cells by semicolons"),
        ("x;y\n1,500;2\n999;3\n", "'1,500' in column 'x', where the comma may mark decimals or"),
        (
            "x;y\n701.898;2,5\n757;3,25\n",
            "'701.898' in column 'x', where the point may mark .* column 'y' has decimal commas",
        ),
        ("x,y\n1,2\n3\n4,5\n", r"wrong number of values.* \(1 for 2 columns\): '3'"),
        ("x,y\n1,2\n3,4,5\n", r"wrong number of values.* \(3 for 2 columns\)"),
        ("by hand\nx,y\n1,2\n", "wrong number .*; delete all lines above the one with the names"),
        ("x\n1,5\n2,5\n", "wrong number .*; .*put cells with commas in quotation marks"),
        ("# of a device, v2\nx;y\n1;2\n", "begins with a comment; delete all lines above the one"),
        ("sep=;\nx;y\n1;2\n", "begins with a line for Excel, 'sep=;'; delete it"),
        ("x,x\n1,2\n3,4\n", "same name: 'x'"),
        (b"x,y\n1,2\n3,\xff\xfe4\n", r"not UTF-8 text \(line 3\)"),
        (b"x,y\n1,2\n\0\0\0,4\n", "not a text file"),
        ('x,y\n1,2\n"3,4\n5,6\n', "quotation mark in line 3 that is not closed"),
        ('x;y\n1;"a\n2;b\n', "quotation mark in line 2 that is not closed"),
        ('x,y\r\n"1","a\r\n"2","b"\r\n"3","c"\r\n', "quotation mark in line 2 that is not closed"),
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
    path = written(tmp_path, content)
    with refused(words, DataError) as caught:
        read_frame(path)
    assert str(path) in str(caught.value)


def test_quotation_marks_that_are_closed_or_within_a_cell_stay(tmp_path):
    cells = ['5" pipe', 'he said ""no""', "two\nlines", "two, words"]
    (tmp_path / "rows.csv").write_text(
        f"x,y\n1,{cells[0]}\n" + "".join(f'2,"{c}"\n' for c in cells[1:])
    )
    assert read_frame(tmp_path / "rows.csv")["y"].tolist() == [c.replace('""', '"') for c in cells]


def test_truncated_and_foreign_files_are_refused(tmp_path):
    numbers = np.arange(100.0)
    for content, what in ((numbers, "NumPy array"), ({"x": numbers}, "Parquet")):
        path = written(tmp_path, content)
        whole = path.read_bytes()
        for part in (whole[:-20], whole[:500] + whole[-8:], b"1,2\n3,4\n"):
            path.write_bytes(part)
            with refused(f"not a readable {what} file", DataError):
                read_frame(path)


def test_loading_never_runs_what_a_file_holds(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path(tmp_path / "ran").touch, ())

    path = written(tmp_path, np.array([Trap(), Trap()], dtype=object))
    with refused("Python objects, which are not loaded", DataError):
        read_frame(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".npy"])
def test_what_is_no_file_is_refused_and_not_read(tmp_path, ending):
    pipe, zeros, folder = (tmp_path / f"{name}{ending}" for name in ("pipe", "zeros", "folder"))
    os.mkfifo(pipe)  # reading it would never end
    zeros.symlink_to("/dev/zero")
    folder.mkdir()
    for path in (pipe, zeros, folder):
        with refused("cannot be read: it is no file", DataError):
            read_frame(path)
    with refused("cannot be read: File name too long", DataError):
        read_frame(tmp_path / f"{'x' * 300}{ending}")
    with refused("there is no file", DataError):
        read_frame(tmp_path / f"nothing{ending}")


def test_unknown_endings_are_refused(tmp_path):
    known = r"\.csv, \.csv\.gz, \.tsv, \.parquet, \.npy"
    for name in ("points.xlsx", "points"):
        with refused(rf"cannot write rows to .*: the ending must be {known}"):
            write_frame(tmp_path / name, POINTS)
        assert not (tmp_path / name).exists()
        (tmp_path / name).touch()
        with refused(rf"a table is one of {known}", DataError):
            read_frame(tmp_path / name)
    with refused("cannot write", RunFolderError):
        write_frame(tmp_path / "points" / "points.csv", POINTS)


def test_other_programs_read_what_is_written_and_arrays_take_numbers_only(tmp_path):
    as_text = partial(pd.read_csv, dtype=str)  # pandas 3.0 rounds numbers
    readers = {".CSV": as_text, ".tsv": partial(as_text, sep="\t"), ".npy": np.load}
    for ending, read in readers.items():
        path = tmp_path / "new" / f"points{ending}"
        write_frame(path, POINTS)
        np.testing.assert_array_equal(read(path).astype(float), POINTS)
        names = list(POINTS) if ending != ".npy" else ["column_1", "column_2", "column_3"]
        pd.testing.assert_frame_equal(read_frame(path), POINTS.set_axis(names, axis=1))
    path = tmp_path / "points.npy"
    write_frame(path, pd.DataFrame({"a": [1, 2], "b": pd.array([3, 2**62 + 1], dtype="Int64")}))
    assert np.load(path).tolist() == [[1, 3], [2, 2**62 + 1]]
    write_frame(path, pd.DataFrame({"a": [1.5, 2], "b": pd.array([3, None], dtype="Int64")}))
    for cells in (["x", "y"], [pd.Timestamp(0)] * 2, pd.Categorical([1, 2])):
        with refused(r"column 'b' to '.*points\.npy', which takes numbers only"):
            write_frame(path, pd.DataFrame({"a": [1, 2], "b": cells}))
    np.testing.assert_array_equal(np.load(path), [[1.5, 3], [2, np.nan]])  # as it was


def test_parquet_keeps_the_dtypes_that_pandas_wrote(tmp_path):
    frame = pd.DataFrame(
        {
            "small": np.array([1, 2, 3], dtype=np.int8),
            "half": np.array([0.5, np.nan, 1], dtype=np.float32),
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
        pd.testing.assert_frame_equal(read_frame(tmp_path / "points.parquet"), frame.assign(**more))


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
    with refused(
        "row 1 holds '5%'; correct the 3 such cells .* its number, such as a unit", DataError
    ):
        read_frame(written(tmp_path, "x\n5%\n7.50%\n9%\n"), kinds={"x": "number"})
    frame = read_frame(written(tmp_path, "x\n5%\n7.5%\n9%\n"), kinds={"x": "number"})
    assert fit_column("x", frame["x"], "number").read(frame["x"])[0].tolist() == [5, 7.5, 9]


@pytest.mark.parametrize("text", ["=HYPERLINK(A1)", "+1+1", "-1+cmd", "@SUM(A1)", "\tx", "\r=1"])
def test_what_a_spreadsheet_would_run_is_named_and_stays(tmp_path, caplog, text):
    calm = pd.DataFrame({"a": [-5, 1], "b": ["x=1", "y"], "c": [datetime.timedelta(-1)] * 2})
    write_frame(tmp_path / "calm.csv", calm)
    cells, names = calm.assign(b=["y", text]), calm.rename(columns={"b": text})
    write_frame(tmp_path / "rows.parquet", cells)
    assert not caplog.messages
    for frame in (cells, cells.astype({"b": "category"}), names):
        write_frame(tmp_path / "rows.tsv", frame)
        (said,) = caplog.messages
        assert said.startswith(f"'rows.tsv' has the text {text!r}, which a spreadsheet runs")
        caplog.clear()
    assert text in (tmp_path / "rows.tsv").read_bytes().decode()


def test_notes_for_pandas_that_make_no_sense_are_one_line(tmp_path):
    table = pa.table({"a": [1.0, 2.0]})
    zoned = pa.table({"a": pa.array([1, 2], pa.timestamp("s", tz="No/Where"))})
    notes = (b'{"index_columns": ["a"], "columns": "nope"}', b"[1,2", b"[" * 5000)
    for each in (*(table.replace_schema_metadata({b"pandas": note}) for note in notes), zoned):
        parquet.write_table(each, tmp_path / "a.parquet")
        with refused("'.*' is not a readable Parquet file .* write it again", DataError):
            read_frame(tmp_path / "a.parquet")
