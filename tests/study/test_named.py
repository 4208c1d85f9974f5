import numpy as np
import pytest

from helpers import refused
from kan_diffusion.data.sources import data_from_name, load_dataset
from kan_diffusion.data.toys import ToyData
from kan_diffusion.denoisers.families import FAMILIES
from kan_diffusion.study.config import read_preset
from kan_diffusion.study.named import single_trial, study_for
from kan_diffusion.tables.sources import FileData
from make import budgeted_study, built, denoiser, suggested


@pytest.fixture
def points(tmp_path):
    path = tmp_path / "points.npy"
    np.save(path, np.random.default_rng(0).normal(size=(40, 3)))
    return path


def test_models_with_sizes_of_their_own_get_no_other_one(tmp_path):
    models = [{"family": "kan"}, {"family": "mlp", "params": 900}]
    path, budget = tmp_path / "mine.yaml", {"match": "time", "amount": 8}
    path.write_text(budgeted_study(name="mine", models=models, budget=budget).to_yaml())
    assert study_for(str(path)).name == "mine"
    assert study_for(str(path), match="time", budget="6").budget.amount == 6
    with refused(f"^study '{path}': .*model 'MLP' has a size of its own .params.*; leave one out"):
        study_for(str(path), match="params", budget="600")


def test_a_toy_gets_families_of_both_kinds_at_one_size():
    params = 600
    study = study_for("moons", params)
    assert study.data == (ToyData(toy="moons"),)
    assert {"kan", "mlp"} <= {FAMILIES[model.family].kind for model in study.models}
    assert study.seeds == 10  # with fewer, an exact test has little to say
    for trial in study.trials()[: len(study.models)]:
        assert trial.training.learning_rate == FAMILIES[trial.model.family].learning_rate
        assert built(trial).num_trainable == pytest.approx(params, rel=0.02)


def test_a_model_may_be_the_budget():
    # Edge by edge a KAN costs much more: it needs room for its units to come near the budget.
    study = study_for("moons", match="flops", budget="mlp:64-64", families=["kan", "mlp"])
    budget = study.budget
    assert budget.amount == denoiser("mlp", hidden=(64, 64), num_train_timesteps=1000).flops
    for trial in study.trials()[:2]:
        assert built(trial).flops == pytest.approx(budget.amount, rel=0.02)
        assert (trial.match, trial.budget) == ("flops", budget.amount)


def test_a_budget_of_time_is_a_number_of_seconds_and_may_leave_the_size_open():
    study = study_for("moons", match="time", budget="6", families=["mlp"])
    budget = study.budget
    assert (budget.match, budget.amount, budget.params) == ("time", 6, None)
    assert {trial.model.params for trial in study.trials()} == {2300}
    sized = study_for("moons", 600, match="time", budget="6", families=["mlp"]).budget
    assert (sized.amount, sized.params) == (6, 600)
    with refused("'mlp:8-8' is a model, and a budget of time is a number of seconds"):
        study_for("moons", match="time", budget="mlp:8-8", families=["mlp"])


def test_a_file_is_pinned_and_half_of_it_held_out_unless_told(points):
    (data,) = study_for(str(points)).data
    assert isinstance(data, FileData)
    assert data.sha256 == FileData(path=points).pinned().sha256 != ""
    assert data.holdout == 0.5
    told = single_trial(data_from_name(str(points), holdout=0.3), family="mlp", params=400).data
    assert (told.holdout, told.sha256) == (0.3, data.sha256)


def test_a_file_whose_name_is_none_of_a_folder_is_one_line(points):
    path = points.rename(points.with_name("a:b.npy"))
    with refused(f"^study of '{path}': name = 'a:b': the name of a folder .*; choose another"):
        study_for(str(path), families=["mlp"])


def test_all_families_but_those_that_cannot_be_fitted(caplog):
    some = study_for("mixture-32d", 800, families=["all"])
    assert 0 < len(some.models) < len(FAMILIES)
    assert caplog.text.count("left out: ") == len(FAMILIES) - len(some.models)


def test_a_name_of_a_preset_and_a_toy_is_the_toy_where_models_are_asked_for():
    assert study_for("swiss-roll") == read_preset("swiss-roll")
    toy = study_for("swiss-roll", match="params", budget="600", families=["kan", "mlp"])
    assert [model.family for model in toy.models] == ["kan", "mlp"]
    assert toy.budget.amount == 600
    assert toy.data == (ToyData(toy="swiss-roll"),)
    assert study_for("swiss-roll", 600).budget == toy.budget


def test_single_trial_uses_the_familys_learning_rate_unless_told():
    trial = single_trial("moons", family="mlp", params=400)
    assert trial.training.learning_rate == FAMILIES["mlp"].learning_rate
    assert single_trial("moons", family="mlp", params=400, learning_rate=0.5).training == (
        trial.training.model_copy(update={"learning_rate": 0.5})
    )
    assert trial.evaluation.moments == ()
    by_muon = single_trial("moons", family="mlp", params=400, optimizer="muon")
    assert by_muon.training == trial.training.model_copy(update={"optimizer": "muon"})


def test_a_table_is_trained_as_suits_its_rows(points):
    trial, dataset = single_trial(str(points), family="mlp"), load_dataset(points)
    suits = suggested(len(dataset.train), dataset.dim, "mlp")
    training = trial.training
    assert training == suits.training.model_copy(update={"sparsify": 0.0})
    assert trial.model.conditions
    made = built(trial)
    assert made.observable
    assert 0.5 * suits.params < made.num_trainable <= suits.params
    told = single_trial(
        str(points), family="mlp", params=300, depth=1, steps=7, batch_size=5, learning_rate=0.5,
        max_seconds=9.0,
    )  # fmt: skip
    assert told.training.model_dump(include={"steps", "batch_size", "learning_rate"}) == (
        {"steps": 7, "batch_size": 5, "learning_rate": 0.5}
    )
    assert told.training.max_seconds == 9
    assert len(told.model.hidden) == 1
    assert built(told).num_trainable <= 300
    # Edges become few over all steps, and a toy's points are ever new.
    for one in (single_trial(str(points), family="kan", sparsify=1e-3),
                single_trial("moons", family="mlp")):  # fmt: skip
        assert one.training.patience is None


def test_a_trial_of_pictures_has_a_sampler_of_its_process():
    trials = (single_trial("digits", process=name) for name in ("flow", "cosine"))
    assert [trial.sampling.scheduler for trial in trials] == ["flow-euler", "dpm-solver++"]


@pytest.mark.parametrize(
    ("what", "options", "message"),
    [
        ("moons", {"match": "parms"}, "unknown match 'parms', did you mean 'params'"),
        ("moons", {"match": "flops"}, "match 'flops' needs a budget"),
        ("moons", {"budget": "many"}, "budget many: amount = 'many': .* valid number"),
        ("moons", {"budget": "mpl:8-8"}, "unknown family 'mpl'"),
        ("moons", {"budget": "-5"}, "greater than 0"),
        ("moons", {"params": 100, "budget": "200"}, "params says the size, and so does"),
        ("moons", {"families": ["kna"]}, "unknown family 'kna', did you mean 'kan'"),
        ("moons", {"seeds": 10_000, "families": ["all"]}, "at most 50,000 trials, not 90,000"),
        ("moons", {"process": "flwo"}, "unknown process 'flwo', did you mean 'flow'"),
        ("notebook", {"params": 100}, "fixes the sizes .* leave params, match"),
        ("moon", {}, "unknown study, data set or file 'moon', did you mean 'moons'"),
        ("missing.csv", {}, "there is no file 'missing.csv'"),
        ("missing.yaml", {}, "study file 'missing.yaml' cannot be read"),
    ],
    ids=str,
)
def test_studies_that_make_no_sense_are_one_line(what, options, message):
    with refused(message):
        study_for(what, **options)


@pytest.mark.parametrize(
    ("what", "options", "message"),
    [
        ("moons", {"family": "mpl"}, "unknown family 'mpl', did you mean 'mlp'"),
        ("moons", {"process": "cosin"}, "unknown process 'cosin', did you mean 'cosine'"),
        ("moons", {"learning_rate": -1.0}, "learning_rate = -1.0: .*greater than 0"),
        ("moons", {"steps": 0}, "steps = 0: .*greater than or equal to 1"),
        ("moons", {"params": "many"}, "params = 'many': .* valid integer"),
        ("moons", {"settings": [1]}, r"settings = \[1\]: .* valid dictionary"),
        (
            "moons",
            {"family": "dit"},
            "family 'dit': it takes pictures, and samples are points",
        ),
        ("digits", {"family": "mlp"}, "family 'mlp': it takes points, and .* shape 1 x 8 x 8"),
    ],
    ids=str,
)
def test_trials_that_make_no_sense_are_one_line(what, options, message):
    with refused(message):
        built(single_trial(what, **options))
