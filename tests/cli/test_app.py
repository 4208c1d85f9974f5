import io
import re
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
import torch

import kan_diffusion
from command_line import call_command
from kan_diffusion.cli.app import app
from kan_diffusion.diffusion.sampling import PointDiffusionPipeline
from kan_diffusion.study import tuning
from kan_diffusion.study.folder import load_trial
from kan_diffusion.study.tuning import Try, Tuned
from kan_diffusion.training.config import TrainingConfig
from make import reseal, written
from runs import copied

COMMANDS = [
    "compare", "tune", "train", "sample", "impute", "evaluate", "explain", "report",
]  # fmt: skip
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


def test_every_option_is_described_and_those_that_set_a_field_as_the_field_is():
    options = {}
    for name in COMMANDS:
        for argument in app[name].assemble_argument_collection(parse_docstring=True):
            assert argument.parameter.help, argument.name
            options[name, argument.name] = argument.parameter
    for option, name in (("steps", "steps"), ("batch-size", "batch_size"), ("lr", "learning_rate")):
        parameter = options["train", f"--{option}"]
        assert parameter.help == TrainingConfig.model_fields[name].description
        for wrong in (0, -1):
            with pytest.raises(ValueError, match="Must be"):
                parameter.validator[0](float, wrong)


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
    path = tmp_path / "samples.csv"
    path.write_text("precious")
    error = cli("sample", run, "--out", path).error
    assert "exists; choose another path, or overwrite it" in error
    assert path.read_text() == "precious"
    assert cli("sample", run, "--num", 3, "--out", path, "--overwrite").code == 0
    assert len(path.read_text().splitlines()) == 4
    # In the folder of their run they are numbered.
    for name in ("samples.csv", "samples-2.csv", "samples-3.csv"):
        assert f"{run / name}" in cli("sample", run, "--num", 3).out
        assert len((run / name).read_text().splitlines()) == 4
    assert cli("sample", run, "--num", 5, "--overwrite").code == 0
    assert len((run / "samples.csv").read_text().splitlines()) == 6
    assert not (run / "samples-4.csv").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.csv", None, "there is no file"),
        ("words.csv", "a,b\n1,2\n3,red\n", "column 'b', row 2 holds 'red'"),
        ("few.csv", "a,b\n1,2\n3,4\n", "has 2 rows; at least 10"),
        ("points.txt", "1 2", "ending '.txt'"),
    ],
)
def test_files_that_cannot_be_used_are_one_line(cli, tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    for command in ("train",) if "few" in name else ("train", "compare"):
        error = cli(command, path, "--out", tmp_path / "run").error
        assert str(path) in error or command == "compare"
        assert re.search(message, error)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "mons"], "did you mean 'moons'"),
        (["train", "moons", "--process", "cosin"], "did you mean 'cosine'"),
        (
            ["train", "moons", "--family", "mlp", "--device", "abacus"],
            "device 'abacus' cannot be used here",
        ),
        (["train", "moons", "--holdout", "0.3"], "'moons' takes no holdout; leave it out"),
        (["compare", "moons", "--families", "kan,mpl"], "did you mean 'mlp'"),
        (["compare", "notebook", "--params", "300"], "leave params, match and budget out"),
        (["compare", "missing.yaml"], "study file 'missing.yaml' cannot be read"),
        (["sample", "nowhere"], "'nowhere' holds no finished run"),
        (["sample", "nowhere", "--import", "./mine.py"], "module './mine.py' cannot be imported"),
        (["evaluate", "nowhere"], "'nowhere' holds no finished run"),
        (["explain", "nowhere"], "'nowhere' holds no finished run"),
        (["report", "nowhere"], "'nowhere' holds no finished run"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_words_are_one_line(cli, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    assert message in cli(*words).error
    assert not list(tmp_path.rglob("trial.json"))


def test_what_a_run_cannot_do_is_one_line(cli, runs, tmp_path, points):
    run, moons, study = (runs(name) for name in ("points", "moons", "study"))
    trial = sorted((study / "trials").iterdir())[0]
    page = tmp_path / "page.html"
    for words, message in (
        (("train", points, *MLP, "--seed", 1, "--out", run),
         "holds another run (points · MLP · seed 0)"),
        (("sample", run, "--out", tmp_path / "points.txt"),
         "ending must be .csv, .csv.gz, .tsv,"),
        (("sample", moons, "--where", "x=1"), "is a model of points"),
        (("sample", moons, "--like", "a.csv"), "is a model of points"),
        (("sample", moons, "--class", "upper"), "is a model of points, which takes no classes;"),
        (("sample", moons, "--guidance", 2), "which takes no guidance"),
        (("sample", moons, "--max-seconds", 2), "which takes no max_seconds"),
        (("sample", moons, "--animate", page, "--class", "upper"), "which takes no classes"),
        (("impute", moons, "gaps.csv", "--out", "filled.csv"), "fills no gaps; only models of tab"),
        (("evaluate", moons, "--out", page), "is no model of a table; only tables have a page"),
        (("sample", run, "--animate", page, "--where", "mass>1"), "leave --where"),
        (("sample", run, "--animate", tmp_path / "a.avi"), ".gif or .html"),
        (("sample", run, run), "not from 2; with --animate"),
        (("sample", study), f"it is a study; give one of its trials, such as '{trial}'"),
        (("evaluate", study), f"it is a study; give one of its trials, such as '{trial}'"),
        (("report", run, study), f"it is a study; give one of its trials, such as '{trial}'"),
    ):  # fmt: skip
        assert message in cli(*words).error, words
    assert not list(tmp_path.iterdir())
    # As the remedy says:
    assert cli("sample", trial, "--num", 5, "--out", tmp_path / "new.csv").code == 0


def test_wrong_usage_has_a_code_of_its_own(cli):
    for words in (
        ["train", "moons", "--lr", "-1"],
        ["train", "moons", "--steps", "1.5"],
        ["sample", "run", "--num", "0x10"],
        ["sample"],
        ["frobnicate"],
        ["train", "--frobnicate"],
    ):
        outcome = cli(*words)
        assert outcome.code == 2
        assert outcome.err.startswith("usage: ")
        assert len(outcome.err.splitlines()) == 1


def test_damaged_runs_are_one_line_also_with_right_digests(cli, points, run, tmp_path):
    kept = (run / "trial.json").read_text()
    for name, content, message in (
        ("trial.json", "{", "is not the result of a trial"),
        ("denoiser/config.json", "no", "is not the configuration of a network"),
    ):
        (run / name).write_text(content)
        if name != "trial.json":
            reseal(run)
        for words in (("sample", run, "--out", tmp_path / "new.csv"), ("evaluate", run)):
            assert message in cli(*words).error
        (run / "trial.json").write_text(kept)
    assert not (tmp_path / "new.csv").exists()
    words = ("train", points, *MLP, "--out", run)
    assert f"restore it, or delete '{run}' and run again" in cli(*words).error


def test_a_finished_run_is_shown_again_and_replaced_when_asked(cli, points, run):
    words = ("train", points, *MLP, "--out", run)
    before = (run / "trial.json").stat().st_mtime_ns
    outcome = cli(*words)
    assert (outcome.code, outcome.err) == (0, "")
    assert "held-out loss" in outcome.out
    assert (run / "trial.json").stat().st_mtime_ns == before
    assert cli(*words, "--fresh", "--seed", 1).code == 0
    assert load_trial(run).config.study_seed == 1


def test_interrupted_training_goes_on(cli, points, tmp_path, monkeypatch):
    folder = tmp_path / "run"

    @contextmanager
    def interrupt(*_):
        def at_once(step, loss):
            raise KeyboardInterrupt

        yield at_once

    with monkeypatch.context() as patch:
        patch.setattr("kan_diffusion.progress.show_training", interrupt)
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
    mine = tmp_path / "mine.csv"
    mine.write_bytes(points.read_bytes())
    outcome = cli("train", mine, *MLP, "--process", "notebook", "--out", tmp_path / "run")
    assert (outcome.code, outcome.warnings) == (0, 1)
    outcome = cli("sample", tmp_path / "run", "--out", tmp_path / "new.npy")
    assert (outcome.code, outcome.warnings) == (0, 1)
    # Points that have changed cannot judge it, and the run itself is as good as before.
    pd.DataFrame({"mass": np.arange(60.0), "age": 1.0 / np.arange(1, 61)}).to_csv(mine, index=False)
    assert "has changed since this run was set up" in cli("evaluate", tmp_path / "run").error
    assert cli("sample", tmp_path / "run", "--out", tmp_path / "newer.csv").code == 0


def test_the_settings_that_were_found_are_used_at_the_budget_they_were_found_for(
    cli, monkeypatch, tmp_path
):
    kept = {"search": "", "family": "mlp", "settings": {}, "value": 0.0, "error": None}
    told = Try.model_validate({**kept, "measures": {"moons": 1.0}, "trials": []})
    found = Tuned({}, {"mlp": (told,)}, tmp_path / "tuned.json")
    monkeypatch.setattr(tuning, "tune", lambda *_, **__: found)
    given = ("--match", "time", "--budget", "6", "--families", "kan,mlp", "--steps", "9")
    out = cli("tune", "moons", *given, "--data", "moons").out
    assert out.splitlines()[-1] == (
        "Use them: kan-diffusion compare moons --match=time --budget=6 --families=kan,mlp "
        f"--data=moons --steps=9 --tuned {found.path}"
    )


@pytest.mark.parametrize("gpu", [True, False])
def test_too_little_memory_is_one_line(cli, monkeypatch, gpu):
    def evaluate(*_):
        if gpu:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0")
        torch.empty(2**58)

    monkeypatch.setattr("kan_diffusion.study.measure.evaluate_run", evaluate)
    assert cli("evaluate", "run").error.startswith("error: the memory does not suffice; take fewer")


def test_a_terminal_without_letters_for_it_gets_others(tmp_path, monkeypatch):
    shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.setattr(sys, "stderr", shown)
    assert call_command("evaluate", tmp_path / "Läufe – ½ ± ☃") == 1
    shown.seek(0)
    assert "/Laufe - 12 ~ ?'" in shown.read().replace("1?2", "12")
