from __future__ import annotations

import json
from pathlib import Path

import pytest

from kan_diffusion.data.datasets import load_dataset
from kan_diffusion.errors import KanDiffusionError, RunFolderError
from kan_diffusion.study.calibration import (
    CALIBRATION,
    calibrate,
    estimate_seconds,
    read_calibration,
    shared_calibration,
)
from kan_diffusion.study.config import StudyConfig
from kan_diffusion.study.trial import build
from tiny import tiny_study


def _study(**changes: object) -> StudyConfig:
    """Two models without a size of their own on two data sets."""
    data = [{"toy": toy, "num_points": 200} for toy in ("moons", "mixture-8d")]
    models = [{"family": "kan"}, {"family": "mlp"}]
    return tiny_study(**{"seeds": 2, "data": data, "models": models, **changes})


@pytest.mark.parametrize(
    ("match", "amount", "counted"),
    [
        ("params", 2300, "num_trainable"),
        ("flops", 9000, "flops"),
        ("flops-per-edge", 60_000, "flops_per_edge"),
    ],
)
def test_every_model_meets_the_budget_within_two_percent(
    match: str, amount: int, counted: str
) -> None:
    study = _study(budgets=[{"match": match, "amount": amount}])
    trials = [trial for trial in study.trials() if trial.seed == 0]
    assert len(trials) == 4
    for trial in trials:
        built = build(trial, load_dataset(trial.data, 0, 0))
        assert abs(getattr(built, counted) - amount) <= 0.02 * amount
        assert (trial.match, trial.budget) == (match, amount)


def test_time_is_met_by_the_number_of_steps() -> None:
    study = _study(budgets=[{"match": "time", "amount": 10, "params": 600}])
    uncalibrated = study.trials()
    assert {trial.training.steps for trial in uncalibrated} == {40}
    seconds = {trial.workload: 0.001 * (1 + i) for i, trial in enumerate(uncalibrated[:4])}
    assert len(seconds) == 4  # another one for each model and data set, the same for each seed
    trials = study.trials(seconds)
    assert [trial.training.steps for trial in trials] == [10_000, 5_000, 3_333, 2_500] * 2
    assert {trial.model.params for trial in trials} == {600}
    # The steps decide the outcome, so they are in the id.
    assert {trial.id for trial in trials}.isdisjoint(trial.id for trial in uncalibrated)


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
    ],
    ids=str,
)
def test_budgets_that_make_no_sense_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _study(**changes)


def test_calibration_has_one_positive_time_for_each_workload() -> None:
    models = [{"family": "mlp", "name": str(width), "hidden": [width]} for width in (4, 8)]
    study = _study(models=models, budgets=[{"match": "time", "amount": 1}]).with_data(["moons"])
    seconds = calibrate(study.trials(), workers=1)
    assert set(seconds) == {trial.workload for trial in study.trials()}
    assert all(0 < each < 1 for each in seconds.values())
    assert calibrate([], workers=1) == {}


def test_an_estimate_grows_with_what_is_to_be_done() -> None:
    study = _study(budgets=[{"amount": 600}]).with_data(["moons"])
    trials = study.trials()
    assert estimate_seconds([], 2) == 0
    one, many = (estimate_seconds(trials[:num], 1) for num in (1, 4))
    assert 0 < one < many
    assert estimate_seconds(study.with_length(steps=10**6).trials(), 1) > 2 * many


def test_the_first_calibration_of_a_folder_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = _study(budgets=[{"match": "time", "amount": 1, "params": 600}])
    calls: list[set[str]] = []

    def measured(trials: list[object], workers: int) -> dict[str, float]:
        found = {trial.workload for trial in trials}
        calls.append(found)
        return dict.fromkeys(found, 0.01 * len(calls))

    monkeypatch.setattr("kan_diffusion.study.calibration.calibrate", measured)
    only_kan = study.with_families(["kan"])
    first = shared_calibration(only_kan, tmp_path, 1)
    assert set(first.values()) == {0.01}
    both = shared_calibration(study, tmp_path, 1)
    assert calls[1].isdisjoint(first)
    assert {key: both[key] for key in first} == first
    assert set(both.values()) == {0.01, 0.02}
    assert shared_calibration(study, tmp_path, 1) == both
    assert len(calls) == 2
    assert json.loads((tmp_path / CALIBRATION).read_text()) == both


def test_a_damaged_calibration_is_one_line(tmp_path: Path) -> None:
    (tmp_path / CALIBRATION).write_text("[1]")
    with pytest.raises(RunFolderError, match="is not a calibration"):
        read_calibration(tmp_path)
    assert read_calibration(tmp_path / "elsewhere") == {}
