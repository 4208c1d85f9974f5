import subprocess
import sys
import textwrap

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from helpers import assert_same_state, randn, random_layer, refused, seeded
from kan_diffusion.kan import KANLinear
from kan_diffusion.kan.bases import BASES


def test_importing_a_layer_loads_torch_and_nothing_heavy():
    program = """
        import sys
        from kan_diffusion import KANLinear
        KANLinear(3, 2)
        heavy = "accelerate diffusers matplotlib pandas pydantic rich scipy sklearn sympy typer"
        print(*sorted(set(heavy.split()) & set(sys.modules)))
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == ""


def test_an_edge_that_does_not_exist_is_an_index_error():
    layer = random_layer()
    for i, j in ((3, 0), (0, 2), (-1, 0)):
        with pytest.raises(IndexError, match="3 inputs and 2 outputs"):
            layer.edge_curve(i, j, torch.zeros(1, dtype=torch.float64))


def test_flops_count_the_matrix_product_torch_counts():
    layer = KANLinear(5, 7, bias=False, basis="rbf", base_activation=None, edge_scale=True)
    with FlopCounterMode(display=False) as counter:
        layer(torch.zeros(1, 5))
    assert counter.get_total_flops() == 2 * 7 * 5 * 6
    assert layer.flops == counter.get_total_flops() + 5 * layer.basis.flops_per_input


@given(
    basis=st.sampled_from(["bspline", "rbf", "chebyshev"]),
    g=st.integers(1, 8),
    k=st.integers(1, 5),
    base=st.sampled_from(["silu", None]),
    bias=st.booleans(),
    inputs=st.integers(1, 9),
    outputs=st.integers(1, 9),
)
def test_flops_are_the_edges_and_the_functions_of_each_input(
    basis, g, k, base, bias, inputs, outputs
):
    own = {"basis": basis, "grid_size": g, "order": k, "base_activation": base}
    layer = KANLinear(inputs, outputs, bias, **own)
    active, functions = {
        "bspline": (k + 1, 2 * k * (k + 1) + 3),  # Horner's rule for each piece, and the cell
        "rbf": (g + 1, 7 * (g + 1)),
        "chebyshev": (g + 1, 3 * g + 2),
    }[basis]
    has_base = base is not None
    expected = inputs * outputs * 2 * (active + has_base) + inputs * (functions + 4 * has_base)
    assert layer.flops == expected + outputs * bias


def test_with_shared_functions_weights_and_constants_are_drawn_as_those_of_a_linear_layer():
    layer = KANLinear(4, 50, functions=3, groups=2)
    layer.reset_parameters(seeded(0))
    bound = 1 / 12**0.5
    for parameter in (layer.weight.detach(), layer.bias.detach()):
        assert 0.9 * bound < float(parameter.abs().max()) <= bound
    again = KANLinear(4, 50, functions=3, groups=2)
    again.reset_parameters(seeded(0))
    assert_same_state(again, layer)


def test_operations_of_shared_functions_are_those_of_the_product_and_the_functions():
    layer = KANLinear(5, 7, functions=3, groups=2)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        torch.nn.functional.linear(torch.zeros(1, 15), layer.weight)
    assert layer.flops == counter.get_total_flops() + 7 + 5 * (3 + 3 * 2 * 3)
    assert KANLinear(5, 7, bias=False, functions=1).flops == 2 * 7 * 5 + 5 * 9


def test_as_many_functions_as_the_basis_has_span_what_an_edge_of_its_own_does():
    own = {"grid_size": 4, "dtype": torch.float64}
    full = random_layer(3, 2, base_activation=None, **own)
    shared = KANLinear(3, 2, functions=7, initial=[torch.zeros_like] * 7, **own)
    with torch.no_grad():
        shared.coefficients.copy_(torch.eye(7).unsqueeze(1))
        shared.weight.copy_(full.weight)
        shared.bias.copy_(full.bias)
        shared.basis.grid_origin.copy_(full.basis.grid_origin)
        shared.basis.grid_step.copy_(full.basis.grid_step)
    x = 3 * randn(50, 3)
    torch.testing.assert_close(shared(x), full(x))


REFUSED = [
    ({"basis": "bsplin"}, "unknown basis 'bsplin', did you mean 'bspline'"),
    ({"basis": "powers"}, f"known: {', '.join(sorted(BASES))}"),
    ({"basis": None}, "a name or a class of Basis, not None"),
    ({"basis": torch.nn.Linear}, "a name or a class of Basis"),
    ({"init": "noise", "base_activation": None}, "init='noise' starts from a base activation"),
    ({"basis": "chebyshev", "init": "power-law"}, "take init='glorot', or base_activation='silu'"),
    ({"functions": 2, "edge_scale": True}, "share functions have no base activation, scale or"),
    ({"functions": 2, "init": "glorot"}, "leave these out, or leave out functions"),
    ({"functions": 12}, "a KANLinear has at most as many functions .* raise grid_size"),
    ({"functions": 1, "groups": 3}, "groups must be 1 to 2, the inputs, not 3"),
    ({"extrapolation": "linea"}, "'linea', did you mean 'linear'"),
    ({"basis": "chebyshev", "extrapolation": "zero"}, "known: clamp, linear$"),
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
]


def test_unusable_settings_are_refused():
    for settings, message in REFUSED:
        with refused(message):
            KANLinear(**{"in_features": 2, "out_features": 2, **settings})


def test_printing_a_layer_tells_its_settings():
    text = repr(KANLinear(3, 2, order=2, grid_size=7, extrapolation="clamp", bias=False))
    for part in ("3, 2", "order=2", "num_intervals=7", "'clamp'", "'silu'", "bias=False"):
        assert part in text
    shared = repr(KANLinear(5, 3, functions=4, groups=3))
    assert "5, 3, functions=4, groups=3, bias=True" in shared
