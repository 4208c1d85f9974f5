"""Small pictures in folders: bright and dark ones, told apart by captions, classes or nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

Told = Literal["captions", "classes", "nothing"]

NAMES = ("bright", "dark")


def write_pictures(root: Path, told: Told, num: int = 24, side: int = 8) -> Path:
    """Writes grey pictures of noise about one of two brightnesses.

    Args:
        root: The folder, made where it is missing.
        told: Whether a ``metadata.csv``, two folders or nothing says which is which.
        num: Number of pictures.
        side: Pixels of a side.
    """
    generator, lines = np.random.default_rng(0), ["file_name,text"]
    for index in range(num):
        name = NAMES[index % 2]
        values = generator.integers(0, 60, (side, side)) + (190 if name == "bright" else 5)
        path = root / (name if told == "classes" else "") / f"{index:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values.astype(np.uint8)).save(path)
        lines.append(f"{path.name},a {name} picture")
    if told == "captions":
        (root / "metadata.csv").write_text("\n".join(lines) + "\n")
    return root


def write_noise(
    path: Path, seed: int = 0, mode: str = "RGB", size: tuple[int, int] = (8, 8)
) -> None:
    """Writes a picture in colour that no other seed gives."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    Image.fromarray(values).convert(mode).save(path)
