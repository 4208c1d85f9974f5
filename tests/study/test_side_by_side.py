"""Runs beside each other: what belongs together, and what cannot be compared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kan_diffusion.errors import KanDiffusionError, RunFolderError
from kan_diffusion.report.gather import runs_contents
from kan_diffusion.study.config import EvaluationConfig
from kan_diffusion.study.named import single_trial
from kan_diffusion.study.side_by_side import read_runs
from kan_diffusion.study.trials import run_trial

SMALL = EvaluationConfig(num_noised=100, num_samples=50, num_real_pairs=1, num_drawn=20)
Train = Callable[..., Path]


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Train:
    place = tmp_path_factory.mktemp("side-by-side")

    def run(
        name: str,
        *,
        evaluation: EvaluationConfig = SMALL,
        number: int = 0,
        **settings: object,
    ) -> Path:
        folder = place / name
        if not folder.exists():
            given = {"family": "mlp", "params": 60, "steps": 5, "batch_size": 32, **settings}
            config = single_trial("two-modes", **given)
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
    assert dict(contents.settings)["training"] == "each run's own"
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


def test_the_same_model_and_seed_twice(train: Train, tmp_path: Path) -> None:
    other = tmp_path / "copy"
    shutil.copytree(train("mlp"), other)
    with pytest.raises(KanDiffusionError, match="both of model 'MLP' with seed 0") as caught:
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
