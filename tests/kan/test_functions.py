"""Learned functions against scipy and against a KAN layer; test_kernels.py has their kernel."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.nn.functional import silu

from helpers import (
    assert_same_state,
    function_by_function,
    randn,
    refused,
    scrambled,
    seeded,
)
from kan_diffusion.kan import LearnedFunctions, refine, update_grid
from kan_diffusion.kan.bases import BASES, GridBasis
from kan_diffusion.kan.functions import STARTS, waves

SINGLE, DOUBLE = torch.float32, torch.float64
# Each costs seconds of compilation, once.
KERNELS = ((3, SINGLE), *((order, DOUBLE) for order in range(1, 6)))
each_kernel = pytest.mark.parametrize(("order", "dtype"), KERNELS)
each_basis = pytest.mark.parametrize("basis", BASES)
each_groups = pytest.mark.parametrize(
    ("groups", "group_of"),
    [
        (None, (0, 1, 2, 3, 4, 5)),
        (2, (0, 1, 0, 1, 0, 1)),
        (1, (0, 0, 0, 0, 0, 0)),
        ([0, 0, 1, 2, 0, 1], (0, 0, 1, 2, 0, 1)),
    ],
    ids=["alone", "by turns", "one", "uneven"],
)
RANGE = (-1.5, 2.0)


def _module(
    in_features: int = 4,
    functions: int = 1,
    groups: int | Sequence[int] | None = None,
    dtype: torch.dtype = DOUBLE,
    seed: int = 0,
    **settings: object,
) -> LearnedFunctions:
    """One with normal coefficients and, where its basis has one, a grid of its own a group."""
    settings = {"grid_size": 5, "start": [torch.zeros_like] * functions, **settings}
    module = LearnedFunctions(in_features, functions, groups, dtype=dtype, **settings)
    return scrambled(module, seed)


def _points(module: LearnedFunctions, *shape: int, seed: int = 1, reach: float = 2.0) -> Tensor:
    """Points inside and up to ``reach`` widths beyond the grids."""
    x = torch.rand(*shape, module.in_features, generator=seeded(seed), dtype=DOUBLE)
    x = (2 * reach + 1) * x - reach
    grid_of = list(module.group_of)
    low, high = module.grid.grid_origin[grid_of], module.grid.grid_end[grid_of]
    return (low + (high - low) * x).to(module.coefficients.dtype)


# What they compute


@each_kernel
@pytest.mark.parametrize("grid_size", [1, 2, 5, 8])
def test_one_is_the_spline_of_scipy_and_its_tangent(
    order: int, dtype: torch.dtype, grid_size: int, scipy_basis: Callable[..., np.ndarray]
) -> None:
    settings = {"order": order, "grid_size": grid_size, "grid_range": RANGE}
    module = LearnedFunctions(3, dtype=dtype, start=[torch.zeros_like], **settings)
    module.coefficients.detach().normal_(generator=seeded(0))
    low, high = RANGE
    width = high - low
    x = torch.linspace(low - 2 * width, high + 2 * width, 501, dtype=dtype)
    y = module(x.unsqueeze(1).expand(-1, 3))
    functions = scipy_basis(x.double().numpy(), low, width / grid_size, grid_size, order, "linear")
    expected = torch.from_numpy(functions) @ module.coefficients[0].detach().double().T
    inside = (x >= low) & (x <= high)
    # A place is rounded the more, the more intervals there are.
    tolerance = 1e-12 if dtype == DOUBLE else 1e-6 * max(1, grid_size // 4)
    torch.testing.assert_close(y[inside].double(), expected[inside], rtol=0, atol=tolerance)
    # Outside, what rounds is the place, times the slope.
    torch.testing.assert_close(y.double(), expected, rtol=tolerance, atol=10 * tolerance)


@each_groups
@pytest.mark.parametrize("extrapolation", ["linear", "clamp"])
def test_several_of_a_group_are_the_splines_of_scipy(
    groups: int | list[int] | None,
    group_of: tuple[int, ...],
    extrapolation: str,
    scipy_basis: Callable[..., np.ndarray],
) -> None:
    module = _module(6, 3, groups, extrapolation=extrapolation)
    assert module.group_of == group_of
    assert module.groups == len(set(group_of))
    assert module.coefficients.shape == (3, module.groups, 8)
    x = _points(module, 200)
    y = module(x).unflatten(1, (6, 3))
    for i, group in enumerate(group_of):
        grid = float(module.grid.grid_origin[group]), float(module.grid.grid_step[group])
        basis = torch.from_numpy(scipy_basis(x[:, i].numpy(), *grid, 5, 3, extrapolation))
        expected = basis @ module.coefficients[:, group].detach().T
        torch.testing.assert_close(y[:, i], expected, rtol=1e-11, atol=1e-11)


@each_basis
@each_groups
def test_every_basis_is_evaluated_function_by_function(
    basis: str, groups: int | list[int] | None, group_of: tuple[int, ...]
) -> None:
    functions = 1 if basis == "rational" else 4
    module = _module(6, functions, groups, basis=basis)
    assert module.group_of == group_of
    x = randn(50, 6, seed=1).requires_grad_()
    expected = function_by_function(module, x)
    found = module(x)
    torch.testing.assert_close(found, expected.flatten(1), rtol=1e-11, atol=1e-11)
    direction = randn(50, 6 * functions, seed=2)
    operands = [x, module.coefficients]
    for one, other in zip(
        torch.autograd.grad(found, operands, direction),
        torch.autograd.grad(expected.flatten(1), operands, direction),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


# Where they start


@pytest.mark.parametrize(
    ("order", "bound"), [(1, 3e-2), (2, 2e-3), (3, 4e-4), (4, 1e-4), (5, 4e-5)]
)
def test_one_starts_as_silu_with_a_little_noise(order: int, bound: float) -> None:
    x = torch.linspace(-3, 3, 1001, dtype=DOUBLE).unsqueeze(1).expand(-1, 20)
    module = LearnedFunctions(20, order=order, dtype=DOUBLE)
    module.reset_parameters(seeded(0))
    noise = torch.empty_like(module.coefficients).detach().normal_(0, 1e-3, generator=seeded(0))
    module.coefficients.detach().sub_(noise)
    assert float((module(x) - silu(x)).detach().abs().max()) < bound


@pytest.mark.parametrize(
    ("start", "functions", "settings", "bound"),
    [
        ("identity", 2, {}, 1e-12),  # splines and their tangents hold the line
        ("silu", 3, {"basis": "chebyshev", "grid_size": 10}, 0.01),
        ("silu", 2, {"basis": "rbf", "grid_size": 10}, 0.05),
        ("waves", 5, {"grid_size": 16}, 0.02),
        ("waves", 3, {"basis": "rbf", "grid_size": 16}, 0.05),
        ([torch.tanh, torch.square], 2, {"grid_size": 12}, 0.01),
        ([lambda x: x.tanh_(), lambda x: x.square_()], 2, {"grid_size": 12}, 0.01),
    ],
)
def test_functions_start_as_they_are_told(
    start: str | list[Callable[[Tensor], Tensor]],
    functions: int,
    settings: dict[str, object],
    bound: float,
) -> None:
    low, high = -1.0, 4.0
    groups = [0, 1, 0]
    settings = {"grid_range": (low, high), "noise": 0.0, "dtype": DOUBLE, **settings}
    module = LearnedFunctions(3, functions, groups, start=start, **settings)
    targets = STARTS[start](functions, high - low) if isinstance(start, str) else start
    x = torch.linspace(low, high, 501, dtype=DOUBLE)
    y = module(x.unsqueeze(1).expand(-1, 3)).detach().unflatten(1, (3, functions))
    for r, target in enumerate(targets):
        wanted = target(x.clone()).unsqueeze(1)
        error = (y[:, :, r] - wanted).square().mean().sqrt()
        assert float(error) < bound * float(wanted.square().mean().sqrt())


def test_waves_are_cosines_and_sines_of_doubled_frequencies() -> None:
    x = torch.linspace(-2, 2, 101, dtype=DOUBLE)
    for index, function in enumerate(waves(5, 0.25)):
        angle = 2 * math.pi * 0.25 * 2 ** (index // 2) * x
        torch.testing.assert_close(function(x), angle.cos() if index % 2 == 0 else angle.sin())


def test_a_generator_decides_where_they_start() -> None:
    one, other = LearnedFunctions(5), LearnedFunctions(5)
    one.reset_parameters(seeded(3))
    other.reset_parameters(seeded(3))
    assert torch.equal(one.coefficients, other.coefficients)
    other.reset_parameters(seeded(4))
    assert not torch.equal(one.coefficients, other.coefficients)
    state = torch.get_rng_state()
    one.reset_parameters(seeded(5))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_reset_lays_the_grids_where_they_were() -> None:
    module = LearnedFunctions(3, 2, [0, 1, 0], noise=0.0)
    before = copy.deepcopy(module.state_dict())
    scrambled(module)
    module.reset_parameters()
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])


# As modules


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 1, 3)])
@pytest.mark.parametrize("functions", [1, 2])
def test_leading_dimensions_are_rows(shape: tuple[int, ...], functions: int) -> None:
    module = _module(4, functions, [0, 1, 0, 0])
    x = _points(module, *shape)
    output = module(x)
    assert output.shape == (*shape, 4 * functions)
    assert torch.equal(output.reshape(-1, 4 * functions), module(x.reshape(-1, 4)))


@each_basis
@pytest.mark.parametrize("shape", [(0,), (3, 0)])
def test_no_rows_give_none_and_gradients_of_zero(basis: str, shape: tuple[int, ...]) -> None:
    module = _module(4, 1, [0, 1, 0, 0], basis=basis)
    x = torch.zeros(*shape, 4, dtype=DOUBLE, requires_grad=True)
    output = module(x)
    assert output.shape == (*shape, 4)
    gradients = torch.autograd.grad(output.sum(), [x, *module.parameters()])
    assert gradients[0].shape == x.shape
    assert all(bool((gradient == 0).all()) for gradient in gradients)
    assert module.out_of_range_per_input(x).isnan().all()


def test_state_dicts_and_copies_carry_everything() -> None:
    module, other = _module(4, 2, [0, 1, 0, 0], seed=1), _module(4, 2, [0, 1, 0, 0], seed=2)
    x = _points(module, 10)
    assert set(module.state_dict()) == {"coefficients", "basis.grid_origin", "basis.grid_step"}
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(x), module(x))
    assert torch.equal(copy.deepcopy(module)(x), module(x))
    single = copy.deepcopy(module).float()
    torch.testing.assert_close(single(x.float()).double(), module(x), rtol=1e-4, atol=1e-4)
    # The pieces do not lose digits on the way through another dtype.
    restored = single.double()
    restored.load_state_dict(module.state_dict())
    assert torch.equal(restored(x), module(x))


def test_a_module_on_the_meta_device_has_no_numbers() -> None:
    module = LearnedFunctions(3, 2, [0, 1, 0], device="meta")
    assert module(torch.empty(5, 3, device="meta")).is_meta
    assert all(tensor.is_meta for tensor in (*module.parameters(), *module.buffers()))
    assert "3, functions=2, groups=2" in repr(module)


def test_places_are_told_in_the_precision_of_the_coefficients() -> None:
    module = _module(dtype=SINGLE)
    x = _points(module, 50, reach=0.2)
    finer = module(x.double())
    assert finer.dtype == DOUBLE
    torch.testing.assert_close(finer.float(), module(x), rtol=0, atol=1e-5)
    coarse = x.bfloat16().requires_grad_()
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            output, expected = module(coarse), module(coarse.detach().float())
        assert output.dtype == SINGLE
        assert torch.equal(output, expected)
        (gradient,) = torch.autograd.grad(output.sum(), coarse)
        assert gradient.dtype == torch.bfloat16
        assert gradient.isfinite().all()


@pytest.mark.parametrize(("order", "per_unit"), [(1, 5), (3, 9), (5, 13)])
def test_operations_are_those_of_horner(order: int, per_unit: int) -> None:
    assert LearnedFunctions(7, order=order).flops == 7 * per_unit
    # The cell and the place in it are found once for all functions.
    assert LearnedFunctions(7, 3, order=order).flops == 7 * (3 + 3 * (per_unit - 3))


def test_the_fraction_outside_is_told_for_each_input() -> None:
    module = LearnedFunctions(3, 1, [0, 1, 0], grid_range=(0.0, 1.0))
    module.grid.grid_origin.copy_(torch.tensor([0.0, 10.0]))
    x = torch.tensor([[0.0, 0.5, 2.0], [0.5, 10.5, 3.0], [1.5, 11.0, 0.5], [1.0, 11.0, -1.0]])
    assert torch.equal(module.out_of_range_per_input(x), torch.tensor([0.25, 0.25, 0.75]))
    assert module.out_of_range_fractions(x) == {"": 5 / 12}  # each value once, in any group


# Grids that move


each_grid_basis = pytest.mark.parametrize(
    "basis", [name for name, kind in BASES.items() if issubclass(kind, GridBasis)]
)
UNEVEN = [0, 1, 0, 0, 2]


@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE])
@pytest.mark.parametrize("parts", [1, 2, 3])
def test_knots_between_knots_leave_functions_of_groups_as_they_are(
    dtype: torch.dtype, parts: int
) -> None:
    module = nn.Sequential(nn.Linear(5, 5, dtype=dtype), _module(5, 3, UNEVEN, dtype))
    average = copy.deepcopy(module)
    average[1].coefficients.detach().normal_(generator=seeded(9))
    x = randn(200, 5, dtype=dtype)
    before, of_average = module(x), average(x)
    change = module[1].refine(5 * parts)
    assert module[1].coefficients.shape == (3, 3, 5 * parts + 3)
    bound = (1e-6 if dtype == SINGLE else 1e-12) * max(1.0, float(before.detach().abs().max()))
    assert change < bound
    assert float((module(x) - before).detach().abs().max()) < bound
    other = copy.deepcopy(average)
    average[1].refine(5 * parts, averages=[other[1]])
    for one in (average, other):
        assert float((one(x) - of_average).detach().abs().max()) < bound


@each_grid_basis
def test_a_grid_of_a_group_covers_all_its_inputs(basis: str) -> None:
    module = _module(5, 2, UNEVEN, basis=basis)
    x = randn(100, 5, seed=3) * torch.tensor([1.0, 0.5, 2.0, 0.3, 1.0]) + torch.tensor(UNEVEN)
    module.update_grid(x, margin=0.5)
    before, average = module(x), copy.deepcopy(module)
    module.update_grid(x, margin=0.0, averages=[average])
    if basis == "chebyshev":  # a polynomial is the same on any grid
        torch.testing.assert_close(module(x), before)
    for group in range(3):
        own = x[:, [i for i, g in enumerate(UNEVEN) if g == group]]
        torch.testing.assert_close(module.grid.grid_origin[group], own.min())
        torch.testing.assert_close(module.grid.grid_end[group], own.max())
    assert float(module.out_of_range_per_input(x).max()) == 0
    assert torch.equal(average.grid.grid_step, module.grid.grid_step)
    torch.testing.assert_close(average.coefficients, module.coefficients)


@pytest.mark.parametrize("basis", ["bspline", "chebyshev"])
def test_averages_keep_their_functions_as_the_module_does(basis: str) -> None:
    functions = _module(5, 3, UNEVEN, basis=basis, grid_size=6)
    module = nn.Sequential(nn.LayerNorm(5, dtype=DOUBLE), functions, nn.Linear(15, 2, dtype=DOUBLE))
    ema, twin = EMAModel(module.parameters()), copy.deepcopy(module)
    for seed, average in enumerate([*twin[1:].parameters(), *ema.shadow_params[2:]]):
        average.detach().normal_(generator=seeded(seed))
    shadow = copy.deepcopy(module)
    x = randn(100, 5)

    def outputs() -> list[Tensor]:
        shadow[1].basis = copy.deepcopy(functions.basis)
        shadow[1].coefficients = nn.Parameter(functions.coefficients.detach().clone())
        ema.copy_to(shadow.parameters())
        return [each(x).detach() for each in (module, twin, shadow)]

    update_grid(module, x, margin=0.5, averages=[ema, twin])
    before = outputs()
    assert not any(torch.allclose(before[a], before[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    refine(module, 12, x, averages=[ema, twin])
    torch.testing.assert_close(outputs(), before, rtol=0, atol=1e-11)
    if basis == "chebyshev":  # a polynomial is the same on any grid
        update_grid(module, x, margin=0.0, averages=[ema, twin])
        torch.testing.assert_close(outputs(), before, rtol=0, atol=1e-9)


# What is refused


def _undefined(x: Tensor) -> Tensor:
    return x.log()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_features": 0}, "at least one input and one function, not 0 and 1"),
        ({"functions": 0}, "at least one input and one function, not 3 and 0"),
        ({"grid_range": (math.nan, 1.0)}, "two finite numbers"),
        ({"basis": "bsplin"}, "unknown basis 'bsplin', did you mean 'bspline'"),
        ({"functions": 12}, "as its basis, 11 with grid_size=8, not 12; raise grid_size"),
        ({"functions": 2, "basis": "rational"}, "1 with .*; raise grid_size or choose another"),
        ({"groups": 2}, "must divide the 3 inputs, and 2 does not; choose one of 1, 3, or give"),
        ({"groups": 0}, "must divide the 3 inputs, and 0 does not"),
        ({"groups": [0, 1]}, r"give each of the 3 inputs a group, .* not \[0, 1\]"),
        ({"groups": [0, 2, 0]}, r"0, 1, \.\.\. without a gap, not \[0, 2, 0\]"),
        ({"groups": [0, -1, 0]}, r"without a gap, not \[0, -1, 0\]"),
        ({"groups": []}, r"give each of the 3 inputs a group, .* not \[\]"),
        ({"start": "sillu"}, "unknown start 'sillu', did you mean 'silu'"),
        ({"start": [silu, silu]}, "a start of 2 functions is not one of 1; give one for each"),
        (
            {"start": "waves", "functions": 9},
            "'bspline' with 11 functions cannot start as function 9 .*; raise grid_size or choose",
        ),
        ({"start": "identity", "basis": "fourier", "grid_size": 1}, "cannot start as function 1"),
        ({"start": [_undefined]}, "is not finite from -3 to 3; choose another start or grid_range"),
    ],
)
def test_unusable_settings_are_refused(arguments: dict[str, object], message: str) -> None:
    with refused(message):
        LearnedFunctions(**{"in_features": 3, **arguments})


def test_grids_too_coarse_for_the_functions_are_refused() -> None:
    module = LearnedFunctions(3, 8, start="waves", grid_size=16)
    state = copy.deepcopy(module.state_dict())
    with refused("as its basis, 7 with grid_size=4, not 8; raise grid_size"):
        module.refine(4)
    assert_same_state(module, state)
    module.refine(5)
    assert module.grid_size == 5


@pytest.mark.parametrize("shape", [(), (3,), (4, 3)])
def test_inputs_of_another_size_are_refused(shape: tuple[int, ...]) -> None:
    with refused(r"this LearnedFunctions takes inputs with shape \(\*, 4\)"):
        _module()(torch.zeros(shape, dtype=DOUBLE))


def test_torch_keeps_inputs_alone_where_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """In parts that are computed again, with the numbers and gradients of one part."""
    from kan_diffusion.kan import functions

    module = scrambled(LearnedFunctions(6, 2, groups=3, dtype=torch.float64))
    monkeypatch.setattr(functions.FusedFunction, "takes", lambda *_: False)
    found = []
    for most in (2**22, 500):
        monkeypatch.setattr(functions, "_MOST_VALUES", most)
        x = randn(100, 6).requires_grad_()
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, kept=kept: kept.append(tensor.numel()) or tensor, lambda tensor: tensor
        ):
            h = module(x)
        gradients = torch.autograd.grad(h.sin().sum(), [x, module.coefficients])
        found.append((h, *gradients, sum(kept)))
    for one, other in zip(found[0][:3], found[1][:3], strict=True):
        torch.testing.assert_close(one, other)
    assert found[0][3] > 10 * x.numel()
    assert found[1][3] < 3 * x.numel()
