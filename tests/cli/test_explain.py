from __future__ import annotations

import json
import re
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch

from command_line import QUICK, SMALL, Cli, call_command
from helpers import assert_same_state, refused
from kan_diffusion.errors import RunFolderError
from kan_diffusion.report import explanation
from kan_diffusion.study import named
from kan_diffusion.study.config import EvaluationConfig
from kan_diffusion.study.folder import WEIGHTS, load_weights, recorded_steps
from kan_diffusion.study.measure import load_run

TINY = ["--family", "readable-kan", "--params", "150", "--steps", "20", "--batch-size", "64"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of a readable KAN and one of an MLP."""
    folder = tmp_path_factory.mktemp("cli-explain")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(named, "EvaluationConfig", partial(EvaluationConfig, **SMALL))
        shared = ["--device", "cpu", "--out"]
        kan = call_command(
            "train", "two-modes", *TINY, "--sparsify", "0.001", "--moments", 2, *shared,
            folder / "kan",
        )  # fmt: skip
        mlp = call_command("train", "two-modes", *QUICK, *shared, folder / "mlp")
    assert (kan, mlp) == (0, 0)
    return folder


@pytest.mark.usefixtures("undrawn")
def test_training_that_was_recorded_is_played(cli: Cli, runs: Path, tmp_path: Path) -> None:
    kan = runs / "kan"
    assert recorded_steps(kan) == recorded_steps(kan, WEIGHTS) == [0, 10, 20]
    denoiser = load_run(kan)[1].denoiser
    last = load_weights(kan / WEIGHTS / "20.safetensors", denoiser)
    assert_same_state(last, denoiser)
    first = load_weights(kan / WEIGHTS / "0.safetensors", denoiser)
    assert not torch.equal(*(next(each.parameters()) for each in (first, denoiser)))
    with refused("cannot be read", RunFolderError):
        load_weights(kan / "samples.safetensors", denoiser)
    words = ["explain", kan, "--no-simplify", "--num", 30, "--levels", "50"]
    assert cli(*words, "--out", tmp_path / "there").code == 0
    page = (tmp_path / "there" / "explanation.html").read_text()
    stages, training = re.findall(
        r'<figure class="player">.*?<script type="application/json">(.*?)</script>', page, re.DOTALL
    )
    titles = [panel["title"] for panel in json.loads(stages)["panels"]]
    assert titles == ["network", "exact"]
    assert json.loads(training)["labels"] == ["step 0", "step 10", "step 20"]
    samples, *edges = json.loads(training)["panels"]
    assert (samples["title"], samples["kind"]) == ("samples", "bars")
    assert edges
    assert {edge["kind"] for edge in edges} == {"curve"}
    assert len({edge["title"] for edge in edges}) == len(edges)


@pytest.mark.parametrize("levels", ["ten", "1,,2", "-3", "20,1000"])
def test_bad_levels(cli: Cli, runs: Path, tmp_path: Path, levels: str) -> None:
    words = ["explain", runs / "kan", "--no-simplify", "--num", "0", f"--levels={levels}"]
    assert "--levels" in cli(*words, "--out", tmp_path / "there").error
    assert not (tmp_path / "there").exists()


def test_an_unknown_function_has_a_suggestion(cli: Cli, runs: Path) -> None:
    error = cli("explain", runs / "kan", "--library", "linear,tahn").error
    assert "'tahn'" in error
    assert "'tanh'" in error
    assert "nowhere" in cli("explain", runs / "kan", "--library", "nowhere:NAME").error


def test_what_is_no_run(cli: Cli, runs: Path, tmp_path: Path) -> None:
    assert str(tmp_path / "none") in cli("explain", tmp_path / "none").error
    assert "only KANs have edges to read" in cli("explain", runs / "mlp").error
    assert not (runs / "mlp" / "explanation").exists()


def test_a_study_has_trials_to_explain(cli: Cli, runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "kan", tmp_path / "study" / "trials" / "one")
    shutil.copytree(runs / "mlp", tmp_path / "study" / "trials" / "two")
    (tmp_path / "study" / "study.yaml").touch()
    done = cli("explain", tmp_path / "study")
    assert done.code == 1
    (command,) = [line for line in done.out.splitlines() if line.startswith("kan-diffusion")]
    assert f"kan-diffusion explain {tmp_path / 'study' / 'trials' / 'one'}  # " in command
    shutil.rmtree(tmp_path / "study" / "trials" / "one")
    assert "it is a study" in cli("explain", tmp_path / "study").error


def test_a_run_is_explained(
    cli: Cli, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "there"
    words = ["explain", runs / "kan", "--no-simplify", "--num", "0", "--levels", "700,50"]
    done = cli(*words, "--out", out)
    assert done.code == 0, done.err
    assert str(out / "explanation.html") in done.out.replace("\n", "")
    page = (out / "explanation.html").read_text(encoding="utf-8")
    assert "kan-diffusion explain" in page
    assert "--no-simplify" in page
    assert "could not be drawn" not in page
    assert (out / "formulas.json").is_file()
    # Without --out beside the run; drawn once is enough.
    drawn = []
    monkeypatch.setattr(explanation, "write_explanation", lambda _, folder: drawn.append(folder))
    assert cli(*words).code == 0
    assert drawn == [runs / "kan" / "explanation"]
    assert (runs / "kan" / "explanation" / "formulas.json").is_file()
