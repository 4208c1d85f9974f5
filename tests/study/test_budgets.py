from __future__ import annotations

from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest

from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.study.calibration import estimate_seconds, step_seconds
from kan_diffusion.study.config import StudyConfig, TrialConfig
from kan_diffusion.study.trial import run_trial
from kan_diffusion.training import run as training
from tiny import EVALUATION, tiny_study


def _study(**changes: object) -> StudyConfig:
    """Two models without a size of their own on two data sets."""
    data = [{"toy": toy, "num_points": 200} for toy in ("moons", "mixture-8d")]
    models = [{"family": "kan"}, {"family": "mlp"}]
    return tiny_study(**{"seeds": 2, "data": data, "models": models, **changes})


def test_a_budget_of_time_is_for_the_clock_of_each_trial() -> None:
    study = _study(budgets=[{"match": "time", "amount": 10, "params": 600}])
    trials = study.trials()
    assert {trial.training.processor_seconds for trial in trials} == {10}
    assert {trial.model.params for trial in trials} == {600}
    # The seconds decide the outcome, so they are in the id; how fast the machine is does not.
    plain = _study(budgets=[{"match": "params", "amount": 600}]).trials()
    assert {trial.training.processor_seconds for trial in plain} == {None}
    longer = _study(budgets=[{"match": "time", "amount": 11, "params": 600}]).trials()
    assert len({trial.id for trial in (*trials, *plain, *longer)}) == 24
    assert "processor_seconds" not in plain[0].identity


def test_a_trial_ends_at_its_budget_of_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The clock is read before and after each step, which therefore takes a hundredth of a second.
    ticks = count()
    clock = SimpleNamespace(perf_counter=lambda: 0.0, process_time=lambda: next(ticks) / 100)
    monkeypatch.setattr(training, "time", clock)
    budget = {"match": "time", "amount": 1.5, "params": 600}
    evaluation = {**EVALUATION, "num_samples": 0, "moments": [0, 0.5]}
    study = _study(models=[{"family": "mlp"}], budgets=[budget], evaluation=evaluation)
    trial = study.with_data(["moons"]).trials()[0]
    assert trial.training.steps == 40  # seconds, not steps, decide
    result = run_trial(trial, tmp_path, device="cpu")
    assert result.row["steps"] == 150
    assert result.row["train_cpu_seconds"] == pytest.approx(1.5)
    assert {path.stem for path in (tmp_path / "reverse").iterdir()} == {"0", "75", "150"}


def test_budgets_may_be_for_some_data_and_models_only() -> None:
    study = _study(
        budgets=[
            {"match": "params", "amount": 600},
            {"match": "params", "amount": 900, "data": ["moons"], "models": ["MLP"]},
        ]
    )
    settings = [
        (trial.budget, trial.data.name, trial.model.name)
        for trial in study.trials()
        if trial.seed == 1
    ]
    assert settings == [
        (600, "moons", "KAN"),
        (600, "moons", "MLP"),
        (600, "mixture-8d", "KAN"),
        (600, "mixture-8d", "MLP"),
        (900, "moons", "MLP"),
    ]
    assert len({trial.id for trial in study.trials()}) == 10
    fewer = study.with_data(["mixture-8d"])
    assert [budget.amount for budget in fewer.budgets] == [600]
    assert study.with_families(["kan"]).budgets == study.budgets[:1]
    with pytest.raises(KanDiffusionError, match="unknown data set of study 'tiny' 'elsewhere'"):
        study.with_data(["elsewhere"])
    assert study.with_data(["moons", "moons"]) == study.with_data(["moons"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "model 'KAN' needs either params or hidden widths, or a budget with a size"),
        (
            {
                "budgets": [{"amount": 600}],
                "models": [{"family": "kan", "params": 600}],
            },
            "model 'KAN' has a size of its own .params. and a budget gives it another",
        ),
        (
            {"models": [{"family": "kan", "params": 600, "hidden": [3]}]},
            "model 'KAN' has params and hidden",
        ),
        ({"budgets": [{"amount": 600, "data": ["moon"]}]}, "did you mean 'moons'"),
        ({"budgets": [{"amount": 600, "models": ["MPL"]}]}, "did you mean 'MLP'"),
        ({"budgets": [{"match": "flop", "amount": 600}]}, "'params', 'flops'"),
        ({"budgets": [{"match": "params", "amount": 600.5}]}, "whole number"),
        ({"budgets": [{"match": "params", "amount": -1}]}, "greater than 0"),
        ({"budgets": [{"match": "flops", "amount": 600, "params": 3}]}, "has no params beside it"),
        (
            {"budgets": [{"match": "time", "amount": 8, "params": size} for size in (600, 900)]},
            "two budgets of time give 'KAN' on 'moons' the same amount, 8,",
        ),
    ],
    ids=str,
)
def test_budgets_that_make_no_sense_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _study(**changes)


def test_a_step_takes_a_positive_time() -> None:
    study = _study(models=[{"family": "mlp", "hidden": [4]}]).with_data(["moons"])
    assert 0 < step_seconds(study.trials()[0], rounds=1, steps=5) < 1


def test_an_estimate_grows_with_what_is_to_be_done(monkeypatch: pytest.MonkeyPatch) -> None:
    study = _study(budgets=[{"amount": 600}]).with_data(["moons"])
    trials = study.trials()
    assert estimate_seconds([], 2) == 0
    one, many = (estimate_seconds(trials[:num], 1) for num in (1, 4))
    assert 0 < one < many
    assert estimate_seconds(study.with_length(steps=10**6).trials(), 1) > 2 * many
    # How long a step takes is known from here on.
    monkeypatch.setattr("kan_diffusion.study.calibration.step_seconds", lambda *_: 0.01)
    digits = {
        "data": [{"pictures": "digits"}],
        "models": [{"family": "dit", "params": 100_000, "depth": 1}],
    }
    drawn, trained = (
        estimate_seconds(_study(**digits, evaluation={"num_samples": num}).trials()[:1], 1)
        for num in (4_000, 0)
    )
    assert drawn > 2 * trained
    timed = _study(budgets=[{"match": "time", "amount": 100, "params": 600}]).trials()
    assert estimate_seconds(timed, 4) - estimate_seconds(timed, 8) == pytest.approx(100, rel=0.01)


def test_a_model_is_timed_at_each_size(monkeypatch: pytest.MonkeyPatch) -> None:
    def made_up(trial: TrialConfig, *_: int) -> float:
        return 1e-3 * (trial.model.params or 0)

    monkeypatch.setattr("kan_diffusion.study.calibration.step_seconds", made_up)
    trials = _study(budgets=[{"amount": 600}, {"amount": 60_000}]).trials()
    assert estimate_seconds(trials, 1) == pytest.approx(estimate_seconds(trials[::-1], 1))
