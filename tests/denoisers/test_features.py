"""Features of points and timesteps against their formulas, wherever a denoiser may be taken."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers import seeded
from kan_diffusion.denoisers import FAMILIES, Denoiser, GatedDenoiser, build_denoiser
from kan_diffusion.denoisers.features import PointFeatures, TimeFeatures

T = 50
each_encoding = pytest.mark.parametrize("encoding", ["raw", "fourier"])


def _exact(encoding: str, timesteps: torch.Tensor, num_frequencies: int = 4) -> torch.Tensor:
    fraction = (timesteps.double().unsqueeze(-1) + 1) / T
    if encoding == "raw":
        return fraction
    angles = fraction * math.pi * 2.0 ** (torch.arange(num_frequencies, dtype=torch.float64) - 1)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


@each_encoding
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_whole_timesteps_are_the_fractional_ones_between_them(
    encoding: str, dtype: torch.dtype
) -> None:
    encode = TimeFeatures(encoding, T, 4)
    whole = encode(torch.arange(T).to(dtype), torch.float32)
    torch.testing.assert_close(whole.double(), _exact(encoding, torch.arange(T)), atol=2e-6, rtol=0)
    assert torch.equal(whole, encode(torch.arange(T).double(), torch.float32))
    halves = torch.arange(T) + 0.5
    fractional = encode(halves, torch.float32)
    torch.testing.assert_close(fractional.double(), _exact(encoding, halves), atol=2e-6, rtol=0)
    assert not torch.allclose(fractional, whole)


@each_encoding
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_conversion_rounds_the_features_once(encoding: str, dtype: torch.dtype) -> None:
    encode = TimeFeatures(encoding, T, 4)
    for convert, timesteps in itertools.product(
        (False, True), (torch.arange(T), torch.arange(T) + 0.5)
    ):
        encode = encode.to(dtype) if convert else encode
        features = encode(timesteps, dtype)
        assert features.dtype == dtype
        tolerance = max(torch.finfo(dtype).eps, 2e-6)
        exact = _exact(encoding, timesteps)
        torch.testing.assert_close(features.double(), exact, atol=tolerance, rtol=0)


@given(st.sampled_from(["raw", "fourier"]), st.integers(1, 1000), st.integers(1, 6))
def test_all_timesteps_are_told_apart_and_those_beyond_the_process_are_its_ends(
    encoding: str, num_timesteps: int, num_frequencies: int
) -> None:
    encode = TimeFeatures(encoding, num_timesteps, num_frequencies)
    features = encode(torch.arange(num_timesteps), torch.float32)
    assert features.shape == (num_timesteps, encode.num_features)
    assert features.abs().max() <= 1
    assert len(torch.unique(features, dim=0)) == num_timesteps
    beyond = encode(torch.tensor([-3, num_timesteps + 7]), torch.float32)
    assert torch.equal(beyond, features[[0, -1]])


def test_the_table_is_no_part_of_a_checkpoint() -> None:
    encode = TimeFeatures("fourier", T, 4)
    assert not encode.state_dict()
    assert torch.equal(copy.deepcopy(encode).table, encode.table)


# Points


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
    points = torch.randn(4, 2, generator=seeded(0))
    if isinstance(high, GatedDenoiser) and high.config.learned_inputs:  # test_gated.py
        assert high.point_features is None
    else:  # a function of the point alone: whole turns of all but x itself
        turned = high.point_features(points + 8)[:, 2:]
        torch.testing.assert_close(turned, high.point_features(points)[:, 2:], atol=2e-5, rtol=0)
    assert high(points, 3, torch.tensor([0, 1, -1, 0])).sample.isfinite().all()
