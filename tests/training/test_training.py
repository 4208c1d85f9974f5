import copy
import functools
import itertools
import json
import logging
import math
import operator
import shutil
import signal
from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import load_file, save

from helpers import refused, seeded
from kan_diffusion.data.datasets import Dataset
from kan_diffusion.data.densities import GaussianMixture
from kan_diffusion.data.scaling import Standardizer
from kan_diffusion.denoisers import NetworkDenoiser
from kan_diffusion.errors import NonFiniteLossError, RunFolderError
from kan_diffusion.evaluation.denoising import draw_noised_points, measure_denoising
from kan_diffusion.kan import KANLinear
from kan_diffusion.processes import Process, get_process
from kan_diffusion.training.callbacks import Progress, Snapshots
from kan_diffusion.training.checkpoint import _digest
from kan_diffusion.training.config import TrainingConfig
from short_training import POINTS, SHORT, Stop, after_each_step, digest, small, stopped_at, trained


@pytest.fixture
def checkpoint(tmp_path):
    """Where a run keeps its state."""
    return tmp_path / "state.safetensors"


# What is learned

GAUSSIAN = GaussianMixture([[0.5, -0.2]], [[[1.0, 0.6], [0.6, 0.7]]])


@pytest.mark.parametrize(
    ("family", "kind"), [("kan", "v_prediction"), ("mlp", "epsilon"), ("kan", "flow")]
)
def test_a_denoiser_comes_close_to_the_posterior_mean_of_a_gaussian(family, kind):
    schedule = "flow" if kind == "flow" else "squaredcos_cap_v2"
    process = Process(name="x", schedule=schedule, prediction_type=kind)
    points = GAUSSIAN.sample(5000, seeded(1)).float()
    dataset = Dataset(
        name="gaussian", columns=("x", "y"), standardizer=Standardizer((0, 0), (1, 1)),
        train=points, density=GAUSSIAN,
    )  # fmt: skip
    draw = draw_noised_points(dataset, process, 4000, seeded(5))
    denoiser = small(family, hidden=(16,) if family == "kan" else (32, 32))
    before = measure_denoising(denoiser, draw, process).excess
    config = TrainingConfig(steps=400, batch_size=512, learning_rate=1e-2, ema_decay=0.99)
    result = trained(denoiser, config, points=points, process=process)
    assert result.losses[-50:].mean() < 0.9 * result.losses[:5].mean()
    after = measure_denoising(denoiser, draw, process).excess
    assert after < min(0.01, 0.1 * before)


# What each step does


def test_the_denoiser_ends_with_the_moving_average_of_its_weights():
    config = TrainingConfig(steps=30, batch_size=16, ema_decay=0.7, warmup_steps=0)
    denoiser, plain = small(), small()
    after, moments = [], []

    def keep(kept):
        return lambda _, shown: kept.append([p.detach().clone() for p in shown.parameters()])

    trained(denoiser, config, callbacks=[Snapshots([30], keep(moments))])
    without = config.model_copy(update={"ema_decay": None})
    trained(plain, without, callbacks=[Snapshots(range(1, 31), keep(after))])
    # The average after k steps forgets by min(0.7, (1 + k) / (10 + k)).
    average = after[0]
    for step, current in enumerate(after[1:], start=1):
        decay = min(0.7, (1 + step) / (10 + step))
        average = [decay * a + (1 - decay) * c for a, c in zip(average, current, strict=True)]
    for ours, expected in zip(denoiser.parameters(), average, strict=True):
        torch.testing.assert_close(ours.detach(), expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(moments[0][0], next(denoiser.parameters()))
    assert not torch.allclose(moments[0][0], after[-1][0])


def test_training_touches_nothing_global():
    denoiser, again, other = small(), small(), small()
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    default = torch.get_default_dtype()
    first = trained(denoiser)
    assert torch.equal(torch.get_rng_state(), state)
    assert (torch.get_num_threads(), torch.get_default_dtype()) == (threads, default)
    # ... and depends on nothing global.
    torch.rand(10)
    second = trained(again)
    assert digest(again) == digest(denoiser)
    assert (first.losses == second.losses).all()
    trained(other, seed=8)
    assert digest(other) != digest(denoiser)
    assert not denoiser.training


# Callbacks and logs


def test_inputs_out_of_range_are_reported_for_each_kan_layer(caplog):
    settings = [{"grid_range": (-end, end)} for end in (50.0, 0.5)]
    wide, narrow = (small("full-kan", settings=given) for given in settings)
    with caplog.at_level(logging.INFO, logger="kan_diffusion"):
        assert set(trained(wide).out_of_range.values()) == {0.0}
        assert trained(small("mlp")).out_of_range == {}
        caplog.clear()
        result = trained(narrow)
    layers = [name for name, module in narrow.named_modules() if isinstance(module, KANLinear)]
    assert list(result.out_of_range) == layers
    # Standard normal points beyond 0.5 in two inputs of many, cosines and sines in the others.
    assert 0.4 < result.out_of_range[layers[0]] < 0.9
    (line,) = [record.getMessage() for record in caplog.records if "grid" in record.message]
    assert all(f"{name} {fraction:.2%}" in line for name, fraction in result.out_of_range.items())
    # What is reported is that of the weights the denoiser ends with, and can be had again.
    again = trained(narrow, TrainingConfig(**SHORT, learning_rate=1e-12))
    assert again.out_of_range == pytest.approx(result.out_of_range, abs=1e-6)


def test_a_denoiser_is_an_ordinary_module_to_callbacks_and_in_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr("kan_diffusion.training.callbacks._REPORT_SECONDS", -1.0)
    copies, reports = [], []

    def keep(step, denoiser):
        assert not denoiser.training
        assert not torch.is_grad_enabled()
        copies.append(copy.deepcopy(denoiser))
        denoiser.save_pretrained(tmp_path / str(step))
        with torch.no_grad():
            for parameter in denoiser.parameters():
                parameter.fill_(float("nan"))  # the weights in training are others

    denoiser, undisturbed = small("kan"), small("kan")
    parameters, start = list(denoiser.parameters()), digest(denoiser)
    trained(undisturbed)
    progress = Progress(lambda *told: reports.append(told))
    result = trained(denoiser, callbacks=[Snapshots([0, 20, 40, 99], keep), progress])
    assert digest(denoiser) == digest(undisturbed)
    for step, kept in zip((0, 20, 40), copies, strict=True):
        assert digest(type(kept).from_pretrained(tmp_path / str(step))) == digest(kept)
    assert list(map(digest, copies))[::2] == [start, digest(denoiser)]
    assert [step for step, _ in reports] == list(range(1, 41))
    assert reports[-1][1] == pytest.approx(float(result.losses[-1]))
    for before, parameter in zip(parameters, denoiser.parameters(), strict=True):
        assert parameter is before


def test_a_denoiser_whose_training_fails_is_an_ordinary_module_too():
    denoiser, other = small(), small()
    with pytest.raises(Stop):
        trained(denoiser, **stopped_at(23, Stop))
    other.load_state_dict(denoiser.state_dict())
    for each in (denoiser, other):
        trained(each)
    assert digest(denoiser) == digest(other)


# Interruption and resumption


@pytest.mark.parametrize(
    ("error", "batches", "optimizer"),
    [
        (Stop, "epochs", "adam"),
        (KeyboardInterrupt, "replacement", "adam"),
        (Stop, "replacement", "soap"),
        (KeyboardInterrupt, "epochs", "muon"),
        (SystemExit, "epochs", "adam"),  # of a worker of Ray whose machine is stopped
    ],
)
def test_an_interrupted_run_resumes_to_the_same_bits(error, batches, optimizer, checkpoint):
    config = TrainingConfig(**SHORT, batches=batches, checkpoint_every=7, optimizer=optimizer)
    undisturbed = small("kan")
    expected = trained(undisturbed, config)
    kept = {"checkpoint": checkpoint, "identity": "a"}
    with pytest.raises(error):
        trained(small("kan"), config, **kept, **stopped_at(23, error))
    resumed = small("kan")
    resumed.reset_parameters(seeded(99))  # nothing of it may survive
    result = trained(resumed, config, **kept, resume=True)
    # An interruption by the user is saved where it happened; a crash goes back to the last one.
    assert result.resumed_from == (23 if error in (KeyboardInterrupt, SystemExit) else 21)
    assert digest(resumed) == digest(undisturbed)
    assert (result.losses == expected.losses).all()
    assert (result.learning_rates == expected.learning_rates).all()


def test_a_disk_without_room_for_a_checkpoint_is_told_before_training(checkpoint, monkeypatch):
    config, sizes = TrainingConfig(steps=4, batch_size=8, checkpoint_every=1), []
    measured = Snapshots(range(1, 4), lambda *_: sizes.append(checkpoint.stat().st_size))
    trained(small(hidden=(200, 200)), config, checkpoint=checkpoint, callbacks=[measured])
    usage = SimpleNamespace(free=2 * max(sizes) - 10_000)  # two at a time; headers not counted
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    new = checkpoint.parent / "new"
    with refused("MB free and this run may write", RunFolderError):
        trained(small(hidden=(200, 200)), config, checkpoint=new / checkpoint.name)
    assert not new.exists()


def test_an_interrupt_in_the_middle_of_a_step_waits_until_it_is_whole(checkpoint):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    config = TrainingConfig(**SHORT, checkpoint_every=7)
    undisturbed = small()
    trained(undisturbed, config)
    steps = itertools.count(1)

    def interrupt(_):
        if next(steps) == 24:
            signal.raise_signal(signal.SIGINT)

    try:
        with after_each_step(interrupt), pytest.raises(KeyboardInterrupt):
            trained(small(), config, checkpoint=checkpoint)
    finally:
        signal.signal(signal.SIGINT, before)
    resumed = small()
    result = trained(resumed, config, checkpoint=checkpoint, resume=True)
    assert result.resumed_from == 24
    assert digest(resumed) == digest(undisturbed)


def test_a_checkpoint_of_another_identity_is_refused_or_replaced(checkpoint):
    config = TrainingConfig(**SHORT, checkpoint_every=10)
    first, second, third = small(), small(), small()
    trained(first, config, checkpoint=checkpoint, identity="a")
    before = checkpoint.read_bytes()
    with refused("run with other settings", RunFolderError):
        trained(second, config, checkpoint=checkpoint, identity="b", resume=True)
    assert checkpoint.read_bytes() == before
    assert trained(second, config, checkpoint=checkpoint, identity="b").resumed_from == 0
    assert digest(first) == digest(second)
    # A finished run is finished: resuming it takes no step.
    result = trained(third, config, checkpoint=checkpoint, identity="b", resume=True)
    assert result.resumed_from == 40
    assert digest(third) == digest(first)


def test_a_checkpoint_without_identity_is_one_of_what_the_run_was_asked_for(checkpoint):
    config = TrainingConfig(**SHORT, checkpoint_every=10)
    trained(small(), config, checkpoint=checkpoint)
    for other in ({"seed": 9}, {"process": get_process("ddpm")}, {"points": POINTS[:-1]}):
        with refused("run with other settings", RunFolderError):
            trained(small(), config, checkpoint=checkpoint, resume=True, **other)
    with refused("run with other settings", RunFolderError):
        longer = config.model_copy(update={"steps": 60})
        trained(small(), longer, checkpoint=checkpoint, resume=True)


# Optimisers


@pytest.mark.parametrize("optimizer", ["adam", "soap", "muon"])
def test_optimizers_obey_the_schedule_and_the_limit_of_gradients(optimizer):
    norms, rates = [], []

    def look(made):
        rates.append([group["lr"] for group in made.param_groups])
        gradients = [p.grad for group in made.param_groups for p in group["params"]]
        norms.append(float(torch.nn.utils.get_total_norm(gradients)))

    config = TrainingConfig(**SHORT, optimizer=optimizer, max_grad_norm=1e-3)
    with after_each_step(look):
        result = trained(small("kan"), config)
    of_groups = list(zip(*rates, strict=True))
    assert len(of_groups) == {"adam": 1, "soap": 1, "muon": 2}[optimizer]
    assert all(list(seen) == result.learning_rates.tolist() for seen in of_groups)
    assert max(norms) <= 1e-3 * (1 + 1e-5)


# Refusals


def test_what_is_no_checkpoint_is_refused_in_one_line(checkpoint):
    config = TrainingConfig(**SHORT, checkpoint_every=40)
    trained(small("kan"), config, checkpoint=checkpoint, identity="a")
    # Same settings, other tensors: what a layer that was rewritten since leaves behind.
    with refused(f"'{checkpoint}' is not a checkpoint of this version", RunFolderError):
        trained(small(), config, checkpoint=checkpoint, identity="a", resume=True)
    truncated, other = checkpoint.read_bytes()[:-10], save({"weight": torch.zeros(3)})
    for content in (truncated, other, b"", b"not a checkpoint at all"):
        checkpoint.write_bytes(content)
        with refused(f"'{checkpoint}' is not a checkpoint of kan-diffusion", RunFolderError):
            trained(small(), checkpoint=checkpoint, resume=True)


class Count:
    """A callback of one's own that counts how often it is called."""

    def __init__(self):
        self.count = 0

    def __call__(self, run):
        self.count += 1

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = int(state["count"])


EVERY_SEVEN = TrainingConfig(**SHORT, checkpoint_every=7)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The tensors and the state in a checkpoint of seven steps with a callback."""
    checkpoint = tmp_path_factory.mktemp("saved") / "state.safetensors"
    callbacks = [Count(), *stopped_at(9)["callbacks"]]
    with pytest.raises(Stop):
        trained(small(), EVERY_SEVEN, checkpoint=checkpoint, heldout=POINTS, callbacks=callbacks)
    with safe_open(checkpoint, framework="pt") as file:
        return load_file(checkpoint), file.metadata()["state"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"plan.steps": 10**11},
        {"step": 10**9},
        {"step": -1},
        {"step": 5},
        {"wall": "x"},
        {"processor": None},
        {"plan.done": float("nan")},
        {"secret": 1},
        {"validation": [["x", 1.0]]},
        {"best_step": -1},
        {"callbacks": {}},
        {"callbacks.0 Count.count": "x"},
        {"callbacks.0 Count.count": {"name of tensor": "run.losses"}},
        {"run.secret": torch.zeros(3)},
        {"run.averaged": None},
        {"run.optimizer.0.step": torch.zeros((), dtype=torch.int64)},
        {"run.optimizer.0.exp_avg": None},
        {"run.best": torch.zeros(3)},
        {"run.denoiser.first.weight": torch.zeros(3)},
        {"run.losses": torch.zeros(9, 9)},
    ],
    ids=str,
)
def test_a_strangers_checkpoint_with_a_right_digest_is_refused_in_one_line(
    saved, checkpoint, wrong
):
    tensors, state = dict(saved[0]), json.loads(saved[1])
    ((name, value),) = wrong.items()
    if name.startswith("run."):
        tensors.pop(name, None)
        tensors |= {} if value is None else {name: value}
    else:
        *above, last = name.split(".")
        functools.reduce(operator.getitem, above, state)[last] = value
    about = {"identity": "", "state": json.dumps(state)}
    checkpoint.write_bytes(save(tensors, about | {"digest": _digest(tensors, about)}))
    kept = {"checkpoint": checkpoint, "identity": "", "heldout": POINTS, "resume": True}
    with refused(f"'{checkpoint}' is not a checkpoint of this version", RunFolderError):
        trained(small(), EVERY_SEVEN, callbacks=[Count()], **kept)


def test_a_callback_of_ones_own_keeps_its_state(checkpoint):
    callbacks = [Count(), *stopped_at(9)["callbacks"]]
    with pytest.raises(Stop):
        trained(small(), EVERY_SEVEN, checkpoint=checkpoint, callbacks=callbacks)
    again = Count()
    trained(small(), EVERY_SEVEN, checkpoint=checkpoint, callbacks=[again], resume=True)
    # Before the first step and after seven; then where it resumes, after 33 and at the end.
    assert (callbacks[0].count, again.count) == (10, 8 + 1 + 33 + 1)


class Breaks(NetworkDenoiser):
    """Answers with infinity from a step on."""

    def __init__(self, step):
        super().__init__(2, hidden=(4,))
        self.left = step

    def forward(self, *args, **options):
        self.left -= 1
        (prediction,) = super().forward(*args, **options)
        return (prediction * (1.0 if self.left >= 0 else float("inf")),)


def test_a_loss_that_is_not_finite_names_its_step_and_keeps_the_checkpoint(checkpoint):
    config = TrainingConfig(**SHORT, checkpoint_every=7)
    kept = rf"the last good state is kept in '{checkpoint}'; lower the learning rate"
    with refused(f"at step 17 of 40 .*{kept}", NonFiniteLossError):
        trained(Breaks(16), config, checkpoint=checkpoint, identity="a")
    healthy = Breaks(10**6)
    result = trained(healthy, config, checkpoint=checkpoint, identity="a", resume=True)
    assert result.resumed_from == 14
    assert all(p.isfinite().all() for p in healthy.parameters())


def test_a_run_that_diverges_leaves_no_broken_checkpoint(checkpoint):
    wild = {"learning_rate": 1e30, "warmup_steps": 0}
    config = TrainingConfig(steps=60, batch_size=32, checkpoint_every=1, **wild)
    with pytest.raises(NonFiniteLossError, match=r"became (nan|inf|NaN) .*learning rate 1e\+30"):
        trained(small(), config, checkpoint=checkpoint)
    for name, tensor in load_file(checkpoint).items():
        assert tensor.isfinite().all(), name


def test_the_first_step_and_the_last_count_too():
    with refused(r"at step 1 of 40 .* no checkpoint was kept", NonFiniteLossError):
        trained(small(), points=POINTS * 1e30)
    # The loss is taken before the step: here only the parameters show that the step was too far.
    wild = {"learning_rate": 1e39, "warmup_steps": 0, "ema_decay": None}
    config = TrainingConfig(steps=1, batch_size=32, **wild)
    with refused(r"parameters became NaN or infinite at step 1 of 1 ", NonFiniteLossError):
        trained(small(), config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points": torch.zeros(3)}, r"shape \(N, 2\), N > 0, not \(3,\)"),
        ({"points": torch.zeros(0, 2)}, r"not \(0, 2\)"),
        ({"heldout": torch.zeros(5, 3)}, r"held-out samples must have .* not \(5, 3\)"),
        (
            {"heldout": torch.tensor([[0.0, 1.0], [math.nan, 0.0]])},
            "1 of the 2 held-out samples are not finite; remove them or fill them",
        ),
        ({"config": TrainingConfig(patience=0.2)}, "patience is about .* points; give heldout"),
        ({"conditions": {"labels": torch.zeros(100).long()}}, "takes no conditions, not labels"),
        ({"conditions": {"prompt": torch.zeros(100, 2)}}, "takes no conditions, not prompt"),
        ({"device": "gpu"}, "device 'gpu' cannot be used here; choose cpu or auto"),
        ({"device": "cuda:99"}, "device 'cuda:99' cannot be used here"),
    ],
)
def test_what_cannot_be_trained_is_refused(options, message):
    with refused(message):
        trained(small(), **options)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0}, {"learning_rate": float("inf")}, {"ema_decay": 1.0}, {"batches": "all"},
        {"learning_rte": 0.1}, {"patience": 1.5}, {"max_seconds": 1, "processor_seconds": 1},
    ],
    ids=str,
)  # fmt: skip
def test_unusable_configurations_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        TrainingConfig(**wrong)


def test_weights_in_another_precision_are_refused():
    with refused("trained in torch.float32 and these are torch.float64; call denoiser.float"):
        trained(small().double())
    partly = small()
    partly.frozen = torch.nn.Linear(2, 2).requires_grad_(requires_grad=False).bfloat16()
    assert trained(partly).ending == "finished"
