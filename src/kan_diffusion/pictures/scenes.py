r"""Scenes of a coloured object: drawn, described by captions, and read from prompts.

A picture is linear in its object. With the background b, the coverage m of pixels by the object,
and its colour c,

    picture = b + m (c - b).

Coverages are whole sixteenths (Pillow draws each shape once at `_FINE` times the resolution, and
its average over a pixel is rounded) and differences of colours are multiples of 16, so pictures are
exact in 8 bits: written as PNG and read again they are the same numbers.

Objects stand on a grid of 32 by 32 places, half a pixel of a picture of 16 pixels, so the data are
a finite mixture of 39,264 pictures at any size. Combinations of shape, colour and size are drawn
uniformly from those that are not held out, and places uniformly from those that fit the size.

The wording of a caption is drawn from `WORDINGS` independently of the scene. Given a caption, the
scenes that it allows therefore keep their relative probabilities.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from kan_diffusion.errors import DataError, require_known, unknown_name

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "COVERAGES",
    "HELD_OUT_PAIRS",
    "HELD_OUT_TRIPLES",
    "PLACES",
    "SHAPES",
    "SHAPE_SIDES",
    "SIZES",
    "WORDINGS",
    "Asked",
    "Combinations",
    "Scene",
    "caption",
    "coverages",
    "draw_scenes",
    "in_samples",
    "is_held_out",
    "parse",
    "place_of",
    "render",
]

SHAPES = ("circle", "square", "triangle", "star")
"""Names of the shapes."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (223, 31, 47),
    "green": (31, 159, 63),
    "blue": (31, 95, 239),
    "yellow": (255, 207, 15),
    "purple": (159, 47, 207),
    "cyan": (31, 207, 223),
}
"""Colours in 8 bits; differences to the backgrounds are multiples of 16."""

SIZES: dict[str, int] = {"small": 9, "large": 15}
"""Diameters in places of the grid."""

BACKGROUNDS: dict[str, tuple[int, int, int]] = {"black": (15, 15, 15), "white": (255, 255, 255)}
"""Backgrounds in 8 bits."""

HELD_OUT_PAIRS = (
    ("circle", "purple"),
    ("square", "cyan"),
    ("triangle", "green"),
    ("star", "red"),
)
"""Pairs of shape and colour that are never trained on, in either size."""

HELD_OUT_TRIPLES = (
    ("circle", "blue", "small"),
    ("square", "yellow", "large"),
    ("triangle", "red", "small"),
    ("star", "purple", "large"),
)
"""Triples of shape, colour and size that are never trained on."""

SHAPE_SIDES = (16, 32)
"""Sides, in pixels, in which scenes are drawn."""

_COLUMNS, _ROWS = ("left", "", "right"), ("top", "", "bottom")
PLACES = {
    (column, row): f"{_ROWS[row]} {_COLUMNS[column]}".strip() or "centre"
    for row in range(3)
    for column in range(3)
}
"""Names of the ninths of a picture, by column and row."""

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
    for size, diameter in SIZES.items()
}
"""Places that the centre of an object may have in either direction."""

COVERAGES = tuple(
    (shape, size, x, y)
    for shape, (size, span) in product(SHAPES, _SPANS.items())
    for y, x in product(span, span)
)
"""Shape, size and centre of all 3,272 objects but for their colours."""

_ROWS_OF = {coverage: row for row, coverage in enumerate(COVERAGES)}


@dataclass(frozen=True)
class Scene:
    """Content of a picture: an object on a background.

    Attributes:
        shape: One of `SHAPES`.
        colour: A key of `COLOURS`.
        size: A key of `SIZES`.
        x: Place of the object's centre on the grid, from the left, of 32.
        y: The same from the top.
        background: A key of `BACKGROUNDS`.

    Raises:
        KanDiffusionError: A name is unknown.
        DataError: The centre is not on the grid, or the object would leave the picture.
    """

    shape: str
    colour: str
    size: str
    x: int
    y: int
    background: str

    def __post_init__(self) -> None:
        require_known("shape", self.shape, SHAPES)
        require_known("colour", self.colour, COLOURS)
        require_known("size", self.size, SIZES)
        require_known("background", self.background, BACKGROUNDS)
        span = _SPANS[self.size]
        if self.x not in span or self.y not in span:
            raise DataError(
                f"the centre of a {self.size} object is at {self.x:g} and {self.y:g}; give whole "
                f"numbers from {span[0]} to {span[-1]}"
            )

    @property
    def combination(self) -> tuple[str, str, str]:
        """Shape, colour and size."""
        return self.shape, self.colour, self.size

    @property
    def place(self) -> str:
        """Ninth of the picture that the centre is in, a value of `PLACES`."""
        return place_of(self.x, self.y)


def place_of(x: int, y: int) -> str:
    """Names the ninth of the picture that a place of the grid is in, a value of `PLACES`."""
    return PLACES[3 * x // _GRID, 3 * y // _GRID]


def is_held_out(shape: str, colour: str, size: str) -> bool:
    """Whether a combination is never trained on."""
    return (shape, colour) in HELD_OUT_PAIRS or (shape, colour, size) in HELD_OUT_TRIPLES


_ALL = tuple(product(SHAPES, COLOURS, SIZES))
_SEEN = tuple(combination for combination in _ALL if not is_held_out(*combination))


def draw_scenes(
    num: int, generator: np.random.Generator, combinations: Combinations = "seen"
) -> list[Scene]:
    """Draws scenes.

    Args:
        num: How many.
        generator: Source of all draws.
        combinations: Which combinations of shape, colour and size there are.
    """
    known = _SEEN if combinations == "seen" else _ALL
    held_out = np.array([is_held_out(*combination) for combination in known])
    spans = np.array([(_SPANS[size][0], len(_SPANS[size])) for _, _, size in known])
    backgrounds = generator.integers(len(BACKGROUNDS), size=num)
    chosen, places = np.zeros(num, np.int64), np.zeros((num, 2), np.int64)
    open_ = np.arange(num)
    while len(open_):
        drawn = generator.integers(len(known), size=len(open_))
        first, count = spans[drawn].T[..., None]
        chosen[open_] = drawn
        places[open_] = first + (generator.random((len(open_), 2)) * count).astype(np.int64)
        open_ = open_[~held_out[drawn]] if combinations == "held-out" else open_[:0]
    names = tuple(BACKGROUNDS)
    return [
        Scene(*known[k], x, y, names[background])
        for k, (x, y), background in zip(chosen, places.tolist(), backgrounds, strict=True)
    ]


@lru_cache(maxsize=len(SHAPE_SIDES))
def coverages(size: int) -> Tensor:
    """Computes the coverages of all objects in pictures of ``size`` pixels a side.

    Returns:
        A row for each of `COVERAGES`, shape (3272, size²), float32: from 0 to 1 in sixteenths.

    Raises:
        DataError: Scenes are not drawn in that size.
    """
    if size not in SHAPE_SIDES:
        raise DataError(f"scenes are drawn with 16 or 32 pixels a side, not {size}")
    pixel = _GRID * _FINE // size
    stamps = {kind: _stamp(kind[0], SIZES[kind[1]]) for kind in product(SHAPES, SIZES)}
    masks = np.zeros((len(COVERAGES), size**2), np.float32)
    for mask, (shape, name, x, y) in zip(masks, COVERAGES, strict=True):
        stamp = stamps[shape, name]
        half = len(stamp) // 2
        fine = np.zeros((_GRID * _FINE, _GRID * _FINE), np.float32)
        top, left = y * _FINE - half, x * _FINE - half
        fine[top : top + len(stamp), left : left + len(stamp)] = stamp
        coverage = fine.reshape(size, pixel, size, pixel).mean(axis=(1, 3))
        mask[:] = np.round(_LEVELS * coverage).ravel() / _LEVELS
    return torch.from_numpy(masks)


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


def in_samples(levels: Iterable[tuple[int, int, int]]) -> Tensor:
    """Turns n colours in 8 bits into values from -1 to 1, shape (n, 3), float32."""
    return torch.tensor(list(levels), dtype=torch.float32).reshape(-1, 3) / 127.5 - 1


def render(scenes: Sequence[Scene], size: int) -> Tensor:
    """Draws scenes as samples.

    Args:
        scenes: The n scenes.
        size: Side S in pixels, 16 or 32.

    Returns:
        Shape (n, 3, S, S), float32, from -1 to 1: each a value of 8 bits.

    Raises:
        DataError: Scenes are not drawn in that size.
    """
    rows = [_ROWS_OF[scene.shape, scene.size, scene.x, scene.y] for scene in scenes]
    backgrounds, colours = (
        torch.tensor(levels, dtype=torch.float32).reshape(-1, 3, 1)
        for levels in (
            [BACKGROUNDS[scene.background] for scene in scenes],
            [COLOURS[scene.colour] for scene in scenes],
        )
    )
    # Whole numbers until they are divided.
    levels = backgrounds + coverages(size)[rows][:, None] * (colours - backgrounds)
    return (levels / 127.5 - 1).unflatten(2, (size, size))


def caption(scene: Scene, generator: np.random.Generator | None = None) -> str:
    """Describes a scene in words.

    Args:
        scene: The scene.
        generator: Draws the wording; the first one when None.
    """
    # One of two numbers, as the captions behind the committed results were drawn.
    first = 0.0 if generator is None else generator.random(2)[0]
    return WORDINGS[int(first * len(WORDINGS))].format(**vars(scene), place=scene.place)


@dataclass(frozen=True)
class Asked:
    """Content of a prompt; None where it says nothing.

    Attributes:
        shape: One of `SHAPES`.
        colour: A key of `COLOURS`.
        size: A key of `SIZES`.
        place: A value of `PLACES`.
        background: A key of `BACKGROUNDS`.
    """

    shape: str | None = None
    colour: str | None = None
    size: str | None = None
    place: str | None = None
    background: str | None = None

    def met(self, scene: Scene) -> dict[str, bool]:
        """Tells for each property that is asked for whether a scene has it."""
        asked = {name: value for name, value in vars(self).items() if value is not None}
        return {name: getattr(scene, name) == value for name, value in asked.items()}


_KINDS = {
    **dict.fromkeys(SHAPES, "shape"),
    **dict.fromkeys(COLOURS, "colour"),
    **dict.fromkeys(SIZES, "size"),
}
_FILLING = frozenset(
    ["a", "an", "one", "that", "is", "and", "with", "of", "at", "in", "the", "to", "picture"]
)
_PLACED = re.compile(
    r"\b(?:at|in|on) the (" + "|".join(sorted(PLACES.values(), key=len, reverse=True)) + r")\b"
)
_GROUND = re.compile(r"\bon (?:a )?(\w+)(?: background)?\b")


def parse(prompt: str) -> Asked:
    """Reads what a prompt asks for; every caption can be read.

    Size, colour and shape come in any order, the place as "at the top left", the background as "on
    white".

    Raises:
        DataError: A word is unknown, no shape is named, or a property is named twice.
    """
    text = _PLACED.sub(lambda match: "@" + match[1].replace(" ", "_"), prompt.lower())
    asked: dict[str, str] = {}
    for word in re.findall(r"[@#]?\w+", _GROUND.sub(r"#\1", text)):
        if word in _FILLING:
            continue
        kind, value = "place", word.lstrip("@#").replace("_", " ")
        if word[0] != "@":
            known = dict.fromkeys(BACKGROUNDS, "background") if word[0] == "#" else _KINDS
            if value not in known:
                raise DataError(f"'{prompt}': {unknown_name('word', value, known)}")
            kind = known[value]
        if kind in asked:
            raise DataError(
                f"'{prompt}': '{value}' is a second {kind}; ask for one object, and say each once"
            )
        asked[kind] = value
    if "shape" not in asked:
        raise DataError(f"'{prompt}' names no shape; known: {', '.join(SHAPES)}")
    return Asked(**asked)
