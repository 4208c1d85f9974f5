"""What learned functions start as; test_bases.py has their values, test_kernels.py the kernel."""

import itertools
import math

import pytest
import torch
from torch.autograd import forward_ad
from torch.nn.functional import silu
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from helpers import randn, refused, seeded
from kan_cases import by_torch
from kan_diffusion.kan import LearnedFunctions
from kan_diffusion.kan.piecewise import _ADDRESSES, _summed

DOUBLE = torch.float64


class Largest(TorchDispatchMode):
    """Notes the size of the largest tensor, and rounds the factors of products as TF32 does."""

    largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.bmm, torch.ops.aten.addmm):
            args = [x.bfloat16().to(x) if isinstance(x, torch.Tensor) else x for x in args]
        output = function(*args, **(kwargs or {}))
        if isinstance(output, torch.Tensor):
            self.largest = max(self.largest, output.numel())
        return output


def test_gradients_by_turns_as_on_a_gpu_are_those_by_addition_and_take_little_memory():
    for inputs, functions, groups in ((5, 3, 2), (4, 1, 4), (3, 2, 1)):
        module = LearnedFunctions(inputs, functions, groups, grid_size=64)
        cell = torch.randint(66, (50, inputs), generator=seeded(1))
        row = module.group + groups * cell
        grad, f = randn(50, inputs, functions, seed=2), randn(50, inputs, seed=3)
        table, places = (
            torch.zeros(groups * 66, functions, 4, dtype=DOUBLE),
            (row, f, f.clamp(0, 1)),
        )
        expected = table.clone()
        for n, i, d in itertools.product(range(50), range(inputs), range(4)):
            power = f[n, i] * places[2][n, i] ** (d - 1) if d else 1.0
            expected[row[n, i], :, d] += grad[n, i] * power
        for copies in (1, 7, 64):
            torch.testing.assert_close(_summed(grad, places, table, copies), expected)
    module, x = LearnedFunctions(200, groups=8, grid_size=64), torch.zeros(500, 200)
    row = 33 + 66 * module.group.expand(500, -1)
    with Largest() as mode:
        _summed(x.unsqueeze(-1), (row, x, x), torch.zeros(8 * 66, 1, 4), _ADDRESSES // (8 * 66))
    assert mode.largest <= 4 * max(x.numel(), _ADDRESSES)  # of 66 cells, a number meets one


def _launches(function):
    """Names of the operators that compute or move numbers: no views, allocations, or numbers."""
    others = "view reshape expand permute unsqueeze select flatten unflatten slice unbind detach to"
    others += " empty new_empty empty_like empty_strided as_strided resize_ promote_types squeeze"
    others += " result_type alias _unsafe_view item transpose t scalar_tensor expand_as view_as"
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        function()
    names = [
        event.name.removeprefix("aten::")
        for event in seen.events()
        if event.name.startswith("aten::")
        and not any(child.name.startswith("aten::") for child in event.cpu_children)
    ]
    return [name for name in names if name not in others.split()]


@pytest.mark.parametrize("groups", [None, 8])
def test_an_activation_takes_few_launches_since_its_constants_are_there_already(groups):
    module = LearnedFunctions(64, groups=groups)
    x, grad = randn(9, 64, dtype=torch.float32).requires_grad_(), torch.ones(9, 64)
    with by_torch():
        module(x).backward(grad)  # warms up
        launches = _launches(lambda: module(x).backward(grad))
    assert len(launches) <= 55
    assert not {"arange", "remainder"} & set(launches)


def test_products_of_ten_bits_move_no_place_and_no_value():
    module = LearnedFunctions(7, 2, 3, grid_range=(-1.1, 2.3), initial=[silu, torch.tanh])
    x = randn(300, 7, dtype=torch.float32).requires_grad_()

    def results():
        output = module(x)
        return output.detach(), *torch.autograd.grad(output.sum(), (x, module.coefficients))

    with by_torch():
        expected = results()
        with Largest():
            assert all(map(torch.equal, results(), expected))


def _wave(function, periods):
    return lambda x: function(2 * math.pi * periods / 5 * x)  # over a grid of width 5


WAVES = [_wave(torch.cos, 1), _wave(torch.sin, 1), _wave(torch.cos, 2), _wave(torch.sin, 2)]


@pytest.mark.parametrize(
    ("start", "targets", "settings", "bound"),
    [
        *(("silu", [silu] * 2, {"order": order, "grid_size": 8}, 0.02) for order in (1, 3, 5)),
        # Splines hold the line.
        ([torch.clone] * 2, [torch.clone] * 2, {}, 1e-12),
        ("waves", [torch.clone, *WAVES], {"grid_size": 16}, 0.02),
        ([torch.tanh, torch.square], [torch.tanh, torch.square], {"grid_size": 12}, 0.01),
        ([torch.tanh_, torch.square_], [torch.tanh, torch.square], {"grid_size": 12}, 0.01),
    ],
)
def test_functions_start_as_they_are_told(start, targets, settings, bound):
    low, high = -1.0, 4.0
    settings = {"grid_range": (low, high), "noise": 0.0, "dtype": DOUBLE, **settings}
    module = LearnedFunctions(3, len(targets), 2, initial=start, **settings)
    x = torch.linspace(low, high, 501, dtype=DOUBLE)
    with forward_ad.dual_level():  # where no kernel is compiled for its order
        y = module(x.unsqueeze(1).expand(-1, 3)).detach().unflatten(1, (3, len(targets)))
    for r, target in enumerate(targets):
        wanted = target(x).unsqueeze(1)
        error = (y[:, :, r] - wanted).square().mean().sqrt()
        assert float(error) < bound * float(wanted.square().mean().sqrt())


def test_functions_that_come_one_by_one_are_there_at_every_reset():
    module = LearnedFunctions(2, functions=2, initial=iter([torch.sin, torch.tanh]))
    before = module.coefficients.detach().clone()
    module.reset_parameters(seeded(0))
    torch.testing.assert_close(module.coefficients, before, rtol=0, atol=0.2)


REFUSED = [
    ({"in_features": 0}, "in_features must be a whole number, at least 1, not 0"),
    ({"functions": 0}, "functions must be a whole number, from 1 to 11, not 0; or raise grid_size"),
    ({"functions": 1.5}, "functions must be a whole number, from 1 to 11, not 1.5"),
    ({"rate": 0.0}, "rate must be a positive number, not 0.0"),
    ({"functions": 12}, "from 1 to 11, not 12; or raise grid_size=8, which gives no more"),
    ({"groups": 0}, "groups of 3 inputs must be a whole number, from 1 to 3, not 0"),
    ({"groups": 1.5}, "groups of 3 inputs must be a whole number, from 1 to 3, not 1.5"),
    ({"initial": "sillu"}, "unknown initial functions 'sillu', did you mean 'silu'"),
    ({"initial": [silu, silu]}, "initial is 2 functions and there are 1; give one for each"),
    (
        {"initial": "waves", "functions": 9},
        "11 splines cannot start as function 9 of initial='waves': .*; raise grid_size or choose",
    ),
    ({"initial": [torch.log]}, "is not finite from -3 to 3; choose another or another grid_range"),
]


def test_unusable_settings_are_refused():
    for arguments, message in REFUSED:
        with refused(message):
            LearnedFunctions(**{"in_features": 3, **arguments})
