import math
from collections import Counter
from itertools import product

import numpy as np
import pytest

from helpers import refused
from kan_diffusion.errors import DataError
from kan_diffusion.pictures.codec import PictureCodec
from kan_diffusion.pictures.scenes import (
    BACKGROUNDS,
    COLOURS,
    COVERAGES,
    HELD_OUT_PAIRS,
    HELD_OUT_TRIPLES,
    PLACES,
    SHAPES,
    SIZES,
    WORDINGS,
    Asked,
    Scene,
    caption,
    coverages,
    draw_scenes,
    is_held_out,
    parse,
    render,
)


def _rng(seed=0):
    return np.random.default_rng(seed)


def _levels(scenes, size):
    """The pictures of scenes in 8 bits, (n, size, size, 3)."""
    pictures = PictureCodec(size=size).decode(render(scenes, size))
    return np.stack([np.asarray(picture) for picture in pictures])


@pytest.mark.parametrize("size", [16, 32])
def test_pictures_are_linear_in_the_coverage_of_their_object(size):
    for scene in draw_scenes(50, _rng(), "all"):
        background = np.array(BACKGROUNDS[scene.background], dtype=np.float64)
        row = COVERAGES.index((scene.shape, scene.size, scene.x, scene.y))
        cover = coverages(size)[row].numpy().astype(np.float64)[:, None]
        picture = background + cover * (np.array(COLOURS[scene.colour]) - background)
        # Exact in 8 bits: nothing was rounded.
        np.testing.assert_array_equal(_levels([scene], size)[0].reshape(-1, 3), picture)
        samples = render([scene], size)
        codec = PictureCodec(size=size)
        assert codec.encode(codec.decode(samples)).equal(samples)


@pytest.mark.parametrize("size", [16, 32])
def test_coverages_have_the_area_and_the_centre_of_their_shape(size):
    known, steps = coverages(size).numpy(), np.arange(size) + 0.5
    for shape, name in product(SHAPES, SIZES):
        rows = [row for row, kind in enumerate(COVERAGES) if kind[:2] == (shape, name)]
        centres = np.array([COVERAGES[row][2:] for row in rows])
        masks = known[rows].reshape(-1, size, size)
        wide = SIZES[name] * size / 32
        share = {"circle": math.pi / 4, "square": 0.86**2, "triangle": math.sqrt(3) / 4}
        if shape in share:
            np.testing.assert_allclose(masks.sum(axis=(1, 2)), share[shape] * wide**2, rtol=0.06)
        areas = masks.sum(axis=(1, 2))
        x = (masks.sum(axis=1) * steps).sum(axis=1) / areas
        np.testing.assert_allclose(x, centres[:, 0] * size / 32, atol=0.08)
        if shape in ("circle", "square"):
            y = (masks.sum(axis=2) * steps).sum(axis=1) / areas
            np.testing.assert_allclose(y, centres[:, 1] * size / 32, atol=0.08)
        widths = (masks.max(axis=1) > 0).sum(axis=1)
        assert widths.max() <= wide + 2


def test_small_pictures_are_the_average_of_large_ones():
    scenes = draw_scenes(100, _rng(1))
    small, large = (_levels(scenes, size).astype(float) for size in (16, 32))
    halved = large.reshape(-1, 16, 2, 16, 2, 3).mean(axis=(2, 4))
    # Coverages are rounded to sixteenths, before and after the average.
    assert np.abs(halved - small).max() <= 240 / 16 + 1e-9


def test_all_coverages_are_different():
    masks = (16 * coverages(16).numpy()).astype(np.uint8)
    assert len({mask.tobytes() for mask in masks}) == len(masks) == len({*COVERAGES}) == 3272


def test_combinations_are_held_out():
    seen = draw_scenes(1000, _rng(2))
    assert seen[:50] == draw_scenes(1000, _rng(2))[:50] != draw_scenes(1000, _rng(3))[:50]
    assert not any(is_held_out(*scene.combination) for scene in seen)
    for scene in draw_scenes(200, _rng(3), "held-out"):
        assert is_held_out(*scene.combination)
    words = {word for scene in seen for word in scene.combination}
    assert words == {*SHAPES, *COLOURS, *SIZES}  # so that what is held out can be composed


def test_held_out_combinations_are_known_words_and_do_not_repeat():
    pairs = {*HELD_OUT_PAIRS}
    assert len(pairs) == len(HELD_OUT_PAIRS) == len({shape for shape, _ in pairs})
    for shape, colour, size in HELD_OUT_TRIPLES:
        assert shape in SHAPES
        assert colour in COLOURS
        assert size in SIZES
        assert (shape, colour) not in pairs
        assert not is_held_out(shape, colour, next(other for other in SIZES if other != size))


def test_scenes_are_uniform():
    scenes = draw_scenes(18_000, _rng(4))
    for counts, cells in (
        (Counter(scene.combination for scene in scenes), 36),
        (Counter(scene.background for scene in scenes), 2),
        (Counter(scene.x for scene in scenes if scene.size == "large"), 17),
        (Counter(scene.y for scene in scenes if scene.size == "small"), 23),
    ):
        expected = sum(counts.values()) / cells
        assert len(counts) == cells
        # Five standard deviations of a cell: less than one in 10^4 for all cells together.
        assert max(abs(n - expected) for n in counts.values()) < 5 * math.sqrt(expected)


def test_captions_are_read_back():
    generator = _rng(8)
    for scene in draw_scenes(300, generator, "all"):
        text = caption(scene, generator)
        asked = parse(text)
        assert asked.shape == scene.shape
        assert all(asked.met(scene).values())
        assert ("on " + scene.background in text) == (asked.background is not None)


def test_captions_use_every_wording_equally():
    scene = Scene("star", "blue", "small", 8, 16, "white")
    generator = _rng(9)
    counts = Counter(caption(scene, generator) for _ in range(6000))
    assert counts.keys() == {text.format(**vars(scene), place=scene.place) for text in WORDINGS}
    assert all(abs(n - 1000) < 5 * math.sqrt(1000) for n in counts.values())
    assert caption(scene) == "a small blue star"
    assert "a small blue star at the left" in counts


def test_prompts_are_read_in_any_order():
    assert parse("A large, green star at the bottom right on a black background") == Asked(
        "star", "green", "large", "bottom right", "black"
    )
    assert parse("a circle in the centre") == Asked("circle", place="centre")


def test_what_is_asked_is_met_or_not():
    asked = parse("a red star at the top on white")
    scene = Scene("star", "blue", "small", 16, 6, "white")
    assert asked.met(scene) == {"shape": True, "colour": False, "place": True, "background": True}


def test_places_are_ninths():
    def place(x, y):
        return Scene("star", "blue", "small", x, y, "white").place

    assert {place(x, y) for x, y in product(range(5, 28), repeat=2)} == {*PLACES.values()}
    assert (place(16, 16), place(8, 24), place(16, 8)) == ("centre", "bottom left", "top")


def test_prompts_that_cannot_be_read_are_refused():
    for prompt, message in (
        ("a purpel star", "unknown word 'purpel', did you mean 'purple'"),
        ("a red", "names no shape; known: circle, square, triangle, star"),
        ("", "names no shape"),
        ("a red star circle", "'circle' is a second shape"),
        ("a red star and a red star", "'red' is a second colour; ask for one object"),
        ("a star at the top left of a circle", "'circle' is a second shape"),
        ("a star left of a circle", "unknown word 'left'"),
        ("a star on pink", "unknown word 'pink'.*known: black, white"),
    ):
        with refused(message, DataError):
            parse(prompt)


def test_scenes_that_cannot_be_drawn_are_refused():
    star = Scene("star", "blue", "small", 16, 16, "white")
    for draw, message in (
        (lambda: Scene("hexagon", "blue", "small", 16, 16, "white"), "unknown shape 'hexagon'"),
        (lambda: Scene("star", "blue", "small", 16.5, 16, "white"), "16.5 and 16; .* from 5 to 27"),
        (lambda: Scene("star", "blue", "large", 16, 28, "white"), "a large object .* from 8 to 24"),
        (lambda: Scene("star", "blue", "small", 16, 16, "pink"), "unknown background 'pink'"),
        (lambda: render([star], 20), "16 or 32 pixels"),
    ):
        with refused(message):
            draw()
