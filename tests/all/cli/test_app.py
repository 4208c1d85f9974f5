"""Commands for points in processes of their own, and those that write pages with figures."""

import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import kan_diffusion
from command_line import WARNING, Outcome
from commands import run_command
from kan_diffusion.study.folder import load_trial
from kan_diffusion.study.run import run_study
from make import study
from one_by_one import OneByOne

MLP = ("--family", "mlp", "--params", 400, "--steps", 20, "--batch-size", 64, "--device", "cpu")


def studied(folder, **changes):
    """A study file, and beside it a run folder in which all of its trials are finished."""
    settings = {
        "training": {"steps": 20, "batch_size": 64},
        "models": [{"name": "MLP", "family": "mlp", "params": 300}],
    }
    config, path = study(**{**settings, **changes}), folder / "tiny.yaml"
    path.write_text(config.to_yaml())
    run_study(config, folder / "study", executor=OneByOne(workers=1, device="cpu"))
    return path


def test_columns_of_any_size_come_back_and_lost_decimals_are_said(cli, tmp_path):
    generator = np.random.default_rng(0)
    columns = {
        "time": np.round(1.7e9 + generator.uniform(0, 3600, 300), 3),
        "tiny": 1e-300 * generator.normal(3, 1, 300),
        "huge": 1e299 * generator.normal(3, 1, 300),
    }
    path, folder = tmp_path / "points.csv", tmp_path / "run"
    pd.DataFrame(columns).to_csv(path, index=False)
    outcome = cli("train", path, *MLP, "--steps", 150, "--out", folder)
    assert (outcome.code, outcome.err) == (0, "")
    assert cli("sample", folder, "--num", 500).code == 0
    samples = pd.read_csv(folder / "samples.csv")
    assert set(np.round(1000 * samples["time"]) % 10) == set(range(10))  # the third decimal
    for name, centre, spread in (("time", 1.7e9 + 1800, 1e3), ("tiny", 3e-300, 1e-300)):
        assert np.median(np.abs(samples[name] - centre) / spread) < 1.5
    assert np.median(np.abs(samples["huge"] / 1e299 - 3)) < 1.5

    columns["time"] = np.round(1.7e9 + generator.uniform(0, 3e8, 300), 3)
    pd.DataFrame(columns).to_csv(path, index=False)
    outcome = cli("train", path, *MLP, "--out", tmp_path / "years")
    assert outcome.code == 0
    assert outcome.err.count("WARNING") == 1
    assert "column 'time' has steps of 0.001" in " ".join(outcome.err.split())


def test_points_of_a_class_are_where_the_class_is(cli, tmp_path):
    run = tmp_path / "moons"
    words = ("train", "moons", "--conditional", *MLP, "--steps", 300, "--batch-size", 256)
    assert cli(*words, "--lr", 0.01, "--out", run).code == 0
    row = load_trial(run).row
    assert row["data"] == "moons-conditional"
    # Not known to be told the class, a perfect denoiser has a floor a third higher.
    assert row["floor"] < row["heldout_loss"] < 1.3 * row["floor"]

    def points(*options):
        path = tmp_path / "points.npy"
        shared = ("--num", 400, "--out", path, "--overwrite")
        assert cli("sample", run, "--class", *options, *shared).code == 0
        return np.load(path)

    lower = points("lower")
    assert points("upper")[:, 1].mean() > 0.4
    assert lower[:, 1].mean() < 0.1
    guided = points("lower", "--guidance", 3)
    assert guided[:, 1].mean() < lower[:, 1].mean()  # further from what both have in common
    page = tmp_path / "points.html"
    moving = ("sample", run, "--animate", page, "--steps", 4, "--num", 20)
    assert cli(*moving, "--class", "upper", "--class", 1).code == 0
    assert "<title>From noise to upper, 1</title>" in page.read_text()


def test_runs_are_animated_side_by_side(cli, runs, tmp_path):
    path, run = tmp_path / "both.gif", runs("points")
    told = cli("sample", run, run, "--animate", path, "--num", 20, "--steps", 4)
    assert "5 frames, 0.0" in told.out
    with Image.open(path) as image:
        assert image.n_frames == 5
    kept = path.read_bytes()
    assert "exists" in cli("sample", run, "--animate", path).error
    assert path.read_bytes() == kept
    assert [left.name for left in tmp_path.iterdir()] == ["both.gif"]


def test_compare_reports_and_warns_once(cli, tmp_path):
    path, folder = studied(tmp_path, process="notebook"), tmp_path / "study"
    outcome = cli("compare", path, "--out", folder)
    assert (outcome.code, outcome.warnings) == (0, 1)
    assert "excess" in outcome.out
    assert f"Report: {folder / 'report.html'}" in outcome.out.replace("\n", " ")
    page = (folder / "report.html").read_text()
    assert WARNING in page
    assert "This is a first look" in page
    rows = pd.read_parquet(folder / "results.parquet").to_dict("records")
    assert [row["name"] for row in rows] == ["MLP"]
    # A run has a report of its own, too.
    (trial,) = (folder / "trials").iterdir()
    assert f"Report: {trial / 'report.html'}" in cli("report", trial).out.replace("\n", "")
    assert (trial / "report.html").stat().st_size > 0


def test_failed_trials_are_counted_in_one_line(cli, tmp_path):
    models = [{"name": "wild", "family": "mlp", "params": 300, "learning_rate": 1e30}]
    path, folder = studied(tmp_path, models=models), tmp_path / "study"
    outcome = cli("compare", path, "--out", folder)
    assert outcome.code == 1
    said, error = outcome.err.splitlines()  # and nothing else
    assert said.startswith("1 of 1 trials are finished and are not run again; after a change")
    assert error.startswith("error: 1 of 1 trials failed, the first ('wild', seed 0) with: the")
    (folder / "report.html").unlink()
    outcome = cli("report", folder)
    assert (outcome.code, outcome.err) == (0, "")
    page = (folder / "report.html").read_text()
    # The page says how to run the study, not how to report it, again.
    assert f"kan-diffusion compare {folder / 'study.yaml'} --out {folder}" in page


def test_the_command_that_samples_a_run_is_shown_with_its_module_and_quotes(
    cli, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    Path("mine.py").write_text(
        "from kan_diffusion.denoisers import Family, MLPDenoiser\n"
        "MINE = Family('mine', MLPDenoiser, depth=1, learning_rate=0.01)\n"
    )
    outcome = cli("train", "moons", *MLP, "--family", "mine:MINE", "--out", "a run")
    assert outcome.code == 0, outcome.err
    sys.modules.pop("mine")  # the command that is shown has a process of its own
    shown = outcome.out.splitlines()[-1].partition(": kan-diffusion ")[2]
    assert cli(*shlex.split(shown)).code == 0
    assert len(pd.read_csv("a run/samples.csv")) == 1000


def test_processes_end_with_codes_and_one_line(tmp_path):
    # What is wrong is found before anything that takes seconds is imported.
    words = ["-m", "kan_diffusion", "sample", "run", "--import", "missing"]
    result = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    outcome = Outcome(result.returncode, result.stdout, result.stderr)
    assert outcome.error.startswith("error: module 'missing' cannot be imported")
    assert outcome.out == ""
    script = Path(sys.executable).with_name("kan-diffusion")
    result = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert result.stdout == f"kan-diffusion {kan_diffusion.__version__}\n"


@pytest.mark.skipif(sys.platform == "win32", reason="limits of file sizes are a Unix matter")
def test_a_full_disk_leaves_no_half_written_file(tmp_path):
    np.save(tmp_path / "points.npy", np.random.default_rng(0).normal(size=(40, 2)))
    words = ["train", tmp_path / "points.npy", *MLP, "--out", "run"]
    ended = run_command(*words, folder=tmp_path, largest_file=4096)
    error = Outcome(ended.code, ended.out, ended.err).error
    assert "cannot write" in error
    assert "checkpoint.safetensors" in error
    assert "File too large" in error
    assert "choose another folder with --out" in error
    left = [entry.name for entry in (tmp_path / "run").rglob("*") if entry.is_file()]
    assert left == [".lock"]
