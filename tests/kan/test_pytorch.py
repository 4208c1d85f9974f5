"""KAN layers under what people do with modules; tests/all compiles and exports them."""

import copy
import io
from functools import partial

import pytest
import safetensors.torch
import torch

from helpers import assert_same_state, refused
from kan_diffusion.kan import KANLinear, moved, refined
from kan_diffusion.kan.initialization import INITIALIZATIONS
from kan_networks import BASES, LAYERS, LEARNED, assert_near, network_of, points, results

each_network = pytest.mark.parametrize("name", [*BASES, *LEARNED])
each_layer = pytest.mark.parametrize("name", LAYERS)


@each_network
def test_bfloat16_autocast_stays_near_float32(name):
    network = network_of(name)
    x = points(200) / 3

    def cast(x):
        with torch.autocast("cpu", torch.bfloat16):
            output = network(x)
        assert output.dtype == torch.bfloat16
        return output.float()

    pairs = zip(results(cast, network, x), results(network, network, x), strict=True)
    for one, other in pairs:
        assert one.dtype == torch.float32
        # bfloat16 keeps eight bits; a hidden layer's rounding is steepened by the next.
        assert float((one - other).norm() / other.norm()) < 0.08


@each_network
def test_copies_and_files_of_a_network_compute_the_same_and_share_nothing(name, tmp_path):
    network = network_of(name, extrapolation="clamp", edge_scale=True)
    x = points()
    expected = results(network, network, x)
    buffer = io.BytesIO()
    torch.save(network, buffer)
    buffer.seek(0)
    safetensors.torch.save_model(network, str(tmp_path / "state.safetensors"))
    for twin in (copy.deepcopy(network), torch.load(buffer, weights_only=False)):
        assert all(map(torch.equal, results(twin, twin, x), expected))
        for tensor in (*twin.parameters(), *twin.buffers()):
            tensor.detach().fill_(7)
        assert all(map(torch.equal, results(network, network, x), expected))
    twin = network_of(name, seed=5, extrapolation="clamp", edge_scale=True)
    safetensors.torch.load_model(twin, str(tmp_path / "state.safetensors"))
    assert_same_state(twin, network)
    assert torch.equal(twin(x), network(x))


@each_network
def test_any_leading_shape_and_no_rows(name):
    network = network_of(name)
    x = points(24)
    expected = torch.cat([network(row.unsqueeze(0)) for row in x])
    assert_near([network(x)], [expected], 1e-5)
    shapes = [(0,)]
    if not name.startswith("gated"):  # which take rows
        shapes.append((5, 0))
        columns = x.view(4, 6, 3).permute(1, 0, 2)
        assert_near([network(columns)], [expected.view(4, 6, 2).permute(1, 0, 2)], 1e-5)
    for shape in shapes:
        output, gradient, *others = results(network, network, torch.zeros(*shape, 3))
        assert (output.shape, gradient.shape) == ((*shape, 2), (*shape, 3))
        assert all((other == 0).all() for other in others)


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


@pytest.mark.parametrize(
    "kind",
    [
        *(partial(KANLinear, basis=basis) for basis in BASES),
        *(partial(KANLinear, init=init) for init in INITIALIZATIONS),
        partial(KANLinear, functions=1, groups=2),
    ],
)
def test_torchs_default_device_is_no_device_of_a_layer(kind):
    x = points()
    with torch.device("meta"):  # as torch.set_default_device does
        layer = kind(3, 2, device="cpu")
        output = layer(x)
        layer = moved(refined(refined(layer, 10), 7), x)
    assert layer(x).isfinite().all()
    assert output.isfinite().all()
