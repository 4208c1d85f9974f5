"""The one network of points against its formula, whatever its settings."""

import math

import pytest
import torch
from torch.nn.functional import linear, pad, relu, silu

from family_contract import stirred
from helpers import assert_same_state, function_by_function, randn, refused, seeded
from kan_diffusion.denoisers import NetworkDenoiser
from make import points

T = 100
GATED = {"gated": True, "residual": True, "rank": 3, "num_input_frequencies": None}
LEARNED = {**GATED, "learned_inputs": True, "learned_functions": True, "num_functions": 3}
EDGES = {"edges": True, "grid_size": 4, "num_time_frequencies": 2}


def _by_formula(denoiser, x, timestep, observed):
    config, mask = denoiser.config, ~observed.isnan()
    x = x.where(~mask, observed)
    if config.gated:
        x = x.clamp(-4, 4)
    time = ((timestep + 1) / T).double().unsqueeze(1)
    waves_of_time, code = denoiser.time_features(timestep, torch.float64), None
    if config.learned_inputs:
        place = 8 * time - 4
        first = function_by_function(denoiser.first, torch.cat([x, place], 1)).flatten(1)
        code = function_by_function(denoiser.time_code, place)[:, 0]
        output = linear(first, denoiser.first.weight, denoiser.first.bias)
    else:
        angles = (
            x[..., None] * math.pi / 4 * 2.0 ** torch.arange(denoiser.num_input_frequencies)
        ).flatten(1)
        seen = torch.cat([x, angles.cos(), angles.sin()], 1)
        if config.modulated:
            code, inputs = waves_of_time, seen
            if config.scaled_inputs:
                *rows, last = denoiser.input_scale
                inputs = seen * (1 + last + waves_of_time @ torch.stack(rows))
        else:
            inputs = torch.cat([seen, waves_of_time], 1)
            code = (
                None if denoiser.time_code is None else waves_of_time @ denoiser.time_code.weight.T
            )
        output = denoiser.first(inputs)
    for told, shift in zip(mask.T, denoiser.given.T, strict=True):
        output = output + told[:, None] * shift
    state = torch.zeros(len(x), 1, dtype=torch.float64)
    for layer in denoiser.layers:
        own = layer.linear if config.edges else layer
        values, gates = output, 1.0
        if config.gated:
            values, gates = output.split(own.in_features, 1)
        if code is not None:
            scales, shifts = layer.modulation.unbind(1)
            values = (1 + scales[-1] + code @ scales[:-1]) * values
            values = values + shifts[-1] + code @ shifts[:-1]
        if config.carries_values:
            own, values = layer.linear, silu(values)
        state = values + config.residual * pad(state, (0, values.shape[1] - state.shape[1]))
        if config.edges or config.carries_values:
            output = own(state)
            continue
        h = relu(state) if config.activation == "relu" else silu(state)
        if config.learned_functions:
            h = function_by_function(layer.functions, state)[..., 0]
        output = linear(h * gates, layer.weight, layer.bias)
    return output


@pytest.mark.parametrize(
    "settings",
    [
        {"activation": "relu", "time_encoding": "raw", "num_input_frequencies": 2},
        {"residual": True, "modulated": True, "scaled_inputs": True},
        {"residual": True, "carries_values": True},
        LEARNED,
        {**LEARNED, "learned_functions": False},
        GATED,
        {**GATED, "gated": False, "rank": None},
        {"learned_functions": True, "num_functions": None},
        {**EDGES, "residual": True},
        {**EDGES, "modulated": True, "scaled_inputs": True, "num_input_frequencies": 2},
    ],
    ids=str,
)
def test_it_is_its_formula(settings):
    shape = {"hidden": (5, 4, 6), "num_train_timesteps": T, "observable": True}
    denoiser = NetworkDenoiser(3, **shape, **settings).double()
    for seed, parameter in enumerate(denoiser.parameters()):
        parameter.detach().add_(0.3 * randn(*parameter.shape, seed=seed))
    x, timestep = 2 * randn(20, 3), torch.randint(0, T, (20,), generator=seeded(1))
    observed = randn(20, 3, seed=2)
    observed[::3, :2] = torch.nan
    observed[::2, 2] = torch.nan
    found = denoiser(x, timestep, observed=observed).sample
    torch.testing.assert_close(found, _by_formula(denoiser, x, timestep, observed))


# Inputs of all: 2 coordinates and raw time; layers 3-4-5-2.
PRODUCTS = 3 * 4 + 4 * 5 + 5 * 2
HIDDEN = {"hidden": (4, 5), "time_encoding": "raw"}
COUNTED = [
    # Four features more: an angle, a cosine and a sine for each coordinate.
    (
        {"activation": "relu", "num_input_frequencies": 1, **HIDDEN},
        2 * (PRODUCTS + 4 * 4) + (4 + 5 + 2) + (4 + 5) + 2 * 9,
    ),
    # No time at the input; of a code of one number a unit has 2 x 2 and 3; 4 sums.
    (
        {"residual": True, "modulated": True, **HIDDEN},
        2 * (PRODUCTS - 4) + 11 + 9 * 4 + 9 * 7 + 4,
    ),
    # Three functions of coordinates and time, two of time, one a unit; 8 and 10 values and gates;
    # a unit has 2 x 2 scales and shifts and a gate; 4 states are carried.
    (
        {**LEARNED, "hidden": (4, 5), "num_input_frequencies": 1, "rank": 2},
        3 * 21 + 2 * 72 + 8 + 15 + (2 * 40 + 10) + (2 * 10 + 2) + (4 + 5) * (9 + 12) + 4,
    ),
]


def test_operations_are_those_counted_by_hand():
    for settings, flops in COUNTED:
        denoiser = NetworkDenoiser(2, **settings)
        assert denoiser.flops == flops
        assert type(denoiser.flops) is int


def test_linear_maps_are_drawn_as_in_torch_or_as_in_the_notebook_and_modulation_is_zero():
    for init, std in ((None, 1 / math.sqrt(3 * 400)), ("xavier", math.sqrt(2 / 700))):
        made = NetworkDenoiser(2, (400, 300), init=init)
        made.reset_parameters(seeded(0))
        assert float(made.layers[0].weight.detach().std()) == pytest.approx(std, rel=0.02)
        for part in (made.first, made.layers[0]):
            assert torch.equal(part.bias, torch.full_like(part.bias, 0.01)) == (init == "xavier")
    # A new network is drawn so, too, and all of one that was trained is drawn again.
    made = NetworkDenoiser(2, (8, 6), T, learned_functions=True, rank=2, init="xavier")
    assert torch.equal(made.first.bias, torch.full_like(made.first.bias, 0.01))
    made.reset_parameters(seeded(0))
    start = {name: value.clone() for name, value in made.state_dict().items()}
    for parameter in made.parameters():
        parameter.detach().fill_(7)
    made.reset_parameters(seeded(0))
    assert_same_state(made, start)
    made = NetworkDenoiser(2, (5, 4), T, **EDGES, modulated=True, scaled_inputs=True)
    scales = [made.input_scale, *(layer.modulation for layer in made.layers)]
    for each in scales:
        each.detach().fill_(1)
    made.reset_parameters(seeded(0))
    assert not any(bool(each.any()) for each in scales)


def test_learned_inputs_have_waves_where_there_is_room_or_they_are_observed():
    observed = {"observable": True}
    for dim, settings, functions in (
        (2, {}, 7),
        (20, {}, 1),
        (20, observed, 3),  # a value's sign and its noise take two functions
        (20, {**observed, "num_input_frequencies": 0}, 1),
    ):
        denoiser = NetworkDenoiser(dim, (4,), T, **{**LEARNED, **settings})
        assert denoiser.first.functions == functions


SETTINGS = [
    ({"data_dim": 0}, "data_dim must be a whole number, at least 1, not 0"),
    ({"hidden": (8, 2.5)}, "a width of hidden must be a whole number, at least 1, not 2.5"),
    ({"num_train_timesteps": 0}, "num_train_timesteps must be .* at least 1, not 0"),
    ({"num_time_frequencies": 0}, "num_time_frequencies must be .* at least 1, not 0"),
    ({"time_encoding": "fourrier"}, "did you mean 'fourier'"),
    ({"activation": "rely"}, "unknown activation 'rely'"),
    ({"init": "xaver"}, "did you mean 'xavier'"),
    ({"edges": True, "init": "torch"}, "unknown init 'torch'"),
    ({"edges": True, "basis": "bsplin"}, "unknown basis 'bsplin'"),
    ({"num_input_frequencies": -1}, "num_input_frequencies .* not -1"),
    ({**LEARNED, "num_functions": 0}, "num_functions must be .* at least 1, not 0"),
    ({"rank": 0}, "rank must be .* at least 1, not 0"),
    ({**LEARNED, "num_input_frequencies": 5, "input_grid_size": 6}, "raise grid_size"),
    ({"scaled_inputs": True}, "scaled_inputs needs modulated; set it"),
    ({"edges": True, "gated": True}, "edges have functions of their own; leave out"),
    ({"modulated": True, "rank": 2}, "takes all waves of the timestep as its code"),
    ({"carries_values": True, "gated": True}, "carried on by plain MLPs alone"),
]
NOTHING = torch.zeros(6, 2)
CALLS = [
    (torch.zeros(6, 3), {}, r"shape \(B, 2\), not \(6, 3\)"),
    (torch.zeros(2), {}, r"shape \(B, 2\)"),
    (torch.zeros(2, 6, 2), {}, r"shape \(B, 2\)"),
    (NOTHING, {"observed": torch.zeros(2, 2)}, "must have the shape"),
]


def test_unusable_settings_and_calls_are_refused():
    for settings, message in SETTINGS:
        with refused(message):
            NetworkDenoiser(**{"data_dim": 2, **settings})
    made = stirred("mlp", observable=True)
    for sample, conditions, message in CALLS:
        with refused(message):
            made(sample, 5, **conditions)
    with refused("not built for observed coordinates"):
        stirred("mlp")(NOTHING, 5, observed=NOTHING)
    with pytest.raises(RuntimeError, match="expand"):  # as many timesteps as there are points
        stirred("mlp", settings={"modulated": True})(points(1), torch.arange(6))
