import math

import numpy as np
import torch

from helpers import randn, refused, seeded
from kan_diffusion.data.densities import GaussianMixture
from kan_diffusion.errors import DataError
from kan_diffusion.evaluation.oracles import ReferenceOracle
from kan_diffusion.pictures.oracle import SceneOracle
from kan_diffusion.pictures.scenes import draw_scenes, render


def test_reference_oracle_is_the_mixture_of_its_points_at_any_noise(monkeypatch):
    points, x = randn(200, 3), randn(50, 3, seed=1)
    oracle = ReferenceOracle(points)
    alpha = torch.rand(50, generator=seeded(2)) + 0.1
    sigma = torch.rand(50, generator=seeded(3)) + 0.05
    # A mixture of point masses is the limit of narrow Gaussians.
    mixture = GaussianMixture(points, variances=1e-16)
    expected = mixture.posterior_mean(x, alpha, sigma)
    for chunk in (2**21, 500):
        monkeypatch.setattr("kan_diffusion.data.densities.CHUNK_ELEMENTS", chunk)
        mean = oracle.posterior_mean(x, alpha, sigma)
        torch.testing.assert_close(mean, expected, rtol=1e-8, atol=1e-8)
    nearest = points[torch.cdist(x, 0.9 * points).argmin(dim=1)]
    torch.testing.assert_close(oracle.posterior_mean(x, 0.9, 1e-4), nearest, rtol=0, atol=1e-6)
    mean = points.mean(dim=0).expand(50, 3)
    torch.testing.assert_close(oracle.posterior_mean(x, 0.0, 1.0), mean)


def test_scene_oracle_goes_from_the_picture_to_the_mean():
    oracle = SceneOracle(16)
    clean, many = (
        render(draw_scenes(num, np.random.default_rng(seed)), 16).double()
        for num, seed in ((20, 0), (4000, 1))
    )
    noised = 0.9 * clean + 0.05 * randn(20, 3, 16, 16)
    torch.testing.assert_close(oracle.posterior_mean(noised, 0.9, 0.05), clean, rtol=0, atol=1e-6)
    nothing = oracle.posterior_mean(randn(2, 3, 16, 16), 0.0, 1.0)
    torch.testing.assert_close(nothing[0], nothing[1])
    # The mean of many pictures, with the standard error of a value of standard deviation below 1.
    torch.testing.assert_close(nothing[0], many.mean(dim=0), rtol=0, atol=0.08)


def test_unusable_points_and_levels_are_refused():
    oracle, scenes, picture = ReferenceOracle(torch.ones(4, 2)), SceneOracle(16), (1, 3, 16, 16)
    for call, words in (
        (lambda: ReferenceOracle(torch.zeros(4)), r"shape \(n, d\)"),
        (lambda: ReferenceOracle(torch.tensor([[math.nan]])), "finite"),
        (lambda: oracle.posterior_mean(torch.ones(1, 3), 1, 1), r"shape \(n, 2\), got \(1, 3\)"),
        (lambda: oracle.posterior_mean(torch.ones(1, 2), 1, 0), "sigma"),
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
