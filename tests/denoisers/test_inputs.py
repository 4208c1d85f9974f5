from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kan_diffusion.denoisers import FAMILIES, Denoiser, build_denoiser
from kan_diffusion.denoisers.inputs import PointFeatures


@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 1_000))
def test_features_are_the_points_and_octaves_of_a_quarter_turn_a_unit(
    dim: int, num_frequencies: int, seed: int
) -> None:
    points = np.random.default_rng(seed).normal(0, 2, (7, dim))
    features = PointFeatures(dim, num_frequencies)
    waves = [
        wave(2**m * np.pi * points[:, coordinate] / 4)
        for wave in (np.cos, np.sin)
        for coordinate in range(dim)
        for m in range(num_frequencies)
    ]
    wanted = np.column_stack([points, *waves])
    assert features.num_features == wanted.shape[1]
    np.testing.assert_allclose(features(torch.from_numpy(points)).numpy(), wanted, atol=1e-12)


def test_half_precision_points_have_exact_angles() -> None:
    points = torch.linspace(-3, 3, 97, dtype=torch.bfloat16).unsqueeze(1)
    features = PointFeatures(1, 5).to(torch.bfloat16)(points)
    assert features.dtype == torch.bfloat16
    exact = PointFeatures(1, 5)(points.float())
    torch.testing.assert_close(features.float(), exact, atol=4e-3, rtol=4e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_takes_them_and_counts_them(family: str) -> None:
    def build(num_input_frequencies: int) -> Denoiser:
        return build_denoiser(
            family,
            2,
            num_train_timesteps=10,
            hidden=(5, 6),
            num_classes=2,
            settings={"num_input_frequencies": num_input_frequencies},
        )

    without, low, high = build(0), build(1), build(3)
    assert without.point_features is None
    assert not any("octaves" in name for name in high.state_dict())
    for count in ("num_trainable", "flops", "flops_per_edge"):
        counts = [getattr(denoiser, count) for denoiser in (without, low, high)]
        assert counts[0] < counts[1] < counts[2]
    # The features are a function of the point alone: whole turns of all but x itself.
    points = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    turned = high.point_features(points + 8)[:, 2:]
    torch.testing.assert_close(turned, high.point_features(points)[:, 2:], atol=2e-5, rtol=0)
    assert high(points, 3, torch.tensor([0, 1, -1, 0])).sample.isfinite().all()
