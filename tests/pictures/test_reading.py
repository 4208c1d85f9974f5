import numpy as np
import pytest
import torch
from kan_diffusion.pictures.reading import ClassJudge, read_scenes, score_scenes

from helpers import refused, seeded
from kan_diffusion.errors import DataError
from kan_diffusion.pictures.scenes import (
    BACKGROUNDS,
    COLOURS,
    COVERAGES,
    Scene,
    coverages,
    draw_scenes,
    in_samples,
    render,
)


def test_real_scenes_are_read_exactly():
    scenes = draw_scenes(60, np.random.default_rng(1), "all")
    readings = read_scenes(render(scenes, 16))
    assert [reading.scene for reading in readings] == scenes
    assert max(reading.distance for reading in readings) < 1e-4


def _nearest_of_all(samples):
    """The nearest rendering, by the distance to each."""
    masks = coverages(samples.shape[2])[:, None, :].double()
    flat = samples.flatten(1).double()
    best = torch.full((len(flat),), torch.inf, dtype=torch.float64)
    scenes = [None] * len(flat)
    for background, shade in zip(BACKGROUNDS, in_samples(BACKGROUNDS.values()), strict=True):
        for colour, level in zip(COLOURS, in_samples(COLOURS.values()), strict=True):
            pictures = shade[:, None].double() + masks * (level - shade)[:, None].double()
            nearest = torch.cdist(flat, pictures.flatten(1)).min(dim=1)
            for row in (nearest.values < best).nonzero()[:, 0].tolist():
                best[row] = nearest.values[row]
                shape, size, x, y = COVERAGES[int(nearest.indices[row])]
                scenes[row] = Scene(shape, colour, size, x, y, background)
    return scenes, best


def test_a_scene_is_the_nearest_of_all_renderings():
    samples = render(draw_scenes(40, np.random.default_rng(1)), 16)
    samples += torch.randn(samples.shape, generator=seeded())
    nearest, distances = _nearest_of_all(samples)
    readings = read_scenes(samples)
    assert [reading.scene for reading in readings] == nearest
    found = torch.tensor([reading.distance for reading in readings], dtype=torch.float64)
    torch.testing.assert_close(found, distances, rtol=1e-5, atol=1e-5)


def test_scores_are_shares_of_those_that_were_asked():
    scenes = [
        Scene("circle", "red", "small", 8, 8, "white"),
        Scene("square", "blue", "large", 22, 22, "white"),
        Scene("star", "green", "small", 24, 6, "black"),
    ]
    prompts = ["a red circle", "a red square", "a star on black"]
    scores = score_scenes(render(scenes, 16), prompts)
    assert scores.pop("distance") < 1e-4
    expected = {"shape": 1.0, "colour": 0.5, "size": None, "place": None, "background": 1.0}
    assert scores == {**expected, "all": pytest.approx(2 / 3)}


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
