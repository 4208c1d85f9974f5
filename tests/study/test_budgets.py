from itertools import count
from types import SimpleNamespace

import pytest

from kan_diffusion.study.trial import run_trial
from kan_diffusion.training import run as training
from make import EVALUATION, study


def _study(**changes):
    data = [{"toy": toy, "num_points": 200} for toy in ("moons", "mixture-8d")]
    models = [{"family": "kan"}, {"family": "mlp"}]
    return study(**{"seeds": 2, "data": data, "models": models, **changes})


def test_a_budget_of_time_is_for_the_clock_of_each_trial():
    trials = _study(budget={"match": "time", "amount": 10, "params": 600}).trials()
    assert {trial.training.processor_seconds for trial in trials} == {10}
    assert {trial.model.params for trial in trials} == {600}
    # The seconds decide the outcome, so they are in the id; how fast the machine is does not.
    plain = _study(budget={"match": "params", "amount": 600}).trials()
    assert {trial.training.processor_seconds for trial in plain} == {None}
    longer = _study(budget={"match": "time", "amount": 11, "params": 600}).trials()
    assert len({trial.id for trial in (*trials, *plain, *longer)}) == 24


def test_a_trial_ends_at_its_budget_of_time(tmp_path, monkeypatch):
    # The clock is read before and after each step, which therefore takes a hundredth of a second.
    ticks = count()
    clock = SimpleNamespace(perf_counter=lambda: 0.0, process_time=lambda: next(ticks) / 100)
    monkeypatch.setattr(training, "time", clock)
    budget = {"match": "time", "amount": 1.5, "params": 600}
    evaluation = {**EVALUATION, "num_samples": 0, "moments": [0, 0.5]}
    timed = _study(models=[{"family": "mlp"}], budget=budget, evaluation=evaluation)
    trial = timed.with_data(["moons"]).trials()[0]
    assert trial.training.steps == 40  # seconds, not steps, decide
    result = run_trial(trial, tmp_path, device="cpu")
    assert result.row["steps"] == 150
    assert result.row["train_cpu_seconds"] == pytest.approx(1.5)
    assert {path.stem for path in (tmp_path / "reverse").iterdir()} == {"0", "75", "150"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "model 'KAN' needs either params or hidden widths, or a budget with a size"),
        (
            {"models": [{"family": "kan", "params": 600, "hidden": [3]}]},
            "model 'KAN' has params and hidden",
        ),
        ({"budget": {"match": "flop", "amount": 600}}, "'params', 'flops'"),
        ({"budget": {"match": "params", "amount": -1}}, "greater than 0"),
    ],
    ids=str,
)
def test_budgets_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        _study(**changes)
