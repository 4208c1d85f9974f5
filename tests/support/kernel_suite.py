"""What holds for a compiled CPU kernel of any order: six forms in `make test`, others in tests/all.

The other path is the same module without kernels, as on a GPU.
"""

import copy
import itertools
import math
from contextlib import nullcontext
from dataclasses import replace

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.func import functional_call

from helpers import is_fused
from kan_cases import DOUBLE, SINGLE, by_torch, operands_of, run
from kan_diffusion.kan.kernels import runtime


def compare(module, x):
    """Values and gradients are torch's in double precision, as exactly as torch's are or nearly."""
    ours, theirs = run(module, x), run(module, x, fused=False)
    exact = theirs
    if x.dtype == SINGLE:
        exact = run(copy.deepcopy(module).double(), x.double(), fused=False)
    intervals = getattr(getattr(module, "basis", None), "num_intervals", 4)
    tolerance = 50 * (8 + intervals) * torch.finfo(x.dtype).eps
    for one, other, truth in zip(ours, theirs, exact, strict=True):
        assert one.is_contiguous()
        if one.numel():
            scale = max(1.0, float(truth.abs().max()))
            allowed = tolerance * scale + 3 * float((other - truth).abs().max())
            torch.testing.assert_close(one.to(truth.dtype), truth, rtol=0, atol=allowed)


def require_derivatives(case, has_kernel):
    """First and second derivatives of a module are those of differences."""
    module = case.build(2, 2, 3)
    names = [name for name, _ in module.named_parameters()]
    x = case.points(module, 2, reach=2)

    # The module only has these parameters while it is called.
    def function(x, *parameters):
        return functional_call(module, dict(zip(names, parameters, strict=True)), x)

    leaves = [t.detach().clone().requires_grad_() for t in operands_of(module, x)]
    for parameter in module.parameters():
        parameter.detach().fill_(7)
    assert is_fused(function(*leaves)) == has_kernel
    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)


def threads_of(monkeypatch):
    """Sets the number of threads, which are used however little there is to do."""
    monkeypatch.setattr(runtime, "PARALLEL_WORK", 1)
    return lambda count: monkeypatch.setattr(torch, "get_num_threads", lambda: count)


# A method with examples is called on an object for each case, and has no state.
drawn = settings(suppress_health_check=[HealthCheck.differing_executors])


class Numbers:
    """The numbers of a kernel, in each of its precisions."""

    @drawn
    @given(data=st.data())
    def test_a_kernel_computes_what_torch_does(self, case, data):
        inputs, outputs = [1, 2, 3, 5, 9, 33, 40], [1, 2, 7, 8, 11, 16, 31, 32, 33, 45, 70]
        if case.is_gated:  # each length of vectors is compiled
            inputs = [16, 19, 40] if case.dtype == SINGLE else [1, 5, 8, 15]
        seed = data.draw(st.integers(0, 999), "seed")
        module = case.build(
            data.draw(st.sampled_from(inputs), "inputs"),
            data.draw(st.sampled_from(outputs), "outputs"),
            data.draw(st.sampled_from([1, 2, 3, 5, 8, 40]), "size"),
            data.draw(st.booleans(), "bias"),
            seed,
        )
        rows = data.draw(st.sampled_from([0, 1, 7, 16, 63, 300]), "rows")
        compare(module, case.points(module, rows, seed))


class Derivatives:
    """Derivatives of a kernel and of what stands in for it, and numbers that are not finite."""

    def test_first_and_second_derivatives_with_and_without_a_kernel(self, case):
        for has_kernel in (True, False):
            with nullcontext() if has_kernel else by_torch():
                require_derivatives(case, has_kernel)

    def test_what_is_not_finite_stays_where_it_is(self, case):
        module = case.build(15 if case.is_gated else 35, 11)
        x = case.points(module, 40)
        clean, last = run(module, x), x.shape[1] - 1
        places = (0, 0), (17, last - 1), (39, last // 2), (20, 2 * last // 3)
        for value, (row, column) in itertools.product((math.nan, math.inf, -math.inf), places):
            poisoned = x.clone()
            poisoned[row, column] = value
            output, gradient, of_parameter, *_ = run(module, poisoned)
            # Other rows are what they were, to the bit.
            others = torch.arange(40) != row
            assert torch.equal(output[others], clean[0][others])
            assert torch.equal(gradient[others], clean[1][others])
            ours, theirs = output[row], run(module, poisoned, fused=False)[0][row]
            if math.isnan(value):
                assert torch.equal(ours.isnan(), theirs.isnan())
                assert ours.isnan().any()
                if not case.is_gated:
                    # The slope of order 1 does not depend on the place.
                    hit = (torch.arange(last + 1) == column) & (case.is_full or case.order > 1)
                    assert torch.equal(gradient[row].isnan(), hit)
                    assert of_parameter.isnan().any()
            elif not case.is_gated:
                finite = theirs.isfinite()
                assert torch.equal(ours.isfinite(), finite)
                torch.testing.assert_close(ours[finite], theirs[finite], rtol=1e-4, atol=1e-4)


class Places:
    """What a kernel does with the places of inputs on grids, which a gated layer makes itself."""

    def test_knots_ends_and_zeros_are_where_they_are(self, case):
        module = case.build(20, 7, size=8)
        # Steps and origins whose multiples are exact: an end is where both say it is.
        origin, step = module.basis.grid
        origin.copy_(torch.arange(len(origin)) / 4 - 3)
        step.fill_(0.25)
        knots = torch.arange(-8.0, 8 + 9).unsqueeze(1).expand(-1, 20)
        x = torch.cat([case.places(module, knots), torch.zeros(2, 20), torch.full((1, 20), -0.0)])
        compare(module, x.to(case.dtype))

    def test_huge_inputs_extrapolate(self, case):
        dtype = SINGLE if case.order == 3 else DOUBLE  # those of both precisions
        module = replace(case, dtype=dtype).build(4, 9, bias=False)
        far = [1e6, -1e6, 88.0, -88.0, -104.0, 1e-45, -0.0]
        far += [1e30, -1e30] if case.mode == "zero" else [1e20, -1e20]
        x = torch.tensor(far, dtype=dtype).unsqueeze(1).expand(-1, 4).contiguous()
        ours, theirs = run(module, x), run(module, x, fused=False)
        for place, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            assert torch.equal(one.isfinite(), other.isfinite())
            by_row = place < 2  # output and gradient of x
            scale = other.abs().amax(1, keepdim=True) if by_row else other.abs().max()
            scale = scale.clamp(min=1)
            torch.testing.assert_close(
                one / scale, other / scale, rtol=0, atol=2e-5, equal_nan=True
            )
