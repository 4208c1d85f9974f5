import math
from collections import Counter
from itertools import product

import numpy as np
import pytest

from helpers import refused
from kan_diffusion.errors import DataError
from kan_diffusion.pictures.codec import PictureCodec
from kan_diffusion.pictures.oracle import read_scenes
from kan_diffusion.pictures.scenes import (
    BACKGROUNDS,
    COLOURS,
    HELD_OUT,
    PROPERTIES,
    WORDINGS,
    all_scenes,
    captions,
    coverages,
    draw_scenes,
    parse,
    render,
)

DIAMETERS = {"small": 9, "large": 15}


def _rng(seed=0):
    return np.random.default_rng(seed)


def _scene(shape, colour, size, x, y, background):
    table = all_scenes()
    given = {"shape": shape, "colour": colour, "size": size, "x": x, "y": y}
    rows = np.logical_and.reduce([table[k] == v for k, v in given.items()])
    return table.index[rows & (table["background"] == background)].item()


def _levels(scenes, size):
    """The pictures of scenes in 8 bits, (n, size, size, 3)."""
    pictures = PictureCodec(size=size).decode(render(scenes, size))
    return np.stack([np.asarray(picture) for picture in pictures])


@pytest.mark.parametrize("size", [16, 32])
def test_pictures_are_linear_in_the_coverage_of_their_object(size):
    codec = PictureCodec(size=size)
    for row in draw_scenes(50, _rng(), "all"):
        scene = all_scenes().loc[row]
        background = np.array(BACKGROUNDS[scene.background], dtype=np.float64)
        cover = coverages(size)[row % 3272].numpy().astype(np.float64)[:, None]
        picture = background + cover * (np.array(COLOURS[scene.colour]) - background)
        # Exact in 8 bits: nothing was rounded.
        np.testing.assert_array_equal(_levels([row], size)[0].reshape(-1, 3), picture)
        samples = render([row], size)
        assert codec.encode(codec.decode(samples)).equal(samples)


@pytest.mark.parametrize("size", [16, 32])
def test_coverages_have_the_area_and_the_centre_of_their_shape(size):
    known, steps, objects = coverages(size).numpy(), np.arange(size) + 0.5, all_scenes()[:3272]
    for shape, name in product(PROPERTIES["shape"], PROPERTIES["size"]):
        rows = (objects["shape"] == shape) & (objects["size"] == name)
        masks = known[rows].reshape(-1, size, size)
        wide = DIAMETERS[name] * size / 32
        share = {"circle": math.pi / 4, "square": 0.86**2, "triangle": math.sqrt(3) / 4}
        if shape in share:
            np.testing.assert_allclose(masks.sum(axis=(1, 2)), share[shape] * wide**2, rtol=0.06)
        areas = masks.sum(axis=(1, 2))
        x = (masks.sum(axis=1) * steps).sum(axis=1) / areas
        np.testing.assert_allclose(x, objects["x"][rows] * size / 32, atol=0.08)
        if shape in ("circle", "square"):
            y = (masks.sum(axis=2) * steps).sum(axis=1) / areas
            np.testing.assert_allclose(y, objects["y"][rows] * size / 32, atol=0.08)
        widths = (masks.max(axis=1) > 0).sum(axis=1)
        assert widths.max() <= wide + 2


def test_small_pictures_are_the_average_of_large_ones():
    scenes = draw_scenes(100, _rng(1))
    small, large = (_levels(scenes, size).astype(float) for size in (16, 32))
    halved = large.reshape(-1, 16, 2, 16, 2, 3).mean(axis=(2, 4))
    # Coverages are rounded to sixteenths, before and after the average.
    assert np.abs(halved - small).max() <= 240 / 16 + 1e-9


def test_all_scenes_are_different():
    masks = (16 * coverages(16).numpy()).astype(np.uint8)
    assert len({mask.tobytes() for mask in masks}) == len(masks) == 3272
    table = all_scenes()
    assert len(table) == len(table.drop_duplicates()) == 39_264
    for kind, known in PROPERTIES.items():
        assert {*table[kind]} == {*known}


def test_combinations_are_held_out():
    seen = draw_scenes(1000, _rng(2))
    assert np.array_equal(seen, draw_scenes(1000, _rng(2)))
    assert not np.array_equal(seen, draw_scenes(1000, _rng(3)))
    table = all_scenes()
    assert not table["held_out"][seen].any()
    assert table["held_out"][draw_scenes(200, _rng(3), "held-out")].all()
    for kind in ("shape", "colour", "size"):  # so that what is held out can be composed
        assert {*table[kind][seen]} == {*PROPERTIES[kind]}
    held_out = table[table["held_out"]][["shape", "size", "colour"]].drop_duplicates()
    expected = {(shape, size, each) for shape, (each, _) in HELD_OUT.items() for size in DIAMETERS}
    expected |= {(shape, *each.split()) for shape, (_, each) in HELD_OUT.items()}
    assert {*held_out.itertuples(index=False, name=None)} == expected


def test_scenes_are_uniform():
    scenes = all_scenes().loc[draw_scenes(18_000, _rng(4))]
    kinds = scenes[["shape", "colour", "size"]].itertuples(index=False, name=None)
    for counts, cells in (
        (Counter(kinds), 36),
        (Counter(scenes["background"]), 2),
        (Counter(scenes["x"][scenes["size"] == "large"]), 17),
        (Counter(scenes["y"][scenes["size"] == "small"]), 23),
    ):
        expected = sum(counts.values()) / cells
        assert len(counts) == cells
        # Five standard deviations of a cell: less than one in 10^4 for all cells together.
        assert max(abs(n - expected) for n in counts.values()) < 5 * math.sqrt(expected)


def test_captions_are_read_back():
    generator = _rng(8)
    scenes = draw_scenes(300, generator, "all")
    for scene, text in zip(scenes, captions(scenes, generator), strict=True):
        asked, known = parse(text), all_scenes().loc[scene]
        assert asked == {kind: known[kind] for kind in asked}
        assert ("on " + known.background in text) == ("background" in asked)


def test_captions_use_every_wording_equally():
    scene = _scene("star", "blue", "small", 8, 16, "white")
    told = all_scenes().loc[scene]
    counts = Counter(captions([scene] * 6000, _rng(9)))
    assert counts.keys() == {text.format(**told) for text in WORDINGS}
    assert all(abs(n - 1000) < 5 * math.sqrt(1000) for n in counts.values())
    assert captions([scene]) == ("a small blue star",)
    assert "a small blue star at the left" in counts


def test_prompts_are_read_in_any_order():
    assert parse("A large, green star at the bottom right on a black background") == {
        "size": "large",
        "colour": "green",
        "shape": "star",
        "place": "bottom right",
        "background": "black",
    }
    assert parse("a circle in the centre") == {"shape": "circle", "place": "centre"}


def test_places_are_ninths():
    table = all_scenes()[:529]
    places = dict(zip(zip(table["x"], table["y"], strict=True), table["place"], strict=True))
    assert {*places.values()} == {*PROPERTIES["place"]}
    found = places[16, 16], places[8, 24], places[16, 8]
    assert found == ("centre", "bottom left", "top")


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("a purpel star", "unknown word 'purpel', did you mean 'purple'"),
        ("a red", "names no shape; known: circle, square, triangle, star"),
        ("", "names no shape"),
        ("a red star circle", "'circle' is a second shape"),
        ("a red star and a red star", "'red' is a second colour; ask for one object"),
        ("a star at the top left of a circle", "'circle' is a second shape"),
        ("a star left of a circle", "unknown word 'left'"),
        ("a star on pink", "unknown word 'pink'.*on black, on white"),
    ],
)
def test_prompts_that_cannot_be_read_are_refused(prompt, message):
    with refused(message, DataError):
        parse(prompt)


def test_pictures_that_are_no_scenes_are_refused():
    pictures = render([0], 16)
    for samples, message in (
        (pictures[:, :1], r"shape \(n, 3, S, S\), got"),
        (pictures * np.nan, "not finite"),
        (pictures[..., :8, :8], "16 or 32 pixels a side, not 8"),
    ):
        with refused(message, DataError):
            read_scenes(samples)
