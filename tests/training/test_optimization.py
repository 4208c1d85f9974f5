import copy
from functools import partial

import numpy as np
import pytest
import torch
from diffusers.training_utils import EMAModel
from torch import nn

from helpers import refused, seeded
from kan_diffusion.kan.functions import LearnedFunctions
from kan_diffusion.processes import get_process
from kan_diffusion.training.checkpoint import Checkpoint
from kan_diffusion.training.config import OPTIMIZERS, TrainingConfig
from kan_diffusion.training.optimization import (
    ParameterVector,
    Plan,
    learning_rate,
    make_optimizer,
    update_average,
)
from kan_diffusion.training.run import TrainingRun


class Tied(nn.Module):
    """Odd shapes, one weight used twice, one frozen, one that no gradient reaches."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 5)
        self.second = nn.Linear(5, 5)
        self.third = nn.Linear(5, 5, bias=False)
        self.third.weight = self.second.weight
        self.frozen = nn.Parameter(torch.full((5,), 0.5), requires_grad=False)
        self.unused = nn.Parameter(torch.ones(7))
        self.scale = nn.Parameter(torch.ones(()))
        generator = seeded(0)
        for parameter in (*self.first.parameters(), *self.second.parameters()):
            parameter.detach().normal_(generator=generator)

    def forward(self, x):
        hidden = torch.tanh(self.first(x)) * self.frozen
        return self.scale * self.third(torch.tanh(self.second(hidden)))


def _loss(module, step):
    inputs = torch.randn(16, 3, generator=seeded(step)).to(next(module.parameters()))
    return 30 * module(inputs).square().mean()


@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_a_vector_is_trained_like_the_parameters_it_stands_for(max_norm):
    plain, ours = Tied(), Tied()
    trainable = [parameter for parameter in plain.parameters() if parameter.requires_grad]
    adam = torch.optim.Adam(trainable, lr=0.01)
    average = EMAModel(trainable, decay=0.9)
    vector = ParameterVector(ours)
    our_adam = torch.optim.Adam([vector.vector], lr=0.01, fused=True)
    our_average = vector.vector.detach().clone()
    for step in range(30):
        _loss(plain, step).backward()
        norm = torch.nn.utils.clip_grad_norm_(trainable, max_norm)
        assert (norm > 2 * max_norm) == (max_norm == 0.5)
        adam.step()
        adam.zero_grad()
        average.step(trainable)

        _loss(ours, step).backward()
        vector.collect_gradients()
        vector.clip_gradient(max_norm)
        our_adam.step()
        update_average(our_average, vector.vector.detach(), 0.9, step)
    for theirs, mine in zip(plain.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    for theirs, mine in zip(average.shadow_params, vector.split(our_average), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    assert (ours.frozen == 0.5).all()
    assert (ours.unused == 1).all()
    # A parameter that no gradient reaches any more keeps none of what it had.
    ours.first.weight.sum().backward()
    vector.collect_gradients()
    assert float(vector.vector.grad.abs().sum()) == 15
    vector.collect_gradients()
    assert not vector.vector.grad.any()
    # What fills the gaps between parameters is still zero.
    used = torch.zeros_like(vector.vector)
    for part in vector.split(used):
        part.fill_(1)
    assert not vector.vector[used == 0].any()


def test_parameters_are_the_same_objects_and_end_on_their_own():
    module = Tied()
    before = list(module.parameters())
    values = [parameter.detach().clone() for parameter in before]
    vector = ParameterVector(module)
    with torch.no_grad():
        vector.vector.mul_(2)
    twin = copy.deepcopy(module)  # a copy made meanwhile is independent
    vector.release()
    with torch.no_grad():
        vector.vector.fill_(float("nan"))
    for original, now, copied, value in zip(
        before, module.parameters(), twin.parameters(), values, strict=True
    ):
        assert now is original
        assert torch.equal(now, 2 * value if now.requires_grad else value)
        assert torch.equal(now, copied)
        assert now.grad is None
    assert module.third.weight is module.second.weight


def test_lent_values_come_back_whatever_happens_to_them():
    module = Tied()
    vector = ParameterVector(module)
    own = vector.vector.detach().clone()
    average = torch.arange(float(len(own)))
    trainable = [p for p in module.parameters() if p.requires_grad]
    with pytest.raises(ZeroDivisionError), vector.lent(average):  # noqa: PT012
        for parameter, lent in zip(trainable, vector.split(average), strict=True):
            assert torch.equal(parameter, lent)
            parameter.detach().fill_(float("nan"))
        raise ZeroDivisionError
    assert torch.equal(vector.vector, own)
    assert (average == torch.arange(float(len(own)))).all()
    _loss(module, 0).backward()
    vector.collect_gradients()
    assert vector.vector.grad.isfinite().all()
    assert vector.vector.grad.any()


def test_replaced_parameters_do_not_pass_unnoticed():
    module = Tied()
    vector = ParameterVector(module)
    own = vector.vector.detach()
    with refused(r"Tied were replaced .*copy\.deepcopy"), vector.lent(own):
        module.first.weight = nn.Parameter(torch.zeros(5, 3))


MIXED = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double())


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Linear(2, 2).requires_grad_(False), "Linear has no trainable parameters"),
        (nn.ReLU(), "ReLU has no trainable parameters"),
        (MIXED, "torch.float32 and torch.float64, and training needs one"),
    ],
)
def test_what_is_no_vector_is_refused(module, message):
    with refused(message):
        ParameterVector(module)


def test_learning_rates_warm_up_decay_and_leave_no_step_out():
    def rates_of(plan, **settings):
        config = TrainingConfig(**{"learning_rate": 0.1, "warmup_steps": 20, **settings})
        return np.array([learning_rate(config, plan, step) for step in range(plan.steps)])

    plan = Plan(total=100, steps=100)
    rates = rates_of(plan)
    assert rates[[0, 10, 20, 60]] == pytest.approx([0, 0.05, 0.1, 0.05])
    assert 0 < rates[99] < 1e-3
    assert set(rates_of(plan, schedule="constant")[20:]) == {0.1}
    rates = rates_of(Plan(total=40, steps=40), warmup_steps=100)
    assert rates.argmax() == 10  # the warm-up is cut to a quarter
    assert rates.max() == pytest.approx(0.1)
    assert (rates[11:] < rates[10:-1]).all()
    # What is left of a plan is spread over the steps that are left, and no rate jumps.
    for steps in (70, 160):
        corrected = plan.corrected(60, steps).corrected(61, steps)
        assert rates_of(corrected)[60] == pytest.approx(rates_of(plan)[60], abs=0.002)
        assert rates_of(corrected)[steps - 1] < 0.002
        assert corrected.position(steps) == pytest.approx(100)


@pytest.mark.parametrize("rate", [0.25, 3.0])
def test_learned_functions_have_a_learning_rate_of_their_own(rate):
    def made():
        with torch.random.fork_rng():
            torch.manual_seed(3)
            functions = LearnedFunctions(4, 2, rate=rate)
            # In float64: gradients near zero differ less between machines than Adam makes of it.
            return nn.Sequential(nn.Linear(3, 4), functions, nn.Linear(8, 1)).double()

    ours, theirs = made(), made()
    own = [theirs[1].coefficients]
    others = [p for p in theirs.parameters() if p is not own[0]]
    adam = torch.optim.Adam([{"params": others}, {"params": own, "lr": 0.01 * rate}], lr=0.01)
    weights = ParameterVector(ours)
    our_adam = make_optimizer("adam", weights, 0.01)
    for step in range(20):
        _loss(theirs, step).backward()
        adam.step()
        adam.zero_grad()
        _loss(ours, step).backward()
        weights.collect_gradients()
        with weights.at_rates():
            our_adam.step()
    weights.release()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def _beside(library, name, shapes, steps):
    """Trains parameters with ours and with an optimiser of a library, one by one.

    Yields:
        After each step lists of ours, of theirs and of where both began.
    """
    starts = [torch.randn(shape, generator=seeded(8)).double() for shape in shapes]
    scales = [torch.rand(shape, generator=seeded(9)).double() + 0.5 for shape in shapes]
    ours = nn.ParameterList([nn.Parameter(start.clone()) for start in starts])
    theirs = [nn.Parameter(start.clone()) for start in starts]
    vector, optimizer = ParameterVector(ours), library(theirs)
    made = make_optimizer(name, vector, 0.01)
    for step in range(steps):
        for parameters in (ours, theirs):
            noise = seeded(step)
            for parameter, scale in zip(parameters, scales, strict=True):
                drawn = torch.randn(parameter.shape, generator=noise)
                ((scale * parameter).square() + drawn * parameter).sum().backward()
        vector.collect_gradients()
        made.step()
        optimizer.step()
        optimizer.zero_grad()
        yield list(ours), theirs, starts


def test_soap_of_matrices_of_one_shape_together_is_that_of_pytorch_optimizer_one_by_one():
    from pytorch_optimizer import SOAP

    # Square matrices: in a null space the basis, and so the way, would be a matter of rounding.
    shapes, library = ((4, 4), (7,), (4, 4), (3, 3), ()), partial(SOAP, lr=0.01, weight_decay=0.0)
    for step, together in enumerate(_beside(library, "soap", shapes, 45)):  # the bases turn often
        for own, other, start in zip(*together, strict=True):
            # Theirs decomposes in float32.
            torch.testing.assert_close(own, other, rtol=0, atol=1e-3 if step > 10 else 1e-12)
            assert step == 0 or not torch.equal(own.detach(), start)


def _mapped_by_soap():
    """The weight of a linear map after 25 steps."""
    module = nn.Linear(3, 4)
    for parameter in module.parameters():
        parameter.detach().normal_(generator=seeded(2))
    weights = ParameterVector(module)
    made = make_optimizer("soap", weights, 0.01)
    for step in range(25):
        _loss(module, step).backward()
        weights.collect_gradients()
        made.step()
    return module.weight


@pytest.mark.parametrize("silently", [False, True])
def test_soap_begins_where_single_precision_finds_no_eigenvectors(monkeypatch, silently):
    expected, eigh = _mapped_by_soap(), torch.linalg.eigh

    def fails(matrices):
        if matrices.dtype == torch.float32 and matrices.shape[-1] > 1:
            if silently:
                return eigh(matrices)[0], torch.full_like(matrices, torch.nan)
            raise torch.linalg.LinAlgError("the algorithm failed to converge")
        return eigh(matrices)

    monkeypatch.setattr(torch.linalg, "eigh", fails)
    torch.testing.assert_close(_mapped_by_soap(), expected, rtol=0, atol=1e-4)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has it from 2.9 on")
def test_muon_of_matrices_of_one_shape_together_is_that_of_torch_one_by_one():
    given = {"lr": 0.01, "weight_decay": 0.0, "adjust_lr_fn": "match_rms_adamw"}
    library = partial(torch.optim.Muon, **given)
    *_, together = _beside(library, "muon", ((3, 8), (8, 3), (3, 8), (5, 5)), 5)
    for own, other, start in zip(*together, strict=True):
        assert (own - other).norm() < 0.05 * (other - start).norm()  # both iterate in bfloat16


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_state_survives_its_file_without_matrices_or_with_more_dimensions(name, tmp_path):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.cube = nn.Parameter(torch.randn(3, 2, 5, generator=seeded(0)))
            self.scale = nn.Parameter(torch.ones(()))

    def move(run, numbers):
        for number in numbers:
            wanted, odd = torch.randn(3, 2, 5, generator=seeded(number)), run.denoiser
            run.update((odd.cube - wanted).square().sum() + (odd.scale - wanted.sum()).square())

    config, cpu = TrainingConfig(optimizer=name), torch.device("cpu")
    first, second = (TrainingRun(Odd(), get_process("cosine"), config, cpu) for _ in range(2))
    move(first, range(12))
    Checkpoint(tmp_path / "state", "a", ()).save(first)
    assert Checkpoint(tmp_path / "state", "a", ()).load(second)
    for run in (first, second):
        move(run, range(12, 24))
    assert torch.equal(first.weights.vector, second.weights.vector)
    assert torch.equal(first.averaged, second.averaged)
    assert not torch.equal(first.denoiser.cube, Odd().cube)
