"""Networks of all layers that are compiled, exported, distributed and put on a GPU."""

import io
import itertools
import os

import pytest
import torch
from torch import nn
from torch.func import grad, jacrev, vmap

from kan_diffusion.kan import KAN, KANLinear
from kan_networks import BASES, LAYERS, LEARNED, assert_near, network_of, points, results
from two_processes import in_two_processes

# What the compiler's parts say of each other.
compiling = pytest.mark.filterwarnings(
    "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"
)


@pytest.fixture
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@compiling
@pytest.mark.usefixtures("fresh_compiler")
def test_a_compiled_network_does_what_it_did():
    network = nn.Sequential(network_of("bspline", sizes=(3, 5, 4)), network_of("rbf", sizes=(4, 2)))
    compiled = torch.compile(network, fullgraph=True)
    for rows in (40, 7):
        x = points(rows)
        assert_near(results(compiled, network, x), results(network, network, x))


@compiling
@pytest.mark.parametrize("name", [*BASES, *LEARNED])
@pytest.mark.usefixtures("fresh_compiler")
def test_a_traced_network_does_what_it_did(name):
    network = network_of(name, edge_scale=True, bias=False, base_activation="silu")
    traced = torch.compile(network, fullgraph=True, backend="aot_eager")
    # A kernel of each form meets no rows and one, too.
    each_form = name in ("bspline", "functions", "grouped", "gated")
    for rows in (40, 7, 0, 1) if each_form else (40, 7):
        x = points(rows)
        assert_near(results(traced, network, x), results(network, network, x), 1e-6)
    with torch.compiler.set_stance("fail_on_recompile"):
        traced(points(11).requires_grad_())


@compiling
@pytest.mark.usefixtures("fresh_compiler")
def test_transforms_autocast_and_other_dtypes_can_be_traced():
    layer, network = KANLinear(3, 2), network_of()
    x = points(6)

    def cast(x):
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
    *((name, "linear") for name in LEARNED if name != "functions"),  # which grouped layers have
]


class Several(nn.Module):
    """A network and layers that are given the same points, as one export takes long enough."""

    def __init__(self):
        super().__init__()
        self.networks = nn.ModuleList(
            network_of(name, sizes=(3, 2), extrapolation=how) for name, how in EXPORTED
        )

    def forward(self, x):
        return tuple(network(x) for network in self.networks)


@pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:onnxscript")
def test_programs_and_onnx_models_survive_a_file_and_another_batch():
    module = Several().eval()
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    exported = torch.export.export(module, (points(),), dynamic_shapes=dynamic)
    buffer = io.BytesIO()
    torch.export.save(exported, buffer)
    buffer.seek(0)
    again = torch.export.load(buffer).module()
    for rows in (40, 7):
        x = points(rows, seed=rows)
        assert_near(again(x), module(x), 1e-5)

    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    program = torch.onnx.export(exported, dynamo=True, verbose=False)
    buffer = io.BytesIO()
    program.save(buffer)
    session = runtime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    (name,) = (value.name for value in session.get_inputs())
    for rows in (40, 7):
        x = points(rows, seed=rows)
        found = [torch.from_numpy(array) for array in session.run(None, {name: x.numpy()})]
        assert_near(found, [output.detach() for output in module(x)], 1e-5)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_traced_for_torchscript_does_what_it_did(name):
    layer = LAYERS[name]()
    traced = torch.jit.trace(layer, points(5))
    for rows in (5, 40, 1, 0):
        torch.testing.assert_close(traced(points(rows)), layer(points(rows)))
    buffer = io.BytesIO()
    torch.jit.save(traced, buffer)
    buffer.seek(0)
    torch.testing.assert_close(torch.jit.load(buffer)(points()), layer(points()))


# Several processes and GPUs


def _train_in_parts(folder):
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    network = nn.parallel.DistributedDataParallel(network_of(seed=rank))  # rank 0's is sent
    for _ in range(2):
        network.zero_grad()
        network(points(40)[rank::2]).square().mean().backward()
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
def test_two_processes_have_the_gradient_of_the_whole_batch(tmp_path):
    in_two_processes(tmp_path, _train_in_parts, tmp_path)
    network = network_of(seed=0)
    network(points(40)).square().mean().backward()
    for rank in range(2):
        gradients = torch.load(tmp_path / f"{rank}.pt")
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(gradients[name], parameter.grad)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("basis", "extrapolation"),
    [
        *itertools.product(("bspline", "rbf"), ("linear", "clamp", "zero")),
        *(("chebyshev", "linear"), ("chebyshev", "clamp")),
    ],
)
def test_a_gpu_gives_the_same_numbers(basis, extrapolation, dtype):
    network = network_of(basis, extrapolation=extrapolation, dtype=dtype)
    x = points(300, dtype=dtype)
    expected = results(network, network, x)
    made = KAN([3, 5, 2], basis=basis, extrapolation=extrapolation, dtype=dtype, device="cuda")
    made.load_state_dict(network.state_dict())
    # TF32 keeps ten bits of a product's factors; the tests are of the layer, not of the card.
    tolerance = 1e-4 if dtype == torch.float32 else 1e-11
    assert_near([tensor.cpu() for tensor in results(made, made, x.cuda())], expected, tolerance)
