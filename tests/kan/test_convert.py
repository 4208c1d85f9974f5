"""Networks from efficient-KAN: equal outputs, clear refusals; tests/all has pykan's."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import forward_ad

from efficient_states import efficient_state, inputs
from helpers import refused
from kan_diffusion.kan.convert import from_efficient_kan
from splines import scipy_splines


def _efficient_forward(state, x):
    """What an efficient-KAN computes, in NumPy, with the B-splines of scipy.

    A layer's output o is sum_i w_oi silu(x_i) + sum_ig s_oi c_oig B_ig(x_i), B_ig on the knots of
    input i.
    """
    for index in range(sum(key.endswith("base_weight") for key in state)):
        own = f"layers.{index}."
        tensors = {
            key.removeprefix(own): value.numpy()
            for key, value in state.items()
            if key.startswith(own)
        }
        weight, knots = tensors["spline_weight"], tensors["grid"]
        if "spline_scaler" in tensors:
            weight = weight * tensors["spline_scaler"][:, :, None]
        order = knots.shape[1] - weight.shape[2] - 1
        edges = (x / (1 + np.exp(-x)))[:, None, :] * tensors["base_weight"]
        for i in range(x.shape[1]):
            edges[:, :, i] += scipy_splines(x[:, i], knots[i], order, "zero") @ weight[:, i].T
        x = edges.sum(2)
    return x


@given(
    sizes=st.lists(st.integers(1, 4), min_size=2, max_size=4),
    grid_size=st.integers(1, 8),
    order=st.integers(1, 5),
    scaled=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_an_efficient_kan_keeps_its_outputs_inside_and_outside_of_the_grid(
    sizes, grid_size, order, scaled, seed
):
    state = efficient_state(sizes, grid_size, order, scaled, seed)
    with torch.device("meta"):  # torch's default is no device of a network
        network = from_efficient_kan(state)
    x = inputs(sizes[0], seed)
    expected = _efficient_forward(state, x.numpy())
    with forward_ad.dual_level():  # where no kernel is compiled for its order
        found = network(x).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_a_grid_is_as_even_as_its_numbers_allow():
    # 1,000 away from zero, float32 has about 2,000 numbers in an interval of 0.13.
    state = {key: value.float() for key, value in efficient_state([2, 1]).items()}
    knots = 1000.01 + 0.13 * torch.arange(-3, 8, dtype=torch.float64)
    state["layers.0.grid"] = knots.float().repeat(2, 1)
    network = from_efficient_kan(state)
    assert {tensor.dtype for tensor in network.state_dict().values()} == {torch.float32}
    basis = network.layers[0].basis
    assert float(basis.grid_origin[0]) == pytest.approx(1000.01, abs=1e-3)
    assert float(basis.grid_step[0]) == pytest.approx(0.13, abs=1e-4)


def _uneven(state, stretch):
    """Moves the knots of every input to other places between the first and the last."""
    for key in [key for key in state if key.endswith("grid")]:
        low, high = state[key][:, :1], state[key][:, -1:]
        state[key] = low + (high - low) * stretch((state[key] - low) / (high - low))
    return state


def test_uneven_knots_are_fitted_on_request():
    # As quantiles of data that are denser at one end.
    state = _uneven(efficient_state([3, 2], seed=3), lambda t: (t + t**2) / 2)
    network, error = from_efficient_kan(state, fit=True)
    x = inputs(3, seed=4)
    weight = state["layers.0.spline_weight"] * state["layers.0.spline_scaler"][:, :, None]
    curves = [
        scipy_splines(x[:, i].numpy(), knots, 3, "zero") @ weight[:, i].numpy().T
        for i, knots in enumerate(state["layers.0.grid"].numpy())
    ]
    assert 0 < error < 1e-3
    far = np.abs(network(x).detach().numpy() - _efficient_forward(state, x.numpy()))
    assert far.max() < 3 * 1.5 * error * np.abs(curves).max()
    even = efficient_state([3, 2])
    network, error = from_efficient_kan(even, fit=True)
    assert error == 0
    assert torch.equal(network(x), from_efficient_kan(even)(x))


def test_a_fit_on_knots_too_uneven_is_warned_of():
    state = _uneven(efficient_state([2, 3, 1]), lambda t: t**8)
    with pytest.warns(UserWarning, match=r"layers\.\d: functions on its uneven knots .* error of"):
        _, error = from_efficient_kan(state, fit=True)
    assert error > 1e-3


def _knot(index, change):
    """Changes a knot of the second layer's last input."""
    return lambda state: state["layers.1.grid"][2, index].add_(change)


def _put(key, value):
    return lambda state: state.__setitem__(key, value)


REFUSED = [
    (lambda state: state.pop("layers.1.grid"), r"layers\.1 is not whole or"),
    (dict.clear, r"layers\.0 is not whole"),
    (_put("layers.3.grid", torch.zeros(1, 1)), r"layers\.2 is not whole"),
    (
        _put("encoder.weight", torch.zeros(1)),
        r"'encoder\.weight' is no tensor of floats .* and no more",
    ),
    (
        _put("layers.0.grid", torch.zeros(2, 11).long()),
        r"'layers\.0\.grid' is no tensor of floats",
    ),
    (_put("layers.0.base_weight", torch.zeros(3)), r"layers\.0 .* other shapes; pass"),
    (_put("layers.0.spline_weight", torch.zeros(2, 3, 7)), r"layers\.0 .* other shapes"),
    (_put("layers.1.grid", torch.zeros(3, 15)), "grid_size must be .* from 1 to 10,000, not 0"),
    (_put("layers.1.grid", torch.arange(11.0).repeat(2, 1)), r"layers\.1 .* other shapes"),
    (lambda state: state.update(efficient_state([2, 4])), r"layers\.0 and layers\.1 do not follow"),
    (
        lambda state: state.update(efficient_state([2, 3, 1], order=0)),
        "order must be a whole number, from",
    ),
    (
        _put("layers.0.grid", torch.full((2, 11), torch.nan)),
        r"layers\.0: .* input 0 are no finite numbers that",
    ),
    (_knot(4, 0.01), r"layers\.1: .* input 2 are no even grid, .* give fit=True, or .* grid_eps=1"),
]


def test_what_is_not_an_efficient_kan_is_refused():
    for spoil, message in REFUSED:
        state = efficient_state([2, 3, 1])
        spoil(state)
        with refused(message):
            from_efficient_kan(state)
    arrays = {name: value.numpy() for name, value in efficient_state([2, 3, 1]).items()}
    with refused("'layers.0.base_weight' is no tensor of floats of an efficient-KAN; pass layers"):
        from_efficient_kan(arrays)
    with refused(r"takes the state dict of a network, not a str; pass network\.state_dict\(\)"):
        from_efficient_kan("model.pt")
