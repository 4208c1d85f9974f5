"""KANConv2d beside nn.Conv2d and beside functions of single numbers."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from helpers import randn, refused
from kan_diffusion.kan import KANConv2d

DOUBLE = torch.float64
MODES = ("reflect", "replicate", "circular")
WINDOWS = [
    {"kernel_size": 3},
    {"kernel_size": (2, 3), "stride": (2, 1), "padding": (0, 2)},
    {"kernel_size": 3, "stride": 2, "padding": 1, "dilation": 2, "groups": 2, "bias": False},
    {"kernel_size": np.int64(1), "groups": 4},
    *({"kernel_size": 3, "padding": (1, 2), "padding_mode": mode} for mode in MODES),
    {"kernel_size": (4, 3), "padding": "same", "dilation": (1, 2)},
    {"kernel_size": 2, "padding": "same", "padding_mode": "reflect"},
    {"kernel_size": 3, "padding": "valid", "stride": 2},
]


@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")  # of nn.Conv2d
@pytest.mark.parametrize("window", WINDOWS)
def test_each_number_is_the_sum_of_the_functions_at_its_places(window):
    layer = KANConv2d(4, 8, **window, grid_range=(-2.0, 2.0), dtype=DOUBLE)
    plain = nn.Conv2d(4, 8, **window, dtype=DOUBLE)
    x = randn(2, 4, 7, 6)
    output = layer(x)
    assert output.shape == plain(x).shape
    assert torch.equal(layer(x[0]), output[0])
    mode = "constant" if plain.padding_mode == "zeros" else plain.padding_mode
    padded = nn.functional.pad(x, plain._reversed_padding_repeated_twice, mode)
    kernel = list(itertools.product(*map(range, plain.kernel_size)))
    groups, each = plain.groups, 8 // plain.groups
    for o, row, column in itertools.product((0, 7), (0, -1), (0, -1)):
        linear, own = layer.kernels[o // each], 4 // groups
        place = row % output.shape[2], column % output.shape[3]
        expected = 0.0 if linear.bias is None else linear.bias[o % each].expand(2)
        for c, (t, (i, j)) in itertools.product(range(own), enumerate(kernel)):
            at = [
                n * s + d * k
                for n, s, d, k in zip(place, plain.stride, plain.dilation, (i, j), strict=True)
            ]
            seen = padded[:, o // each * own + c, at[0], at[1]]
            expected = expected + linear.edge_curve(c * len(kernel) + t, o % each, seen)
        torch.testing.assert_close(output[:, o, row, column], expected)


@pytest.mark.parametrize(
    ("window", "message"),
    [
        ({}, r"takes inputs with shape \(B, 4, H, W\), not \(2, 3, 5, 5\)"),
        ({"groups": 4}, "groups must divide 4 and 6 channels, not be 4"),
        ({"padding": "same", "stride": 2}, "padding 'same' goes with a stride of 1, not 2"),
        ({"padding": "full"}, "padding must be one or two whole numbers, at least 0, not 'full'"),
        ({"padding": (1, -1)}, r"padding must be .*, not \(1, -1\)"),
        ({"stride": 0}, "stride must be one or two whole numbers, at least 1, not 0"),
        ({"kernel_size": (3, 3, 3)}, r"kernel_size must be .*, not \(3, 3, 3\)"),
        ({"dilation": 1.5}, "dilation must be .*, not 1.5"),
        (
            {"padding_mode": "mirror"},
            "unknown padding_mode 'mirror'; known: circular, reflect,",
        ),
        ({"groups": 1.5}, "groups must be a whole number, at least 1, not 1.5"),
        ({"in_channels": 4.0}, "in_channels must be a whole number, at least 1, not 4.0"),
    ],
)
def test_unusable_windows_and_inputs_are_refused(window, message):
    with refused(message):
        layer = KANConv2d(**{"in_channels": 4, "out_channels": 6, "kernel_size": 3} | window)
        layer(torch.zeros(2, 3, 5, 5))
