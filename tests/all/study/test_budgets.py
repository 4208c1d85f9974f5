"""Studies of several budgets."""

import pytest

from helpers import refused
from kan_diffusion.study.run import run_study
from make import study


def _study(**changes):
    data = [{"toy": toy, "num_points": 200} for toy in ("moons", "mixture-8d")]
    models = [{"family": "kan"}, {"family": "mlp"}]
    return study(**{"seeds": 2, "data": data, "models": models, **changes})


def test_budgets_may_be_for_some_data_and_models_only():
    some = {"match": "params", "amount": 900, "data": ["moons"], "models": ["MLP"]}
    several = _study(budgets=[{"match": "params", "amount": 600}, some])
    trials = several.trials()
    assert [(t.budget, t.data.name, t.model.name) for t in trials if t.seed == 1] == [
        (600, "moons", "KAN"),
        (600, "moons", "MLP"),
        (600, "mixture-8d", "KAN"),
        (600, "mixture-8d", "MLP"),
        (900, "moons", "MLP"),
    ]
    assert len({trial.id for trial in trials}) == 10
    assert [b.amount for b in several.with_data(["mixture-8d"]).budgets] == [600]
    assert several.with_families(["kan"]).budgets == several.budgets[:1]
    with refused("unknown data set of study 'tiny' 'elsewhere'"):
        several.with_data(["elsewhere"])
    assert several.with_data(["moons", "moons"]) == several.with_data(["moons"])


@pytest.mark.parametrize(
    ("budgets", "message"),
    [
        ([{"amount": 600, "data": ["moon"]}], "did you mean 'moons'"),
        ([{"amount": 600, "models": ["MPL"]}], "did you mean 'MLP'"),
        (
            [{"match": "time", "amount": 8, "params": size} for size in (600, 900)],
            "two budgets of time give 'KAN' on 'moons' the same amount, 8,",
        ),
    ],
    ids=["data", "models", "time"],
)
def test_budgets_for_nothing_are_refused(budgets, message):
    with pytest.raises(ValueError, match=message):
        _study(budgets=budgets)


def test_what_no_budget_is_for_is_said(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    config = study(
        data=[{"toy": "moons"}, {"toy": "circles"}],
        models=[{"family": "kan"}, {"family": "mlp"}],
        budgets=[{"amount": 600, "models": ["MLP"], "data": ["moons"]}],
    )
    with refused("is a file"):
        run_study(config, tmp_path / "file")
    assert caplog.messages == [
        "no budget of study 'tiny' is for 'KAN', 'circles': nothing of it is trained; name it in a "
        "budget, or take it out"
    ]
