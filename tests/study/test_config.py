import json
import re

import numpy as np
import pytest

from helpers import refused
from kan_diffusion.data.toys import ToyData
from kan_diffusion.denoisers.families import get_family
from kan_diffusion.processes import get_process
from kan_diffusion.study.config import StudyConfig, preset_names, read_preset, read_study
from make import built

BASE = {
    "name": "mine",
    "title": "My study",
    "data": [{"toy": "moons"}],
    "models": [
        {"name": "KAN", "family": "kan", "params": 600},
        {"name": "MLP", "family": "mlp", "params": 600},
    ],
}


def _study(**changes):
    return StudyConfig.model_validate({**BASE, **changes})


def test_notebook_preset_is_the_notebooks_experiment():
    study = read_preset("notebook")
    networks = [built(trial) for trial in study.trials()]
    assert [network.num_trainable for network in networks] == [22_080, 2_306, 1_600]
    for layer in (*networks[0].kan_layers, *networks[2].kan_layers):
        assert (layer.basis.grid_range, layer.basis.extrapolation) == ((-1.0, 1.0), "zero")
    assert study.training.steps == 8_000
    assert study.training.batches == "epochs"
    assert study.process.num_timesteps == study.sampling.steps == 250
    alpha, _ = study.process.levels()
    assert float(alpha[-1]) ** 2 == pytest.approx(0.855, abs=5e-4)
    (data,) = study.data
    assert data == ToyData(toy="swiss-roll", noise=0.2, num_points=10_000, divide_by=10)


def test_default_preset_matches_its_models_and_reaches_noise():
    study = read_preset("swiss-roll")
    for trial in study.trials()[: len(study.models)]:
        assert built(trial).num_trainable == pytest.approx(2300, rel=0.02)
    assert {get_family(model.family).kind for model in study.models} == {"kan", "mlp"}
    # With so many seeds an exact paired test can find a difference.
    assert 2 / 2**study.seeds < 0.05
    alpha, _ = study.process.levels()
    assert float(alpha[-1]) < 0.05


@pytest.mark.parametrize("name", ["notebook", "swiss-roll"])
def test_presets_are_read_back_from_their_own_yaml(tmp_path, name):
    assert name in preset_names()
    study = read_preset(name)
    path = tmp_path / "study.yaml"
    path.write_text(study.to_yaml())
    again = read_study(path)
    assert again == study.pinned()
    assert [trial.id for trial in again.trials()] == [trial.id for trial in study.trials()]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"data": [{"toy": "circles"}]},
        {"data": [{"toy": "moons", "noise": 0.3}]},
        {"data": [{"toy": "moons", "num_points": 77}]},
        {"process": "ddpm"},
        {"process": {**get_process("cosine").model_dump(), "num_timesteps": 500}},
        {"training": {"learning_rate": 0.123}},
        {"training": {"ema_decay": None}},
        {"training": {"optimizer": "soap"}},
        {"models": [{"name": "KAN", "family": "kan", "hidden": [5]}]},
        {"models": [{"name": "KAN", "family": "kan", "params": 600, "settings": {"grid_size": 7}}]},
        {"models": [{"name": "other", "family": "kan", "params": 600}]},
    ],
    ids=str,
)
def test_trial_id_changes_with_every_setting_of_training(change):
    assert _study(**change).trials()[0].id != _study().trials()[0].id


def test_trial_id_does_not_change_with_what_decides_nothing():
    first = _study().trials()[0]
    renamed = _study(name="other", title="other", question="?", seeds=9).trials()[0]
    alone = _study(models=BASE["models"][:1]).trials()[0]
    recorded = _study(evaluation={"moments": [0.3]}).trials()[0]
    others = (
        {"sampling": {"scheduler": "heun"}},
        {"sampling": {"steps": 9}},
        {"evaluation": {"num_noised": 11}},
        {"evaluation": {"num_levels": 7}},
        {"evaluation": {"effort": "quick"}},
    )
    judged = [_study(**other).trials()[0] for other in others]
    assert {first.id} == {trial.id for trial in (renamed, alone, recorded, *judged)}
    assert recorded.judgement.id == first.judgement.id
    assert len({trial.judgement.id for trial in (first, *judged)}) == 6


def test_models_may_have_an_optimizer_and_a_learning_rate_of_their_own():
    kan, mlp = BASE["models"]
    models = [{**kan, "optimizer": "muon"}, {**mlp, "learning_rate": 0.5}]
    own, other = _study(models=models, training={"learning_rate": 0.25}).trials()[:2]
    assert (own.training.optimizer, own.training.learning_rate) == ("muon", 0.25)
    assert (other.training.optimizer, other.training.learning_rate) == ("adam", 0.5)


def test_ids_of_a_study_are_distinct_and_grow_with_its_seeds():
    few, many = ([trial.id for trial in _study(seeds=seeds).trials()] for seeds in (2, 5))
    assert len(set(many)) == len(many) == 10
    assert many[:4] == few
    # Folders of names that differ in case alone are others on all systems.
    models = [{"name": name, "family": "kan", "params": 600} for name in ("KAN", "kan")]
    assert len({trial.id.lower() for trial in _study(models=models, seeds=1).trials()}) == 2


def test_a_budget_of_time_is_for_the_clock_of_each_trial():
    def trials(**budget):
        models = [{"family": "kan"}, {"family": "mlp"}]
        return _study(models=models, budget=budget, seeds=1).trials()

    timed, longer = (trials(match="time", amount=n, params=600) for n in (10, 11))
    assert {(trial.training.processor_seconds, trial.model.params) for trial in timed} == (
        {(10, 600)}
    )
    # The seconds decide the outcome, so they are in the id; how fast the machine is does not.
    plain = trials(amount=600)
    assert {trial.training.processor_seconds for trial in plain} == {None}
    assert len({trial.id for trial in (*timed, *plain, *longer)}) == 6


def test_a_file_counts_by_content_and_name(tmp_path):
    def trial_id(folder, name, seed):
        path = tmp_path / folder / name
        path.parent.mkdir(exist_ok=True)
        np.save(path, np.random.default_rng(seed).normal(size=(20, 2)))
        return _study(data=[{"path": str(path)}]).pinned().trials()[0].id

    original = trial_id("here", "points.npy", 0)
    assert trial_id("there", "points.npy", 0) == original
    assert trial_id("here", "points.npy", 1) != original
    assert trial_id("here", "others.npy", 0) != original


def test_only_the_first_seed_records_pictures():
    moments = [bool(trial.evaluation.moments) for trial in _study(seeds=3).trials()]
    assert moments == [True, True, False, False, False, False]


def test_families_are_selected():
    study = _study().only(families=["mlp"])
    assert [model.name for model in study.models] == ["MLP"]
    for name in ("kan", "my_families:MINE"):
        with refused(f"unknown family of study 'mine' '{name}'; known: mlp"):
            study.only(families=[name])


def test_a_length_that_is_not_for_all_trials_is_said(caplog):
    models = [{"name": "long", "family": "mlp", "steps": 9}, {"family": "kan"}]
    study = _study(models=models, budget={"match": "time", "amount": 1})
    assert study.with_steps(12).training.steps == 12
    assert caplog.messages == [
        "steps are not for all trials: a budget of time settles their number itself; "
        "model 'long' has its own"
    ]
    with refused("training: steps = 0"):
        study.with_steps(0)


@pytest.mark.parametrize(
    ("change", "place", "reason"),
    [
        ({"models": [{"name": "K", "family": "kann", "params": 9}]}, "models.0", "mean 'kan'"),
        ({"process": "cosin"}, "process = 'cosin'", "did you mean 'cosine'"),
        ({"process": ["cosine", "flow"]}, "process", "one process, not 2; write a file for each"),
        ({"budget": [{"amount": 3}] * 3}, "budget", "one budget, not 3; write a file for each"),
        ({"sampling": {"scheduler": "huen"}}, "of process 'cosine' 'huen'", "mean 'heun'"),
        ({"data": [{"toy": "mons"}]}, "data.0", "did you mean 'moons'"),
        ({"data": [{"path": "a.csv", "holdout": 3}]}, "holdout = 3", "less than 1"),
        ({"data": [{"tyo": "moons"}]}, "data.0", "one of the keys toy, table, pictures, path"),
        ({"data": [{"toy": "moons", "nois": 1}]}, "data.0", "did you mean 'noise'"),
        ({"data": BASE["data"] * 2}, "settings", "two data sets are called 'moons'"),
        ({"data": [{"toy": "moons", "conditional": True}]}, "data.0", "key 'conditional'"),
        ({"training": {"step": 3}}, "training", "unknown key 'step', did you mean 'steps'"),
        ({"training": {"learning_rate": ".nan"}}, "training.learning_rate", "number"),
        ({"evaluation": {"num_samples": 1}}, "num_samples", "one sample cannot be judged"),
        ({"colour": "red"}, "settings", "unknown key 'colour'; known: budget, data, "),
        ({"models": [{"name": "K", "family": "kan"}]}, "settings", "either params or hidden"),
        ({"models": BASE["models"][:1] * 2}, "settings", "two models are called 'KAN'"),
        ({"models": [{"family": "kan", "params": 6, "hidden": [3]}]}, "models.0", "has params and"),
        ({"budget": {"amount": 600}}, "settings", "has a size of its own (params)"),
        ({"budget": {"match": "flop", "amount": 600}}, "budget.match", "'params', 'flops'"),
        ({"budget": {"amount": -1}}, "budget.amount", "greater than 0"),
        ({"budget": {"amount": 600.5}}, "budget", "is a whole number"),
        # Names that are no names of folders.
        ({"name": "../../x"}, "name", "no '/'"),
        ({"name": "a\nb"}, "name", "not seen"),
        ({"name": "x" * 101}, "name", "at most 100 characters and 200 bytes, not 101"),
        ({"name": "日" * 100}, "name", "not 100 and 300"),
        ({"name": "."}, "name", "no '/'"),
        *(
            ({"name": name}, "name", "no ':' and no dot or space at its end")
            for name in ("D:x", "a dot.", "a space ")
        ),
        # Sizes beyond every machine.
        ({"seeds": 10**9}, "seeds", "than or equal to 10000"),
        ({"training": {"steps": 10**12}}, "training.steps", "equal to 10000000"),
        ({"models": [{"family": "mlp", "params": 10**12}]}, "params", "equal to 100000000"),
        ({"models": [{"family": "mlp", "hidden": [8] * 200}]}, "hidden", "at most 100"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_wrong_settings_are_one_line_that_names_them(tmp_path, change, place, reason):
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps({**BASE, **change}))
    with refused(f"^study file '{re.escape(str(path))}': ") as caught:
        read_study(path)
    assert place in str(caught.value)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name: [unclosed", "is not YAML"),
        (b"- 1", "valid dictionary"),
        (b"", "name: Field required"),
        (b"name: &mine x\ntitle: *mine", "anchors are not read, .* alias .*; write it out"),
        (b"seed: 1\nname: x\nseed: 2", "'seed' stands twice; keep one"),
        (b"seed: 0x" + b"f" * 99, "a number of more than 20 digits"),
        (b"\xff\xfe\x00", r"study\.yaml' cannot be read"),
        (None, r"study\.yaml' cannot be read"),
    ],
)
def test_a_file_that_is_no_study_is_one_line(tmp_path, content, message):
    path = tmp_path / "study.yaml"
    if content is not None:
        path.write_bytes(content)
    with refused(message) as caught:
        read_study(path)
    assert str(path) in str(caught.value)


def test_a_name_of_no_preset_is_refused():
    with refused("unknown study 'notebok', did you mean 'notebook'"):
        read_preset("notebok")
