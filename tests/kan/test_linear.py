from __future__ import annotations

import copy
import subprocess
import sys
import textwrap

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from helpers import assert_same_state, random_layer, refused, seeded
from kan_diffusion.kan import KANLinear
from kan_diffusion.kan.bases import BASES, RBF, Rational
from kan_diffusion.kan.initialization import INITIALIZATIONS

common = {
    "grid_size": st.integers(1, 8),
    "grid_range": st.sampled_from([(-1.0, 1.0), (-2.5, 0.5), (3.0, 4.0)]),
    "edge_scale": st.booleans(),
    "bias": st.booleans(),
    "init": st.sampled_from(INITIALIZATIONS),
}
# The compiled kernel takes seconds for each order, with and without SiLU.
kernels = [{"order": k, "base_activation": "silu"} for k in range(1, 6)]
splines = st.builds(
    lambda settings, kernel: {**settings, **kernel},
    st.fixed_dictionaries(
        {
            **common,
            "basis": st.just("bspline"),
            "extrapolation": st.sampled_from(["linear", "clamp", "zero"]),
        }
    ),
    st.sampled_from([*kernels, {"order": 3, "base_activation": None}]),
)
others = st.fixed_dictionaries(
    {
        **common,
        "basis": st.sampled_from(["rbf", "chebyshev", "fourier", "rational"]),
        "extrapolation": st.sampled_from(["linear", "clamp"]),
        "base_activation": st.sampled_from(["silu", None, "auto"]),
    }
)
settings_of_a_layer = splines | others


@given(settings_of_a_layer, st.integers(1, 4), st.integers(1, 4), st.integers(0, 999))
def test_a_layer_is_the_double_loop_over_its_edges(
    settings: dict[str, object], in_features: int, out_features: int, seed: int
) -> None:
    layer = random_layer(in_features, out_features, seed=seed, **settings)
    low, high = settings["grid_range"]
    share = torch.rand(7, in_features, generator=seeded(seed), dtype=torch.float64)
    x = low + (high - low) * (3 * share - 1)
    functions = layer.basis(x)
    edges = layer.weight.view(out_features, in_features, -1)
    # In their papers the global functions stand alone; the local ones come with SiLU.
    default = "silu" if settings["basis"] in ("bspline", "rbf") else None
    activation = settings["base_activation"]
    first = int((default if activation == "auto" else activation) is not None)
    curves = torch.zeros(7, out_features, in_features, dtype=torch.float64)
    for o in range(out_features):
        for i in range(in_features):
            scale = 1.0 if layer.scale is None else layer.scale[o, i]
            curves[:, o, i] = scale * (functions[:, i] @ edges[o, i, first:])
            if first:
                curves[:, o, i] += edges[o, i, 0] * x[:, i] / (1 + torch.exp(-x[:, i]))
            torch.testing.assert_close(layer.edge_curve(i, o, x[:, i]), curves[:, o, i])
    torch.testing.assert_close(layer.edge_outputs(x), curves)
    expected = curves.sum(2) if layer.bias is None else curves.sum(2) + layer.bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)
    places = x.reshape(7, 1, in_features)  # of any shape
    torch.testing.assert_close(layer.edge_curve(0, 0, places[..., 0]), curves[:, :1, 0])


def test_importing_a_layer_loads_torch_and_nothing_heavy() -> None:
    program = """
        import sys
        from kan_diffusion import KANLinear
        KANLinear(3, 2)
        heavy = "accelerate diffusers matplotlib ot pandas pydantic rich scipy sklearn sympy typer"
        print(*sorted(set(heavy.split()) & set(sys.modules)))
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == ""


def test_an_edge_that_does_not_exist_is_an_index_error() -> None:
    layer = random_layer()
    for i, j in ((3, 0), (0, 2), (-1, 0)):
        with pytest.raises(IndexError, match="3 inputs and 2 outputs"):
            layer.edge_curve(i, j, torch.zeros(1, dtype=torch.float64))


@pytest.mark.parametrize("basis", ["chebyshev", "fourier", "rbf"])
def test_flops_count_the_matrix_product_torch_counts(basis: str) -> None:
    layer = KANLinear(5, 7, bias=False, basis=basis, base_activation=None, edge_scale=True)
    with FlopCounterMode(display=False) as counter:
        layer(torch.zeros(1, 5))
    functions = {"chebyshev": 6, "fourier": 10, "rbf": 6}[basis]
    assert counter.get_total_flops() == 2 * 7 * 5 * functions
    assert layer.flops == counter.get_total_flops() + 5 * layer.basis.flops_per_input


def test_a_basis_that_is_given_is_copied_as_it_is() -> None:
    trained, moved = Rational(3), RBF(3, 5)
    trained.numerator.detach().normal_(generator=seeded())
    moved.grid_origin.add_(2)
    for basis, fresh in ((trained, Rational(3)), (moved, RBF(3, 5))):
        state = copy.deepcopy(basis.state_dict())
        layer = KANLinear(3, 2, basis=basis, dtype=torch.float64)
        assert_same_state(layer.basis.float(), state)
        layer.reset_parameters()
        assert_same_state(layer.basis, fresh)
        assert_same_state(basis, state)


@given(settings_of_a_layer, st.integers(1, 9), st.integers(1, 9))
def test_flops_are_the_edges_and_the_functions_of_each_input(
    settings: dict[str, object], inputs: int, outputs: int
) -> None:
    layer = KANLinear(inputs, outputs, **settings)
    g, k = settings["grid_size"], settings.get("order", 0)
    active, functions = {
        "bspline": (k + 1, 2 * k * (k + 1) + 3),  # Horner's rule for each piece, and the cell
        "rbf": (g + 1, 7 * (g + 1)),
        "chebyshev": (g + 1, 3 * g + 2),
        "fourier": (2 * g, 9 * g + 2),
        "rational": (1, 24),
    }[settings["basis"]]
    has_base = layer.base_activation is not None
    expected = inputs * outputs * 2 * (active + has_base) + inputs * (functions + 4 * has_base)
    assert layer.flops == expected + outputs * settings["bias"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"basis": "bsplin"}, "unknown basis 'bsplin', did you mean 'bspline'"),
        ({"basis": "powers"}, f"known: {', '.join(sorted(BASES))}"),
        ({"basis": None}, "a name or a Basis object"),
        ({"basis": RBF}, "a name or a Basis object"),
        ({"basis": Rational(3)}, "made for 3 inputs, not for 2"),
        ({"extrapolation": "linea"}, "'linea', did you mean 'linear'"),
        ({"extrapolation": "periodic"}, "unknown extrapolation of basis 'bspline'"),
        ({"basis": "rbf", "extrapolation": "periodic"}, "known: clamp, linear, zero"),
        (
            {"basis": "chebyshev", "extrapolation": "zero"},
            "known: clamp, linear$",
        ),
        ({"basis": "fourier", "extrapolation": "zero"}, "known: clamp, linear, periodic"),
        ({"init": "xavier"}, "unknown init 'xavier'"),
        ({"base_activation": "gelu"}, "unknown base_activation 'gelu'"),
        ({"basis": "rbf", "grid_size": 0}, "grid_size must be at least 1, not 0"),
        ({"order": 0}, "order must be 1 to 5, not 0"),
        ({"order": 6}, "order must be 1 to 5, not 6"),
        ({"grid_range": (1.0, -1.0)}, "the lower first"),
        ({"grid_range": (0.0, 0.0)}, "the lower first"),
        ({"grid_range": (0.0, float("inf"))}, "two finite numbers"),
        ({"in_features": 0}, "at least one input and one output"),
        ({"out_features": 0}, "at least one input and one output"),
    ],
)
def test_unusable_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with refused(message):
        KANLinear(**{"in_features": 2, "out_features": 2, **settings})


@pytest.mark.parametrize("shape", [(4, 6), (0, 2), ()])
def test_an_input_of_another_width_is_refused(shape: tuple[int, ...]) -> None:
    with refused(r"shape \(\*, 3\)"):
        KANLinear(3, 2)(torch.zeros(shape))


@pytest.mark.parametrize("attribute", ["grid_origin", "grid_step", "grid_size"])
def test_a_layer_without_a_grid_says_so(attribute: str) -> None:
    with refused("basis 'rational' has no grid"):
        getattr(KANLinear(3, 2, basis="rational"), attribute)


def test_the_fraction_outside_is_told_for_each_input() -> None:
    layer = KANLinear(3, 2)
    layer.grid_origin.copy_(torch.tensor([-1.0, 0.0, 10.0]))
    x = torch.tensor([[-1.0, -0.1, 9.0], [1.0, 0.0, 9.0], [1.5, 2.0, 10.0], [0.0, 1.0, 13.0]])
    expected = torch.tensor([0.25, 0.25, 0.75])
    assert torch.equal(layer.out_of_range_per_input(x), expected)
    assert torch.equal(layer.out_of_range_per_input(x.view(2, 2, 3)), expected)
    assert layer.out_of_range_per_input(x[:0]).isnan().all()
    rational = KANLinear(3, 2, basis="rational")
    assert (rational.out_of_range_per_input(1e9 * x) == 0).all()


def test_printing_a_layer_tells_its_settings() -> None:
    text = repr(KANLinear(3, 2, order=2, grid_size=7, extrapolation="clamp", bias=False))
    for part in ("3, 2", "order=2", "num_intervals=7", "'clamp'", "'silu'", "bias=False"):
        assert part in text
    assert "num_groups=3" in repr(KANLinear(3, 2, basis="rational"))
