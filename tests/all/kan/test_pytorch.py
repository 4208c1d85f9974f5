"""Networks of all layers that are compiled, exported and put on a GPU."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.func import jacrev, vmap

from kan_diffusion.kan import KANLinear, bases
from kan_networks import BASES, LAYERS, LEARNED, assert_near, network_of, points, results


@pytest.fixture
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def compiling(test):
    """Lets a test compile, and ignores what the compiler's parts say of each other."""
    ignored = "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"
    return pytest.mark.usefixtures("fresh_compiler")(pytest.mark.filterwarnings(ignored)(test))


@compiling
def test_a_compiled_network_does_what_it_did():
    network = nn.Sequential(network_of("bspline", sizes=(3, 5, 4)), network_of("rbf", sizes=(4, 2)))
    compiled = torch.compile(network, fullgraph=True)
    for rows in (40, 7):
        x = points(rows)
        assert_near(results(compiled, network, x), results(network, network, x))


@compiling
@pytest.mark.parametrize("name", [*BASES, *LEARNED])
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
def test_transforms_autocast_and_other_dtypes_can_be_traced():
    layer, network = KANLinear(3, 2), network_of()
    x = points(6)

    def cast(x):
        with torch.autocast("cpu", torch.bfloat16):
            return network(x)

    double = KANLinear(3, 2, dtype=torch.float64)  # two dtypes are not mistaken for one
    jacobians = vmap(jacrev(layer))
    for function, fullgraph, tolerance in (
        (lambda x: jacobians(x), False, None),
        (double, True, None),
        (cast, True, 0.02),
    ):
        traced = torch.compile(function, fullgraph=fullgraph, backend="aot_eager")
        torch.testing.assert_close(traced(x), function(x), rtol=tolerance, atol=tolerance)


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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", [*BASES, *LEARNED])
def test_a_gpu_gives_the_same_numbers(name, dtype):
    for how in bases.BASES[name].extrapolations if name in BASES else ("linear",):
        network = network_of(name, extrapolation=how, dtype=dtype)
        x = points(300, dtype=dtype)
        expected = results(network, network, x)
        made = copy.deepcopy(network).cuda()
        # TF32 keeps ten bits of a product's factors; the tests are of the layer, not of the card.
        tolerance = 1e-4 if dtype == torch.float32 else 1e-11
        found = results(made, made, x.cuda())
        assert_near([tensor.cpu() for tensor in found], expected, tolerance)
