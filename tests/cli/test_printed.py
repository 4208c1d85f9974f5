"""Names and cells that hold what a terminal obeys: every outcome is looked through for it."""

import csv
from pathlib import Path

import numpy as np
import pytest
import yaml

from command_line import OBEYED
from kan_diffusion import DiffusionEstimator
from kan_diffusion.progress import TrainingBar, progress_bars
from make import study
from mixed_tables import people
from picture_folders import write_pictures

CODES, SHOWN = "\x1b[2J\x9b31m\u202e", "\\x1b[2J\\x9b31m\\u202e"


@pytest.fixture
def frame():
    frame = people(60, 0).rename(columns={"age": f"age{CODES}"})
    return frame.assign(job=np.where(np.arange(60) % 3, f"a{CODES}", "b"))


def test_what_files_hold_is_printed_without_effect(cli, frame, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frame.to_csv("rows.csv", index=False, quoting=csv.QUOTE_NONNUMERIC)
    pictures = write_pictures(Path("pictures"), "classes")
    (pictures / "dark").rename(pictures / f"dark{CODES}")
    settings = study(seeds=1, models=[{"family": "mlp", "params": 300}]).model_dump(mode="json")
    settings |= {"title": CODES, "question": CODES}
    Path("study.yaml").write_text(yaml.safe_dump(settings))
    train = ("train", "rows.csv", "--steps", 3, "--family", "mlp", "--device", "cpu")
    for words, said in (
        (("train", "rows.csv", "--describe"), f"age{SHOWN}"),
        (("train", pictures, "--describe"), f"dark{SHOWN}"),
        ((*train, "--params", 400, "--out", "run"), "Run: run"),
        (("sample", "run", "--num", 5), "samples.csv"),
        (("impute", "run", "rows.csv", "--out", "filled.csv"), "filled.csv"),
        (("evaluate", "run"), "tables.html"),
        (("report", "run"), "report.html"),
        (("compare", "study.yaml", "--out", "study"), "report.html"),
    ):
        outcome = cli(*words)
        assert outcome.code == 0, outcome.err
        assert said in outcome.out, words
    assert f"age{SHOWN}" in cli("sample", "run", "--where", "ago=3").error
    assert f"a{SHOWN}" in cli("train", f"a{CODES}").error
    assert "has invisible characters; rename it" in cli("sample", "two\nlines").error


def test_bars_have_codes_of_their_own_and_none_of_a_name(frame, monkeypatch, capsys):
    for name, value in (("FORCE_COLOR", "1"), ("COLUMNS", "150")):
        monkeypatch.setenv(name, value)
    with progress_bars() as bars:
        TrainingBar(bars, f"a name{CODES}", 10).move(3, 0.5)
        bars.console.print(f"[red]a sentence{CODES} :smile:", style="red")
    DiffusionEstimator("mlp", params=300, steps=2, batch_size=8, verbose=True).fit(frame)
    said = capsys.readouterr().err
    for shown in (f"a name{SHOWN[:6]}", f"\x1b[31m[red]a sentence{SHOWN} :smile:", f"age{SHOWN}"):
        assert shown in said
    assert "MLP, 60 rows" in said
    assert "training, loss" in said
    assert "\x1b[2J" not in said
    assert set(OBEYED.findall(said)) == {"\x1b", "\r"}
