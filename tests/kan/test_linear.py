from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.kan import KANLinear

settings_of_a_layer = st.fixed_dictionaries(
    {
        "grid_size": st.integers(1, 8),
        "order": st.integers(1, 5),
        "grid_range": st.sampled_from([(-1.0, 1.0), (-2.5, 0.5), (3.0, 4.0)]),
        "extrapolation": st.sampled_from(["linear", "clamp", "zero"]),
        "base_activation": st.sampled_from(["silu", None]),
        "edge_scale": st.booleans(),
        "bias": st.booleans(),
        "init": st.sampled_from(["glorot", "noise"]),
    }
)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _layer(
    in_features: int = 3, out_features: int = 2, *, seed: int = 0, **settings: object
) -> KANLinear:
    """A float64 layer with no parameter left at a special value."""
    layer = KANLinear(in_features, out_features, dtype=torch.float64, **settings)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(generator=_generator(seed))
    return layer


@given(settings_of_a_layer, st.integers(1, 4), st.integers(1, 4), st.integers(0, 999))
def test_a_layer_is_the_double_loop_over_its_edges(
    scipy_basis: Callable[..., np.ndarray],
    settings: dict[str, object],
    in_features: int,
    out_features: int,
    seed: int,
) -> None:
    layer = _layer(in_features, out_features, seed=seed, **settings)
    low, high = layer_range = settings["grid_range"]
    spread = high - low
    x = low + spread * (
        3 * torch.rand(7, in_features, generator=_generator(seed), dtype=torch.float64) - 1
    )
    edges = layer.weight.detach().view(out_features, in_features, -1).numpy()
    first = int(settings["base_activation"] is not None)
    expected = np.zeros((7, out_features))
    for o in range(out_features):
        for i in range(in_features):
            values = x[:, i].numpy()
            basis = scipy_basis(
                values,
                layer_range[0],
                spread / settings["grid_size"],
                settings["grid_size"],
                settings["order"],
                settings["extrapolation"],
            )
            scale = 1.0 if layer.scale is None else layer.scale[o, i].item()
            expected[:, o] += scale * (basis @ edges[o, i, first:])
            if first:
                expected[:, o] += edges[o, i, 0] * values / (1 + np.exp(-values))
        if layer.bias is not None:
            expected[:, o] += layer.bias[o].item()
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=1e-10, atol=1e-10)


@given(settings_of_a_layer, st.integers(0, 999))
def test_edge_curves_add_up_to_the_output(settings: dict[str, object], seed: int) -> None:
    layer = _layer(3, 2, seed=seed, **settings)
    x = 4 * torch.randn(2, 5, 3, generator=_generator(seed), dtype=torch.float64)
    total = torch.stack(
        [sum(layer.edge_curve(i, j, x[..., i]) for i in range(3)) for j in range(2)], dim=-1
    )
    if layer.bias is not None:
        total = total + layer.bias
    torch.testing.assert_close(layer(x), total)


def test_an_edge_that_does_not_exist_is_an_index_error() -> None:
    layer = _layer(3, 2)
    for i, j in ((3, 0), (0, 2), (-1, 0)):
        with pytest.raises(IndexError, match="3 inputs and 2 outputs"):
            layer.edge_curve(i, j, torch.zeros(1, dtype=torch.float64))


def test_leading_shapes_are_kept_and_rows_do_not_mix() -> None:
    layer = _layer(3, 2)
    x = torch.randn(4, 5, 3, generator=_generator(1), dtype=torch.float64)
    whole = layer(x)
    torch.testing.assert_close(
        whole, torch.stack([torch.stack([layer(row) for row in rows]) for rows in x])
    )
    torch.testing.assert_close(layer(x.transpose(0, 1)), whole.transpose(0, 1))
    torch.testing.assert_close(layer(x[:, ::2]), whole[:, ::2])
    torch.testing.assert_close(layer(x[0, :1].expand(6, 3)), whole[0, :1].expand(6, 2))
    columns = torch.randn(3, 7, generator=_generator(2), dtype=torch.float64).T
    torch.testing.assert_close(layer(columns), layer(columns.contiguous()))


@pytest.mark.parametrize("order", [2, 3])
def test_an_empty_batch_goes_through_forward_and_backward(order: int) -> None:
    layer = _layer(3, 2, order=order)
    for shape in ((0, 3), (4, 0, 3)):
        x = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
        output = layer(x)
        assert output.shape == (*shape[:-1], 2)
        output.sum().backward()
        assert x.grad is not None
        assert x.grad.shape == shape
    assert layer.weight.grad is not None
    assert (layer.weight.grad == 0).all()


@given(settings_of_a_layer)
def test_gradients_of_parameters_and_inputs(settings: dict[str, object]) -> None:
    layer = _layer(2, 2, seed=1, **settings)
    low, high = settings["grid_range"]
    cell = (high - low) / settings["grid_size"]
    # Third points of cells: no knot of any grid here.
    x = low + cell * (torch.tensor([[-1.0, 0.0], [0.0, 9.0]], dtype=torch.float64) + 1 / 3)
    names = [name for name, _ in layer.named_parameters()]
    values = [parameter.detach().clone().requires_grad_() for parameter in layer.parameters()]

    def output(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), x)

    assert torch.autograd.gradcheck(output, (x.requires_grad_(), *values))


def test_per_sample_jacobians_and_gradients_through_torch_func() -> None:
    layer = _layer(3, 2, edge_scale=True)
    x = torch.randn(6, 3, generator=_generator(1), dtype=torch.float64)
    jacobians = torch.func.vmap(torch.func.jacrev(layer))(x)
    expected = torch.stack([torch.autograd.functional.jacobian(layer, row) for row in x])
    torch.testing.assert_close(jacobians, expected)
    parameters = {name: value.detach() for name, value in layer.named_parameters()}

    def loss(parameters: dict[str, torch.Tensor], row: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, parameters, row).square().sum()

    gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    for row in range(6):
        layer.zero_grad()
        layer(x[row]).square().sum().backward()
        for name, parameter in layer.named_parameters():
            torch.testing.assert_close(gradients[name][row], parameter.grad)


def test_an_exported_program_gives_the_same_numbers() -> None:
    layer = KANLinear(3, 4)
    x = torch.randn(5, 3, generator=_generator(0))
    exported = torch.export.export(layer, (x,)).module()
    torch.testing.assert_close(exported(x), layer(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_compute_the_same_and_share_nothing(
    duplicate: Callable[[KANLinear], KANLinear],
) -> None:
    layer = _layer(3, 2, edge_scale=True, extrapolation="zero", grid_size=7)
    x = torch.randn(9, 3, generator=_generator(0), dtype=torch.float64)
    twin = duplicate(layer)
    assert torch.equal(twin(x), layer(x))
    before = layer(x).detach()
    with torch.no_grad():
        twin.weight.zero_()
        twin.grid_origin.fill_(7)
    assert torch.equal(layer(x), before)


def test_the_grid_travels_in_the_state_dict() -> None:
    source = _layer(3, 2, grid_range=(-3.0, 5.0))
    target = _layer(3, 2, seed=1)
    target.load_state_dict(source.state_dict())
    x = 4 * torch.randn(9, 3, generator=_generator(0), dtype=torch.float64)
    assert torch.equal(target(x), source(x))
    assert {name for name, _ in source.named_buffers()} == {"grid_origin", "grid_step"}


@pytest.mark.parametrize("init", ["glorot", "noise"])
@pytest.mark.parametrize("base_activation", ["silu", None])
def test_resetting_repeats_from_a_generator_and_leaves_the_global_one(
    init: str, base_activation: str | None
) -> None:
    layer, twin = (
        KANLinear(4, 3, init=init, base_activation=base_activation, edge_scale=True)
        for _ in range(2)
    )
    state = torch.get_rng_state()
    layer.reset_parameters(_generator(5))
    twin.reset_parameters(_generator(5))
    assert torch.equal(state, torch.get_rng_state())
    for a, b in zip(layer.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)
    twin.reset_parameters(_generator(6))
    assert not torch.equal(layer.weight, twin.weight)


def test_glorot_weights_have_the_variance_they_are_said_to_have() -> None:
    layer = KANLinear(200, 100, edge_scale=True)
    layer.reset_parameters(_generator(0))
    assert float(layer.weight.detach().var()) == pytest.approx(2 / 300, rel=0.02)
    assert (layer.scale == 1).all()
    assert (layer.bias == 0).all()
    # A unit normal input keeps its order of magnitude.
    output = layer(torch.randn(500, 200, generator=_generator(1)))
    assert 0.3 < float(output.detach().std()) < 1.5


def test_noise_weights_keep_within_their_bounds_and_reach_them() -> None:
    layer = KANLinear(16, 50, init="noise", grid_size=10, edge_scale=True)
    layer.reset_parameters(_generator(0))
    edges = layer.weight.detach().view(50, 16, -1)
    for values, bound in (
        (edges[..., 0], 0.25),
        (edges[..., 1:], 0.005),
        (layer.scale.detach(), 0.25),
    ):
        assert 0.98 * bound < float(values.abs().max()) <= bound
        assert abs(float(values.mean())) < 0.05 * bound


def test_flops_count_the_matrix_product_torch_counts() -> None:
    layer = KANLinear(5, 7, bias=False, base_activation=None)
    with FlopCounterMode(display=False) as counter:
        layer(torch.zeros(1, 5))
    product = counter.get_total_flops()
    assert product == 2 * 7 * 5 * 8
    # What is left is the basis: four cubics by Horner (six operations each) and the cell, an input.
    assert layer.flops - product == 5 * (4 * 6 + 3)
    with_all = KANLinear(5, 7, edge_scale=True)
    assert with_all.flops == 2 * 7 * 5 * 9 + 5 * (4 * 6 + 3 + 4) + 5 * 7 * 8 + 7


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"basis": "bsplin"}, "unknown basis 'bsplin', did you mean 'bspline'"),
        ({"extrapolation": "linea"}, "unknown extrapolation 'linea', did you mean 'linear'"),
        ({"init": "xavier"}, "unknown init 'xavier'"),
        ({"base_activation": "gelu"}, "unknown base_activation 'gelu'"),
        ({"grid_size": 0}, "grid_size must be at least 1"),
        ({"order": 0}, "order 1 to 5, not 5 and 0"),
        ({"order": 6}, "order 1 to 5, not 5 and 6"),
        ({"grid_range": (1.0, -1.0)}, "the lower first"),
        ({"grid_range": (0.0, 0.0)}, "the lower first"),
        ({"grid_range": (0.0, float("inf"))}, "two finite numbers"),
    ],
)
def test_unusable_settings_are_refused_in_one_line(
    settings: dict[str, object], message: str
) -> None:
    with pytest.raises(KanDiffusionError, match=message) as caught:
        KANLinear(2, 2, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("sizes", [(0, 2), (2, 0)])
def test_a_layer_without_inputs_or_outputs_is_refused(sizes: tuple[int, int]) -> None:
    with pytest.raises(KanDiffusionError, match="at least one input and one output"):
        KANLinear(*sizes)


@pytest.mark.parametrize("shape", [(4, 6), (0, 2), ()])
def test_an_input_of_another_width_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(KanDiffusionError, match=r"shape \(\*, 3\)"):
        KANLinear(3, 2)(torch.zeros(shape))
