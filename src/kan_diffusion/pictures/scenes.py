r"""Scenes of a coloured object: drawn, described by captions, and read from prompts.

A picture is linear in its object. With the background b, the coverage m of pixels by the object,
and its colour c,

    picture = b + m (c - b).

Coverages are whole sixteenths (Pillow draws each shape once at `_FINE` times the resolution, and
its average over a pixel is rounded) and differences of colours are multiples of 16, so pictures are
exact in 8 bits: written as PNG and read again they are the same numbers.

Objects stand on a grid of 32 by 32 places, half a pixel of a picture of 16 pixels, so there are
39,264 scenes, at any size: the rows of a table (:func:`all_scenes`). A scene is the number of its
row. Combinations of shape, colour and size are drawn uniformly from those that are not held out,
and places uniformly from those that fit the size.

The wording of a caption is drawn from `WORDINGS` independently of the scene. Given a caption, the
scenes that it allows therefore keep their relative probabilities.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import product
from typing import Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from kan_diffusion.errors import DataError, unknown_name

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "HELD_OUT",
    "PAIRS",
    "PROPERTIES",
    "SHAPE_SIDES",
    "WORDINGS",
    "Combinations",
    "all_scenes",
    "captions",
    "coverages",
    "draw_scenes",
    "parse",
    "render",
]

COLOURS: Mapping[str, tuple[int, int, int]] = {
    "red": (223, 31, 47),
    "green": (31, 159, 63),
    "blue": (31, 95, 239),
    "yellow": (255, 207, 15),
    "purple": (159, 47, 207),
    "cyan": (31, 207, 223),
}
"""Colours in 8 bits; differences to the backgrounds are multiples of 16."""

BACKGROUNDS: Mapping[str, tuple[int, int, int]] = {"black": (15, 15, 15), "white": (255, 255, 255)}
"""Backgrounds in 8 bits."""

PAIRS = torch.tensor(list(product(BACKGROUNDS.values(), COLOURS.values()))).float()
"""Backgrounds with colours in 8 bits, in the order of :func:`all_scenes`, shape (12, 2, 3)."""

_DIAMETERS = {"small": 9, "large": 15}  # in places of the grid
_PLACES = (
    ("top left", "top", "top right"),
    ("left", "centre", "right"),
    ("bottom left", "bottom", "bottom right"),
)

PROPERTIES: Mapping[str, Sequence[str]] = {
    "shape": ("circle", "square", "triangle", "star"),
    "colour": tuple(COLOURS),
    "size": tuple(_DIAMETERS),
    "place": tuple(place for row in _PLACES for place in row),
    "background": tuple(BACKGROUNDS),
}
"""What a scene has and a prompt may ask for; a place is a ninth of the picture."""

HELD_OUT: Mapping[str, Sequence[str]] = {
    "circle": ("purple", "small blue"),
    "square": ("cyan", "large yellow"),
    "triangle": ("green", "small red"),
    "star": ("red", "large purple"),
}
"""Colours of each shape that are never trained on, in either size or in one."""

SHAPE_SIDES = (16, 32)
"""Sides, in pixels, in which scenes are drawn."""

WORDINGS = (
    "a {size} {colour} {shape}",
    "a {colour} {shape}, {size}",
    "a {shape} that is {size} and {colour}",
    "a {size} {colour} {shape} on {background}",
    "a {size} {colour} {shape} at the {place}",
    "a {colour} {shape}",
)
"""Wordings of captions. The first names all that may be held out."""

Combinations = Literal["seen", "held-out", "all"]
"""Scenes of combinations that are trained on, of held-out ones, or of any."""

_GRID = 32
_FINE = 8  # fine pixels per place; coverage is their mean
_LEVELS = 16
_SPANS = {
    size: range((diameter + 1) // 2, _GRID - (diameter + 1) // 2 + 1)
    for size, diameter in _DIAMETERS.items()
}
"""Places that the centre of an object may have in either direction."""


def _is_held_out(shape: str, colour: str, size: str) -> bool:
    return colour in HELD_OUT[shape] or f"{size} {colour}" in HELD_OUT[shape]


@lru_cache
def all_scenes() -> pd.DataFrame:
    """Lists all scenes, ordered by background and colour, then by shape, size and place.

    Returns:
        The `PROPERTIES` of each scene; ``x`` and ``y``, the centre of its object on the grid from
        the left and from the top; and whether its combination is ``held_out``.
    """
    rows = [
        (shape, colour, size, _PLACES[3 * y // _GRID][3 * x // _GRID], background, x, y)
        for background, colour, shape, size in product(
            BACKGROUNDS, COLOURS, PROPERTIES["shape"], _DIAMETERS
        )
        for y, x in product(_SPANS[size], repeat=2)
    ]
    table = pd.DataFrame(rows, columns=[*PROPERTIES, "x", "y"])
    held_out = [_is_held_out(*row[:3]) for row in rows]
    return table.astype(dict.fromkeys(PROPERTIES, "category")).assign(held_out=held_out)


def draw_scenes(
    num: int, generator: np.random.Generator, combinations: Combinations = "seen"
) -> NDArray[np.int64]:
    """Draws scenes.

    Args:
        num: How many.
        generator: Source of all draws.
        combinations: Which combinations of shape, colour and size there are.

    Returns:
        Rows of :func:`all_scenes`, shape (num,).
    """
    every = product(PROPERTIES["shape"], COLOURS, _DIAMETERS)
    known = [each for each in every if combinations != "seen" or not _is_held_out(*each)]
    held_out = np.array([_is_held_out(*each) for each in known])
    kinds = all_scenes()[["background", "shape", "colour", "size"]].drop_duplicates()
    first = {tuple(row): number for number, row in kinds.T.items()}
    firsts = np.array([[first[ground, *each] for each in known] for ground in BACKGROUNDS])
    places = np.array([len(_SPANS[size]) for *_, size in known])
    grounds = generator.integers(len(BACKGROUNDS), size=num)
    chosen, steps = np.zeros(num, np.int64), np.zeros((num, 2), np.int64)
    open_ = np.arange(num)
    while len(open_):
        drawn = generator.integers(len(known), size=len(open_))
        chosen[open_] = drawn
        steps[open_] = (generator.random((len(open_), 2)) * places[drawn, None]).astype(np.int64)
        open_ = open_[~held_out[drawn]] if combinations == "held-out" else open_[:0]
    across, down = steps.T
    return np.asarray(firsts[grounds, chosen] + places[chosen] * down + across)


@lru_cache(maxsize=len(SHAPE_SIDES))
def coverages(size: int) -> Tensor:
    """Computes the coverages of all objects in pictures of ``size`` pixels a side.

    Returns:
        A row for each shape, size and place in the order of :func:`all_scenes`, shape
        (3272, size²), float32: from 0 to 1 in sixteenths.

    Raises:
        DataError: Scenes are not drawn in that size.
    """
    if size not in SHAPE_SIDES:
        raise DataError(f"scenes are drawn with 16 or 32 pixels a side, not {size}")
    pixel, masks = _GRID * _FINE // size, []
    for shape, (name, diameter) in product(PROPERTIES["shape"], _DIAMETERS.items()):
        stamp = _stamp(shape, diameter)
        side = len(stamp)
        for y, x in product(_SPANS[name], repeat=2):
            fine = np.zeros((_GRID * _FINE, _GRID * _FINE), np.float32)
            top, left = y * _FINE - side // 2, x * _FINE - side // 2
            fine[top : top + side, left : left + side] = stamp
            coverage = fine.reshape(size, pixel, size, pixel).mean(axis=(1, 3))
            masks.append(np.round(_LEVELS * coverage).ravel() / _LEVELS)
    return torch.from_numpy(np.stack(masks))


def _stamp(shape: str, diameter: int) -> NDArray[np.float32]:
    """Draws a shape with a diameter in places as (d, d) fine pixels from 0 to 1."""
    over = 4  # drawn larger still, so that edges are exact
    side = diameter * _FINE
    picture = Image.new("L", (side * over, side * over))
    draw = ImageDraw.Draw(picture)
    full, radius = side * over - 1, side * over / 2
    if shape == "circle":
        draw.ellipse((0, 0, full, full), fill=255)
    elif shape == "square":
        inset = 0.07 * full
        draw.rectangle((inset, inset, full - inset, full - inset), fill=255)
    else:
        corners, inner = (3, 1.0) if shape == "triangle" else (10, 0.42)
        angles = 2 * np.pi * np.arange(corners) / corners - np.pi / 2
        radii = np.where(np.arange(corners) % 2 == 0, 1.0, inner)
        points = np.stack((np.cos(angles), np.sin(angles)), axis=1) * radii[:, None]
        low, high = points.min(axis=0), points.max(axis=0)
        points = (points - (low + high) / 2) * 2 / (high - low).max()  # as wide as the others
        draw.polygon([(radius + x * radius, radius + y * radius) for x, y in points], fill=255)
    small = picture.resize((side, side), Image.Resampling.BOX)
    return np.asarray(small, np.float32) / np.float32(255)


def render(scenes: Iterable[int], size: int) -> Tensor:
    """Draws scenes as samples.

    Args:
        scenes: The n scenes, rows of :func:`all_scenes`.
        size: Side S in pixels, 16 or 32.

    Returns:
        Shape (n, 3, S, S), float32, from -1 to 1: each a value of 8 bits.

    Raises:
        DataError: Scenes are not drawn in that size.
    """
    masks = coverages(size)
    pairs, rows = np.divmod(np.fromiter(scenes, np.int64), len(masks))
    grounds, colours = PAIRS[pairs][..., None].unbind(1)
    # Whole numbers until they are divided.
    levels = grounds + masks[rows][:, None] * (colours - grounds)
    return (levels / 127.5 - 1).unflatten(2, (size, size))


def captions(
    scenes: Sequence[int] | NDArray[np.int64], generator: np.random.Generator | None = None
) -> tuple[str, ...]:
    """Describes scenes in words.

    Args:
        scenes: The n scenes, rows of :func:`all_scenes`.
        generator: Draws the wordings; all are the first one when None.
    """
    drawn = np.zeros(len(scenes))
    if generator is not None:
        # The first of two numbers, as the captions behind the committed results were drawn.
        drawn = generator.random((len(scenes), 2))[:, 0]
    told = all_scenes().iloc[np.asarray(scenes)]
    properties = zip(*(told[kind] for kind in PROPERTIES), strict=True)
    return tuple(
        WORDINGS[int(number * len(WORDINGS))].format(**dict(zip(PROPERTIES, each, strict=True)))
        for number, each in zip(drawn, properties, strict=True)
    )


_FILLING = {
    *("a", "an", "one", "that", "is", "and", "with", "of", "at", "in", "on", "the", "to"),
    *("picture", "background"),
}
_ANY = {kind: "|".join(sorted(known, key=len, reverse=True)) for kind, known in PROPERTIES.items()}
_PHRASE = re.compile(
    rf"\b(?:(?:at|in|on) the (?P<place>{_ANY['place']})"
    rf"|on (?:a )?(?P<background>{_ANY['background']})"
    rf"|(?P<shape>{_ANY['shape']})|(?P<colour>{_ANY['colour']})|(?P<size>{_ANY['size']})"
    r"|(?P<word>\w+))\b"
)


def parse(prompt: str) -> dict[str, str]:
    """Reads what a prompt asks for; every caption can be read.

    Size, colour and shape come in any order, the place as "at the top left", the background as "on
    white".

    Returns:
        The `PROPERTIES` that it names.

    Raises:
        DataError: A word is unknown, no shape is named, or a property is named twice.
    """
    asked: dict[str, str] = {}
    for match in _PHRASE.finditer(prompt.lower()):
        kind = str(match.lastgroup)
        word = match[kind]
        if kind == "word" and word not in _FILLING:
            known = [*PROPERTIES["shape"], *COLOURS, *_DIAMETERS]
            known += [f"on {background}" for background in BACKGROUNDS]
            raise DataError(f"'{prompt}': {unknown_name('word', word, known)}")
        if kind in asked:
            raise DataError(
                f"'{prompt}': '{word}' is a second {kind}; ask for one object, and say each once"
            )
        if kind != "word":
            asked[kind] = word
    if "shape" not in asked:
        raise DataError(f"'{prompt}' names no shape; known: {', '.join(PROPERTIES['shape'])}")
    return asked
