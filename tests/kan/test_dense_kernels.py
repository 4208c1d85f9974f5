"""The compiled kernel of the dense bases against torch's operations, and when it steps aside."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import functional_call, grad, jacrev, vmap
from torch.nn.functional import linear

from helpers import seeded
from kan_diffusion.kan import KANLinear
from kan_diffusion.kan.bases import RBF
from kan_diffusion.kan.kernels import cpu, dispatch, edge_features

CASES = (
    *itertools.product(["rbf"], ["linear", "clamp", "zero"]),
    *itertools.product(["chebyshev"], ["linear", "clamp"]),
    *itertools.product(["fourier"], ["linear", "clamp", "periodic"]),
    ("rational", "linear"),
)
BASES = ("rbf", "chebyshev", "fourier", "rational")
each_case = pytest.mark.parametrize(("basis", "mode"), CASES)
each_basis = pytest.mark.parametrize("basis", BASES)
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def _layer(
    basis: str,
    mode: str = "linear",
    dtype: torch.dtype = torch.float64,
    *,
    inputs: int = 3,
    outputs: int = 5,
    size: int = 4,
    bias: bool = True,
    base: bool = True,
    seed: int = 0,
) -> KANLinear:
    """A layer with normal parameters and a grid of its own for each input."""
    layer = KANLinear(
        inputs,
        outputs,
        bias,
        basis=basis,
        grid_size=size,
        extrapolation=mode,
        base_activation="silu" if base else None,
        dtype=dtype,
    )
    generator = seeded(seed)
    for parameter in layer.parameters():
        parameter.detach().normal_(generator=generator)
    if basis != "rational":
        layer.grid_origin.uniform_(-2, 1, generator=generator)
        layer.grid_step.uniform_(0.1, 1, generator=generator)
    return layer


def _points(layer: KANLinear, rows: int, seed: int = 1, reach: float = 7) -> Tensor:
    """Points inside and up to ``reach`` intervals beyond each grid."""
    shape = (rows, layer.in_features)
    u = torch.rand(shape, generator=seeded(seed), dtype=torch.float64)
    if layer.basis.name == "rational":
        return (reach * (2 * u - 1)).to(layer.weight.dtype)
    u = (layer.grid_size + 2 * reach) * u - reach
    return (layer.grid_origin + layer.grid_step * u).to(layer.weight.dtype)


def _reference(layer: KANLinear, x: Tensor) -> Tensor:
    """The layer as its docstring has it, by torch."""
    features = edge_features(x, layer.basis, layer.base_activation is not None)
    return linear(features.flatten(1), layer.weight, layer.bias)


def _is_fused(output: Tensor) -> bool:
    return "FusedLinear" in type(output.grad_fn).__name__


def _operands(layer: KANLinear, x: Tensor) -> list[Tensor]:
    return [x, *layer.parameters()]


def _direction(output: Tensor, seed: int = 2) -> Tensor:
    direction = torch.randn(output.shape, generator=seeded(seed), dtype=torch.float64)
    return direction.to(output.dtype)


def _run(layer: KANLinear, x: Tensor) -> list[Tensor]:
    """Output and gradients of the kernel."""
    x = x.detach().requires_grad_()
    output = layer(x)
    assert _is_fused(output)
    gradients = torch.autograd.grad(output, _operands(layer, x), _direction(output))
    return [output.detach(), *gradients]


def _run_reference(layer: KANLinear, x: Tensor) -> list[Tensor]:
    x = x.detach().requires_grad_()
    output = _reference(layer, x)
    gradients = torch.autograd.grad(output, _operands(layer, x), _direction(output))
    return [output.detach(), *gradients]


def _compare(layer: KANLinear, x: Tensor) -> None:
    """Values and all gradients are torch's, relative to the largest of each."""
    single = x.dtype == torch.float32
    ours, theirs = _run(layer, x), _run_reference(layer, x)
    exact = theirs
    if single and layer.basis.name == "rational":
        # Where polynomials cancel, single precision says little: no worse than torch is then.
        exact = _run_reference(copy.deepcopy(layer).double(), x.double())
    for one, other, truth in zip(ours, theirs, exact, strict=True):
        assert one.is_contiguous()
        if one.numel():
            scale = max(1.0, float(truth.abs().max()))
            tolerance = (1e-5 if single else 1e-10) * scale + 3 * float((other - truth).abs().max())
            torch.testing.assert_close(one.to(truth.dtype), truth, rtol=0, atol=tolerance)


@each_case
@each_dtype
@settings(max_examples=15)
@given(
    inputs=st.sampled_from([1, 2, 3, 9, 33]),
    outputs=st.sampled_from([1, 2, 7, 9, 16, 31, 32, 45]),
    size=st.integers(1, 8),
    rows=st.sampled_from([0, 1, 7, 16, 63, 300]),
    bias=st.booleans(),
    base=st.booleans(),
    seed=st.integers(0, 999),
)
def test_the_kernel_is_the_product_of_features_and_weight(
    basis: str,
    mode: str,
    dtype: torch.dtype,
    inputs: int,
    outputs: int,
    size: int,
    rows: int,
    bias: bool,
    base: bool,
    seed: int,
) -> None:
    layer = _layer(
        basis,
        mode,
        dtype,
        inputs=inputs,
        outputs=outputs,
        size=size,
        bias=bias,
        base=base,
        seed=seed,
    )
    _compare(layer, _points(layer, rows, seed))


@each_case
@given(size=st.integers(9, 70), seed=st.integers(0, 999))
def test_many_functions(basis: str, mode: str, size: int, seed: int) -> None:
    layer = _layer(basis, mode, size=size, seed=seed)
    _compare(layer, _points(layer, 40, seed))


@each_case
@each_dtype
def test_knots_ends_and_zeros_are_where_they_are(basis: str, mode: str, dtype: torch.dtype) -> None:
    layer = _layer(basis, mode, dtype, inputs=20)
    knots = torch.arange(-8.0, 4 + 9).unsqueeze(1).expand(-1, 20)
    if basis != "rational":
        # Steps and origins whose multiples are exact: an end is where both say it is.
        layer.grid_origin.copy_(torch.arange(20) / 4 - 3)
        layer.grid_step.fill_(0.25)
        knots = layer.grid_origin + layer.grid_step * knots
    x = torch.cat([knots, torch.zeros(2, 20), torch.full((1, 20), -0.0)]).to(dtype)
    _compare(layer, x)


@each_case
def test_huge_inputs_extrapolate(basis: str, mode: str) -> None:
    layer = _layer(basis, mode, torch.float32, inputs=4, outputs=9, bias=False)
    far = [1e6, -1e6, 88.0, -88.0, -104.0, 1e-45, -0.0]
    if mode in ("clamp", "zero"):
        far += [1e30, -1e30]
    elif basis in ("rbf", "chebyshev"):
        far += [1e20, -1e20]
    if mode == "periodic":  # a place so far away is rounded to whole parts of a period
        layer.grid_origin.zero_()
        layer.grid_step.fill_(0.25)
    x = torch.tensor(far).unsqueeze(1).expand(-1, 4).contiguous()
    ours, theirs = _run(layer, x), _run_reference(layer, x)
    for one, other in zip(ours[:2], theirs[:2], strict=True):  # output and gradient by row
        assert torch.equal(one.isfinite(), other.isfinite())
        scale = other.abs().amax(1, keepdim=True).clamp(min=1)
        torch.testing.assert_close(
            one / scale, other / scale, rtol=0, atol=2e-5, equal_nan=basis == "rational"
        )
    for one, other in zip(ours[2:], theirs[2:], strict=True):
        scale = float(other.abs().max().clamp(min=1))
        torch.testing.assert_close(one / scale, other / scale, rtol=0, atol=2e-5, equal_nan=True)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("periods", [0, 1, 1000, 10**6])
def test_harmonics_far_outside_are_those_of_whole_periods_nearer(sign: int, periods: int) -> None:
    layer = _layer("fourier", "periodic", torch.float32, size=8, base=False)
    layer.grid_origin.zero_()
    layer.grid_step.fill_(1 / 8)  # a period is 1
    near = torch.randint(0, 16, (64, 3), generator=seeded(0)) / 16
    expected = _run_reference(layer.double(), near.double())
    for one, other in zip(_run(layer.float(), near + sign * periods), expected, strict=True):
        scale = float(other.abs().max())
        torch.testing.assert_close(one.double(), other, rtol=0, atol=1e-6 * scale)


@each_case
@given(size=st.integers(1, 8), seed=st.integers(0, 999))
def test_float32_functions_are_those_of_float64(
    basis: str, mode: str, size: int, seed: int
) -> None:
    # One output that picks a single function; places on the grid that float32 tells exactly.
    layer = _layer(basis, mode, torch.float32, inputs=1, size=size, bias=False, seed=seed)
    width = layer.features_per_input
    layer.weight = torch.nn.Parameter(torch.eye(width))
    layer.out_features = width
    if basis != "rational":
        layer.grid_origin.fill_(1)
        layer.grid_step.fill_(0.5)
    x = torch.randint(-3 * 512, 7 * 512, (300, 1), generator=seeded(seed)) / 512
    values = layer(x).double()
    expected = layer.double()(x.double())
    scale = expected.abs().amax(0).clamp(min=1)
    torch.testing.assert_close(values / scale, expected / scale, rtol=0, atol=4e-6)
    if basis == "rbf" and mode == "zero":  # small values too: 1e-5 of each that is not denormal
        seen = expected > 2e-38
        torch.testing.assert_close(values[seen], expected[seen], rtol=1e-5, atol=0)


@each_case
@each_dtype
@pytest.mark.parametrize("base", [True, False])
def test_nan_stays_in_its_row_and_in_the_weights_of_its_input(
    basis: str, mode: str, dtype: torch.dtype, base: bool
) -> None:
    layer = _layer(basis, mode, dtype, inputs=20, outputs=11, base=base)
    x = _points(layer, 40)
    clean = _run(layer, x)
    for row, column in ((0, 0), (17, 13), (39, 19)):
        poisoned = x.clone()
        poisoned[row, column] = math.nan
        output, gradient, *parameters = _run(layer, poisoned)
        here = torch.zeros_like(x, dtype=torch.bool)
        here[row, column] = True
        assert output.isnan()[row].all()
        assert torch.equal(gradient.isnan(), here)
        # What is not NaN is what it was, to the bit.
        others = ~here.any(1)
        assert torch.equal(output[others], clean[0][others])
        assert torch.equal(gradient[~here], clean[1][~here])
        elsewhere = torch.arange(20) != column
        width = layer.features_per_input
        weight = [w.view(11, 20, width)[:, elsewhere] for w in (parameters[0], clean[2])]
        assert torch.equal(*weight)
        assert torch.equal(parameters[1], clean[3])


@each_case
@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinite_inputs_are_torchs(basis: str, mode: str, value: float) -> None:
    layer = _layer(basis, mode, base=False)
    x = _points(layer, 20)
    clean = _run(layer, x)
    x[4, 1] = value
    ours, theirs = _run(layer, x), _run_reference(layer, x)
    others = torch.arange(20) != 4
    assert torch.equal(ours[0][others], clean[0][others])
    assert torch.equal(ours[1][others], clean[1][others])
    torch.testing.assert_close(ours[0], theirs[0], equal_nan=True)


@each_basis
def test_a_nan_in_the_gradient_stays_in_its_row(basis: str) -> None:
    layer = _layer(basis, inputs=20, outputs=11)
    x = _points(layer, 40).requires_grad_()
    direction = torch.ones(40, 11, dtype=torch.float64)
    direction[8, 3] = math.nan
    gradient, weight, bias = torch.autograd.grad(layer(x), [x, layer.weight, layer.bias], direction)
    assert torch.equal(gradient.isnan().any(1), torch.arange(40) == 8)
    hit = torch.arange(11) == 3
    assert torch.equal(weight.isnan().any(1), hit)
    assert torch.equal(bias.isnan(), hit)


@each_basis
def test_inputs_of_any_strides_are_read_and_not_written(basis: str) -> None:
    layer = _layer(basis, inputs=9, outputs=11)
    whole = torch.randn(64, 20, generator=seeded(4), dtype=torch.float64)
    expected = _run(layer, whole[10:51, 1:19:2].contiguous())
    before = [t.clone() for t in (whole, *layer.parameters(), *layer.buffers())]
    for x in (whole[10:51, 1:19:2], whole.T.contiguous().T[10:51, 1:19:2]):
        assert not x.is_contiguous()
        assert all(map(torch.equal, _run(layer, x), expected))
    after = (whole, *layer.parameters(), *layer.buffers())
    assert all(map(torch.equal, after, before))
    # A gradient that is one number everywhere, as sum() makes it.
    x = whole[:30, :9].clone().requires_grad_()
    (ones,) = torch.autograd.grad(layer(x).sum(), x)
    explicit = torch.ones(30, 11, dtype=torch.float64)
    torch.testing.assert_close(ones, torch.autograd.grad(layer(x), x, explicit)[0])


@each_basis
def test_gradients_are_given_where_they_are_wanted(basis: str) -> None:
    for chosen in ([0], [1], [2], [1, 2], [0, 2], [-1], [0, -1]):
        layer = _layer(basis)
        x = _points(layer, 10)
        operands = _operands(layer, x)
        wanted = [operands[i] for i in chosen]
        for tensor in operands:
            tensor.requires_grad_(any(tensor is w for w in wanted))
        output, expected = layer(x), _reference(layer, x)
        assert _is_fused(output)
        theirs = torch.autograd.grad(expected.square().sum(), wanted)
        for create_graph in (False, True):
            ours = torch.autograd.grad(
                output.square().sum(), wanted, retain_graph=True, create_graph=create_graph
            )
            torch.testing.assert_close(ours, theirs)


@each_case
def test_first_and_second_derivatives(basis: str, mode: str) -> None:
    layer = _layer(basis, mode, inputs=2, outputs=2, size=3)
    names = [name for name, _ in layer.named_parameters()]
    x = torch.tensor([[0.3, 2.6], [-1.4, 3.7]], dtype=torch.float64)
    if basis != "rational":
        x = layer.grid_origin + layer.grid_step * x

    # The layer only has these parameters while it is called.
    def function(x: Tensor, *parameters: Tensor) -> Tensor:
        return functional_call(layer, dict(zip(names, parameters, strict=True)), x)

    leaves = [t.detach().clone().requires_grad_() for t in _operands(layer, x)]
    assert _is_fused(function(*leaves))
    for parameter in layer.parameters():
        parameter.detach().fill_(7)
    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)


@pytest.fixture
def several_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two threads, however little there is to do."""
    monkeypatch.setattr(cpu, "_PARALLEL_WORK", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@each_basis
@pytest.mark.parametrize("rows", [0, 1, 16, 17, 31, 301])
@pytest.mark.usefixtures("several_threads")
def test_two_threads_do_what_one_does(basis: str, rows: int) -> None:
    layer = _layer(basis, inputs=9, outputs=11)
    x = _points(layer, rows)
    several = _run(layer, x)
    torch.set_num_threads(1)
    for one, other in zip(several, _run(layer, x), strict=True):
        scale = float(other.abs().max()) + 1 if other.numel() else 1.0
        torch.testing.assert_close(one, other, rtol=0, atol=1e-13 * scale)


# Stepping aside


def test_a_basis_of_ones_own_is_left_to_torch() -> None:
    class Wider(RBF):
        def values(self, u: Tensor) -> Tensor:
            return super().values(u / 2)

        def slopes(self, u: Tensor) -> Tensor:
            return super().slopes(u / 2) / 2

    layer = KANLinear(2, 3, basis=Wider(2, 4))
    x = torch.randn(5, 2, generator=seeded(0))
    assert not _is_fused(layer(x))
    torch.testing.assert_close(layer(x), _reference(layer, x))


@each_basis
def test_whatever_is_not_plain_is_left_to_torch(basis: str) -> None:
    layer = _layer(basis)
    x = _points(layer, 6)
    rows = vmap(lambda row: layer(row.unsqueeze(0))[0])(x)
    torch.testing.assert_close(rows, layer(x))
    jacobians = vmap(jacrev(layer))(x)
    (slopes,) = torch.autograd.grad(layer(leaf := x.clone().requires_grad_()).sum(), leaf)
    torch.testing.assert_close(jacobians.sum(1), slopes)
    parameters = {name: value.detach() for name, value in layer.named_parameters()}
    gradients = grad(lambda p: functional_call(layer, p, x).square().sum())(parameters)
    expected = torch.autograd.grad(_reference(layer, x).square().sum(), list(layer.parameters()))
    torch.testing.assert_close(tuple(gradients.values()), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert not _is_fused(layer(x))
    assert not _is_fused(layer(x.float()))  # of two dtypes
    assert not _is_fused(layer.bfloat16()(x.bfloat16()))


@each_basis
def test_a_transform_of_the_backward_pass_alone(basis: str) -> None:
    layer = _layer(basis)
    x = _points(layer, 6).requires_grad_()
    output = layer(x)
    assert _is_fused(output)
    directions = torch.randn(4, 6, 5, generator=seeded(0), dtype=torch.float64)
    operands = _operands(layer, x)
    expected = [torch.autograd.grad(output, operands, d, retain_graph=True) for d in directions]
    batched = torch.autograd.grad(output, operands, directions, is_grads_batched=True)
    for found, gradients in zip(batched, zip(*expected, strict=True), strict=True):
        torch.testing.assert_close(found, torch.stack(gradients))


@pytest.mark.parametrize("basis", ["rbf", "chebyshev", "fourier"])
def test_a_grid_that_wants_a_gradient_gets_one(basis: str) -> None:
    layer = _layer(basis, "clamp", inputs=1)
    x = _points(layer, 6, reach=-0.5)

    def total(step: Tensor) -> Tensor:
        return functional_call(layer, {"basis.grid_step": step}, x).sum()

    assert torch.autograd.gradcheck(total, layer.grid_step.clone().requires_grad_())


@each_basis
def test_operands_changed_before_the_backward_pass_are_refused(basis: str) -> None:
    layer = _layer(basis)
    output = layer(_points(layer, 6))
    operand = layer.basis.numerator if basis == "rational" else layer.grid_origin
    operand.detach().add_(0.3)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(output.sum(), layer.weight)


# The operators


@each_case
@each_dtype
@pytest.mark.parametrize("bias", [True, False])
def test_the_operators_are_what_torch_takes_them_for(
    basis: str, mode: str, dtype: torch.dtype, bias: bool
) -> None:
    layer = _layer(basis, mode, dtype, bias=bias)
    kernel = dispatch._KERNELS[type(layer.basis)]
    rest = (*kernel.operands_of(layer.basis), *kernel.settings(layer.basis), True)
    forward = torch.ops.kan_diffusion.dense_linear.default
    backward = torch.ops.kan_diffusion.dense_linear_backward.default
    for rows in (0, 9):
        x = _points(layer, rows).requires_grad_()
        output = forward(x, layer.weight, layer.bias, *rest)
        direction = _direction(output)
        gradients = torch.autograd.grad(output, _operands(layer, x), direction)
        assert all(map(torch.equal, [output, *gradients], _run(layer, x)))
    torch.library.opcheck(forward, (x, layer.weight, layer.bias, *rest))
    plain = [t.detach() if isinstance(t, Tensor) else t for t in (x, layer.weight, *rest)]
    torch.library.opcheck(backward, (direction, *plain))


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@each_basis
def test_the_kernel_is_an_operator_of_the_traced_graph(basis: str) -> None:
    layer = _layer(basis)
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    torch.compiler.reset()
    x = _points(layer, 6)
    traced = torch.compile(layer, fullgraph=True, backend=backend)(x)
    torch.compiler.reset()
    assert torch.equal(traced, layer(x))
    targets = [str(node.target) for graph in graphs for node in graph.graph.nodes]
    assert sum("kan_diffusion.dense_linear" in target for target in targets) == 1
