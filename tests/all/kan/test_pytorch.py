"""Layers of every kind that are compiled, exported and put on a GPU."""

import copy
import io
from dataclasses import replace

import pytest
import torch
from torch import nn

from helpers import randn
from kan_cases import DOUBLE, FORMS, KINDS, SINGLE, Case, over, run
from kan_diffusion.kan import KANLinear
from kan_diffusion.kan.bases import BASES


def _assert_near(ours, theirs, tolerance):
    """Equal up to a share of the largest number."""
    for one, other in zip(ours, theirs, strict=True):
        scale = max(1.0, float(other.detach().abs().max())) if other.numel() else 1.0
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance * scale)


@pytest.fixture
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def compiling(test):
    """Lets a test compile, and ignores what the compiler's parts say of each other."""
    of_scripts = "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"
    # The compiler itself instantiates any autograd function that it traces.
    of_functions = "ignore:.*should not be instantiated:DeprecationWarning"
    for ignored in (of_scripts, of_functions):
        test = pytest.mark.filterwarnings(ignored)(test)
    return pytest.mark.usefixtures("fresh_compiler")(test)


@compiling
def test_a_compiled_network_does_what_it_did():
    first, second = Case("bspline"), Case("rbf")
    network = nn.Sequential(first.build(3, 5), second.build(5, 2))
    compiled = torch.compile(network, fullgraph=True)
    for rows in (40, 7):
        x = first.points(network[0], rows, reach=0)
        expected = run(network, x, fused=None)
        _assert_near(run(compiled, x, fused=None), expected, 1e-10)


@compiling
@over(KINDS)
def test_a_traced_layer_does_what_it_did(case):
    module = case.build()
    traced = torch.compile(module, fullgraph=True, backend="aot_eager")
    # A kernel of each form meets no rows and one, too.
    for rows in (40, 7, 0, 1) if case in FORMS else (40, 7):
        x = case.points(module, rows)
        _assert_near(run(traced, x, fused=None), run(module, x, fused=None), 1e-12)
    with torch.compiler.set_stance("fail_on_recompile"):
        traced(case.points(module, 11).requires_grad_())


@compiling
def test_transforms_and_autocast_can_be_traced():
    layer, x = KANLinear(3, 2), randn(6, 3, dtype=SINGLE)
    jacobians = torch.func.vmap(torch.func.jacrev(layer))
    traced = torch.compile(lambda x: jacobians(x), backend="aot_eager")
    torch.testing.assert_close(traced(x), jacobians(x))
    traced = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(traced(x), layer(x), rtol=0.02, atol=0.02)


class Several(nn.Module):
    """Layers that are given the same points, as one export takes long enough."""

    def __init__(self):
        super().__init__()
        cases = [*KINDS, Case("bspline", "zero")]
        self.layers = nn.ModuleList(replace(case, dtype=SINGLE).build(2, 2) for case in cases)
        self.in_features = max(layer.in_features for layer in self.layers)

    def forward(self, x):
        return tuple(layer(x[:, : layer.in_features]) for layer in self.layers)


@pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:onnxscript")
def test_programs_and_onnx_models_survive_a_file_and_another_batch():
    module = Several().eval()
    batches = [torch.linspace(-3, 3, rows * module.in_features) for rows in (40, 7)]
    batches = [batch.view(-1, module.in_features) for batch in batches]
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    exported = torch.export.export(module, (batches[0],), dynamic_shapes=dynamic)
    buffer = io.BytesIO()
    torch.export.save(exported, buffer)
    buffer.seek(0)
    again = torch.export.load(buffer).module()
    for x in batches:
        _assert_near(again(x), module(x), 1e-5)

    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    program = torch.onnx.export(exported, dynamo=True, verbose=False)
    buffer = io.BytesIO()
    program.save(buffer)
    session = runtime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    (name,) = (value.name for value in session.get_inputs())
    for x in batches:
        found = [torch.from_numpy(array) for array in session.run(None, {name: x.numpy()})]
        _assert_near(found, [output.detach() for output in module(x)], 1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@over([replace(case, dtype=dtype) for case in KINDS for dtype in (SINGLE, DOUBLE)])
def test_a_gpu_gives_the_same_numbers(case):
    # TF32 keeps ten bits of a product's factors; the tests are of the layer, not of the card.
    tolerance = 1e-4 if case.dtype == SINGLE else 1e-11
    for mode in BASES[case.kind].extrapolations if case.is_full else ("linear",):
        module = replace(case, mode=mode).build()
        x = case.points(module, 300)
        expected = run(module, x, fused=None)
        found = run(copy.deepcopy(module).cuda(), x.cuda(), fused=None)
        _assert_near([tensor.cpu() for tensor in found], expected, tolerance)
