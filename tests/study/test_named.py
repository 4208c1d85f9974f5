from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from kan_diffusion.data.datasets import FileData, ToyData
from kan_diffusion.denoisers.families import FAMILIES, build_denoiser
from kan_diffusion.errors import DataError, KanDiffusionError
from kan_diffusion.study.config import read_preset
from kan_diffusion.study.named import single_trial, study_for


@pytest.fixture
def points(tmp_path: Path) -> Path:
    path = tmp_path / "points.npy"
    np.save(path, np.random.default_rng(0).normal(size=(40, 3)))
    return path


def test_preset_and_study_file_are_themselves(tmp_path: Path) -> None:
    assert study_for("seed") == read_preset("seed")
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**read_preset("seed").model_dump(mode="json"), "name": "mine"}))
    assert study_for(str(path)).name == "mine"
    for what in ("seed", str(path)):
        with pytest.raises(KanDiffusionError, match=r"fixes the sizes .* leave --params out"):
            study_for(what, params=100)


@pytest.mark.parametrize("params", [600, 2300])
def test_a_toy_gets_every_family_at_one_size(params: int) -> None:
    study = study_for("moons", params)
    assert study.data == (ToyData(toy="moons"),)
    assert {model.family for model in study.models} == set(FAMILIES)
    for model in study.models:
        assert model.learning_rate == FAMILIES[model.family].learning_rate
        built = build_denoiser(model.family, 2, num_train_timesteps=1000, params=model.params)
        assert abs(built.num_trainable - params) <= 0.02 * params


def test_a_file_is_pinned_and_half_of_it_held_out(points: Path) -> None:
    (data,) = study_for(str(points)).data
    assert isinstance(data, FileData)
    assert data.sha256 == FileData(path=points).pinned().sha256 != ""
    assert data.holdout == 0.5


def test_a_preset_goes_before_a_toy_of_its_name() -> None:
    assert study_for("swiss-roll") == read_preset("swiss-roll")


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        ("swis-roll", KanDiffusionError, "did you mean 'swiss-roll'"),
        ("moon", KanDiffusionError, "unknown study, toy or file 'moon', did you mean 'moons'"),
        ("missing.csv", DataError, "there is no file 'missing.csv'"),
        ("missing.yaml", KanDiffusionError, "study file 'missing.yaml' cannot be read"),
        ("points.txt", DataError, "no file 'points.txt'"),
    ],
)
def test_what_is_not_there_is_named(what: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        study_for(what)


def test_single_trial_uses_the_familys_learning_rate_unless_told() -> None:
    trial = single_trial("moons", family="mlp", params=400)
    assert trial.training.learning_rate == FAMILIES["mlp"].learning_rate
    assert single_trial("moons", family="mlp", params=400, learning_rate=0.5).training == (
        trial.training.model_copy(update={"learning_rate": 0.5})
    )
    assert trial.evaluation.moments == ()


def test_single_trial_keeps_the_holdout(points: Path) -> None:
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
    with pytest.raises(KanDiffusionError, match=message) as caught:
        single_trial("moons", **{"family": "mlp", "params": 400, **options})
    assert "\n" not in str(caught.value)


def test_wrong_holdout_is_one_line(points: Path) -> None:
    with pytest.raises(KanDiffusionError, match=r"holdout = 1\.5: .*less than 1"):
        single_trial(str(points), family="mlp", params=400, holdout=1.5)
