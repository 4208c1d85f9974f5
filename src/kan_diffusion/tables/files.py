"""Tables of mixed columns in files, with every value checked, and tables of scikit-learn.

A table is n rows of d columns, each of numbers, text, truth values or dates, in a ``.csv``,
``.csv.gz``, ``.tsv``, ``.parquet`` or ``.npy`` file. An error is one line that names the file, the
place in it and the remedy. :mod:`kan_diffusion.tables.cells` says what cells of text are.

``TABLES`` are real measurements that come with scikit-learn and need no network: continuous columns
in their own units and under their own names, rounded as they were written down. The usual target
of each, a class or the course of a disease, is left out.

These are ``iris`` (Fisher 1936; Anderson 1935), ``wine`` (Forina et al. 1988, PARVUS),
``breast-cancer`` (Street, Wolberg and Mangasarian 1993) and ``diabetes`` without the column ``sex``
(Efron et al. 2004, "Least angle regression").
"""

from __future__ import annotations

import gzip
import json
import logging
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from kan_diffusion import limits
from kan_diffusion.data.amounts import Amount
from kan_diffusion.data.frames import ENDINGS, TextForm, ending_of
from kan_diffusion.errors import DataError
from kan_diffusion.files import read_parquet, require_file, room_unpacked
from kan_diffusion.tables.cells import CellReader, is_number

logger = logging.getLogger("kan_diffusion.tables")

_NO_NAME = r"__index_level_[0-9]+__"  # of a column that is an index of pandas
_UTF8 = b"\xef\xbb\xbf"  # may mark a text as such
_NULLABLE = {pa.bool_(): pd.BooleanDtype()} | {
    pa.type_for_alias(name.lower()): pd.api.types.pandas_dtype(name)
    for name in (f"{sign}Int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64))
}


def read_table(
    path: str | Path,
    missing: Sequence[str] = (),
    kinds: Mapping[str, str] | None = None,
    thousands: str = "",
) -> tuple[pd.DataFrame, TextForm | None]:
    """Reads and checks a table, and says how its file is written.

    Args:
        path: A ``.csv``, ``.csv.gz`` or ``.tsv`` file (UTF-8; columns separated by commas, or by
            semicolons, tabs or bars, where numbers may have decimal commas; the first line is a
            header when no cell of it is a number), a ``.parquet`` file, in which an index of pandas
            with a name is a column (not a range, which only counts rows), or a ``.npy`` file with
            an array of shape (n, d) or (n,).
        missing: Words for gaps in a text file beside the usual ones, in any case, such as ``"?"``.
        kinds: Kinds of columns of a text file, by name: cells of other kinds than "number", "date"
            and "time" stay the text that they are. Types of other columns are found.
        thousands: Mark of thousands in the numbers of a text file.

    Returns:
        The rows, at least one, numbered from 0; columns of a file without names are "column_1",
        .... And the form of a text file; None of another.

    Raises:
        DataError: The file is missing, unreadable, broken or of an unknown format; it has no rows
            or no columns, or two columns of one name; a column mixes numbers with words; or it is
            unclear whether commas mark decimals or thousands.
    """
    path = Path(path)
    ending = ending_of(path)
    try:
        if not path.exists():
            raise DataError(f"there is no file '{path}'; check the path")
        if ending not in ENDINGS:
            has = f"the ending '{path.suffix}'" if path.suffix else "no ending"
            raise DataError(f"'{path}' has {has}; a table is one of {', '.join(ENDINGS)}")
        if require_file(path, limits.MOST_TABLE_BYTES) == 0:
            raise DataError(f"'{path}' is empty; give a file with rows")
        if ending in (".parquet", ".npy"):
            return (_read_parquet if ending == ".parquet" else _read_npy)(path), None
        return _read_text(path, missing, kinds or {}, thousands)
    except OSError as error:
        raise DataError(
            f"'{path}' cannot be read: {error.strerror or error}; give another file"
        ) from error


def named_like(path: Path, frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Returns the rows of a file, with a model's column names if the file or the model has none.

    Raises:
        DataError: The number of columns is different.
    """
    own = list(map(str, frame))
    if _numbered(len(own)) != own and _numbered(len(columns)) != list(columns):
        return frame
    if len(own) != len(columns):
        raise DataError(
            f"'{path}' has {len(own)} columns and the model was trained on {len(columns)} "
            f"({', '.join(columns)}); give a file with the same columns"
        )
    return frame.set_axis(list(columns), axis=1)


def require_size(
    what: str, num_rows: int, num_columns: int, most: int = limits.MOST_VALUES
) -> None:
    """Refuses a table, which errors call ``what``, that is empty or too large (``most`` values)."""
    if num_columns > limits.MOST_COLUMNS or num_rows * num_columns > most:
        raise DataError(
            f"{what} has {num_rows:,} rows of {num_columns:,} columns; a table has at most "
            f"{limits.MOST_COLUMNS:,} columns and {most:,} values"
        )
    if num_rows == 0 or num_columns == 0:
        raise DataError(f"{what} has no {'rows' if num_columns else 'columns'}; give at least one")


def require_short(what: str, cells: pa.ChunkedArray) -> None:
    """Refuses a cell of text, or a name, that is too long, in a table that errors call ``what``."""
    long = pc.greater(pc.binary_length(cells), limits.LONGEST_CELL)
    if (row := pc.index(long, value=True).as_py()) >= 0:
        raise DataError(
            f"{what} has a cell of {len(cells[row].as_py()):,} characters in row {row}; at most "
            f"{limits.LONGEST_CELL:,} are read, so shorten it or leave its column out"
        )


def require_distinct(what: str, names: Sequence[object]) -> None:
    """Refuses equal names of columns of a table, which errors call ``what``."""
    repeated = pd.Series([str(name) for name in names], dtype=object)
    require_short(what, pa.chunked_array([repeated], pa.string()))
    if (twice := repeated[repeated.duplicated()]).size:
        raise DataError(f"{what} has two columns of the same name: '{twice.iloc[0]}'; rename one")


def _read_text(
    path: Path, missing: Sequence[str], kinds: Mapping[str, str], thousands: str
) -> tuple[pd.DataFrame, TextForm]:
    """Reads a file of separated cells."""
    if ending_of(path) == ".csv.gz":
        text = _unpacked(path)
    else:
        with path.open("rb") as file:  # what is no text is refused before it fills the memory
            _require_lines(path, file.read(limits.LONGEST_LINE + 1))
        text = path.read_bytes()
    has_mark, text = text.startswith(_UTF8), text.removeprefix(_UTF8)
    try:
        text.decode()
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise DataError(f"'{path}' is not UTF-8 text (line {line}); save it as UTF-8") from error
    # The first lines, in which values between quotation marks may have line breaks.
    found = (line[0] for line in re.finditer(rb'(?:[^"\r\n]++|"[^"]*+")++', text))
    lines = list(islice((line for line in found if line.strip()), 2))
    if not lines:
        raise DataError(f"'{path}' is empty; give a file with rows")
    for each in (text, *lines):
        _require_lines(path, each)
    if re.fullmatch(rb"sep=.", lines[0]):
        raise DataError(f"'{path}' begins with a line for Excel, {lines[0].decode()!r}; delete it")
    head, *rest = (_num_cells(line, _delimiter(lines[1:])) for line in lines)
    if lines[0].startswith(b"#") and head == 1 and rest > [1]:
        raise DataError(
            f"'{path}' begins with a comment; delete all lines above the one with the names of "
            "columns"
        )
    delimiter = "\t" if ending_of(path) == ".tsv" else _delimiter(lines)
    names, headers = _numbered(_num_cells(lines[0], delimiter)), dict[str, str]()
    require_size(f"'{path}'", 1, len(names))
    _require_closed(path, text, delimiter)
    # Lines are counted first, since cells take far more memory.
    most = min(limits.MOST_VALUES, max(limits.MOST_EMPTY_CELLS, len(text) // 3))
    require_size(f"'{path}'", 1 + text.count(b"\n"), len(names), most)
    columns = _split(path, text, delimiter, names)
    del text
    for column in columns:
        require_short(f"'{path}'", column)
    first = [column[0].as_py() for column in columns]
    if not any(map(is_number, first)):
        names = [cell.strip() or number for cell, number in zip(first, names, strict=True)]
        headers = {name: cell for cell, name in zip(first, names, strict=True) if cell != name}
        columns = [column.slice(1) for column in columns]
    elif not all(map(is_number, first)):
        logger.warning(
            "'%s' has a first line with numbers, so it is a row and no names; if it has names, "
            "write all of them as words",
            path,
        )
    require_distinct(f"'{path}'", names)
    require_size(f"'{path}'", len(columns[0]), len(columns))
    reader = CellReader(f"'{path}'", missing, thousands, commas=delimiter != ",")
    cells, amounts, grouped = {}, dict[str, Amount](), dict[str, str]()
    for name in names:  # one column after the other, so that little is in memory twice
        typed = reader.typed(name, columns.pop(0), kinds.get(name))
        cells[name] = _framed(typed.cells)
        amounts |= {name: typed.amount} if typed.amount else {}
        grouped |= {name: typed.grouped} if typed.grouped else {}
    commas = [name for name, amount in amounts.items() if amount.point == ","]
    if commas and grouped:
        name, number = grouped.popitem()
        raise DataError(
            f"'{path}' has numbers such as '{number}' in column '{name}', where the point may mark "
            f"thousands, since column '{commas[0]}' has decimal commas; write decimals of all "
            "columns alike, or name the mark of thousands '.'"
        )
    form = {
        "ending": ending_of(path).removesuffix(".gz"), "delimiter": delimiter, "headers": headers,
        "amounts": amounts, "has_mark": has_mark,
    }  # fmt: skip
    return pd.DataFrame(cells), TextForm.model_validate(form)


def _require_lines(path: Path, text: bytes) -> None:
    """Refuses what has zero bytes, or no end of a line among so many that a line may have."""
    if b"\0" in text:
        raise DataError(
            f"'{path}' is not a text file (it holds zero bytes); save it as CSV in UTF-8"
        )
    if len(text) > limits.LONGEST_LINE and not re.search(rb"[\r\n]", text):
        raise DataError(
            f"'{path}' has a line of more than {limits.LONGEST_LINE:,} characters; close its "
            "quotation marks, or shorten it"
        )


def _require_closed(path: Path, text: bytes, delimiter: str) -> None:
    """Refuses a quotation mark that opens a cell and is closed in another line's cell or nowhere.

    All lines between would silently be part of the cell.
    """
    other = rf"[^{re.escape(delimiter)}\r\n]"
    at_start, at_end = f"(?<!{other})", f"(?!{other})"
    within_line = rf'{at_start}"(?:[^"\r\n]++|"")*+"'
    across_lines = rf'{at_start}"(?:[^"]++|"")*+"{at_end}'
    inside = f'(?<={other})"'  # such as in 5" pipe
    sound = re.match(rf'(?:[^"]++|{within_line}|{across_lines}|{inside})*+'.encode(), text)
    if sound is not None and sound.end() < len(text):
        line = 1 + len(re.findall(rb"\r\n?|\n", text[: sound.end()]))
        raise DataError(
            f"'{path}' has a quotation mark in line {line} that is not closed; close it"
        )


def _framed(column: pa.ChunkedArray) -> pd.Series:
    """Makes a column for pandas: whole numbers and truth values with gaps get nullable dtypes."""
    nullable = column.null_count and column.type in _NULLABLE
    return column.to_pandas(types_mapper=_NULLABLE.get if nullable else None)


def _unpacked(path: Path) -> bytes:
    """Unpacks a gzip file."""
    try:
        room = min(room_unpacked(path), limits.MOST_TABLE_BYTES)
        with gzip.open(path) as file:
            text = file.read(room + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"'{path}' is a broken gzip file: {error}; pack it again") from error
    if len(text) > room:
        raise DataError(f"'{path}' holds more than {room:,} bytes; give a Parquet file")
    return text


def _num_cells(line: bytes, delimiter: str) -> int:
    """Counts the cells of a line; separators between quotation marks are none."""
    return re.sub(rb'(?:"[^"]*+")++', b"", line).count(delimiter.encode()) + 1


def _delimiter(lines: Sequence[bytes]) -> str:
    """Finds the separator that splits the first two lines into equally many cells."""
    for candidate in ";\t|":
        counts = {_num_cells(line, candidate) for line in lines}
        if len(counts) == 1 and counts != {1}:
            return candidate
    return ","


def _split(path: Path, text: bytes, delimiter: str, names: Sequence[str]) -> list[pa.ChunkedArray]:
    """Splits a file, with its first line, into columns of text."""
    wrong: list[arrow_csv.InvalidRow] = []

    def refuse(row: arrow_csv.InvalidRow) -> str:
        if not row.text.strip():
            return "skip"
        wrong.append(row)
        return "error"

    # In one block, so that rows are counted and none is too long for it.
    block = min(len(text) + 1, 2**31 - 1)
    reading = arrow_csv.ReadOptions(column_names=names, use_threads=False, block_size=block)
    parsing = arrow_csv.ParseOptions(
        delimiter=delimiter, newlines_in_values=b'"' in text, invalid_row_handler=refuse
    )
    as_text = arrow_csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()), null_values=[]
    )
    try:
        return list(arrow_csv.read_csv(pa.BufferReader(text), reading, parsing, as_text).columns)
    except pa.ArrowException as error:
        problem = f"is a broken CSV file: {error}; correct it"
        if wrong:
            row, shown = wrong[0], wrong[0].text[:40]
            where = "" if row.number is None else f" in line {row.number}"
            remedy = "correct that line, and close its quotation marks"
            if row.expected_columns == 1:
                remedy = (
                    "delete all lines above the one with the names of columns, or put cells with "
                    "commas in quotation marks"
                )
            problem = (
                f"has the wrong number of values{where} ({row.actual_columns} for "
                f"{row.expected_columns} columns): '{shown}'; {remedy}"
            )
        raise DataError(f"'{path}' {problem}") from error


@contextmanager
def _readable(path: Path, what: str, remedy: str) -> Iterator[None]:
    """Refuses a file that cannot be read as what it is called."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # broken headers, and notes for pandas, raise many kinds
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"'{path}' is not a readable {what} file ({reason}); {remedy}") from error


def _read_parquet(path: Path) -> pd.DataFrame:
    """Reads a Parquet file in types that pandas knows, and indexes with a name as columns."""
    with _readable(path, "Parquet", "write it again"):
        table = read_parquet(path)
        require_size(f"'{path}'", table.num_rows, table.num_columns)
        fields = []
        for field, column in zip(table.schema, table.columns, strict=True):
            if pa.types.is_string(field.type):
                require_short(f"'{path}'", column)
            is_decimal, is_date = pa.types.is_decimal(field.type), pa.types.is_date(field.type)
            kind = pa.float64() if is_decimal else pa.timestamp("s") if is_date else field.type
            fields.append(field.with_type(kind))
        names = [field.name for field in fields if not re.fullmatch(_NO_NAME, field.name)]
        require_distinct(f"'{path}'", names)
        table = table.cast(pa.schema(fields, table.schema.metadata)).select(names)
        if not (notes := table.schema.pandas_metadata):
            columns = zip(names, table.columns, strict=True)
            return pd.DataFrame({name: _framed(column) for name, column in columns})
        about = {"pandas": json.dumps({**notes, "index_columns": []})}
        return table.replace_schema_metadata(about).to_pandas().set_axis(names, axis=1)


def _read_npy(path: Path) -> pd.DataFrame:
    remedy = (
        "write it with numpy.save, without Python objects, which are not loaded because that can "
        "run code"
    )
    with _readable(path, "NumPy array", remedy), path.open("rb") as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
    array = array[:, None] if array.ndim == 1 else array
    if array.dtype.kind not in "fiu" or array.ndim != 2:
        raise DataError(
            f"'{path}' holds an array of type {array.dtype} and shape {array.shape}; save real "
            "numbers, in the shape (rows, columns)"
        )
    require_size(f"'{path}'", *array.shape)
    with np.errstate(over="ignore"):  # long doubles that overflow are refused as infinite
        kind = np.dtype(np.float64) if array.dtype.kind == "f" else array.dtype.newbyteorder("=")
        return pd.DataFrame(array.astype(kind), columns=_numbered(array.shape[1]))


def _numbered(count: int) -> list[str]:
    return [f"column_{place}" for place in range(1, count + 1)]


def _bundled(loader: str, left_out: Sequence[str] = (), **options: bool) -> pd.DataFrame:
    """Loads the continuous columns of a table of ``sklearn.datasets``, float64."""
    from sklearn import datasets

    frame: pd.DataFrame = getattr(datasets, loader)(as_frame=True, **options).data
    return frame.drop(columns=list(left_out))


TABLES: Mapping[str, Callable[[], pd.DataFrame]] = {
    "iris": partial(_bundled, "load_iris"),
    "wine": partial(_bundled, "load_wine"),
    "breast-cancer": partial(_bundled, "load_breast_cancer"),
    "diabetes": partial(_bundled, "load_diabetes", left_out=["sex"], scaled=False),
}
"""Readers of scikit-learn's tables, by the name a user writes."""
