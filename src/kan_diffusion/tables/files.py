"""Tables of mixed columns: files, with every value checked and written whole, and scikit-learn's.

A table is n rows of d columns, each of numbers, text, truth values or dates, in a ``.csv``,
``.csv.gz``, ``.tsv``, ``.parquet`` or ``.npy`` file or in a folder of Parquet files. The types of
text columns follow the rules of :mod:`kan_diffusion.tables.cells`.

An error is one line that names the file, the place in it and the remedy. Parquet files are read in
pieces, so that a table need not fit in memory.

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
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import csv as arrow_csv
from pyarrow import dataset, parquet

from kan_diffusion.data.frames import ENDINGS, ending_of
from kan_diffusion.data.scaling import LARGEST
from kan_diffusion.errors import DataError, listed
from kan_diffusion.files import digest, require_file
from kan_diffusion.limits import MOST_BYTES, MOST_COLUMNS, MOST_VALUES
from kan_diffusion.tables.cells import have_names, typed, with_points

if TYPE_CHECKING:
    from kan_diffusion.tables.columns import Kind

__all__ = [
    "TABLES",
    "FrameFile",
    "are_names",
    "read_frame",
]

logger = logging.getLogger(__name__)

_EMPTY = "'{}' is empty; give a file with rows"
_NO_NAME = r"__index_level_[0-9]+__"  # of a column that is an index of pandas
_SHOWN = 5  # names listed in an error before "..."
_BATCH = 65_536  # rows that are read together
_UTF8 = b"\xef\xbb\xbf"  # may mark a text as such
_MOST_NUMBERS, _MOST_TEXTS = 64, 10_000  # most distinct values that a sample shows


@dataclass(frozen=True)
class FrameFile:
    """A table from a file, or from a folder of Parquet files.

    Attributes:
        path: The file or folder.
        sha256: Hexadecimal digest of the file's bytes; of a folder, of the list of its digests.
        columns: Name of each column; "column_1", ... where the file has no names.
        num_rows: Number of rows, at least 1.
        source: The rows, or the Parquet files that hold them.
        gaps: Columns of Parquet files with missing cells.
    """

    path: Path
    sha256: str
    columns: tuple[str, ...]
    num_rows: int
    source: pd.DataFrame | dataset.Dataset
    gaps: frozenset[str] = frozenset()

    @property
    def frame(self) -> pd.DataFrame:
        """All rows, numbered from 0; read anew from Parquet files each time."""
        if isinstance(self.source, pd.DataFrame):
            return self.source
        return _to_frame(self.source.to_table(columns=list(self.columns)), self.gaps)

    def batches(self) -> Iterator[pd.DataFrame]:
        """Yields all rows in order, 65,536 or fewer at a time."""
        if isinstance(self.source, pd.DataFrame):
            for start in range(0, self.num_rows, _BATCH):
                yield self.source.iloc[start : start + _BATCH]
        else:
            for batch in _batches(self.source, self.columns):
                yield _to_frame(batch, self.gaps)

    def take(self, rows: np.ndarray) -> pd.DataFrame:
        """Returns the rows of the given numbers.

        Args:
            rows: Numbers of the rows from 0, ascending.
        """
        if isinstance(self.source, pd.DataFrame):
            return self.source.iloc[rows].reset_index(drop=True)
        taken, start = [], 0
        for batch in _batches(self.source, self.columns):
            first, last = np.searchsorted(rows, [start, start + len(batch)])
            taken.append(batch.take(pa.array(rows[first:last] - start)))
            start += len(batch)
        return _to_frame(pa.concat_tables(taken), self.gaps)

    def sample(self, num_rows: int, generator: np.random.Generator) -> pd.DataFrame:
        """Draws rows at random, and adds those that show everything that is in a column.

        Args:
            num_rows: Number of random rows; all rows if there are no more. For each column it adds
                the first row with a gap, the rows with the smallest and the largest number or date,
                and the first row of each value, up to 64 numbers or 10,000 other values.
            generator: Source of the draws.
        """
        if num_rows >= self.num_rows:
            return self.frame
        shown: dict[str, pd.Series] = {}
        start = 0
        for batch in self.batches():
            rows = range(start, start + len(batch))
            for name in self.columns:
                cells = batch[name].set_axis(rows)
                shown[name] = _shown(pd.concat([shown[name], cells]) if start else cells)
            start += len(batch)
        drawn = generator.choice(self.num_rows, num_rows, replace=False)
        return self.take(np.unique(np.concatenate([drawn, *(one.index for one in shown.values())])))

    def named_like(self, columns: Sequence[str]) -> Self:
        """Returns the table with a model's column names if the table or the model has none.

        Raises:
            DataError: The number of columns is different.
        """
        if are_names(self.columns) and are_names(columns):
            return self
        if len(self.columns) != len(columns):
            raise DataError(
                f"'{self.path}' has {len(self.columns)} columns and the model was trained on "
                f"{len(columns)} ({', '.join(columns)}); give a file with the same columns"
            )
        names = tuple(columns)
        return replace(self, columns=names, source=self.frame.set_axis(list(names), axis=1))


def _shown(cells: pd.Series) -> pd.Series:
    """Keeps those of a column's cells, numbered by row, that show everything that is in it."""
    present, kind = cells.dropna(), pd.api.types
    number = kind.is_numeric_dtype(cells.dtype) and not kind.is_bool_dtype(cells.dtype)
    # Of more values only the first are kept: numbers have their ends, others are no categories.
    values = present.drop_duplicates()[: _MOST_NUMBERS if number else _MOST_TEXTS]
    rows = [cells.index[cells.isna()][:1], values.index]
    if len(present) and (number or kind.is_datetime64_any_dtype(cells.dtype)):
        rows.append(present.index[[int(present.argmin()), int(present.argmax())]])
    return cells.loc[np.unique(np.concatenate(rows))]


def read_frame(
    path: str | Path, missing: Sequence[str] = (), kinds: Mapping[str, Kind] | None = None
) -> FrameFile:
    """Reads and checks a table.

    Args:
        path: A ``.csv``, ``.csv.gz`` or ``.tsv`` file (UTF-8; columns separated by commas, or by
            semicolons, tabs or bars, where numbers may have decimal commas; the first line is a
            header when no cell of it is a number, or when its numbers are whole and text in it
            stands above numbers), a ``.parquet`` file, in which an index of pandas with a name is a
            column (not a range, which only counts rows), a folder of such files with the same
            columns, or a ``.npy`` file with an array of shape (n, d) or (n,).
        missing: Words for gaps in a text file beside the usual ones, such as ``"?"``.
        kinds: Kinds of columns of a text file, by name: cells of other kinds than "number" stay the
            text that they are. Types of other columns are found.

    Returns:
        The table.

    Raises:
        DataError: The file is missing, unreadable, broken or of an unknown format; it has no rows
            or no columns, or two columns of one name; a column mixes numbers with words; or a
            number is infinite or beyond 1e300.
    """
    path = Path(path)
    ending = ending_of(path)
    try:
        if path.is_dir():
            return _read_parquet(path)
        if not path.exists():
            raise DataError(f"there is no file '{path}'; check the path")
        if ending not in ENDINGS:
            has = f"the ending '{path.suffix}'" if path.suffix else "no ending"
            raise DataError(f"'{path}' has {has}; a table is one of {', '.join(ENDINGS)}")
        require_file(path)
        if path.stat().st_size == 0:
            raise DataError(_EMPTY.format(path))
        if ending == ".parquet":
            return _read_parquet(path)
        if ending == ".npy":
            return _read_npy(path)
        return _read_text(path, missing, kinds or {})
    except OSError as error:
        raise DataError(
            f"'{path}' cannot be read: {error.strerror or error}; give another file"
        ) from error


def _require_size(path: Path, num_rows: int, num_columns: int) -> None:
    """Refuses a table that is too large or empty, before it is made."""
    if num_columns == 0:
        raise DataError(f"'{path}' has no columns; give at least one")
    if num_columns > MOST_COLUMNS:
        raise DataError(
            f"'{path}' has {num_columns:,} columns; a table has at most {MOST_COLUMNS:,}"
        )
    if num_rows * num_columns > MOST_VALUES:
        raise DataError(
            f"'{path}' has {num_rows:,} rows of {num_columns:,} columns; take fewer rows, at most "
            f"{MOST_VALUES:,} values"
        )
    if num_rows == 0:
        raise DataError(f"'{path}' has no rows; give a file with rows")


def _require_finite(path: Path, table: pa.Table, start: int = 0) -> None:
    """Refuses infinite and enormous numbers; the first row has the number ``start``."""
    for name, column in zip(table.column_names, table.columns, strict=True):
        if pa.types.is_floating(column.type) and len(column):
            sizes = np.abs(column.to_numpy().astype(np.float64))
            row = int(np.argmax(sizes > LARGEST))
            if sizes[row] > LARGEST:
                what = "infinite values" if np.isinf(sizes[row]) else f"values beyond {LARGEST:g}"
                raise DataError(
                    f"'{path}' has {what} in column '{name}' (row {start + row + 1}); remove or "
                    "replace them"
                )


def _whole(path: Path, content: bytes, source: pd.DataFrame) -> FrameFile:
    sha256 = hashlib.sha256(content).hexdigest()
    return FrameFile(path, sha256, tuple(source.columns), len(source), source)


# --- text -------------------------------------------------------------------------------------


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
        raise DataError(_EMPTY.format(path))
    delimiter = "\t" if ending_of(path) == ".tsv" else _delimiter(lines)
    count = _num_cells(lines[0], delimiter)
    _require_size(path, 1, count)
    columns = _split(path, text, delimiter, count)
    names, note = _numbered(len(columns)), " (a header line has no number in any cell)"
    if have_names(columns):
        names, note = _names(path, [column[0].as_py() for column in columns]), ""
        columns = [column.slice(1) for column in columns]
    _require_size(path, len(columns[0]), len(columns))
    if delimiter != ",":
        columns = with_points(path, columns)
    # One column after the other, so that little is in memory twice.
    made = [typed(path, name, columns.pop(0), kinds.get(name), missing, note) for name in names]
    table = pa.table(made, list(names))
    _require_finite(path, table)
    gaps = frozenset(name for name in names if table[name].null_count)
    return _whole(path, content, _to_frame(table, gaps))


def _unpacked(path: Path) -> bytes:
    """Unpacks a gzip file."""
    try:
        with gzip.open(path) as file:
            text = file.read(MOST_BYTES + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"'{path}' is a broken gzip file: {error}; pack it again") from error
    if len(text) > MOST_BYTES:
        raise DataError(
            f"'{path}' holds more than {MOST_BYTES:,} bytes; give a folder of Parquet files"
        )
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


def _split(path: Path, text: bytes, delimiter: str, count: int) -> list[pa.ChunkedArray]:
    """Splits a file, with its first line, into ``count`` columns of text.

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
    names, block = list(_numbered(count)), min(len(text) + 1, 2**31 - 1)
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
        if not wrong:
            raise DataError(
                f"'{path}' is a broken CSV file: {_one_line(error)}; correct it"
            ) from error
        (row, *_), where = wrong, "" if wrong[0].number is None else f" in line {wrong[0].number}"
        shown = row.text if len(row.text) <= 40 else row.text[:37] + "..."
        raise DataError(
            f"'{path}' has the wrong number of values{where} ({row.actual_columns} for "
            f"{row.expected_columns} columns): '{shown}'; correct that line, and close its "
            "quotation marks"
        ) from error


# --- Parquet ----------------------------------------------------------------------------------


def _read_parquet(path: Path) -> FrameFile:
    """Opens a Parquet file or a folder of them, and checks all rows."""
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.rglob("*.parquet") if not file.is_dir())
        if not files:
            raise DataError(
                f"'{path}' is a folder without Parquet files; give a file ({', '.join(ENDINGS)}) "
                "or one with .parquet files"
            )
    sums = []
    for file in files:
        require_file(file)
        if file.stat().st_size == 0:
            raise DataError(_EMPTY.format(file))
        sums.append(digest(file))
    sha256 = sums[0]
    if path.is_dir():
        listed = "".join(
            f"{one}  {file.relative_to(path).as_posix()}\n"
            for one, file in zip(sums, files, strict=True)
        )
        sha256 = hashlib.sha256(listed.encode()).hexdigest()
    file = files[0]
    try:
        schemas = []
        num_rows = 0
        for file in files:
            metadata = parquet.read_metadata(file)
            schemas.append(metadata.schema.to_arrow_schema())
            num_rows += metadata.num_rows
        columns = _parquet_columns(files, schemas)
        _require_size(path, num_rows, len(columns))
        schema = _common_schema(files, schemas)
        source = dataset.dataset([str(file) for file in files], schema=schema, format="parquet")
        gaps: set[str] = set()
        start = 0
        for table in _batches(source, columns):
            gaps.update(name for name in columns if table[name].null_count)
            _require_finite(path, table, start)
            start += len(table)
    except DataError:
        raise
    except Exception as error:  # pyarrow raises many kinds for a broken file
        raise DataError(
            f"'{file}' is not a readable Parquet file: {_one_line(error)}; write it again"
        ) from error
    return FrameFile(path, sha256, columns, num_rows, source, frozenset(gaps))


def _parquet_columns(files: Sequence[Path], schemas: Sequence[pa.Schema]) -> tuple[str, ...]:
    """Lists the columns of Parquet files without those of a pandas index that has no name.

    Raises:
        DataError: Two columns have one name, files have different columns, or one holds lists.
    """
    found: list[list[str]] = []
    for file, schema in zip(files, schemas, strict=True):
        index = (schema.pandas_metadata or {}).get("index_columns", [])
        unnamed = {name for name in index if re.fullmatch(_NO_NAME, str(name))}
        found.append([name for name in schema.names if name not in unnamed])
        _require_distinct(file, found[-1])
        for name in found[-1]:
            if pa.types.is_nested(schema.field(name).type):
                raise DataError(
                    f"'{file}' has a column '{name}' of lists or the like; leave it out, or "
                    "save it as numbers, text or dates"
                )
        if sorted(found[-1]) != sorted(found[0]):
            odd = sorted(set(found[-1]) ^ set(found[0]))[0]
            raise DataError(
                f"'{file}' and '{files[0]}' have different columns ('{odd}' is in one of them); "
                "give a folder of files with the same"
            )
    return tuple(found[0])


def _common_schema(files: Sequence[Path], schemas: Sequence[pa.Schema]) -> pa.Schema:
    """Finds column types that hold the values of all files."""
    common = schemas[0]
    for file, schema in zip(files[1:], schemas[1:], strict=True):
        try:
            common = pa.unify_schemas([common, schema], promote_options="permissive")
        except pa.ArrowException as error:
            raise DataError(
                f"'{file}' and '{files[0]}' have columns of different types: {_one_line(error)}; "
                "write them alike"
            ) from error
    return common


def _batches(source: dataset.Dataset, columns: Sequence[str]) -> Iterator[pa.Table]:
    # Read little ahead: batches that wait take memory.
    for batch in source.to_batches(
        columns=list(columns), batch_size=_BATCH, batch_readahead=2, fragment_readahead=1
    ):
        yield pa.Table.from_batches([batch])


def _to_frame(table: pa.Table, gaps: frozenset[str]) -> pd.DataFrame:
    """Makes a frame with the dtypes that pandas wrote, or would choose.

    Columns of integers and truth values that have gaps, in these rows or others, get pandas'
    nullable dtypes.
    """

    def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
        if pa.types.is_decimal(column.type):
            return column.cast(pa.float64())
        return column.cast(pa.timestamp("s")) if pa.types.is_date(column.type) else column

    names = table.column_names
    made = pa.table([plain(column) for column in table.columns], names)
    metadata = table.schema.metadata or {}
    if written := metadata.get(b"pandas"):  # an index with a name is a column like others
        metadata |= {b"pandas": json.dumps(json.loads(written) | {"index_columns": []})}
    frame = made.replace_schema_metadata(metadata).to_pandas().set_axis(names, axis=1)
    for name in names:
        kind = made[name].type
        whole, truth = pa.types.is_integer(kind), pa.types.is_boolean(kind)
        numpys = isinstance(frame[name].dtype, np.dtype)
        if name in gaps and numpys and (whole or truth):
            nullable = str(kind).replace("int", "Int").replace("uI", "UI") if whole else "boolean"
            dtype = pd.api.types.pandas_dtype(nullable)
            frame[name] = made[name].to_pandas(types_mapper={kind: dtype}.get)
    return frame


# --- arrays -----------------------------------------------------------------------------------


def _read_npy(path: Path) -> FrameFile:
    content = path.read_bytes()
    if not content.startswith(np.lib.format.MAGIC_PREFIX):
        raise DataError(f"'{path}' is not a NumPy array file; write it with numpy.save")
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except Exception as error:  # a broken header raises many kinds
        if "object" in str(error).lower():
            raise DataError(
                f"'{path}' holds Python objects, which are not loaded because that can run code; "
                "save a float array"
            ) from error
        raise DataError(
            f"'{path}' is a broken NumPy file: {_one_line(error)}; write it again"
        ) from error
    if array.dtype.kind not in "fiu":
        raise DataError(
            f"'{path}' holds values of type {array.dtype}, not real numbers; save a float array"
        )
    if array.ndim not in (1, 2):
        raise DataError(
            f"'{path}' holds an array of shape {array.shape}; reshape it to (rows, columns)"
        )
    _require_size(path, len(array), 1 if array.ndim == 1 else array.shape[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # long doubles that overflow are refused
        values = array[:, None] if array.ndim == 1 else array
        values = values.astype(
            np.float64 if array.dtype.kind == "f" else array.dtype.newbyteorder("=")
        )
    names = list(_numbered(values.shape[1]))
    _require_finite(path, pa.table([pa.array(column) for column in values.T], names))
    return _whole(path, content, pd.DataFrame(values, columns=names))


def are_names(columns: Sequence[str]) -> bool:
    """Tells whether columns have names of their own, not those of a file without names."""
    return tuple(columns) != _numbered(len(columns))


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(f"column_{place}" for place in range(1, count + 1))


def _names(path: Path, cells: Sequence[str]) -> tuple[str, ...]:
    """Reads column names, numbered where empty, and refuses equal ones."""
    numbered = _numbered(len(cells))
    names = tuple(cell.strip() or number for cell, number in zip(cells, numbered, strict=True))
    _require_distinct(path, names)
    return names


def _require_distinct(path: Path, names: Iterable[str]) -> None:
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        quoted = listed((f"'{name}'" for name in repeated), _SHOWN)
        raise DataError(f"'{path}' has columns of the same name: {quoted}; rename them")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


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
