r"""Scenes of up to three coloured shapes: drawn, described by captions, and read from prompts.

A picture is linear in its things. With the background b, the coverage m_j of pixels by thing j, its
colour c_j, and things that share no pixel,

    picture = b + sum_j m_j (c_j - b).

Coverages are whole sixteenths (Pillow draws each thing once at `_FINE` times the resolution, and
its average over a pixel is rounded) and differences of colours are multiples of 16, so pictures are
exact in 8 bits: written as PNG and read again they are the same numbers.

Things stand on a grid of 32 by 32 places, half a pixel of a picture of 16 pixels, so the data are a
finite mixture: with one thing, of 39,264 pictures at any size. Combinations of shape, colour and
size are drawn uniformly from those that are not held out, and places uniformly from those that fit
the size. A layout in which things come closer than three places is drawn again as a whole.

The wording of a caption is drawn from `WORDINGS` independently of the scene. Given the caption of a
scene of one thing, the scenes that it allows therefore keep their relative probabilities.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, product
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
    "HELD_OUT_PAIRS",
    "HELD_OUT_TRIPLES",
    "MOST_THINGS",
    "PLACES",
    "RELATIONS",
    "SHAPES",
    "SHAPE_SIDES",
    "SIZES",
    "WORDINGS",
    "Asked",
    "AskedThing",
    "Combinations",
    "Renderings",
    "Scene",
    "Thing",
    "caption",
    "draw_scenes",
    "is_held_out",
    "parse",
    "place_of",
    "related",
    "render",
    "renderings",
    "scene_samples",
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

MOST_THINGS = 3
"""Most things of a scene."""

SHAPE_SIDES = (16, 32)
"""Sides, in pixels, in which scenes are drawn."""

_COLUMNS, _ROWS = ("left", "", "right"), ("top", "", "bottom")
PLACES = {
    (column, row): f"{_ROWS[row]} {_COLUMNS[column]}".strip() or "centre"
    for row in range(3)
    for column in range(3)
}
"""Names of the ninths of a picture, by column and row."""

RELATIONS = ("left of", "right of", "above", "below")
"""Relations of a thing to another one."""

Combinations = Literal["seen", "held-out", "all"]
"""Scenes of trained combinations only, with at least one held-out combination, or of any."""

_GRID = 32
_FINE = 8  # fine pixels per place; coverage is their mean
_LEVELS = 16
_GAP = 3  # places; more than the diagonal of a pixel at 16 pixels a side, so that none is shared
_APART = 4 / _GRID  # an eighth of the side; nearer than that on an axis, things have no relation


@dataclass(frozen=True)
class Thing:
    """A thing of a scene.

    Attributes:
        shape: One of `SHAPES`.
        colour: A key of `COLOURS`.
        size: A key of `SIZES`.
        x: Its centre as a fraction of the side from the left, a multiple of 1/32.
        y: The same from the top.

    Raises:
        KanDiffusionError: A name is unknown.
        DataError: The centre is not on the grid, or the thing would leave the picture.
    """

    shape: str
    colour: str
    size: str
    x: float
    y: float

    def __post_init__(self) -> None:
        require_known("shape", self.shape, SHAPES)
        require_known("colour", self.colour, COLOURS)
        require_known("size", self.size, SIZES)
        for name, at in (("x", self.x), ("y", self.y)):
            if at * _GRID not in _span(self.size):
                ends = _span(self.size)
                raise DataError(
                    f"{name} = {at:g} is no place of a {self.size} thing; give a multiple of "
                    f"1/{_GRID} from {ends[0]}/{_GRID} to {ends[-1]}/{_GRID}"
                )

    @property
    def combination(self) -> tuple[str, str, str]:
        """Shape, colour and size."""
        return self.shape, self.colour, self.size

    @property
    def place(self) -> str:
        """Ninth of the picture that the centre is in, see `PLACES`."""
        return place_of(int(self.x * _GRID), int(self.y * _GRID))


@dataclass(frozen=True)
class Scene:
    """Content of a picture.

    Attributes:
        things: One to three things, at least three places apart.
        background: A key of `BACKGROUNDS`.

    Raises:
        KanDiffusionError: The background is unknown.
        DataError: There are too few or too many things, or two come too close.
    """

    things: tuple[Thing, ...]
    background: str

    def __post_init__(self) -> None:
        require_known("background", self.background, BACKGROUNDS)
        if not 1 <= len(self.things) <= MOST_THINGS:
            raise DataError(f"a scene has 1 to {MOST_THINGS} things, not {len(self.things)}")
        for one, other in combinations(self.things, 2):
            far = _GRID * np.hypot(one.x - other.x, one.y - other.y)
            if far < _nearest(SIZES[one.size], SIZES[other.size]):
                raise DataError(
                    f"a {one.shape} and a {other.shape} come too close; move them apart"
                )


def place_of(x: int, y: int) -> str:
    """Names the ninth of the picture that a place of the grid is in, a value of `PLACES`."""
    return PLACES[3 * x // _GRID, 3 * y // _GRID]


def _span(size: str) -> range:
    """Places that the centre of a thing may have in either direction."""
    radius = (SIZES[size] + 1) // 2
    return range(radius, _GRID - radius + 1)


def _nearest(diameter: int | NDArray[np.int64], other: int | NDArray[np.int64]) -> float:
    return (diameter + other) / 2 + _GAP  # type: ignore[return-value]


def _thing(combination: tuple[str, str, str], x: int, y: int) -> Thing:
    shape, colour, size = combination
    return Thing(shape, colour, size, x / _GRID, y / _GRID)


def is_held_out(shape: str, colour: str, size: str) -> bool:
    """Whether a combination is never trained on."""
    return (shape, colour) in HELD_OUT_PAIRS or (shape, colour, size) in HELD_OUT_TRIPLES


_ALL = tuple(product(SHAPES, COLOURS, SIZES))
_SEEN = tuple(combination for combination in _ALL if not is_held_out(*combination))


def draw_scenes(
    num: int,
    generator: np.random.Generator,
    objects: int = 1,
    combinations: Combinations = "seen",
    *,
    fewest: int = 1,
) -> list[Scene]:
    """Draws scenes.

    Args:
        num: How many.
        generator: Source of all draws.
        objects: Most things of a scene; all numbers from ``fewest`` up to it are equally likely.
        combinations: Which combinations of shape, colour and size are allowed. ``"held-out"``
            requires at least one held-out combination in each scene.
        fewest: Fewest things of a scene.

    Raises:
        DataError: A scene cannot have this many things.
    """
    if not 1 <= fewest <= objects <= MOST_THINGS:
        raise DataError(f"a scene has 1 to {MOST_THINGS} things, not {fewest} to {objects}")
    known = _SEEN if combinations == "seen" else _ALL
    diameters = np.array([SIZES[size] for _, _, size in known])
    held_out = np.array([is_held_out(*combination) for combination in known])
    counts = generator.integers(fewest, objects + 1, num)
    backgrounds = generator.integers(len(BACKGROUNDS), size=num)
    chosen, places = np.zeros((num, objects), np.int64), np.zeros((num, objects, 2), np.int64)
    open_ = np.arange(num)
    while len(open_):
        chosen[open_] = generator.integers(len(known), size=(len(open_), objects))
        wide = diameters[chosen[open_]]
        radius = (wide + 1) // 2
        rooms = (_GRID - 2 * radius + 1)[..., None]
        places[open_] = radius[..., None] + (generator.random((*wide.shape, 2)) * rooms).astype(int)
        there = np.arange(objects) < counts[open_, None]
        fine = np.ones(len(open_), bool)
        for i in range(objects):
            for j in range(i):
                far = np.hypot(*(places[open_, i] - places[open_, j]).T)
                fine &= (far >= _nearest(wide[:, i], wide[:, j])) | ~there[:, i]
        if combinations == "held-out":
            fine &= (held_out[chosen[open_]] & there).any(axis=1)
        open_ = open_[~fine]
    names = tuple(BACKGROUNDS)
    return [
        Scene(
            tuple(_thing(known[k], x, y) for k, (x, y) in zip(ks, at, strict=True)),
            names[background],
        )
        for ks, at, background in (
            (chosen[i, :count].tolist(), places[i, :count].tolist(), backgrounds[i])
            for i, count in enumerate(counts)
        )
    ]


@dataclass(frozen=True)
class Renderings:
    """All coverages that a thing can have in pictures of one size.

    Attributes:
        size: Side S in pixels.
        masks: Coverages from 0 to 1 in sixteenths, shape (m, S * S), float32.
        kinds: Indices into `SHAPES` and `SIZES`, shape (m, 2).
        centres: Places (x, y) of the centres on the grid, shape (m, 2).
        colours: Colours in [-1, 1], shape (6, 3), float32.
        backgrounds: Backgrounds in [-1, 1], shape (2, 3), float32.
        rows: The row of each (shape, size, x, y), with x and y in places of the grid.
    """

    size: int
    masks: Tensor
    kinds: NDArray[np.int64]
    centres: NDArray[np.int64]
    colours: Tensor
    backgrounds: Tensor
    rows: dict[tuple[str, str, int, int], int]

    def row(self, thing: Thing) -> int:
        """Returns the row of a thing's coverage."""
        return self.rows[thing.shape, thing.size, int(thing.x * _GRID), int(thing.y * _GRID)]

    def thing(self, row: int, colour: int) -> Thing:
        """Makes the thing with the coverage of a row and the colour of an index."""
        shape, size = self.kinds[row]
        combination = SHAPES[shape], tuple(COLOURS)[colour], tuple(SIZES)[size]
        return _thing(combination, *self.centres[row].tolist())

    def far_enough(self) -> Tensor:
        """Tells which pairs of coverages may share a scene, shape (m, m), bool."""
        centres = torch.from_numpy(self.centres).float()
        wide = torch.tensor(tuple(SIZES.values()))[self.kinds[:, 1]].float()
        return torch.cdist(centres, centres) >= (wide + wide[:, None]) / 2 + _GAP - 1e-3


@lru_cache(maxsize=len(SHAPE_SIDES))
def renderings(size: int) -> Renderings:
    """Computes all coverages of one thing in pictures of ``size`` pixels a side.

    Raises:
        DataError: Scenes are not drawn in that size.
    """
    if size not in SHAPE_SIDES:
        raise DataError(f"scenes are drawn with 16 or 32 pixels a side, not {size}")
    pixel = _GRID * _FINE // size
    masks, kinds, centres = [], [], []
    for (i, shape), (j, name) in product(enumerate(SHAPES), enumerate(SIZES)):
        stamp = _stamp(shape, SIZES[name])
        half = len(stamp) // 2
        for y, x in product(_span(name), _span(name)):
            fine = np.zeros((_GRID * _FINE, _GRID * _FINE), np.float32)
            top, left = y * _FINE - half, x * _FINE - half
            fine[top : top + len(stamp), left : left + len(stamp)] = stamp
            coverage = fine.reshape(size, pixel, size, pixel).mean(axis=(1, 3))
            masks.append(np.round(_LEVELS * coverage).ravel() / _LEVELS)
            kinds.append((i, j))
            centres.append((x, y))
    rows = {
        (SHAPES[i], tuple(SIZES)[j], x, y): row
        for row, ((i, j), (x, y)) in enumerate(zip(kinds, centres, strict=True))
    }
    colours, backgrounds = (
        torch.tensor(list(values.values()), dtype=torch.float32) / 127.5 - 1
        for values in (COLOURS, BACKGROUNDS)
    )
    return Renderings(
        size=size,
        masks=torch.from_numpy(np.stack(masks)),
        kinds=np.array(kinds),
        centres=np.array(centres),
        colours=colours,
        backgrounds=backgrounds,
        rows=rows,
    )


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


def render(scenes: Sequence[Scene], size: int) -> NDArray[np.uint8]:
    """Draws scenes.

    Args:
        scenes: The n scenes.
        size: Side S in pixels, 16 or 32.

    Returns:
        Shape (n, S, S, 3), in 8 bits.

    Raises:
        DataError: Scenes are not drawn in that size.
    """
    all_ = renderings(size)
    sixteenths = (all_.masks.numpy() * _LEVELS).astype(np.int16)
    pictures = np.empty((len(scenes), size * size, 3), np.int16)
    pictures[:] = np.array([BACKGROUNDS[scene.background] for scene in scenes])[:, None, :]
    background = pictures[:, :1].copy()
    for place in range(MOST_THINGS):
        owners = [index for index, scene in enumerate(scenes) if place < len(scene.things)]
        things = [scenes[index].things[place] for index in owners]
        if things:
            steps = (np.array([COLOURS[thing.colour] for thing in things]) // _LEVELS)[:, None]
            steps = (steps - background[owners] // _LEVELS).astype(np.int16)
            rows = [all_.row(thing) for thing in things]
            pictures[owners] += sixteenths[rows][:, :, None] * steps
    return pictures.reshape(-1, size, size, 3).astype(np.uint8)


def scene_samples(scenes: Sequence[Scene], size: int) -> Tensor:
    """Draws n scenes like :func:`render`, as samples (n, 3, S, S) from -1 to 1, float32."""
    return torch.from_numpy(render(scenes, size)).permute(0, 3, 1, 2).float() / 127.5 - 1


WORDINGS: dict[int, tuple[str, ...]] = {
    1: (
        "a {0.size} {0.colour} {0.shape}",
        "a {0.colour} {0.shape}, {0.size}",
        "a {0.shape} that is {0.size} and {0.colour}",
        "a {0.size} {0.colour} {0.shape} on {background}",
        "a {0.size} {0.colour} {0.shape} at the {0.place}",
        "a {0.colour} {0.shape}",
    ),
    2: (
        "a {0.size} {0.colour} {0.shape} {relation} a {1.size} {1.colour} {1.shape}",
        "a {0.colour} {0.shape} {relation} a {1.colour} {1.shape}",
        "a {0.colour} {0.shape}, {0.size}, {relation} a {1.colour} {1.shape}, {1.size}",
        "a {0.size} {0.colour} {0.shape} and a {1.size} {1.colour} {1.shape} on {background}",
    ),
    3: (
        "a {0.size} {0.colour} {0.shape} {relation} a {1.size} {1.colour} {1.shape}, and "
        "a {2.size} {2.colour} {2.shape}",
        "a {0.colour} {0.shape} {relation} a {1.colour} {1.shape}, and a {2.colour} {2.shape}",
        "a {0.colour} {0.shape}, a {1.colour} {1.shape} and a {2.colour} {2.shape} on {background}",
    ),
}
"""Wordings of captions by the number of things. The first names everything but the background."""


def related(one: Thing, other: Thing) -> tuple[str, ...]:
    """Returns all `RELATIONS` of a thing to another that hold by an eighth of the side."""
    right, down = one.x - other.x, one.y - other.y
    holds = (-right, right, -down, down)
    return tuple(name for name, by in zip(RELATIONS, holds, strict=True) if by >= _APART)


def caption(scene: Scene, generator: np.random.Generator | None = None) -> str:
    """Describes a scene in words.

    Args:
        scene: The scene.
        generator: Draws the wording, and a relation if two hold; the first of each when None.
    """
    wordings = WORDINGS[len(scene.things)]
    first, second = (0.0, 0.0) if generator is None else generator.random(2)
    relation = ""
    if len(scene.things) > 1:
        holding = related(*scene.things[:2])
        relation = holding[int(second * len(holding))]
    return wordings[int(first * len(wordings))].format(
        *scene.things, relation=relation, background=scene.background
    )


@dataclass(frozen=True)
class AskedThing:
    """A thing as a prompt asks for it; None where the prompt says nothing.

    Attributes:
        shape: One of `SHAPES`.
        colour: A key of `COLOURS`.
        size: A key of `SIZES`.
        place: A value of `PLACES`.
    """

    shape: str | None = None
    colour: str | None = None
    size: str | None = None
    place: str | None = None

    def allows(self, thing: Thing) -> bool:
        """Whether a thing is as asked."""
        return all(
            asked is None or asked == getattr(thing, name) for name, asked in vars(self).items()
        )


@dataclass(frozen=True)
class Asked:
    """Content of a prompt.

    Attributes:
        things: What the prompt says of each thing, in its order.
        relations: How thing i stands to thing j, each as (i, one of `RELATIONS`, j).
        background: A key of `BACKGROUNDS`, or None.
    """

    things: tuple[AskedThing, ...]
    relations: tuple[tuple[int, str, int], ...] = ()
    background: str | None = None


_FILLING = frozenset(["that", "is", "and", "with", "of", "at", "in", "the", "to", "picture"])
_PLACED = re.compile(
    r"\b(?:at|in|on) the (" + "|".join(sorted(PLACES.values(), key=len, reverse=True)) + r")\b"
)


def parse(prompt: str) -> Asked:
    """Reads what a prompt asks for; every caption can be read.

    Each thing begins with "a". Its size, colour and shape come in any order, its place as "at the
    top left", the background as "on white", and between two things there may be a relation.

    Raises:
        DataError: A word is unknown, a thing has two shapes, colours or sizes or no shape, or a
            relation is not between two things.
    """
    text = _PLACED.sub(lambda match: "@" + match[1].replace(" ", "_"), prompt.lower())
    for relation in RELATIONS:
        text = text.replace(relation, "&" + relation.replace(" ", "_"))
    text = re.sub(r"\bon (?:a )?(\w+)(?: background)?\b", r"#\1", text)
    things: list[dict[str, str]] = []
    relations: list[tuple[int, str, int]] = []
    background = None
    kinds = {
        **dict.fromkeys(SHAPES, "shape"),
        **dict.fromkeys(COLOURS, "colour"),
        **dict.fromkeys(SIZES, "size"),
    }
    for word in re.findall(r"[@&#]?\w+", text):
        name = word[1:].replace("_", " ")
        if word in ("a", "an", "one"):
            things.append({})
        elif word[0] == "#":
            _require_word(name, BACKGROUNDS, prompt)
            background = name
        elif word in _FILLING:
            continue
        elif word[0] == "&":
            if not things:
                raise DataError(f"'{prompt}': '{name}' has no first thing; name one before it")
            relations.append((len(things) - 1, name, len(things)))
        else:
            known = (*kinds, "a")
            value = name if word[0] == "@" else word
            if word[0] != "@":
                _require_word(word, known, prompt)
            kind = "place" if word[0] == "@" else kinds[word]
            if not things or things[-1].setdefault(kind, value) != value:
                raise DataError(
                    f"'{prompt}': '{value}' is a second {kind} of one thing; begin each thing "
                    "with 'a'"
                    if things
                    else f"'{prompt}': '{value}' belongs to no thing; begin each thing with 'a'"
                )
    if any("shape" not in thing for thing in things) or not 1 <= len(things) <= MOST_THINGS:
        raise DataError(
            f"'{prompt}' does not ask for 1 to {MOST_THINGS} things with a shape each; known: "
            f"{', '.join(SHAPES)}"
        )
    if any(later >= len(things) for _, _, later in relations):
        raise DataError(f"'{prompt}': a relation has no second thing; name one behind it")
    return Asked(tuple(AskedThing(**thing) for thing in things), tuple(relations), background)


def _require_word(word: str, known: Collection[str], prompt: str) -> None:
    if word not in known:
        raise DataError(f"'{prompt}': {unknown_name('word', word, known)}")
