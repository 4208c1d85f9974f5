"""A folder of pictures in the convention of Hugging Face's ``imagefolder``.

* Picture files that Pillow reads, at any depth; hidden files and other files are ignored.
* ``metadata.csv`` or ``metadata.jsonl``, at the top or in any folder, with ``file_name`` (relative
  to the folder it lies in) and ``text``: the captions, of all pictures or of none.
* Folders ``train`` and ``test`` (or ``validation``) at the top define the split.
* If pictures lie in two folders or more, each folder is a class, named like the folder.

Nothing outside of the folder is read, and errors name the file.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from kan_diffusion.errors import DataError
from kan_diffusion.limits import MOST_BYTES, MOST_PIXELS

__all__ = ["ImageFolder", "Mode", "holds_pictures", "plain", "plain_mode"]

Mode = Literal["L", "RGB", "RGBA"]
"""Grey, colour, or colour and opacity, as Pillow names them."""

_DEEP = ("I;16", "I;16L", "I;16B", "I;16N")
_UNREADABLE = ("I", "F")
_FEWEST = 10
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
_ENDINGS = frozenset(
    [".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"]
)
_METADATA = ("metadata.csv", "metadata.jsonl")
_TRAIN = frozenset(["train", "training"])
_HELD_OUT = frozenset(
    ["validation", "valid", "val", "dev", "test", "testing", "eval", "evaluation"]
)
# All that Pillow's parsers raise for a damaged file.
_BROKEN = (
    OSError, SyntaxError, ValueError, EOFError, ArithmeticError, LookupError, TypeError,
    struct.error, zlib.error, NotImplementedError,
)  # fmt: skip


def holds_pictures(path: Path) -> bool:
    """Tells whether a path is a folder with pictures, or their captions, and no Parquet files."""
    names = [file.name for file in path.rglob("*")] if path.is_dir() else []
    endings = {Path(name).suffix.lower() for name in names}
    return bool(endings & _ENDINGS or {*names} & {*_METADATA}) and ".parquet" not in endings


def plain_mode(picture: Image.Image) -> Mode:
    """Chooses which of the three modes holds all that a picture can show."""
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        return "RGBA"
    if picture.mode in ("L", "1", *_DEEP):
        return "L"
    return "RGB"


def plain(picture: Image.Image) -> Image.Image:
    """Converts a picture to one of the three modes.

    Raises:
        DataError: It has 32-bit values.
    """
    if picture.mode in _UNREADABLE:
        raise DataError(
            f"a picture of mode {picture.mode} has values of 32 bits; save it with 8 bits a channel"
        )
    if picture.mode in _DEEP:
        deep = np.asarray(picture).astype(np.float64)
        return Image.fromarray((deep / 257).round().astype(np.uint8))
    mode = plain_mode(picture)
    return picture if picture.mode == mode else picture.convert(mode)


@dataclass(frozen=True)
class ImageFolder:
    """The files of a folder of pictures with their captions and classes; none is opened yet.

    Attributes:
        root: The folder.
        files: The n pictures, in the order of their names.
        tables: Files with captions.
        captions: A caption for each picture; None where there are none.
        heldout: Which pictures are held out, shape (n,), bool; None if the folders define no
            split.
        labels: Indices into ``classes``, shape (n,), int64; None where there are no classes.
        classes: Names of the classes, which are folders.
    """

    root: Path
    files: tuple[Path, ...]
    tables: tuple[Path, ...]
    captions: tuple[str, ...] | None
    heldout: Tensor | None
    labels: Tensor | None
    classes: tuple[str, ...]

    @classmethod
    def of(cls, root: Path) -> Self:
        """Lists the pictures of a folder with their captions and classes.

        Raises:
            DataError: There is no such folder, it has too few pictures, only some have a class, a
                link leads out of it, or a table of captions is damaged, names a picture twice,
                names one that is missing, or leaves one out.
        """
        files, tables = _files(root)
        heldout, labels, classes = _parts(root, files)
        captions = _captions(root, files, tables)
        return cls(root, tuple(files), tuple(tables), captions, heldout, labels, classes)

    @property
    def stamp(self) -> tuple[tuple[str, int, int], ...]:
        """Names, times and sizes of all files, which change whenever the folder changes."""
        every = [(path, path.stat()) for path in (*self.files, *self.tables)]
        return tuple((self.named(path), stat.st_mtime_ns, stat.st_size) for path, stat in every)

    def sha256(self) -> str:
        """Digest of the names and contents of all files.

        Raises:
            DataError: A file cannot be read.
        """
        sums = hashlib.sha256()
        for path in (*self.files, *self.tables):
            content = hashlib.sha256(_content(self.root, path)).hexdigest()
            sums.update(f"{self.named(path)}\0{content}\n".encode())
        return sums.hexdigest()

    def named(self, path: Path) -> str:
        """Name of a file, relative to the folder."""
        return _named(self.root, path)

    def pictures(self) -> Iterator[Image.Image]:
        """Opens one picture after another, upright and in one of the three modes.

        Yields:
            The pictures in the order of ``files``.

        Raises:
            DataError: A picture is damaged, of another format, or too large.
        """
        for path in self.files:
            yield _open(_content(self.root, path), self.named(path))


def _named(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def _files(root: Path) -> tuple[list[Path], list[Path]]:
    """The pictures and the tables of captions of a folder, in the order of their names.

    Raises:
        DataError: There is no such folder, it has too few pictures, or a link leads out of it.
    """
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise DataError(f"'{root}' {what}; give a folder of pictures")
    files, tables = [], []
    home = root.resolve()
    for folder, folders, names in os.walk(root, onerror=_refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names) + folders:
            path = Path(folder, name)
            if path.is_symlink() and (name in folders or not path.resolve().is_relative_to(home)):
                raise DataError(
                    f"'{_named(root, path)}' in '{root}' is a link that leads elsewhere; put a "
                    "copy in its place"
                )
        for name in sorted(names):
            path = Path(folder, name)
            if name in _METADATA:
                tables.append(path)
            elif path.suffix.lower() in _ENDINGS and not name.startswith("."):
                files.append(path)
    if not files:
        raise DataError(
            f"'{root}' has no picture; give a folder with files that end in "
            f"{', '.join(sorted(_ENDINGS))}"
        )
    if len(files) < _FEWEST:
        count = f"{len(files)} pictures" if len(files) > 1 else "a single picture"
        raise DataError(
            f"'{root}' has {count}; at least {_FEWEST} are needed to train on some and judge with "
            "others"
        )
    for path in (*files, *tables):
        if not path.is_file():
            raise DataError(f"'{_named(root, path)}' in '{root}' is no file; remove it")
    return files, tables


def _refuse(error: OSError) -> None:
    raise DataError(
        f"'{error.filename}' cannot be read ({error.strerror}); change its permissions"
    ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences Pillow's warnings, except the one about pictures that are too large."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _content(root: Path, path: Path) -> bytes:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise DataError(f"'{_named(root, path)}' has more than {MOST_BYTES:,} bytes; remove it")
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"'{_named(root, path)}' cannot be read ({error.strerror}); change its permissions"
        ) from error


def _open(content: bytes, name: str) -> Image.Image:
    """Reads a picture, upright and in one of the three modes.

    Raises:
        DataError: It is damaged, of another format, or too large.
    """
    try:
        with _quiet(), Image.open(io.BytesIO(content), formats=_FORMATS) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise Image.DecompressionBombError
            return plain(ImageOps.exif_transpose(picture))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(
            f"'{name}' has more than {MOST_PIXELS:,} pixels; make it smaller or remove it"
        ) from error
    except DataError as error:
        raise DataError(f"'{name}': {error}") from error
    except _BROKEN as error:
        reason = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"
        raise DataError(
            f"'{name}' is no picture that can be read{reason}; save it again as PNG or remove it"
        ) from error


def _captions(root: Path, files: Iterable[Path], tables: Iterable[Path]) -> tuple[str, ...] | None:
    """Reads the caption of each picture; None if there is no table of captions.

    Raises:
        DataError: A table is damaged, or a caption is for a missing picture, double or left out.
    """
    names = {_named(root, path): "" for path in files}
    tables = list(tables)
    if not tables:
        return None
    for table in tables:
        for line, name, text in _lines(root, table):
            where = f"'{_named(root, table)}', line {line}"
            given = os.path.normpath(_named(root, table.parent) + "/" + name)
            if os.path.isabs(name) or given.split("/")[0] == "..":
                raise DataError(
                    f"{where}: '{name}' is outside of the folder; give names from the table's own "
                    "folder"
                )
            if given not in names:
                raise DataError(
                    f"{where}: there is no picture '{name}'; put it there or remove the line"
                )
            if names[given]:
                raise DataError(f"{where}: '{name}' has a caption already; remove one of them")
            if not text.strip():
                raise DataError(f"{where}: '{name}' has an empty text; write one")
            names[given] = " ".join(text.split())
    without = [name for name, text in names.items() if not text]
    if without:
        raise DataError(
            f"'{_named(root, tables[0])}' has no caption for '{without[0]}'"
            + (f" and {len(without) - 1:,} more pictures" if len(without) > 1 else "")
            + "; add lines for them or remove the pictures"
        )
    return tuple(names.values())


def _lines(root: Path, table: Path) -> Iterator[tuple[int, str, str]]:
    """Yields the number, file name and text of each line of a table of captions."""
    name = _named(root, table)
    try:
        content = _content(root, table).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"'{name}' is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    rows: list[tuple[int, Mapping[str, object]]] = []
    if table.suffix == ".csv":
        reader = csv.DictReader(io.StringIO(content), strict=True)
        try:
            rows.extend((reader.line_num, row) for row in reader)
        except csv.Error as error:
            raise DataError(
                f"'{name}', line {reader.line_num}: {error}; put text with commas in double quotes"
            ) from error
    else:
        # splitlines() would also split at separators that JSON allows within a text.
        for number, line in enumerate(content.split("\n"), 1):
            if line.strip():
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise DataError(f"'{name}', line {number} is no JSON ({error})") from error
                if not isinstance(row, dict):
                    raise DataError(f"'{name}', line {number} is no object with file_name and text")
                rows.append((number, row))
    if not rows:
        raise DataError(
            f"'{name}' has no lines; write file_name and text of each picture, or remove it"
        )
    for number, row in rows:
        values = [row.get(key) for key in ("file_name", "text")]
        if not all(isinstance(value, str) for value in values) or None in row:
            keys = ", ".join(str(key) for key in row if isinstance(row[key], str))
            raise DataError(
                f"'{name}', line {number} must have file_name and text, and nothing unnamed; it "
                f"has {keys or 'none'}"
            )
        yield number, str(values[0]), str(values[1])


def _parts(
    root: Path, files: Sequence[Path]
) -> tuple[Tensor | None, Tensor | None, tuple[str, ...]]:
    """Finds the held-out pictures, the class labels and the classes from the folders."""
    parts = [path.relative_to(root).parts for path in files]
    tops = {part[0].lower() if len(part) > 1 else "" for part in parts}
    heldout = None
    if tops & _TRAIN and tops <= _TRAIN | _HELD_OUT:
        if tops & _HELD_OUT:
            heldout = torch.tensor([part[0].lower() in _HELD_OUT for part in parts])
            if int((~heldout).sum()) < 2 or int(heldout.sum()) < 2:
                raise DataError(
                    f"'{root}' has fewer than 2 pictures to train on or to judge with; put more "
                    "into its folders"
                )
        parts = [part[1:] for part in parts]
    names = [part[-2] if len(part) > 1 else "" for part in parts]
    classes = tuple(sorted(set(names)))
    if len(classes) < 2:
        return heldout, None, ()
    if "" in classes:
        some = files[names.index("")]
        raise DataError(
            f"'{_named(root, some)}' lies beside the folders of classes; put it into one of them"
        )
    return heldout, torch.tensor([classes.index(name) for name in names]), classes
