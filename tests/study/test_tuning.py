import json
import math
from functools import partial

import pytest

from helpers import refused
from kan_diffusion.denoisers.families import get_family
from kan_diffusion.errors import RunFolderError
from kan_diffusion.study import tuning
from kan_diffusion.study.config import ModelConfig
from kan_diffusion.study.folder import load_trial
from kan_diffusion.study.tuning import apply_tuned, read_tuned, tune
from make import budgeted_study as _study
from make import written
from one_by_one import one_by_one
from runs import copied

ONE = {"models": [{"family": "mlp"}], "data": [{"toy": "moons", "num_points": 300}]}
"""A family and a data set."""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return tune(_study(), tmp_path_factory.mktemp("tuning"), tries=3, executor=one_by_one)


def _rounded(value):
    """With six digits, so that another processor's last ones make no other trial."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _listed(settings):
    return {key: list(v) if isinstance(v, tuple) else v for key, v in settings.items()}


def test_every_family_gets_as_many_tries_and_the_best_one_wins(found):
    best_of = read_tuned(found.path)
    assert found.tries.keys() == best_of.keys() == {"kan", "mlp"}
    for name, tries in found.tries.items():
        assert [each.family for each in tries] == [name] * 3
        good, chosen = [each for each in tries if each.error is None], best_of[name]
        best = min(good, key=lambda each: each.value).settings
        assert chosen.learning_rate == _rounded(best["learning_rate"])
        assert chosen.depth == best["depth"]
        # Also those that are the family's own: they take the place of a study's.
        usual = {key: best[key] for key in best.keys() - {"learning_rate", "depth"}}
        for key, value in usual.items():
            assert _rounded(chosen.settings[key]) == _rounded(value)


def test_a_try_is_worth_the_mean_log_of_what_its_trials_measured(found):
    folder = found.path.parent
    for each in (each for tries in found.tries.values() for each in tries):
        trials = [load_trial(folder / "trials" / trial) for trial in each.trials]
        excesses = {trial.config.data.name: trial.row["excess"] for trial in trials}
        assert excesses == each.measures
        assert excesses.keys() == {"gaussian-mixture", "eight-gaussians"}
        assert each.value == pytest.approx(sum(math.log(e) for e in excesses.values()) / 2)
        # Neither seeds nor draws are those of a reported study.
        assert {trial.config.study_seed for trial in trials} == {1_000_000}
        for trial in trials:
            assert trial.config.model.learning_rate == _rounded(each.settings["learning_rate"])
            assert trial.row["parameters"] == pytest.approx(900, rel=0.02)


def test_optimizers_batches_and_free_sizes_are_tuned_like_other_settings(tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "SIZES", (900, 2300))
    names, sizes = ("soap", "muon"), (8, 16)
    free = _study(**ONE, budget={"match": "time", "amount": 0.1})
    search = partial(tune, free, tmp_path, executor=one_by_one)
    found = search(tries=4, optimizers=names, batch_sizes=sizes)
    tried = [each.settings["params"] for each in found.tries["mlp"]]
    assert tried[0] == 2300
    assert set(tried) == {900, 2300}
    for each in found.tries["mlp"]:
        (trial,) = (load_trial(tmp_path / "trials" / trial) for trial in each.trials)
        training = trial.config.training
        assert training.optimizer == each.settings["optimizer"]
        assert training.optimizer in names
        assert training.batch_size == each.settings["batch_size"]
        assert training.batch_size in sizes
        assert trial.config.model.params == each.settings["params"]
    best = read_tuned(found.path)
    (tuned,) = apply_tuned(free, best).trials()
    chosen = best["mlp"]
    assert (tuned.training.optimizer, tuned.training.batch_size) == (
        chosen.optimizer,
        chosen.batch_size,
    )
    assert tuned.model.params == chosen.params
    # A study that gives sizes itself keeps them.
    (sized,) = apply_tuned(_study(**ONE), best).trials()
    assert sized.model.params == 900
    # A search without that choice in the same folder is another one.
    plain = read_tuned(search(tries=1).path)["mlp"]
    assert (plain.optimizer, plain.batch_size) == ("adam", None)


def test_a_finished_search_is_not_run_again_and_a_longer_one_goes_on(found, tmp_path):
    folder, events = copied(found.path.parent, tmp_path / "copy"), []
    again = tune(_study(), folder, tries=3, executor=one_by_one, on_event=events.append)
    assert events == []
    assert again.tries == found.tries
    assert read_tuned(again.path) == read_tuned(found.path)
    assert len((folder / "tuning.json").read_text().splitlines()) == 2 + 6  # one a line
    longer = tune(_study(models=[{"family": "mlp"}]), folder, tries=4, executor=one_by_one)
    assert longer.tries["mlp"][:3] == found.tries["mlp"]
    assert len(longer.tries["mlp"]) == 4


def test_an_interrupted_search_tries_what_an_undisturbed_one_does(tmp_path):
    """Also where the tries before it decide, after the first six."""
    config = _study(**ONE)

    def interrupted(tasks):
        for number, event in enumerate(one_by_one(tasks)):
            yield event
            if number == 0:
                raise KeyboardInterrupt

    whole = tune(config, tmp_path / "whole", tries=9, executor=one_by_one).tries
    for tries in (4, 8):
        tune(config, tmp_path / "parts", tries=tries, executor=one_by_one)
        with pytest.raises(KeyboardInterrupt):
            tune(config, tmp_path / "parts", tries=9, executor=interrupted)
    assert tune(config, tmp_path / "parts", tries=9, executor=one_by_one).tries == whole


def test_tuned_settings_go_into_a_study(found, caplog):
    tuned = read_tuned(found.path)
    for trial in apply_tuned(_study(), tuned).trials():
        best, model = tuned[trial.model.family], trial.model
        assert trial.training.learning_rate == best.learning_rate
        assert model.depth == best.depth
        own = {**get_family(model.family).settings, **best.settings}
        assert _listed(model.settings) == _listed(own)
    assert apply_tuned(_study(), {}) == _study()
    # A setting that a search left as it was stays as it was.
    caplog.clear()
    settings = {"grid_size": 6}
    one = ModelConfig(family="modulated-kan", depth=3, learning_rate=0.01, settings=settings)
    both = _study(models=[{"family": "modulated-kan"}, {"family": "mlp"}])
    model, _ = apply_tuned(both, {one.family: one}).pinned().models
    assert model.settings["grid_size"] == 6
    left = get_family("modulated-kan").settings["grid_range"]
    assert list(model.settings["grid_range"]) == list(left)
    assert caplog.messages == ["no tuned settings are known for MLP; left as they are"]
    twins = [{"family": one.family, "name": f"{depth} layers", "depth": depth} for depth in (1, 2)]
    with refused("models '1 layers' and '2 layers' are the same; keep one"):
        apply_tuned(_study(models=twins), {one.family: one})


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"budget": None, "models": [{"family": "kan", "params": 900}]}, {}, "no budget"),
        ({"models": [{"family": "kan"}, {"family": "kan", "name": "b"}]}, {}, "more than once"),
        ({}, {"optimizers": ["sgd"]}, "unknown optimizer 'sgd'"),
        # A try that fails counts and says why: 3 parameters are too few for all depths.
        ({"budget": {"amount": 3}}, {}, "no try of 'kan' gave a result; .*too small"),
    ],
    ids=["budget", "twice", "optimizer", "small"],
)
def test_what_cannot_be_tuned_is_one_line(tmp_path, changes, options, message):
    with refused(message):
        tune(_study(**changes), tmp_path, tries=2, executor=one_by_one, **options)


def test_a_study_in_the_way_is_refused(tmp_path):
    (tmp_path / "study.yaml").write_text(_study().to_yaml())
    before = written(tmp_path)
    with refused(r"holds another study \(seed 0.*choose another folder", RunFolderError):
        tune(_study(), tmp_path, tries=1)
    assert written(tmp_path) == before


def test_a_file_of_other_things_is_one_line(tmp_path):
    path = tmp_path / "tuned.json"
    for content in ("[1]", "{", json.dumps({"kan": {"depth": "3"}}), "3"):
        path.write_text(content)
        with refused("is not a file of tuned settings"):
            read_tuned(path)
