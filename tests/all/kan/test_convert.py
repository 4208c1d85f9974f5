"""Networks from pykan on even knots."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from efficient_states import even_knots, inputs
from helpers import refused, seeded
from kan_diffusion.kan.convert import from_pykan


def _assert_converts(model, seed=0):
    """The network that a model becomes has its outputs."""
    network, x = from_pykan(model), inputs(model.width[0][0], seed)
    torch.testing.assert_close(network(x), model(x), rtol=1e-9, atol=1e-9)
    return network


@pytest.fixture(scope="module")
def pykan():
    return pytest.importorskip("kan.MultKAN").MultKAN


def _pykan_network(pykan, sizes, seed=0, **options):
    """One with random parameters, affine maps and masks, and grids that differ between inputs."""
    settings = {"grid": 4, "k": 3, "auto_save": False, **options}
    with torch.random.fork_rng(devices=[]):
        model = pykan(width=list(sizes), **settings).double()
    generator = seeded(seed)
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
    return model


@given(
    sizes=st.lists(st.integers(1, 4), min_size=3, max_size=3),
    grid=st.lists(st.integers(1, 8), min_size=2, max_size=2),
    order=st.integers(1, 5),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_network_keeps_its_outputs_inside_and_outside_of_the_grid(
    pykan, sizes, grid, order, seed
):
    model = _pykan_network(pykan, sizes, seed, grid=grid, k=order)
    network = _assert_converts(model, seed)
    # A copy: what becomes of the model leaves the network alone.
    x = inputs(sizes[0], seed)
    before = network(x)
    for parameter in model.parameters():
        parameter.detach().fill_(3.0)
    assert torch.equal(network(x), before)


def test_a_network_that_was_refined_and_pruned_converts_in_single_precision(
    pykan, tmp_path, monkeypatch
):
    # Pruning and refining turn pykan's saving on.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    x = torch.randn(200, 3, generator=seeded(0)) * torch.tensor([1.0, 2.0, 3.0])
    with torch.random.fork_rng(devices=[]):
        model = pykan(width=[3, 4, 1], grid=4, k=3, grid_eps=1.0, auto_save=False)
        model.update_grid(x)
        model(x)
        model = model.refine(9)
        model(x)
        model = model.prune_node(active_neurons_id=[[0, 2]])
    model.remove_edge(0, 1, 1)
    network = from_pykan(model)
    assert [layer.in_features for layer in network.layers] == [3, 2]
    assert network.layers[0].basis.num_intervals == 9
    assert {tensor.dtype for tensor in network.state_dict().values()} == {torch.float32}
    torch.testing.assert_close(network(2 * x), model(2 * x), rtol=1e-5, atol=1e-5)


def test_a_grid_that_follows_data_is_fitted(pykan):
    x = torch.randn(500, 2, generator=seeded(0)).double()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = pykan(width=[2, 3, 1], grid=5, k=3, auto_save=False).double()  # grid_eps=0.02
        model.update_grid_from_samples(x)
    with refused(r"are no even grid, .* give fit=True"):
        from_pykan(model)
    network, error = from_pykan(model, fit=True)
    assert 0 < error < 1e-3
    expected = model(x).detach()
    assert float((network(x).detach() - expected).abs().max()) < 0.01 * float(expected.std())


def test_formulas_count_only_where_pykan_counts_them(pykan):
    quiet = {"verbose": False, "log_history": False, "fit_params_bool": False}
    ignored = _pykan_network(pykan, [2, 3, 1])
    ignored.fix_symbolic(0, 1, 2, "sin", **quiet)
    with refused(r"edge \(0, 1, 2\) .* 'sin'.*symbolic\(0, 1, 2\)"):
        from_pykan(ignored)
    ignored.speed()
    _assert_converts(ignored)
    ignored.symbolic_enabled = True
    ignored.unfix_symbolic(0, 1, 2, log_history=False)
    _assert_converts(ignored)


def test_a_pykan_network_that_no_kan_equals_is_refused(pykan):
    for options, message in (
        ({"sizes": [2, [2, 1], 1]}, r"multiplication nodes .*\[2, 1\].* sums only"),
        ({"k": 6}, "order must be a whole number, from 1 to 5, not 6"),
    ):
        with refused(message):
            from_pykan(_pykan_network(pykan, **{"sizes": [2, 3, 1], **options}))
    model = _pykan_network(pykan, [2, 3, 1], base_fun="identity")
    with refused(r"act_fun\[0\]\.base_fun .* Identity\(\); train"):
        from_pykan(model)
    model = _pykan_network(pykan, [2, 3, 1])
    model.act_fun[1].grid.detach()[2, 4] = torch.nan
    with refused(r"act_fun\[1\]: the knots of input 2 are no finite numbers that"):
        from_pykan(model)
    model.input_id = torch.tensor([2, 0])
    with refused(r"selects columns \[2, 0\] .* torch\.arange\(2\)"):
        from_pykan(model)
    with refused(r"takes a pykan network \(kan.MultKAN\), not a Linear"):
        from_pykan(nn.Linear(2, 1))
