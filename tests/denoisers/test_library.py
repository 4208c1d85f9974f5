import sys
from types import ModuleType

import numpy as np
import sympy
import torch

from helpers import refused
from kan_diffusion.denoisers.edges import CURVE
from kan_diffusion.denoisers.library import LIBRARY, LINEAR, EdgeFunction, get_functions
from kan_diffusion.denoisers.readable import ReadableDenoiser
from networks import batch, network

Z = np.linspace(-3, 3, 241)


def _values(name, z):
    return LIBRARY[name].values(torch.from_numpy(z)).numpy()


def _reduces(name, moved):
    """Whether values are another factor of a function's, and a constant and a line."""
    parts = np.stack([_values(name, Z), Z, np.ones_like(Z)], -1)
    left = moved - parts @ np.linalg.lstsq(parts, moved, rcond=None)[0]
    return float(np.abs(left).max()) < 1e-9 * np.abs(moved).max()


def test_functions_are_their_expressions_with_their_derivatives_and_symmetries():
    z, some, positive = sympy.Symbol("z", real=True), Z[::8], np.linspace(0.1, 3, 30)
    few = torch.tensor([-2.3, -0.7, 0.4, 1.9], dtype=torch.float64, requires_grad=True)
    for name, function in LIBRARY.items():
        expected = [float(function.expression(z).subs(z, value)) for value in some]
        np.testing.assert_allclose(_values(name, some), expected, 1e-12, 1e-14, err_msg=name)
        assert torch.autograd.gradcheck(function.values, (few,)), name
        there, mirrored = _values(name, positive), _values(name, -positive)
        assert np.allclose(mirrored, -there) == (function.parity == "odd"), name
        assert np.allclose(mirrored, there) == (function.parity == "even"), name
        assert _reduces(name, _values(name, Z + 0.7)) or not function.shiftless, name
        assert _reduces(name, _values(name, 1.7 * Z)) or not function.scaleless, name
        assert name == function.name
    complexities = [function.complexity for function in LIBRARY.values()]
    assert complexities == sorted(complexities)
    assert next(iter(LIBRARY)) == LINEAR


def test_functions_of_ones_own_are_known_by_their_place_and_saved_with_a_network(
    tmp_path, monkeypatch
):
    module = ModuleType("functions_of_my_own")
    module.ATAN = EdgeFunction("arc tangent", torch.atan, sympy.atan, 4, "odd")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    place = "functions_of_my_own:ATAN"
    functions = get_functions(["sin", place])
    assert functions["sin"] is LIBRARY["sin"]
    assert functions[place].name == place
    assert functions[place].values is torch.atan
    edges = (
        [(0, 0, place, True), (1, 1, CURVE, False)],
        [(0, 0, "sin", False), (1, 1, LINEAR, True)],
    )
    denoiser = network(edges, [2], modulated=True, scaled_inputs=True).float()
    for layer in denoiser.kan_layers:
        layer.basis.grid_origin.add_(0.3)
    denoiser.save_pretrained(tmp_path)
    loaded = ReadableDenoiser.from_pretrained(tmp_path)
    points, steps = batch()
    assert torch.equal(loaded(points.float(), steps).sample, denoiser(points.float(), steps).sample)
    assert loaded.edges == denoiser.edges
    assert loaded.num_trainable == denoiser.num_trainable
    missing = "no_such_module_here:F"
    for name, options, message in (
        ("gausian", {}, "edge function 'gausian', did you mean 'gaussian"),
        (missing, {}, f"edge function '{missing}' .* import no_such_module_here first"),
    ):
        with refused(message):
            get_functions(["sin", name], **options)
