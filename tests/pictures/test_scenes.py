import math
from collections import Counter
from itertools import product

import numpy as np
import pytest
import torch

from helpers import refused, seeded
from kan_diffusion.errors import DataError
from kan_diffusion.pictures.codec import decode, encode
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
    read_scenes,
    render,
    score_scenes,
)

DIAMETERS = {"small": 9, "large": 15}
TABLE = all_scenes()


def _drawn(num, seed=0, combinations="seen"):
    return draw_scenes(num, np.random.default_rng(seed), combinations)


def _first(**properties):
    """The first scene with some properties."""
    met = [TABLE[kind] == value for kind, value in properties.items()]
    return TABLE.index[np.logical_and.reduce(met)][0]


@pytest.mark.parametrize("size", [16, 32])
def test_pictures_are_linear_in_the_coverage_of_their_object(size):
    scenes = _drawn(50, combinations="all")
    samples = render(scenes, size)
    assert encode(decode(samples), size).equal(samples)
    for row, picture in zip(scenes, decode(samples), strict=True):
        background, colour = BACKGROUNDS[TABLE.background[row]], COLOURS[TABLE.colour[row]]
        cover = coverages(size)[row % 3272].double().numpy()[:, None]
        expected = background + cover * np.subtract(colour, background)
        # Exact in 8 bits: nothing was rounded.
        np.testing.assert_array_equal(np.asarray(picture).reshape(-1, 3), expected)


@pytest.mark.parametrize("size", [16, 32])
def test_coverages_have_the_area_and_the_centre_of_their_shape(size):
    known, steps, objects = coverages(size).numpy(), np.arange(size) + 0.5, TABLE[:3272]
    for shape, name in product(PROPERTIES["shape"], PROPERTIES["size"]):
        rows = (objects["shape"] == shape) & (objects["size"] == name)
        masks = known[rows].reshape(-1, size, size)
        areas, wide = masks.sum(axis=(1, 2)), DIAMETERS[name] * size / 32
        share = {"circle": math.pi / 4, "square": 0.86**2, "triangle": math.sqrt(3) / 4}
        if shape in share:
            np.testing.assert_allclose(areas, share[shape] * wide**2, rtol=0.06)
        sides = ("x", 1), ("y", 2)
        for side, axis in sides if shape in ("circle", "square") else sides[:1]:
            centres = (masks.sum(axis=axis) * steps).sum(axis=1) / areas
            np.testing.assert_allclose(centres, objects[side][rows] * size / 32, atol=0.08)
        assert (masks.max(axis=1) > 0).sum(axis=1).max() <= wide + 2


def test_all_scenes_are_different_and_places_are_ninths():
    masks = (16 * coverages(16).numpy()).astype(np.uint8)
    assert len({mask.tobytes() for mask in masks}) == len(masks) == 3272
    assert len(TABLE) == len(TABLE.drop_duplicates()) == 39_264
    for kind, known in PROPERTIES.items():
        assert {*TABLE[kind]} == {*known}
    for x, y, place in ((16, 16, "centre"), (8, 24, "bottom left"), (16, 8, "top")):
        assert TABLE.place[_first(x=x, y=y)] == place


def test_combinations_are_held_out():
    seen = _drawn(1000, 2)
    assert np.array_equal(seen, _drawn(1000, 2))
    assert not np.array_equal(seen, _drawn(1000, 3))
    assert not TABLE["held_out"][seen].any()
    assert TABLE["held_out"][_drawn(200, 3, "held-out")].all()
    for kind in ("shape", "colour", "size"):  # so that what is held out can be composed
        assert {*TABLE[kind][seen]} == {*PROPERTIES[kind]}
    held_out = TABLE[TABLE["held_out"]][["shape", "size", "colour"]].drop_duplicates()
    expected = {(shape, size, each) for shape, (each, _) in HELD_OUT.items() for size in DIAMETERS}
    expected |= {(shape, *each.split()) for shape, (_, each) in HELD_OUT.items()}
    assert {*held_out.itertuples(index=False, name=None)} == expected


def test_scenes_are_uniform():
    scenes = TABLE.loc[_drawn(18_000, 4)]
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


def test_captions_use_every_wording_equally_and_are_read_back():
    generator = np.random.default_rng(8)
    scenes = draw_scenes(300, generator, "all")
    for scene, text in zip(scenes, captions(scenes, generator), strict=True):
        asked, known = parse(text), TABLE.loc[scene]
        assert asked == {kind: known[kind] for kind in asked}
        assert ("on " + known.background in text) == ("background" in asked)
    scene = _first(shape="star", colour="blue", size="small", x=8, y=16, background="white")
    counts = Counter(captions([scene] * 6000, np.random.default_rng(9)))
    assert counts.keys() == {text.format(**TABLE.loc[scene]) for text in WORDINGS}
    assert all(abs(n - 1000) < 5 * math.sqrt(1000) for n in counts.values())
    assert captions([scene]) == ("a small blue star",)
    assert "a small blue star at the left" in counts


def test_prompts_are_read_in_any_order():
    asked = parse("A star at the bottom right, large and green, on a black background")
    place = {"place": "bottom right", "background": "black"}
    assert asked == {"size": "large", "colour": "green", "shape": "star", **place}


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_a_scene_is_read_as_the_nearest_of_all_renderings(noise):
    scenes = _drawn(40, 1, "all")
    samples = render(scenes, 16)
    samples += noise * torch.randn(samples.shape, generator=seeded())
    every, exact = render(TABLE.index, 16).flatten(1), "donot_use_mm_for_euclid_dist"
    nearest = torch.cdist(samples.flatten(1), every, compute_mode=exact).min(dim=1)
    readings = read_scenes(samples)
    assert readings.index.tolist() == nearest.indices.tolist()
    assert noise or readings.index.tolist() == scenes.tolist()
    found = torch.tensor(readings["distance"].to_numpy())
    torch.testing.assert_close(found, nearest.values, rtol=1e-5, atol=1e-4)


def test_scores_are_shares_of_those_that_were_asked():
    objects = ("circle", "red", "white"), ("square", "blue", "white"), ("star", "red", "black")
    scenes = [_first(shape=s, colour=c, background=b) for s, c, b in objects]
    scores = score_scenes(render(scenes, 16), ["a red circle", "a red square", "a star on black"])
    assert scores.pop("distance") < 1e-4
    expected = {"shape": 1.0, "colour": 0.5, "size": math.nan, "place": math.nan, "background": 1.0}
    assert scores == pytest.approx({**expected, "all": 2 / 3}, nan_ok=True)


def test_what_is_no_prompt_and_no_scene_is_refused():
    picture = render([0], 16)
    for call, given, message in (
        (parse, "a purpel star", "unknown word 'purpel', did you mean 'purple'"),
        (parse, "a red", "names no shape; known: circle, square, triangle, star"),
        (parse, "a red star circle", "'circle' is a second shape"),
        (parse, "a red star and a red star", "'red' is a second colour; ask for one object"),
        (parse, "a star on pink", "unknown word 'pink'.*on black, on white"),
        (parse, "a black star", "unknown word 'black', did you mean 'on black'"),
        (read_scenes, picture[:, :1], r"shape \(n, 3, S, S\), got"),
        (read_scenes, picture * np.nan, "not finite"),
        (read_scenes, picture[..., :8, :8], "16 or 32 pixels a side, not 8"),
        (lambda none: score_scenes(picture, none), [], "a prompt for each picture"),
    ):
        with refused(message, DataError):
            call(given)
