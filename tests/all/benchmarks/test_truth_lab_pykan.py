import copy
import random

import numpy as np
import pytest
import sympy
import torch

from helpers import assert_same_state, refused
from kan_diffusion.denoisers.readable import readable
from kan_diffusion.kan.network import KAN
from networks import batch, everything, kan, moved_kan, network, without
from truth_lab.pykan import at_level, pykan_formula

KINDS = {
    "Fourier time": {},
    "raw time": {"time_encoding": "raw"},
    "no hidden layer": {"hidden": ()},
    "modulated": {"modulated": True},
    "scaled inputs": {"modulated": True, "scaled_inputs": True},
    "Fourier inputs": {"num_input_frequencies": 2},
    "all of it": {"modulated": True, "scaled_inputs": True, "num_input_frequencies": 2},
    "no base": {"base_activation": None, "order": 2, "extrapolation": "clamp"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("timestep", [0, 99])
def test_at_a_level_it_is_the_denoiser(kind, timestep):
    denoiser = readable(kan(**KINDS[kind]))
    points, _ = batch()
    plain, factors = at_level(denoiser, timestep)
    # The KAN takes what comes from the points alone, which is first among the features.
    seen = denoiser.features(points, torch.tensor([timestep]))[:, : len(factors)]
    assert len(factors) == sum(f.coordinate is not None for f in denoiser.input_features())
    with torch.no_grad():
        found = plain(seen * factors)
        expected = denoiser(points, timestep).sample
        other = denoiser(points, 60).sample
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-8)
    assert not torch.allclose(found, other, atol=1e-3)


def test_a_refined_and_moved_grid_is_taken_along_and_the_denoiser_left_as_it_is():
    made, (points, _) = moved_kan(), batch()
    before = copy.deepcopy(made)
    plain, factors = at_level(readable(made), 30)
    with torch.no_grad():
        torch.testing.assert_close(plain(points * factors), made(points, 30).sample)
        for parameter in plain.parameters():
            parameter.zero_()
    assert_same_state(made, before)


def test_what_is_not_a_plain_kan_is_refused():
    with refused("all of them curves"):
        at_level(network(everything([3, 2], "tanh"), []), 3)
    whole = readable(kan())
    with refused("all edges"):
        at_level(whole.with_edges(without(whole, (0, 1, 1))), 3)


def _line(slope):
    """A network of one edge, which is a straight line on its grid and off it."""
    made = KAN([1, 1], grid_range=(-2.0, 2.0), base_activation=None).double()
    layer = made.layers[0]
    x = torch.linspace(-2, 2, 200, dtype=torch.float64)[:, None]
    values = torch.linalg.lstsq(layer.basis(x)[:, 0], slope * x[:, 0]).solution
    with torch.no_grad():
        layer.weight.copy_(values[None])
        layer.bias.zero_()
        torch.testing.assert_close(made(x), slope * x, atol=1e-8, rtol=0)
    return made


def test_pykan_finds_a_line_and_leaves_no_trace(capsys):
    pytest.importorskip("kan")
    network = _line(0.75).float()
    inputs = torch.linspace(-1.5, 1.5, 200)[:, None]
    capsys.readouterr()
    states = torch.get_rng_state(), random.getstate()
    of_numpy = np.random.get_state()[1].copy()  # noqa: NPY002
    found = pykan_formula(network, inputs)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], of_numpy)  # noqa: NPY002
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
    (formula,) = found.formulas
    expression = sympy.sympify(formula)
    (x,) = expression.free_symbols
    assert sympy.degree(expression, x) == 1
    assert float(sympy.diff(expression, x)) == pytest.approx(0.75, abs=1e-3)
    np.testing.assert_allclose(found.prediction, 0.75 * inputs.numpy(), atol=1e-3)
