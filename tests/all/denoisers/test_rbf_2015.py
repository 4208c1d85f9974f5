import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers import seeded
from kan_diffusion.denoisers import RBF2015Denoiser


def _denoiser(dim, units, readouts, num_timesteps, seed=0):
    denoiser = RBF2015Denoiser(dim, (units, readouts), num_timesteps).double()
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.normal_(0, 0.7, generator=seeded(seed))
    return denoiser


def _by_hand(denoiser, point, timestep):
    """One point, unit by unit and readout by readout."""
    network = denoiser.network
    centres = network.centres.detach().numpy()
    widths = network.log_widths.detach().exp().numpy()
    weight, bias = network.weight.detach().numpy(), network.bias.detach().numpy()
    values = [
        math.exp(-float(((point - centre) ** 2).sum()) / (2 * width**2))
        for centre, width in zip(centres, widths, strict=True)
    ]
    values = [value / sum(values) for value in values]

    def readout(k):
        return bias[k] + sum(value * weight[unit, k] for unit, value in enumerate(values))

    last = denoiser.num_train_timesteps - 1
    place = min(max(timestep, 0), last) * (denoiser.num_readouts - 1) / max(last, 1)
    below = min(math.floor(place), max(denoiser.num_readouts - 2, 0))
    if denoiser.num_readouts == 1:
        return readout(0)
    return readout(below) + (place - below) * (readout(below + 1) - readout(below))


@given(
    st.integers(1, 4),
    st.integers(1, 6),
    st.integers(1, 9),
    st.integers(1, 40),
    st.integers(0, 1_000),
)
def test_it_is_the_formula(dim, units, readouts, num_timesteps, seed):
    denoiser = _denoiser(dim, units, readouts, num_timesteps, seed=seed)
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(6, dim))
    # Those outside the process count as its ends.
    whole = rng.integers(-3, num_timesteps + 3, 6)
    for timesteps in (whole, rng.uniform(-3, num_timesteps + 3, 6)):
        expected = [_by_hand(denoiser, *each) for each in zip(points, timesteps, strict=True)]
        output = denoiser(torch.from_numpy(points), torch.from_numpy(timesteps)).sample
        np.testing.assert_allclose(output.detach().numpy(), expected, rtol=1e-4, atol=1e-5)
    alike = denoiser(torch.from_numpy(points), int(whole[0])).sample
    expected = [_by_hand(denoiser, point, int(whole[0])) for point in points]
    np.testing.assert_allclose(alike.detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_the_originals_size_is_the_default():
    # 16 units with two coordinates and a width; 40 readouts of 16 weights and a constant.
    assert RBF2015Denoiser(2).num_trainable == 16 * 3 + 40 * 2 * 17
