from __future__ import annotations

import io
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import kan_diffusion
from command_line import QUICK, SMALL, WARNING, Cli, Outcome, call_command, call_quietly
from commands import run_command
from kan_diffusion.sampling import PointDiffusionPipeline
from kan_diffusion.study import tuning
from kan_diffusion.study.config import read_study
from kan_diffusion.study.folder import load_trial
from kan_diffusion.study.run import run_study
from kan_diffusion.study.tuning import Tuned
from one_by_one import OneByOne
from tiny import tiny_study, written

COMMANDS = [
    "compare", "tune", "train", "sample", "export", "impute", "evaluate", "explain", "report",
]  # fmt: skip

pytestmark = pytest.mark.usefixtures("undrawn")


def _points(num: int = 60) -> np.ndarray:
    return np.random.default_rng(0).normal([100.0, -0.5], [10.0, 0.01], (num, 2))


def _write(path: Path, points: np.ndarray, columns: tuple[str, str] = ("mass", "age")) -> Path:
    frame = pd.DataFrame(points, columns=list(columns))
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        np.save(path, points)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run, trained on points.csv beside it."""
    folder = tmp_path_factory.mktemp("cli")
    path = _write(folder / "points.csv", _points())
    assert call_quietly("train", path, *QUICK, "--out", folder / "run", "--device", "cpu") == 0
    return folder / "run"


def test_the_settings_that_were_found_are_used_at_the_budget_they_were_found_for(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    row = {"family": "mlp", "try": 0, "value": 0.0, "error": None, "settings": {}, "trials": []}
    found = Tuned({}, pd.DataFrame([row]), tmp_path / "tuned.json")
    monkeypatch.setattr(tuning, "tune", lambda *_, **__: found)
    outcome = cli("tune", "moons", "--match", "time", "--budget", "6", "--families", "kan,mlp")
    assert outcome.out.splitlines()[-1] == (
        "Use them: kan-diffusion compare moons --match=time --budget=6 --families=kan,mlp "
        f"--tuned {found.path}"
    )


def test_a_terminal_without_letters_for_it_gets_others(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.setattr(sys, "stderr", shown)
    assert call_command("evaluate", trained.parent / "Läufe – ½ ± ☃") == 1
    shown.seek(0)
    assert "/Laufe - 12 ~ ?'" in shown.read().replace("1?2", "12")


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be changed at will."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def _study(folder: Path, **changes: object) -> Path:
    """A study file, and beside it a run folder in which all of its trials are finished."""
    settings = {
        "data": [{"toy": "gaussian-mixture", "num_points": 100}],
        "training": {"steps": 20, "batch_size": 64},
        "models": [{"name": "MLP", "family": "mlp", "params": 300}],
        "evaluation": {**SMALL, "moments": []},
    }
    path = folder / "tiny.yaml"
    path.write_text(tiny_study(**{**settings, **changes}).to_yaml())
    run_study(read_study(path), folder / "study", executor=OneByOne(workers=1, device="cpu"))
    return path


def test_help_lists_every_command_and_imports_nothing_heavy() -> None:
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
        assert result.stdout.splitlines()[-1] == "[]"
        assert result.stderr == ""
        if words == ["--help"]:
            assert all(command in result.stdout for command in COMMANDS)
        if words == ["--version"]:
            assert result.stdout.splitlines()[0] == f"kan-diffusion {kan_diffusion.__version__}"


def test_points_become_a_run_and_a_run_becomes_points(cli: Cli, tmp_path: Path) -> None:
    path = _write(tmp_path / "points.csv", _points())
    folder = tmp_path / "run"
    outcome = cli("train", path, *QUICK, "--steps", 150, "--out", folder)
    assert outcome.code == 0
    assert "held-out loss" in outcome.out
    assert f"kan-diffusion sample {folder}" in outcome.out
    # So few steps may be too few, and then it says so.
    assert outcome.err == "" or "raise steps from 150 to 600" in " ".join(outcome.err.split())

    written = tmp_path / "new.parquet"
    outcome = cli("sample", folder, "--num", 500, "--out", written)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == f"500 rows: {written}\n"
    frame = pd.read_parquet(written)
    assert list(frame.columns) == ["mass", "age"]
    samples = frame.to_numpy()
    # In the data's own units: 100 ± 10 and -0.5 ± 0.01.
    assert samples.shape == (500, 2)
    standardised = (samples - [100, -0.5]) / [10, 0.01]
    np.testing.assert_allclose(standardised.mean(0), 0, atol=0.6)
    np.testing.assert_allclose(standardised.std(0), 1, atol=0.5)

    outcome = cli("evaluate", folder)
    assert outcome.code == 0
    assert outcome.err == ""
    text = " ".join(outcome.out.split())
    assert "12 rows of 'points' that were not trained on, too few for an oracle" in text
    row = load_trial(folder).row
    assert row["excess"] is None  # without an oracle
    assert f"{row['heldout_loss']:.3g}"[:4] in outcome.out


def test_columns_of_any_size_come_back_and_lost_decimals_are_said(cli: Cli, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    columns = {
        "time": np.round(1.7e9 + generator.uniform(0, 3600, 300), 3),
        "tiny": 1e-300 * generator.normal(3, 1, 300),
        "huge": 1e299 * generator.normal(3, 1, 300),
    }
    path, folder = tmp_path / "points.csv", tmp_path / "run"
    pd.DataFrame(columns).to_csv(path, index=False)
    outcome = cli("train", path, *QUICK, "--steps", 150, "--out", folder)
    assert (outcome.code, outcome.err) == (0, "")
    assert cli("sample", folder, "--num", 500).code == 0
    samples = pd.read_csv(folder / "samples.csv")
    assert set(np.round(1000 * samples["time"]) % 10) == set(range(10))  # the third decimal
    for name, centre, spread in (("time", 1.7e9 + 1800, 1e3), ("tiny", 3e-300, 1e-300)):
        assert np.median(np.abs(samples[name] - centre) / spread) < 1.5
    assert np.median(np.abs(samples["huge"] / 1e299 - 3)) < 1.5

    columns["time"] = np.round(1.7e9 + generator.uniform(0, 3e8, 300), 3)
    pd.DataFrame(columns).to_csv(path, index=False)
    outcome = cli("train", path, *QUICK, "--out", tmp_path / "years")
    assert outcome.code == 0
    assert outcome.err.count("WARNING") == 1
    assert "column 'time' has steps of 0.001" in " ".join(outcome.err.split())


def test_samples_are_those_of_their_seed(cli: Cli, trained: Path, tmp_path: Path) -> None:
    def samples(*options: object) -> np.ndarray:
        path = tmp_path / "samples.npy"
        assert cli("sample", trained, "--out", path, "--overwrite", *options).code == 0
        return np.load(path)

    usual = samples()
    assert len(usual) == 1000
    np.testing.assert_array_equal(samples("--seed", 0), usual)
    assert not np.isclose(samples("--seed", 1), usual).all(axis=1).any()
    for scheduler in ("ddpm", "heun"):
        options = ("--num", 5, "--steps", 4, "--scheduler", scheduler)
        assert np.isfinite(samples(*options)).all()


def test_existing_files_are_kept_unless_told(cli: Cli, trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "samples.csv"
    path.write_text("precious")
    assert "exists; choose another --out, or add --overwrite" in (
        cli("sample", trained, "--out", path).error
    )
    assert path.read_text() == "precious"
    assert cli("sample", trained, "--num", 3, "--out", path, "--overwrite").code == 0
    assert len(path.read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.csv", None, "there is no file"),
        ("words.csv", "a,b\n1,2\n3,red\n", "column 'b', line 3 holds 'red'"),
        ("few.csv", "a,b\n1,2\n3,4\n", "has 2 rows; at least 10"),
        ("points.txt", "1 2", "ending '.txt'"),
    ],
)
def test_files_that_cannot_be_used_are_one_line(
    cli: Cli, tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    error = cli("train", path, "--out", tmp_path / "run").error
    assert str(path) in error
    assert re.search(message, error)
    if content is None or "few" not in name:
        assert re.search(message, cli("compare", path, "--out", tmp_path / "study").error)
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "mons"], "did you mean 'moons'"),
        (["train", "moons", "--process", "cosin"], "did you mean 'cosine'"),
        (["train", "moons", "--lr", "-1"], "learning_rate = -1.0"),
        (
            ["train", "moons", "--family", "mlp", "--device", "abacus"],
            "device 'abacus' cannot be used here",
        ),
        (["train", "moons", "--holdout", "0.3"], "leave --holdout out"),
        (["compare", "moons", "--families", "kan,mpl"], "did you mean 'mlp'"),
        (["compare", "notebook", "--steps", "3", "--epochs", "3"], "either --steps or --epochs"),
        (["compare", "notebook", "--params", "300"], "leave --params, --match and --budget out"),
        (["compare", "missing.yaml"], "study file 'missing.yaml' cannot be read"),
        (["sample", "nowhere"], "'nowhere' holds no finished run"),
        (["sample", "nowhere", "--import", "./mine.py"], "module './mine.py' cannot be imported"),
        (["evaluate", "nowhere"], "'nowhere' holds no finished run"),
        (["report", "nowhere"], "'nowhere' holds neither a study nor a finished run"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_words_are_one_line(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in cli(*words).error
    assert not list(tmp_path.rglob("trial.json"))


@pytest.mark.parametrize("words", [["train", "moons", "--steps", "0"], ["sample"], ["frobnicate"]])
def test_wrong_usage_has_a_code_of_its_own(cli: Cli, words: list[str]) -> None:
    outcome = cli(*words)
    assert outcome.code == 2
    assert "Usage" in outcome.err
    assert "Traceback" not in outcome.err


def test_a_run_in_the_way_is_one_line(cli: Cli, trained: Path) -> None:
    points = trained.parent / "points.csv"
    other = cli("train", points, *QUICK, "--seed", 1, "--out", trained)
    assert "holds another run (points · MLP · seed 0)" in other.error
    assert "replace the run with --fresh" in other.error


def test_a_study_is_no_run_and_a_run_no_study(cli: Cli, trained: Path, tmp_path: Path) -> None:
    _study(tmp_path)
    (trial,) = (tmp_path / "study" / "trials").iterdir()
    for command in ("sample", "evaluate"):
        error = cli(command, tmp_path / "study").error
        assert f"it is a study; give one of its trials, such as '{trial}'" in error
    assert "each must be a run" in cli("report", trained, tmp_path / "study").error
    # A run has a report of its own, and beside others one elsewhere.
    assert f"Report: {trained / 'report.html'}" in cli("report", trained).out.replace("\n", "")
    assert (trained / "report.html").stat().st_size > 0
    # As the remedy says:
    assert cli("sample", trial, "--num", 5, "--out", tmp_path / "new.csv").code == 0


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("trial.json", "{", "is not the result of a trial"),
        ("denoiser/config.json", "no", "is not the configuration of a denoiser"),
    ],
)
def test_damaged_runs_are_one_line(
    cli: Cli, run: Path, tmp_path: Path, name: str, content: str, message: str
) -> None:
    (run / name).write_text(content)
    for words in (("sample", run, "--out", tmp_path / "new.csv"), ("evaluate", run)):
        assert f"{name}' is not what the run wrote" in cli(*words).error
        assert message in cli(*words, "--unverified").error
    assert not (tmp_path / "new.csv").exists()


def test_a_finished_run_that_was_changed_is_shown_when_asked_for(
    cli: Cli, trained: Path, run: Path
) -> None:
    (run / "denoiser" / "config.json").unlink()
    words = ("train", trained.parent / "points.csv", *QUICK, "--out", run)
    assert f"delete '{run}' and run again, or read it all the same with" in cli(*words).error
    assert "held-out loss" in cli(*words, "--unverified").out


def test_an_unknown_ending_is_one_line(cli: Cli, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "points.txt"
    assert "ending must be .csv, .csv.gz, .tsv," in cli("sample", trained, "--out", out).error
    assert not out.exists()


def test_a_finished_run_is_shown_again_and_replaced_when_asked(
    cli: Cli, trained: Path, run: Path
) -> None:
    words = ("train", trained.parent / "points.csv", *QUICK, "--out", run, "--device", "cpu")
    before = (run / "trial.json").stat().st_mtime_ns
    outcome = cli(*words)
    assert (outcome.code, outcome.err) == (0, "")
    assert "held-out loss" in outcome.out
    assert (run / "trial.json").stat().st_mtime_ns == before
    assert cli(*words, "--fresh", "--seed", 1).code == 0
    assert load_trial(run).config.study_seed == 1


def test_samples_are_numbered_in_the_folder_of_their_run(cli: Cli, run: Path) -> None:
    for name in ("samples.csv", "samples-2.csv", "samples-3.csv"):
        assert f"{run / name}" in cli("sample", run, "--num", 3).out
        assert len((run / name).read_text().splitlines()) == 4
    assert cli("sample", run, "--num", 5, "--overwrite").code == 0
    assert len((run / "samples.csv").read_text().splitlines()) == 6
    assert not (run / "samples-4.csv").exists()


def test_changed_points_are_one_line(cli: Cli, tmp_path: Path) -> None:
    path = _write(tmp_path / "points.csv", _points())
    assert cli("train", path, *QUICK, "--out", tmp_path / "run").code == 0
    _write(path, _points() + 1)
    assert "has changed since this run was set up" in cli("evaluate", tmp_path / "run").error
    # The run itself is as good as before.
    assert cli("sample", tmp_path / "run", "--out", tmp_path / "new.csv").code == 0


def test_interrupted_training_goes_on(
    cli: Cli, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, points = tmp_path / "run", trained.parent / "points.csv"

    @contextmanager
    def interrupt(*_: object) -> Iterator[Callable[[int, float], None]]:
        def at_once(step: int, loss: float) -> None:
            raise KeyboardInterrupt

        yield at_once

    with monkeypatch.context() as patch:
        patch.setattr("kan_diffusion.progress.show_training", interrupt)
        outcome = cli("train", points, *QUICK, "--out", folder, "--device", "cpu")
    assert outcome.code == 130
    assert outcome.err.startswith("interrupted; what is finished is kept")
    assert len(outcome.err.splitlines()) == 1

    assert "its training has not finished; the same command goes on" in cli("sample", folder).error
    changed = cli("train", points, *QUICK, "--seed", 1, "--out", folder)
    assert "checkpoint of a run with other settings" in changed.error
    again = cli("train", points, *QUICK, "--out", folder, "--device", "cpu")
    assert again.code == 0
    rows = [load_trial(place).row for place in (folder, trained)]
    for key, value in rows[0].items():
        if not key.endswith("_seconds"):
            assert value == rows[1][key], key


def test_interrupted_sampling_keeps_nothing_and_does_not_say_so(
    cli: Cli, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(PointDiffusionPipeline, "__call__", interrupt)
    before = written(run)
    for command in ("sample", "evaluate"):
        outcome = cli(command, run)
        assert outcome.code == 130
        assert outcome.err.startswith("interrupted; nothing is kept")
        assert len(outcome.err.splitlines()) == 1
    assert written(run) == before


def test_diverging_training_is_one_line(cli: Cli, trained: Path, tmp_path: Path) -> None:
    points = trained.parent / "points.csv"
    words = ("train", points, *QUICK, "--lr", "1e30", "--out", tmp_path / "run")
    assert "lower the learning rate" in cli(*words).error
    assert "lower the learning rate" in cli(*words).error  # and nothing is trained again
    assert "failed: the" in cli("sample", tmp_path / "run").error


def test_warning_of_a_process_that_keeps_its_signal_comes_once(cli: Cli, tmp_path: Path) -> None:
    points = _write(tmp_path / "points.npy", _points())
    words = ("train", points, *QUICK, "--process", "notebook", "--out", tmp_path / "run")
    outcome = cli(*words)
    assert (outcome.code, outcome.warnings) == (0, 1)
    outcome = cli("sample", tmp_path / "run", "--out", tmp_path / "new.npy")
    assert (outcome.code, outcome.warnings) == (0, 1)
    # Without it: test_points_become_a_run_and_a_run_becomes_points


def test_compare_reports_and_warns_once(cli: Cli, tmp_path: Path) -> None:
    study = _study(tmp_path, process="notebook")
    folder = tmp_path / "study"
    outcome = cli("compare", study, "--out", folder)
    assert (outcome.code, outcome.warnings) == (0, 1)
    assert "excess" in outcome.out
    assert f"Report: {folder / 'report.html'}" in outcome.out.replace("\n", " ")
    page = (folder / "report.html").read_text()
    assert WARNING in page
    rows = pd.read_parquet(folder / "results.parquet").to_dict("records")
    assert [row["name"] for row in rows] == ["MLP"]


def test_the_command_that_samples_a_run_is_shown_with_its_module_and_quotes(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    Path("mine.py").write_text(
        "from kan_diffusion.denoisers import Family, MLPDenoiser\n"
        "MINE = Family('mine', MLPDenoiser, depth=1, learning_rate=0.01)\n"
    )
    outcome = cli("train", "moons", *QUICK, "--family", "mine:MINE", "--out", "a run")
    assert outcome.code == 0, outcome.err
    sys.modules.pop("mine")  # the command that is shown has a process of its own
    shown = outcome.out.splitlines()[-1].partition(": kan-diffusion ")[2]
    assert cli(*shlex.split(shown)).code == 0
    assert len(pd.read_csv("a run/samples.csv")) == 1000


def test_failed_trials_are_counted_in_one_line(cli: Cli, tmp_path: Path) -> None:
    models = [{"name": "wild", "family": "mlp", "params": 300, "learning_rate": 1e30}]
    study = _study(tmp_path, models=models)
    folder = tmp_path / "study"
    outcome = cli("compare", study, "--out", folder)
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


def test_processes_end_with_codes_and_one_line(tmp_path: Path) -> None:
    # What is wrong is found before anything that takes seconds is imported.
    result = subprocess.run(
        [sys.executable, "-m", "kan_diffusion", "sample", "run", "--import", "missing"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    outcome = Outcome(result.returncode, result.stdout, result.stderr)
    assert outcome.error.startswith("error: module 'missing' cannot be imported")
    assert outcome.out == ""
    script = Path(sys.executable).with_name("kan-diffusion")
    result = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert result.stdout == f"kan-diffusion {kan_diffusion.__version__}\n"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="limits of file sizes are a Unix matter")
def test_a_full_disk_leaves_no_half_written_file(tmp_path: Path) -> None:
    path = _write(tmp_path / "points.npy", _points(40))
    words = ["train", path, "--family", "mlp", "--steps", "20", "--batch-size", "64"]
    ended = run_command(
        *words, "--out", "run", "--device", "cpu", folder=tmp_path, largest_file=4096
    )
    error = Outcome(ended.code, ended.out, ended.err).error
    assert "cannot write" in error
    assert "checkpoint.safetensors" in error
    assert "File too large" in error
    assert "choose another folder with --out" in error
    left = [entry.name for entry in (tmp_path / "run").rglob("*") if entry.is_file()]
    assert left == [".lock"]


def test_points_of_a_class_are_drawn_by_its_name_or_number(
    cli: Cli, trained: Path, tmp_path: Path
) -> None:
    run, size = tmp_path / "moons", ("--family", "mlp", "--params", 400, "--batch-size", 256)
    words = ("train", "moons", "--conditional", *size, "--steps", 300, "--lr", 0.01)
    assert cli(*words, "--out", run, "--device", "cpu").code == 0
    row = load_trial(run).row
    assert row["data"] == "moons-conditional"
    # Not known to be told the class, a perfect denoiser has a floor a third higher.
    assert row["floor"] < row["heldout_loss"] < 1.3 * row["floor"]

    def points(*options: object) -> np.ndarray:
        path = tmp_path / "points.npy"
        options = (*options, "--num", 400, "--out", path, "--overwrite")
        assert cli("sample", run, *options).code == 0
        return np.load(path)

    upper, lower = points("--class", "upper"), points("--class", 1)
    np.testing.assert_array_equal(points("--class", "lower"), lower)
    assert upper[:, 1].mean() > 0.4
    assert lower[:, 1].mean() < 0.1
    guided = points("--class", 1, "--guidance", 3)
    assert guided[:, 1].mean() < lower[:, 1].mean()  # further from what both have in common
    assert (
        "has no class 'middle'; give one of 0 (upper), 1 (lower)"
        in cli("sample", run, "--class", "middle").error
    )
    assert "give --class, or leave it out" in cli("sample", run, "--guidance", 2).error
    assert (
        "--class is for models of points and pictures with classes"
        in cli("sample", trained, "--class", 1).error
    )
    assert "'s-curve' has no classes" in cli("train", "s-curve", "--conditional").error

    page = tmp_path / "points.html"
    moving = ("sample", run, "--animate", page, "--steps", 4, "--num", 20)
    assert cli(*moving, "--class", "upper", "--class", 1).code == 0
    assert "<title>From noise to upper, 1</title>" in page.read_text()
    assert "has no class 'middle'" in cli(*moving, "--class", "middle", "--overwrite").error
    assert "give --class, or leave it out" in cli(*moving, "--guidance", 2, "--overwrite").error
    assert "train one without --conditional" in cli("export", run, "--to", "web").error


def test_runs_are_animated_side_by_side(cli: Cli, trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "both.gif"
    told = cli("sample", trained, trained, "--animate", path, "--num", 20, "--steps", 4)
    assert "5 frames, 0.0" in told.out
    with Image.open(path) as image:
        assert image.n_frames == 5
    kept = path.read_bytes()
    again = ("sample", trained, "--animate", path)
    assert "exists" in cli(*again).error
    assert "leave --where" in cli(*again, "--overwrite", "--where", "mass>1").error
    assert "not from 2; with --animate" in cli("sample", trained, trained).error
    assert "--animate, too" in cli("sample", trained, "--trails", 3).error
    assert ".gif, .mp4, .html" in cli("sample", trained, "--animate", tmp_path / "a.avi").error
    assert path.read_bytes() == kept
    assert [left.name for left in tmp_path.iterdir()] == ["both.gif"]
