import math

import numpy as np
import pytest
import torch

from helpers import randn, refused, seeded
from kan_diffusion.data.densities import GaussianMixture
from kan_diffusion.errors import DataError
from kan_diffusion.formulas.averaged import reference_mean
from kan_diffusion.pictures.scenes import SceneOracle, all_scenes, draw_scenes, parse, render


def test_reference_mean_is_that_of_the_mixture_of_its_points_at_any_noise(monkeypatch):
    points, x = randn(200, 3), randn(50, 3, seed=1)
    alpha = torch.rand(50, generator=seeded(2)) + 0.1
    sigma = torch.rand(50, generator=seeded(3)) + 0.05
    # A mixture of point masses is the limit of narrow Gaussians.
    mixture = GaussianMixture(points, variances=1e-16)
    expected = mixture.posterior_mean(x, alpha, sigma)
    for chunk in (2**21, 500):
        monkeypatch.setattr("kan_diffusion.data.densities.CHUNK_ELEMENTS", chunk)
        mean = reference_mean(points, x, alpha, sigma)
        torch.testing.assert_close(mean, expected, rtol=1e-8, atol=1e-8)
    nearest = points[torch.cdist(x, 0.9 * points).argmin(dim=1)]
    torch.testing.assert_close(reference_mean(points, x, 0.9, 1e-4), nearest, rtol=0, atol=1e-6)
    mean = points.mean(dim=0).expand(50, 3)
    torch.testing.assert_close(reference_mean(points, x, 0.0, 1.0), mean)


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
        ("", 0.05, "all"),
        ("", 1.0, "seen"),
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


def test_unusable_points_and_levels_are_refused():
    points, x, scenes, picture = torch.ones(4, 2), torch.ones(1, 2), SceneOracle(16), (1, 3, 16, 16)
    for call, words in (
        (lambda: reference_mean(torch.zeros(4), x, 1, 1), r"shape \(n, d\)"),
        (lambda: reference_mean(math.nan * points, x, 1, 1), "finite"),
        (lambda: reference_mean(points, torch.ones(1, 3), 1, 1), r"shape \(n, 2\), got \(1, 3\)"),
        (lambda: reference_mean(points, x, 1, 0), "sigma"),
        (lambda: scenes.posterior_mean(torch.ones(1, 3, 32, 32), 0.5, 0.5), r"\(n, 3, 16, 16\)"),
        (lambda: scenes.posterior_mean(torch.ones(picture), 0.5, 0.0), "sigma > 0"),
        (lambda: scenes.posterior_mean(torch.ones(picture), 0.5, 0.5, []), "1 pictures and 0 p"),
        (
            lambda: scenes.posterior_mean(torch.ones(picture), 0.5, 0.5, ["a purple circle"]),
            "is held out.*combinations='all'",
        ),
    ):
        with refused(words, DataError):
            call()
