"""Tables of mixed columns in files, with every value checked and written whole, and scikit-learn's.

A table is n rows of d columns, each of numbers, text, truth values or dates, in a ``.csv``,
``.csv.gz``, ``.tsv``, ``.parquet`` or ``.npy`` file. The types of text columns follow the rules of
:mod:`kan_diffusion.tables.cells`.

An error is one line that names the file, the place in it and the remedy.

``TABLES`` are real measurements that come with scikit-learn and need no network: continuous columns
in their own units and under their own names, rounded as they were written down. The usual target
of each, a class or the course of a disease, is left out.

* ``iris``: 150 flowers, 4 lengths and widths (Fisher 1936; Anderson 1935);
* ``wine``: 178 wines, 13 chemical measurements (Forina et al. 1988, PARVUS);
* ``breast-cancer``: 569 tumours, 30 measurements of cell nuclei (Street, Wolberg and Mangasarian
  1993);
* ``diabetes``: 442 patients, age and 8 measurements without the column ``sex`` (Efron et al. 2004,
  "Least angle regression").
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import logging
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import csv as arrow_csv
from pyarrow import parquet

from kan_diffusion.data.frames import ENDINGS, ending_of
from kan_diffusion.errors import DataError
from kan_diffusion.files import digest, require_file
from kan_diffusion.limits import MOST_BYTES, MOST_COLUMNS, MOST_VALUES
from kan_diffusion.tables.cells import is_number, typed

if TYPE_CHECKING:
    from kan_diffusion.tables.columns import Kind

__all__ = ["TABLES", "FrameFile", "are_names", "read_frame", "require_distinct", "require_size"]

logger = logging.getLogger(__name__)

_FEWEST_COUNTED = 3  # names that are numbers, such as years
_NO_NAME = r"__index_level_[0-9]+__"  # of a column that is an index of pandas
_UTF8 = b"\xef\xbb\xbf"  # may mark a text as such
_NULLABLE = {pa.bool_(): pd.BooleanDtype()} | {
    pa.type_for_alias(name.lower()): pd.api.types.pandas_dtype(name)
    for name in (f"{sign}Int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64))
}


@dataclass(frozen=True, eq=False)
class FrameFile:
    """A table from a file.

    Attributes:
        path: The file.
        sha256: Hexadecimal digest of the file's bytes.
        frame: The rows, at least one, numbered from 0; columns of a file without names are
            "column_1", ...
    """

    path: Path
    sha256: str
    frame: pd.DataFrame

    def take(self, rows: np.ndarray) -> pd.DataFrame:
        """Returns the rows of the given numbers, which count from 0."""
        return self.frame.iloc[rows].reset_index(drop=True)

    def named_like(self, columns: Sequence[str]) -> Self:
        """Returns the table with a model's column names if the table or the model has none.

        Raises:
            DataError: The number of columns is different.
        """
        own = list(map(str, self.frame))
        if are_names(own) and are_names(columns):
            return self
        if len(own) != len(columns):
            raise DataError(
                f"'{self.path}' has {len(own)} columns and the model was trained on "
                f"{len(columns)} ({', '.join(columns)}); give a file with the same columns"
            )
        return replace(self, frame=self.frame.set_axis(list(columns), axis=1))


def read_frame(
    path: str | Path, missing: Sequence[str] = (), kinds: Mapping[str, Kind] | None = None
) -> FrameFile:
    """Reads and checks a table.

    Args:
        path: A ``.csv``, ``.csv.gz`` or ``.tsv`` file (UTF-8; columns separated by commas, or by
            semicolons, tabs or bars, where numbers may have decimal commas; the first line is a
            header when no cell of it is a number, or when beside words its numbers count up, as
            years do), a ``.parquet`` file, in which an index of pandas with a name is a column (not
            a range, which only counts rows), or a ``.npy`` file with an array of shape (n, d) or
            (n,).
        missing: Words for gaps in a text file beside the usual ones, such as ``"?"``.
        kinds: Kinds of columns of a text file, by name: cells of other kinds than "number" stay the
            text that they are. Types of other columns are found.

    Returns:
        The table.

    Raises:
        DataError: The file is missing, unreadable, broken or of an unknown format; it has no rows
            or no columns, or two columns of one name; or a column mixes numbers with words.
    """
    path = Path(path)
    ending = ending_of(path)
    try:
        if not path.exists():
            raise DataError(f"there is no file '{path}'; check the path")
        if ending not in ENDINGS:
            has = f"the ending '{path.suffix}'" if path.suffix else "no ending"
            raise DataError(f"'{path}' has {has}; a table is one of {', '.join(ENDINGS)}")
        require_file(path)
        if path.stat().st_size == 0:
            raise DataError(f"'{path}' is empty; give a file with rows")
        if ending == ".parquet":
            return _read_parquet(path)
        return _read_npy(path) if ending == ".npy" else _read_text(path, missing, kinds or {})
    except OSError as error:
        raise DataError(
            f"'{path}' cannot be read: {error.strerror or error}; give another file"
        ) from error


def require_size(what: str, num_rows: int, num_columns: int) -> None:
    """Refuses a table that is too large or empty.

    Args:
        what: Its name in errors.
        num_rows: Its number of rows.
        num_columns: Its number of columns.
    """
    if num_columns > MOST_COLUMNS or num_rows * num_columns > MOST_VALUES:
        raise DataError(
            f"{what} has {num_rows:,} rows of {num_columns:,} columns; a table has at most "
            f"{MOST_COLUMNS:,} columns and {MOST_VALUES:,} values"
        )
    if num_rows == 0 or num_columns == 0:
        raise DataError(f"{what} has no {'rows' if num_columns else 'columns'}; give at least one")


def require_distinct(what: str, names: Sequence[object]) -> None:
    """Refuses equal names of columns.

    Args:
        what: Name of the table in errors.
        names: Names of its columns.
    """
    repeated = pd.Series([str(name) for name in names], dtype=object)
    if (twice := repeated[repeated.duplicated()]).size:
        raise DataError(f"{what} has two columns of the same name: '{twice.iloc[0]}'; rename one")


def _read_text(path: Path, missing: Sequence[str], kinds: Mapping[str, Kind]) -> FrameFile:
    """Reads a file of separated cells."""
    content = path.read_bytes()
    text = (_unpacked(path) if ending_of(path) == ".csv.gz" else content).removeprefix(_UTF8)
    try:
        text.decode()
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise DataError(f"'{path}' is not UTF-8 text (line {line}); save it as UTF-8") from error
    if b"\0" in text:
        raise DataError(f"'{path}' is not a text file (it holds zero bytes); save it as CSV")
    # The first lines, in which values between quotation marks may have line breaks.
    found = (line[0] for line in re.finditer(rb'(?:[^"\r\n]+|"[^"]*")+', text))
    lines = list(islice((line for line in found if line.strip()), 2))
    if not lines:
        raise DataError(f"'{path}' is empty; give a file with rows")
    delimiter = "\t" if ending_of(path) == ".tsv" else _delimiter(lines)
    names = list(_numbered(_num_cells(lines[0], delimiter)))
    require_size(f"'{path}'", 1, len(names))
    columns = _split(path, text, delimiter, names)
    first = [column[0].as_py().strip() for column in columns]
    if _are_header(first):
        names = [cell or number for cell, number in zip(first, names, strict=True)]
        columns = [column.slice(1) for column in columns]
    elif not all(map(is_number, first)):
        logger.warning(
            "'%s' has a first line with numbers, so it is a row and no names; if it has names, "
            "write all of them as words",
            path,
        )
    require_distinct(f"'{path}'", names)
    require_size(f"'{path}'", len(columns[0]), len(columns))
    commas = delimiter != ","
    # One column after the other, so that little is in memory twice.
    cells = {
        name: _framed(typed(path, name, columns.pop(0), kinds.get(name), missing, commas))
        for name in names
    }
    return FrameFile(path, hashlib.sha256(content).hexdigest(), pd.DataFrame(cells))


def _are_header(first: Sequence[str]) -> bool:
    """Whether the first cells of columns are names: none is a number, or three count up."""
    numbers = [cell for cell in first if is_number(cell)]
    whole = [int(cell) for cell in numbers if re.fullmatch(r"[0-9]{1,9}", cell)]
    steps = {after - before for before, after in pairwise(whole)}
    counted = len(whole) >= _FEWEST_COUNTED and len(steps) == 1 and steps != {0}
    return not numbers or (counted and len(whole) == len(numbers) < len(first))


def _framed(column: pa.ChunkedArray) -> pd.Series:
    """Makes a column for pandas: whole numbers and truth values with gaps get nullable dtypes."""
    nullable = column.null_count and column.type in _NULLABLE
    return column.to_pandas(types_mapper=_NULLABLE.get if nullable else None)


def _unpacked(path: Path) -> bytes:
    """Unpacks a gzip file."""
    try:
        with gzip.open(path) as file:
            text = file.read(MOST_BYTES + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"'{path}' is a broken gzip file: {error}; pack it again") from error
    if len(text) > MOST_BYTES:
        raise DataError(f"'{path}' holds more than {MOST_BYTES:,} bytes; give a Parquet file")
    return text


def _num_cells(line: bytes, delimiter: str) -> int:
    """Counts the cells of a line; separators between quotation marks are none."""
    return re.sub(rb'"[^"]*"', b"", line).count(delimiter.encode()) + 1


def _delimiter(lines: Sequence[bytes]) -> str:
    """Finds the separator that splits the first two lines into equally many cells."""
    for candidate in ";\t|":
        counts = {_num_cells(line, candidate) for line in lines}
        if len(counts) == 1 and counts != {1}:
            return candidate
    return ","


def _split(path: Path, text: bytes, delimiter: str, names: Sequence[str]) -> list[pa.ChunkedArray]:
    """Splits a file, with its first line, into columns of text.

    Raises:
        DataError: The file is broken, or a row has the wrong number of cells.
    """
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
            problem = (
                f"has the wrong number of values{where} ({row.actual_columns} for "
                f"{row.expected_columns} columns): '{shown}'; correct that line, and close its "
                "quotation marks"
            )
        raise DataError(f"'{path}' {problem}") from error


def _read_parquet(path: Path) -> FrameFile:
    """Reads a Parquet file in types that pandas knows, without unnamed indexes.

    Raises:
        DataError: Two columns have one name, or one holds lists.
    """
    try:
        schema = parquet.read_schema(path)
        require_size(f"'{path}'", parquet.read_metadata(path).num_rows, len(schema))
        table = parquet.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"'{path}' is not a readable Parquet file: {error}; write it again"
        ) from error
    written = schema.pandas_metadata or {}
    unnamed = {str(name) for name in written.get("index_columns", [])}
    fields = []
    for field in schema:
        if field.name in unnamed and re.fullmatch(_NO_NAME, field.name):
            continue
        if pa.types.is_nested(field.type):
            raise DataError(
                f"'{path}' has a column '{field.name}' of lists or the like; leave it out, or "
                "save it as numbers, text or dates"
            )
        is_decimal, is_date = pa.types.is_decimal(field.type), pa.types.is_date(field.type)
        kind = pa.float64() if is_decimal else pa.timestamp("s") if is_date else field.type
        fields.append(field.with_type(kind))
    names = [field.name for field in fields]
    require_distinct(f"'{path}'", names)
    # An index with a name is a column like others.
    about = {"pandas": json.dumps(written | {"index_columns": []})} if written else None
    table = table.select(names).cast(pa.schema(fields, about))
    if written:
        frame = table.to_pandas().set_axis(names, axis=1)
    else:
        columns = zip(names, table.columns, strict=True)
        frame = pd.DataFrame({name: _framed(column) for name, column in columns})
    return FrameFile(path, digest(path), frame)


def _read_npy(path: Path) -> FrameFile:
    content = path.read_bytes()
    try:
        array = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except Exception as error:  # a broken header raises many kinds
        raise DataError(
            f"'{path}' is not a readable NumPy array file: {error}; write it with numpy.save, "
            "without Python objects, which are not loaded because that can run code"
        ) from error
    array = array[:, None] if array.ndim == 1 else array
    if array.dtype.kind not in "fiu" or array.ndim != 2:
        raise DataError(
            f"'{path}' holds an array of type {array.dtype} and shape {array.shape}; save real "
            "numbers, in the shape (rows, columns)"
        )
    require_size(f"'{path}'", *array.shape)
    with np.errstate(over="ignore"):  # long doubles that overflow are refused as infinite
        kind = np.dtype(np.float64) if array.dtype.kind == "f" else array.dtype.newbyteorder("=")
        frame = pd.DataFrame(array.astype(kind), columns=list(_numbered(array.shape[1])))
    return FrameFile(path, hashlib.sha256(content).hexdigest(), frame)


def are_names(columns: Sequence[str]) -> bool:
    """Tells whether columns have names of their own, not those of a file without names."""
    return tuple(columns) != _numbered(len(columns))


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(f"column_{place}" for place in range(1, count + 1))


def _bundled(loader: str, left_out: tuple[str, ...] = (), **options: bool) -> pd.DataFrame:
    """Loads the continuous columns of a table of ``sklearn.datasets``, float64."""
    from sklearn import datasets

    table = getattr(datasets, loader)(**options)
    names = [str(name) for name in table.feature_names]
    frame = pd.DataFrame(np.asarray(table.data, dtype=np.float64), columns=names)
    return frame.drop(columns=list(left_out))


TABLES: Mapping[str, Callable[[], pd.DataFrame]] = {
    "iris": partial(_bundled, "load_iris"),
    "wine": partial(_bundled, "load_wine"),
    "breast-cancer": partial(_bundled, "load_breast_cancer"),
    "diabetes": partial(_bundled, "load_diabetes", left_out=("sex",), scaled=False),
}
"""Readers of scikit-learn's tables, by the name a user writes."""
