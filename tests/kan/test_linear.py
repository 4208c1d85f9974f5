"""What layers and networks cost, tell and refuse; test_bases.py has what they compute."""

import subprocess
import sys
import textwrap

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from helpers import randn, random_layer, refused
from kan_cases import by_torch
from kan_diffusion.kan import (
    KAN,
    GatedLinear,
    KANLinear,
    LearnedFunctions,
    SharedKANLinear,
    linear,
    moved,
)
from kan_diffusion.kan.bases import BASES


def test_without_kernels_layers_load_torch_and_numpy_alone(monkeypatch):
    monkeypatch.setenv("KAN_KERNELS", "0")
    program = """
        import sys
        import torch, numpy
        known = set(sys.modules)
        from kan_diffusion import KANLinear
        from kan_diffusion.kan import KAN, GatedLinear, LearnedFunctions
        network = torch.nn.Sequential(KAN([2, 3]), LearnedFunctions(3), KANLinear(3, 1))
        network(torch.randn(5, 2)).sum().backward()
        output, _ = GatedLinear(2, 3, functions=LearnedFunctions(2))(torch.randn(5, 4))
        packages = {name.partition(".")[0] for name in set(sys.modules) - known}
        others = packages - set(sys.stdlib_module_names) - {"torch", "numpy"}
        print(type(output.grad_fn).__name__, *sorted(others))
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["AddmmBackward0", "kan_diffusion", "lazy_loader"]


FLOPS = [
    # Of an edge 2 for each function that differs from zero and for SiLU; of an input SiLU's 4, and
    # its functions: Horner's rule for each piece, and the cell.
    (KANLinear(5, 7), 5 * 7 * 2 * (4 + 1) + 5 * (2 * 3 * 4 + 3 + 4) + 7),
    (KANLinear(5, 7, False, order=2, grid_size=9), 5 * 7 * 2 * (3 + 1) + 5 * (2 * 2 * 3 + 3 + 4)),
    (KANLinear(5, 7, basis="rbf", grid_size=4), 5 * 7 * 2 * (5 + 1) + 5 * (7 * 5 + 4) + 7),
    (KANLinear(5, 7, basis="chebyshev", grid_size=4), 5 * 7 * 2 * 5 + 5 * (3 * 4 + 2) + 7),
    # The cell and the place in it are found once for all shared functions of an input.
    (LearnedFunctions(7), 7 * (3 + 2 * 3)),
    (LearnedFunctions(7, 3, order=5), 7 * (3 + 3 * 2 * 5)),
    (SharedKANLinear(5, 7, functions=3, groups=2), 2 * 7 * 15 + 5 * (3 + 3 * 2 * 3) + 7),
    # Each number of a code scales and shifts; a gate is one operation, and a state is not counted.
    (GatedLinear(5, 7, rank=2), 2 * 5 * 7 + 5 * (4 + 4 * 2 + 3 + 1) + 7),
    (GatedLinear(5, 7, False, gated=False, functions=LearnedFunctions(5)), 2 * 5 * 7 + 5 * 9),
]


def test_flops_are_the_edges_and_the_functions_of_each_input():
    for layer, expected in FLOPS:
        assert layer.flops == expected, layer


def test_counters_see_the_products_of_a_layer_and_its_gradients():
    layer, x = KANLinear(3, 2), torch.zeros(64, 3, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        layer(x).sum().backward()
    features = torch.nn.Linear(layer.weight.shape[1], 2)
    with FlopCounterMode(display=False) as dense:
        features(torch.zeros(64, features.in_features, requires_grad=True)).sum().backward()
    assert counter.get_total_flops() >= dense.get_total_flops() > 0


@pytest.mark.parametrize("own", [{}, {"extrapolation": "zero"}, {"basis": "rbf"}])
@pytest.mark.parametrize("block", [1, 40, 10**6])
def test_in_torchs_operations_a_layer_keeps_its_input_and_weight_alone(own, block, monkeypatch):
    layer = random_layer(5, 3, **own)
    x, kept = (2 * randn(7, 5)).requires_grad_(), set()
    operands = [x, *layer.parameters()]

    def keep(tensor):
        kept.add(tensor.data_ptr())
        return tensor

    monkeypatch.setattr(linear, "_FEATURES", (block, block))
    monkeypatch.setattr(linear, "_ROWS", 2)
    with by_torch(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = layer(x)
    assert kept <= {tensor.data_ptr() for tensor in (*operands, *layer.basis.grid)}
    dense = torch.nn.functional.linear(layer.features(x).flatten(1), layer.weight, layer.bias)
    torch.testing.assert_close(output, dense)
    found, expected = (torch.autograd.grad(y.square().sum(), operands) for y in (output, dense))
    torch.testing.assert_close(found, expected)


def test_what_is_printed_tells_the_grid_also_of_a_moved_one():
    layer = KANLinear(2, 2, grid_range=(-2.0, 3.0))
    assert "num_intervals=5, from -2 to 3, extrapolation='linear'" in str(layer)
    assert "from 0.99 to 2.01," in str(moved(layer, torch.tensor([[1.0, 1.0], [2.0, 2.0]])))
    assert "from -2 to 3," in str(layer.to("meta"))


# What is refused


REFUSED = [
    ({"basis": "bsplin"}, "unknown basis 'bsplin', did you mean 'bspline'"),
    ({"basis": "powers"}, f"known: {', '.join(sorted(BASES))}"),
    ({"basis": None}, "a name or a class of Basis, not None"),
    ({"basis": "chebyshev", "init": "power-law"}, "SiLU, which is not .*; take init='glorot'"),
    ({"extrapolation": "linea"}, "'linea', did you mean 'linear'"),
    ({"basis": "chebyshev", "extrapolation": "zero"}, "known: linear$"),
    ({"init": "xavier"}, "unknown init 'xavier'"),
    ({"basis": "rbf", "grid_size": 0}, "grid_size must be a whole number, from 1 to 10,000, not 0"),
    ({"grid_size": 2.5}, "grid_size must be a whole number, from 1 to 10,000, not 2.5"),
    ({"grid_range": "ab"}, "grid_range must be two finite numbers, the lower first, not ab"),
    ({"order": 6}, "order must be a whole number, from 1 to 5, not 6"),
    ({"order": 3.0}, "order must be a whole number, from 1 to 5, not 3.0"),
    ({"grid_range": (0.0, 0.0)}, "the lower first"),
    ({"grid_range": (float("nan"), 1.0)}, "two finite numbers"),
    ({"grid_range": 2}, "the lower first, not 2"),
    ({"in_features": 0}, "in_features must be a whole number, at least 1, not 0"),
    ({"out_features": "3"}, "out_features must be a whole number, at least 1, not '3'"),
    ({"init": 3}, "unknown init '3'; known: glorot"),
    ({"bias": 8}, "bias must be True or False, not 8; grid_size and others are given by name"),
    (
        {"basis": "rbf", "order": 2},
        "the degree of splines, which basis 'rbf' has not; leave it out",
    ),
]


def test_unusable_settings_are_refused():
    for settings, message in REFUSED:
        with refused(message):
            KANLinear(**{"in_features": 2, "out_features": 2, **settings})
    for settings, message in (
        ({"functions": 12}, "functions must be a whole number, from 1 to 8, .* raise grid_size=5"),
        ({"functions": 1, "groups": 3}, "groups of 2 inputs must be .* from 1 to 2, not 3"),
        ({"functions": 1, "out_features": 0}, "out_features must be a whole number, at least 1,"),
    ):
        with refused(message):
            SharedKANLinear(**{"in_features": 2, "out_features": 2, **settings})
    two = "at least two widths, not"
    for widths, message in (
        ([3], rf"{two} \[3\]"),
        (3, rf"{two} 3"),
        ([2, 0, 1], "out_features must be a whole number, at least 1, not 0"),
        ([2, 2.5], "out_features must be a whole number, at least 1, not 2.5"),
    ):
        with refused(message):
            KAN(widths)
