from itertools import pairwise, product

import numpy as np
import pytest
import torch

from helpers import randn
from kan_diffusion.evaluation.oracles import SceneOracle
from kan_diffusion.pictures.reading import score_scenes
from kan_diffusion.pictures.scenes import (
    BACKGROUNDS,
    COLOURS,
    COVERAGES,
    Scene,
    caption,
    coverages,
    draw_scenes,
    in_samples,
    is_held_out,
    parse,
    render,
)


def _mixture_mean(x, alpha, sigma, prompt=""):
    """The posterior mean over all scenes that a prompt allows, one by one."""
    asked, pictures, weights = parse(prompt) if prompt else None, [], []
    shades = zip(BACKGROUNDS, in_samples(BACKGROUNDS.values()), strict=True)
    levels = zip(COLOURS, in_samples(COLOURS.values()), strict=True)
    places = zip(coverages(16), COVERAGES, strict=True)
    for (background, shade), (colour, level), (mask, place) in product(shades, levels, places):
        shape, size, *centre = place
        scene = Scene(shape, colour, size, *centre, background)
        if is_held_out(*scene.combination):
            continue
        if asked and not all(asked.met(scene).values()):
            continue
        pictures.append((shade[:, None] + (level - shade)[:, None] * mask).flatten())
        weights.append(1 / (23**2 if size == "small" else 17**2))
    table = torch.stack(pictures).double()
    far = torch.cdist(x.flatten(1), alpha * table).square()
    logits = -far / (2 * sigma**2) + torch.tensor(weights, dtype=torch.float64).log()
    return (logits.softmax(dim=1) @ table).reshape(x.shape)


@pytest.mark.parametrize(
    ("prompt", "sigma"),
    [("", 0.9), ("a small red circle", 0.9), ("a star at the top on white", 0.99)],
)
def test_scene_oracle_is_the_mean_over_all_renderings(prompt, sigma):
    scenes = render(draw_scenes(6, np.random.default_rng(0)), 16).double()
    x = (1 - sigma) * scenes + sigma * randn(6, 3, 16, 16)
    prompts = [prompt] * 6 if prompt else None
    mean = SceneOracle(16).posterior_mean(x, 1 - sigma, sigma, prompts)
    expected = _mixture_mean(x, 1 - sigma, sigma, prompt)
    torch.testing.assert_close(mean, expected, rtol=0, atol=1e-5)
    levels = 1 - sigma, torch.full((6,), sigma)
    flat = SceneOracle(16).posterior_mean(x.flatten(1), *levels, prompts)
    torch.testing.assert_close(flat.reshape(x.shape), mean)


def test_sampling_with_the_scene_oracle_draws_what_is_asked():
    scenes = draw_scenes(12, np.random.default_rng(3), "held-out")
    prompts = [caption(scene, np.random.default_rng(i)) for i, scene in enumerate(scenes)]
    oracle, x = SceneOracle(16, "all"), randn(12, 3, 16, 16)
    levels = torch.linspace(1, 0, 21, dtype=torch.float64)
    for sigma, following in pairwise(levels):
        mean = oracle.posterior_mean(x, 1 - sigma, sigma, prompts)
        x = (1 - following) * mean + following * (x - (1 - sigma) * mean) / sigma
    scores = score_scenes(x, prompts)
    assert scores["all"] == 1.0
    assert scores["distance"] < 1e-3
