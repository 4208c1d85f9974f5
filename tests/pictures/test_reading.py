import numpy as np
import pytest
import torch

from helpers import refused, seeded
from kan_diffusion.errors import DataError
from kan_diffusion.pictures.oracle import read_scenes, score_scenes
from kan_diffusion.pictures.scenes import all_scenes, draw_scenes, render


def test_real_scenes_are_read_exactly():
    scenes = draw_scenes(60, np.random.default_rng(1), "all")
    readings = read_scenes(render(scenes, 16))
    assert readings.index.tolist() == scenes.tolist()
    assert readings["distance"].max() < 1e-4


def test_a_scene_is_the_nearest_of_all_renderings():
    samples = render(draw_scenes(40, np.random.default_rng(1)), 16)
    samples += torch.randn(samples.shape, generator=seeded())
    every = render(all_scenes().index, 16).flatten(1)
    nearest = torch.cdist(samples.flatten(1), every).min(dim=1)
    readings = read_scenes(samples)
    assert readings.index.tolist() == nearest.indices.tolist()
    found = torch.tensor(readings["distance"].to_numpy())
    torch.testing.assert_close(found, nearest.values, rtol=1e-5, atol=1e-5)


def test_scores_are_shares_of_those_that_were_asked():
    table = all_scenes()
    scenes = [
        table.query(f"shape == '{s}' and colour == '{c}' and background == '{b}'").index[0]
        for s, c, b in (
            ("circle", "red", "white"),
            ("square", "blue", "white"),
            ("star", "red", "black"),
        )
    ]
    scores = score_scenes(render(scenes, 16), ["a red circle", "a red square", "a star on black"])
    assert scores.pop("distance") < 1e-4
    expected = {"shape": 1.0, "colour": 0.5, "size": None, "place": None, "background": 1.0}
    assert scores == {**expected, "all": pytest.approx(2 / 3)}
    with refused("a prompt for each picture", DataError):
        score_scenes(render(scenes, 16), [])
