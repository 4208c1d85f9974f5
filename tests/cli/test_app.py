import io
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

import kan_diffusion
from command_line import call_command
from kan_diffusion.cli.app import COMMANDS, app
from kan_diffusion.diffusion.sampling import PointDiffusionPipeline
from kan_diffusion.study import tuning
from kan_diffusion.study.folder import load_trial
from kan_diffusion.study.tuning import Try, Tuned
from kan_diffusion.training.config import TrainingConfig
from make import written
from runs import copied

MLP = ("--family", "mlp", "--params", 400, "--steps", 20, "--batch-size", 64, "--device", "cpu")


@pytest.fixture
def run(runs, tmp_path):
    """A copy of a run of points, to be changed at will."""
    return copied(runs("points"), tmp_path / "run")


@pytest.fixture
def points(runs):
    return runs("points").parent / "points.csv"


def test_help_lists_every_command_and_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from kan_diffusion.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "heavy = {'torch', 'numpy', 'pandas', 'diffusers', 'sklearn', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    for words in (["--help"], ["train", "--help"], ["--version"]):
        result = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
        )
        assert (result.stdout.splitlines()[-1], result.stderr) == ("[]", "")
        if words == ["--help"]:
            assert all(command in result.stdout for command in COMMANDS)
    assert result.stdout.splitlines()[0] == f"kan-diffusion {kan_diffusion.__version__}"


def test_every_option_is_described_and_the_page_of_a_command_says_more_than_the_list():
    for name, text in COMMANDS.items():
        assert str(app[name].default_command.__doc__).startswith(text[:-1].partition(",")[0])
        options = app[name].assemble_argument_collection(parse_docstring=True)
        shown = [option.parameter.help for option in options if option.show]
        assert all(text and "None" not in text for text in shown)  # which nobody can type
    steps = app["train"].assemble_argument_collection(parse_docstring=True)["--steps"]
    assert steps.parameter.help == TrainingConfig.model_fields["steps"].description


def test_points_become_a_run_and_a_run_becomes_points(cli, points, tmp_path):
    folder, new = tmp_path / "run", tmp_path / "new.parquet"
    outcome = cli("train", points, *MLP, "--steps", 150, "--out", folder)
    assert outcome.code == 0
    assert "held-out loss" in outcome.out
    assert "A first look, by few rows; the same command without --quick" in outcome.out
    assert f"kan-diffusion sample {folder}" in outcome.out
    # So few steps may be too few, and then it says so.
    assert outcome.err == "" or "raise steps from 150 to 600" in " ".join(outcome.err.split())

    outcome = cli("sample", folder, "--num", 500, "--out", new)
    assert (outcome.code, outcome.out, outcome.err) == (0, f"500 rows: {new}\n", "")
    frame = pd.read_parquet(new)
    assert list(frame.columns) == ["mass", "age"]
    # In the data's own units: 100 ± 10 and -0.5 ± 0.01.
    standardised = (frame.to_numpy() - [100, -0.5]) / [10, 0.01]
    assert standardised.shape == (500, 2)
    np.testing.assert_allclose(standardised.mean(0), 0, atol=0.6)
    np.testing.assert_allclose(standardised.std(0), 1, atol=0.5)

    outcome = cli("evaluate", folder)
    assert (outcome.code, outcome.err) == (0, "")
    said = "12 rows of 'points' that were not trained on; no oracle is known"
    assert said in " ".join(outcome.out.split())
    row = load_trial(folder).row
    assert row["excess"] is None  # without an oracle
    assert f"{row['heldout_loss']:.3g}"[:4] in outcome.out


def test_samples_are_those_of_their_seed(cli, runs, tmp_path):
    def samples(*options):
        path = tmp_path / "samples.npy"
        assert cli("sample", runs("points"), "--out", path, "--overwrite", *options).code == 0
        return np.load(path)

    usual = samples()
    assert len(usual) == 1000
    np.testing.assert_array_equal(samples("--seed", 0), usual)
    assert not np.isclose(samples("--seed", 1), usual).all(axis=1).any()
    assert np.isfinite(samples("--num", 5, "--steps", 4, "--scheduler", "heun")).all()


def test_existing_files_are_kept_unless_told(cli, run, tmp_path):
    path, motion = tmp_path / "samples.csv", tmp_path / "both.gif"
    for option, file in (("--out", path), ("--animate", motion)):
        file.write_text("precious")
        error = cli("sample", run, option, file).error
        assert "exists; choose another path, or overwrite it" in error
        assert file.read_text() == "precious"
    words = ("sample", run, run, "--animate", motion, "--num", 20, "--steps", 4, "--overwrite")
    assert "5 frames, 0.0" in cli(*words).out
    assert cli("sample", run, "--num", 3, "--out", path, "--overwrite").code == 0
    assert len(path.read_text().splitlines()) == 4
    # In the folder of their run they are numbered.
    for name in ("samples.csv", "samples-2.csv", "samples-3.csv"):
        assert f"{run / name}" in cli("sample", run, "--num", 3).out
        assert len((run / name).read_text().splitlines()) == 4
    assert cli("sample", run, "--num", 5, "--overwrite").code == 0
    assert len((run / "samples.csv").read_text().splitlines()) == 6
    assert not (run / "samples-4.csv").exists()


def test_a_finished_run_is_shown_again_and_replaced_when_asked(cli, points, run):
    words = ("train", points, *MLP, "--out", run)
    before = (run / "trial.json").stat().st_mtime_ns
    outcome = cli(*words)
    assert (outcome.code, outcome.err) == (0, "")
    assert "held-out loss" in outcome.out
    assert (run / "trial.json").stat().st_mtime_ns == before
    assert cli(*words, "--fresh", "--seed", 1).code == 0
    assert load_trial(run).config.study_seed == 1
    (run / "denoiser" / "config.json").write_text("no")
    assert f"restore it, or delete '{run}' and run again" in cli(*words, "--seed", 1).error
    (run / "trial.json").write_text("{")
    assert "is not the result of a trial" in cli("sample", run).error


def test_interrupted_training_goes_on(cli, points, tmp_path, monkeypatch):
    folder = tmp_path / "run"

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("kan_diffusion.progress.TrainingBar.move", interrupt)
        outcome = cli("train", points, *MLP, "--out", folder)
    assert outcome.code == 130
    assert outcome.err.startswith("interrupted; what is finished is kept")
    assert len(outcome.err.splitlines()) == 1
    assert "its training has not finished; the same command goes on" in cli("sample", folder).error
    changed = cli("train", points, *MLP, "--seed", 1, "--out", folder)
    assert "checkpoint of a run with other settings" in changed.error
    assert cli("train", points, *MLP, "--out", folder).code == 0
    assert load_trial(folder).row["error"] is None


def test_interrupted_sampling_keeps_nothing_and_does_not_say_so(cli, run, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(PointDiffusionPipeline, "__call__", interrupt)
    before = written(run)
    for command in ("sample", "evaluate"):
        outcome = cli(command, run)
        assert outcome.code == 130
        assert outcome.err.startswith("interrupted; nothing is kept")
        assert len(outcome.err.splitlines()) == 1
    assert written(run) == before


def test_diverging_training_is_one_line(cli, points, tmp_path):
    words = ("train", points, *MLP, "--lr", "1e30", "--out", tmp_path / "run")
    assert "lower the learning rate" in cli(*words).error
    assert "lower the learning rate" in cli(*words).error  # and nothing is trained again
    assert "failed: the" in cli("sample", tmp_path / "run").error


def test_a_process_that_keeps_its_signal_is_warned_of_once(cli, points, tmp_path):
    outcome = cli("train", points, *MLP, "--process", "notebook", "--out", tmp_path / "run")
    assert (outcome.code, outcome.warnings) == (0, 1)
    outcome = cli("sample", tmp_path / "run", "--out", tmp_path / "new.npy")
    assert (outcome.code, outcome.warnings) == (0, 1)


def test_the_settings_that_were_found_are_used_at_the_budget_they_were_found_for(
    cli, monkeypatch, tmp_path
):
    kept = {"search": "", "family": "mlp", "settings": {}, "value": 0.0, "error": None}
    told = Try.model_validate({**kept, "measures": {"moons": 1.0}, "trials": []})
    found = Tuned({"mlp": (told,)}, tmp_path / "tuned.json")
    monkeypatch.setattr(tuning, "tune", lambda *_, **__: found)
    given = "--match=time --budget=6 --families=kan,mlp --steps=9 --data=moons"
    out = cli("tune", "moons", *given.split()).out
    last = f"Use them: kan-diffusion compare moons {given} --tuned {found.path}"
    assert out.splitlines()[-1] == last


@pytest.mark.parametrize("gpu", [True, False])
def test_too_little_memory_is_one_line(cli, monkeypatch, gpu):
    def evaluate(*_):
        if gpu:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0")
        torch.empty(2**58)

    monkeypatch.setattr("kan_diffusion.study.trial.evaluate_run", evaluate)
    assert cli("evaluate", "run").error.startswith("error: the memory does not suffice; take fewer")


def test_a_terminal_without_letters_for_it_gets_others(tmp_path, monkeypatch):
    shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.setattr(sys, "stderr", shown)
    assert call_command("evaluate", tmp_path / "Läufe – ½ ± ☃") == 1
    shown.seek(0)
    assert "/Laufe - 12 ~ ?'" in shown.read()
