from __future__ import annotations

import copy
import hashlib
import itertools
import logging
import math
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from pydantic import ValidationError
from safetensors.torch import load_file, save
from torch import Tensor
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from commands import context
from helpers import refused, seeded
from kan_diffusion import devices
from kan_diffusion.data import GaussianMixture, Standardizer
from kan_diffusion.data.datasets import Dataset, ToyData, load_dataset
from kan_diffusion.denoisers import Denoiser, MLPDenoiser, build_denoiser
from kan_diffusion.devices import resolve_device
from kan_diffusion.errors import NonFiniteLossError, RunFolderError
from kan_diffusion.evaluation.denoising import draw_noised_points, measure_denoising
from kan_diffusion.evaluation.metrics import energy_distance
from kan_diffusion.kan import KANLinear
from kan_diffusion.processes import Process, get_process
from kan_diffusion.sampling import PointDiffusionPipeline, make_scheduler
from kan_diffusion.training import (
    TrainingConfig,
    TrainingResult,
    loop,
    read_checkpoint_identity,
    train,
)
from kan_diffusion.training.optimization import OptimizerName, suitable_rate

posix = pytest.mark.skipif(os.name == "nt", reason="signals and file size limits are POSIX")
each_kind_of_batches = pytest.mark.parametrize("batches", ["replacement", "epochs"])

# 100 points in batches of 32 are epochs of four steps, the last of 4 points.
SHORT = {"steps": 40, "batch_size": 32, "warmup_steps": 5, "ema_decay": 0.9}


def _denoiser(family: str = "mlp", hidden: tuple[int, ...] = (8,), **options: object) -> Denoiser:
    options = {"hidden": hidden, "generator": seeded(0), **options}
    return build_denoiser(family, 2, num_train_timesteps=1000, **options)


def _points(num: int = 100) -> Tensor:
    return torch.randn(num, 2, generator=seeded(1))


def _digest(denoiser: Denoiser) -> str:
    values = [value.numpy().tobytes() for value in denoiser.state_dict().values()]
    return hashlib.sha256(b"".join(values)).hexdigest()


def _train(
    denoiser: Denoiser, config: TrainingConfig | None = None, **options: object
) -> TrainingResult:
    options = {"seed": 7, "device": "cpu", **options}
    points = options.pop("points", _points())
    process = options.pop("process", get_process("cosine"))
    return train(denoiser, process, points, config or TrainingConfig(**SHORT), **options)


def _assert_memory_of_its_own(denoiser: Denoiser) -> None:
    for parameter in denoiser.parameters():
        assert parameter.untyped_storage().nbytes() == 4 * parameter.numel()
        assert parameter.grad is None


# What is learned

GAUSSIAN = GaussianMixture([[0.5, -0.2]], [[[1.0, 0.6], [0.6, 0.7]]])


@pytest.mark.parametrize("family", ["kan", "mlp"])
@pytest.mark.parametrize("kind", ["v_prediction", "epsilon", "flow"])
def test_a_denoiser_comes_close_to_the_posterior_mean_of_a_gaussian(family: str, kind: str) -> None:
    schedule = "flow" if kind == "flow" else "squaredcos_cap_v2"
    process = Process(name="x", schedule=schedule, prediction_type=kind)
    points = GAUSSIAN.sample(5000, seeded(1)).float()
    dataset = Dataset("gaussian", ("x", "y"), Standardizer((0, 0), (1, 1)), points, GAUSSIAN)
    draw = draw_noised_points(dataset, process, 4000, seeded(5))
    denoiser = _denoiser(family, hidden=(16,) if family == "kan" else (32, 32))
    before = measure_denoising(denoiser, draw, process).excess
    config = TrainingConfig(steps=400, batch_size=512, learning_rate=1e-2, ema_decay=0.99)
    result = _train(denoiser, config, points=points, process=process)
    assert result.losses[-50:].mean() < 0.9 * result.losses[:5].mean()
    after = measure_denoising(denoiser, draw, process).excess
    assert after < min(0.01, 0.1 * before)


def test_an_mlp_samples_moons_as_well_by_flow_matching_as_by_diffusion() -> None:
    dataset = load_dataset(ToyData(toy="moons", num_points=5000))
    real, fresh = dataset.fresh_pair(2000, seeded(1))
    chance = energy_distance(real, fresh)
    distances = {}
    for name in ("cosine", "flow"):
        process, denoiser = get_process(name), _denoiser(hidden=(48, 48, 48))
        config = TrainingConfig(steps=800, batch_size=512, learning_rate=5e-3, ema_decay=0.99)
        _train(denoiser, config, points=dataset.train, process=process)
        pipeline = PointDiffusionPipeline(denoiser, make_scheduler(None, process.scheduler()))
        distances[name] = energy_distance(pipeline(2000, 20, generator=seeded(2)).samples, real)
    # A few times the distance of two real samples, and no worse than diffusion but for chance.
    assert distances["flow"] < min(8 * chance, distances["cosine"] + 2 * chance), distances


def test_labels_make_samples_of_their_class_and_dropout_trains_the_rest() -> None:
    left, right = (GaussianMixture([[x, 0.0]], variances=0.05) for x in (-1.0, 1.0))
    points = torch.cat([left.sample(1000, seeded(0)), right.sample(1000, seeded(1))])
    labels = torch.arange(2000) // 1000
    denoiser = _denoiser(num_classes=2, hidden=(48, 48))
    config = TrainingConfig(steps=700, batch_size=256, learning_rate=1e-2, ema_decay=0.99)
    _train(denoiser, config, points=points, conditions={"class_labels": labels})
    pipeline = PointDiffusionPipeline(
        denoiser, make_scheduler("dpm-solver++", get_process("cosine").scheduler())
    )
    for label, sign in ((0, -1), (1, 1)):
        samples = pipeline(500, 20, generator=seeded(2), class_labels=label).samples
        assert (sign * samples[:, 0] > 0).float().mean() > 0.99
        fresh = (left, right)[label].sample(500, seeded(3))
        assert energy_distance(samples, fresh) < 0.03
    unlabelled = pipeline(500, 20, generator=seeded(4)).samples
    assert energy_distance(unlabelled, points[::4]) < 0.1
    assert 0.3 < (unlabelled[:, 0] > 0).float().mean() < 0.7


# What each step does


class Recorder(MLPDenoiser):
    """Remembers what it was asked for in training, and its weights then."""

    def __init__(self, **settings: object) -> None:
        super().__init__(2, hidden=(4,), **settings)
        self.calls: list[tuple[Tensor, Tensor, Tensor | None]] = []
        self.weights: list[list[Tensor]] = []

    def forward(self, sample, timestep, class_labels=None, **given):
        if self.training:
            self.calls.append((sample, timestep, class_labels))
            self.weights.append([p.detach().clone() for p in self.parameters()])
        return super().forward(sample, timestep, class_labels, **given)


# A process so nearly without noise that the rows drawn can be read off the noised points.
CLEAR = Process(name="clear", num_timesteps=2, schedule="constant", beta_start=1e-9)


def _numbered(num: int) -> Tensor:
    return torch.stack([torch.arange(num), torch.zeros(num)], dim=-1)


def test_an_epoch_visits_every_point_once_in_a_new_order() -> None:
    denoiser = Recorder()
    config = TrainingConfig(steps=12, batch_size=32, batches="epochs", learning_rate=1e-6)
    _train(denoiser, config, points=_numbered(100), process=CLEAR)
    rows = [call[0][:, 0].round().long().tolist() for call in denoiser.calls]
    assert [len(batch) for batch in rows] == [32, 32, 32, 4] * 3
    epochs = [list(itertools.chain(*rows[start : start + 4])) for start in (0, 4, 8)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(100))
    assert epochs[0] != epochs[1] != epochs[2]


def test_drawing_with_replacement_is_uniform_over_points_timesteps_and_labels() -> None:
    denoiser = Recorder(num_classes=10)
    config = TrainingConfig(steps=20, batch_size=1000, learning_rate=1e-6)
    labels = torch.arange(10)
    _train(
        denoiser, config, points=_numbered(10), process=CLEAR, conditions={"class_labels": labels}
    )
    rows = torch.cat([call[0][:, 0] for call in denoiser.calls]).round().long()
    for count in Counter(rows.tolist()).values():
        assert abs(count - 2000) < 4.5 * 2000**0.5
    timesteps = torch.cat([call[1] for call in denoiser.calls])
    assert float(timesteps.double().mean()) == pytest.approx(0.5, abs=4.5 * 0.5 / 20_000**0.5)
    drawn = torch.cat([call[2] for call in denoiser.calls])
    dropped = drawn == -1
    assert torch.equal(drawn[~dropped], rows[~dropped])
    assert float(dropped.double().mean()) == pytest.approx(0.1, abs=0.01)


def test_the_learning_rate_warms_up_and_decays() -> None:
    config = TrainingConfig(steps=100, batch_size=4, warmup_steps=20, learning_rate=0.01)
    rates = _train(_denoiser(), config).learning_rates
    assert rates[0] == 0
    assert rates[10] == pytest.approx(0.005)
    assert rates[20] == pytest.approx(0.01)
    assert rates[60] == pytest.approx(0.005)
    assert 0 < rates[99] < 1e-4
    constant = config.model_copy(update={"schedule": "constant"})
    assert (_train(_denoiser(), constant).learning_rates[20:] == 0.01).all()


def test_the_denoiser_ends_with_the_moving_average_of_its_weights() -> None:
    config = TrainingConfig(steps=30, batch_size=16, ema_decay=0.8, warmup_steps=0)
    denoiser, plain = Recorder(), Recorder()
    for each in (denoiser, plain):
        each.reset_parameters(seeded())
    moments: list[Tensor] = []
    look = {"on_moment": lambda _, shown: moments.append(next(shown.parameters()).clone())}
    _train(denoiser, config, moments=[30], **look)
    _train(plain, config.model_copy(update={"ema_decay": None}))
    # weights[k] are those after k steps; the average forgets by min(0.8, (1 + k) / (10 + k)).
    after = [*denoiser.weights[1:], [p.detach() for p in plain.parameters()]]
    average = after[0]
    for step, current in enumerate(after[1:], start=1):
        decay = min(0.8, (1 + step) / (10 + step))
        average = [decay * a + (1 - decay) * c for a, c in zip(average, current, strict=True)]
    for ours, expected in zip(denoiser.parameters(), average, strict=True):
        torch.testing.assert_close(ours.detach(), expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(moments[0], next(denoiser.parameters()))
    assert not torch.allclose(moments[0], next(plain.parameters()))


@contextmanager
def _after_each_step(look: Callable[[list[Tensor]], None]) -> Iterator[None]:
    """Shows the gradients when the weights have moved and the step is not counted."""

    def hook(optimizer: torch.optim.Optimizer, *_: object) -> None:
        look([parameter.grad for parameter in optimizer.param_groups[0]["params"]])

    handle = register_optimizer_step_post_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def test_gradients_are_clipped_to_their_norm() -> None:
    norms: list[Tensor] = []
    with _after_each_step(lambda grads: norms.append(torch.nn.utils.get_total_norm(grads))):
        for limit in (1e-3, None):
            config = TrainingConfig(steps=1, batch_size=64, max_grad_norm=limit)
            _train(_denoiser(), config)
    assert float(norms[0]) == pytest.approx(1e-3, rel=1e-3)
    assert float(norms[1]) > 0.1


@each_kind_of_batches
def test_gradients_of_parts_of_a_batch_add_up_to_that_of_the_whole(batches: str) -> None:
    """Also of parts of different sizes, and of an epoch's last batch with fewer points."""
    short = {**SHORT, "steps": 8, "batches": batches}
    whole, parts = _denoiser(), _denoiser()
    losses = _train(whole, TrainingConfig(**short)).losses
    accumulated = _train(parts, TrainingConfig(**short, accumulation_steps=5)).losses
    assert accumulated == pytest.approx(losses, rel=1e-5)
    # Sums in another order, which Adam, whose first steps are signs, makes larger.
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


def test_training_touches_nothing_global() -> None:
    denoiser, again, other = _denoiser(), _denoiser(), _denoiser()
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    default = torch.get_default_dtype()
    first = _train(denoiser)
    assert torch.equal(torch.get_rng_state(), state)
    assert (torch.get_num_threads(), torch.get_default_dtype()) == (threads, default)
    # ... and depends on nothing global.
    torch.rand(10)
    second = _train(again)
    assert _digest(again) == _digest(denoiser)
    assert (first.losses == second.losses).all()
    _train(other, seed=8)
    assert _digest(other) != _digest(denoiser)
    assert not denoiser.training


@pytest.mark.parametrize("family", ["kan", "mlp"])
def test_mixed_precision_trains_and_leaves_an_ordinary_denoiser(family: str) -> None:
    denoiser, plain = _denoiser(family), _denoiser(family)
    config = TrainingConfig(**SHORT, mixed_precision="bf16")
    losses = _train(denoiser, config).losses
    expected = _train(plain).losses
    assert losses == pytest.approx(expected, rel=0.1)
    assert (losses != expected).any()
    # Once trained, it computes in the precision of its weights and can be copied.
    twin = _denoiser(family)
    twin.load_state_dict(denoiser.state_dict())
    x = _points(5)
    assert torch.equal(denoiser(x, 3).sample, twin(x, 3).sample)
    assert torch.equal(copy.deepcopy(denoiser)(x, 3).sample, twin(x, 3).sample)


def _fp16_on_the_cpu(*_: object) -> Accelerator:
    """What accelerate makes on a GPU for fp16, which it refuses to make on a CPU."""
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    accelerator.state._mixed_precision = "fp16"
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    return accelerator


@pytest.mark.parametrize(("optimizer", "least"), [("adam", 0.05), ("muon", 0.01)])
def test_scaled_gradients_are_unscaled_before_they_are_clipped(
    optimizer: OptimizerName, least: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No gradient reaches the limit, and every one would if it were still scaled.
    denoiser, plain = _denoiser(), _denoiser()
    config = TrainingConfig(**SHORT, optimizer=optimizer, max_grad_norm=5.0)
    norms: list[float] = []
    try:
        with _after_each_step(lambda grads: norms.append(float(grads[0].norm()))):
            expected = _train(plain, config).losses
            monkeypatch.setattr(loop, "make_accelerator", _fp16_on_the_cpu)
            losses = _train(denoiser, config).losses
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    assert losses == pytest.approx(expected, rel=0.02)
    assert (losses != expected).any()
    assert norms[40:] == pytest.approx(norms[:40], rel=0.02)
    assert least < min(norms) < max(norms) < 5
    for ours, theirs in zip(denoiser.parameters(), plain.parameters(), strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, atol=0.02, rtol=0.1)


# Callbacks and logs


def test_moments_see_the_denoiser_as_it_is_and_change_nothing() -> None:
    seen: dict[int, str] = {}

    def look(step: int, denoiser: Denoiser) -> None:
        assert not denoiser.training
        assert not torch.is_grad_enabled()
        seen[step] = _digest(denoiser)

    undisturbed, watched = _denoiser(), _denoiser()
    start = _digest(watched)
    _train(undisturbed)
    reports: list[tuple[int, float]] = []
    tell = {"on_progress": lambda *told: reports.append(told), "on_moment": look}
    result = _train(watched, moments=[0, 10, 20, 40, 99], **tell)
    assert _digest(watched) == _digest(undisturbed)
    assert list(seen) == [0, 10, 20, 40]
    assert seen[0] == start
    assert seen[40] == _digest(watched)
    assert len(set(seen.values())) == 4
    assert reports[-1] == (40, pytest.approx(float(result.losses[-1])))
    assert result.seconds > 0


def test_losses_and_out_of_range_inputs_are_reported_for_each_kan_layer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = [{"grid_range": (-end, end)} for end in (50.0, 0.5)]
    wide, narrow = (_denoiser("full-kan", settings=given) for given in settings)
    with caplog.at_level(logging.INFO, logger="kan_diffusion"):
        assert set(_train(wide).out_of_range.values()) == {0.0}
        assert _train(_denoiser("mlp")).out_of_range == {}
        caplog.clear()
        result = _train(narrow, log_folder=tmp_path)
    layers = [name for name, module in narrow.named_modules() if isinstance(module, KANLinear)]
    assert list(result.out_of_range) == layers
    # Standard normal points beyond 0.5 in two inputs of many, cosines and sines in the others.
    assert 0.4 < result.out_of_range[layers[0]] < 0.9
    (line,) = [record.getMessage() for record in caplog.records if "grid" in record.message]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (event_file,) = tmp_path.rglob("events.out.tfevents.*")
    events = EventAccumulator(str(event_file.parent)).Reload()
    last = events.Scalars("loss")[-1]
    assert (last.step, last.value) == (40, pytest.approx(float(result.losses[-1])))
    assert events.Scalars("learning_rate")[-1].step == 40
    for name, fraction in result.out_of_range.items():
        assert f"{name} {fraction:.2%}" in line
        logged = events.Scalars(f"out_of_range/{name}")[-1]
        assert (logged.step, logged.value) == (40, pytest.approx(fraction))
    # What is reported is that of the weights the denoiser ends with, and can be had again.
    again = _train(narrow, TrainingConfig(**SHORT, learning_rate=1e-12))
    assert again.out_of_range == pytest.approx(result.out_of_range, abs=1e-6)


def test_a_denoiser_is_an_ordinary_module_to_callbacks_and_in_the_end(tmp_path: Path) -> None:
    copies: list[Denoiser] = []

    def keep(step: int, denoiser: Denoiser) -> None:
        copies.append(copy.deepcopy(denoiser))
        denoiser.save_pretrained(tmp_path / str(step))
        with torch.no_grad():
            for parameter in denoiser.parameters():
                parameter.fill_(float("nan"))  # the weights in training are others

    denoiser, undisturbed = _denoiser("kan"), _denoiser("kan")
    parameters = list(denoiser.parameters())
    _train(undisturbed)
    _train(denoiser, moments=[0, 20, 40], on_moment=keep)
    assert _digest(denoiser) == _digest(undisturbed)
    for step, kept in zip((0, 20, 40), copies, strict=True):
        assert _digest(type(kept).from_pretrained(tmp_path / str(step))) == _digest(kept)
    assert _digest(copies[-1]) == _digest(denoiser)
    for before, parameter in zip(parameters, denoiser.parameters(), strict=True):
        assert parameter is before
    _assert_memory_of_its_own(denoiser)


def test_a_denoiser_whose_training_fails_is_an_ordinary_module_too() -> None:
    denoiser, other = _denoiser(), _denoiser()
    with pytest.raises(Stop):
        _train(denoiser, **_raise_at(23, Stop))
    _assert_memory_of_its_own(denoiser)
    other.load_state_dict(denoiser.state_dict())
    for each in (denoiser, other):
        _train(each)
    assert _digest(denoiser) == _digest(other)


# Interruption and resumption


class Stop(Exception):  # noqa: N818
    """Not an error: a way out of the loop."""


def _raise_at(step: int, error: type[BaseException]):
    def callback(at: int, _: object) -> None:
        if at == step:
            raise error

    return {"moments": [step], "on_moment": callback}


@pytest.mark.parametrize(
    ("error", "batches", "optimizer"),
    [
        *itertools.product((Stop, KeyboardInterrupt), ("replacement", "epochs"), ("adam",)),
        (Stop, "replacement", "soap"),
        (Stop, "replacement", "muon"),
        (KeyboardInterrupt, "epochs", "lbfgs"),
    ],
)
def test_an_interrupted_run_resumes_to_the_same_bits(
    error: type[BaseException], batches: str, optimizer: OptimizerName, tmp_path: Path
) -> None:
    config = TrainingConfig(**SHORT, batches=batches, checkpoint_every=7, optimizer=optimizer)
    undisturbed = _denoiser("kan")
    expected = _train(undisturbed, config)
    checkpoint = tmp_path / "state.safetensors"
    kept = {"checkpoint": checkpoint, "identity": "a"}
    with pytest.raises(error):
        _train(_denoiser("kan"), config, **kept, **_raise_at(23, error))
    resumed = _denoiser("kan")
    resumed.reset_parameters(seeded(99))  # nothing of it may survive
    result = _train(resumed, config, **kept, resume=True)
    # An interruption by the user is saved where it happened; a crash goes back to the last one.
    assert result.resumed_from == (23 if error is KeyboardInterrupt else 21)
    assert _digest(resumed) == _digest(undisturbed)
    assert (result.losses == expected.losses).all()
    assert (result.learning_rates == expected.learning_rates).all()


def test_a_resumed_run_goes_on_with_the_scale_of_its_gradients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Accelerator] = []
    monkeypatch.setattr(
        loop, "make_accelerator", lambda *_: made.append(_fp16_on_the_cpu()) or made[-1]
    )
    config = TrainingConfig(**SHORT, checkpoint_every=7)
    kept = {"checkpoint": tmp_path / "state.safetensors", "identity": "a"}
    try:
        with pytest.raises(Stop):
            _train(_denoiser(), config, **kept, **_raise_at(23, Stop))
        made[0].scaler.update(2.0**12)  # of a run that is no longer there
        assert _train(_denoiser(), config, **kept, resume=True).resumed_from == 21
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    state = made[1].scaler.state_dict()
    assert (state["scale"], state["_growth_tracker"]) == (2.0**10, 40)


@pytest.mark.parametrize("ema_decay", [0.9, None])
@pytest.mark.parametrize(
    ("interrupt", "kept"),
    [
        (partial(signal.default_int_handler, signal.SIGINT, None), 21),
        (partial(signal.raise_signal, signal.SIGINT), 24),
    ],
    ids=["error", "signal"],
)
def test_an_interrupt_in_the_middle_of_a_step_does_not_save_half_of_it(
    interrupt: Callable[[], None], kept: int, ema_decay: float | None, tmp_path: Path
) -> None:
    # Ctrl-C waits until the step is whole; what raises by itself goes back to what was saved.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    config = TrainingConfig(**{**SHORT, "ema_decay": ema_decay}, checkpoint_every=7)
    undisturbed = _denoiser()
    _train(undisturbed, config)
    checkpoint, steps = tmp_path / "state.safetensors", itertools.count(1)
    try:
        with (
            _after_each_step(lambda _: interrupt() if next(steps) == 24 else None),
            pytest.raises(KeyboardInterrupt),
        ):
            _train(_denoiser(), config, checkpoint=checkpoint)
    finally:
        signal.signal(signal.SIGINT, before)
    resumed = _denoiser()
    result = _train(resumed, config, checkpoint=checkpoint, resume=True)
    assert result.resumed_from == kept
    assert _digest(resumed) == _digest(undisturbed)


def test_only_a_run_of_the_same_identity_resumes_and_without_resume_a_checkpoint_is_replaced(
    tmp_path: Path,
) -> None:
    checkpoint = tmp_path / "state.safetensors"
    config = TrainingConfig(**SHORT, checkpoint_every=10)
    first, second, third = _denoiser(), _denoiser(), _denoiser()
    _train(first, config, checkpoint=checkpoint, identity="a")
    before = checkpoint.read_bytes()
    with refused("run with other settings", RunFolderError):
        _train(second, config, checkpoint=checkpoint, identity="b", resume=True)
    assert checkpoint.read_bytes() == before
    assert _train(second, config, checkpoint=checkpoint, identity="b").resumed_from == 0
    assert read_checkpoint_identity(checkpoint) == "b"
    assert _digest(first) == _digest(second)
    # A finished run is finished: resuming it takes no step.
    result = _train(third, config, checkpoint=checkpoint, identity="b", resume=True)
    assert result.resumed_from == 40
    assert _digest(third) == _digest(first)


KEPT = TrainingConfig(**SHORT, batches="epochs", checkpoint_every=3)


def _train_slowly(checkpoint: Path) -> None:
    torch.set_num_threads(1)
    options = {"moments": range(41), "on_moment": lambda *_: time.sleep(0.1)}
    _train(_denoiser("kan"), KEPT, checkpoint=checkpoint, **options)


@posix
def test_a_killed_run_resumes_to_the_same_bits(tmp_path: Path) -> None:
    checkpoint = tmp_path / "state.safetensors"
    process = context.Process(target=_train_slowly, args=(checkpoint,))
    process.start()
    sizes: set[int] = set()  # it is written before the first step, too, without Adam's state
    while len(sizes) < 2:
        assert process.is_alive()
        time.sleep(0.01)
        sizes |= {checkpoint.stat().st_size} if checkpoint.exists() else set()
    process.kill()
    process.join()
    undisturbed, resumed = _denoiser("kan"), _denoiser("kan")
    _train(undisturbed, KEPT)
    result = _train(resumed, KEPT, checkpoint=checkpoint, resume=True)
    assert result.resumed_from in range(3, 40, 3)
    assert _digest(resumed) == _digest(undisturbed)


@posix
def test_a_full_disk_stops_the_run_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    import resource

    checkpoint = tmp_path / "state.safetensors"
    config = TrainingConfig(**SHORT, checkpoint_every=7)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(*_: object) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))

    try:
        with refused(r"cannot write '.*state\.safetensors'", RunFolderError):
            _train(_denoiser(), config, checkpoint=checkpoint, moments=[17], on_moment=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]
    undisturbed, resumed = _denoiser(), _denoiser()
    _train(undisturbed, config)
    assert _train(resumed, config, checkpoint=checkpoint, resume=True).resumed_from == 14
    assert _digest(resumed) == _digest(undisturbed)


# Optimisers


@pytest.mark.parametrize("optimizer", ["soap", "muon", "lbfgs"])
def test_an_optimizer_learns_and_is_another_one_than_adam(optimizer: OptimizerName) -> None:
    config = TrainingConfig(
        **SHORT | {"batch_size": 100},
        optimizer=optimizer,
        learning_rate=suitable_rate(optimizer, 0.02),
    )
    denoiser, by_adam = _denoiser("kan"), _denoiser("kan")
    points = 0.1 * _points() + 1
    result = _train(denoiser, config, points=points, heldout=points)
    assert result.heldout_losses[-1][1] < 0.5 * result.losses[0]
    _train(by_adam, config.model_copy(update={"optimizer": "adam"}), points=points)
    assert _digest(denoiser) != _digest(by_adam)


def test_a_step_by_lbfgs_is_taken_again_without_a_memory_that_spoils_it() -> None:
    calls: list[int] = []

    def spoil(made: torch.optim.Optimizer, *_: object) -> None:
        calls.append(len(made.state))
        if len(calls) == 4:
            (state,) = made.state.values()
            state["old_dirs"][-1].fill_(math.nan)

    config = TrainingConfig(**SHORT, optimizer="lbfgs", learning_rate=1.0)
    handle = register_optimizer_step_pre_hook(spoil)
    try:
        result = _train(_denoiser("mlp"), config)
    finally:
        handle.remove()
    assert calls[:6] == [0, 1, 1, 1, 0, 1]  # the fourth step twice, the second time from nothing
    assert all(map(math.isfinite, result.losses))


@pytest.mark.parametrize("optimizer", ["soap", "muon"])
def test_optimizers_of_matrices_obey_the_schedule_and_the_limit_of_gradients(
    optimizer: OptimizerName,
) -> None:
    norms: list[float] = []

    def look(made: torch.optim.Optimizer, *_: object) -> None:
        rates.append([group["lr"] for group in made.param_groups])
        gradients = [p.grad for group in made.param_groups for p in group["params"]]
        norms.append(float(torch.nn.utils.get_total_norm(gradients)))

    rates: list[list[float]] = []
    config = TrainingConfig(**SHORT, optimizer=optimizer, max_grad_norm=1e-3)
    handle = register_optimizer_step_post_hook(look)
    try:
        result = _train(_denoiser("kan"), config)
    finally:
        handle.remove()
    of_groups = list(zip(*rates, strict=True))
    assert len(of_groups) == {"soap": 1, "muon": 2}[optimizer]
    assert all(list(seen) == result.learning_rates.tolist() for seen in of_groups)
    assert max(norms) <= 1e-3 * (1 + 1e-5)


def test_an_optimizer_that_cannot_train_in_a_precision_is_refused() -> None:
    denoiser = _denoiser()
    config = TrainingConfig(**SHORT, optimizer="lbfgs", mixed_precision="bf16")
    try:
        with refused("optimizer 'lbfgs' .*mixed precision bf16; choose adam, soap or muon"):
            _train(denoiser, config)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    _train(denoiser)  # unharmed


def test_an_optimizer_that_torch_cannot_run_is_refused_and_harms_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(*_: object) -> None:
        raise NotImplementedError("not implemented for this device")

    monkeypatch.setattr(torch.linalg, "eigh", missing)
    denoiser = _denoiser()
    with refused("optimizer 'soap' needs eigenvectors.*or --device cpu"):
        _train(denoiser, TrainingConfig(**SHORT, optimizer="soap"))
    _assert_memory_of_its_own(denoiser)


# Refusals


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "other"])
def test_what_is_no_checkpoint_is_refused_in_one_line(damage: str, tmp_path: Path) -> None:
    checkpoint = tmp_path / "state.safetensors"
    _train(_denoiser(), TrainingConfig(**SHORT, checkpoint_every=40), checkpoint=checkpoint)
    content = {
        "truncated": checkpoint.read_bytes()[:-10],
        "empty": b"",
        "text": b"not a checkpoint at all",
        "other": save({"weight": torch.zeros(3)}),
    }[damage]
    checkpoint.write_bytes(content)
    with refused("is not a checkpoint of kan-diffusion", RunFolderError) as caught:
        _train(_denoiser(), checkpoint=checkpoint, resume=True)
    assert str(checkpoint) in str(caught.value)


def test_a_checkpoint_that_an_earlier_version_wrote_is_refused_in_one_line(tmp_path: Path) -> None:
    # Same settings, other tensors: what a layer that was rewritten since leaves behind.
    checkpoint = tmp_path / "state.safetensors"
    config = TrainingConfig(**SHORT, checkpoint_every=40)
    _train(_denoiser("kan"), config, checkpoint=checkpoint, identity="a")
    with refused(f"'{checkpoint}' is not a checkpoint of this version", RunFolderError):
        _train(_denoiser(), config, checkpoint=checkpoint, identity="a", resume=True)


class Breaks(MLPDenoiser):
    """Answers with infinity from a step on."""

    def __init__(self, step: int) -> None:
        super().__init__(2, hidden=(4,))
        self.left = step

    def forward(self, *args, **options):
        self.left -= 1
        (prediction,) = super().forward(*args, **options)
        return (prediction * (1.0 if self.left >= 0 else float("inf")),)


def test_a_loss_that_is_not_finite_names_its_step_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    checkpoint = tmp_path / "state.safetensors"
    config = TrainingConfig(**SHORT, checkpoint_every=7)
    kept = rf"the last good state is kept in '{checkpoint}'; lower the learning rate"
    with refused(f"at step 17 of 40 .*{kept}", NonFiniteLossError):
        _train(Breaks(16), config, checkpoint=checkpoint, identity="a")
    healthy = Breaks(10**6)
    result = _train(healthy, config, checkpoint=checkpoint, identity="a", resume=True)
    assert result.resumed_from == 14
    assert all(p.isfinite().all() for p in healthy.parameters())


def test_a_run_that_diverges_leaves_no_broken_checkpoint(tmp_path: Path) -> None:
    checkpoint = tmp_path / "state.safetensors"
    wild = {"learning_rate": 1e30, "warmup_steps": 0}
    config = TrainingConfig(steps=60, batch_size=32, checkpoint_every=1, **wild)
    with pytest.raises(NonFiniteLossError, match=r"became (nan|inf|NaN) .*learning rate 1e\+30"):
        _train(_denoiser(), config, checkpoint=checkpoint)
    for name, tensor in load_file(checkpoint).items():
        assert name == "losses" or tensor.isfinite().all(), name


def test_the_first_step_and_the_last_count_too() -> None:
    with refused(r"at step 1 of 40 .* no checkpoint was kept", NonFiniteLossError):
        _train(_denoiser(), points=_points() * 1e30)
    # The loss is taken before the step: here only the parameters show that the step was too far.
    wild = {"learning_rate": 1e39, "warmup_steps": 0, "ema_decay": None}
    config = TrainingConfig(steps=1, batch_size=32, **wild)
    with refused(r"parameters became NaN or infinite at step 1 of 1 ", NonFiniteLossError):
        _train(_denoiser(), config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points": torch.zeros(3)}, r"shape \(N, 2\), N > 0, not \(3,\)"),
        ({"points": torch.zeros(0, 2)}, r"not \(0, 2\)"),
        ({"points": torch.zeros(5, 3)}, r"not \(5, 3\)"),
        ({"conditions": {"class_labels": torch.zeros(3).long()}}, "one a sample, 100, not 3"),
        ({"conditions": {"class_labels": torch.full((100,), 2)}}, "label 2 is unknown"),
        ({"conditions": {"class_labels": torch.zeros(100)}}, "whole numbers"),
        (
            {"config": TrainingConfig(**SHORT, accumulation_steps=33)},
            "batch of 32 cannot be divided into 33 parts, 33 for each process",
        ),
        ({"device": "gpu"}, "device 'gpu' cannot be used here; choose cpu or auto"),
        ({"device": "cuda:99"}, "device 'cuda:99' cannot be used here"),
    ],
)
def test_what_cannot_be_trained_is_refused(options: dict[str, object], message: str) -> None:
    with refused(message):
        _train(_denoiser(num_classes=2), **options)


def test_a_log_that_nothing_would_write_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "is_tensorboard_available", lambda: False)
    with refused("TensorBoard is not installed; pip install tensorboard"):
        _train(_denoiser(), log_folder=tmp_path)


def _unsupported(**_: object) -> None:
    raise ValueError("bf16 mixed precision requires a supported device.")


def test_what_accelerate_refuses_has_nothing_to_do_with_logs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(devices, "Accelerator", _unsupported)
    with refused(r"for device cpu and mixed precision no \(bf16 .*\); choose another of the two$"):
        _train(_denoiser())


def test_accelerate_takes_the_gpu_of_the_number_that_was_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    try:
        for name in ("cuda:1", "cuda", "cpu"):
            devices.make_accelerator(torch.device(name), "no", None)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    assert chosen == [torch.device("cuda:1")]


def test_auto_is_a_device_that_is_there() -> None:
    device = resolve_device("auto")
    assert device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    denoiser = _denoiser()
    _train(denoiser, TrainingConfig(steps=2, batch_size=4), device="auto")
    assert denoiser.device.type == device.type


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("inf")},
        {"ema_decay": 1.0},
        {"batches": "all"},
        {"optimizer": "sgd"},
        {"learning_rte": 0.1},
    ],
)
def test_unusable_configurations_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        TrainingConfig(**wrong)
