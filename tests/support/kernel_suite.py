"""What holds for every compiled CPU kernel, in `make test` over six forms, in tests/all over all.

The other path is the same module without kernels, as on a GPU.
"""

import copy
import itertools
import math
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacrev, jvp, vmap

from helpers import is_fused, randn
from kan_cases import DOUBLE, SINGLE, by_torch, direction_of, operands_of, run
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


def scattered(tensor):
    """The same numbers with others between them in memory."""
    room = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1]), math.nan, dtype=tensor.dtype)
    room[..., ::2] = tensor
    return room[..., ::2]


def threads_of(monkeypatch):
    """Sets the number of threads, which are used however little there is to do."""
    monkeypatch.setattr(runtime, "PARALLEL_WORK", 1)
    return lambda count: monkeypatch.setattr(torch, "get_num_threads", lambda: count)


# A method with examples is called on an object for each case, and has no state.
drawn = settings(suppress_health_check=[HealthCheck.differing_executors])
# What torch says when it first differentiates forwards.
forward_mode = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")


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


class Behaviour:
    """What a kernel is under autograd, in memory and on threads."""

    def test_first_and_second_derivatives_with_and_without_a_kernel(self, case):
        module = case.build(2, 2, 3)
        names = [name for name, _ in module.named_parameters()]
        x = case.points(module, 2, reach=2)

        # The module only has these parameters while it is called.
        def function(x, *parameters):
            return functional_call(module, dict(zip(names, parameters, strict=True)), x)

        leaves = [t.detach().clone().requires_grad_() for t in operands_of(module, x)]
        for parameter in module.parameters():
            parameter.detach().fill_(7)
        for has_kernel in (True, False):
            with nullcontext() if has_kernel else by_torch():
                assert is_fused(function(*leaves)) == has_kernel
                assert torch.autograd.gradcheck(function, leaves)
                assert torch.autograd.gradgradcheck(function, leaves)

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

    def test_operands_need_not_be_contiguous_and_are_not_written(self, case):
        module = case.build(9, 9)
        twin, x = copy.deepcopy(module), case.points(module, 30)
        direction = direction_of(module(x), seed=3)

        def check(x, direction):
            expected = run(twin, x.contiguous(), direction.contiguous())
            tensors = [x, direction, *module.parameters(), *module.buffers()]
            before = [tensor.detach().clone() for tensor in tensors]
            for one, other in zip(run(module, x, direction), expected, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
            assert all(map(torch.equal, tensors, before))

        check(x.T.contiguous().T, direction)
        check(scattered(x), direction.T.contiguous().T)
        check(x[:1].expand(30, -1), scattered(direction))
        check(x, direction[:1, :1].expand_as(direction))  # one number in memory, as of sum()
        for holder in module.modules():
            for name, buffer in list(holder.named_buffers(recurse=False)):
                if buffer.is_floating_point():
                    setattr(holder, name, scattered(buffer))
            for name, parameter in list(holder.named_parameters(recurse=False)):
                setattr(holder, name, nn.Parameter(scattered(parameter.detach())))
        check(x, direction)

    def test_gradients_are_given_where_they_are_wanted(self, case):
        module = case.build()
        x = case.points(module, 10)
        operands = operands_of(module, x)
        each = set(range(len(operands)))
        for wanted in [*({own} for own in each), *(each - {own} for own in each), set()]:
            for place, tensor in enumerate(operands):
                tensor.requires_grad_(place in wanted)
            output = module(x)
            with by_torch():
                expected = module(x)
            assert output.requires_grad == bool(wanted)
            leaves = [operands[place] for place in sorted(wanted)]
            # Gradients of a state that needs none are in test_gated.py.
            for create_graph in (False, True)[: 2 - case.is_gated] if wanted else ():
                ours = torch.autograd.grad(
                    output.square().sum(), leaves, retain_graph=True, create_graph=create_graph
                )
                theirs = torch.autograd.grad(expected.square().sum(), leaves, retain_graph=True)
                torch.testing.assert_close(ours, theirs)

    def test_several_threads_do_what_one_does(self, case, monkeypatch):
        set_threads = threads_of(monkeypatch)
        module = case.build(9, 11)
        for rows in (0, 2, 301):
            x = case.points(module, rows)
            set_threads(3)
            several, again = run(module, x), run(module, x)
            set_threads(1)
            alone = run(module, x)
            assert all(map(torch.equal, several, again))
            # Only sums over the batch may be rounded otherwise; a GEMM sums as it likes.
            exact = 0 if case.kind == "grouped" else 2
            assert all(map(torch.equal, several[:exact], alone[:exact]))
            tolerance = 1e-5 if case.dtype == SINGLE else 1e-13
            for one, other in zip(several[exact:], alone[exact:], strict=True):
                scale = float(other.abs().max()) + 1 if other.numel() else 1.0
                torch.testing.assert_close(one, other, rtol=0, atol=tolerance * scale)

    @forward_mode
    def test_transforms_give_what_single_rows_and_members_do(self, case):
        module = case.build(3, 3)
        x = case.points(module, 6)
        parameters = {name: value.detach() for name, value in module.named_parameters()}
        jacobian, hessian_of = torch.autograd.functional.jacobian, torch.autograd.functional.hessian

        def loss(row, own):
            return functional_call(module, own, row).square().sum()

        torch.testing.assert_close(vmap(module)(x), module(x))
        single = torch.stack([jacobian(module, row) for row in x])
        torch.testing.assert_close(vmap(jacrev(module))(x), single)
        own_row = torch.eye(6, dtype=x.dtype)
        of_all = torch.einsum("nm,noi->nomi", own_row, single)
        torch.testing.assert_close(jacobian(module, x, vectorize=True), of_all)
        hessians = vmap(hessian(loss), in_dims=(0, None))(x, parameters)
        expected = torch.stack([hessian_of(lambda row: loss(row, parameters), row) for row in x])
        torch.testing.assert_close(hessians, expected)
        gradients = vmap(grad(loss, argnums=1), in_dims=(0, None))(x, parameters)
        for n, row in enumerate(x):
            expected = torch.autograd.grad(module(row).square().sum(), list(module.parameters()))
            for name, value in zip(parameters, expected, strict=True):
                torch.testing.assert_close(gradients[name][n], value)
        tangent = randn(*x.shape, dtype=x.dtype)
        expected = torch.einsum("noi,ni->no", single, tangent)
        torch.testing.assert_close(jvp(module, (x,), (tangent,))[1], expected)
        with forward_ad.dual_level():
            output = forward_ad.unpack_dual(module(forward_ad.make_dual(x, tangent)))
            torch.testing.assert_close(output.tangent, expected)
        # An ensemble is one call of its members.
        members = {name: torch.stack([value, -2 * value]) for name, value in parameters.items()}
        outputs = vmap(lambda own: functional_call(module, own, x))(members)
        for n, found in enumerate(outputs):
            own = {name: values[n] for name, values in members.items()}
            torch.testing.assert_close(found, functional_call(module, own, x))

    def test_a_graph_holds_for_what_it_has_seen_alone(self, case):
        module = case.build(3, 3)
        x = case.points(module, 6).requires_grad_()
        with torch.inference_mode():
            output = module(x)
        assert torch.equal(output, module(x).detach())
        for operand in {**dict(module.named_parameters()), **module.state_dict()}.values():
            output = module(x)
            operand.detach().add_(0.3)
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                torch.autograd.grad(output.sum(), x)


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

    def test_operands_of_two_dtypes_are_not_mistaken_for_one(self, case):
        module = case.build()
        x = case.points(module, 10, reach=0)
        output = module(x.float())
        assert not is_fused(output) or case.is_learned  # which casts its input
        of_functions = case.kind in ("functions", "shared")  # which keep the dtype of an input
        assert output.dtype == (SINGLE if of_functions else DOUBLE)
        found = module(x.float().double())
        torch.testing.assert_close(output.double(), found, rtol=0, atol=1e-3)

    def test_a_grid_may_be_learned(self, case):
        module = case.build(1)
        x = case.points(module, 6, reach=0)

        def total(step):
            return functional_call(module, {"basis.grid_step": step}, x).sum()

        assert torch.autograd.gradcheck(total, module.basis.grid_step.clone().requires_grad_())
