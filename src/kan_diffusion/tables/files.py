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

import csv
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
from typing import Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv
from pyarrow import dataset, parquet

from kan_diffusion.data.scaling import LARGEST
from kan_diffusion.errors import DataError, KanDiffusionError, listed
from kan_diffusion.files import digest, require_file, whole_file
from kan_diffusion.limits import MOST_BYTES, MOST_COLUMNS, MOST_VALUES
from kan_diffusion.tables.cells import NUMBER, are_names_of_numbers, typed, with_points

__all__ = [
    "TABLES",
    "FrameFile",
    "are_names",
    "read_frame",
    "require_writable_ending",
    "write_frame",
]

logger = logging.getLogger(__name__)

_EMPTY = "'{}' is empty; give a file with rows"
_NO_NAME = r"__index_level_[0-9]+__"  # of a column that is an index of pandas
_SHOWN = 5  # rows and columns listed in an error before "..."
_BATCH = 65_536  # rows that are read together
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


def read_frame(path: str | Path) -> FrameFile:
    """Reads and checks a table.

    Args:
        path: A ``.csv``, ``.csv.gz`` or ``.tsv`` file (UTF-8; columns separated by commas, or by
            semicolons, tabs or bars, where numbers may have decimal commas; the first line is a
            header when no cell of it is a number, or when its numbers are whole and text in it
            stands above numbers, or two of them stand above text), a ``.parquet`` file, in which an
            index of pandas with a name is a column (not a range, which only counts rows), a folder
            of such files with the same columns, or a ``.npy`` file with an array of shape (n, d) or
            (n,).

    Returns:
        The table.

    Raises:
        DataError: The file is missing, unreadable, broken or of an unknown format; it has no rows
            or no columns, two columns of one name, or a column of an unsupported type; a column
            mixes numbers or dates with text; or a number is infinite or beyond 1e300.
    """
    path = Path(path)
    reader = _READERS.get(_ending(path))
    try:
        if path.is_dir():
            return _read_parquet(path)
        if not path.exists():
            raise DataError(f"there is no file '{path}'; check the path")
        if reader is None:
            ending = f"the ending '{path.suffix}'" if path.suffix else "no ending"
            raise DataError(f"'{path}' has {ending}; a table is one of {_KNOWN}")
        require_file(path)
        if path.stat().st_size == 0:
            raise DataError(_EMPTY.format(path))
        return reader(path)
    except OSError as error:
        raise DataError(
            f"'{path}' cannot be read: {error.strerror or error}; give another file"
        ) from error


def _ending(path: Path) -> str:
    """Returns the ending of a file's name in lower case, with both parts of ``.csv.gz``."""
    endings = [part.lower() for part in path.suffixes[-2:]]
    return ".csv.gz" if endings == [".csv", ".gz"] else endings[-1] if endings else ""


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


def _require_finite(path: Path, tables: Iterable[pa.Table], place: Callable[[int], str]) -> None:
    """Refuses infinite and enormous numbers; ``place`` names a row, counted from 0."""
    rows: list[int] = []
    names: dict[str, None] = {}
    start, infinite = 0, False
    for table in tables:
        wrong = np.zeros(len(table), dtype=bool)
        for name, column in zip(table.column_names, table.columns, strict=True):
            if not pa.types.is_floating(column.type) or column.null_count == len(column):
                continue
            values = column.cast(pa.float64())
            low, high = pc.min_max(values).as_py().values()
            if max(abs(low), abs(high)) <= LARGEST:
                continue
            sizes = np.abs(values.to_numpy())
            if (sizes > LARGEST).any():
                names[name] = None
                infinite |= bool(np.isinf(sizes).any())
                wrong |= sizes > LARGEST
        rows += (start + np.flatnonzero(wrong)).tolist()
        start += len(table)
    if rows:
        what = "infinite values" if infinite else f"values beyond {LARGEST:g}"
        remedy = "remove or replace them" if infinite else "rescale them"
        ending = "s" if len(rows) > 1 else ""
        places = [place(row) for row in rows[: _SHOWN + 1]]
        numbers = listed((where.split()[1] for where in places), _SHOWN)
        raise DataError(
            f"'{path}' has {what} in {len(rows)} row{ending} ({places[0].split()[0]}{ending} "
            f"{numbers}; {_quoted(names)}); {remedy}"
        )


def _whole(path: Path, content: bytes, source: pd.DataFrame) -> FrameFile:
    sha256 = hashlib.sha256(content).hexdigest()
    return FrameFile(path, sha256, tuple(source.columns), len(source), source)


# --- text -------------------------------------------------------------------------------------


def _read_text(path: Path, delimiter: str | None = None, packed: bool = False) -> FrameFile:
    """Reads a file of separated cells; the delimiter is detected when None."""
    content = path.read_bytes()
    text = _unpacked(path, content) if packed else content
    _require_text(path, text)
    delimiter = delimiter or _delimiter(text)
    first = next(_records(path, text, delimiter), None)
    if first is None:
        raise DataError(_EMPTY.format(path))
    skipped, cells = first
    _require_size(path, 1, len(cells))
    header = not any(re.match(NUMBER, cell.replace(",", ".").strip()) for cell in cells)
    names = _names(path, cells) if header else _numbered(len(cells))

    def place(row: int) -> str:
        """Names the line in which a row ends."""
        records = _records(path, text, delimiter)
        return f"line {next(islice(records, row + header, None))[0]}"

    columns = _split_quickly(text, delimiter, names, skipped if header else 0)
    if columns is None:
        columns = _split(path, text, delimiter, names, header)
    if delimiter != ",":
        columns = with_points(path, columns, delimiter)
    if not header and (header := are_names_of_numbers(cells, columns)):
        names, columns = _names(path, cells), [column.slice(1) for column in columns]
        logger.warning(
            "'%s': the first line is read as names, although some are numbers, since text in it "
            "stands above numbers, or numbers above text",
            path,
        )
    _require_size(path, len(columns[0]), len(columns))
    note = "" if header else " (a header line has no number in any cell)"
    # One column after the other, so that little is in memory twice.
    table = pa.table([typed(path, name, columns.pop(0), place, note) for name in names], names)
    _require_finite(path, [table], place)
    gaps = frozenset(name for name in names if table[name].null_count)
    return _whole(path, content, _to_frame(table, gaps))


def _unpacked(path: Path, content: bytes) -> bytes:
    """Unpacks the content of a gzip file."""
    parts = []
    room, rest = MOST_BYTES, content
    try:
        while rest:
            member = zlib.decompressobj(wbits=31)
            parts.append(member.decompress(rest, room))
            room -= len(parts[-1])
            if member.unconsumed_tail:
                raise DataError(
                    f"'{path}' holds more than {MOST_BYTES:,} bytes; give a folder of Parquet files"
                )
            if not member.eof:
                raise zlib.error("it is cut")
            rest = member.unused_data
    except zlib.error as error:
        raise DataError(f"'{path}' is a broken gzip file: {error}; pack it again") from error
    return b"".join(parts)


def _require_text(path: Path, text: bytes) -> None:
    if not re.search(rb"\S", text.removeprefix(b"\xef\xbb\xbf")):
        raise DataError(_EMPTY.format(path))
    try:
        text.decode()
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise DataError(f"'{path}' is not UTF-8 text (line {line}); save it as UTF-8") from error
    if b"\0" in text:
        raise DataError(f"'{path}' is not a text file (it holds zero bytes); save it as CSV")


def _lines(text: bytes, newline: str | None) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(text), "utf-8-sig", newline=newline)


def _delimiter(text: bytes) -> str:
    """Finds the separator that splits the first two lines into equally many cells."""
    lines = list(islice((line for line in _lines(text, None) if line.strip()), 2))
    for candidate in ";\t|":
        try:
            counts = {len(cells) for cells in csv.reader(lines, delimiter=candidate)}
        except csv.Error:  # with this separator a value is too long
            continue
        if len(counts) == 1 and counts != {1}:
            return candidate
    return ","


def _records(path: Path, text: bytes, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yields the last line of each row that is not blank, and its cells.

    Raises:
        DataError: The file is broken.
    """
    reader = csv.reader(_lines(text, ""), delimiter=delimiter, skipinitialspace=True, strict=True)
    begun = 0  # lines before the row that is read
    try:
        for cells in reader:
            begun = reader.line_num
            if len(cells) > 1 or (cells and cells[0].strip()):
                yield begun, cells
    except csv.Error as error:
        raise DataError(
            f"'{path}' is a broken CSV file: {_opened(text, begun, str(error))}"
        ) from error


def _opened(text: bytes, begun: int, error: str) -> str:
    """Explains the error in the row that follows ``begun`` lines, and names its line."""
    rest = "".join(islice(_lines(text, ""), begun, None))
    # Text between quotation marks, closed or not, where a value may begin.
    for value in re.finditer(r'(?:^|[,;\t|\r\n]) *"((?:[^"]|"")*)("?)', rest):
        if not value[2]:
            line = begun + 1 + len(re.findall(r"\r\n?|\n", rest[: value.start(1)]))
            return f"a quotation mark is opened in line {line} and never closed; close it"
    return f"line {begun + 1}: {error}; correct that line"


def _split_quickly(
    text: bytes, delimiter: str, names: Sequence[str], skipped: int
) -> list[pa.ChunkedArray] | None:
    """Splits a file into columns of text; None if it has quotation marks or a line does not fit.

    ``skipped`` lines come before the rows.
    """
    if b'"' in text:
        return None
    try:
        table = arrow_csv.read_csv(
            pa.BufferReader(text),
            arrow_csv.ReadOptions(column_names=list(names), skip_rows=skipped),
            arrow_csv.ParseOptions(delimiter=delimiter, quote_char=False),
            arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), null_values=[]
            ),
        )
    except pa.ArrowException:
        return None
    return list(table.columns)


def _split(
    path: Path, text: bytes, delimiter: str, names: Sequence[str], header: bool
) -> list[pa.ChunkedArray]:
    """Splits a file into columns of text.

    Raises:
        DataError: The file is broken, or a row has the wrong number of cells.
    """
    parts: list[list[pa.Array]] = [[] for _ in names]
    records = islice(_records(path, text, delimiter), int(header), None)
    while part := list(islice(records, _BATCH)):
        for line, cells in part:
            if len(cells) != len(names):
                raise DataError(
                    f"'{path}' has the wrong number of values in line {line} ({len(cells)} for "
                    f"{len(names)} columns); correct that line"
                )
        columns = zip(*(cells for _, cells in part), strict=True)
        for made, column in zip(parts, columns, strict=True):
            made.append(pa.array(column, pa.string()))
    return [pa.chunked_array(part, pa.string()) for part in parts]


# --- Parquet ----------------------------------------------------------------------------------


def _read_parquet(path: Path) -> FrameFile:
    """Opens a Parquet file or a folder of them, and checks all rows."""
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.rglob("*.parquet") if not file.is_dir())
        if not files:
            raise DataError(
                f"'{path}' is a folder without Parquet files; give a file ({_KNOWN}) or one "
                "with .parquet files"
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

        def seen() -> Iterator[pa.Table]:
            for table in _batches(source, columns):
                gaps.update(name for name in columns if table[name].null_count)
                yield table

        _require_finite(path, seen(), lambda row: f"row {row + 1}")
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
        DataError: Two columns have one name, files have different columns, or a column has an
            unsupported type.
    """
    found: list[list[str]] = []
    for file, schema in zip(files, schemas, strict=True):
        index = (schema.pandas_metadata or {}).get("index_columns", [])
        unnamed = {name for name in index if re.fullmatch(_NO_NAME, str(name))}
        found.append([name for name in schema.names if name not in unnamed])
        _require_distinct(file, found[-1])
        for name in found[-1]:
            kind = schema.field(name).type
            inner = kind.value_type if pa.types.is_dictionary(kind) else kind
            if not any(is_kind(inner) for is_kind in (
                pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal,
                pa.types.is_boolean, pa.types.is_string, pa.types.is_large_string,
                pa.types.is_date, pa.types.is_timestamp, pa.types.is_null,
            )):  # fmt: skip
                raise DataError(
                    f"'{file}' has a column '{name}' of type {inner}; leave it out, or save it as "
                    "numbers, text or dates"
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
    names = _numbered(values.shape[1])
    columns = pa.table([pa.array(column) for column in values.T], list(names))
    _require_finite(path, [columns], lambda row: f"row {row + 1}")
    return _whole(path, content, pd.DataFrame(values, columns=list(names)))


_READERS: dict[str, Callable[[Path], FrameFile]] = {
    ".csv": _read_text,
    ".csv.gz": partial(_read_text, packed=True),
    ".tsv": partial(_read_text, delimiter="\t"),
    ".parquet": _read_parquet,
    ".npy": _read_npy,
}
_KNOWN = ", ".join(_READERS)


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
        raise DataError(f"'{path}' has columns of the same name: {_quoted(repeated)}; rename them")


def _quoted(names: Iterable[str]) -> str:
    return listed((f"'{name}'" for name in names), _SHOWN)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def require_writable_ending(path: Path) -> None:
    """Checks that a table can be written to a file of this name.

    Raises:
        KanDiffusionError: The ending is unknown.
    """
    if _ending(path) not in _READERS:
        raise KanDiffusionError(f"cannot write rows to '{path}': the ending must be {_KNOWN}")


def write_frame(path: Path, frame: pd.DataFrame) -> None:
    """Writes a table to a file, whole or not at all.

    :func:`read_frame` reads the same values back, and from Parquet the same dtypes (but dates in
    milliseconds if they were in seconds). Text files cannot tell a text such as "1" or "None" from
    a number or a gap, nor numbers as names of columns from a row.

    Args:
        path: A .csv, .csv.gz, .tsv, .parquet or .npy file.
        frame: The table; a .npy file takes only numbers, without names.

    Raises:
        KanDiffusionError: The ending is unknown, or text or dates are to go into a .npy file.
        RunFolderError: The file cannot be written.
    """
    require_writable_ending(path)
    ending = _ending(path)
    if ending == ".npy":
        for name, dtype in frame.dtypes.items():
            if not pd.api.types.is_numeric_dtype(dtype):
                raise KanDiffusionError(
                    f"cannot write column '{name}' to '{path}', which takes numbers only; choose "
                    "another ending"
                )
    with whole_file(path) as temporary, temporary.open("wb") as file:
        if ending == ".parquet":
            frame.to_parquet(file, index=False)
        elif ending == ".npy":
            np.save(file, _numeric_array(frame), allow_pickle=False)
        else:
            packed = ending == ".csv.gz"
            with gzip.GzipFile("", "wb", fileobj=file, mtime=0) if packed else file as text:
                frame.to_csv(
                    text,
                    index=False,
                    sep="\t" if ending == ".tsv" else ",",
                    na_rep="NA" if frame.shape[1] == 1 else "",  # an empty line is no row
                )


def _numeric_array(frame: pd.DataFrame) -> np.ndarray:
    integers = all(pd.api.types.is_integer_dtype(kind) for kind in frame.dtypes)
    if integers and not frame.isna().to_numpy().any():
        return frame.to_numpy(dtype=np.int64)
    return frame.to_numpy(dtype=np.float64, na_value=np.nan)


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
