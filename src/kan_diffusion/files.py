"""Files written whole or not at all: a temporary name beside the target, then one rename.

Renames and removals on which others depend reach the disk in the order in which they are made, so
that a power cut leaves no more than a kill does.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from kan_diffusion import limits
from kan_diffusion.errors import KanDiffusionError, RunFolderError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

T = TypeVar("T")

DIGESTS, SEAL = "files", "sha256"
"""Keys of a JSON file that knows the files beside it, and itself."""

_OBJECT = TypeAdapter(dict[str, Any])


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Gives a temporary path beside ``path``; renames it to ``path`` when the block succeeds.

    Args:
        path: The file to write. Its folder is made when missing.

    Yields:
        The temporary path.

    Raises:
        RunFolderError: The file cannot be written (full disk, no permission); whatever stood
            under ``path`` before is still there, untouched, unless the disk fails after the
            renaming.
    """
    path = Path(path)
    with writing(path):
        make_folder(path.parent)
        temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp{path.suffix}"
        temporary.touch(exist_ok=False)  # for whom the umask says, unlike tempfile's
        try:
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Says which file or folder cannot be written if the block fails to.

    Raises:
        RunFolderError: The disk refuses something.
    """
    try:
        yield
    except OSError as error:
        raise RunFolderError(
            f"cannot write '{path}': {error.strerror or error}; free some space or choose another "
            "folder"
        ) from error


def make_folder(folder: Path) -> None:
    """Makes a folder, and those above it, if they are missing."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in missing:
        sync_folder(each.parent)


def sync_folder(folder: Path) -> None:
    """Waits until the disk knows which files a folder holds; a power cut then loses none."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network disks cannot
            raise
    finally:
        os.close(handle)


def remove_file(path: Path) -> None:
    """Removes a file, if it is there, before anything else is changed on the disk."""
    path.unlink(missing_ok=True)
    sync_folder(path.parent)


@dataclass
class Output:
    """What a command writes for its user.

    Attributes:
        temporary: Where to write it, a file or a folder.
        path: Where it will be.
    """

    temporary: Path
    path: Path


@contextmanager
def new_output(path: Path, *, overwrite: bool = False, numbered: bool = False) -> Iterator[Output]:
    """Claims the place of a file or folder before the work, and moves the result there after it.

    Args:
        path: The place.
        overwrite: Whether a file there may be replaced, and files of the same names in a folder.
        numbered: Whether to add a number to the name where something is.

    Yields:
        Where to write; its ``path`` is final when the block is left.

    Raises:
        RunFolderError: Something is there, before or after the work, or it cannot be written.
    """
    taken = RunFolderError(f"'{path}' exists; choose another path, or overwrite it")
    if not (overwrite or numbered) and ((path.is_dir() and any(path.iterdir())) or path.is_file()):
        raise taken
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise RunFolderError(f"'{path}' is neither a file nor a folder; choose another path")
    with writing(path):
        make_folder(path.parent)
        folder = tempfile.mkdtemp(prefix=".output-", suffix=".tmp", dir=path.parent)
    output = Output(Path(folder, path.name), path)
    try:
        yield output
        others = (path.with_stem(f"{path.stem}-{number}") for number in count(2))
        for output.path in chain([path], others if numbered else ()):
            if _publish(output.temporary, output.path, overwrite):
                return
        raise taken
    except KanDiffusionError as error:
        raise type(error)(str(error).replace(str(output.temporary), str(path))) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _publish(source: Path, target: Path, overwrite: bool) -> bool:
    """Moves a file or folder, or returns False where something is that may not be replaced."""
    try:
        if overwrite and source.is_dir() and target.is_dir():  # pictures of other names stay
            for each in source.iterdir():
                each.replace(target / each.name)
        elif overwrite or source.is_dir():  # which replaces an empty folder alone
            source.replace(target)
        else:
            try:
                os.link(source, target)
            except OSError:  # something is there, or the disk has no links
                os.close(os.open(target, os.O_CREAT | os.O_EXCL))
                source.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            return False
        with writing(target):
            raise
    return True


def inside(root: Path, *names: str, in_place: bool = False) -> Path:
    """Returns a path below a folder, after checking that no link leads out of the folder.

    The folder itself, which a user names, may be a link, and so may a file below it, which is
    written by a rename and deleted as a link. Folders below it may not.

    Args:
        root: The folder.
        *names: Parts of the path below it, which need not exist; patterns of files at its end.
        in_place: Whether the file will be opened for writing, so that it must be no link either.

    Raises:
        RunFolderError: A folder on the way is a link, or another kind of pointer to elsewhere.
    """
    path = root.joinpath(*names)
    folder = path if in_place or path.is_dir() else path.parent
    expected = Path(os.path.realpath(root), folder.relative_to(root))
    if os.path.realpath(folder) != str(expected):
        raise RunFolderError(
            f"'{folder}' leads out of '{root}' by a link, through which nothing is read or "
            "written; delete it, or put a folder in its place"
        )
    return path


def write_bytes(path: str | Path, content: bytes) -> None:
    """Writes ``content`` to ``path``, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | Path, content: str) -> None:
    """Writes ``content`` to ``path`` as UTF-8, whole or not at all."""
    write_bytes(path, content.encode())


def finite(content: T) -> T:
    """Copies JSON content and replaces NaN and infinite numbers by None.

    Args:
        content: Dictionaries, lists and tuples of any depth; tuples become lists.
    """
    copied: T = json.loads(json.dumps(content), parse_constant=lambda _: None)
    return copied


def require_file(path: Path, most: int | None = None) -> int:
    """Checks that a path is a file of at most ``most`` bytes, and returns how many it has.

    Reading a pipe or a device may never end.

    Raises:
        OSError: It is something else, too large, or missing.
    """
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise OSError(errno.EINVAL, "it is no file")
    if most is not None and about.st_size > most:
        size, room = about.st_size / 1000, max(most, 0) / 1000
        raise OSError(errno.EFBIG, f"it has {size:,.0f} kB, and at most {room:,.0f} kB are read")
    return about.st_size


def require_tensors(path: Path, most: int | None = None) -> None:
    """Checks the bytes of a safetensors file, as :func:`require_file` does, and of its header."""
    require_file(path, most)
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
    if size > limits.MOST_JSON_BYTES:
        raise OSError(errno.EFBIG, f"its header has more than {limits.MOST_JSON_BYTES:,} bytes")


def room_unpacked(path: Path) -> int:
    """Returns how many bytes a packed file may hold."""
    return max(limits.MOST_UNPACKED_BYTES, limits.MOST_TIMES_PACKED * path.stat().st_size)


def stamp(path: Path) -> tuple[int, ...]:
    """Returns what differs after a file was changed or replaced, even if its time was set back."""
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def digest(path: Path) -> str:
    """Computes the hexadecimal SHA-256 digest of a file.

    Raises:
        OSError: It cannot be read.
    """
    require_file(path, limits.MOST_LISTED_BYTES)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sealed_json(content: Mapping[str, object], digests: Mapping[str, str]) -> bytes:
    """Encodes content as JSON, with digests of the files beside it and one of all of this.

    Args:
        content: The content, of JSON values.
        digests: Digests of files by their paths within the folder.
    """
    sealed = {**content, DIGESTS: dict(digests)}
    return json_bytes({**sealed, SEAL: hashlib.sha256(json_bytes(sealed)).hexdigest()})


def read_json(path: Path, kind: str, remedy: str, most: int | None = None) -> dict[str, Any]:
    """Reads a JSON object; arguments and errors are those of :func:`read_as`."""
    return read_as(_OBJECT, path, kind, remedy, most or limits.MOST_JSON_BYTES)


def read_as(
    shape: TypeAdapter[T], path: Path, kind: str, remedy: str, most: int = limits.MOST_RESULT_BYTES
) -> T:
    """Reads a JSON file, or the rows of a Parquet file, and checks what is in it.

    Args:
        shape: Type of the content, down to every value. Rows are a list of dictionaries with the
            same keys, and a value that a row lacks is None.
        path: The file; it holds rows if its name ends in ``.parquet``.
        kind: What it should be, such as ``"the result of a trial"``, for messages.
        remedy: What to do if it is something else, for messages.
        most: Bytes that it may have. What is wrong with a value takes far more memory than itself.

    Raises:
        RunFolderError: It is missing, too large, damaged or holds something else.
    """
    try:
        require_file(path, most)
        if path.suffix == ".parquet":
            content = read_parquet(path, most_values=limits.MOST_RESULTS).to_pylist()
        else:
            content = json.loads(path.read_text("utf-8"))
        return shape.validate_python(content, strict=True)
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            reason = ": ".join([".".join(map(str, first["loc"])), first["msg"]]).strip(": ")
        raise RunFolderError(f"'{path}' is not {kind} ({reason}); {remedy}") from error


def read_parquet(
    path: Path, columns: list[str] | None = None, most_values: int = limits.MOST_VALUES
) -> pa.Table:
    """Reads a Parquet file, which may hold a billion equal values in some hundred bytes.

    Args:
        path: The file.
        columns: Names of the columns to read; all when None.
        most_values: Most values, rows times columns.

    Raises:
        OSError: It cannot be read.
        ValueError: It is broken, or holds more values, or more bytes than its size allows.
    """
    # Slow to import, and most files are JSON.
    import pyarrow as pa
    from pyarrow import compute, parquet

    room = room_unpacked(path)
    try:
        with path.open("rb") as file:  # its last bytes say how long its list of columns is
            file.seek(max(require_file(path) - 8, 0))
            if int.from_bytes(file.read(4), "little") > limits.MOST_JSON_BYTES:
                raise ValueError(f"its footer has more than {limits.MOST_JSON_BYTES:,} bytes")
        about = parquet.read_metadata(path)
        fields = [f for f in about.schema.to_arrow_schema() if columns is None or f.name in columns]
        if about.num_rows * len(fields) > most_values:
            raise ValueError(
                f"it has {about.num_rows:,} rows of {len(fields):,} columns; at most "
                f"{most_values:,} values are read"
            )
        if nested := [field.name for field in fields if pa.types.is_nested(field.type)]:
            raise ValueError(f"it has a column '{nested[0]}' of lists or the like; leave it out")
        # Texts stay numbered until their length is known: a long one may be in every row.
        kinds = pa.string(), pa.large_string(), pa.binary(), pa.large_binary()
        texts = [field.name for field in fields if field.type in kinds]
        wide = [field.type for field in fields if pa.types.is_fixed_size_binary(field.type)]
        groups = [about.row_group(place).total_byte_size for place in range(about.num_row_groups)]
        width = 8 * len(fields) + sum(kind.byte_width for kind in wide)
        size = max(about.num_rows * width, sum(groups))
        if size <= room:
            with parquet.ParquetFile(path, metadata=about, read_dictionary=texts) as file:
                table = file.read(columns)
            for chunk in (chunk for name in texts for chunk in table[name].chunks):
                lengths = compute.binary_length(chunk.dictionary).take(chunk.indices)
                size += compute.sum(lengths, min_count=0).as_py()
        if size > room:
            raise ValueError(
                f"it holds {size / 1e6:,.0f} MB in {path.stat().st_size / 1e6:,.1f} MB; at most "
                f"{room / 1e6:,.0f} MB are read"
            )
        return table.cast(pa.schema(fields, table.schema.metadata))
    except pa.ArrowException as error:  # some are no ValueError
        raise ValueError(error) from error


def json_bytes(content: object) -> bytes:
    """Encodes content as indented JSON (no NaN)."""
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()


def write_json(path: str | Path, content: object) -> None:
    """Writes ``content`` to ``path`` as indented JSON (no NaN), whole or not at all."""
    write_bytes(path, json_bytes(content))


def write_parquet(path: str | Path, frame: pd.DataFrame) -> None:
    """Writes ``frame``, without its index, to ``path`` as Parquet, whole or not at all."""
    write_bytes(path, frame.to_parquet(index=False))


def require_free_space(folder: str | Path, num_bytes: int) -> None:
    """Checks before any work starts that ``folder``'s disk has room for what will be written.

    Raises:
        RunFolderError: Less than ``num_bytes`` are free.
    """
    free = shutil.disk_usage(_existing(folder)).free
    if free < num_bytes:
        raise RunFolderError(
            f"the disk of '{folder}' has {free / 1e6:.0f} MB free and this run may write "
            f"{num_bytes / 1e6:.0f} MB; free some space or choose another folder"
        )


def require_writable(folder: str | Path) -> None:
    """Checks before any work starts that files can be written to ``folder``.

    Raises:
        RunFolderError: They cannot.
    """
    with writing(Path(folder)):
        tempfile.TemporaryFile(dir=_existing(folder)).close()


def _existing(folder: str | Path) -> Path:
    """Returns the folder, or the nearest one above it that exists."""
    folder = Path(folder).absolute()
    return next(each for each in (folder, *folder.parents) if each.exists())
