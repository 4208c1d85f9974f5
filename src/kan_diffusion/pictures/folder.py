r"""A folder of pictures in the convention of Hugging Face's ``imagefolder``.

* Picture files that Pillow reads, at any depth; hidden files and other files are ignored.
* ``metadata.csv`` or ``metadata.jsonl``, at the top or in any folder, with ``file_name`` (relative
  to the folder it lies in) and ``text``: the captions, of all pictures or of none.
* Folders ``train`` and ``test`` (or ``validation``) at the top define the split.
* If pictures lie in two folders or more, each folder is a class, named like the folder.

Nothing outside of the folder is read, and errors name the file.
"""

from __future__ import annotations

import hashlib
import io
import os
import posixpath
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
import pandas as pd
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
_ENDINGS = (
    ".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"
)  # fmt: skip
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
    return bool(endings & {*_ENDINGS} or {*names} & {*_METADATA}) and ".parquet" not in endings


def plain_mode(picture: Image.Image) -> Mode:
    """Chooses which of the three modes holds all that a picture can show."""
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        return "RGBA"
    return "L" if picture.mode in ("L", "1", *_DEEP) else "RGB"


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
        names: Names of the n pictures, relative to the folder.
        tables: Names of the files with captions.
        captions: A caption for each picture; None where there are none.
        heldout: Which pictures are held out, shape (n,), bool; None if the folders define no
            split.
        labels: Indices into ``classes``, shape (n,), int64; None where there are no classes.
        classes: Names of the classes, which are folders.
    """

    root: Path
    names: tuple[str, ...]
    tables: tuple[str, ...]
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
        names, tables = _listed(root)
        parts = _parts(root, names)
        return cls(root, tuple(names), tuple(tables), _captions(root, names, tables), *parts)

    @property
    def stamp(self) -> tuple[tuple[str, int, int], ...]:
        """Names, times and sizes of all files, which change whenever the folder changes."""
        every = [(name, (self.root / name).stat()) for name in (*self.names, *self.tables)]
        return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in every)

    def sha256(self) -> str:
        """Digest of the names and contents of all files.

        Raises:
            DataError: A file cannot be read.
        """
        sums = hashlib.sha256()
        for name in (*self.names, *self.tables):
            content = hashlib.sha256(_content(self.root, name)).hexdigest()
            sums.update(f"{name}\0{content}\n".encode())
        return sums.hexdigest()

    def modes(self) -> dict[Mode, str]:
        """Finds the modes of the pictures, each with the name of the first one that has it.

        Raises:
            DataError: A picture is damaged, of another format, or too large.
        """
        found = dict[Mode, str]()
        for name in self.names:
            with _opened(self.root, name) as picture:
                found.setdefault(plain_mode(picture), name)
        return found

    def pictures(self) -> Iterator[Image.Image]:
        """Reads one picture after another, upright and in one of the three modes.

        Yields:
            The pictures in the order of ``names``.

        Raises:
            DataError: A picture is damaged, of another format, or too large.
        """
        for name in self.names:
            with _opened(self.root, name) as picture:
                upright = plain(ImageOps.exif_transpose(picture))
            yield upright


def _listed(root: Path) -> tuple[list[str], list[str]]:
    """Lists the names of the pictures and of the tables of captions of a folder."""
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise DataError(f"'{root}' {what}; give a folder of pictures")
    pictures, tables, home = list[str](), list[str](), root.resolve()
    for folder, folders, files in os.walk(root, onerror=_refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        every = [(file, False) for file in sorted(files)] + [(file, True) for file in folders]
        for file, is_folder in every:
            path = Path(folder, file)
            name = path.relative_to(root).as_posix()
            if path.is_symlink() and (is_folder or not path.resolve().is_relative_to(home)):
                raise DataError(
                    f"'{name}' in '{root}' is a link that leads elsewhere; put a copy in its place"
                )
            is_picture = path.suffix.lower() in _ENDINGS and not file.startswith(".")
            if is_folder or not (is_picture or file in _METADATA):
                continue
            if not path.is_file():
                raise DataError(f"'{name}' in '{root}' is no file; remove it")
            (pictures if is_picture else tables).append(name)
    if not pictures:
        raise DataError(
            f"'{root}' has no picture; give a folder with files that end in {', '.join(_ENDINGS)}"
        )
    if len(pictures) < _FEWEST:
        count = f"{len(pictures)} pictures" if len(pictures) > 1 else "a single picture"
        raise DataError(
            f"'{root}' has {count}; at least {_FEWEST} are needed to train on some and judge with "
            "others"
        )
    return pictures, tables


def _refuse(error: OSError) -> None:
    raise DataError(
        f"'{error.filename}' cannot be read ({error.strerror}); change its permissions"
    ) from error


def _content(root: Path, name: str) -> bytes:
    path = root / name
    try:
        if path.stat().st_size > MOST_BYTES:
            raise DataError(f"'{name}' has more than {MOST_BYTES:,} bytes; remove it")
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"'{name}' cannot be read ({error.strerror}); change its permissions"
        ) from error


@contextmanager
def _opened(root: Path, name: str) -> Iterator[Image.Image]:
    """Opens a picture; whatever is wrong with it until it is closed is said with its name."""
    content = io.BytesIO(_content(root, name))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(content, formats=_FORMATS) as picture:
                if picture.width * picture.height > MOST_PIXELS:
                    raise Image.DecompressionBombError
                yield picture
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


def _captions(root: Path, names: Sequence[str], tables: Sequence[str]) -> tuple[str, ...] | None:
    """Reads the caption of each picture; None if there is no table of captions."""
    if not tables:
        return None
    texts = dict.fromkeys(names, "")
    for table in tables:
        for name, text in _lines(root, table):
            own = posixpath.normpath(posixpath.join(posixpath.dirname(table), name))
            if own.startswith("/") or own.split("/")[0] == "..":
                problem = "is outside of the folder; give names from the table's own folder"
            elif own not in texts:
                problem = "is no picture of the folder; put it there or remove the line"
            elif texts[own]:
                problem = "has a caption already; remove one of them"
            elif not text.strip():
                problem = "has an empty text; write one"
            else:
                texts[own] = " ".join(text.split())
                continue
            raise DataError(f"'{table}': '{name}' {problem}")
    without = [name for name, text in texts.items() if not text]
    if without:
        more = f" and {len(without) - 1:,} more pictures" if len(without) > 1 else ""
        raise DataError(
            f"'{tables[0]}' has no caption for '{without[0]}'{more}; add lines for them or remove "
            "the pictures"
        )
    return tuple(texts.values())


def _lines(root: Path, table: str) -> list[tuple[str, str]]:
    """Reads the file name and the text of each line of a table of captions."""
    raw, remedy = _content(root, table), "put text with commas in double quotes"
    try:
        content = io.StringIO(raw.decode("utf-8-sig"))
        if table.endswith(".csv"):
            # The head is read as a line, so that no line may have more cells than the head.
            cells = pd.read_csv(content, header=None, dtype=str, keep_default_na=False)
            frame = cells.iloc[1:].set_axis(list(cells.iloc[0]), axis=1)
        else:
            remedy = "write one object with file_name and text a line"
            frame = pd.read_json(content, lines=True, dtype=False)
    except UnicodeDecodeError as error:
        raise DataError(f"'{table}' is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"'{table}' cannot be read ({error}); {remedy}") from error
    columns = list(frame.columns)
    if columns.count("file_name") != 1 or columns.count("text") != 1:
        raise DataError(
            f"'{table}' must have the columns file_name and text; it has "
            f"{', '.join(map(str, columns)) or 'none'}"
        )
    lines = list(zip(frame["file_name"], frame["text"], strict=True))
    for line in lines:
        if not all(isinstance(value, str) for value in line):
            raise DataError(f"'{table}': {line} must be a file_name and a text; {remedy}")
    return lines


def _parts(
    root: Path, names: Sequence[str]
) -> tuple[Tensor | None, Tensor | None, tuple[str, ...]]:
    """Finds the held-out pictures, the class labels and the classes from the folders."""
    parts = [name.split("/") for name in names]
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
    folders = [part[-2] if len(part) > 1 else "" for part in parts]
    classes = tuple(sorted(set(folders)))
    if len(classes) < 2:
        return heldout, None, ()
    if "" in classes:
        raise DataError(
            f"'{names[folders.index('')]}' lies beside the folders of classes; put it into one of "
            "them"
        )
    return heldout, torch.tensor([classes.index(folder) for folder in folders]), classes
