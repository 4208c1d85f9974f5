"""Six forms of the compiled CPU kernels against torch's operations; tests/all has other orders."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacrev, jvp, vmap
from torch.nn.functional import linear

from helpers import is_fused, randn
from kan_cases import DOUBLE, FORMS, SINGLE, Case, by_torch, direction_of, operands_of, over, run
from kan_diffusion.kan import BSpline, KANLinear
from kernel_suite import Derivatives, Numbers, Places, threads_of

MODES = [*FORMS, Case("bspline", "zero")]


@over([replace(case, dtype=dtype) for case in FORMS for dtype in (SINGLE, DOUBLE)])
class TestNumbers(Numbers):
    pass


@over(FORMS)
class TestDerivatives(Derivatives):
    pass


@over([case for case in FORMS if not case.is_gated])
class TestPlaces(Places):
    pass


# Under autograd, in memory and on threads


def scattered(tensor):
    """The same numbers with others between them in memory."""
    room = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1]), math.nan, dtype=tensor.dtype)
    room[..., ::2] = tensor
    return room[..., ::2]


@over(MODES)
def test_operands_need_not_be_contiguous_and_are_not_written(case):
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


@over(MODES)
def test_gradients_are_given_where_they_are_wanted(case):
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


@over(MODES)
def test_several_threads_do_what_one_does(case, monkeypatch):
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


@over(MODES)
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # by forward mode
def test_transforms_give_what_single_rows_and_members_do(case):
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


@over(MODES)
def test_a_graph_holds_for_what_it_has_seen_alone(case):
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


@over([case for case in FORMS if not case.is_gated])
def test_operands_of_two_dtypes_are_not_mistaken_for_one(case):
    module = case.build()
    x = case.points(module, 10, reach=0)
    output = module(x.float())
    assert not is_fused(output) or case.is_learned  # which casts its input
    of_functions = case.kind in ("functions", "shared")  # which keep the dtype of an input
    assert output.dtype == (SINGLE if of_functions else DOUBLE)
    found = module(x.float().double())
    torch.testing.assert_close(output.double(), found, rtol=0, atol=1e-3)


@over([case for case in FORMS if not case.is_gated])
def test_a_grid_may_be_learned(case):
    module = case.build(1)
    x = case.points(module, 6, reach=0)

    def total(step):
        return functional_call(module, {"basis.grid_step": step}, x).sum()

    assert torch.autograd.gradcheck(total, module.basis.grid_step.clone().requires_grad_())


# Stepping aside


def test_negated_numbers_that_memory_holds_with_the_other_sign_are_torchs():
    case = Case("bspline")
    module = case.build()
    x = case.points(module, 10)
    negated = torch._neg_view(x)  # as z.conj().imag is
    assert not is_fused(module(negated))
    torch.testing.assert_close(module(negated), module(-x))


class Wider(BSpline):
    """Splines on half of the grid."""

    def values(self, u):
        return super().values(u / 2)

    def slopes(self, u):
        return super().slopes(u / 2) / 2


def test_a_basis_of_ones_own_is_left_to_torch():
    layer, x = KANLinear(2, 3, basis=Wider), randn(5, 2, dtype=SINGLE)
    assert not is_fused(layer(x))
    features = layer.features(x).flatten(1)
    torch.testing.assert_close(layer(x), linear(features, layer.weight, layer.bias))
