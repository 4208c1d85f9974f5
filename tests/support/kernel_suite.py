"""What holds for every compiled CPU kernel, in `make test` over six forms, in tests/all over all.

A case is a module with a kernel in one configuration. The other path is the same module without
kernels.
"""

import copy
import itertools
import math
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacrev, jvp, vmap

from helpers import assert_as_exact, randn, scattered, seeded
from kan_diffusion.kan import GatedLinear, KANLinear, LearnedFunctions
from kan_diffusion.kan.kernels import fused, runtime

SINGLE, DOUBLE = torch.float32, torch.float64
by_torch = forward_ad.dual_level
"""Where kernels step aside, and nothing else changes."""
# What torch says when it first differentiates forwards.
forward_mode = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")


class Rows(nn.Module):
    """A gated layer as a function of one tensor: its input, a carried state and a code together."""

    grid_size = 4

    def __init__(self, layer, reach):
        super().__init__()
        self.layer = layer
        self.widths = [(1 + layer.gated) * layer.in_features, reach, layer.rank or 0]
        self.in_features = sum(self.widths)

    def forward(self, x):
        rows, carried, code = x.reshape(-1, self.in_features).split(self.widths, dim=-1)
        carried = carried if self.widths[1] else None
        found = self.layer(rows, carried, None if self.layer.rank is None else code)
        width = self.layer.out_features + self.layer.in_features
        return torch.cat(found, dim=-1).view(*x.shape[:-1], width)


@dataclass(frozen=True)
class Case:
    """A module with a kernel; each that differs in more than its mode costs seconds to compile."""

    # A basis; "functions" of each input, or some that groups share: "shared", "grouped"; or a gated
    # layer of learned functions or SiLU: "gated", "gated-silu".
    kind: str
    mode: str = "linear"
    dtype: torch.dtype = DOUBLE
    order: int = 3
    base: bool = True

    def __str__(self):
        words = [self.kind, self.mode, str(self.dtype).removeprefix("torch.float"), str(self.order)]
        return "-".join(words + ["silu"] * (self.base and self.is_full))

    @property
    def is_learned(self):
        """Whether the module learns its functions, and casts its input."""
        return self.kind in ("functions", "shared", "grouped")

    @property
    def is_gated(self):
        return self.kind.startswith("gated")

    @property
    def is_full(self):
        """Whether each edge has a function of its own."""
        return not (self.is_learned or self.is_gated)

    def build(self, inputs=3, outputs=5, size=4, bias=True, seed=0):
        """The module with normal parameters and a grid of its own for each input or group.

        Groups are by turns, and where functions are shared there are ``outputs`` of an input. The
        seed decides what gates, modulates and reaches the units of a gated layer.
        """
        generator = seeded(seed)
        shared = {"grid_size": size, "order": self.order, "dtype": self.dtype}
        known = size + self.order
        groups = min(3, inputs)
        own = {"extrapolation": self.mode, "initial": [torch.zeros_like]}
        if self.kind in ("functions", "gated"):
            module = LearnedFunctions(
                inputs, groups=groups if self.is_gated else None, **own, **shared
            )
        elif self.kind == "shared":
            own["initial"] *= min(outputs, known)
            module = LearnedFunctions(inputs, min(outputs, known), groups, **own, **shared)
        elif self.kind == "grouped":
            own["initial"] *= min(5, known)
            several = {"functions": min(5, known), "groups": groups}
            module = KANLinear(inputs, outputs, bias, **several, **own, **shared)
        elif self.is_full:
            own = {"extrapolation": self.mode, "base_activation": "silu" if self.base else None}
            module = KANLinear(inputs, outputs, bias, basis=self.kind, **own, **shared)
        grid = None if self.kind == "gated-silu" else module.basis
        if self.is_gated:
            own = {"functions": None if grid is None else module, "dtype": self.dtype}
            # Without gates and a code, SiLU and a product are torch's own.
            ranks = 2, 1 if grid is None else None, 0, 3
            own |= {"gated": seed % 2 == 0, "rank": ranks[seed % 4]}
            reach = (inputs + 1, inputs, 0, max(1, inputs - 3))[seed // 4 % 4]
            module = Rows(GatedLinear(inputs, outputs, bias, **own), reach)
        for parameter in module.parameters():
            parameter.detach().normal_(generator=generator)
        if grid is not None:
            grid.grid_origin.uniform_(-2, 1, generator=generator)
            grid.grid_step.uniform_(0.1, 1, generator=generator)
        return module

    def points(self, module, rows, seed=1, reach=7):
        """Points inside and up to ``reach`` intervals beyond each grid, none near a knot.

        Those of a gated layer are normal, and their states fall where they do.
        """
        shape = rows, module.in_features
        if self.is_gated:
            return randn(*shape, seed=seed, dtype=self.dtype)
        cells = torch.randint(-reach, module.grid_size + reach, shape, generator=seeded(seed))
        u = cells + 0.02 + 0.96 * torch.rand(shape, generator=seeded(seed + 1), dtype=DOUBLE)
        return self.places(module, u)

    def places(self, module, u):
        """The inputs at places u of the grids."""
        grid_of = module.group.tolist() if self.is_learned else list(range(module.in_features))
        grid = module.basis
        return (grid.grid_origin[grid_of] + grid.grid_step[grid_of] * u).to(self.dtype)


FORMS = [
    Case(kind) for kind in ("bspline", "functions", "shared", "grouped", "gated", "gated-silu")
]
"""One case for each form of a kernel."""


def over(cases):
    """Runs a test or a class of tests over cases."""
    return pytest.mark.parametrize("case", cases, ids=str)


def is_fused(output):
    """Whether a compiled kernel computed it, or what it is put together of."""
    nodes, seen = [output.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if type(node).__name__ == "_FusedBackward":
            return True
        if node not in seen:
            seen.add(node)
            nodes += [before for before, _ in getattr(node, "next_functions", ()) if before]
    return False


def operands_of(module, x):
    return [x, *module.parameters()]


def direction_of(output, seed=2):
    return randn(*output.shape, seed=seed).to(output.dtype)


def run(module, x, direction=None, fused=True):
    """Output and gradients of the kernel, or of torch's own operations; of either if None."""
    x = x.detach().requires_grad_()
    if fused is not False:
        output = module(x)
    else:
        with by_torch():
            output = module(x)
    assert fused is None or is_fused(output) == fused
    direction = direction_of(output) if direction is None else direction
    return [output.detach(), *torch.autograd.grad(output, operands_of(module, x), direction)]


def compare(module, x):
    """Values and gradients are torch's in double precision, as exactly as torch's are or nearly."""
    ours, theirs = run(module, x), run(module, x, fused=False)
    exact = theirs
    if x.dtype == SINGLE:
        exact = run(copy.deepcopy(module).double(), x.double(), fused=False)
    tolerance = 50 * (8 + module.grid_size) * torch.finfo(x.dtype).eps
    assert all(one.is_contiguous() for one in ours)
    assert_as_exact(ours, theirs, exact, tolerance)


def reached(case, module, here):
    """Which outputs, inputs and numbers of each parameter can depend on marked inputs."""
    rows = here.any(1, keepdim=True)
    found = [rows.expand(-1, module(torch.zeros(1, here.shape[1], dtype=case.dtype)).shape[1])]
    if case.is_gated:
        own = [torch.ones_like(one, dtype=torch.bool) for one in module.parameters()]
        return [*found, rows.expand_as(here), *own]
    columns = here.any(0)
    marked = {"bias": torch.zeros(found[0].shape[1], dtype=torch.bool)}
    if case.is_learned:
        groups = torch.zeros(module.basis.in_features, dtype=torch.bool)
        groups[module.group[columns]] = True
        marked["coefficients"] = groups.unsqueeze(1).expand_as(module.coefficients)
    if hasattr(module, "weight"):
        edges = module.weight.view(module.out_features, module.in_features, -1)
        marked["weight"] = columns.view(1, -1, 1).expand_as(edges).flatten(1)
    else:
        found = [here.repeat_interleave(module.functions, dim=1)]
    return [*found, here, *(marked[name] for name, _ in module.named_parameters())]


def without_kernels(monkeypatch):
    """Turns kernels off, as ``KAN_KERNELS=0`` does; torch's own operations keep inputs alone."""
    monkeypatch.setattr(fused, "_ENABLED", False)


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
        chosen = (inputs, outputs, [1, 2, 3, 5, 8, 40], [True, False], range(1000))
        names = ("inputs", "outputs", "size", "bias", "seed")
        own = {
            name: data.draw(st.sampled_from(of), name)
            for name, of in zip(names, chosen, strict=True)
        }
        module = case.build(**own)
        rows = data.draw(st.sampled_from([0, 1, 7, 16, 63, 300]), "rows")
        compare(module, case.points(module, rows, own["seed"]))


class Behaviour:
    """What a kernel is under autograd, in memory and on threads."""

    def test_first_and_second_derivatives(self, case):
        module = case.build(2, 2, 3)
        names = [name for name, _ in module.named_parameters()]
        x = case.points(module, 2, reach=2)

        # The module only has these parameters while it is called.
        def function(x, *parameters):
            return functional_call(module, dict(zip(names, parameters, strict=True)), x)

        leaves = [t.detach().clone().requires_grad_() for t in operands_of(module, x)]
        for parameter in module.parameters():
            parameter.detach().fill_(7)
        assert is_fused(function(*leaves))
        assert torch.autograd.gradcheck(function, leaves)
        assert torch.autograd.gradgradcheck(function, leaves)
        with by_torch():
            assert not is_fused(function(*leaves))
            assert torch.autograd.gradcheck(function, leaves)

    def test_what_is_not_finite_stays_where_it_is(self, case):
        module = case.build(15 if case.is_gated else 35, 11)
        x = case.points(module, 40)
        clean, last = run(module, x), x.shape[1] - 1
        places = (0, 0), (17, last - 1), (39, last // 2), (20, 2 * last // 3)
        for value, (row, column) in itertools.product((math.nan, math.inf, -math.inf), places):
            poisoned = x.clone()
            poisoned[row, column] = value
            here = torch.zeros_like(x, dtype=torch.bool)
            here[row, column] = True
            found, marked = run(module, poisoned), reached(case, module, here)
            # What does not depend on it is what it was, to the bit.
            for one, other, marks in zip(found, clean, marked, strict=True):
                assert torch.equal(one[~marks], other[~marks])
            output, gradient, first, *_ = found
            by_torch = run(module, poisoned, fused=False)
            theirs = by_torch[0][marked[0]]
            if math.isnan(value):
                assert torch.equal(output[marked[0]].isnan(), theirs.isnan())
                assert output[marked[0]].isnan().any()
                if case.is_gated and case.order > 1:
                    for one, other in zip(found[2:], by_torch[2:], strict=True):
                        if one.ndim == 3 and one.shape[0] == 1:  # coefficients: of one cell alone
                            one, other = one.sum(-1), other.sum(-1)
                        assert torch.equal(one.isnan(), other.isnan())
                elif not case.is_gated:
                    # The slope of order 1 does not depend on the place.
                    assert gradient[here].isnan() == (case.is_full or case.order > 1)
                    assert first.isnan().any()
            elif case.is_learned or not case.base or case.kind == "bspline":
                finite = theirs.isfinite()
                assert torch.equal(output[marked[0]].isfinite(), finite)
                torch.testing.assert_close(
                    output[marked[0]][finite], theirs[finite], rtol=1e-4, atol=1e-4
                )

    def test_a_nan_in_the_gradient_stays_in_its_row_and_output(self, case):
        module = case.build(20, 20)
        x = case.points(module, 40).requires_grad_()
        output = module(x)
        direction = torch.ones_like(output)
        direction[8, 3] = math.nan
        found = torch.autograd.grad(output, operands_of(module, x), direction)
        assert torch.equal(found[0].isnan().any(1), torch.arange(40) == 8)
        names = [name.rpartition(".")[2] for name, _ in module.named_parameters()]
        parameters = dict(zip(names, found[1:], strict=True))
        if "weight" in parameters:
            expected = torch.arange(20) == 3
            assert torch.equal(parameters["weight"].isnan().any(1), expected)
            assert torch.equal(parameters["bias"].isnan(), expected)
        else:
            expected = torch.zeros(module.functions, module.groups, dtype=torch.bool)
            expected[3 % module.functions, module.group[3 // module.functions]] = True
            assert torch.equal(parameters["coefficients"].isnan().any(2), expected)

    def test_operands_need_not_be_contiguous_and_are_not_written(self, case):
        module = case.build(9, 9)
        x = case.points(module, 30)
        direction = direction_of(module(x), seed=3)
        expected = run(module, x, direction)

        def check(x, direction):
            tensors = [x, direction, *module.parameters(), *module.buffers()]
            before = [tensor.detach().clone() for tensor in tensors]
            for one, other in zip(run(module, x, direction), expected, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
            assert all(map(torch.equal, tensors, before))

        check(x.T.contiguous().T, direction)
        check(scattered(x), direction.T.contiguous().T)
        check(x, scattered(direction))
        for holder in module.modules():
            for name, buffer in list(holder.named_buffers(recurse=False)):
                if buffer.is_floating_point():
                    setattr(holder, name, scattered(buffer))
            for name, parameter in list(holder.named_parameters(recurse=False)):
                setattr(holder, name, nn.Parameter(scattered(parameter.detach())))
                assert not getattr(holder, name).is_contiguous()
        check(x, direction)
        # A gradient that is one number everywhere, as sum() makes it.
        leaf = x[:1].expand(30, -1).requires_grad_()
        (ones,) = torch.autograd.grad(module(leaf).sum(), leaf)
        explicit = torch.ones_like(direction)
        torch.testing.assert_close(ones, torch.autograd.grad(module(leaf), leaf, explicit)[0])

    def test_gradients_are_given_where_they_are_wanted(self, case):
        module = case.build()
        x = case.points(module, 10)
        operands = operands_of(module, x)
        each = range(len(operands))
        alone = [tuple(place == own for place in each) for own in each]
        others = [tuple(place != own for place in each) for own in each]
        for needed in [*alone, *others, (False,) * len(operands)]:
            for tensor, need in zip(operands, needed, strict=True):
                tensor.requires_grad_(need)
            output = module(x)
            with by_torch():
                expected = module(x)
            assert output.requires_grad == any(needed)
            wanted = list(itertools.compress(operands, needed))
            # Gradients of a state that needs none are in test_gated.py.
            for create_graph in (False, True)[: 2 - case.is_gated] if wanted else ():
                ours = torch.autograd.grad(
                    output.square().sum(), wanted, retain_graph=True, create_graph=create_graph
                )
                theirs = torch.autograd.grad(expected.square().sum(), wanted, retain_graph=True)
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
            exact = 0 if case.kind in ("rbf", "grouped") else 2
            assert all(map(torch.equal, several[:exact], alone[:exact]))
            tolerance = 1e-5 if case.dtype == SINGLE else 1e-13
            for one, other in zip(several[exact:], alone[exact:], strict=True):
                scale = float(other.abs().max()) + 1 if other.numel() else 1.0
                torch.testing.assert_close(one, other, rtol=0, atol=tolerance * scale)

    def test_half_precision_modules_work_in_their_precision(self, case):
        module = case.build()
        for name, buffer in module.named_buffers():  # half precision tells the grid exactly
            if "grid" in name:
                buffer.fill_(-1 if name.endswith("origin") else 0.5)
        for parameter in module.parameters():
            parameter.detach().div_(4)
        for dtype in (torch.float16, torch.bfloat16):
            half = copy.deepcopy(module).to(dtype)
            x = randn(40, module.in_features, seed=1, dtype=SINGLE).to(dtype)
            leaf = x.clone().requires_grad_()
            output = half(leaf)
            assert not is_fused(output)
            assert output.dtype == dtype
            output.sum().backward()
            assert leaf.grad.isfinite().all()
            expected = half.double()(x.double())
            scale = float(expected.detach().abs().max()) + 1
            tolerance = 20 * torch.finfo(dtype).eps * scale
            torch.testing.assert_close(output.double(), expected, rtol=0, atol=tolerance)

    def test_jacobians_and_gradients_of_single_rows_and_of_ensembles(self, case):
        module = case.build(3, 3)
        x = case.points(module, 6)
        torch.testing.assert_close(vmap(module)(x), module(x))
        single = torch.stack([torch.autograd.functional.jacobian(module, row) for row in x])
        torch.testing.assert_close(vmap(jacrev(module))(x), single)
        vectorized = torch.autograd.functional.jacobian(module, x, vectorize=True)
        for n, m in itertools.product(range(6), repeat=2):
            expected = single[n] if n == m else torch.zeros_like(single[n])
            torch.testing.assert_close(vectorized[n, :, m], expected)

        def loss(parameters, row):
            return functional_call(module, parameters, row).square().sum()

        parameters = {name: value.detach() for name, value in module.named_parameters()}
        gradients = vmap(grad(loss), in_dims=(None, 0))(parameters, x)
        for n, row in enumerate(x):
            expected = torch.autograd.grad(module(row).square().sum(), list(module.parameters()))
            for name, value in zip(parameters, expected, strict=True):
                torch.testing.assert_close(gradients[name][n], value)
        members = [case.build(3, 3) for _ in range(4)]
        for seed, member in enumerate(members):
            for parameter in member.parameters():
                parameter.detach().normal_(generator=seeded(seed))
        stacked, _ = torch.func.stack_module_state(members)
        outputs = vmap(lambda p: functional_call(module, p, x))(
            {name: stacked[name] for name in parameters}
        )
        torch.testing.assert_close(outputs, torch.stack([member(x) for member in members]))

    @forward_mode
    def test_forward_mode_and_second_derivatives_through_transforms(self, case):
        module = case.build(3, 3)
        x = case.points(module, 6)
        tangent = randn(*x.shape, dtype=x.dtype)
        expected = torch.einsum("noi,ni->no", vmap(jacrev(module))(x), tangent)
        torch.testing.assert_close(jvp(module, (x,), (tangent,))[1], expected)
        with forward_ad.dual_level():
            output = forward_ad.unpack_dual(module(forward_ad.make_dual(x, tangent)))
            torch.testing.assert_close(output.tangent, expected)
        weights = torch.ones_like(module(x))  # a transform of something else
        gradient = grad(lambda weights: (module(x) * weights).sum())(weights)
        torch.testing.assert_close(gradient, module(x))
        found = vmap(hessian(lambda row: module(row).square().sum()))(x)
        for row, one in zip(x, found, strict=True):
            own = torch.autograd.functional.hessian(lambda row: module(row).square().sum(), row)
            torch.testing.assert_close(one, own)

    def test_a_transform_of_the_backward_pass_alone(self, case):
        module = case.build(3, 3)
        x = case.points(module, 6).requires_grad_()
        output = module(x)
        assert is_fused(output)
        directions = randn(4, *output.shape)
        operands = operands_of(module, x)
        expected = [torch.autograd.grad(output, operands, d, retain_graph=True) for d in directions]
        batched = vmap(lambda d: torch.autograd.grad(output, operands, d, retain_graph=True))
        for found in (
            batched(directions),
            torch.autograd.grad(output, operands, directions, is_grads_batched=True),
        ):
            for one, gradients in zip(found, zip(*expected, strict=True), strict=True):
                torch.testing.assert_close(one, torch.stack(gradients))

    def test_a_graph_is_kept_where_it_is_wanted_and_holds_for_what_it_has_seen(self, case):
        module = case.build(3, 3)
        x = case.points(module, 6)
        output = module(x)
        parameter = next(module.parameters())
        once = torch.autograd.grad(output.sum(), parameter, retain_graph=True)
        assert torch.equal(once[0], torch.autograd.grad(output.sum(), parameter)[0])
        with torch.no_grad():
            assert not module(x).requires_grad
        with torch.inference_mode():
            assert torch.equal(module(x), output.detach())
        x.requires_grad_()
        for operand in {**dict(module.named_parameters()), **module.state_dict()}.values():
            output = module(x)
            operand.detach().add_(0.3)
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                torch.autograd.grad(output.sum(), x)


class ByTorch:
    """Modules without kernels, as on a GPU: the same function, with inputs alone kept for later."""

    @drawn
    @given(data=st.data())
    def test_it_computes_what_the_kernel_does(self, case, data):
        seed, rows = data.draw(st.integers(0, 999)), data.draw(st.sampled_from([0, 1, 40]))
        module = case.build(5, 7, size=data.draw(st.sampled_from([1, 2, 8])), seed=seed)
        x = case.points(module, rows, seed)
        expected = run(module, x)
        with pytest.MonkeyPatch.context() as patch:
            without_kernels(patch)
            found = run(module, x, fused=None)
        for one, other in zip(found, expected, strict=True):
            scale = max(1.0, float(other.abs().max())) if other.numel() else 1.0
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12 * scale)

    def test_first_and_second_derivatives_without_a_kernel(self, case, monkeypatch):
        without_kernels(monkeypatch)
        module = case.build(2, 2, 3)
        names = [name for name, _ in module.named_parameters()]

        def function(x, *parameters):
            return functional_call(module, dict(zip(names, parameters, strict=True)), x)

        x = case.points(module, 2, reach=2)
        leaves = [t.detach().clone().requires_grad_() for t in operands_of(module, x)]
        assert torch.autograd.gradcheck(function, leaves)
        assert torch.autograd.gradgradcheck(function, leaves)


class Places:
    """What a kernel does with the places of inputs on grids, which a gated layer makes itself."""

    def test_knots_ends_and_zeros_are_where_they_are(self, case):
        module = case.build(20, 7, size=8)
        # Steps and origins whose multiples are exact: an end is where both say it is.
        origin, step = module.basis.grid_origin, module.basis.grid_step
        origin.copy_(torch.arange(len(origin)) / 4 - 3)
        step.fill_(0.25)
        knots = torch.arange(-8.0, 8 + 9).unsqueeze(1).expand(-1, 20)
        if case.kind == "bspline" and case.mode == "clamp":  # the slope is of either side
            knots = knots[(knots[:, 0] != 0) & (knots[:, 0] != 8)]
        x = torch.cat([case.places(module, knots), torch.zeros(2, 20), torch.full((1, 20), -0.0)])
        compare(module, x.to(case.dtype))

    def test_huge_inputs_extrapolate(self, case):
        dtype = SINGLE if case.order == 3 else DOUBLE  # those of both precisions
        module = replace(case, dtype=dtype).build(4, 9, bias=False)
        far = [1e6, -1e6, 88.0, -88.0, -104.0, 1e-45, -0.0]
        far += [1e30, -1e30] if case.mode in ("clamp", "zero") else [1e20, -1e20]
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
        assert output.dtype == DOUBLE
        torch.testing.assert_close(output, module(x.float().double()), rtol=0, atol=1e-3)

    def test_a_grid_may_be_learned(self, case):
        module = (case if case.is_learned else replace(case, mode="clamp")).build(1)
        x = case.points(module, 6, reach=0)

        def total(step):
            return functional_call(module, {"basis.grid_step": step}, x).sum()

        assert torch.autograd.gradcheck(total, module.basis.grid_step.clone().requires_grad_())
