"""Pictures in files: PNG files named after what was asked for, and a contact sheet of all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from kan_diffusion.files import whole_file
from kan_diffusion.report.images import contact_sheet

__all__ = ["SHEET", "write_pictures"]

SHEET = "sheet.png"
"""Name of a contact sheet."""

_LISTED = "pictures"
"""Text of a contact sheet that lists the files of its pictures."""
_NAME = re.compile(r"[a-z0-9-]+-[0-9]+\.png")
"""Names of pictures; a sheet, which may be anybody's, lists nothing else."""
_LONGEST_SLUG = 60
_MOST_ACROSS = 16


def write_pictures(folder: Path, drawn: Sequence[tuple[str, Sequence[Image.Image]]]) -> int:
    """Writes pictures as PNG files named after what was asked for, and a contact sheet of all.

    Pictures that an earlier contact sheet in the folder lists are deleted.

    Args:
        folder: The folder to write to; created if it is missing.
        drawn: What was asked for, empty if nothing was, and pictures of it, all of one size.

    Returns:
        Number of pictures.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written: dict[str, None] = {}
    for place, (asked, pictures) in enumerate(drawn, start=1):
        slug = re.sub(r"[^a-z0-9]+", "-", asked.lower()).strip("-")[:_LONGEST_SLUG] or "picture"
        stem = f"{place:02}-{slug}" if len(drawn) > 1 else slug
        for number, picture in enumerate(pictures, start=1):
            name = f"{stem}-{number:0{len(str(len(pictures)))}}.png"
            _save(folder / name, picture)
            written[name] = None
    rows = [
        pictures[start : start + _MOST_ACROSS]
        for _, pictures in drawn
        for start in range(0, len(pictures), _MOST_ACROSS)
    ]
    if len(rows) == 1:  # as square as possible
        across = int(np.ceil(np.sqrt(len(rows[0]))))
        rows = [rows[0][start : start + across] for start in range(0, len(rows[0]), across)]
    for name in _listed(folder / SHEET) - written.keys():
        if (folder / name).is_file():
            (folder / name).unlink()
    _save(folder / SHEET, contact_sheet(rows), "\n".join(written))
    return len(written)


def _listed(sheet: Path) -> set[str]:
    """Reads the names of the pictures that a contact sheet lists; empty if it is none."""
    try:
        with PngImageFile(sheet) as picture:  # of any size, since no pixel is read
            text = str(picture.info.get(_LISTED, ""))
    except (OSError, SyntaxError, ValueError):
        return set()
    return set(filter(_NAME.fullmatch, text.split("\n")))


def _save(path: Path, picture: Image.Image, listed: str = "") -> None:
    texts = PngInfo()
    if listed:
        texts.add_text(_LISTED, listed)
    with whole_file(path) as temporary:
        picture.save(temporary, "PNG", pnginfo=texts)
