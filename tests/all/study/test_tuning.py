from kan_diffusion.study import tuning
from kan_diffusion.study.tuning import apply_tuned, read_tuned, tune
from make import budgeted_study as _study

ONE = {"models": [{"family": "mlp"}], "data": [{"toy": "moons", "num_points": 300}]}


def test_a_free_size_is_tuned_like_other_settings(executor, tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "SIZES", (900, 2300))
    config = _study(**ONE, budget={"match": "time", "amount": 1.0})
    found = tune(config, tmp_path, tries=4, executor=executor)
    tried = [each.settings["params"] for each in found.tries["mlp"]]
    assert tried[0] == 2300
    assert set(tried) == {900, 2300}
    best = read_tuned(found.path)
    assert [trial.model.params for trial in apply_tuned(config, best).trials()] == [
        best["mlp"].params
    ]
    # A study that gives sizes itself keeps them.
    sized = config.model_copy(update={"budget": _study().budget})
    assert [trial.model.params for trial in apply_tuned(sized, best).trials()] == [900]
