"""KAN layers under what people do with modules; tests/all compiles and exports them."""

import copy
import io
from dataclasses import replace
from functools import partial

import pytest
import safetensors.torch
import torch

from helpers import assert_same_state, randn, refused
from kan_cases import KINDS, SINGLE, Case, by_torch, operands_of, over, run
from kan_diffusion.kan import KANLinear, SharedKANLinear, moved, refined
from kan_diffusion.kan.initialization import INITIALIZATIONS


@over([replace(case, dtype=SINGLE) for case in KINDS])
def test_bfloat16_autocast_stays_near_float32(case):
    module = case.build(8, 5)
    for parameter in module.parameters():  # about as large as those of a network
        parameter.detach().mul_(0.3)
    x = case.points(module, 200, reach=0).requires_grad_()

    def results(output):
        loss = output.float().square().sum()
        return [output.detach(), *torch.autograd.grad(loss, operands_of(module, x))]

    full = results(module(x))
    with torch.autocast("cpu", torch.bfloat16):
        output = module(x)
    # Functions alone keep their precision, and with it the state of a gated layer.
    assert (output.dtype == torch.bfloat16) == (case.is_full or case.kind == "grouped")
    for place, (one, other) in enumerate(zip(results(output), full, strict=True)):
        assert one.dtype == torch.float32 or place == 0
        # bfloat16 keeps eight bits.
        assert float((one - other).norm() / other.norm()) < 0.08


EXPANDING = [case for case in KINDS if case.is_full or case.kind in ("functions", "shared")]
EXPANDING += [Case("bspline", "zero")]


@over([replace(case, dtype=SINGLE) for case in EXPANDING])
def test_autocast_keeps_the_functions_and_the_place_on_the_grid(case):
    layer = case.build()
    expand, x = getattr(layer, "features", layer), case.points(layer, 200)
    coarse = x.bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found, narrow = expand(x), expand(coarse)
    assert torch.equal(found, expand(x))
    assert torch.equal(narrow, expand(coarse.float()).to(narrow.dtype))
    (gradient,) = torch.autograd.grad(narrow.sum(), coarse)
    assert gradient.dtype == torch.bfloat16


@pytest.mark.filterwarnings("ignore:`torch.jit.trace")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@over(KINDS)
def test_a_traced_layer_is_torchs_and_does_what_it_did(case):
    module = case.build()
    traced = torch.jit.trace(module, case.points(module, 40))
    x = case.points(module, 7, seed=3)
    torch.testing.assert_close(traced(x), module(x), rtol=1e-10, atol=1e-10)


@over([*KINDS, Case("bspline", "zero")])
def test_a_layer_that_was_built_without_values_and_loaded_has_its_constants(case):
    module = case.build()
    with torch.device("meta"):
        other = replace(case).build()
    other.to_empty(device="cpu")
    other.load_state_dict(module.state_dict())
    x = case.points(module, 20)
    with by_torch():
        torch.testing.assert_close(other(x), module(x))


@over(KINDS)
def test_half_precision_modules_work_in_their_precision(case):
    module = case.build()
    for name, buffer in module.named_buffers():  # half precision tells the grid exactly
        if "grid" in name:
            buffer.fill_(-1 if name.endswith("origin") else 0.5)
    for parameter in module.parameters():
        parameter.detach().div_(4)
    for dtype in (torch.float16, torch.bfloat16):
        half = copy.deepcopy(module).to(dtype)
        x = randn(40, module.in_features, seed=1).to(dtype)
        output, *gradients = run(half, x, fused=None)
        assert output.dtype == dtype
        assert all(gradient.isfinite().all() for gradient in gradients)
        expected = half.double()(x.double()).detach()
        tolerance = 20 * torch.finfo(dtype).eps * (float(expected.abs().max()) + 1)
        torch.testing.assert_close(output.double(), expected, rtol=0, atol=tolerance)


@over(KINDS)
def test_copies_and_files_of_a_layer_compute_the_same_and_share_nothing(case, tmp_path):
    module = case.build()
    x = case.points(module, 40)
    expected = run(module, x, fused=None)
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    safetensors.torch.save_model(module, str(tmp_path / "state.safetensors"))
    for twin in (copy.deepcopy(module), torch.load(buffer, weights_only=False)):
        assert all(map(torch.equal, run(twin, x, fused=None), expected))
        for tensor in (*twin.parameters(), *twin.buffers()):
            tensor.detach().fill_(7)
        assert all(map(torch.equal, run(module, x, fused=None), expected))
    twin = case.build(seed=16)  # of the same kind, with other numbers
    safetensors.torch.load_model(twin, str(tmp_path / "state.safetensors"))
    assert_same_state(twin, module)
    assert torch.equal(twin(x), module(x))


@over(KINDS)
def test_any_leading_shape_and_no_rows(case):
    module = case.build()
    x = case.points(module, 24)
    expected = torch.cat([module(row.unsqueeze(0)) for row in x])
    torch.testing.assert_close(module(x), expected)
    columns = x.view(4, 6, -1).permute(1, 0, 2)
    of_columns = expected.view(4, 6, -1).permute(1, 0, 2)
    torch.testing.assert_close(module(columns), of_columns)
    for shape in ((0,), (5, 0)):
        empty = torch.zeros(*shape, module.in_features, dtype=x.dtype)
        output, gradient, *others = run(module, empty, fused=None)
        assert output.shape == (*shape, expected.shape[1])
        assert gradient.shape == empty.shape
        assert all((other == 0).all() for other in others)


@over([case for case in KINDS if not case.is_gated])
def test_numbers_that_are_not_real_and_other_widths_are_refused(case):
    layer = case.build()
    kind = type(layer).__name__
    for dtype in (torch.int64, torch.bool, torch.complex64):
        with refused(f"this {kind} takes floating-point numbers.* not {dtype}; convert them"):
            layer(torch.ones(4, 3, dtype=dtype))
    rows = [torch.zeros(2, 3), torch.zeros(4, 3)]
    for input in ([[1.0, 2.0, 3.0]], torch.nested.as_nested_tensor(rows, layout=torch.jagged)):
        with refused(
            f"this {kind} takes a plain tensor .*; make one with torch.tensor or torch.cat"
        ):
            layer(input)
    for shape in ((4, 6), (0, 2), ()):
        with refused(rf"this {kind} takes inputs with shape \(\*, 3\)"):
            layer(torch.zeros(shape))


def test_torchs_default_device_is_no_device_of_a_layer():
    x = randn(40, 3, dtype=SINGLE)
    kinds = [{"init": init} for init in INITIALIZATIONS]
    made = [partial(KANLinear, **own) for own in (*kinds, {"basis": "rbf"}, {"basis": "chebyshev"})]
    for kind in (*made, partial(SharedKANLinear, functions=1, groups=2)):
        with torch.device("meta"):  # as torch.set_default_device does
            layer = kind(3, 2, device="cpu")
            output = layer(x)
            layer = moved(refined(refined(layer, 10), 7), x)
        assert layer(x).isfinite().all()
        assert output.isfinite().all()
