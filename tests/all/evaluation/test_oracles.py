import numpy as np
import pytest
import torch

from helpers import randn
from kan_diffusion.pictures.oracle import SceneOracle
from kan_diffusion.pictures.scenes import all_scenes, draw_scenes, parse, render


def _mixture_mean(x, alpha, sigma, prompt, combinations):
    """The posterior mean over all scenes that a prompt allows, one by one."""
    scenes = all_scenes()
    if combinations != "all":
        scenes = scenes[scenes.held_out == (combinations == "held-out")]
    for kind, value in parse(prompt).items() if prompt else ():
        scenes = scenes[scenes[kind] == value]
    weights = [1 / (23**2 if size == "small" else 17**2) for size in scenes["size"]]
    table = render(scenes.index, 16).flatten(1).double()
    far = torch.cdist(x.flatten(1), alpha * table).square()
    logits = -far / (2 * sigma**2) + torch.tensor(weights, dtype=torch.float64).log()
    return (logits.softmax(dim=1) @ table).reshape(x.shape)


@pytest.mark.parametrize(
    ("prompt", "sigma", "combinations"),
    [
        ("", 0.9, "seen"),
        ("a small red circle", 0.9, "all"),
        ("a purple circle", 0.9, "held-out"),
        ("a star at the top on white", 0.99, "seen"),
    ],
)
def test_scene_oracle_is_the_mean_over_all_renderings(prompt, sigma, combinations):
    scenes = render(draw_scenes(6, np.random.default_rng(0)), 16).double()
    x = (1 - sigma) * scenes + sigma * randn(6, 3, 16, 16)
    prompts = [prompt] * 6 if prompt else None
    oracle = SceneOracle(16, combinations)
    mean = oracle.posterior_mean(x, 1 - sigma, sigma, prompts)
    expected = _mixture_mean(x, 1 - sigma, sigma, prompt, combinations)
    torch.testing.assert_close(mean, expected, rtol=0, atol=1e-5)
    levels = 1 - sigma, torch.full((6,), sigma)
    flat = oracle.posterior_mean(x.flatten(1), *levels, prompts)
    torch.testing.assert_close(flat.reshape(x.shape), mean)
