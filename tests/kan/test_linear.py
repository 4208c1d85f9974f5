import copy
import subprocess
import sys
import textwrap

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from helpers import assert_same_state, random_layer, refused
from kan_diffusion.kan import KANLinear
from kan_diffusion.kan.bases import BASES, RBF


def test_importing_a_layer_loads_torch_and_nothing_heavy():
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


def test_a_basis_that_is_given_is_copied_as_it_is():
    basis = RBF(3, 5)
    basis.grid_origin.add_(2)
    state = copy.deepcopy(basis.state_dict())
    layer = KANLinear(3, 2, basis=basis, dtype=torch.float64)
    assert_same_state(layer.basis.float(), state)
    layer.reset_parameters()
    assert_same_state(layer.basis, RBF(3, 5))
    assert_same_state(basis, state)


REFUSED = [
    ({"basis": "bsplin"}, "unknown basis 'bsplin', did you mean 'bspline'"),
    ({"basis": "powers"}, f"known: {', '.join(sorted(BASES))}"),
    ({"basis": None}, "a name or a Basis object"),
    ({"basis": RBF}, "a name or a Basis object"),
    ({"basis": RBF(3, 5)}, "made for 3 inputs, not for 2"),
    ({"extrapolation": "linea"}, "'linea', did you mean 'linear'"),
    ({"extrapolation": "periodic"}, "unknown extrapolation of basis 'bspline'"),
    ({"basis": "rbf", "extrapolation": "periodic"}, "known: clamp, linear, zero"),
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
