"""What holds for every basis and for networks of every kind of layer.

`make test` runs it over the usual bases, tests/all over those that are left.
"""

from __future__ import annotations

import copy
import inspect
import io
import itertools
import math
import pickle
from functools import partial

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from torch import nn

from helpers import (
    assert_same_state,
    function_by_function,
    randn,
    random_layer,
    refused,
    scrambled,
    seeded,
)
from kan_diffusion.kan import KAN, GatedLinear, GroupedKANLinear, KANLinear, LearnedFunctions
from kan_diffusion.kan.bases import BASES, GridBasis
from kan_diffusion.kan.gated import gated_chain
from kan_diffusion.kan.grids import EdgeLayer, update_grid
from kan_diffusion.kan.initialization import INITIALIZATIONS

DOUBLE = torch.float64
OTHER = [name for name in BASES if name in ("fourier", "rational")]
USUAL = [name for name in BASES if name not in OTHER]
UNEVEN = [0, 1, 0, 0, 2]
# A method with examples is called on an object for each basis, and has no state.
drawn = settings(suppress_health_check=[HealthCheck.differing_executors])


def over(bases):
    """Runs a class of tests over bases."""
    return pytest.mark.parametrize("basis", bases)


def with_grids(bases):
    return over([name for name in bases if issubclass(BASES[name], GridBasis)])


def inside(layer, rows=200):
    """Points on every input's grid, its ends and knots among them."""
    u = layer.grid_size * torch.rand(rows, 3, generator=seeded(1), dtype=DOUBLE)
    u[: layer.grid_size + 1] = torch.arange(layer.grid_size + 1.0).unsqueeze(1)
    return layer.grid_origin + u * layer.grid_step


def around(layer):
    """Points on every input's grid and as far again to either side."""
    middle = (layer.grid_origin + layer.basis.grid_end) / 2
    return middle + 3 * (inside(layer) - middle)


def assert_close(ours, theirs, tolerance=1e-10):
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


class Bases:
    """What layers of a basis compute, and where they start."""

    def test_a_nan_reaches_the_functions_of_its_own_input_only(self, basis):
        for dtype in (torch.float32, DOUBLE):
            own = KANLinear(3, 1, basis=basis, grid_size=4, dtype=dtype).basis
            x = randn(6, 3, dtype=dtype)
            clean = own(x)
            x[2, 1] = math.nan
            values = own(x)
            assert values.dtype == dtype
            hit = torch.zeros(6, 3, dtype=torch.bool)
            hit[2, 1] = True
            assert torch.equal(values.isnan().any(-1), hit)
            assert torch.equal(values[~hit], clean[~hit])

    def test_the_basis_of_one_input_is_its_column(self, basis):
        own = scrambled(KANLinear(10, 1, basis=basis, dtype=DOUBLE)).basis
        x = 3 * randn(20, 10, seed=1)
        whole = own(x)
        for i in range(10):
            alone = own.one_input(i)
            torch.testing.assert_close(alone(x[:, i : i + 1])[:, 0], whole[:, i])
            for tensor in (*alone.parameters(), *alone.buffers()):
                tensor.detach().zero_()
        assert torch.equal(own(x), whole)

    @drawn
    @given(
        own=st.fixed_dictionaries(
            {
                "grid_size": st.integers(1, 8),
                "grid_range": st.sampled_from([(-1.0, 1.0), (-2.5, 0.5), (3.0, 4.0)]),
                "extrapolation": st.sampled_from(["linear", "clamp"]),
                "base_activation": st.sampled_from(["silu", None, "auto"]),
                "edge_scale": st.booleans(),
                "bias": st.booleans(),
                "init": st.sampled_from(INITIALIZATIONS),
            }
        ),
        widths=st.tuples(st.integers(1, 4), st.integers(1, 4)),
        seed=st.integers(0, 999),
    )
    def test_a_layer_is_the_double_loop_over_its_edges(self, basis, own, widths, seed):
        layer = random_layer(*widths, seed=seed, basis=basis, **own)
        fan_in, fan_out = widths
        low, high = own["grid_range"]
        share = torch.rand(7, fan_in, generator=seeded(seed), dtype=DOUBLE)
        x = low + (high - low) * (3 * share - 1)
        functions = layer.basis(x)
        edges = layer.weight.view(fan_out, fan_in, -1)
        # In their papers the global functions stand alone; the local ones come with SiLU.
        default = "silu" if basis in ("bspline", "rbf") else None
        activation = own["base_activation"]
        first = int((default if activation == "auto" else activation) is not None)
        curves = torch.zeros(7, fan_out, fan_in, dtype=DOUBLE)
        for o, i in itertools.product(range(fan_out), range(fan_in)):
            scale = 1.0 if layer.scale is None else layer.scale[o, i]
            curves[:, o, i] = scale * (functions[:, i] @ edges[o, i, first:])
            if first:
                curves[:, o, i] += edges[o, i, 0] * x[:, i] / (1 + torch.exp(-x[:, i]))
            torch.testing.assert_close(layer.edge_curve(i, o, x[:, i]), curves[:, o, i])
        torch.testing.assert_close(layer.edge_outputs(x), curves)
        expected = curves.sum(2) if layer.bias is None else curves.sum(2) + layer.bias
        torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)
        places = x.reshape(7, 1, fan_in)  # of any shape
        torch.testing.assert_close(layer.edge_curve(0, 0, places[..., 0]), curves[:, :1, 0])

    def test_a_kan_is_the_composition_of_its_layers(self, basis):
        options = {"bias": False, "basis": basis, "grid_size": 4, "order": 3, "edge_scale": True}
        options |= {"grid_range": (-2.0, 2.0), "extrapolation": "clamp", "init": "noise"}
        options |= {"base_activation": "silu", "dtype": DOUBLE}
        network = KAN([3, 5, 4, 2], **options)
        x = expected = 2 * randn(2, 6, 3)
        for layer in network.layers:
            twin = KANLinear(layer.in_features, layer.out_features, **options)
            twin.load_state_dict(layer.state_dict())
            assert (layer.init, repr(layer)) == ("noise", repr(twin))
            expected = twin(expected)
        assert torch.equal(network(x), expected)
        assert network.flops == sum(layer.flops for layer in network.layers)

    def test_learned_functions_are_evaluated_one_by_one(self, basis):
        functions = 1 if basis == "rational" else 4
        for groups, group_of in (
            (None, (0, 1, 2, 3, 4, 5)),
            (2, (0, 1, 0, 1, 0, 1)),
            (1, (0, 0, 0, 0, 0, 0)),
            ([0, 0, 1, 2, 0, 1], (0, 0, 1, 2, 0, 1)),
        ):
            own = {"basis": basis, "start": [torch.zeros_like] * functions, "dtype": DOUBLE}
            module = scrambled(LearnedFunctions(6, functions, groups, **own))
            assert (module.group_of, module.groups) == (group_of, len(set(group_of)))
            x = randn(50, 6, seed=1).requires_grad_()
            found, expected = module(x), function_by_function(module, x).flatten(1)
            assert_close([found], [expected])
            direction, operands = randn(50, 6 * functions, seed=2), [x, module.coefficients]
            assert_close(
                torch.autograd.grad(found, operands, direction),
                torch.autograd.grad(expected, operands, direction),
            )

    def test_a_layer_of_shared_functions_is_the_double_loop_over_its_edges(self, basis):
        functions = 1 if basis == "rational" else 4
        for bias in (True, False):
            own = {"functions": functions, "groups": UNEVEN, "grid_size": 4, "dtype": DOUBLE}
            own["start"] = [torch.zeros_like] * functions
            layer = scrambled(GroupedKANLinear(5, 3, bias, basis=basis, **own))
            x = randn(40, 5, seed=1).requires_grad_()
            edges = layer.weight.view(3, 5, functions)
            curves = torch.einsum("nir,oir->noi", function_by_function(layer, x), edges)
            expected = curves.sum(2) + (0 if layer.bias is None else layer.bias)
            found = layer(x)
            assert_close([found, layer.edge_outputs(x)], [expected, curves])
            for o, i in itertools.product(range(3), range(5)):
                curve = layer.edge_curve(i, o, x[:, i].detach())
                assert_close([curve], [curves[:, o, i].detach()])
            places = x.detach().view(40, 1, 5)[..., 0]  # of any shape
            assert_close([layer.edge_curve(0, 0, places)], [curves[:, :1, 0].detach()])
            own = (layer.coefficients, layer.weight, layer.bias)[: 2 + bias]
            direction, operands = randn(40, 3, seed=2), [x, *own]
            assert_close(
                torch.autograd.grad(found, operands, direction),
                torch.autograd.grad(expected, operands, direction),
                1e-9,
            )

    def test_a_masked_layer_is_one_whose_weights_are_zero(self, basis):
        layer = random_layer(seed=1, basis=basis, base_activation="silu", edge_scale=True)
        x = (3 * randn(12, 3)).requires_grad_()
        mask = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]], dtype=DOUBLE)
        masked = layer.masked(x, mask)
        torch.testing.assert_close(masked, (layer.edge_outputs(x) * mask).sum(2) + layer.bias)
        zeroed = copy.deepcopy(layer)
        zeroed.weight.detach().view(2, 3, -1).mul_(mask.unsqueeze(-1))
        torch.testing.assert_close(masked, zeroed(x))
        masked.square().sum().backward()
        gradient = layer.weight.grad.view(2, 3, -1)
        assert bool((gradient[mask == 0] == 0).all())
        assert bool((gradient[mask == 1].abs().amax(-1) > 0).all())
        torch.testing.assert_close(layer.masked(x, torch.ones_like(mask)), layer(x))

    def test_a_generator_decides_every_parameter_and_what_was_learned_is_forgotten(self, basis):
        for init, base in itertools.product(INITIALIZATIONS, ("silu", None)):
            own = {"init": init, "basis": basis, "base_activation": base, "edge_scale": True}
            layer, twin = (KANLinear(4, 3, **own) for _ in range(2))
            for parameter in twin.parameters():
                parameter.detach().fill_(math.nan)
            state = torch.get_rng_state()
            for each in (layer, twin):
                each.reset_parameters(seeded(5))
            assert torch.equal(state, torch.get_rng_state())
            assert_same_state(layer, twin)
            assert all(parameter.isfinite().all() for parameter in layer.parameters())
            twin.reset_parameters(seeded(6))
            assert not torch.equal(layer.weight, twin.weight)

    def test_glorot_carries_the_variance_through_silu(self, basis, scipy_basis):
        # The power of a rational function is told over another range than the grid's.
        for size in (3, 12):
            own = {"basis": basis, "grid_size": size, "grid_range": (-2.0, 3.0)}
            layer = wide_layer("glorot", **own)
            base, coefficients = parts(layer)
            assert_normal(base, math.sqrt(2 / (INPUTS + OUTPUTS)))
            if basis != "rational":
                assert_normal(coefficients, glorot_std(_power(basis, size, scipy_basis)))
        # Without a base branch every scheme spreads as this one does.
        expected = glorot_std(_power(basis, 5, scipy_basis))
        for init in INITIALIZATIONS:
            layer = wide_layer(init, basis=basis, base_activation=None, grid_range=(-1.0, 1.0))
            base, coefficients = parts(layer)
            assert base.numel() == 0
            assert_normal(coefficients, expected)


class Grids:
    """Grids of a basis that has them."""

    def test_a_grid_made_without_memory_is_there_after_a_reset(self, basis):
        layer = nn.utils.skip_init(KANLinear, 4, 3, basis=basis, grid_range=(-2.0, 3.0))
        for buffer in layer.buffers():
            buffer.fill_(math.nan)
        layer.reset_parameters()
        torch.testing.assert_close(layer.grid_origin, torch.full((4,), -2.0))
        torch.testing.assert_close(layer.basis.grid_end, torch.full((4,), 3.0))
        assert layer(torch.zeros(5, 4)).isfinite().all()

    @drawn
    @given(
        margin=st.sampled_from([0.0, 0.01, 0.5]),
        centre=st.floats(-100, 100),
        spread=st.floats(1e-3, 100),
        seed=st.integers(0, 999),
    )
    def test_a_moved_grid_covers_the_data(self, basis, margin, centre, spread, seed):
        for dtype in (torch.float32, DOUBLE):
            layer = KANLinear(3, 2, basis=basis, dtype=dtype)
            x = (centre + spread * randn(50, 3, seed=seed)).to(dtype)
            before = layer(x)
            change = layer.update_grid(x, margin=margin)
            assert (layer.out_of_range_per_input(x) == 0).all()
            assert change == float((layer(x) - before).detach().abs().max())
            # And not much more than the data.
            low, high = x.amin(0), x.amax(0)
            room = margin * (high - low) + 1e-5 * (high.abs() + low.abs())
            assert (layer.grid_origin >= low - 1.001 * room).all()
            assert (layer.basis.grid_end <= high + 1.001 * room).all()

    def test_constant_inputs_keep_the_width_of_their_grid(self, basis):
        layer = KANLinear(4, 2, basis=basis, grid_range=(-1.0, 1.0), dtype=DOUBLE)
        x = torch.tensor([[0.3, 1.7, -5.0, 0.0]], dtype=DOUBLE).repeat(50, 1)
        x[:, 3] = torch.linspace(-2, 2, 50)
        layer.update_grid(x, margin=0.0)
        width = layer.basis.grid_end - layer.grid_origin
        torch.testing.assert_close(width, torch.tensor([2.0, 2.0, 2.0, 4.0], dtype=DOUBLE))
        expected = torch.tensor([-1.0, -0.3, -5.0, -2.0], dtype=DOUBLE)
        torch.testing.assert_close(layer.grid_origin, expected)
        assert (layer.out_of_range_per_input(x) == 0).all()

    def test_few_or_repeated_rows_are_no_trouble(self, basis):
        for rows, copies in itertools.product((1, 2, 3), (1, 20)):
            layer = random_layer(basis=basis)
            x = randn(rows, 3, seed=rows).repeat(copies, 1)
            before, largest = layer(x), float(layer.weight.detach().abs().max())
            change = layer.update_grid(x)
            assert change == float((layer(x) - before).detach().abs().max())
            assert (layer.out_of_range_per_input(x) == 0).all()
            # A fit to the rows alone would be free to take any coefficients.
            assert float(layer.weight.detach().abs().max()) < 20 * largest
            if rows == 1:
                most = 1e-9 if basis == "chebyshev" else float(before.detach().abs().max()) + 9
                assert change < most

    def test_the_average_of_moved_weights_is_the_moved_average(self, basis):
        one, other = (random_layer(basis=basis, seed=seed) for seed in (0, 1))
        other.basis = copy.deepcopy(one.basis)
        average = copy.deepcopy(one)
        average.weight.detach().copy_(0.3 * one.weight + 0.7 * other.weight)
        x = around(one)
        update_grid(one, x, averages=[average, other])
        assert_close([average.weight], [0.3 * one.weight + 0.7 * other.weight])
        # The map depends on the grids alone.
        alone = random_layer(basis=basis, seed=1)
        alone.basis = random_layer(basis=basis, seed=0).basis
        alone.update_grid(x)
        assert_close([alone.weight], [other.weight])

    def test_a_grid_of_a_group_covers_all_its_inputs(self, basis):
        own = {"basis": basis, "grid_size": 5, "start": [torch.zeros_like] * 2, "dtype": DOUBLE}
        module = scrambled(LearnedFunctions(5, 2, UNEVEN, **own))
        x = randn(100, 5, seed=3) * torch.tensor([1.0, 0.5, 2.0, 0.3, 1.0]) + torch.tensor(UNEVEN)
        module.update_grid(x, margin=0.5)
        before, average = module(x), copy.deepcopy(module)
        module.update_grid(x, margin=0.0, averages=[average])
        if basis == "chebyshev":  # a polynomial is the same on any grid
            torch.testing.assert_close(module(x), before)
        for group in range(3):
            seen = x[:, [i for i, g in enumerate(UNEVEN) if g == group]]
            torch.testing.assert_close(module.grid.grid_origin[group], seen.min())
            torch.testing.assert_close(module.grid.grid_end[group], seen.max())
        assert float(module.out_of_range_per_input(x).max()) == 0
        assert torch.equal(average.grid.grid_step, module.grid.grid_step)
        torch.testing.assert_close(average.coefficients, module.coefficients)


# What the schemes say of the weights they draw, measured on a large layer


INPUTS, OUTPUTS = 60, 80


def wide_layer(init, **own):
    own = {"base_activation": "silu", "dtype": DOUBLE, **own}
    layer = KANLinear(INPUTS, OUTPUTS, init=init, **own)
    layer.reset_parameters(seeded(0))
    return layer


def parts(layer):
    """Base weights (out, in) and coefficients (out, in, functions)."""
    edges = layer.weight.detach().view(layer.out_features, layer.in_features, -1)
    first = int(layer.base_activation is not None)
    return edges[..., :first], edges[..., first:]


def assert_normal(values, std):
    """Mean and spread within five standard errors; not bounded as uniform draws are."""
    count = values.numel()
    assert abs(float(values.mean())) < 5 * std / math.sqrt(count)
    assert float(values.std()) == pytest.approx(std, rel=5 / math.sqrt(2 * count))
    assert float(values.abs().max()) > 3 * std


def _mean_of_silu_squared():
    """For unit normal inputs."""

    def integrand(z):
        return (z / (1 + math.exp(-z))) ** 2 * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)

    return quad(integrand, -30, 30)[0]


def glorot_std(power):
    """The spread of coefficients whose functions have this mean sum of squares."""
    return math.sqrt(2 / (INPUTS + OUTPUTS) * _mean_of_silu_squared() / power)


def _power(basis, size, scipy_basis):
    """The mean over the grid of the functions' sum of squares, without the package where it can be.

    Rational functions, which have no grid and start as SiLU: the mean for unit normal inputs.
    """
    u = (np.arange(20_000) + 0.5) / 20_000 * size
    if basis == "rational":
        return _mean_of_silu_squared()
    if basis == "fourier":
        return float(size)  # cos^2 + sin^2, for each harmonic
    if basis == "bspline":
        functions = scipy_basis(u, 0.0, 1.0, size, 3, "linear")
    elif basis == "rbf":
        functions = np.exp(-((u[:, None] - np.arange(size + 1)) ** 2))
    elif basis == "chebyshev":
        functions = np.cos(np.arange(size + 1) * np.arccos(2 * u / size - 1)[:, None])
    else:
        functions = BASES[basis](1, size, (0.0, float(size))).values(torch.from_numpy(u)).numpy()
    return float((functions**2).sum(-1).mean())


# Networks of every kind of layer


class Gated(nn.Module):
    """Gated layers, of learned functions or SiLU, modulated by two of three inputs."""

    def __init__(self, learned, dtype=None):
        super().__init__()
        self.first = nn.Linear(3, 16, dtype=dtype)
        self.layers = nn.ModuleList()
        for outputs in (16, 2):
            functions = LearnedFunctions(8, 1, [0, 1, 0, 0, 2, 1, 0, 0], dtype=dtype)
            own = functions if learned else None
            self.layers.append(GatedLinear(8, outputs, rank=2, functions=own, dtype=dtype))

    def forward(self, x):
        return gated_chain(list(self.layers), self.first(x), x[:, :2])


LEARNED = {
    "functions": lambda dtype=None: nn.Sequential(
        LearnedFunctions(3, dtype=dtype),
        LearnedFunctions(3, 2, [0, 1, 0], dtype=dtype),
        nn.Linear(6, 2, dtype=dtype),
    ),
    "grouped": lambda dtype=None: nn.Sequential(
        GroupedKANLinear(3, 5, functions=2, groups=[0, 1, 0], dtype=dtype),
        GroupedKANLinear(5, 2, functions=3, dtype=dtype),
    ),
    "gated": partial(Gated, True),
    "gated-silu": partial(Gated, False),
}
"""Networks of layers whose functions are shared, or gated, from three inputs to two outputs."""


def network_of(basis="bspline", seed=0, sizes=(3, 5, 2), **own):
    """A small network with grids and parameters that are not those of the start.

    Those in ``LEARNED`` have none of the settings but a dtype.
    """
    if basis in LEARNED:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = LEARNED[basis](dtype=own.get("dtype"))
    else:
        network = KAN(sizes, basis=basis, **own)
        network.reset_parameters(seeded(seed))
    for place, parameter in enumerate(network.parameters()):
        parameter.detach().add_(0.3 * randn(*parameter.shape, seed=100 * seed + place))
    for layer in network.modules():
        if isinstance(layer, EdgeLayer) and isinstance(layer.basis, GridBasis):
            layer.grid.grid_step.mul_(0.7)
            count = layer.basis.in_features
            layer.grid.grid_origin.add_(torch.rand(count, generator=seeded(seed)))
    return network


def points(rows=40, seed=1, dtype=torch.float32):
    """Points inside and outside of the grids."""
    return 1.5 * randn(rows, 3, seed=seed, dtype=dtype)


def results(module, network, x):
    """The output and the gradients of a loss with respect to input and parameters."""
    x = x.detach().clone().requires_grad_()
    output = module(x)
    gradients = torch.autograd.grad(output.square().sum(), [x, *network.parameters()])
    return [output.detach(), *gradients]


def assert_near(ours, theirs, tolerance=2e-5):
    """Equal up to a share of the largest number."""
    for one, other in zip(ours, theirs, strict=True):
        scale = max(1.0, float(other.detach().abs().max())) if other.numel() else 1.0
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance * scale)


def over_networks(names):
    """Runs a class of tests over kinds of networks: bases, and those in ``LEARNED``."""
    return pytest.mark.parametrize("name", names)


class Networks:
    """What people do with a network, whatever its layers."""

    def test_bfloat16_autocast_stays_near_float32(self, name):
        network = network_of(name)
        x = points(200) / 3
        full = results(network, network, x)

        def cast(x):
            with torch.autocast("cpu", torch.bfloat16):
                output = network(x)
            assert output.dtype == torch.bfloat16
            return output.float()

        for one, other in zip(results(cast, network, x), full, strict=True):
            assert one.dtype == torch.float32
            # bfloat16 keeps eight bits; a hidden layer's rounding is steepened by the next.
            assert float((one - other).norm() / other.norm()) < 0.08

    def test_copies_and_files_of_a_network_compute_the_same_and_share_nothing(self, name, tmp_path):
        network = network_of(name, extrapolation="clamp", edge_scale=True)
        x = points()
        expected = results(network, network, x)  # what is kept from an evaluation is copied too
        buffer = io.BytesIO()
        torch.save(network, buffer)
        buffer.seek(0)
        for twin in (
            copy.deepcopy(network),
            pickle.loads(pickle.dumps(network)),
            torch.load(buffer, weights_only=False),
        ):
            assert all(map(torch.equal, results(twin, twin, x), expected))
            for tensor in (*twin.parameters(), *twin.buffers()):
                tensor.detach().fill_(7)
            assert all(map(torch.equal, results(network, network, x), expected))
        torch.save(network.state_dict(), tmp_path / "state.pt")
        safetensors.torch.save_model(network, str(tmp_path / "state.safetensors"))
        for read in (
            lambda twin: twin.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True)),
            lambda twin: safetensors.torch.load_model(twin, str(tmp_path / "state.safetensors")),
        ):
            twin = network_of(name, seed=5, extrapolation="clamp", edge_scale=True)
            assert not torch.allclose(twin(x), network(x))
            read(twin)
            assert torch.equal(twin(x), network(x))

    def test_any_leading_shape_and_no_rows(self, name):
        network = network_of(name)
        x = points(24)
        expected = torch.cat([network(row.unsqueeze(0)) for row in x]).detach()
        shapes = [(0,)]
        if not name.startswith("gated"):  # which take rows
            shapes.append((5, 0))
            columns = x.view(4, 6, 3).permute(1, 0, 2)
            assert_near([network(columns)], [expected.view(4, 6, 2).permute(1, 0, 2)], 1e-5)
        assert_near([network(x)], [expected], 1e-5)
        for shape in shapes:
            empty = torch.zeros(*shape, 3, requires_grad=True)
            output = network(empty)
            assert output.shape == (*shape, 2)
            gradients = torch.autograd.grad(output.sum(), [empty, *network.parameters()])
            assert gradients[0].shape == empty.shape
            assert all((gradient == 0).all() for gradient in gradients)


LAYERS = {
    **{name: partial(KANLinear, 3, 2, basis=name) for name in BASES},
    "functions": partial(LearnedFunctions, 3),
    "shared": partial(LearnedFunctions, 3, 2, [0, 1, 0]),
    "grouped": partial(GroupedKANLinear, 3, 2, functions=2, groups=[0, 1, 0]),
}
"""Layers of three inputs."""


class Layers:
    """What other parts of torch and Python ask of a layer."""

    def test_all_attributes_of_a_layer_can_be_listed(self, name):
        layer = LAYERS[name]()
        members = dict(inspect.getmembers(layer))
        assert members.keys() >= {"forward", "packed", "flops"}
        has_grid = isinstance(layer.basis, GridBasis)
        names = ("grid", "grid_size", "grid_origin", "grid_step")
        for one in names if isinstance(layer, KANLinear) else names[:2]:
            assert hasattr(layer, one) == (one in members) == has_grid
        assert not hasattr(layer, "grid_sise")

    def test_numbers_that_are_not_real_and_other_widths_are_refused(self, name):
        layer = LAYERS[name]()
        kind = type(layer).__name__
        for dtype in (torch.int64, torch.bool, torch.complex64):
            with refused(f"this {kind} takes floating-point numbers.* not {dtype}; convert them"):
                layer(torch.ones(4, 3, dtype=dtype))
        for shape in ((4, 6), (0, 2), ()):
            with refused(rf"this {kind} takes inputs with shape \(\*, 3\)"):
                layer(torch.zeros(shape))

    def test_a_layer_is_a_leaf_of_a_symbolic_graph(self, name):
        layer = LAYERS[name]()
        module = nn.Sequential(nn.Linear(3, 3), layer, nn.Tanh())
        graph = torch.fx.symbolic_trace(module)
        calls = [(node.op, node.target) for node in graph.graph.nodes]
        assert calls[1:-1] == [("call_module", place) for place in "012"]
        graph.graph.lint()
        for twin in (graph, pickle.loads(pickle.dumps(graph)), copy.deepcopy(graph)):
            assert torch.equal(twin(points()), module(points()))
        kind = type(layer).__name__
        with refused(f"a {kind} is a leaf of torch.fx .* the module that holds it"):
            torch.fx.symbolic_trace(layer)
