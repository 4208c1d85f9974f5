import copy
import math

import pytest
import torch

from helpers import randn
from kan_diffusion.denoisers.features import TimeFeatures, waves

T = 50


@pytest.mark.parametrize("encoding", ["raw", "fourier"])
def test_whole_timesteps_are_the_fractional_ones_between_them_and_are_rounded_once(encoding):
    encode = TimeFeatures(encoding, T, 4)
    assert not encode.state_dict()  # the table is no part of a checkpoint
    for timesteps in (torch.arange(T), torch.arange(T) + 0.5):
        exact = (timesteps.double().unsqueeze(-1) + 1) / T
        if encoding == "fourier":
            angles = exact * math.pi * 2.0 ** (torch.arange(4, dtype=torch.float64) - 1)
            exact = torch.cat([angles.cos(), angles.sin()], dim=-1)
        for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
            tolerance = max(torch.finfo(dtype).eps, 2e-6)
            for converted in (encode, copy.deepcopy(encode).to(dtype)):
                features = converted(timesteps, dtype)
                assert features.dtype == dtype
                torch.testing.assert_close(features.double(), exact, atol=tolerance, rtol=0)
    whole = encode(torch.arange(T), torch.float32)
    beyond = encode(torch.tensor([-3, T + 7]), torch.float32)
    assert torch.equal(beyond, whole[[0, -1]])
    for dtype in (torch.int32, torch.uint8, torch.float64):
        assert torch.equal(encode(torch.arange(T).to(dtype), torch.float32), whole)


def test_a_table_without_values_gets_them_on_its_device():
    with torch.device("meta"):
        encode = TimeFeatures("fourier", T, 4)
    timesteps = torch.arange(T)
    expected = TimeFeatures("fourier", T, 4)(timesteps, torch.float32)
    assert torch.equal(encode.to_empty(device="cpu")(timesteps, torch.float32), expected)
    assert torch.equal(encode.bfloat16().float()(timesteps, torch.float32), expected)


def test_waves_of_half_precision_have_angles_in_single_precision():
    # Their formula is in test_network.
    half = (2 * randn(7, 3)).bfloat16()
    assert torch.equal(waves(half, 6, 0.25), waves(half.float(), 6, 0.25))
