import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from html_page import Page
from kan_diffusion.data.frames import write_frame
from kan_diffusion.study.config import TrialConfig
from kan_diffusion.tables.files import read_table
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


def test_rows_are_what_people_are(cli, run, place):
    outcome = cli("sample", run, "--num", 300, "--out", "rows.csv.gz")
    assert (outcome.code, outcome.out, outcome.err) == (0, "300 rows: rows.csv.gz\n", "")
    frame = read_table(Path("rows.csv.gz"))[0]
    assert list(frame) == list(people(2, 0))
    assert set(frame["job"].dropna()) <= {"nurse", "driver", "clerk"}
    assert (frame["since"] == frame["since"].dt.normalize()).all()
    assert 0 < frame["score"].isna().mean() < 0.9
    assert cli("sample", run, "--num", 300, "--out", "again.csv.gz").code == 0
    assert (place / "again.csv.gz").read_bytes() == (place / "rows.csv.gz").read_bytes()


def test_conditions_are_met_and_given_cells_kept(cli, run, place):
    conditions = ("--where", "job=nurse", "--where", "30<=age<=60", "--where", "smokes=True")
    conditions += ("--max-seconds", 60)
    assert cli("sample", run, "--num", 50, "--out", "rows.csv", *conditions).code == 0
    frame = read_table(Path("rows.csv"))[0]
    met = (frame["job"] == "nurse") & frame["smokes"] & frame["age"].between(30, 60)
    assert (len(frame), met.all()) == (50, True)
    like = people(12, 1)[["job", "score"]]
    write_frame(Path("like.csv"), like)
    assert cli("sample", run, "--like", "like.csv", "--out", "new.csv").code == 0
    kept = read_table(Path("new.csv"))[0][list(like)][like.notna()]
    pd.testing.assert_frame_equal(kept, like)


def test_gaps_are_filled_and_all_else_stays(cli, run, place):
    whole = people(40, 2)
    gaps = whole.astype({"age": "Int64", "smokes": "boolean"})
    gaps = gaps.mask(np.random.default_rng(3).random(gaps.shape) < 0.3)
    gaps["income"] = np.nan  # a column of gaps alone
    write_frame(Path("gaps.csv"), gaps)
    outcome = cli("impute", run, "gaps.csv", "--out", "filled.csv")
    assert (outcome.code, outcome.out, outcome.err) == (0, "40 rows: filled.csv\n", "")
    frame = read_table(Path("filled.csv"))[0]
    assert not frame.isna().any(axis=None)
    assert (frame == whole).where(gaps.notna(), True).all(axis=None)
    words = ("impute", run, "gaps.csv", "--draws", 3, "--out", "filled.csv")
    assert "exists; choose another path" in cli(*words).error
    assert cli(*words, "--overwrite").code == 0
    several = read_table(Path("filled.csv"))[0]
    assert list(several) == ["draw", *whole]
    assert several["draw"].tolist() == np.repeat([1, 2, 3], 40).tolist()
    assert several.groupby(several.index % 40)["age"].nunique()[gaps["age"].isna()].max() > 1


def test_a_run_is_judged_and_has_a_page(cli, run, place, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    write_frame(Path("others.parquet"), people(60, 5)[::-1])
    outcome = cli("evaluate", run, "--data", "others.parquet", "--out", "page.html")
    assert (outcome.code, outcome.err) == (0, "")
    table = outcome.out[outcome.out.index("Synthetic rows") :]
    assert max(len(line) for line in table.splitlines()) <= 80
    text = " ".join(table.split())
    for words in ("column shapes 0.", "closest record 0.", "0.500 ±", "Trees tell synthetic rows"):
        assert words in text
    assert "Page: page.html" in text
    said = " ".join(Page((place / "page.html").read_text()).text)
    assert "Real rows are those of 'others'. This is a first look, with few trees" in said


def test_data_elsewhere_are_not_read_for_a_folder_without_their_digest(cli, runs, place):
    run = copied(runs("table"), place / "run")
    content = json.loads((run / "trial.json").read_text())
    path = content["config"]["data"]["path"]
    content["config"]["data"]["sha256"] = ""
    content["trained"]["row"]["trial"] = TrialConfig.model_validate(content["config"]).id
    (run / "trial.json").write_text(json.dumps(content))
    reseal(run)
    said = cli("evaluate", "run").error
    assert f"the run names '{path}' as its data, outside of the working folder" in said
    assert not list(place.rglob("*.html"))
    assert cli("evaluate", "run", "--data", path).code == 0
