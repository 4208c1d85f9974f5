"""The number of threads of a run, on a clock that says how fast each is."""

import logging
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from helpers import assert_same_state
from kan_diffusion.training import TrainingConfig, run, threads
from short_training import small, stopped_at, trained

CONFIG = TrainingConfig(steps=40, batch_size=64, checkpoint_every=10)
TURNS = [2, 2, 1, 1] * 5
"""How many of two threads the first steps are taken by."""


@contextmanager
def _two_threads(seconds, monkeypatch):
    """Torch with two threads, where a step takes these seconds; gives the threads of each step."""
    used = []
    now = 0.0

    def clock():
        nonlocal now
        now += seconds[torch.get_num_threads()]
        return now

    advance = run.TrainingRun.advance

    def watched(self, *arguments):
        advance(self, *arguments)
        used.append(torch.get_num_threads())

    with monkeypatch.context() as patch:
        patch.setattr(threads, "time", SimpleNamespace(perf_counter=clock))
        patch.setattr(run.TrainingRun, "advance", watched)
        torch.set_num_threads(2)
        try:
            yield used
            assert torch.get_num_threads() == 2
        finally:
            torch.set_num_threads(1)


def _kan():
    return small("kan", (8, 8))


def _train(denoiser, config=CONFIG, **options):
    return trained(denoiser, config, **options)


@pytest.mark.parametrize(("of_two", "chosen"), [(0.5, 2), (0.85, 2), (0.95, 1), (20.0, 1)])
def test_the_faster_number_of_threads_is_chosen(of_two, chosen, monkeypatch, caplog):
    with (
        caplog.at_level(logging.INFO, "kan_diffusion"),
        _two_threads({1: 1.0, 2: of_two}, monkeypatch) as used,
    ):
        result = _train(_kan())
    assert result.threads == chosen
    assert used == [*TURNS, *[chosen] * 20]
    assert f"training on {chosen} of 2 threads" in caplog.text


def test_of_one_thread_nothing_is_chosen(caplog):
    with caplog.at_level(logging.INFO, "kan_diffusion"):
        assert _train(_kan()).threads == 1
    assert "threads" not in caplog.text


@pytest.mark.parametrize("step", [11, 30])
def test_a_resumed_run_goes_on_with_the_threads_it_had(step, monkeypatch, tmp_path):
    checkpoint = tmp_path / "state.safetensors"
    undisturbed, resumed = _kan(), _kan()
    with _two_threads({1: 1.0, 2: 0.5}, monkeypatch) as used:
        _train(undisturbed)
        with pytest.raises(KeyboardInterrupt):
            _train(_kan(), checkpoint=checkpoint, **stopped_at(step, KeyboardInterrupt))
        assert used == [*TURNS, *[2] * 20, *TURNS, *[2] * 20][: 40 + step]
    # What is measured from now on has no say in what was chosen before.
    rest = {1: 1.0, 2: 0.5 if step < 20 else 2.0}
    with _two_threads(rest, monkeypatch) as used:
        result = _train(resumed, checkpoint=checkpoint, resume=True)
        assert used == [*TURNS, *[2] * 20][step:]
    assert (result.resumed_from, result.threads) == (step, 2)
    assert_same_state(resumed, undisturbed.state_dict())


@pytest.mark.parametrize("limit", [10, 20])  # the choice is cut short by the first
def test_a_time_limit_pays_for_steps_on_the_chosen_threads(limit, monkeypatch):
    config = TrainingConfig(steps=1000, batch_size=64, max_seconds=limit)
    seconds = {1: 0.1, 2: 0.05}
    now = 0.0

    def clock():
        nonlocal now
        now += seconds[torch.get_num_threads()]
        return now

    with _two_threads(seconds, monkeypatch) as used:
        clocks = SimpleNamespace(perf_counter=clock, process_time=lambda: 0.0)
        monkeypatch.setattr(run, "time", clocks)
        result = _train(_kan(), config)
    assert used[20:] == [2] * (len(used) - 20)
    assert result.ending == "time"
    assert result.seconds == pytest.approx(0.95 * limit, abs=0.1)
