"""Tables of numbers: files read with every value checked and written whole, and scikit-learn's.

A table is n rows of d finite numbers, no column constant, in a ``.csv``, ``.parquet`` or ``.npy``
file. An error is one line that names the file, the place in it and the remedy.

``TABLES`` are real measurements that come with scikit-learn and need no network: continuous columns
in their own units and under their own names, rounded as they were written down. What each is
usually made to predict, a class or the course of a disease, is left out.

* ``iris``: 150 flowers, 4 lengths and widths (Fisher 1936; Anderson 1935);
* ``wine``: 178 wines, 13 chemical measurements (Forina et al. 1988, PARVUS);
* ``breast-cancer``: 569 tumours, 30 measurements of cell nuclei (Street, Wolberg and Mangasarian
  1993);
* ``diabetes``: 442 patients, age and 8 measurements without the column ``sex`` (Efron et al. 2004,
  "Least angle regression").
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from numbers import Real
from pathlib import Path

import numpy as np
import pandas as pd

from kan_diffusion.data.scaling import LARGEST
from kan_diffusion.errors import DataError, KanDiffusionError
from kan_diffusion.files import require_file, whole_file
from kan_diffusion.limits import MOST_COLUMNS, MOST_VALUES

__all__ = ["TABLES", "Table", "are_names", "read_table", "require_writable_ending", "write_table"]

_EMPTY = "'{}' is empty; give a file with at least two rows of numbers"
_SHOWN = 5  # rows and columns listed in an error before "..."
_MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "<na>", "-nan", "#n/a"})


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
    """The content of a file before it is checked: numbers, names, and how to point at a row."""

    values: np.ndarray  # (n, d) float64, NaN where the file has nothing
    columns: tuple[str, ...]
    row_word: str  # "row" or "line"
    row_numbers: np.ndarray  # (n,), counted from 1


def read_table(path: str | Path) -> Table:
    """Reads and checks a table of numbers.

    Args:
        path: A ``.csv`` file (UTF-8; columns separated by commas, or by semicolons or tabs, where
            numbers may have decimal commas; the first line is a header when no cell of it is a
            number), a ``.parquet`` file, or a ``.npy`` file with an array of shape (n, d) or (n,).

    Returns:
        The table.

    Raises:
        DataError: The file is missing, unreadable, broken or of an unknown kind; it has fewer than
            two rows; a value is not a number, is missing, NaN or infinite, or beyond 1e300; or a
            column is constant.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    try:
        if path.is_dir():
            raise DataError(f"'{path}' is a folder; give a file in it ({_KNOWN})")
        if not path.exists():
            raise DataError(f"there is no file '{path}'; check the path")
        if reader is None:
            ending = f"the ending '{path.suffix}'" if path.suffix else "no ending"
            raise DataError(f"'{path}' has {ending}; a table is one of {_KNOWN}")
        require_file(path)
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"'{path}' cannot be read: {error.strerror or error}; give another file"
        ) from error
    if not content.strip():
        raise DataError(_EMPTY.format(path))
    raw = reader(path, content)
    _check(path, raw)
    return Table(raw.values, raw.columns, hashlib.sha256(content).hexdigest(), path)


def _require_size(path: Path, num_rows: int, num_columns: int) -> None:
    """Refuses a table that is too large or has no columns, before it is made."""
    if num_columns == 0:
        raise DataError(f"'{path}' has no columns; give at least one column of numbers")
    if num_columns > MOST_COLUMNS:
        raise DataError(
            f"'{path}' has {num_columns:,} columns; a table has at most {MOST_COLUMNS:,}"
        )
    if num_rows * num_columns > MOST_VALUES:
        raise DataError(
            f"'{path}' has {num_rows:,} rows of {num_columns:,} columns; take fewer rows, at most "
            f"{MOST_VALUES:,} values"
        )


def _check(path: Path, raw: _Raw) -> None:
    num_rows = len(raw.values)
    if num_rows < 2:
        count = "no rows" if num_rows == 0 else "a single row"
        raise DataError(f"'{path}' has {count} of numbers; at least two are needed")
    for refused, problem, remedy in (
        (~np.isfinite(raw.values), "missing, NaN or infinite values", "remove or fill them"),
        (np.abs(raw.values) > LARGEST, f"values beyond {LARGEST:g}", "rescale them"),
    ):
        if refused.any():
            rows = refused.any(axis=1)
            where = _listed([str(number) for number in raw.row_numbers[rows]])
            names = _listed(_quoted(np.array(raw.columns)[refused.any(axis=0)]))
            ending = "s" if rows.sum() > 1 else ""
            raise DataError(
                f"'{path}' has {problem} in {rows.sum()} row{ending} "
                f"({raw.row_word}{ending} {where}; {names}); {remedy}"
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
    if "\0" in text:
        raise DataError(f"'{path}' is not a text file (it holds zero bytes); save it as CSV")
    columns: tuple[str, ...] = ()
    rows: list[list[float | None]] = []
    numbers: list[int] = []
    begun = 0  # lines before the row that is read
    try:
        delimiter, decimal = _dialect(path, text)
        lines = csv.reader(
            io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True
        )
        for cells in lines:
            begun = lines.line_num
            if not "".join(cells).strip() and len(cells) < 2:  # a blank line
                continue
            parsed = [_number(cell, decimal) for cell in cells]
            if not columns:
                _require_size(path, 1, len(cells))
                header = all(number is None or math.isnan(number) for number in parsed)
                columns = _names(path, cells) if header else _numbered(len(cells))
                if header:
                    continue
            place = f"line {lines.line_num}"
            if len(cells) != len(columns):
                raise DataError(
                    f"'{path}' has the wrong number of values in {place} ({len(cells)} for "
                    f"{len(columns)} columns); correct that line"
                )
            if None in parsed:
                column = parsed.index(None)
                note = "" if rows or header else " (a header line has no number in any cell)"
                raise _not_numeric(path, columns[column], place, cells[column], note)
            rows.append(parsed)
            numbers.append(lines.line_num)
    except csv.Error as error:
        raise DataError(
            f"'{path}' is a broken CSV file: {_opened(text, begun, str(error))}"
        ) from error
    if not columns:
        raise DataError(_EMPTY.format(path))
    values = np.array(rows, dtype=np.float64).reshape(len(rows), len(columns))
    return _Raw(values, columns, "line", np.array(numbers))


def _opened(text: str, begun: int, error: str) -> str:
    """What is wrong with the row after some lines of a CSV file, and in which line."""
    rest = "".join(io.StringIO(text, newline="").readlines()[begun:])
    # What is between quotation marks, closed or not, where a value may begin.
    for value in re.finditer(r'(?:^|[,;\t\r\n]) *"((?:[^"]|"")*)("?)', rest):
        if not value[2]:
            line = begun + 1 + len(re.findall(r"\r\n?|\n", rest[: value.start(1)]))
            return f"a quotation mark is opened in line {line} and never closed; close it"
    return f"line {begun + 1}: {error}; correct that line"


def _dialect(path: Path, text: str) -> tuple[str, str]:
    """Finds the separator that cuts the first two lines into equally many columns.

    Returns:
        The separator of columns, and that of decimals.

    Raises:
        DataError: Commas may separate decimals or thousands.
    """
    lines = [line for line in text.splitlines() if line.strip()][:2]
    delimiter = ","
    for candidate in ";\t":
        try:
            counts = {len(cells) for cells in csv.reader(lines, delimiter=candidate)}
        except csv.Error:  # a value that is too long, if this were the separator
            continue
        if len(counts) == 1 and counts != {1}:
            delimiter = candidate
            break
    body = text.partition("\n")[2]
    if delimiter == "," or "." in body:
        return delimiter, "."
    numbers = [cell for cell in re.split(rf"[{delimiter}\s\"]+", body) if "," in cell]
    if numbers and all(re.fullmatch(r"[+-]?[1-9]\d{0,2}(,\d{3})+", number) for number in numbers):
        raise DataError(
            f"'{path}' separates columns by '{delimiter}' and has numbers such as '{numbers[0]}', "
            "where the comma may mark decimals or thousands; write them with decimal points"
        )
    return delimiter, ","


def _number(cell: str, decimal: str) -> float | None:
    """The number in a cell, NaN where it says that there is none; None for any other text."""
    if "_" in cell:  # Python reads 1_000 as a number, other programs do not
        return None
    try:
        return float(cell.replace(decimal, "."))
    except ValueError:
        return math.nan if cell.strip().lower() in _MISSING else None


def _not_numeric(path: Path, column: str, place: str, value: str, note: str = "") -> DataError:
    text = " ".join(value.split())
    shown = text if len(text) <= 40 else text[:37] + "..."
    return DataError(
        f"'{path}' is not numeric: column '{column}', {place} holds '{shown}'; replace it by a "
        f"number or leave the column out{note}"
    )


def _read_parquet(path: Path, content: bytes) -> _Raw:
    from pyarrow import parquet

    try:
        head = parquet.read_metadata(io.BytesIO(content))
        _require_size(path, head.num_rows, head.num_columns)
        frame = pd.read_parquet(io.BytesIO(content))
    except DataError:
        raise
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
        if isinstance(value, bool | np.bool_) or not isinstance(value, Real | Decimal):
            raise _not_numeric(path, name, f"row {row + 1}", str(value))
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
    _require_size(path, len(array), 1 if array.ndim == 1 else array.shape[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # long doubles that overflow are refused
        values = array[:, None] if array.ndim == 1 else array
        values = values.astype(np.float64)
    return _Raw(values, _numbered(values.shape[1]), "row", np.arange(1, len(values) + 1))


_READERS: dict[str, Callable[[Path, bytes], _Raw]] = {
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".npy": _read_npy,
}
_KNOWN = ", ".join(_READERS)


def are_names(columns: Sequence[str]) -> bool:
    """Tells whether columns have names of their own, and not the numbers of a file without."""
    return tuple(columns) != _numbered(len(columns))


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(f"column_{place}" for place in range(1, count + 1))


def _names(path: Path, cells: Sequence[str]) -> tuple[str, ...]:
    """Column names, numbered where empty; two that are equal are an error."""
    numbered = _numbered(len(cells))
    names = tuple(cell.strip() or number for cell, number in zip(cells, numbered, strict=True))
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        raise DataError(
            f"'{path}' has columns of the same name: {_listed(_quoted(repeated))}; rename them"
        )
    return names


def _quoted(names: Iterable[str]) -> list[str]:
    return [f"'{name}'" for name in names]


def _listed(items: Sequence[str]) -> str:
    return ", ".join(items[:_SHOWN]) + (", ..." if len(items) > _SHOWN else "")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def require_writable_ending(path: Path) -> None:
    """Checks that a table can be written to a file of this name.

    Raises:
        KanDiffusionError: The ending is not one of .csv, .parquet and .npy.
    """
    if path.suffix.lower() not in _READERS:
        raise KanDiffusionError(f"cannot write points to '{path}': the ending must be {_KNOWN}")


def write_table(path: Path, points: np.ndarray, columns: Sequence[str]) -> None:
    """Writes points to a file, whole or not at all.

    Args:
        path: A .csv, .parquet or .npy file.
        points: Points with shape (n, d).
        columns: Names of the d coordinates; a .npy file has none.

    Raises:
        KanDiffusionError: The ending is unknown.
        RunFolderError: The file cannot be written.
    """
    require_writable_ending(path)
    frame = pd.DataFrame(points, columns=list(columns))
    with whole_file(path) as temporary, temporary.open("wb") as file:
        match path.suffix.lower():
            case ".csv":
                frame.to_csv(file, index=False)
            case ".parquet":
                frame.to_parquet(file, index=False)
            case _:
                np.save(file, points, allow_pickle=False)


Rows = tuple[np.ndarray, tuple[str, ...]]


def _bundled(loader: str, left_out: tuple[str, ...] = (), **options: bool) -> Rows:
    """Rows (n, d), float64, and column names that a loader of ``sklearn.datasets`` gives."""
    from sklearn import datasets

    table = getattr(datasets, loader)(**options)
    kept = [place for place, name in enumerate(table.feature_names) if name not in left_out]
    values = np.asarray(table.data[:, kept], dtype=np.float64)
    return values, tuple(str(table.feature_names[place]) for place in kept)


TABLES: Mapping[str, Callable[[], Rows]] = {
    "iris": partial(_bundled, "load_iris"),
    "wine": partial(_bundled, "load_wine"),
    "breast-cancer": partial(_bundled, "load_breast_cancer"),
    "diabetes": partial(_bundled, "load_diabetes", left_out=("sex",), scaled=False),
}
"""Readers of scikit-learn's tables, by the name a user writes."""
