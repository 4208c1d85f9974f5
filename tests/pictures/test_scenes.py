import math
from collections import Counter
from itertools import product

import numpy as np
import pytest

from helpers import refused
from kan_diffusion.errors import DataError
from kan_diffusion.pictures.scenes import (
    BACKGROUNDS,
    COLOURS,
    HELD_OUT_PAIRS,
    HELD_OUT_TRIPLES,
    PLACES,
    SHAPES,
    SIZES,
    WORDINGS,
    Asked,
    AskedThing,
    Scene,
    Thing,
    caption,
    draw_scenes,
    is_held_out,
    parse,
    render,
    renderings,
)


def _rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("size", [16, 32])
def test_pictures_are_linear_in_the_coverage_of_their_thing(size):
    known = renderings(size)
    for scene in draw_scenes(50, _rng(), 1, "all"):
        background = np.array(BACKGROUNDS[scene.background], dtype=np.float64)
        (thing,) = scene.things
        cover = known.masks[known.row(thing)].numpy().astype(np.float64)[:, None]
        picture = background + cover * (np.array(COLOURS[thing.colour]) - background)
        # Exact in 8 bits: nothing was rounded.
        np.testing.assert_array_equal(render([scene], size)[0].reshape(-1, 3), picture)


@pytest.mark.parametrize("size", [16, 32])
def test_coverages_have_the_area_and_the_centre_of_their_shape(size):
    known = renderings(size)
    steps = np.arange(size) + 0.5
    for (i, shape), (j, name) in product(enumerate(SHAPES), enumerate(SIZES)):
        rows = (known.kinds == (i, j)).all(axis=1)
        masks = known.masks[rows].numpy().reshape(-1, size, size)
        wide = SIZES[name] * size / 32
        share = {"circle": math.pi / 4, "square": 0.86**2, "triangle": math.sqrt(3) / 4}
        if shape in share:
            np.testing.assert_allclose(masks.sum(axis=(1, 2)), share[shape] * wide**2, rtol=0.06)
        areas = masks.sum(axis=(1, 2))
        x = (masks.sum(axis=1) * steps).sum(axis=1) / areas
        np.testing.assert_allclose(x, known.centres[rows, 0] * size / 32, atol=0.08)
        if shape in ("circle", "square"):
            y = (masks.sum(axis=2) * steps).sum(axis=1) / areas
            np.testing.assert_allclose(y, known.centres[rows, 1] * size / 32, atol=0.08)
        widths = (masks.max(axis=1) > 0).sum(axis=1)
        assert widths.max() <= wide + 2


def test_small_pictures_are_the_average_of_large_ones():
    scenes = draw_scenes(100, _rng(1))
    small, large = (render(scenes, size).astype(float) for size in (16, 32))
    halved = large.reshape(-1, 16, 2, 16, 2, 3).mean(axis=(2, 4))
    # Coverages are rounded to sixteenths, before and after the average.
    assert np.abs(halved - small).max() <= 240 / 16 + 1e-9


def test_all_renderings_are_different():
    masks = (16 * renderings(16).masks.numpy()).astype(np.uint8)
    assert len({mask.tobytes() for mask in masks}) == len(masks) == 3272


def test_combinations_are_held_out():
    seen = draw_scenes(1000, _rng(2))
    assert seen[:50] == draw_scenes(1000, _rng(2))[:50] != draw_scenes(1000, _rng(3))[:50]
    assert not any(is_held_out(*scene.things[0].combination) for scene in seen)
    for scene in draw_scenes(200, _rng(3), 1, "held-out"):
        assert is_held_out(*scene.things[0].combination)
    words = {word for scene in seen for word in scene.things[0].combination}
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


def test_scenes_of_one_thing_are_uniform():
    scenes = draw_scenes(18_000, _rng(4))
    for counts, cells in (
        (Counter(scene.things[0].combination for scene in scenes), 36),
        (Counter(scene.background for scene in scenes), 2),
        (Counter(s.things[0].x for s in scenes if s.things[0].size == "large"), 17),
        (Counter(s.things[0].y for s in scenes if s.things[0].size == "small"), 23),
    ):
        expected = sum(counts.values()) / cells
        assert len(counts) == cells
        # Five standard deviations of a cell: less than one in 10^4 for all cells together.
        assert max(abs(n - expected) for n in counts.values()) < 5 * math.sqrt(expected)


def test_captions_are_read_back():
    generator = _rng(8)
    for scene in draw_scenes(300, generator, 1, "all"):
        text = caption(scene, generator)
        asked = parse(text)
        (want,), (thing,) = asked.things, scene.things
        assert want.shape == thing.shape
        assert want.allows(thing)
        assert asked.background in (None, scene.background)
        assert ("on " + scene.background in text) == (asked.background is not None)


def test_scenes_of_several_things_have_captions_with_relations():
    generator = _rng(8)
    for scene in draw_scenes(50, generator, 2, fewest=2):
        asked = parse(caption(scene, generator))
        assert all(w.allows(t) for w, t in zip(asked.things, scene.things, strict=True))
    two = AskedThing("square", "red"), AskedThing("circle", "blue")
    assert parse("a red square above a blue circle") == Asked(two, ((0, "above", 1),))


def test_captions_use_every_wording_equally():
    scene = Scene((Thing("star", "blue", "small", 0.25, 0.5),), "white")
    generator = _rng(9)
    counts = Counter(caption(scene, generator) for _ in range(6000))
    assert counts.keys() == {text.format(*scene.things, background="white") for text in WORDINGS[1]}
    assert all(abs(n - 1000) < 5 * math.sqrt(1000) for n in counts.values())
    assert caption(scene) == "a small blue star"
    assert "a small blue star at the left" in counts


def test_prompts_are_read_in_any_order():
    assert parse("A large, green star at the bottom right on a black background") == Asked(
        (AskedThing("star", "green", "large", "bottom right"),), (), "black"
    )
    assert parse("a circle in the centre") == Asked((AskedThing("circle", place="centre"),))


def test_places_are_ninths():
    def place(x, y):
        return Thing("star", "blue", "small", x, y).place

    assert {place(x / 32, y / 32) for x, y in product(range(5, 28), repeat=2)} == {*PLACES.values()}
    assert (place(0.5, 0.5), place(0.25, 0.75)) == ("centre", "bottom left")
    assert place(0.5, 0.25) == "top"


def test_prompts_that_cannot_be_read_are_refused():
    for prompt, message in (
        ("a purpel star", "unknown word 'purpel', did you mean 'purple'"),
        ("a red", "does not ask for 1 to 3 things"),
        ("", "does not ask for 1 to 3 things"),
        ("a red star circle", "'circle' is a second shape"),
        ("a star on pink", "unknown word 'pink'.*known: black, white"),
    ):
        with refused(message, DataError):
            parse(prompt)


def test_scenes_that_cannot_be_drawn_are_refused():
    star = Thing("star", "blue", "small", 0.5, 0.5)
    for draw, message in (
        (lambda: Thing("hexagon", "blue", "small", 0.5, 0.5), "unknown shape 'hexagon'"),
        (lambda: Thing("star", "blue", "small", 0.51, 0.5), "multiple of 1/32 from 5/32 to 27/32"),
        (lambda: Thing("star", "blue", "large", 0.5, 0.875), "y = 0.875 is no place of a large th"),
        (lambda: Scene((star,), "pink"), "unknown background 'pink'"),
        (lambda: render([Scene((star,), "white")], 20), "16 or 32 pixels"),
    ):
        with refused(message):
            draw()
