"""Small pictures in folders: bright and dark ones, told apart by captions, classes or nothing."""

import numpy as np
from PIL import Image

NAMES = ("bright", "dark")


def write_pictures(root, told, num=24, side=8):
    """Grey pictures; told is "captions", a file of them, "classes", folders, or "nothing"."""
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


def write_noise(path, seed=0, mode="RGB", size=(8, 8)):
    """Writes a picture in colour that no other seed gives."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    Image.fromarray(values).convert(mode).save(path)
