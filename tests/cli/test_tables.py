import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from html_page import Page
from kan_diffusion.data.frames import write_frame
from kan_diffusion.study.config import TrialConfig
from kan_diffusion.tables.files import read_table
from kan_diffusion.training.config import num_held_out
from make import reseal
from mixed_tables import people
from runs import copied


@pytest.fixture
def run(runs):
    return runs("table")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The folder that the command runs in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_columns_are_described_and_nothing_is_trained(cli, place):
    # Names are no markup.
    frame = people(200, 0).rename(columns={"age": "age, in years", "job": "job [at that time]"})
    frame = frame.assign(number=np.arange(1, 201))
    frame["later"] = frame["age, in years"] + np.arange(200) % 9
    write_frame(Path("people [new].csv"), frame)

    def described(*options):
        outcome = cli("train", "people [new].csv", "--describe", *options)
        assert outcome.code == 0
        assert "column 'number' identifies rows" in " ".join(outcome.err.split())
        return " ".join(outcome.out.split())

    text = described("--out", "run")
    assert [path.name for path in place.iterdir()] == ["people [new].csv"]
    for words in (
        *("people [new]", "age, in years: number, ", "number: identifier, "),
        *("job [at that time]: category, ", "Rules: age, in years<=later: always"),
    ):
        assert words in text
    assert "age, in years: category" in described("--columns", '"age, in years=category"')
    assert "Rules" not in described("--without", '"age, in years<=later"')
    outcome = cli("train", "iris", "--describe")
    assert ("petal width (cm)" in outcome.out, outcome.err) == (True, "")


def test_rows_are_drawn_under_conditions_and_given_cells_kept(cli, run, place):
    conditions = ("--where", "job=nurse", "--where", "30<=age<=60", "--where", "smokes=True")
    conditions += ("--max-seconds", 60)
    outcome = cli("sample", run, "--num", 50, "--out", "rows.csv.gz", *conditions)
    assert (outcome.code, outcome.out, outcome.err) == (0, "50 rows: rows.csv.gz\n", "")
    frame = read_table(Path("rows.csv.gz"))[0]
    assert list(frame) == list(people(2, 0))
    met = (frame["job"] == "nurse") & frame["smokes"] & frame["age"].between(30, 60)
    assert (len(frame), met.all()) == (50, True)
    like = people(12, 1)[["job", "score"]]
    write_frame(Path("like.csv"), like)
    assert cli("sample", run, "--like", "like.csv", "--out", "new.csv").code == 0
    kept = read_table(Path("new.csv"))[0][list(like)][like.notna()]
    pd.testing.assert_frame_equal(kept, like)


def test_gaps_are_filled_several_times_and_all_else_stays(cli, run, place):
    whole = people(40, 2)
    gaps = whole.astype({"age": "Int64", "smokes": "boolean"})
    gaps = gaps.mask(np.random.default_rng(3).random(gaps.shape) < 0.3)
    gaps["income"] = np.nan  # a column of gaps alone
    write_frame(Path("gaps.csv"), gaps)
    Path("filled.csv").write_text("precious")
    words = ("impute", run, "gaps.csv", "--draws", 3, "--out", "filled.csv")
    assert "exists; choose another path" in cli(*words).error
    outcome = cli(*words, "--overwrite")
    assert (outcome.code, outcome.out, outcome.err) == (0, "120 rows: filled.csv\n", "")
    frame = read_table(Path("filled.csv"))[0]
    assert list(frame) == ["draw", *whole]
    assert not frame.isna().any(axis=None)
    assert frame.pop("draw").tolist() == np.repeat([1, 2, 3], 40).tolist()
    for number in (0, 40, 80):
        filled = frame[number : number + 40].reset_index(drop=True)
        assert (filled == whole).where(gaps.notna(), True).all(axis=None)
    assert frame.groupby(frame.index % 40)["age"].nunique()[gaps["age"].isna()].max() > 1


LEARNED = 240 - num_held_out(240)
"""Rows of the run that it has learned: those held out decide when training ends."""


def test_other_rows_judge_a_run_on_a_page_and_a_terminal(cli, run, place, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    write_frame(Path("others.parquet"), people(80, 5)[::-1])
    outcome = cli("evaluate", run, "--data", "others.parquet", "--out", "page.html")
    assert (outcome.code, outcome.err) == (0, "")
    table = outcome.out[outcome.out.index("Synthetic rows") :]
    assert max(len(line) for line in table.splitlines()) <= 80
    text = " ".join(table.split())
    for words in ("column shapes 0.", "closest record 0.", "0.500 ±", "Trees tell synthetic rows"):
        assert words in text
    assert "Page: page.html" in text
    said = " ".join(Page((place / "page.html").read_text()).text)
    for words in (
        "Real rows are those of 'others'. This is a first look, with few trees",
        "80 real rows are compared with 1,000 synthetic ones",
        f"from the {LEARNED} training rows",
    ):
        assert words in said


def test_of_its_own_file_the_rows_that_were_held_out_judge_a_run(cli, run, place):
    own = copied(run, place / "run [new]")
    outcome = cli("evaluate", own)
    assert "run[new]on" in "".join(outcome.out.partition("Synthetic rows")[0].split())
    assert f"Page: {own / 'tables.html'}" in " ".join(outcome.out.split())
    said = " ".join(Page((own / "tables.html").read_text()).text)
    learned = f"the model learned {LEARNED}, {240 - LEARNED} decided when training ended, and 60"
    assert f"Of its 300 rows {learned} were held out." in said
    assert "60 real rows are compared" in said


def with_data(run, folder, **changes):
    """A copy of a run that says something else of its data, and has right digests."""
    changed = copied(run, folder)
    content = json.loads((changed / "trial.json").read_text())
    content["config"]["data"] |= changes
    content["trained"]["row"]["trial"] = TrialConfig.model_validate(content["config"]).id
    (changed / "trial.json").write_text(json.dumps(content))
    reseal(changed)
    return changed


def test_a_lost_file_costs_the_tests_of_copies(cli, run, place):
    lost = with_data(run, place / "run", path=str(place / "lost" / "people.csv"))
    write_frame(Path("others.csv"), people(60, 5))
    outcome = cli("evaluate", lost, "--data", "others.csv")
    assert outcome.code == 0
    assert "cannot be said without the rows" in " ".join(outcome.out.split())
    assert "there is no file" in cli("evaluate", lost).error


def test_data_elsewhere_are_not_read_for_a_folder_without_their_digest(cli, run, place):
    with_data(run, place / "run", sha256="")
    path = run.parent / "people.csv"
    said = cli("evaluate", "run").error
    assert f"the run names '{path}' as its data, outside of the working folder" in said
    assert not list(place.rglob("*.html"))
    assert cli("evaluate", "run", "--data", path).code == 0
    # It is the file that was trained on, whose other rows the model has learned.
    said = " ".join(Page((place / "run" / "tables.html").read_text()).text)
    assert "60 real rows are compared" in said
