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
from mixed_tables import people
from one_by_one import one_by_one
from runs import MLP


def test_compare_reports_what_has_finished_counts_what_failed_and_warns_once(cli, tmp_path):
    models = [{"name": name, "family": "mlp", "params": 300} for name in ("MLP", "wild")]
    models[1]["learning_rate"] = 1e30
    training = {"steps": 20, "batch_size": 64}
    config = study(process="notebook", models=models, training=training)
    path, folder = tmp_path / "tiny.yaml", tmp_path / "study"
    path.write_text(config.to_yaml())
    run_study(config, folder, executor=one_by_one)

    outcome = cli("compare", path, "--out", folder)
    assert (outcome.code, outcome.warnings) == (1, 1)
    assert "excess" in outcome.out
    assert f"Report: {folder / 'report.html'}" in outcome.out.replace("\n", " ")
    *_, said, error = outcome.err.splitlines()
    assert said.startswith("2 of 2 trials are finished and are not run again; after a change")
    assert error.startswith("error: 1 of 2 trials failed, the first ('wild', seed 0) with: the")
    page = (folder / "report.html").read_text()
    assert WARNING in page
    assert "This is a first look" in page
    (folder / "report.html").unlink()
    outcome = cli("report", folder)
    assert (outcome.code, outcome.err) == (0, "")
    # The page says how to run the study, not how to report it, again.
    page = (folder / "report.html").read_text()
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


def test_models_are_compared_on_a_table_without_conditions(cli, tmp_path, caplog):
    frame = people(60, 0)
    frame.insert(0, "number", np.arange(60))
    frame.to_csv(tmp_path / "people.csv", index=False)
    data = {"path": str(tmp_path / "people.csv"), "kinds": {"smokes": "category"}}
    models = [{"family": "mlp", "params": 400, "name": name} for name in ("one", "two")]
    config = study(data=[data], training={"steps": 10, "batch_size": 64}, models=models)
    results = run_study(config.pinned(), tmp_path / "study", executor=one_by_one)
    assert results.rows["error"].isna().all()
    assert caplog.text.count("column 'number' identifies rows") == 1  # once for all trials
    trial = results.trials[0].folder
    assert cli("sample", trial, "--num", 20, "--out", tmp_path / "rows.csv").code == 0
    assert pd.read_csv(tmp_path / "rows.csv")["number"].is_unique
    assert "trained without conditions" in cli("sample", trial, "--where", "job=nurse").error
