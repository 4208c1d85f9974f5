from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import assert_same_state, seeded
from kan_diffusion.denoisers import NetworkDenoiser
from kan_diffusion.processes import get_process
from kan_diffusion.training import run
from kan_diffusion.training.callbacks import Progress, Snapshots
from kan_diffusion.training.config import TrainingConfig
from short_training import Stop, small, trained

FEW = torch.randn(6, 2, generator=seeded(1))
OTHERS = torch.randn(400, 2, generator=seeded(2))
# Six points are learned by heart in these steps, and the loss on others rises again.
OVERFIT = TrainingConfig(
    steps=400, batch_size=256, warmup_steps=10, learning_rate=2e-2, ema_decay=0.9
)


_small = partial(small, hidden=(24, 24))
_trained = partial(trained, points=FEW)


def _keep_in(states, steps=range(401)):
    """A callback that keeps the weights of steps."""

    def keep(step, shown):
        states[step] = {name: value.clone() for name, value in shown.state_dict().items()}

    return Snapshots(steps, keep)


@pytest.mark.parametrize("ema_decay", [0.9, None])
def test_validation_changes_no_step_and_the_weights_of_its_lowest_loss_are_kept(ema_decay):
    states = {}
    undisturbed = OVERFIT.model_copy(update={"ema_decay": ema_decay})
    plain = _trained(_small(), undisturbed, callbacks=[_keep_in(states)])
    assert (plain.heldout_losses, plain.best_step, plain.ending) == ((), 400, "finished")
    for patience in (None, 0.3):
        config = undisturbed.model_copy(update={"patience": patience})
        denoiser = _small()
        result = _trained(denoiser, config, heldout=OTHERS)
        looks, num = dict(result.heldout_losses), len(result.losses)
        assert (result.losses == plain.losses[:num]).all()
        assert (result.learning_rates == plain.learning_rates[:num]).all()
        assert list(looks) == list(range(10, num + 1, 10))
        assert result.best_step == min(looks, key=looks.__getitem__)
        assert result.best_step < 300
        assert looks[max(looks)] > 1.1 * looks[result.best_step]
        assert_same_state(denoiser, states[result.best_step])
        assert result.ending == ("finished" if patience is None else "early")
        assert num == (400 if patience is None else result.best_step + 120)


def test_the_held_out_loss_is_the_mean_loss_on_those_points():
    process, denoiser = get_process("cosine"), _small()
    config = OVERFIT.model_copy(update={"steps": 40})
    result = _trained(denoiser, config, heldout=OTHERS)
    generator = seeded(5)
    clean = OTHERS[torch.randint(len(OTHERS), (100_000,), generator=generator)]
    timesteps = torch.randint(1000, (len(clean),), generator=generator)
    noise = torch.randn(clean.shape, generator=generator)
    alpha, sigma = (level.float()[timesteps, None] for level in process.levels())
    with torch.no_grad():
        answer = denoiser(alpha * clean + sigma * noise, timesteps).sample
    errors = (answer - process.target(clean, noise, alpha, sigma)).square().mean(dim=1)
    bound = 4.5 * float(errors.std()) / 256**0.5  # at least 256 points are looked at
    assert dict(result.heldout_losses)[result.best_step] == pytest.approx(
        float(errors.mean()), abs=bound
    )


class Timed(NetworkDenoiser):
    """Takes some seconds for a training step, and a third of them for a batch of a look."""

    def __init__(self, pace, step=0):
        super().__init__(2, hidden=(24, 24))
        self.reset_parameters(seeded(0))
        self.pace, self.step, self.now = pace, step, 0.0

    def forward(self, *args, **options):
        self.now += self.pace(self.step) / (1 if self.training else 3)
        self.step += self.training
        return super().forward(*args, **options)


def _timed(denoiser, config=None, **options):
    config = config or OVERFIT.model_copy(update={"max_seconds": 10})
    wall, processor = (lambda: denoiser.now), (lambda: 0.0)
    if config.processor_seconds is not None:
        wall, processor = processor, wall
    clock = SimpleNamespace(perf_counter=wall, process_time=processor)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "time", clock)
        return _trained(denoiser, config, **options)


def test_the_number_of_steps_follows_from_the_time_they_take():
    # Compiling takes two seconds of the first step, each step a tenth.
    result = _timed(Timed(lambda step: 0.1 if step else 2.0))
    assert len(result.losses) == pytest.approx(30 + (9.5 - 4.9) / 0.1, abs=1)
    assert result.ending == "time"
    assert result.seconds == pytest.approx(9.5, abs=0.2)
    steps = np.arange(30, len(result.losses))
    shares = (steps - 10) / (len(result.losses) - 10)
    expected = OVERFIT.learning_rate * (1 + np.cos(np.pi * shares)) / 2
    assert result.learning_rates[30:] == pytest.approx(expected)
    # What is reserved is not for steps, but a fifth of the time is.
    for reserved, steps in ((3.0, 30 + (6.5 - 4.9) / 0.1), (99.0, 5)):
        short = _timed(Timed(lambda step: 0.1 if step else 2.0), reserved=reserved)
        assert len(short.losses) == pytest.approx(steps, abs=4)
    # Where there is time enough, nothing changes.
    plain = _trained(_small(), OVERFIT)
    fast = _timed(Timed(lambda _: 0.01))
    assert fast.ending == "finished"
    assert (fast.learning_rates == plain.learning_rates).all()
    assert len(fast.losses) == len(plain.losses)


@settings(max_examples=8)
@given(
    paces=st.lists(st.floats(0.02, 0.2), min_size=1, max_size=8),
    heldout=st.sampled_from([None, OTHERS]),
)
def test_a_machine_of_changing_speed_ends_in_time_and_with_a_small_learning_rate(paces, heldout):
    denoiser = Timed(lambda step: paces[step // 40 % len(paces)])
    result = _timed(denoiser, heldout=heldout)
    assert result.seconds <= 10 + 1.5 * max(paces)  # a step and a look
    assert result.ending == ("finished" if len(result.losses) == 400 else "time")
    rates = result.learning_rates[30:]
    assert (np.diff(rates) <= 0).all()
    # Whatever the clock says, it has decayed, unless all time is spent before it is known.
    if result.seconds < 10:
        assert len(rates) == 0 or rates[-1] < 0.3 * OVERFIT.learning_rate


@pytest.mark.parametrize("steps", [1, 900])
def test_seconds_of_the_processor_are_met_whatever_the_speed_and_the_steps_asked_for(steps):
    denoiser = Timed(lambda step: (0.02, 0.06, 0.04)[step // 40 % 3])
    config = OVERFIT.model_copy(update={"processor_seconds": 10, "steps": steps})
    moments = []
    shown = Snapshots([0, steps], lambda step, _: moments.append(step))
    result = _timed(denoiser, config, callbacks=[shown])
    assert result.cpu_seconds == pytest.approx(10, rel=0.05)
    assert moments == [0, len(result.losses)]
    rates = result.learning_rates
    assert len(rates) == len(result.losses)
    assert (np.diff(rates[30:]) <= 0).all()
    assert rates[-1] < 0.01 * OVERFIT.learning_rate


def test_steps_that_are_slow_beyond_hope_stop_at_the_clock():
    result = _timed(Timed(lambda _: 3.0), heldout=OTHERS)
    assert len(result.losses) == 4
    assert result.ending == "time"
    assert [step for step, _ in result.heldout_losses] == [4]


@pytest.mark.parametrize(
    "changes", [{"max_seconds": 10}, {"patience": 0.2}, {"stop": 33}, {}], ids=str
)
def test_the_end_shows_the_model_that_is_kept_and_all_progress_whoever_ends_training(changes):
    shown, reports, stop = {}, [], changes.get("stop", 401)
    denoiser, progress = Timed(lambda _: 0.06), Progress(lambda step, _: reports.append(step))
    keeper = _keep_in(shown, [0, 400])
    callbacks = [lambda run: run.step == stop and run.stop(), keeper, progress]
    config = OVERFIT.model_copy(update={key: changes[key] for key in changes if key != "stop"})
    result = _timed(denoiser, config, heldout=OTHERS, callbacks=callbacks)
    endings = {"max_seconds": "time", "patience": "early", "stop": "stopped"}
    ending = endings.get(next(iter(changes), ""), "finished")
    assert result.ending == ending
    assert (len(result.losses) < 400) == (ending != "finished")
    assert result.heldout_losses[-1][0] == len(result.losses)
    assert list(shown) == [0, len(result.losses)]
    assert_same_state(denoiser, shown[len(result.losses)])
    assert reports == sorted(reports)
    assert reports[-1] == config.steps == 400


@pytest.mark.parametrize(
    ("clock", "moment"), [("max_seconds", 12), ("max_seconds", 50), ("processor_seconds", 200)]
)
def test_a_resumed_run_keeps_its_best_weights_and_its_plan(clock, moment, tmp_path):
    def pace(step):  # the plan changes soon after step 45
        return 0.1 if step < 45 else 0.15

    def stop(step, _):
        stopped.append(step)
        raise Stop

    stopped = []
    config = OVERFIT.model_copy(update={clock: 16.25, "patience": 0.5, "checkpoint_every": 3})
    undisturbed = Timed(pace)
    expected = _timed(undisturbed, config, heldout=OTHERS)
    assert expected.best_step < len(expected.losses)
    kept = {"checkpoint": tmp_path / "state.safetensors", "identity": "a", "heldout": OTHERS}
    with pytest.raises(Stop):
        _timed(Timed(pace), config, **kept, callbacks=[Snapshots([moment], stop)])
    kept_step = stopped[0] - 1 - (stopped[0] - 1) % 3  # a callback comes before the checkpoint
    resumed = Timed(pace, step=kept_step)
    result = _timed(resumed, config, **kept, resume=True)
    assert result.resumed_from == kept_step
    assert_same_state(resumed, undisturbed)
    assert (result.losses == expected.losses).all()
    assert (result.learning_rates == expected.learning_rates).all()
    assert result.heldout_losses == expected.heldout_losses
    assert (result.best_step, result.ending) == (expected.best_step, expected.ending)


def test_a_gpu_is_waited_for_at_both_ends_of_what_is_timed(monkeypatch):
    # It works behind the program, to which a launch takes a millisecond, whatever its work.
    now, busy_until = 0.0, 0.0

    def launch(seconds):
        nonlocal now, busy_until
        now += 0.001
        busy_until = max(now, busy_until) + seconds

    def wait(_):
        nonlocal now
        now = max(now, busy_until)

    clock = SimpleNamespace(perf_counter=lambda: now, process_time=lambda: 0.0)
    monkeypatch.setattr(run, "time", clock)
    monkeypatch.setattr(torch.accelerator, "synchronize", wait)
    of_gpu = run.Clock(torch.device("cuda"))
    for work in (0.2, 0.5):
        launch(30.0)  # of a callback, say
        of_gpu.start()
        launch(work)
        of_gpu.stop()
    assert (of_gpu.wall, of_gpu.processor) == pytest.approx((0.702, 0.702))
