import io
import json
import subprocess
import sys

import pandas as pd
import pytest
import torch

import kan_diffusion
from command_line import call_command
from kan_diffusion.cli.app import COMMANDS, app
from kan_diffusion.diffusion.sampling import PointDiffusionPipeline, make_scheduler
from kan_diffusion.randomness import torch_generator
from kan_diffusion.study import tuning
from kan_diffusion.study.folder import load_trial
from kan_diffusion.study.trial import load_run
from kan_diffusion.study.tuning import Try, Tuned
from kan_diffusion.training.config import TrainingConfig
from make import written
from mixed_tables import people
from runs import MLP, copied


@pytest.fixture
def run(runs, tmp_path):
    """A copy of a run of points, to be changed at will."""
    return copied(runs("points"), tmp_path / "run")


@pytest.fixture
def points(runs):
    return runs("points").parent / "points.csv"


ASKED = ("--help", "train --help", "--version")
DESCRIBED = ("train people.csv --describe", "train no.csv --describe")
PROGRAM = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
import kan_diffusion, kan_diffusion.cli

answers = [(0, "", [*sys.modules])]
for words in json.loads(sys.argv[1]):
    sys.argv, said = ["kan-diffusion", *words.split()], io.StringIO()
    try:
        with redirect_stdout(said), redirect_stderr(said):
            kan_diffusion.cli.main()
    except SystemExit as stop:
        answers.append((stop.code or 0, said.getvalue(), [*sys.modules]))
print(json.dumps(answers))
"""
SLOW = {"torch", "diffusers", "sklearn"}


def test_imports_help_and_descriptions_of_files_load_nothing_heavy(tmp_path):
    people(100, 0).to_csv(tmp_path / "people.csv", index=False)
    asked = [sys.executable, "-c", PROGRAM, json.dumps([*ASKED, *DESCRIBED])]
    ended = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, check=True)
    codes, said, modules = zip(*json.loads(ended.stdout), strict=True)
    assert codes == (0, 0, 0, 0, 0, 1)
    _, commands, _, version, table, missing = said
    assert all(command in commands for command in COMMANDS)
    assert version == f"kan-diffusion {kan_diffusion.__version__}\n"
    assert "job: category" in table
    assert "no file" in missing
    for names, loaded in zip(
        ({"pydantic"}, *[SLOW | {"numpy", "pandas", "matplotlib"}] * 3, SLOW, SLOW),
        modules,
        strict=True,
    ):
        assert not names & set(loaded)


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
    outcome = cli("train", points, *MLP, "--out", folder)
    assert outcome.code == 0
    assert "held-out loss" in outcome.out
    assert "A first look, by few rows; the same command without --quick" in outcome.out
    assert f"kan-diffusion sample {folder}" in outcome.out

    how = ("--num", 500, "--seed", 3, "--steps", 4, "--scheduler", "heun")
    outcome = cli("sample", folder, *how, "--out", new)
    assert (outcome.code, outcome.out, outcome.err) == (0, f"500 rows: {new}\n", "")
    _, pipeline = load_run(folder)
    pipeline.scheduler = make_scheduler("heun", pipeline.process)
    expected = pipeline.draw(500, steps=4, generator=torch_generator("samples", 3))
    pd.testing.assert_frame_equal(pd.read_parquet(new), expected)
    assert list(expected) == ["mass", "age"]

    outcome = cli("evaluate", folder)
    assert (outcome.code, outcome.err) == (0, "")
    said = "12 rows of 'points' that were not trained on; no oracle is known"
    assert said in " ".join(outcome.out.split())
    row = load_trial(folder).row
    assert row["excess"] is None  # without an oracle
    assert f"{row['heldout_loss']:.3g}"[:4] in outcome.out


def test_existing_files_are_kept_unless_told(cli, run, tmp_path):
    path, motion, few = tmp_path / "samples.csv", tmp_path / "both.gif", ("--num", 3, "--steps", 4)
    for option, file in (("--out", path), ("--animate", motion)):
        file.write_text("precious")
        error = cli("sample", run, option, file).error
        assert "exists; choose another path, or overwrite it" in error
        assert file.read_text() == "precious"
    assert "5 frames, 0.0" in cli("sample", run, run, "--animate", motion, *few, "--overwrite").out
    assert cli("sample", run, *few, "--out", path, "--overwrite").code == 0
    assert len(path.read_text().splitlines()) == 4
    # In the folder of their run they are numbered.
    for name in ("samples.csv", "samples-2.csv"):
        assert f"{run / name}" in cli("sample", run, *few).out
    assert cli("sample", run, *few, "--num", 5, "--overwrite").code == 0
    assert len((run / "samples.csv").read_text().splitlines()) == 6
    assert not (run / "samples-3.csv").exists()


def test_a_finished_run_is_shown_again_and_replaced_when_asked(cli, points, run):
    words, before = ("train", points, *MLP, "--out", run), written(run)
    outcome = cli(*words)
    assert (outcome.code, outcome.err) == (0, "")
    assert "held-out loss" in outcome.out
    assert written(run) == before
    assert cli(*words, "--fresh", "--seed", 1).code == 0
    assert load_trial(run).config.study_seed == 1
    (run / "denoiser" / "config.json").write_text("no")
    assert f"restore it, or delete '{run}' and run again" in cli(*words, "--seed", 1).error


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
    outcome = cli("train", points, *MLP, "--lr", "1e30", "--out", tmp_path / "run")
    assert "lower the learning rate" in outcome.error


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
