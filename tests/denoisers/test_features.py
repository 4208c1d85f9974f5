import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kan_diffusion.denoisers.features import PointFeatures, TimeFeatures

T = 50


def _exact(encoding, timesteps):
    fraction = (timesteps.double().unsqueeze(-1) + 1) / T
    if encoding == "raw":
        return fraction
    angles = fraction * math.pi * 2.0 ** (torch.arange(4, dtype=torch.float64) - 1)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


@pytest.mark.parametrize("encoding", ["raw", "fourier"])
def test_whole_timesteps_are_the_fractional_ones_between_them_and_are_rounded_once(encoding):
    encode = TimeFeatures(encoding, T, 4)
    assert not encode.state_dict()  # the table is no part of a checkpoint
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        tolerance = max(torch.finfo(dtype).eps, 2e-6)
        for converted in (encode, copy.deepcopy(encode).to(dtype)):
            for timesteps in (torch.arange(T), torch.arange(T) + 0.5):
                features, exact = converted(timesteps, dtype), _exact(encoding, timesteps)
                assert features.dtype == dtype
                torch.testing.assert_close(features.double(), exact, atol=tolerance, rtol=0)
    whole = encode(torch.arange(T), torch.float32)
    for dtype in (torch.int32, torch.uint8, torch.float64):
        assert torch.equal(encode(torch.arange(T).to(dtype), torch.float32), whole)


@given(st.sampled_from(["raw", "fourier"]), st.integers(1, 1000), st.integers(1, 6))
def test_all_timesteps_are_told_apart_and_those_beyond_the_process_are_its_ends(
    encoding, num_timesteps, num_frequencies
):
    encode = TimeFeatures(encoding, num_timesteps, num_frequencies)
    features = encode(torch.arange(num_timesteps), torch.float32)
    assert features.shape == (num_timesteps, encode.num_features)
    assert features.abs().max() <= 1
    assert len(torch.unique(features, dim=0)) == num_timesteps
    beyond = encode(torch.tensor([-3, num_timesteps + 7]), torch.float32)
    assert torch.equal(beyond, features[[0, -1]])


@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 1_000))
def test_features_are_the_points_and_octaves_of_a_quarter_turn_a_unit(dim, num_frequencies, seed):
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


def test_half_precision_points_have_exact_angles():
    points = torch.linspace(-3, 3, 97, dtype=torch.bfloat16).unsqueeze(1)
    features = PointFeatures(1, 5).to(torch.bfloat16)(points)
    assert features.dtype == torch.bfloat16
    exact = PointFeatures(1, 5)(points.float())
    torch.testing.assert_close(features.float(), exact, atol=4e-3, rtol=4e-3)
