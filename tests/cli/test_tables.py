"""Tables of mixed columns on the command line: from files to rows, conditions and filled gaps."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from command_line import QUICK, Cli, call_quietly
from kan_diffusion.data.tables import read_frame, write_frame
from kan_diffusion.study.run import run_study
from one_by_one import OneByOne
from tiny import tiny_study

pytestmark = pytest.mark.usefixtures("undrawn")

NUM = 200


def _people(num: int = NUM, seed: int = 0) -> pd.DataFrame:
    """People with ages, jobs, incomes with gaps, children and dates, each beside its number."""
    generator = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "number": np.arange(1, num + 1),
            "age, in years": generator.integers(18, 90, num),
            "job": generator.choice(["nurse", "teacher", "clerk"], num),
            "income": np.where(
                generator.random(num) < 0.2, np.nan, generator.lognormal(8, 1, num).round(2)
            ),
            "since": pd.Timestamp("2020-01-01")
            + pd.to_timedelta(generator.integers(0, 999, num), "D"),
            "member": generator.random(num) < 0.4,
        }
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run, trained on people.csv beside it."""
    folder = tmp_path_factory.mktemp("people")
    write_frame(folder / "people.csv", _people())
    words = ("train", folder / "people.csv", *QUICK, "--out", folder / "run", "--device", "cpu")
    assert call_quietly(*words) == 0
    return folder / "run"


def _is_like_people(frame: pd.DataFrame) -> None:
    """Dtypes and ranges are those of people."""
    assert list(frame.columns) == list(_people())
    assert frame["age, in years"].dtype == np.int64
    assert frame["age, in years"].between(18, 90).all()
    assert set(frame["job"]) <= {"nurse", "teacher", "clerk"}
    assert (frame["income"].dropna() > 0).all()
    assert frame["since"].between("2019-12-01", "2022-11-01").all()
    assert (frame["since"] == frame["since"].dt.normalize()).all()
    assert frame["member"].dtype == bool


def test_columns_are_described_and_nothing_is_trained(cli: Cli, tmp_path: Path) -> None:
    write_frame(tmp_path / "people.csv", _people())
    outcome = cli("train", tmp_path / "people.csv", "--describe", "--out", tmp_path / "run")
    assert outcome.code == 0
    assert not (tmp_path / "run").exists()
    text = " ".join(outcome.out.split())
    for words in ("age, in years integer", "number identifier"):
        assert words in text
    jobs = re.search(r"job categorical (\w+), (\w+), (\w+)", text)
    assert jobs is not None
    assert set(jobs.groups()) == {"clerk", "nurse", "teacher"}
    assert outcome.err.count("WARNING") == 1
    assert "column 'number' identifies rows" in " ".join(outcome.err.split())

    kinds = "'age, in years'=continuous".replace("'", "")
    outcome = cli("train", tmp_path / "people.csv", "--describe", "--columns", f'"{kinds}"')
    assert "age, in years continuous" in " ".join(outcome.out.split())
    outcome = cli("train", "iris", "--describe")
    assert "petal width (cm)" in outcome.out
    assert outcome.err == ""


def test_wide_tables_are_described_in_eighty_columns(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    frame = _people().rename(columns={"job": "what they did for a living [at that time] " * 3})
    write_frame(tmp_path / "people [new].parquet", frame)
    outcome = cli("train", tmp_path / "people [new].parquet", "--describe")
    assert outcome.code == 0
    assert "people[new].parquet" in "".join(outcome.out.split())
    assert max(len(line) for line in outcome.out.splitlines()[1:]) <= 80
    assert "[at" in outcome.out  # and no markup


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("age", "'age', which is no kind of a column such as age=integer"),
        ("job=number", "unknown kind of a column 'number'"),
        ("jobs=categorical", "people.csv': there is no column 'jobs'"),
        ("job=integer", "people.csv': column 'job' cannot be of kind 'integer'"),
    ],
)
def test_wrong_kinds_are_one_line(cli: Cli, tmp_path: Path, columns: str, message: str) -> None:
    write_frame(tmp_path / "people.csv", _people().drop(columns="number"))
    words = ("train", tmp_path / "people.csv", "--columns", columns, "--out", tmp_path / "run")
    assert message in cli(*words).error
    assert not (tmp_path / "run").exists()
    assert "kinds are for the columns of a file" in (
        cli("train", "moons", "--columns", "x=integer").error
    )
    assert "is a toy" in cli("train", "moons", "--describe").error


@pytest.mark.parametrize("ending", [".csv.gz", ".parquet"])
def test_rows_are_what_people_are(cli: Cli, trained: Path, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"rows{ending}"
    outcome = cli("sample", trained, "--num", 300, "--out", path)
    assert (outcome.code, outcome.out, outcome.err) == (0, f"300 rows: {path}\n", "")
    frame = read_frame(path).frame
    _is_like_people(frame)
    assert frame["number"].is_unique
    assert 0 < frame["income"].isna().mean() < 0.9
    again = tmp_path / f"again{ending}"
    assert cli("sample", trained, "--num", 300, "--out", again).code == 0
    assert again.read_bytes() == path.read_bytes()
    assert "takes numbers only" in cli("sample", trained, "--out", tmp_path / "rows.npy").error


def test_conditions_are_met(cli: Cli, trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    outcome = cli(
        "sample", trained, "--num", 50, "--out", path,
        "--where", "job=nurse", "--where", "30<=age, in years<=60", "--where", "member=True",
    )  # fmt: skip
    assert outcome.code == 0
    frame = read_frame(path).frame
    _is_like_people(frame)
    assert len(frame) == 50
    assert (frame["job"] == "nurse").all()
    assert frame["member"].all()
    assert frame["age, in years"].between(30, 60).all()


def test_rows_like_others_keep_their_cells(cli: Cli, trained: Path, tmp_path: Path) -> None:
    like = _people(12, seed=1)[["job", "income"]]
    write_frame(tmp_path / "like.csv", like)
    words = ("sample", trained, "--like", tmp_path / "like.csv", "--out", tmp_path / "rows.csv")
    assert cli(*words).code == 0
    frame = read_frame(tmp_path / "rows.csv").frame
    assert len(frame) == 12
    assert frame["job"].tolist() == like["job"].tolist()
    given = like["income"].notna()
    assert given.any()
    assert frame["income"][given].tolist() == like["income"][given].tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--where", "job=astronaut"], "column 'job' has no value 'astronaut'; known: "),
        (["--where", "jobs=nurse"], "no column 'jobs'; known: number, age, in years, job"),
        (["--where", "job"], "'job' is no condition"),
        (["--where", "job=nurse", "--where", "job=clerk"], "contradict"),
        (["--like", "missing.csv"], "there is no file 'missing.csv'"),
        (["--like", "new.csv"], "column 'shoe size' is new"),
        (["--like", "unseen.csv"], "'astronaut' in row 2"),
        (["--like", "good.csv", "--num", "3"], "a row is drawn for each of the 2 given, not 3"),
    ],
)
def test_conditions_that_cannot_be_are_one_line(
    cli: Cli, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    options: list[str], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    write_frame(Path("new.csv"), pd.DataFrame({"job": ["nurse"], "shoe size": [42]}))
    write_frame(Path("unseen.csv"), pd.DataFrame({"job": ["nurse", "astronaut"]}))
    write_frame(Path("good.csv"), pd.DataFrame({"job": ["nurse", "clerk"]}))
    error = cli("sample", trained, *options, "--out", "rows.csv").error
    assert message in error
    if message.endswith("known: "):
        assert set(error.rpartition("known: ")[2].split(", ")) == {"clerk", "nurse", "teacher"}
    assert not Path("rows.csv").exists()


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_gaps_are_filled_and_all_else_stays(
    cli: Cli, trained: Path, tmp_path: Path, ending: str
) -> None:
    whole = _people(40, seed=2)
    gaps = whole.astype({"age, in years": "Int64", "member": "boolean"})
    hidden = np.random.default_rng(3).random(gaps.shape) < 0.3
    hidden[:, 0] = False
    gaps = gaps.mask(hidden)
    path, filled = tmp_path / f"gaps{ending}", tmp_path / f"filled{ending}"
    write_frame(path, gaps)
    outcome = cli("impute", trained, path, "--out", filled)
    assert (outcome.code, outcome.out, outcome.err) == (0, f"40 rows: {filled}\n", "")
    frame = read_frame(filled).frame
    assert list(frame) == list(whole)
    assert not frame.isna().any(axis=None)
    for name in whole:
        known = gaps[name].notna()
        assert frame[name][known].tolist() == gaps[name][known].tolist()

    assert cli("impute", trained, path, "--draws", 3, "--out", filled, "--overwrite").code == 0
    several = read_frame(filled).frame
    assert list(several) == ["draw", *whole]
    assert several["draw"].tolist() == np.repeat([1, 2, 3], 40).tolist()
    pieces = [part.reset_index(drop=True) for _, part in several.groupby("draw")]
    known = gaps["age, in years"].notna()
    ages = np.array([piece["age, in years"] for piece in pieces])
    assert (ages[:, known] == ages[0, known]).all()
    assert (ages[:, ~known].std(axis=0) > 0).any()


def test_a_column_of_gaps_alone_is_filled(cli: Cli, trained: Path, tmp_path: Path) -> None:
    gaps = _people(10, seed=4).assign(job=np.nan, since=np.nan)
    write_frame(tmp_path / "gaps.csv", gaps)
    assert cli("impute", trained, tmp_path / "gaps.csv", "--out", tmp_path / "f.csv").code == 0
    frame = read_frame(tmp_path / "f.csv").frame
    assert set(frame["job"]) <= {"nurse", "teacher", "clerk"}
    assert frame["since"].notna().all()


def test_gaps_that_cannot_be_filled_are_one_line(cli: Cli, trained: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "gaps.csv", tmp_path / "filled.csv"
    people = _people(5)
    people.loc[4, "income"] = np.nan
    unseen = people.assign(job=["nurse"] * 4 + ["astronaut"])
    for frame, message in (
        (people.drop(columns="job"), "column 'job' of the rows trained on is missing"),
        (people.assign(shoes=1), "column 'shoes' is new"),
        (unseen, "'astronaut' in row 5"),
        (people.assign(income="much"), "column 'income'"),
    ):
        write_frame(path, frame)
        assert message in cli("impute", trained, path, "--out", out).error
    out.write_text("precious")
    assert "exists; choose another --out" in cli("impute", trained, path, "--out", out).error
    assert out.read_text() == "precious"


def test_a_table_is_judged_with_other_rows(cli: Cli, trained: Path, tmp_path: Path) -> None:
    write_frame(tmp_path / "others.parquet", _people(60, seed=5)[::-1])
    outcome = cli("evaluate", trained, "--data", tmp_path / "others.parquet")
    assert outcome.code == 0
    assert "60 rows of 'others'" in " ".join(outcome.out.split())
    for frame, message in (
        (_people(20).drop(columns="income"), "others.parquet': column 'income' .* is missing"),
        (_people(20).assign(job="astronaut"), "others.parquet': column 'job' has 'astronaut'"),
    ):
        write_frame(tmp_path / "others.parquet", frame)
        error = cli("evaluate", trained, "--data", tmp_path / "others.parquet").error
        assert pd.Series([error]).str.contains(message).all(), error
    assert "of the rows of a table" in cli("evaluate", trained, "--data", "moons").error


def test_points_have_no_conditions(cli: Cli, tmp_path: Path) -> None:
    assert cli("train", "moons", *QUICK, "--out", tmp_path / "run").code == 0
    for options in (["--where", "x=1"], ["--like", "a.csv"]):
        assert "is a model of points" in cli("sample", tmp_path / "run", *options).error
    words = ("impute", tmp_path / "run", "gaps.csv", "--out", tmp_path / "filled.csv")
    assert "only models of tables fill gaps" in cli(*words).error


def test_models_are_compared_on_a_table_without_conditions(
    cli: Cli, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_frame(tmp_path / "people.csv", _people(60))
    data = {"path": str(tmp_path / "people.csv"), "kinds": {"member": "categorical"}}
    models = [{"family": "mlp", "params": 400, "name": name} for name in ("one", "two")]
    study = tiny_study(data=[data], training={"steps": 10, "batch_size": 64}, models=models)
    results = run_study(
        study.pinned(), tmp_path / "study", executor=OneByOne(workers=1, device="cpu")
    )
    assert results.rows["error"].isna().all()
    assert caplog.text.count("column 'number' identifies rows") == 1  # once for all trials
    trial = results.trials[0].folder
    assert cli("sample", trial, "--num", 20, "--out", tmp_path / "rows.csv").code == 0
    _is_like_people(read_frame(tmp_path / "rows.csv").frame)
    error = cli("sample", trial, "--where", "job=nurse").error
    assert "trained without conditions" in error
