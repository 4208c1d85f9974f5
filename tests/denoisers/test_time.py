"""The table of time features against their formula, wherever a denoiser may be taken."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from kan_diffusion.denoisers import build_denoiser
from kan_diffusion.denoisers.time import TimeFeatures

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
    encode = TimeFeatures(encoding, T, 4).to(dtype)
    for timesteps in (torch.arange(T), torch.arange(T) + 0.5):
        features = encode(timesteps, dtype)
        assert features.dtype == dtype
        tolerance = max(torch.finfo(dtype).eps, 2e-6)
        exact = _exact(encoding, timesteps)
        torch.testing.assert_close(features.double(), exact, atol=tolerance, rtol=0)


def test_timesteps_beyond_the_process_are_its_ends() -> None:
    encode = TimeFeatures("fourier", T, 4)
    features = encode(torch.tensor([-3, 0, T - 1, T + 7]), torch.float32)
    assert torch.equal(features[0], features[1])
    assert torch.equal(features[2], features[3])


def test_the_table_is_no_part_of_a_checkpoint() -> None:
    encode = TimeFeatures("fourier", T, 4)
    assert not encode.state_dict()
    assert torch.equal(copy.deepcopy(encode).table, encode.table)


@pytest.mark.parametrize("timestep", [torch.arange(6), torch.arange(6) + 0.5, torch.tensor(3)])
def test_a_denoiser_compiles_to_one_graph_with_either_kind(timestep: torch.Tensor) -> None:
    denoiser = build_denoiser("mlp", 2, num_train_timesteps=T, hidden=(8,))
    compiled = torch.compile(denoiser, backend="eager", fullgraph=True)
    points = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    expected = denoiser(points, timestep).sample
    assert torch.equal(compiled(points, timestep, return_dict=False)[0], expected)


def test_features_are_mapped_over_points_one_by_one() -> None:
    denoiser = build_denoiser("mlp", 2, num_train_timesteps=T, hidden=(8,))
    points = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    timesteps = torch.arange(6) * 7

    def one(point: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return denoiser(point.unsqueeze(0), timestep, return_dict=False)[0][0]

    each = torch.func.vmap(one)(points, timesteps)
    torch.testing.assert_close(each, denoiser(points, timesteps).sample)
