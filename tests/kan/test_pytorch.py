"""KAN layers under what people do with modules; tests/all compiles and exports them."""

import copy
import io
import pickle
from functools import partial

import pytest
import safetensors.torch
import torch

from helpers import refused
from kan_diffusion.kan import KANLinear, moved, refined
from kan_diffusion.kan.convert import from_efficient_kan
from kan_diffusion.kan.initialization import INITIALIZATIONS
from kan_networks import BASES, LAYERS, LEARNED, assert_near, network_of, points, results

each_network = pytest.mark.parametrize("name", [*BASES, *LEARNED])
each_layer = pytest.mark.parametrize("name", LAYERS)


@each_network
def test_bfloat16_autocast_stays_near_float32(name):
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


@each_network
def test_copies_and_files_of_a_network_compute_the_same_and_share_nothing(name, tmp_path):
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


@each_network
def test_any_leading_shape_and_no_rows(name):
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


@each_layer
def test_numbers_that_are_not_real_and_other_widths_are_refused(name):
    layer = LAYERS[name]()
    kind = type(layer).__name__
    for dtype in (torch.int64, torch.bool, torch.complex64):
        with refused(f"this {kind} takes floating-point numbers.* not {dtype}; convert them"):
            layer(torch.ones(4, 3, dtype=dtype))
    for shape in ((4, 6), (0, 2), ()):
        with refused(rf"this {kind} takes inputs with shape \(\*, 3\)"):
            layer(torch.zeros(shape))


@each_layer
def test_a_layer_on_the_meta_device_has_no_numbers(name):
    layer = LAYERS[name](device="meta")
    assert layer(torch.empty(5, 3, device="meta")).is_meta
    assert all(tensor.is_meta for tensor in (*layer.parameters(), *layer.buffers()))


def test_torchs_default_device_is_no_device_of_a_layer():
    x = points()
    kinds = [partial(KANLinear, basis=basis) for basis in BASES]
    kinds += [partial(KANLinear, init=init) for init in INITIALIZATIONS]
    kinds += [partial(KANLinear, functions=1, groups=2)]
    for kind in kinds:
        with torch.device("meta"):  # as torch.set_default_device does
            layer = kind(3, 2, device="cpu")
            output = layer(x)
            layer = moved(refined(refined(layer, 10), 7), x)
        assert layer(x).isfinite().all()
        assert output.isfinite().all()
    names = "base_weight", "spline_weight", "grid"
    shapes = (2, 3), (2, 3, 8), (3, 12)
    state = {
        f"layers.0.{name}": torch.ones(shape) for name, shape in zip(names, shapes, strict=True)
    }
    state["layers.0.grid"] = torch.arange(12.0).expand(3, -1)
    with torch.device("meta"):
        network = from_efficient_kan(state)
    assert network(x).isfinite().all()
