"""Networks from and for pykan, and from splines on uneven knots, which are fitted."""

from __future__ import annotations

import copy
import itertools
import logging
import random
import re
import sys
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import BSpline
from torch import nn

from efficient_states import efficient_state, even_knots
from helpers import assert_same_state, refused, seeded
from kan_diffusion.kan import KAN, KANLinear
from kan_diffusion.kan.convert import from_efficient_kan, from_pykan, to_pykan


@contextmanager
def _warnings_of(name):
    """What a logger warns of; Hypothesis wants no fixture that lasts over its examples."""
    messages = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    logging.getLogger(name).addHandler(handler)
    try:
        yield messages
    finally:
        logging.getLogger(name).removeHandler(handler)


seeds = st.integers(0, 2**32 - 1)


widths = st.lists(st.integers(1, 4), min_size=2, max_size=4)


def _inputs(num_features, generator, reach=4.0):
    """Points inside a grid near (-1, 1), on the rest of its knots and past them all."""
    return reach * (2 * torch.rand(64, num_features, generator=generator, dtype=torch.float64) - 1)


def _assert_same_function(one, other, x):
    torch.testing.assert_close(one(x), other(x), rtol=1e-9, atol=1e-9)


def _uneven_knots(num_inputs, grid_size, order, generator):
    """Knots whose distances differ by up to a factor of five, drawn for each input."""
    count = grid_size + 2 * order
    steps = 0.2 + 0.8 * torch.rand(num_inputs, count, generator=generator, dtype=torch.float64)
    knots = torch.cat([torch.zeros(num_inputs, 1, dtype=torch.float64), steps.cumsum(1)], dim=1)
    return 4 * knots / knots[:, -1:] - 2


@given(order=st.integers(1, 5), grid_size=st.integers(1, 8), scaled=st.booleans(), seed=seeds)
def test_splines_on_uneven_knots_are_fitted_and_the_error_is_told(order, grid_size, scaled, seed):
    generator = seeded(seed)
    state = efficient_state([2, 3], grid_size, order, scaled, seed=seed)
    knots = state["layers.0.grid"] = _uneven_knots(2, grid_size, order, generator)
    with _warnings_of("kan_diffusion.kan.convert") as messages:
        network = from_efficient_kan(state, base_activation="silu")
    (message,) = messages
    told = float(re.search(r"at most (\S+) %", message)[1]) / 100
    intervals = network.layers[0].grid_size
    assert (
        f"the grids of layers.0 are not uniform: every spline was fitted on {intervals} " in message
    )
    assert intervals % (grid_size + 2 * order) == 0
    assert told <= 1e-4 or intervals == 16 * (grid_size + 2 * order)

    # The splines by SciPy, each function for itself: zero outside of its own knots.
    x = torch.linspace(-2.5, 2.5, 2001, dtype=torch.float64)
    weight = state["layers.0.spline_weight"] * (
        state["layers.0.spline_scaler"][..., None] if scaled else 1
    )
    curves = np.zeros((2001, 3, 2))
    for i, g in itertools.product(range(2), range(grid_size + order)):
        element = BSpline.basis_element(knots[i, g : g + order + 2].numpy(), extrapolate=False)
        curves[:, :, i] += np.outer(np.nan_to_num(element(x)), weight[:, i, g])
    base = nn.functional.silu(x)[:, None, None] * state["layers.0.base_weight"]
    found = network.layers[0].edge_outputs(x[:, None].expand(-1, 2)).detach() - base
    error = np.abs(found.numpy() - curves).max() / np.abs(curves).max()
    assert error <= 1.5 * told + 1e-6  # told of other points, with two digits
    outside = (x < -2) | (x > 2)
    assert float(found[outside].abs().max()) < 1e-12


def test_uneven_knots_that_finer_even_ones_contain_lose_nothing():
    state = efficient_state([1, 2], grid_size=4, order=3)
    state["layers.0.grid"] = torch.arange(11.0, dtype=torch.float64).unsqueeze(0)
    even = from_efficient_kan(state, base_activation="silu")
    state["layers.0.grid"][0, 5] += 0.5
    with _warnings_of("kan_diffusion.kan.convert") as messages:
        network = from_efficient_kan(state, base_activation="silu")
    assert network.layers[0].grid_size == 20
    assert float(re.search(r"at most (\S+) %", messages[0])[1]) < 1e-10
    x = torch.linspace(-1, 11, 500, dtype=torch.float64).unsqueeze(1)
    assert float((network(x) - even(x)).abs().max().detach()) > 0.01


@pytest.fixture(scope="module")
def pykan():
    return pytest.importorskip("kan.MultKAN").MultKAN


def _scramble(model, generator):
    """Random parameters, even grids that differ between inputs, affine maps and masks."""
    with torch.no_grad():
        for index, act in enumerate(model.act_fun):
            for parameter in (
                *(act.coef, act.scale_base, act.scale_sp),
                *(model.node_bias[index], model.node_scale[index]),
                *(model.subnode_bias[index], model.subnode_scale[index]),
            ):
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
            act.grid.copy_(even_knots(act.in_dim, act.num, act.k, generator))
            act.mask.copy_((torch.rand(act.mask.shape, generator=generator) < 0.7).float())
            # Some way through is left, or the network would be constant.
            act.mask[0] = 1


def _pykan_network(pykan, sizes, seed=0, **options):
    settings = {"grid": 4, "k": 3, "auto_save": False, **options}
    with torch.random.fork_rng(devices=[]):
        model = pykan(width=list(sizes), **settings).double()
    _scramble(model, seeded(seed))
    return model


def _network(sizes, seed=0, **options):
    network = KAN(sizes, dtype=torch.float64, **{"extrapolation": "zero", **options})
    generator = seeded(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        for layer in network.layers:
            knots = even_knots(layer.in_features, layer.grid_size, 0, generator)
            layer.grid_origin.copy_(knots[:, 0])
            layer.grid_step.copy_(knots[:, 1] - knots[:, 0])
    return network


@given(
    sizes=widths,
    grid_size=st.integers(1, 8),
    # The compiled kernel takes seconds for each order, with and without SiLU.
    kernel=st.sampled_from([*((order, "silu") for order in range(1, 6)), (3, None)]),
    bias=st.booleans(),
    edge_scale=st.booleans(),
    seed=seeds,
)
def test_a_network_converts_to_pykan_and_back_whatever_became_of_it_there(
    pykan, sizes, kernel, seed, **settings
):
    order, base = kernel
    network = _network(sizes, seed, order=order, base_activation=base, **settings)
    model = to_pykan(network)
    assert isinstance(model, pykan)
    assert model.base_fun_name == (base or "zero")
    model.speed()  # without the loop over formulas, of which there are none
    x = _inputs(sizes[0], seeded(seed))
    _assert_same_function(model, network, x)
    _assert_same_function(from_pykan(model), network, x)
    _scramble(model, seeded(seed))
    back = from_pykan(model)
    _assert_same_function(back, model, x)
    assert back.layers[0].base_activation == base


def test_a_pykan_network_as_it_starts_converts_in_single_precision(pykan):
    with torch.random.fork_rng(devices=[]):
        model = pykan(width=[2, 5, 3], grid=5, k=3, auto_save=False)
    network = from_pykan(model)
    assert {tensor.dtype for tensor in network.state_dict().values()} == {torch.float32}
    x = _inputs(2, seeded(0)).float()
    torch.testing.assert_close(network(x), model(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(to_pykan(network)(x), model(x), rtol=1e-5, atol=1e-5)
    assert to_pykan(network).act_fun[0].coef.dtype is torch.float32


def test_a_pykan_network_that_was_refined_pruned_and_moved_converts(pykan, tmp_path, monkeypatch):
    # Pruning and refining turn pykan's saving on.
    monkeypatch.chdir(tmp_path)
    x = torch.randn(200, 3, generator=seeded(0)) * torch.tensor([1.0, 2.0, 3.0])
    with torch.random.fork_rng(devices=[]):
        model = pykan(width=[3, 4, 1], grid=4, k=3, auto_save=False)
        model.update_grid(x)  # to quantiles
        fitted = from_pykan(model)
        assert fitted.layers[0].grid_size == fitted.layers[1].grid_size >= 4 + 2 * 3
        found, expected = fitted(2 * x).detach(), model(2 * x).detach()
        assert float((found - expected).norm() / expected.norm()) < 5e-3
        for act in model.act_fun:
            act.grid_eps = 1.0
        model.update_grid(x)
        model(x)
        (tmp_path / "model").mkdir()
        model = model.refine(9)
        model(x)
        model = model.prune_node(active_neurons_id=[[0, 2]])
    model.remove_edge(0, 1, 1)
    network = from_pykan(model)
    assert [layer.in_features for layer in network.layers] == [3, 2]
    assert network.layers[0].grid_size == 9
    torch.testing.assert_close(network(2 * x), model(2 * x), rtol=1e-5, atol=1e-5)


def test_a_pykan_network_converts_as_its_training_leaves_it(pykan, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    x = torch.randn(300, 2, generator=seeded(0))
    y = (3 * x[:, :1]).sin() + x[:, 1:].square() / 3
    points = {"train_input": x, "train_label": y, "test_input": x, "test_label": y}
    with torch.random.fork_rng(devices=[]):
        model = pykan(width=[2, 4, 1], grid=5, k=3, auto_save=False)
        model.fit(points, opt="LBFGS", steps=12, update_grid=True)  # with its own grid_eps
    network = from_pykan(model)
    (record,) = caplog.records
    assert "the grids of act_fun[0] and act_fun[1] are not uniform" in record.getMessage()
    found, expected = network(x).detach(), model(x).detach()
    assert float((found - expected).norm() / (expected - expected.mean()).norm()) < 5e-3
    assert float((network(4 * x) - model(4 * x)).abs().max().detach()) < 0.02 * float(y.std())


def test_pykan_trains_what_the_network_trains(pykan):
    full = to_pykan(_network([2, 3, 1], bias=True, edge_scale=True))
    assert all(bias.requires_grad for bias in full.node_bias)
    assert all(act.scale_sp.requires_grad and act.scale_base.requires_grad for act in full.act_fun)
    bare = to_pykan(_network([2, 3, 1], bias=False, base_activation=None))
    assert not any(bias.requires_grad for bias in bare.node_bias)
    assert not any(
        act.scale_sp.requires_grad or act.scale_base.requires_grad for act in bare.act_fun
    )
    assert all(act.coef.requires_grad and not act.grid.requires_grad for act in bare.act_fun)


def test_conversions_copy(pykan):
    network = _network([2, 3, 1])
    before = copy.deepcopy(network.state_dict())
    model = to_pykan(network)
    back = from_pykan(model)
    x = _inputs(2, seeded(0))
    y = back(x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(3.0)
    assert torch.equal(back(x), y)
    assert_same_state(network, before)


@pytest.mark.parametrize("extrapolation", ["linear", "clamp"])
def test_other_extrapolations_agree_inside_the_grid_only_and_say_so(pykan, extrapolation, caplog):
    network = _network([2, 3], extrapolation=extrapolation)
    with caplog.at_level(logging.WARNING, "kan_diffusion"):
        model = to_pykan(network)
    (record,) = caplog.records
    assert f"extrapolation='{extrapolation}' the outputs agree only" in record.getMessage()
    # The grids of even_knots all reach from at least -0.7 to 0.5.
    _assert_same_function(model, network, _inputs(2, seeded(0), reach=0.5))
    far = _inputs(2, seeded(0))
    assert float((model(far) - network(far)).abs().max().detach()) > 0.1


def test_nothing_but_the_network_comes_out_of_a_conversion(
    pykan, tmp_path, monkeypatch, capfd, caplog
):
    monkeypatch.chdir(tmp_path)
    network = _network([2, 3, 1])
    state = efficient_state([2, 1])
    streams = (
        lambda: torch.randn(4).tolist(),
        lambda: np.random.random(4).tolist(),  # noqa: NPY002
        lambda: [random.random() for _ in range(4)],
    )

    # CUDA, until it starts, keeps the last seed for later.
    cuda_seeds = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", cuda_seeds.append)

    def draws(convert):
        torch.manual_seed(7)
        np.random.seed(7)  # noqa: NPY002
        random.seed(7)
        if convert:
            from_pykan(to_pykan(network))
            from_efficient_kan(state, base_activation="silu")
        return [stream() for stream in streams]

    kept = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        assert draws(convert=False) == draws(convert=True)
        assert torch.initial_seed() == 7
        assert torch.cuda.is_initialized() or cuda_seeds[-1] == 7
    finally:
        torch.set_rng_state(kept[0])
        np.random.set_state(kept[1])  # noqa: NPY002
        random.setstate(kept[2])
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_formulas_count_only_where_pykan_counts_them(pykan):
    x = _inputs(2, seeded(0))
    constant = _pykan_network(pykan, [2, 3])
    # The formula 0 with a constant added, as pykan's search for formulas leaves it.
    constant.fix_symbolic(0, 1, 2, "0", verbose=False, log_history=False, fit_params_bool=False)
    with torch.no_grad():
        constant.symbolic_fun[0].affine[2, 1] = torch.tensor([1.0, 2.0, 3.0, 0.5])
        constant.symbolic_fun[0].mask[2, 1] = 0.5
    _assert_same_function(from_pykan(constant), constant, x)

    ignored = _pykan_network(pykan, [2, 3, 1])
    ignored.fix_symbolic(0, 1, 2, "sin", verbose=False, log_history=False, fit_params_bool=False)
    with refused(r"edge \(0, 1, 2\) .* 'sin'.*symbolic\(0, 1, 2\)"):
        from_pykan(ignored)
    ignored.speed()
    _assert_same_function(from_pykan(ignored), ignored, x)
    ignored.symbolic_enabled = True
    ignored.unfix_symbolic(0, 1, 2, log_history=False)
    _assert_same_function(from_pykan(ignored), ignored, x)


def test_a_base_function_without_effect_is_left_out(pykan):
    model = _pykan_network(pykan, [2, 3, 1], base_fun="identity")
    with refused(r"act_fun\[0\]\.base_fun .* Identity\(\); train"):
        from_pykan(model)
    with torch.no_grad():
        model.act_fun[0].scale_base.zero_()
        model.act_fun[1].mask.zero_()
    network = from_pykan(model)
    assert network.layers[0].base_activation is None
    _assert_same_function(network, model, _inputs(2, seeded(0)))
    # Now the second layer's has an effect, and is SiLU.
    model.act_fun[1].base_fun = nn.SiLU()
    with torch.no_grad():
        model.act_fun[1].mask.fill_(0.5)
    _assert_same_function(from_pykan(model), model, _inputs(2, seeded(0)))
    mixed = _pykan_network(pykan, [2, 3, 1], base_fun="zero")
    mixed.act_fun[1].base_fun = nn.SiLU()
    _assert_same_function(from_pykan(mixed), mixed, _inputs(2, seeded(0)))
    function = _pykan_network(pykan, [2, 3, 1], base_fun=nn.functional.silu)
    _assert_same_function(from_pykan(function), function, _inputs(2, seeded(0)))


def _select_inputs(model):
    model.input_id = torch.tensor([2, 0])


def _lose_a_knot(model):
    with torch.no_grad():
        model.act_fun[1].grid[2, 4] = torch.nan


@pytest.mark.parametrize(
    ("options", "spoil", "message"),
    [
        ({"width": [2, [2, 1], 1]}, None, r"multiplication nodes .*\[2, 1\].* sums only"),
        ({"grid": [3, 4]}, None, r"act_fun\[1\] has 4 intervals and order 3, but .* 3 and 3"),
        ({"k": 6}, None, r"order must be 1 to 5, not 6"),
        ({}, _select_inputs, r"selects columns \[2, 0\] .* torch\.arange\(2\)"),
        ({}, _lose_a_knot, r"act_fun\[1\]: the knots of input 2 are no grid: .* with update_grid"),
    ],
)
def test_a_pykan_network_that_no_kan_equals_is_refused(pykan, options, spoil, message):
    model = _pykan_network(pykan, options.pop("width", [2, 3, 1]), **options)
    if spoil is not None:
        spoil(model)
    with refused(message):
        from_pykan(model)


def _other_layer(replacement):
    return lambda network: network.layers.__setitem__(1, replacement)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            _other_layer(KANLinear(3, 1, basis="rbf")),
            r"layers\[1\] is 'rbf', but pykan .* basis='bspline'",
        ),
        (_other_layer(nn.Linear(3, 1)), r"layers\[1\] is 'Linear', but pykan"),
        (
            _other_layer(KANLinear(3, 1, grid_size=7)),
            r"layers\[1\] has \(7, 3, 'silu'\) .* layers\[0\] \(5, 3, 'silu'\), but a pykan",
        ),
        (_other_layer(KANLinear(3, 1, order=2)), r"layers\[1\] has \(5, 2, 'silu'\) for grid"),
        (
            _other_layer(KANLinear(3, 1, base_activation=None)),
            r"layers\[1\] has \(5, 3, None\) for grid",
        ),
    ],
)
def test_a_network_that_no_pykan_network_equals_is_refused(spoil, message):
    network = KAN([2, 3, 1], extrapolation="zero")
    spoil(network)
    with refused(message):
        to_pykan(network)


def test_without_pykan_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "kan.MultKAN", None)
    network = KAN([2, 1], extrapolation="zero")
    for convert in (to_pykan, from_pykan):
        with refused(r"pip install pykan tqdm"):
            convert(network)
