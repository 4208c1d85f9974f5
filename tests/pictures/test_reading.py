import numpy as np
import pytest
import torch

from helpers import refused, seeded
from kan_diffusion.errors import DataError
from kan_diffusion.pictures.reading import ClassJudge, read_scenes, score_scenes
from kan_diffusion.pictures.scenes import Scene, Thing, draw_scenes, renderings, scene_samples


def test_real_scenes_are_read_exactly():
    scenes = draw_scenes(60, np.random.default_rng(1), 1, "all")
    readings = read_scenes(scene_samples(scenes, 16))
    assert [reading.scene for reading in readings] == scenes
    assert max(reading.distance for reading in readings) < 1e-4


def _nearest_of_all(samples):
    """The nearest rendering of one thing, by the distance to each."""
    known = renderings(samples.shape[2])
    flat = samples.flatten(1).double()
    best = torch.full((len(flat),), torch.inf, dtype=torch.float64)
    scenes = [None] * len(flat)
    for shade, background in zip(known.backgrounds, ("black", "white"), strict=True):
        for colour, level in enumerate(known.colours):
            masks = known.masks[:, None, :].double()
            pictures = shade[:, None].double() + masks * (level - shade)[:, None].double()
            nearest = torch.cdist(flat, pictures.flatten(1)).min(dim=1)
            for row in (nearest.values < best).nonzero()[:, 0].tolist():
                best[row] = nearest.values[row]
                thing = known.thing(int(nearest.indices[row]), colour)
                scenes[row] = Scene((thing,), background)
    return scenes, best


def test_one_thing_is_the_nearest_of_all_renderings():
    samples = scene_samples(draw_scenes(40, np.random.default_rng(1)), 16)
    samples += torch.randn(samples.shape, generator=seeded())
    nearest, distances = _nearest_of_all(samples)
    readings = read_scenes(samples, most=1)
    assert [reading.scene for reading in readings] == nearest
    found = torch.tensor([reading.distance for reading in readings], dtype=torch.float64)
    torch.testing.assert_close(found, distances, rtol=1e-5, atol=1e-5)


RED = Thing("circle", "red", "small", 8 / 32, 8 / 32)
BLUE = Thing("square", "blue", "large", 22 / 32, 22 / 32)
GREEN = Thing("star", "green", "small", 24 / 32, 6 / 32)


def test_scores_are_shares_of_those_that_were_asked():
    scenes = [Scene((RED,), "white"), Scene((BLUE,), "white"), Scene((GREEN,), "black")]
    pictures = scene_samples(scenes, 16)
    scores = score_scenes(pictures, ["a red circle", "a red square", "a star on black"])
    assert scores.num == 3
    assert scores.shape == scores.count == 1.0
    assert scores.colour == 0.5
    assert scores.background == 1.0
    assert scores.size is scores.place is None
    assert scores.all == scores.combination == pytest.approx(2 / 3)


def test_what_cannot_be_read_is_refused():
    picture, labels = torch.zeros(1, 3, 16, 16), torch.zeros(1, dtype=torch.long)
    for call, message in (
        (lambda: read_scenes(torch.zeros(2, 1, 16, 16)), r"shape \(n, 3, S, S\)"),
        (lambda: read_scenes(torch.zeros(2, 3, 20, 20)), "16 or 32 pixels"),
        (lambda: read_scenes(torch.full((1, 3, 16, 16), torch.nan)), "not finite"),
        (lambda: score_scenes(picture, []), "a prompt for each picture"),
        (lambda: ClassJudge.fit(picture, labels, picture, labels), "needs two at least"),
    ):
        with refused(message, DataError):
            call()
