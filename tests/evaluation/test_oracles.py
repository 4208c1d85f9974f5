from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers import randn, refused, seeded
from kan_diffusion.data import Density, GaussianMixture, Standardizer, make_toy
from kan_diffusion.data.shapes import (
    BACKGROUNDS,
    caption,
    draw_scenes,
    is_held_out,
    parse,
    render,
    renderings,
)
from kan_diffusion.errors import DataError
from kan_diffusion.evaluation.oracles import ReferenceOracle, SceneOracle, excess_by_pair
from kan_diffusion.evaluation.reading import score_scenes
from kan_diffusion.processes import noise_of_mean

each_alpha = pytest.mark.parametrize("variance_preserving", [True, False])


@pytest.fixture(scope="module")
def density() -> Density:
    return Standardizer.from_density(make_toy("swiss-roll")).rescale(make_toy("swiss-roll"))


def _noised(
    density: Density, num: int, sigma: float, seed: int, preserving: bool = True
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Noised points, alpha and sigma as tensors, and the noise."""
    alpha = math.sqrt(1 - sigma**2) if preserving else 1 - sigma
    noise = randn(num, 2, seed=seed + 100)
    x = alpha * density.sample(num, seeded(seed)) + sigma * noise
    return x, torch.tensor(alpha), torch.tensor(sigma), noise


def test_reference_oracle_is_the_mixture_of_its_points() -> None:
    points, x = randn(200, 3), randn(50, 3, seed=1)
    alpha = torch.rand(50, generator=seeded(2)) + 0.1
    sigma = torch.rand(50, generator=seeded(3)) + 0.05
    # A mixture of point masses is the limit of narrow Gaussians.
    mixture = GaussianMixture(points, variances=1e-16)
    torch.testing.assert_close(
        ReferenceOracle(points).posterior_mean(x, alpha, sigma),
        mixture.posterior_mean(x, alpha, sigma),
        rtol=1e-8,
        atol=1e-8,
    )


def test_reference_oracle_is_the_nearest_point_at_little_noise_and_the_mean_at_much() -> None:
    points, x = randn(300, 2), randn(80, 2, seed=1)
    oracle = ReferenceOracle(points)
    nearest = points[torch.cdist(x, 0.9 * points).argmin(dim=1)]
    torch.testing.assert_close(oracle.posterior_mean(x, 0.9, 1e-4), nearest, rtol=0, atol=1e-6)
    mean = points.mean(dim=0).expand(80, 2)
    torch.testing.assert_close(oracle.posterior_mean(x, 5e-5, 1.0), mean, rtol=0, atol=1e-3)
    torch.testing.assert_close(oracle.posterior_mean(x, 0.0, 1.0), mean)


def test_reference_chunks_do_not_change_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    points, x = randn(100, 2), randn(33, 2, seed=1)
    sigma = torch.rand(33, generator=seeded(2)) + 0.1
    whole = ReferenceOracle(points).posterior_mean(x, 0.5, sigma)
    monkeypatch.setattr("kan_diffusion.data.densities.CHUNK_ELEMENTS", 500)
    torch.testing.assert_close(ReferenceOracle(points).posterior_mean(x, 0.5, sigma), whole)


@each_alpha
def test_reference_error_falls_as_the_sample_grows(
    density: Density, variance_preserving: bool
) -> None:
    x, alpha, sigma, _ = _noised(density, 300, 0.3, 1, variance_preserving)
    exact = density.posterior_mean(x, alpha, sigma)
    errors = []
    for num in (1000, 16_000):
        oracle = ReferenceOracle(density.sample(num, seeded(9)))
        errors.append(float((oracle.posterior_mean(x, alpha, sigma) - exact).square().mean()))
    assert errors[1] < errors[0] / 6  # a sixteenth, up to chance


@each_alpha
def test_exact_oracle_is_beaten_by_nothing_near_it(
    density: Density, variance_preserving: bool
) -> None:
    x, alpha, sigma, noise = _noised(density, 20_000, 0.5, 3, variance_preserving)
    best = noise_of_mean(density.posterior_mean(x, alpha, sigma), x, alpha, sigma)
    residual = noise - best
    # The residual is uncorrelated with any function of x_t: these are a few.
    for probe in (best, torch.ones_like(x), x, x.flip(1), torch.sin(3 * x)):
        product = (residual * probe).sum(dim=1)
        assert abs(float(product.mean() / product.std())) * math.sqrt(len(x)) < 4.5


def test_pair_estimate_is_free_of_the_reference_variance(density: Density) -> None:
    x, alpha, sigma, _ = _noised(density, 3000, 0.25, 5)
    best = noise_of_mean(density.posterior_mean(x, alpha, sigma), x, alpha, sigma)
    prediction = best + 0.05 * torch.sin(4 * x)
    truth = float((prediction - best).square().mean())
    pairs, plain = [], []
    for seed in range(8):
        a, b = (
            noise_of_mean(
                ReferenceOracle(density.sample(1500, seeded(20 + 2 * seed + half))).posterior_mean(
                    x, alpha, sigma
                ),
                x,
                alpha,
                sigma,
            )
            for half in (0, 1)
        )
        pairs.append(float(excess_by_pair(prediction, a, b).mean()))
        plain.append(float((prediction - a).square().mean()))
    pairs_of, plain_of = torch.tensor(pairs), torch.tensor(plain)
    assert float(plain_of.mean()) > 2 * truth  # what the reference sample's variance adds
    error = float(pairs_of.std()) / math.sqrt(len(pairs))
    assert abs(float(pairs_of.mean()) - truth) < 4 * error + 0.1 * truth


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ReferenceOracle(torch.zeros(4)), r"shape \(n, d\)"),
        (lambda: ReferenceOracle(torch.tensor([[math.nan]])), "finite"),
        (lambda: ReferenceOracle(torch.ones(4, 2)).posterior_mean(torch.ones(1, 3), 1, 1), "3 coo"),
        (lambda: ReferenceOracle(torch.ones(4, 2)).posterior_mean(torch.ones(1, 2), 1, 0), "sigma"),
        (lambda: excess_by_pair(torch.ones(3, 2), torch.ones(3, 2), torch.ones(1, 2)), "same shap"),
    ],
)
def test_unusable_points_and_levels_are_refused(make, words: str) -> None:
    with refused(words, DataError):
        make()


def _scene_samples(num: int, seed: int = 0) -> Tensor:
    scenes = draw_scenes(num, np.random.default_rng(seed))
    return torch.from_numpy(render(scenes, 16)).permute(0, 3, 1, 2).double() / 127.5 - 1


def _mixture_mean(x: Tensor, alpha: float, sigma: float, prompt: str = "") -> Tensor:
    """The posterior mean over all scenes of one thing that a prompt allows, one by one."""
    known, asked = renderings(16), parse(prompt) if prompt else None
    pictures, weights = [], []
    for background, shade in zip(BACKGROUNDS, known.backgrounds, strict=True):
        for colour, level in enumerate(known.colours):
            for row in range(len(known.masks)):
                thing = known.thing(row, colour)
                if is_held_out(*thing.combination) or (
                    asked
                    and not (
                        asked.things[0].allows(thing) and asked.background in (None, background)
                    )
                ):
                    continue
                pictures.append((shade[:, None], (level - shade)[:, None], row))
                weights.append(1 / (23**2 if thing.size == "small" else 17**2))
    table = torch.stack(
        [(shade + step * known.masks[row]).flatten() for shade, step, row in pictures]
    ).double()
    far = torch.cdist(x.flatten(1), alpha * table).square()
    logits = -far / (2 * sigma**2) + torch.tensor(weights, dtype=torch.float64).log()
    return (logits.softmax(dim=1) @ table).reshape(x.shape)


@pytest.mark.parametrize(
    ("prompt", "sigma"),
    [("", 0.9), ("a small red circle", 0.9), ("a star at the top on white", 0.99)],
)
def test_scene_oracle_is_the_mean_over_all_renderings(prompt: str, sigma: float) -> None:
    alpha = 1 - sigma
    x = alpha * _scene_samples(6) + sigma * randn(6, 3, 16, 16)
    prompts = [prompt] * 6 if prompt else None
    mean = SceneOracle(16).posterior_mean(x, alpha, sigma, prompts)
    torch.testing.assert_close(mean, _mixture_mean(x, alpha, sigma, prompt), rtol=0, atol=1e-5)
    flat = SceneOracle(16).posterior_mean(x.flatten(1), alpha, torch.full((6,), sigma), prompts)
    torch.testing.assert_close(flat.reshape(x.shape), mean)


def test_scene_oracle_goes_from_the_picture_to_the_mean() -> None:
    oracle, clean = SceneOracle(16), _scene_samples(20)
    noised = 0.9 * clean + 0.05 * randn(20, 3, 16, 16)
    torch.testing.assert_close(oracle.posterior_mean(noised, 0.9, 0.05), clean, rtol=0, atol=1e-6)
    nothing = oracle.posterior_mean(randn(2, 3, 16, 16), 0.0, 1.0)
    torch.testing.assert_close(nothing[0], nothing[1])
    # The mean of many pictures, with the standard error of a value of standard deviation below 1.
    torch.testing.assert_close(nothing[0], _scene_samples(4000, 1).mean(dim=0), rtol=0, atol=0.08)


@pytest.mark.parametrize("sigma", [0.4, 0.8])
def test_scene_oracle_is_best(sigma: float) -> None:
    clean, alpha = _scene_samples(300, 2), 1 - sigma
    noised = alpha * clean + sigma * randn(300, 3, 16, 16)
    oracle = SceneOracle(16)
    mean = oracle.posterior_mean(noised, alpha, sigma)
    told = oracle.posterior_mean(
        noised,
        alpha,
        sigma,
        [caption(scene) for scene in draw_scenes(300, np.random.default_rng(2))],
    )
    errors = [float((each - clean).square().mean()) for each in (told, mean)]
    # More is known with a caption; a step from the mean in any direction loses.
    assert errors[0] <= errors[1]
    other = oracle.posterior_mean(noised, alpha, 1.1 * sigma)
    assert errors[1] < float((other - clean).square().mean()) + 1e-12
    # The error is orthogonal to every function of the noised picture: four standard errors.
    products = ((clean - mean) * mean).flatten(1).mean(dim=1)
    assert abs(float(products.mean())) < 4 * float(products.std()) / math.sqrt(300)


def test_sampling_with_the_scene_oracle_draws_what_is_asked() -> None:
    scenes = draw_scenes(12, np.random.default_rng(3), 1, "held-out")
    prompts = [caption(scene, np.random.default_rng(i)) for i, scene in enumerate(scenes)]
    oracle, x = SceneOracle(16, "all"), randn(12, 3, 16, 16)
    levels = torch.linspace(1, 0, 21, dtype=torch.float64)
    for sigma, following in pairwise(levels):
        mean = oracle.posterior_mean(x, 1 - sigma, sigma, prompts)
        x = (1 - following) * mean + following * (x - (1 - sigma) * mean) / sigma
    scores = score_scenes(x, prompts)
    assert scores.all == 1.0
    assert scores.distance < 1e-3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda o: o.posterior_mean(torch.ones(1, 3, 32, 32), 0.5, 0.5), r"shape \(n, 3, 16, 16\)"),
        (lambda o: o.posterior_mean(torch.ones(1, 3, 16, 16), 0.5, 0.0), "sigma > 0"),
        (lambda o: o.posterior_mean(torch.ones(1, 3, 16, 16), 0.5, 0.5, []), "1 pictures and 0 p"),
        (lambda o: o.allowed("a purple circle"), "is held out.*combinations='all'"),
        (lambda o: o.allowed("a star and a star"), "asks for 2 things"),
    ],
)
def test_scene_oracle_refuses(call: object, message: str) -> None:
    with refused(message, DataError):
        call(SceneOracle(16))
