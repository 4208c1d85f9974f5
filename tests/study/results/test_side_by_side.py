"""Runs beside each other: what belongs together, and what cannot be compared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kan_diffusion.errors import KanDiffusionError, RunFolderError
from kan_diffusion.report.contents import complete_rows
from kan_diffusion.report.gather import runs_contents
from kan_diffusion.study.config import EvaluationConfig
from kan_diffusion.study.named import single_trial
from kan_diffusion.study.results.side_by_side import read_runs
from kan_diffusion.study.trial import run_trial

SMALL = EvaluationConfig(num_noised=100, num_samples=50, num_real_pairs=1, num_drawn=20)
Train = Callable[..., Path]


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Train:
    place = tmp_path_factory.mktemp("side-by-side")

    def run(
        name: str,
        *,
        data: str = "two-modes",
        evaluation: EvaluationConfig = SMALL,
        number: int = 0,
        **settings: object,
    ) -> Path:
        folder = place / name
        if not folder.exists():
            given = {"family": "mlp", "params": 60, "steps": 5, "batch_size": 32, **settings}
            config = single_trial(data, **given)
            changes = {"evaluation": evaluation, "seed": number}
            run_trial(config.model_copy(update=changes), folder, device="cpu")
        return folder

    return run


def test_models_and_seeds_of_runs_make_a_study(train: Train) -> None:
    folders = [
        train("mlp"),
        train("mlp-1", number=1),
        train("kan", family="kan", params=126, steps=7),
        train("kan-1", family="kan", params=126, steps=7, number=1),
    ]
    results = read_runs(folders, "Two and two")
    assert results.config.title == "Two and two"
    assert results.config.seeds == 2
    assert [model.name for model in results.config.models] == ["MLP", "KAN"]
    assert list(results.rows["name"]) == ["MLP", "MLP", "KAN", "KAN"]
    assert list(results.rows["seed"]) == [0, 1, 0, 1]
    for folder, (_, row) in zip(folders, results.rows.iterrows(), strict=True):
        written = json.loads((folder / "trial.json").read_text())["row"]
        assert row["excess"] == written["excess"]
    contents = runs_contents(results, "again")
    assert contents.command == "again"
    settings = dict(contents.settings)
    assert "training" not in settings
    assert settings["training: MLP"].startswith("5 steps of 32 points")
    assert contents.environment == {}
    # The losses of all steps, as the runs kept them.
    kan = contents.curves[contents.curves["name"] == "KAN"]
    assert kan["step"].max() <= 7
    assert set(contents.samples) == {("two-modes", "MLP"), ("two-modes", "KAN")}
    assert not contents.rows["error"].notna().any()


def test_seeds_given_to_train(train: Train) -> None:
    folders = [train("mlp"), train("mlp-of-5", seed=5), train("larger-of-5", params=200, seed=5)]
    results = read_runs(folders)
    assert results.rows["seed"].tolist() == [0, 5, 5]
    assert [trial.config.seed for trial in results.trials] == [0, 5, 5]
    # The first seed is the one whose data are drawn again for the figures.
    assert results.config.seed == 0
    with pytest.raises(KanDiffusionError, match=r"different seeds \(0, 5\)"):
        read_runs([*folders, train("mlp-1", number=1)])


def test_two_sizes_of_a_family_are_told_apart(train: Train) -> None:
    results = read_runs([train("mlp"), train("larger", params=200)])
    assert results.config.title == "Runs side by side"
    assert read_runs([train("mlp")]).config.title == "two-modes · MLP · seed 0"
    names = list(results.rows["name"])
    parameters = results.rows["parameters"].tolist()
    assert names == [f"MLP ({count} parameters)" for count in parameters]
    assert [model.name for model in results.config.models] == names
    assert {model for _, model in runs_contents(results, "").samples} == set(names)


def test_a_model_that_is_trained_otherwise_is_another(train: Train) -> None:
    folders = [train("mlp"), train("mlp-1", number=1), train("longer", steps=9, number=1)]
    results = read_runs(folders)
    names = ["MLP (5 steps)", "MLP (5 steps)", "MLP (9 steps)"]
    assert list(results.rows["name"]) == names
    assert [model.name for model in results.config.models] == names[1:]
    assert results.config.seeds == 1  # of the second
    settings = dict(runs_contents(results, "").settings)
    assert settings["seeds a model"] == "1 to 2"
    assert settings["training: MLP (9 steps)"].startswith("9 steps of 32 points")
    both = read_runs([train("mlp"), train("faster", learning_rate=0.1, batch_size=16)])
    assert list(both.rows["name"]) == [
        "MLP (batches of 32, learning rate 0.0157)",
        "MLP (batches of 16, learning rate 0.1)",
    ]


def test_a_trial_of_a_budgeted_study_beside_a_run_of_train(train: Train, tmp_path: Path) -> None:
    other = tmp_path / "trial"
    shutil.copytree(train("larger", params=200), other)
    content = json.loads((other / "trial.json").read_text())
    content["row"] |= {"match": "params", "budget": 200}
    (other / "trial.json").write_text(json.dumps(content))
    contents = runs_contents(read_runs([train("mlp"), other]), "")
    assert complete_rows(contents.rows)["setting"].nunique() == 1
    assert len(contents.samples) == 2
    # Alone it keeps its budget.
    assert read_runs([other]).rows["budget"].tolist() == [200]


def test_a_file_is_the_same_wherever_it_lies(tmp_path: Path, train: Train) -> None:
    points = np.random.default_rng(0).standard_normal((300, 2))
    folders = []
    for number, place in enumerate(("here", "there", "other")):
        path = tmp_path / place / "points.csv"
        path.parent.mkdir()
        pd.DataFrame(points + (place == "other"), columns=["x", "y"]).to_csv(path, index=False)
        folders.append(train(place, data=str(path), number=number))
    assert len(read_runs(folders[:2]).config.data) == 1
    with pytest.raises(KanDiffusionError, match="different data of one name, 'points'") as caught:
        read_runs(folders)
    assert str(folders[2]) in str(caught.value)


def test_stages_on_rows_that_chose_them_are_said_to_be(train: Train, tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    points = np.random.default_rng(0).standard_normal((300, 1))
    pd.DataFrame(points, columns=["x"]).to_csv(path, index=False)
    plain = train("of-file", data=str(path))
    stage = tmp_path / "stage"
    shutil.copytree(plain, stage)
    content = json.loads((stage / "trial.json").read_text())
    content["row"]["stage"] = "formula"
    content["config"]["model"]["name"] = content["row"]["name"] = "MLP, formula"
    (stage / "trial.json").write_text(json.dumps(content))
    contents = runs_contents(read_runs([plain, stage]), "")
    assert any("MLP, formula came about by choices" in text for text in contents.warnings)
    contents = runs_contents(read_runs([plain]), "")
    assert not any("choices" in text for text in contents.warnings)


def test_the_same_model_and_seed_twice(train: Train, tmp_path: Path) -> None:
    other = tmp_path / "copy"
    shutil.copytree(train("mlp"), other)
    with pytest.raises(KanDiffusionError, match="both of 'MLP' with seed 0") as caught:
        read_runs([train("mlp"), other])
    assert str(other) in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"process": "ddpm"}, "a process"),
        ({"evaluation": SMALL.model_copy(update={"num_samples": 40})}, "a way of judging"),
    ],
)
def test_runs_that_were_not_judged_alike(train: Train, settings: dict, what: str) -> None:
    other = train(f"other-{what}", **settings)
    with pytest.raises(KanDiffusionError, match=f"do not have {what} in common"):
        read_runs([train("mlp"), other])


def test_moments_that_were_recorded_do_not_matter(train: Train) -> None:
    quiet = SMALL.model_copy(update={"moments": (), "num_drawn": 5})
    results = read_runs([train("mlp"), train("quiet", number=2, evaluation=quiet)])
    assert len(results.trials) == 2


def test_what_is_no_finished_run(train: Train, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="neither a study nor a finished run"):
        read_runs([tmp_path])
    (tmp_path / "study.yaml").touch()
    with pytest.raises(RunFolderError, match="give some of its trials"):
        read_runs([train("mlp"), tmp_path])
    (tmp_path / "study.yaml").unlink()
    content = json.loads((train("mlp") / "trial.json").read_text())
    for key, value, message in (
        ("error", "it diverged", "failed: it diverged"),
        (None, None, "--num"),
    ):
        row = {**content["row"], "seed": 5}
        if key is None:
            del row["heldout_loss"]
        else:
            row[key] = value
        (tmp_path / "trial.json").write_text(json.dumps({**content, "row": row}))
        with pytest.raises(RunFolderError, match=message):
            read_runs([train("mlp"), tmp_path])
