"""KAN layers under what people do with modules: compile, export, transform, copy, distribute."""

from __future__ import annotations

import copy
import inspect
import io
import itertools
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.func import grad, jacrev, vmap

from helpers import refused, seeded
from kan_diffusion.kan import KAN, GatedLinear, GroupedKANLinear, KANLinear, LearnedFunctions
from kan_diffusion.kan.bases import BASES, GridBasis
from kan_diffusion.kan.convert import from_efficient_kan, from_kan_linear, to_kan_linear
from kan_diffusion.kan.gated import gated_chain
from kan_diffusion.kan.grids import EdgeLayer
from kan_diffusion.kan.initialization import INITIALIZATIONS
from kan_diffusion.kan.kernels.functions import groups_tensor
from two_processes import in_two_processes


class Gated(nn.Module):
    """Gated layers, of learned functions or SiLU, modulated by two of three inputs."""

    def __init__(self, learned: bool, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.first = nn.Linear(3, 16, dtype=dtype)
        self.layers = nn.ModuleList()
        for outputs in (16, 2):
            functions = LearnedFunctions(8, 1, [0, 1, 0, 0, 2, 1, 0, 0], dtype=dtype)
            own = functions if learned else None
            self.layers.append(GatedLinear(8, outputs, rank=2, functions=own, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return gated_chain(list(self.layers), self.first(x), x[:, :2])


LEARNED: dict[str, Callable[..., nn.Module]] = {
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

each_basis = pytest.mark.parametrize("basis", BASES)
each_network = pytest.mark.parametrize("basis", [*BASES, *LEARNED])

# What the compiler's parts say of each other.
compiling = pytest.mark.filterwarnings(
    "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"
)
exporting = pytest.mark.filterwarnings(
    r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning"
)


def _network(
    basis: str = "bspline", seed: int = 0, sizes: Sequence[int] = (3, 5, 2), **settings: object
) -> nn.Module:
    """A small network with grids and parameters that are not those of the start.

    Those in ``LEARNED`` have none of the settings but a dtype.
    """
    network: nn.Module
    if basis in LEARNED:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = LEARNED[basis](dtype=settings.get("dtype"))
    else:
        network = KAN(sizes, basis=basis, **settings)
        network.reset_parameters(seeded(seed))
    for place, parameter in enumerate(network.parameters()):
        generator = seeded(100 * seed + place)
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.detach().add_(0.3 * noise)
    for layer in network.modules():
        if isinstance(layer, EdgeLayer) and isinstance(layer.basis, GridBasis):
            layer.grid.grid_step.mul_(0.7)
            count = layer.basis.in_features
            layer.grid.grid_origin.add_(torch.rand(count, generator=seeded(seed)))
    return network


def _points(rows: int = 40, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    """Points inside and outside of the grids."""
    return 1.5 * torch.randn(rows, 3, generator=seeded(seed), dtype=dtype)


def _results(module: Callable[[Tensor], Tensor], network: nn.Module, x: Tensor) -> list[Tensor]:
    """The output and the gradients of a loss with respect to input and parameters."""
    x = x.detach().clone().requires_grad_()
    output = module(x)
    loss = output.square().sum()
    return [output.detach(), *torch.autograd.grad(loss, [x, *network.parameters()])]


def _assert_close(ours: list[Tensor], theirs: list[Tensor], tolerance: float = 2e-5) -> None:
    for one, other in zip(ours, theirs, strict=True):
        scale = max(1.0, float(other.abs().max())) if other.numel() else 1.0
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance * scale)


# torch.compile


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@compiling
@pytest.mark.slow
@pytest.mark.usefixtures("fresh_compiler")
def test_a_compiled_network_does_what_it_did() -> None:
    network = nn.Sequential(_network("bspline", sizes=(3, 5, 4)), _network("rbf", sizes=(4, 2)))
    compiled = torch.compile(network, fullgraph=True)
    for rows in (40, 7):
        x = _points(rows)
        _assert_close(_results(compiled, network, x), _results(network, network, x))


@compiling
@each_network
@pytest.mark.usefixtures("fresh_compiler")
def test_a_traced_network_does_what_it_did(basis: str) -> None:
    network = _network(basis, edge_scale=True, bias=False, base_activation="silu")
    traced = torch.compile(network, fullgraph=True, backend="aot_eager")
    # A kernel of each form meets no rows and one, too.
    each_form = basis in ("bspline", "functions", "grouped", "gated")
    for rows in (40, 7, 0, 1) if each_form else (40, 7):
        x = _points(rows)
        _assert_close(_results(traced, network, x), _results(network, network, x), 1e-6)
    with torch.compiler.set_stance("fail_on_recompile"):
        traced(_points(11).requires_grad_())


@compiling
@pytest.mark.usefixtures("fresh_compiler")
def test_a_traced_network_follows_its_grids() -> None:
    network = _network(dtype=torch.float64)
    traced = torch.compile(network, fullgraph=True, backend="aot_eager")
    x = _points(dtype=torch.float64)
    before = traced(x)
    change = network.refine(8, x)
    assert change > 1e-4
    torch.testing.assert_close(traced(x), network(x))
    torch.testing.assert_close(traced(x), before, rtol=0, atol=2 * change)
    network.update_grid(x)
    torch.testing.assert_close(traced(x), network(x))


@compiling
@pytest.mark.usefixtures("fresh_compiler")
def test_transforms_autocast_and_other_dtypes_can_be_traced() -> None:
    layer, network = KANLinear(3, 2), _network()
    x = _points(6)

    def cast(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return network(x)

    for function in (
        vmap(layer),
        vmap(jacrev(layer)),
        grad(lambda x: layer(x).square().sum()),
        KANLinear(3, 2, dtype=torch.float64),  # two dtypes are not mistaken for one
        cast,
    ):
        plain = function is cast or isinstance(function, KANLinear)
        traced = torch.compile(
            lambda x, function=function: function(x), fullgraph=plain, backend="aot_eager"
        )
        tolerance = {"rtol": 0.02, "atol": 0.02} if function is cast else {}
        torch.testing.assert_close(traced(x), function(x), **tolerance)


# Export


EXPORTED = [
    *((basis, "linear") for basis in BASES),
    ("bspline", "clamp"),
    ("bspline", "zero"),
    ("fourier", "periodic"),
    *((name, "linear") for name in LEARNED if name != "functions"),  # which grouped layers have
]


class Several(nn.Module):
    """A network and layers that are given the same points, as one export takes long enough."""

    def __init__(self) -> None:
        super().__init__()
        self.networks = nn.ModuleList(
            _network(name, sizes=(3, 2), extrapolation=how) for name, how in EXPORTED
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(network(x) for network in self.networks)


def _assert_exported(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for name, one, other in zip(EXPORTED, found, expected, strict=True):
        scale = max(1.0, float(other.detach().abs().max()))
        assert float((one - other).detach().abs().max()) <= 1e-5 * scale, name


@exporting
@pytest.mark.filterwarnings("ignore::DeprecationWarning:onnxscript")
def test_programs_and_onnx_models_survive_a_file_and_another_batch() -> None:
    module = Several().eval()
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    exported = torch.export.export(module, (_points(),), dynamic_shapes=dynamic)
    buffer = io.BytesIO()
    torch.export.save(exported, buffer)
    buffer.seek(0)
    again = torch.export.load(buffer).module()
    for rows in (40, 7):
        x = _points(rows, seed=rows)
        _assert_exported(again(x), module(x))

    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    program = torch.onnx.export(exported, dynamo=True, verbose=False)
    assert program is not None
    buffer = io.BytesIO()
    program.save(buffer)
    session = runtime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    (name,) = (value.name for value in session.get_inputs())
    for rows in (40, 7):
        x = _points(rows, seed=rows)
        found = [torch.from_numpy(array) for array in session.run(None, {name: x.numpy()})]
        _assert_exported(found, [output.detach() for output in module(x)])


# Transforms


def test_second_derivatives_of_a_network_without_a_kernel() -> None:
    network = _network("rational", dtype=torch.float64)
    x = _points(3, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(network, x)
    assert torch.autograd.gradgradcheck(network, x)


# Precision


@each_network
def test_bfloat16_autocast_stays_near_float32(basis: str) -> None:
    network = _network(basis)
    x = _points(200) / 3
    full = _results(network, network, x)

    def cast(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            output = network(x)
        assert output.dtype == torch.bfloat16
        return output.float()

    for one, other in zip(_results(cast, network, x), full, strict=True):
        assert one.dtype == torch.float32
        assert one.isfinite().all()
        # bfloat16 keeps eight bits; a hidden layer's rounding is steepened by the next.
        assert float((one - other).norm() / other.norm()) < 0.08


# Copies and files


@each_network
def test_copies_of_a_network_compute_the_same_and_share_nothing(basis: str) -> None:
    network = _network(basis, extrapolation="clamp", edge_scale=True)
    x = _points()
    expected = _results(network, network, x)  # whatever is kept from an evaluation is copied too
    buffer = io.BytesIO()
    torch.save(network, buffer)
    buffer.seek(0)
    for twin in (
        copy.deepcopy(network),
        pickle.loads(pickle.dumps(network)),
        torch.load(buffer, weights_only=False),
    ):
        assert all(map(torch.equal, _results(twin, twin, x), expected))
        for tensor in (*twin.parameters(), *twin.buffers()):
            tensor.detach().fill_(7)
        assert all(map(torch.equal, _results(network, network, x), expected))


@each_basis
def test_states_survive_files(basis: str, tmp_path: Path) -> None:
    network = _network(basis, edge_scale=True)
    x = _points()
    torch.save(network.state_dict(), tmp_path / "state.pt")
    safetensors.torch.save_model(network, str(tmp_path / "state.safetensors"))
    for read in (
        lambda twin: twin.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True)),
        lambda twin: safetensors.torch.load_model(twin, str(tmp_path / "state.safetensors")),
    ):
        twin = KAN([3, 5, 2], basis=basis, edge_scale=True)
        assert not torch.allclose(twin(x), network(x))
        read(twin)
        assert torch.equal(twin(x), network(x))
    own = {"numerator", "denominator"} if basis == "rational" else {"grid_origin", "grid_step"}
    names = {"weight", "scale", "bias"} | {f"basis.{name}" for name in own}
    assert set(network.layers[0].state_dict()) == names


def test_torchs_default_device_is_no_device_of_a_layer() -> None:
    x = _points()
    groups_tensor.cache_clear()
    kinds = [partial(KANLinear, basis=basis) for basis in BASES]
    kinds += [partial(KANLinear, init=init) for init in INITIALIZATIONS]
    kinds += [partial(GroupedKANLinear, groups=[0, 1, 0])]
    for kind in kinds:
        with torch.device("meta"):  # as torch.set_default_device does
            layer = kind(3, 2, device="cpu")
            output = layer(x)
            if isinstance(layer.basis, GridBasis):
                layer.refine(10)
                layer.refine(7, x)
                layer.update_grid(x)
        assert layer(x).isfinite().all()
        assert output.isfinite().all()
    with torch.device("meta"):
        full = to_kan_linear(layer)
        grouped, error = from_kan_linear(full, 1, [0, 1, 0])
    assert error.largest < 1e-5
    torch.testing.assert_close(grouped(x), layer(x), rtol=1e-3, atol=1e-4)
    names = "base_weight", "spline_weight", "grid"
    shapes = (2, 3), (2, 3, 8), (3, 12)
    state = {name: torch.ones(shape) for name, shape in zip(names, shapes, strict=True)}
    state["grid"] = torch.arange(12.0).expand(3, -1)
    with torch.device("meta"):
        network = from_efficient_kan(state, "silu")
    assert network(x).isfinite().all()


# Shapes


@each_basis
def test_any_leading_shape_and_no_rows(basis: str) -> None:
    network = _network(basis)
    x = _points(24)
    expected = torch.cat([network(row.unsqueeze(0)) for row in x]).detach()
    columns = x.view(4, 6, 3).permute(1, 0, 2)
    _assert_close([network(columns)], [expected.view(4, 6, 2).permute(1, 0, 2)], 1e-5)
    for shape in ((0,), (5, 0)):
        empty = torch.zeros(*shape, 3, requires_grad=True)
        output = network(empty)
        assert output.shape == (*shape, 2)
        gradients = torch.autograd.grad(output.sum(), [empty, *network.parameters()])
        assert gradients[0].shape == empty.shape
        assert all((gradient == 0).all() for gradient in gradients)


# Several processes


def _train_in_parts(folder: Path) -> None:
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    network = nn.parallel.DistributedDataParallel(_network(seed=rank))  # rank 0's is sent
    for _ in range(2):
        network.zero_grad()
        network(_points(40)[rank::2]).square().mean().backward()
    gradients = {name: p.grad for name, p in network.module.named_parameters()}
    torch.save(gradients, folder / f"{rank}.pt")
    # Neither leaves while the other may still need it.
    torch.distributed.barrier()
    del network
    torch.distributed.destroy_process_group()
    # Threads of gloo outlive a group that DistributedDataParallel has used, and one that lets go of
    # a tensor while the interpreter shuts down aborts the process. So it does not shut down.
    os._exit(0)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without torch.distributed")
def test_two_processes_have_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    in_two_processes(tmp_path, _train_in_parts, tmp_path)
    network = _network(seed=0)
    network(_points(40)).square().mean().backward()
    for rank in range(2):
        gradients = torch.load(tmp_path / f"{rank}.pt")
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(gradients[name], parameter.grad)


# GPUs


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("basis", "extrapolation"),
    [
        *itertools.product(("bspline", "rbf"), ("linear", "clamp", "zero")),
        *itertools.product(("chebyshev", "fourier", "rational"), ("linear", "clamp")),
    ],
)
def test_a_gpu_gives_the_same_numbers(basis: str, extrapolation: str, dtype: torch.dtype) -> None:
    network = _network(basis, extrapolation=extrapolation, dtype=dtype)
    x = _points(300, dtype=dtype)
    expected = _results(network, network, x)
    made = KAN([3, 5, 2], basis=basis, extrapolation=extrapolation, dtype=dtype, device="cuda")
    made.load_state_dict(network.state_dict())
    # TF32 keeps ten bits of a product's factors; the tests are of the layer, not of the card.
    tolerance = 1e-4 if dtype == torch.float32 else 1e-11
    ours = [tensor.cpu() for tensor in _results(made, made, x.cuda())]
    _assert_close(ours, expected, tolerance)
    made.refine(10, x.cuda())
    made.update_grid(x.cuda())
    network.refine(10, x)
    network.update_grid(x)
    torch.testing.assert_close(made(x.cuda()).cpu(), network(x), rtol=0, atol=1e-3)


# Other ways to look at a module


LAYERS: dict[str, EdgeLayer] = {
    **{name: KANLinear(3, 2, basis=name) for name in BASES},
    "functions": LearnedFunctions(3),
    "shared": LearnedFunctions(3, 2, [0, 1, 0]),
    "grouped": GroupedKANLinear(3, 2, functions=2, groups=[0, 1, 0]),
}
each_layer = pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)


@each_layer
def test_all_attributes_of_a_layer_can_be_listed(layer: nn.Module) -> None:
    members = dict(inspect.getmembers(layer))
    assert members.keys() >= {"forward", "packed", "flops"}
    has_grid = isinstance(layer.basis, GridBasis)
    names = ("grid", "grid_size", "grid_origin", "grid_step")
    for name in names if isinstance(layer, KANLinear) else names[:2]:
        assert hasattr(layer, name) == (name in members) == has_grid
    assert not hasattr(layer, "grid_sise")


@each_layer
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.bool, torch.complex64])
def test_numbers_that_are_not_real_are_refused_by_every_basis(
    layer: nn.Module, dtype: torch.dtype
) -> None:
    name = type(layer).__name__
    with refused(f"this {name} takes floating-point numbers.* not {dtype}; convert them with"):
        layer(torch.ones(4, 3, dtype=dtype))
    with pytest.raises(RuntimeError):
        nn.Linear(3, 2)(torch.ones(4, 3, dtype=dtype))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@each_layer
def test_a_layer_traced_for_torchscript_does_what_it_did(layer: nn.Module) -> None:
    traced = torch.jit.trace(layer, _points(5))
    for rows in (5, 40, 1, 0):
        torch.testing.assert_close(traced(_points(rows)), layer(_points(rows)))
    buffer = io.BytesIO()
    torch.jit.save(traced, buffer)
    buffer.seek(0)
    torch.testing.assert_close(torch.jit.load(buffer)(_points()), layer(_points()))


@each_layer
def test_a_layer_is_a_leaf_of_a_symbolic_graph(layer: nn.Module) -> None:
    module = nn.Sequential(nn.Linear(3, 3), layer, nn.Tanh())
    graph = torch.fx.symbolic_trace(module)
    calls = [(node.op, node.target) for node in graph.graph.nodes]
    assert calls[1:-1] == [("call_module", name) for name in "012"]
    graph.graph.lint()
    for twin in (graph, pickle.loads(pickle.dumps(graph)), copy.deepcopy(graph)):
        assert torch.equal(twin(_points()), module(_points()))
    with refused(f"a {type(layer).__name__} is a leaf of torch.fx .* the module that holds it"):
        torch.fx.symbolic_trace(layer)


@pytest.mark.parametrize("basis", ["bspline", "gated", "gated-silu"])
def test_a_symbolic_graph_of_a_network_is_its_layers_and_trains_them(basis: str) -> None:
    network = _network(basis)
    graph = torch.fx.symbolic_trace(network)
    called = [node.target for node in graph.graph.nodes if node.op == "call_module"]
    assert called == [*["first"] * (basis != "bspline"), "layers.0", "layers.1"]
    _assert_close(_results(graph, network, _points()), _results(network, network, _points()), 0)
