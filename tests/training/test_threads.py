"""The number of threads of a run, on a clock that says how fast each is."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from helpers import assert_same_state, seeded
from kan_diffusion.denoisers import Denoiser, build_denoiser
from kan_diffusion.processes import get_process
from kan_diffusion.training import TrainingConfig, TrainingResult, run, threads, train

POINTS = torch.randn(50, 2, generator=seeded(1))
CONFIG = TrainingConfig(steps=40, batch_size=64, checkpoint_every=10)
TURNS = [2, 2, 1, 1] * 5
"""How many of two threads the first steps are taken by."""


@contextmanager
def _two_threads(seconds: dict[int, float], monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Torch with two threads, where a step takes these seconds; gives the threads of each step."""
    used: list[int] = []
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += seconds[torch.get_num_threads()]
        return now

    advance = run.TrainingRun.advance

    def watched(self: run.TrainingRun, *arguments: object) -> None:
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


def _denoiser() -> Denoiser:
    return build_denoiser("kan", 2, num_train_timesteps=1000, hidden=(8, 8), generator=seeded(0))


def _train(
    denoiser: Denoiser, config: TrainingConfig = CONFIG, **options: object
) -> TrainingResult:
    return train(denoiser, get_process("cosine"), POINTS, config, seed=7, device="cpu", **options)


@pytest.mark.parametrize(("of_two", "chosen"), [(0.5, 2), (0.85, 2), (0.95, 1), (20.0, 1)])
def test_the_faster_number_of_threads_is_chosen(
    of_two: float, chosen: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.INFO, "kan_diffusion"),
        _two_threads({1: 1.0, 2: of_two}, monkeypatch) as used,
    ):
        result = _train(_denoiser())
    assert result.threads == chosen
    assert used == [*TURNS, *[chosen] * 20]
    assert f"training on {chosen} of 2 threads" in caplog.text


def test_of_one_thread_nothing_is_chosen(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "kan_diffusion"):
        assert _train(_denoiser()).threads == 1
    assert "threads" not in caplog.text


@pytest.mark.parametrize("step", [11, 30])
def test_a_resumed_run_goes_on_with_the_threads_it_had(
    step: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    checkpoint = tmp_path / "state.safetensors"
    undisturbed, resumed = _denoiser(), _denoiser()
    with _two_threads({1: 1.0, 2: 0.5}, monkeypatch) as used:
        _train(undisturbed)
        with pytest.raises(KeyboardInterrupt):
            _train(_denoiser(), checkpoint=checkpoint, moments=[step], on_moment=stop)
        assert used == [*TURNS, *[2] * 20, *TURNS, *[2] * 20][: 40 + step]
    # What is measured from now on has no say in what was chosen before.
    rest = {1: 1.0, 2: 0.5 if step < 20 else 2.0}
    with _two_threads(rest, monkeypatch) as used:
        result = _train(resumed, checkpoint=checkpoint, resume=True)
        assert used == [*TURNS, *[2] * 20][step:]
    assert (result.resumed_from, result.threads) == (step, 2)
    assert_same_state(resumed, undisturbed.state_dict())


@pytest.mark.parametrize("limit", [10, 20])  # the choice is cut short by the first
def test_a_time_limit_pays_for_steps_on_the_chosen_threads(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainingConfig(steps=1000, batch_size=64, max_seconds=limit)
    seconds = {1: 0.1, 2: 0.05}
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += seconds[torch.get_num_threads()]
        return now

    with _two_threads(seconds, monkeypatch) as used:
        clocks = SimpleNamespace(perf_counter=clock, process_time=lambda: 0.0)
        monkeypatch.setattr(run, "time", clocks)
        result = _train(_denoiser(), config)
    assert used[20:] == [2] * (len(used) - 20)
    assert result.ending == "time"
    assert result.seconds == pytest.approx(0.95 * limit, abs=0.1)
