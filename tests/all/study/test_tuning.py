import optuna

from kan_diffusion.study import tuning
from kan_diffusion.study.tuning import apply_tuned, tune
from make import budgeted_study as _study

ONE = {"models": [{"family": "mlp"}], "data": [{"toy": "moons", "num_points": 300}]}


def test_a_free_size_is_tuned_like_other_settings(executor, tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "SIZES", (900, 2300))
    config = _study(**ONE, budget={"match": "time", "amount": 1.0})
    found = tune(config, tmp_path, tries=4, executor=executor)
    tried = found.tries["settings"].tolist()
    assert tried[0]["params"] == 2300
    assert {each["params"] for each in tried} == {900, 2300}
    best = found.best["mlp"].params
    assert [trial.model.params for trial in apply_tuned(config, found.best).trials()] == [best]
    # A study that gives sizes itself keeps them.
    sized = config.model_copy(update={"budget": _study().budget})
    assert [trial.model.params for trial in apply_tuned(sized, found.best).trials()] == [900]


def test_a_try_whose_driver_died_is_taken_up(tmp_path, executor):
    config, storage = _study(**ONE), f"sqlite:///{tmp_path / 'tuning.db'}"
    tune(config, tmp_path, tries=1, executor=executor)
    (name,) = optuna.get_all_study_names(storage)
    rates, depths = optuna.distributions.FloatDistribution, optuna.distributions.IntDistribution
    lost = optuna.load_study(study_name=name, storage=storage).ask(
        {"learning_rate": rates(5e-3, 5e-2, log=True), "depth": depths(3, 7)}
    )
    for key, value in (("host", "elsewhere"), ("pid", 1), ("seen", 0.0)):
        lost.set_user_attr(key, value)
    rows = tune(config, tmp_path, tries=2, executor=executor).tries
    assert rows["try"].tolist() == [0, 1]
    # With six digits, so that another processor's last ones make no other trial.
    rate = float(f"{lost.params['learning_rate']:.6g}")
    assert rows["settings"].tolist()[1]["learning_rate"] == rate
