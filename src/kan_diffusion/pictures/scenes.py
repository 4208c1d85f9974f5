r"""Scenes of a coloured object: drawn, described by captions, read, and denoised exactly.

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

Inner products of a picture with all renderings r_k follow from those with coverages, and so does
the posterior mean that no denoiser beats,

.. math:: E[x_0 \mid \alpha x_0 + \sigma \varepsilon = x] = \sum_k w_k(x) r_k,
    \qquad w_k(x) \propto w_k \exp((\alpha x \cdot r_k - \alpha^2 \|r_k\|^2 / 2) / \sigma^2).

A generated picture is read as the scene with the nearest rendering: the one with the largest
exponent at :math:`\alpha = 1`, whatever the noise.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import product
from typing import Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from kan_diffusion.data.densities import Level, by_chunks
from kan_diffusion.errors import DataError, unknown_name

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
    kinds = {kind: pd.CategoricalDtype([*known]) for kind, known in PROPERTIES.items()}
    return table.astype(kinds).assign(held_out=[_is_held_out(*row[:3]) for row in rows])


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
    kinds = ["shape", "colour", "size"]
    first = all_scenes().drop_duplicates(kinds).sort_values(kinds)  # on black, at the top left
    if combinations == "seen":
        first = first[~first["held_out"]]
    rows, held_out = first.index.to_numpy(), first["held_out"].to_numpy()
    places = np.array([len(_SPANS[size]) for size in first["size"]])
    grounds = generator.integers(len(BACKGROUNDS), size=num)
    chosen, steps = np.zeros(num, np.int64), np.zeros((num, 2), np.int64)
    open_ = np.arange(num)
    while len(open_):
        drawn = generator.integers(len(rows), size=len(open_))
        chosen[open_] = drawn
        steps[open_] = (generator.random((len(open_), 2)) * places[drawn, None]).astype(np.int64)
        open_ = open_[~held_out[drawn]] if combinations == "held-out" else open_[:0]
    across, down = steps.T
    on_black = rows[chosen] + places[chosen] * down + across
    return np.asarray(on_black + len(all_scenes()) // len(BACKGROUNDS) * grounds)


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
    scene_rows = all_scenes().iloc[np.asarray(scenes)].to_dict("records")
    return tuple(
        WORDINGS[int(number * len(WORDINGS))].format_map(each)
        for number, each in zip(drawn, scene_rows, strict=True)
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


class SceneOracle:
    """The exact posterior mean of scenes, with or without a prompt.

    The combination of shape, colour and size, the place for an object of its size, and background
    are uniform and independent, as :func:`draw_scenes` draws them.

    Args:
        size: Pixels of a side S, 16 or 32.
        combinations: Which combinations of shape, colour and size there are.

    Raises:
        DataError: Scenes are not drawn in that size.
    """

    def __init__(self, size: int, combinations: Combinations = "seen") -> None:
        self.size = size
        self.masks = coverages(size).double()
        self.shades, colours = (PAIRS / 127.5 - 1).double().unbind(1)
        self.steps = colours - self.shades
        areas, squares = self.masks.sum(dim=1), self.masks.square().sum(dim=1)
        self.norms = (
            self.shades.square().sum(dim=1, keepdim=True) * size**2
            + 2 * (self.shades * self.steps).sum(dim=1, keepdim=True) * areas
            + self.steps.square().sum(dim=1, keepdim=True) * squares
        )
        scenes = all_scenes()
        rooms = scenes["size"].map(scenes["size"].value_counts()).astype(float)
        wanted = scenes["held_out"].eq(combinations == "held-out") | (combinations == "all")
        weights = torch.tensor((wanted / rooms).to_numpy())
        self.log_weights = weights.log().reshape(self.norms.shape)

    def _weights_of(self, prompt: str) -> Tensor:
        """Computes the log-weights of scenes that a prompt allows, (12, m), -inf of all others."""
        if not prompt:
            return self.log_weights
        scenes = all_scenes()
        met = [scenes[kind].eq(value).to_numpy() for kind, value in parse(prompt).items()]
        allowed = torch.from_numpy(np.logical_and.reduce(met)).reshape(self.norms.shape)
        weights = self.log_weights.masked_fill(~allowed, -torch.inf)
        if not bool(weights.isfinite().any()):
            raise DataError(
                f"'{prompt}' is held out: no picture of these combinations is as it asks; take "
                "combinations='all'"
            )
        return weights

    @torch.no_grad()
    def posterior_mean(
        self, x: Tensor, alpha: Level, sigma: Level, prompts: Collection[str] | None = None
    ) -> Tensor:
        """Computes E[x_0 | alpha x_0 + sigma eps = x, prompt].

        Args:
            x: Noised pictures with shape (n, 3, S, S), or (n, 3 S S).
            alpha: Signal level, at least 0; a number or shape (n,).
            sigma: Noise level, positive; a number or shape (n,).
            prompts: A caption for each picture; an empty one says nothing.

        Returns:
            The shape of x, float64, on its device.

        Raises:
            DataError: A shape is wrong, sigma is not positive, or a prompt cannot be read or allows
                no picture.
        """
        flat, size = x.flatten(1), self.size
        if flat.shape[1] != 3 * size**2:
            raise DataError(
                f"pictures must have shape (n, 3, {size}, {size}), got {tuple(x.shape)}"
            )
        texts = [""] * len(flat) if prompts is None else list(prompts)
        if len(texts) != len(flat):
            raise DataError(f"{len(flat)} pictures and {len(texts)} prompts; give one for each")
        count = self.norms.numel()
        mean = by_chunks(self._mean, flat, alpha, sigma, flat.shape[1], count, texts, noised=True)
        return mean.reshape(x.shape)

    def _mean(self, x: Tensor, alpha: Tensor, sigma: Tensor, prompts: Sequence[str]) -> Tensor:
        given = torch.stack([self._weights_of(prompt) for prompt in prompts])
        logits = self.exponents(x, alpha) / sigma[:, :, None] ** 2 + given
        weights = logits.flatten(1).softmax(dim=1).unflatten(1, self.norms.shape)
        shades = weights.sum(dim=2) @ self.shades
        covered = (self.steps.T @ weights).flatten(0, 1) @ self.masks
        return (shades.reshape(-1, 1) + covered).reshape(len(weights), -1)

    def exponents(self, x: Tensor, alpha: Tensor) -> Tensor:
        """Computes alpha x r - alpha² |r|² / 2 of pictures (n, 3 S S) and all r, (n, 12, m)."""
        pixels = x.reshape(-1, self.size**2)
        seen = (pixels @ self.masks.T).unflatten(0, (-1, 3))
        sums = pixels.sum(dim=1).unflatten(0, (-1, 3))
        products = (sums @ self.shades.T)[:, :, None] + self.steps @ seen
        alpha = alpha[:, :, None]
        return alpha * products - alpha**2 / 2 * self.norms


def read_scenes(samples: Tensor) -> pd.DataFrame:
    """Reads each picture as the nearest scene of all.

    Args:
        samples: Shape (n, 3, S, S) with values in [-1, 1] and S of 16 or 32.

    Returns:
        The rows of :func:`all_scenes`, and the Euclidean ``distance``
        of each picture to the scene's rendering.

    Raises:
        DataError: The shape is wrong, or a value is not finite.
    """
    if samples.ndim != 4 or samples.shape[1] != 3 or samples.shape[2] != samples.shape[3]:
        raise DataError(f"pictures must have shape (n, 3, S, S), got {tuple(samples.shape)}")
    if not bool(samples.isfinite().all()):
        raise DataError("pictures have values that are not finite; sample again or train longer")
    pictures, size = samples.detach().cpu(), samples.shape[2]
    oracle = SceneOracle(size, "all")

    def nearest(x: Tensor, alpha: Tensor, _: Tensor) -> Tensor:
        return oracle.exponents(x, alpha).flatten(1).argmax(dim=1)

    flat = pictures.flatten(1)
    rows = by_chunks(nearest, flat, 1.0, 0.0, flat.shape[1], oracle.norms.numel()).numpy()
    away = (pictures - render(rows, size)).flatten(1).norm(dim=1)
    return all_scenes().iloc[rows].assign(distance=away.numpy())


def score_scenes(samples: Tensor, prompts: Collection[str]) -> dict[str, float]:
    """Judges pictures by what their prompts ask for.

    Args:
        samples: Shape (n, 3, S, S) with values in [-1, 1] and S of 16 or 32.
        prompts: A prompt for each picture; see :func:`parse`.

    Returns:
        Shares from 0 to 1 of the pictures whose ``"shape"``, ``"colour"``, ``"size"``, ``"place"``
        and ``"background"`` are as asked, each of those whose prompts say something about it, NaN
        where none does; the share in which ``"all"`` is as asked; and the median ``"distance"`` to
        the scene that was read.

    Raises:
        DataError: The numbers of pictures and prompts differ, or a prompt cannot be read.
    """
    if len(samples) != len(prompts) or not len(prompts):
        raise DataError(
            f"{len(samples)} pictures and {len(prompts)} prompts; give a prompt for each picture"
        )
    asked = pd.DataFrame(map(parse, prompts), columns=list(PROPERTIES), dtype=object)
    read = read_scenes(samples).set_index(asked.index)
    said = asked.notna()
    met = read[asked.columns].astype(object).eq(asked)
    scores = met.where(said).astype(float).mean()
    return {
        **scores,
        "all": float((met | ~said).all(axis=1).mean()),
        "distance": float(read["distance"].median()),
    }
