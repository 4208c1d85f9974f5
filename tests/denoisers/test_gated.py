import pytest
import torch
from torch.nn.functional import linear, silu

from helpers import function_by_function, randn, seeded
from kan_diffusion.denoisers import GatedDenoiser
from kan_diffusion.kan.functions import waves

FIXED = {"learned_inputs": False, "learned_functions": False}
T = 100


def _denoiser(**settings):
    shape = {"hidden": (5, 4, 6), "num_train_timesteps": T, "num_functions": 3, **settings}
    denoiser = GatedDenoiser(2, **shape).double()
    for seed, parameter in enumerate(denoiser.parameters()):
        parameter.detach().add_(0.3 * randn(*parameter.shape, seed=seed))
    return denoiser


def _by_formula(denoiser, points, timestep):
    network, residual = denoiser.network, denoiser.config.residual
    time = ((timestep + 1) / T).double().unsqueeze(1)
    if denoiser.config.learned_inputs:
        place = 8 * time - 4
        first = function_by_function(network.first, torch.cat([points, place], 1)).flatten(1)
        code = None
        if network.code is not None:
            code = function_by_function(network.code, place)[:, 0]
    else:
        waves_of_time = denoiser.time_features(timestep, torch.float64)
        first = torch.cat([denoiser.point_features(points), waves_of_time], 1)
        code = None if network.code is None else network.code(waves_of_time)
    output = linear(first, network.first.weight, network.first.bias)
    state = torch.zeros(len(points), 1, dtype=torch.float64)
    for layer in network.layers:
        values, gates = output, 1.0
        if denoiser.config.gated:
            values, gates = output[:, : layer.in_features], output[:, layer.in_features :]
        if code is not None:
            scales, shifts = layer.modulation.unbind(1)
            values = (1 + scales[-1] + code @ scales[:-1]) * values
            values = values + shifts[-1] + code @ shifts[:-1]
        carried = torch.zeros_like(values)
        wide = min(carried.shape[1], state.shape[1])
        carried[:, :wide] = state[:, :wide] if residual else 0
        state = values + carried
        h = silu(state)
        if layer.functions is not None:
            h = function_by_function(layer.functions, state)[..., 0]
        output = linear(h * gates, layer.weight, layer.bias)
    return output


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gated": False, "rank": 2, "residual": False},
        FIXED,
        {**FIXED, "rank": None},
        {**FIXED, "learned_functions": True},
        {"learned_functions": False},
    ],
    ids=str,
)
def test_it_is_its_formula(settings):
    denoiser = _denoiser(**settings)
    points, timestep = randn(20, 2), torch.randint(0, T, (20,), generator=seeded(1))
    found = denoiser(points, timestep).sample
    torch.testing.assert_close(found, _by_formula(denoiser, points, timestep))
    # A timestep for all points is that of each.
    same = denoiser(points, torch.full((20,), 7)).sample
    torch.testing.assert_close(denoiser(points, 7).sample, same)


def test_units_share_functions_by_turns():
    denoiser = _denoiser(hidden=(5, 2))
    groups = [layer.functions.group_of for layer in denoiser.network.layers]
    assert groups == [(0, 1, 2, 0, 1), (0, 1)]


def test_learned_features_start_as_the_input_and_waves_of_it():
    denoiser = GatedDenoiser(2, num_input_frequencies=2, rank=3)
    x = torch.linspace(-4, 4, 201).unsqueeze(1)
    expected = torch.cat([x, *(function(x) for function in waves(4, 1 / 8))], dim=1)
    for functions in (denoiser.network.first, denoiser.network.code):
        h = function_by_function(functions, x.expand(-1, functions.in_features)).detach()
        for place, one in enumerate(h.unbind(1)):
            error = (one - expected[:, : functions.functions]).square().mean(0).sqrt()
            assert float(error.max()) < 0.05, place


@pytest.mark.parametrize("settings", [{}, FIXED], ids=str)
def test_far_away_it_is_what_it_is_at_the_end_of_its_grid(settings):
    denoiser = _denoiser(**settings)
    far = 1e6 * randn(20, 2)
    expected = denoiser(4 * far.sign(), 7).sample
    torch.testing.assert_close(denoiser(far, 7).sample, expected)
    inside = denoiser(3.9 * far.sign(), 7).sample
    assert not torch.allclose(inside, expected)


def test_inputs_have_waves_where_there_is_room_or_they_are_told():
    told = {"blocks": (1,) * 20}
    for dim, settings, functions in (
        (2, {}, 7),
        (20, {}, 1),
        (20, told, 3),  # a value's sign and its noise take two functions
        (2, {"blocks": (1, 1)}, 7),
        (20, {**told, "num_input_frequencies": 0}, 1),
    ):
        denoiser = GatedDenoiser(dim, hidden=(4,), num_train_timesteps=T, **settings)
        assert denoiser.network.first.functions == functions
    # Fixed features of many inputs are the inputs, whether they are told or not.
    shape = {"hidden": (4,), "num_train_timesteps": T, "num_time_frequencies": 1, **FIXED}
    widths = {GatedDenoiser(20, **shape, **each).network.first.in_features for each in ({}, told)}
    assert len(widths) == 1
