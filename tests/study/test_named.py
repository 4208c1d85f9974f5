from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from helpers import refused
from kan_diffusion.data.datasets import FileData, ToyData, load_dataset
from kan_diffusion.denoisers.registry import FAMILIES, build_denoiser
from kan_diffusion.errors import DataError, KanDiffusionError
from kan_diffusion.study.config import read_preset
from kan_diffusion.study.named import single_trial, study_for
from kan_diffusion.study.trial import build
from kan_diffusion.text import PromptedDenoiser
from kan_diffusion.training import TrainingConfig
from kan_diffusion.training.defaults import suggested
from picture_networks import save_clip


@pytest.fixture
def points(tmp_path: Path) -> Path:
    path = tmp_path / "points.npy"
    np.save(path, np.random.default_rng(0).normal(size=(40, 3)))
    return path


def test_preset_and_study_file_are_themselves(tmp_path: Path) -> None:
    assert study_for("notebook") == read_preset("notebook")
    path = tmp_path / "mine.yaml"
    path.write_text(
        yaml.safe_dump({**read_preset("notebook").model_dump(mode="json"), "name": "mine"})
    )
    assert study_for(str(path)).name == "mine"
    for what in ("notebook", str(path)):
        with refused(r"fixes the sizes .* leave --params, --match"):
            study_for(what, params=100)


@pytest.mark.parametrize("params", [600, 2300])
def test_a_toy_gets_families_of_both_kinds_at_one_size(params: int) -> None:
    study = study_for("moons", params)
    assert study.data == (ToyData(toy="moons"),)
    assert {"kan", "mlp"} <= {FAMILIES[model.family].kind for model in study.models}
    assert study.seeds == 10  # with fewer, an exact test has little to say
    for trial in study.trials():
        assert trial.training.learning_rate == FAMILIES[trial.model.family].learning_rate
        built = build(trial, load_dataset(trial.data, 0, 0))
        assert abs(built.num_trainable - params) <= 0.02 * params


def test_all_families_but_those_that_cannot_be_fitted(caplog: pytest.LogCaptureFixture) -> None:
    assert [model.family for model in study_for("moons", families=["all"]).models] == list(FAMILIES)
    some = study_for("mixture-32d", 800, families=["all"])
    assert 0 < len(some.models) < len(FAMILIES)
    assert caplog.text.count("left out: ") == len(FAMILIES) - len(some.models)
    with refused("no family has that size on 'mixture-32d': a budg"):
        study_for("mixture-32d", 40, families=["all"])
    # What was asked for by name is not left out in silence: building it says what is wrong.
    asked = study_for("mixture-32d", 40, families=["kan"])
    assert [model.family for model in asked.models] == ["kan"]


@pytest.mark.parametrize("match", ["params", "flops", "flops-per-edge"])
def test_a_model_may_be_the_budget(match: str) -> None:
    # Edge by edge a KAN costs much more: it needs room for its units to come near the budget.
    study = study_for("moons", match=match, budget="mlp:128-128-128", families=["kan", "mlp"])
    like = build_denoiser("mlp", 2, num_train_timesteps=1000, hidden=(128, 128, 128))
    count = {"params": "num_trainable", "flops": "flops", "flops-per-edge": "flops_per_edge"}[match]
    (budget,) = study.budgets
    assert budget.amount == getattr(like, count)
    for trial in study.trials():
        built = build(trial, load_dataset(trial.data, 0, 0))
        assert abs(getattr(built, count) - budget.amount) <= 0.02 * budget.amount
        assert (trial.match, trial.budget) == (match, budget.amount)


def test_a_models_training_time_may_be_the_budget(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("kan_diffusion.study.named.step_seconds", lambda trial: 0.002)
    (budget,) = study_for("moons", match="time", budget="mlp:8-8", families=["mlp"]).budgets
    assert budget.match == "time"
    assert budget.amount == 0.002 * TrainingConfig().steps
    assert budget.params is None  # the size is free
    # Another measurement would be another budget, whose trials all begin anew.
    assert caplog.messages[0].endswith(f"give --budget {budget.amount}")
    (sized,) = study_for("moons", 2300, match="time", budget="6", families=["mlp"]).budgets
    assert (sized.amount, sized.params) == (6, 2300)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"match": "parms"}, "unknown --match 'parms', did you mean 'params'"),
        ({"match": "flops"}, "--match flops needs a --budget"),
        ({"budget": "many"}, "neither a number nor a model"),
        ({"budget": "mlp:a-b"}, "neither a number nor a model"),
        ({"budget": "mpl:8-8"}, "unknown family 'mpl'"),
        ({"budget": "-5"}, "greater than 0"),
        ({"params": 100, "budget": "200"}, "--params says the size, and so does"),
        ({"families": ["kna"]}, "unknown family 'kna', did you mean 'kan'"),
    ],
    ids=str,
)
def test_budgets_that_make_no_sense_are_one_line(options: dict[str, object], message: str) -> None:
    with refused(message):
        study_for("moons", **options)


def test_a_budget_takes_the_place_of_a_presets() -> None:
    study = study_for("pilot", match="flops", budget="9000", families=["full-kan", "mlp"])
    assert [(budget.match, budget.amount) for budget in study.budgets] == [("flops", 9000)]
    assert [model.family for model in study.models] == ["full-kan", "mlp"]
    assert study_for("pilot", families=["all"]) == study_for("pilot")


def test_a_file_is_pinned_and_half_of_it_held_out(points: Path) -> None:
    (data,) = study_for(str(points)).data
    assert isinstance(data, FileData)
    assert data.sha256 == FileData(path=points).pinned().sha256 != ""
    assert data.holdout == 0.5


def test_a_name_of_a_preset_and_a_toy_is_the_toy_where_models_are_asked_for() -> None:
    assert study_for("swiss-roll") == read_preset("swiss-roll")
    toy = study_for("swiss-roll", match="params", budget="600", families=["kan", "mlp"])
    assert [model.family for model in toy.models] == ["kan", "mlp"]
    assert [budget.amount for budget in toy.budgets] == [600]
    assert toy.data == (ToyData(toy="swiss-roll"),)
    assert study_for("swiss-roll", 600).budgets == toy.budgets


def test_processes_are_named_beside_any_study() -> None:
    for what in ("moons", "pilot"):
        study = study_for(what, processes=["cosine", "flow"])
        assert [process.name for process in study.process] == ["cosine", "flow"]
        samplers = {trial.process.name: trial.sampling.scheduler for trial in study.trials()}
        assert samplers == {"cosine": "dpm-solver++", "flow": "flow-heun"}
    with refused("unknown process 'flwo', did you mean 'flow'"):
        study_for("moons", processes=["flwo"])


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        ("swis-roll", KanDiffusionError, "did you mean 'swiss-roll'"),
        ("moon", KanDiffusionError, "unknown study, data set or file 'moon', did you mean 'moons'"),
        ("missing.csv", DataError, "there is no file 'missing.csv'"),
        ("missing.yaml", KanDiffusionError, "study file 'missing.yaml' cannot be read"),
        ("points.txt", DataError, "no file 'points.txt'"),
    ],
)
def test_what_is_not_there_is_named(what: str, error: type[Exception], message: str) -> None:
    with refused(message, error):
        study_for(what)


def test_single_trial_uses_the_familys_learning_rate_unless_told() -> None:
    trial = single_trial("moons", family="mlp", params=400)
    assert trial.training.learning_rate == FAMILIES["mlp"].learning_rate
    assert single_trial("moons", family="mlp", params=400, learning_rate=0.5).training == (
        trial.training.model_copy(update={"learning_rate": 0.5})
    )
    assert trial.evaluation.moments == ()
    by_muon = single_trial("moons", family="mlp", params=400, optimizer="muon")
    assert by_muon.training == trial.training.model_copy(update={"optimizer": "muon"})
    by_lbfgs = single_trial("moons", family="mlp", params=400, optimizer="lbfgs")
    assert by_lbfgs.training.learning_rate == 1.0
    with refused("unknown optimizer 'mun', did you mean 'muon'"):
        single_trial("moons", family="mlp", optimizer="mun")


def test_a_table_is_trained_as_suits_its_rows(points: Path) -> None:
    trial, dataset = single_trial(str(points), family="mlp"), load_dataset(points)
    suits = suggested(len(dataset.train), dataset.dim, "mlp")
    training = trial.training
    assert (training.steps, training.batch_size) == (suits.steps, suits.batch_size)
    assert (training.learning_rate, training.patience) == (suits.learning_rate, suits.patience)
    assert trial.model.conditions
    denoiser = build(trial, dataset)
    assert denoiser.blocks == dataset.blocks
    assert 0.5 * suits.params < denoiser.num_trainable <= suits.params
    told = single_trial(
        str(points), family="mlp", params=300, depth=1, steps=7, batch_size=5, learning_rate=0.5,
        max_seconds=9.0,
    )  # fmt: skip
    assert told.training.model_dump(include={"steps", "batch_size", "learning_rate"}) == (
        {"steps": 7, "batch_size": 5, "learning_rate": 0.5}
    )
    assert told.training.max_seconds == 9
    assert len(told.model.hidden) == 1
    assert build(told, dataset).num_trainable <= 300
    # Edges become few over all steps, and a toy's points are ever new.
    for one in (single_trial(str(points), family="kan", sparsify=1e-3),
                single_trial("moons", family="mlp")):  # fmt: skip
        assert one.training.patience is None


def test_single_trial_keeps_the_holdout(points: Path) -> None:
    with refused(r"holdout = 1\.5: .*less than 1"):
        single_trial(str(points), family="mlp", params=400, holdout=1.5)
    data = single_trial(str(points), family="mlp", params=400, holdout=0.3).data
    assert isinstance(data, FileData)
    assert data.holdout == 0.3
    assert data.sha256


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"family": "mpl"}, "unknown family 'mpl', did you mean 'mlp'"),
        ({"process": "cosin"}, "unknown process 'cosin', did you mean 'cosine'"),
        ({"learning_rate": -1.0}, "learning_rate = -1.0: .*greater than 0"),
        ({"learning_rate": float("nan")}, "learning_rate = nan"),
        ({"steps": 0}, "steps = 0: .*greater than or equal to 1"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"params": 0}, "params = 0"),
        ({"depth": 0}, "depth = 0"),
    ],
    ids=str,
)
def test_wrong_options_are_one_line(options: dict[str, object], message: str) -> None:
    with refused(message):
        single_trial("moons", **{"family": "mlp", "params": 400, **options})


def test_conditional_models_are_told_classes_within_the_same_budget() -> None:
    study = study_for("checkerboard", 600, conditional=True)
    (data,) = study.data
    assert data == ToyData(toy="checkerboard", conditional=True)
    for trial in study.trials()[:2]:
        built = build(trial, load_dataset(data, 0, 0))
        assert built.num_classes == 8
        assert abs(built.num_trainable - 600) <= 0.02 * 600
    trained = single_trial("moons", family="mlp", params=300, conditional=True)
    dataset = load_dataset(trained.data, 0)
    labels = build(trained, dataset)
    without = build_denoiser("mlp", 2, num_train_timesteps=1000, hidden=trained.model.hidden)
    # A weight for each label and unit of the first layer.
    assert labels.num_trainable - without.num_trainable == 2 * trained.model.hidden[0]
    assert labels.num_trainable <= 300


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("swiss-roll", "toy 'swiss-roll' has no classes .* moons, circles, checkerboard"),
        ("iris", "'iris' has no classes of points"),
        ("pilot", "study 'pilot' says itself which of its data are conditional"),
    ],
)
def test_data_without_classes_are_refused_by_name(what: str, message: str) -> None:
    with refused(message):
        study_for(what, conditional=True)


def test_a_trial_of_pictures_has_a_sampler_of_its_process() -> None:
    trials = (single_trial("digits", process=name) for name in ("flow", "cosine"))
    assert [trial.sampling.scheduler for trial in trials] == ["flow-euler", "dpm-solver++"]


def test_a_pretrained_text_encoder_takes_the_place_of_the_trained_one_and_is_frozen(
    tmp_path: Path,
) -> None:
    folder = save_clip(tmp_path / "clip")
    config = single_trial("digits", text_encoder=folder)
    assert config.model.text_encoder == str(folder)
    dataset = load_dataset(config.data, config.study_seed, config.seed)
    model = build(config, dataset)
    assert isinstance(model, PromptedDenoiser)
    assert not any(one.requires_grad for one in model.text_encoder.parameters())
    assert model.text_encoder.config.hidden_size == model.denoiser.config.text_width == 8
    assert model.num_trainable == pytest.approx(config.model.params, rel=0.02)
    own = single_trial("digits")
    assert "text_encoder" not in own.identity
    assert own.id != config.id
    with refused("no captions for a text encoder to embed; leave it out"):
        build(config, replace(dataset, captions=None))
    with refused("--text-encoder is for captions of pictures; leave it out"):
        single_trial("moons", text_encoder=folder)
