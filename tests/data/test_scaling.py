from __future__ import annotations

import pytest
import torch
from sklearn.preprocessing import StandardScaler

from helpers import randn, refused, seeded
from kan_diffusion.data import Standardizer, make_toy
from kan_diffusion.errors import DataError


def test_agrees_with_scikit_learn() -> None:
    points = randn(500, 3) * torch.tensor([1e-3, 5.0, 1e6]) + 7
    ours = Standardizer.from_points(points).apply(points)
    theirs = torch.from_numpy(StandardScaler().fit_transform(points.numpy()))
    torch.testing.assert_close(ours, theirs)


def test_float32_points_are_scaled_in_float64() -> None:
    # In float32 the mean 1e6 + 0.03 would round to a multiple of 0.0625.
    standardizer = Standardizer((1e6 + 0.03,), (1.0,))
    x = torch.tensor([[1e6]], dtype=torch.float32)
    z = standardizer.apply(x)
    assert z.dtype == torch.float32
    assert float(z) == pytest.approx(-0.03, abs=1e-6)


def test_density_and_its_points_are_standardised_alike() -> None:
    density = make_toy("swiss-roll")
    standardizer = Standardizer.from_density(density)
    rescaled = standardizer.rescale(density)
    torch.testing.assert_close(rescaled.mean, torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(rescaled.std, torch.ones(2, dtype=torch.float64))
    sample = density.sample(20_000, seeded())
    from_points = Standardizer.from_points(sample)
    assert from_points.mean == pytest.approx(standardizer.mean, abs=0.2)
    assert from_points.scale == pytest.approx(standardizer.scale, rel=0.02)
    torch.testing.assert_close(
        standardizer.apply(sample[:100]), rescaled.sample(20_000, seeded())[:100]
    )


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Standardizer((0.0,), (0.0,)), "coordinate 1 has scale 0"),
        (lambda: Standardizer((0.0, 1.0), (1.0, -2.0)), "coordinate 2 has scale -2"),
        (lambda: Standardizer((float("nan"),), (1.0,)), "NaN or infinite"),
        (lambda: Standardizer((0.0, 1.0), (1.0,)), "one number for each coordinate"),
        (lambda: Standardizer((), ()), "one number for each coordinate"),
        (lambda: Standardizer.from_points(torch.full((10, 2), 0.1)), "is it constant"),
        (lambda: Standardizer.from_points(torch.zeros(5)), r"shape \(n, d\)"),
        (lambda: Standardizer.from_points(torch.tensor([[1.0], [float("inf")]])), "infinite"),
        (lambda: Standardizer((0.0, 0.0), (1.0, 1.0)).apply(torch.zeros(4, 3)), r"shape \(n, 2\)"),
    ],
)
def test_unusable_moments_and_points_are_refused(make, words: str) -> None:
    with refused(words, DataError):
        make()
