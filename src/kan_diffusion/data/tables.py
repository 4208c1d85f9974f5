"""Tables of numbers from files, checked in full before anything is done with them.

A table is n rows of d finite numbers, no column constant. ``.csv`` (with or without a header
line), ``.parquet`` and ``.npy`` are read; whatever is wrong with a file is said in one line that
names the file, the place in it and the remedy.
"""

from __future__ import annotations

import csv
import hashlib
import io
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from pathlib import Path

import numpy as np
import pandas as pd

from kan_diffusion.errors import DataError

__all__ = ["Table", "are_names", "read_table"]

EMPTY = "'{}' is empty; give a file with at least two rows of numbers"
SHOWN = 5  # rows and columns listed in an error before "..."
LARGEST = float(np.finfo(np.float32).max)  # networks compute in float32


@dataclass(frozen=True)
class Table:
    """Numbers from a file.

    Attributes:
        values: Shape (n, d), float64, finite, n at least 2.
        columns: Name of each column; "column_1", ... where the file has no names.
        sha256: Hexadecimal digest of the file's bytes.
        path: The file.
    """

    values: np.ndarray
    columns: tuple[str, ...]
    sha256: str
    path: Path


@dataclass(frozen=True)
class _Raw:
    """What a file holds before it is checked: numbers, names, and how to point at a row."""

    values: np.ndarray  # (n, d) float64, NaN where the file has nothing
    columns: tuple[str, ...]
    row_word: str  # "row" or "line"
    row_numbers: np.ndarray  # (n,), as a person counts them


def read_table(path: str | Path) -> Table:
    """Reads and checks a table of numbers.

    Args:
        path: A ``.csv`` file (UTF-8, separated by commas; the first line is a header when no cell
            of it is a number), a ``.parquet`` file, or a ``.npy`` file with an array of shape
            (n, d) or (n,).

    Raises:
        DataError: The file is missing, unreadable, broken or of an unknown kind; it has fewer than
            two rows; a value is not a number, is missing, NaN or infinite, or too large for
            float32; or a column is constant.
    """
    path = Path(path)
    reader = READERS.get(path.suffix.lower())
    if path.is_dir():
        raise DataError(f"'{path}' is a folder; give a file in it ({_known()})")
    if not path.exists():
        raise DataError(f"there is no file '{path}'; check the path")
    if reader is None:
        ending = f"the ending '{path.suffix}'" if path.suffix else "no ending"
        raise DataError(f"'{path}' has {ending}; a table is one of {_known()}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error.strerror or error}") from error
    if not content.strip():
        raise DataError(EMPTY.format(path))
    raw = reader(path, content)
    _check(path, raw)
    return Table(raw.values, raw.columns, hashlib.sha256(content).hexdigest(), path)


def _check(path: Path, raw: _Raw) -> None:
    num_rows, num_columns = raw.values.shape
    if num_columns == 0:
        raise DataError(f"'{path}' has no columns; give at least one column of numbers")
    if num_rows < 2:
        count = "no rows" if num_rows == 0 else "a single row"
        raise DataError(f"'{path}' has {count} of numbers; at least two are needed")
    for refused, problem, remedy in (
        (~np.isfinite(raw.values), "missing, NaN or infinite values", "remove or fill them"),
        (np.abs(raw.values) > LARGEST, "values beyond the range of float32 (3.4e38)", "rescale"),
    ):
        if refused.any():
            rows = refused.any(axis=1)
            where = _listed([str(number) for number in raw.row_numbers[rows]])
            names = _listed(_quoted(np.array(raw.columns)[refused.any(axis=0)]))
            counted = f"{rows.sum()} row{'s' if rows.sum() > 1 else ''}"
            word = raw.row_word + ("s" if rows.sum() > 1 else "")
            raise DataError(
                f"'{path}' has {problem} in {counted} ({word} {where}; {names}); {remedy}"
            )
    constant = raw.values.max(axis=0) == raw.values.min(axis=0)
    if constant.any():
        names = _listed(_quoted(np.array(raw.columns)[constant]))
        raise DataError(f"'{path}' has constant columns: {names}; leave them out")


def _read_csv(path: Path, content: bytes) -> _Raw:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"'{path}' is not UTF-8 text (line {line}); save it as UTF-8") from error
    if not text.strip():
        raise DataError(EMPTY.format(path))
    if "\0" in text:
        raise DataError(f"'{path}' is not a text file (it holds zero bytes); save it as CSV")
    stream = io.StringIO(text, newline="")
    start = skipped = 0
    while not stream.readline().strip():  # blank lines at the top
        start, skipped = stream.tell(), skipped + 1
    stream.seek(start)
    lines = csv.reader(stream)
    try:
        first = next(lines)
    except csv.Error as error:
        raise DataError(f"'{path}' is a broken CSV file (line {skipped + 1}): {error}") from error
    header = not any(_is_number(cell) for cell in first)
    columns = _names(path, first) if header else _numbered(len(first))
    if header:
        skipped += lines.line_num
    else:
        stream.seek(start)
    try:
        # A float dtype parses in C; text in a cell is an error that the slow way then locates.
        frame = pd.read_csv(
            stream, header=None, skip_blank_lines=False, skipinitialspace=True, dtype=np.float64
        )
    except pd.errors.EmptyDataError:
        frame = pd.DataFrame(np.empty((0, len(columns))))
    except (ValueError, OverflowError) as error:
        found = _first_bad_cell(path, text, skipped, columns, header)
        raise found or DataError(
            f"'{path}' is a broken CSV file: {_one_line(error)}; write it again"
        ) from error
    looks_binary = bool(frame.isin([0, 1]).all().any())  # True and False are read as 1 and 0
    if len(frame) and (frame.shape[1] != len(columns) or looks_binary):
        found = _first_bad_cell(path, text, skipped, columns, header)
        if found is not None:
            raise found
    values = frame.to_numpy(dtype=np.float64, copy=True)  # one column's own are not writable
    numbers = np.arange(len(values)) + skipped + 1
    nothing = np.flatnonzero(np.isnan(values).all(axis=1))
    if nothing.size:  # a blank line is no row; a line of empty cells is one, and is refused later
        written = io.StringIO(text, newline="").readlines()
        blank = [row for row in nothing if not written[numbers[row] - 1].strip()]
        values, numbers = np.delete(values, blank, axis=0), np.delete(numbers, blank)
    return _Raw(values, columns, "line", numbers)


def _first_bad_cell(
    path: Path, text: str, skipped: int, columns: Sequence[str], header: bool
) -> DataError | None:
    """The error for the first cell that is no number or line of another length, if there is one."""
    lines = csv.reader(io.StringIO(text, newline=""))
    try:
        for cells in lines:
            if lines.line_num <= skipped or not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(columns):
                return DataError(
                    f"'{path}' has the wrong number of values in line {lines.line_num} "
                    f"({len(cells)} for {len(columns)} columns); correct that line"
                )
            for name, cell in zip(columns, cells, strict=True):
                if cell.strip().lower() not in MISSING and not _is_number(cell):
                    hint = "replace it by a number or leave the column out"
                    if len(columns) == 1 and (";" in cell or "\t" in cell):
                        hint = "separate the columns by commas"
                    elif not header and lines.line_num == skipped + 1:
                        hint += " (a header line has no number in any cell)"
                    return DataError(
                        f"'{path}' is not numeric: column '{name}', line {lines.line_num} "
                        f"holds '{_short(cell)}'; {hint}"
                    )
    except csv.Error as problem:
        return DataError(f"'{path}' is a broken CSV file (line {lines.line_num}): {problem}")
    return None


def _read_parquet(path: Path, content: bytes) -> _Raw:
    try:
        frame = pd.read_parquet(io.BytesIO(content))
    except Exception as error:  # pyarrow raises many kinds for a broken file
        raise DataError(
            f"'{path}' is not a readable Parquet file: {_one_line(error)}; write it again"
        ) from error
    columns = _names(path, [str(name) for name in frame.columns])
    series = [_float_column(path, name, frame.iloc[:, place]) for place, name in enumerate(columns)]
    values = np.stack(series, axis=1) if series else np.empty((len(frame), 0))
    return _Raw(values, columns, "row", np.arange(1, len(values) + 1))


def _float_column(path: Path, name: str, column: pd.Series) -> np.ndarray:
    """One Parquet column as float64, NaN where it has no value."""
    kind = column.dtype
    if pd.api.types.is_numeric_dtype(kind) and not (
        pd.api.types.is_bool_dtype(kind) or pd.api.types.is_complex_dtype(kind)
    ):
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    present = column.dropna()
    for row, value in zip(np.flatnonzero(column.notna()), present, strict=True):
        if not _is_real(value):
            raise DataError(
                f"'{path}' is not numeric: column '{name}', row {row + 1} holds "
                f"'{_short(str(value))}'; replace it by a number or leave the column out"
            )
    values = np.full(len(column), np.nan)
    values[column.notna().to_numpy()] = [float(value) for value in present]
    return values


def _read_npy(path: Path, content: bytes) -> _Raw:
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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # long doubles that overflow are refused
        values = array[:, None] if array.ndim == 1 else array
        values = values.astype(np.float64)
    return _Raw(values, _numbered(values.shape[1]), "row", np.arange(1, len(values) + 1))


READERS: dict[str, Callable[[Path, bytes], _Raw]] = {
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".npy": _read_npy,
}
MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "<na>", "-nan", "#n/a"})


def _known() -> str:
    return ", ".join(READERS)


def are_names(columns: Sequence[str]) -> bool:
    """Whether columns have names of their own, and not the numbers a file without names gets."""
    return tuple(columns) != _numbered(len(columns))


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(f"column_{place}" for place in range(1, count + 1))


def _names(path: Path, cells: Sequence[str]) -> tuple[str, ...]:
    """Column names, numbered where empty.

    Raises:
        DataError: Two columns have the same name.
    """
    numbered = _numbered(len(cells))
    names = tuple(cell.strip() or number for cell, number in zip(cells, numbered, strict=True))
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(
            f"'{path}' has columns of the same name: {_listed(_quoted(repeated))}; rename them"
        )
    return names


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell  # Python reads 1_000 as a number, other programs do not


def _is_real(value: object) -> bool:
    is_truth = isinstance(value, bool | np.bool_)
    return isinstance(value, Real | Decimal) and not is_truth


def _quoted(names: Iterable[str]) -> list[str]:
    return [f"'{name}'" for name in names]


def _listed(items: Sequence[str]) -> str:
    return ", ".join(items[:SHOWN]) + (", ..." if len(items) > SHOWN else "")


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 40 else text[:37] + "..."


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
