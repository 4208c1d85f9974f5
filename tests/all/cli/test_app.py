import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

import kan_diffusion
from command_line import WARNING, Outcome
from kan_diffusion.study.run import run_study
from make import study
from one_by_one import one_by_one

MLP = ("--family", "mlp", "--params", 400, "--steps", 20, "--batch-size", 64, "--device", "cpu")


def studied(folder, **changes):
    """A study file, and beside it a run folder in which all of its trials are finished."""
    settings = {
        "training": {"steps": 20, "batch_size": 64},
        "models": [{"name": "MLP", "family": "mlp", "params": 300}],
    }
    config, path = study(**{**settings, **changes}), folder / "tiny.yaml"
    path.write_text(config.to_yaml())
    run_study(config, folder / "study", executor=one_by_one)
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
    assert "steps of 0.001, more than float32" in " ".join(outcome.err.split())


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
        "from kan_diffusion.denoisers import Family, NetworkDenoiser\n"
        "MINE = Family('mine', NetworkDenoiser, depth=1, learning_rate=0.01)\n"
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
