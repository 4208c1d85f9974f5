"""What cannot be is one line with a remedy, and leaves nothing behind."""

import sys

import numpy as np
import pandas as pd
import pytest

from kan_diffusion.data.frames import write_frame
from mixed_tables import people
from picture_folders import write_pictures
from runs import PICTURES

REFUSED = """
train mons -> did you mean 'moons'
train moons --process cosin -> did you mean 'cosine'
train moons --family mlp --device abacus -> device 'abacus' cannot be used here
train moons --holdout 0.3 -> 'moons' takes no holdout; leave it out
train moons --columns x=number -> 'moons' takes no kinds; leave it out
train moons --describe -> is a toy
train missing.csv -> there is no file
train words.csv -> column 'b', row 2 holds 'red'
train few.csv -> has 2 rows; at least 10
train points.txt -> ending '.txt'
train others.csv --columns age -> 'age', which is no kind of a column such as age=number
train others.csv --columns age=number,age=category -> names 'age' twice; keep one
train others.csv --columns jobs=category -> others.csv': there is no column 'jobs'
train others.csv --without a<=b -> others.csv': there is no rule 'a<=b'
train {captions}/../pictures --size 9000 -> size = 9000
train spoilt -> '03.png' is no picture that
compare spoilt -> '03.png' is no picture that
compare words.csv -> column 'b', row 2 holds 'red'
compare moons --families kan,mpl -> did you mean 'mlp'
compare digits --families dit,mlp -> family 'mlp': it takes points
compare notebook --params 300 -> leave params, match and budget out
compare missing.yaml -> study file 'missing.yaml' cannot be read
sample nowhere -> 'nowhere' holds no finished run
sample nowhere --import ./mine.py -> module './mine.py' cannot be imported
sample {points} --out points.txt -> ending must be .csv, .csv.gz, .tsv,
sample {points} --animate page.html --where mass>1 -> leave --where
sample {points} --animate a.avi -> .gif or .html
sample {points} {points} -> not from 2; with --animate
sample {moons} --where x=1 -> is a model of points
sample {moons} --like a.csv -> is a model of points
sample {moons} --class upper -> is a model of points, which takes no classes;
sample {moons} --guidance 2 -> which takes no guidance
sample {moons} --max-seconds 2 -> which takes no max_seconds
sample {moons} --animate page.html --class upper -> which takes no classes
sample {study} -> it is a study; give one of its trials, such as '{study}/trials/
sample {table} --where job=astronaut -> column 'job' has no value 'astronaut'; known:
sample {table} --like missing.csv -> there is no file 'missing.csv'
sample {table} --out rows.npy -> takes numbers only
sample {captions} --prompt many -> tokens and 13 fit; say it in fewer
sample {captions} --where a=1 -> of pictures, which takes no where; leave
sample {classes} --class drak -> there is no such class: 'drak' was never seen; nearest known: dark
impute {moons} others.csv --out filled.csv -> is a model of points, which fills no gaps
impute {table} others.csv --out filled.csv -> column 'job' has 'astronaut'
impute {captions} others.csv --out filled.csv -> is a model of pictures, which fills no gaps
evaluate nowhere -> 'nowhere' holds no finished run
evaluate {moons} --out page.html -> is no model of a table; only tables have a page
evaluate {study} -> it is a study; give one of its trials
evaluate {table} --data others.csv -> others.csv': column 'job' has 'astronaut'
evaluate {table} --data moons -> not what the model was trained on
evaluate {captions} --out page.html -> no model of a table; only tables
explain nowhere -> 'nowhere' holds no finished run
explain {readable} --library linear,tahn -> 'tahn', did you mean 'tanh'
explain {readable} --library nowhere:NAME -> nowhere
explain {points} -> only KANs have edges to read
explain {captions} -> is a model of pictures, and only models of points
report nowhere -> 'nowhere' holds no finished run
report {points} {study} -> it is a study; give one of its trials
report several -> 'several' is no study and no run; it holds studies: several/one; give one
"""


class _Runs(dict):
    """The runs that are named, which are trained when they are first asked for."""

    def __init__(self, runs):
        self._runs = runs

    def __missing__(self, name):
        return self._runs(name)


@pytest.mark.parametrize("line", REFUSED.strip().splitlines())
def test_what_cannot_be_is_one_line(cli, runs, tmp_path, monkeypatch, line):
    monkeypatch.chdir(tmp_path)
    for name, content in (
        ("words.csv", "a,b\n1,2\n3,red\n"),
        ("few.csv", "a,b\n1,2\n3,4\n"),
        ("points.txt", "1 2"),
    ):
        (tmp_path / name).write_text(content)
    (tmp_path / "several" / "one").mkdir(parents=True)
    (tmp_path / "several" / "one" / "study.yaml").touch()
    write_frame(tmp_path / "others.csv", people(12, 0).assign(job="astronaut"))
    if "spoilt" in line:
        (write_pictures(tmp_path / "spoilt", "captions") / "03.png").write_bytes(b"no picture")
    before = {path.name for path in tmp_path.iterdir()}
    words, message = line.format_map(_Runs(runs)).split(" -> ")
    given = [20 * "a " if word == "many" else word for word in words.split()]
    assert message in cli(*given).error
    assert {path.name for path in tmp_path.iterdir()} - {"runs"} == before
    assert not list(tmp_path.rglob("trial.json"))


@pytest.mark.parametrize(
    "words",
    [
        "train moons --lr -1",
        "train moons --lr nan",
        "train moons --steps 0",
        "train moons --steps 1.5",
        "train moons --optimizer sgd",
        "sample run --num 0x10",
        "sample run --guidance -1",
        "impute run data.csv",
        "sample",
        "frobnicate",
        "train --frobnicate",
    ],
)
def test_wrong_usage_has_a_code_of_its_own(cli, words):
    outcome = cli(*words.split())
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
    assert outcome.err.startswith("usage: ")
    assert outcome.err.endswith(" --help\n")
    *_, option, value = ["", *words.split()]
    if option.startswith("--"):
        assert f"{option} {value}: " in outcome.err


def test_what_prompts_need_is_said_where_it_is_not_installed(runs, cli, tmp_path, monkeypatch):
    run = runs("captions")
    monkeypatch.setitem(sys.modules, "transformers", None)  # as Python marks what is not there
    for words in (
        ("train", run.parent / "pictures", *PICTURES[:-1], "--out", tmp_path / "run"),
        ("sample", run, "--prompt", "a dark picture"),
    ):
        assert cli(*words).error == (
            "error: models of pictures need 'transformers'; install it in a clone of the "
            "repository: pip install '.[text]'"
        )


def test_a_trial_of_a_study_is_a_run_and_points_that_have_changed_judge_none(cli, runs, tmp_path):
    trial = sorted((runs("study") / "trials").iterdir())[0]
    assert cli("sample", trial, "--num", 5, "--out", tmp_path / "new.csv").code == 0
    mine, run = tmp_path / "mine.csv", tmp_path / "run"
    frame = pd.DataFrame({"mass": np.arange(60.0), "age": 1.0 / np.arange(1, 61)})
    frame.to_csv(mine, index=False)
    short = ("--family", "mlp", "--params", 400, "--steps", 5, "--device", "cpu")
    assert cli("train", mine, *short, "--out", run).code == 0
    refused = cli("train", mine, *short, "--seed", 1, "--out", run)
    assert "holds another run, mine · MLP · seed 0 (" in refused.error
    frame[::-1].to_csv(mine, index=False)
    assert "has changed since this run was set up" in cli("evaluate", run).error
    assert cli("sample", run, "--out", tmp_path / "newer.csv").code == 0


def test_an_explanation_without_a_formula_says_which_stages_it_has(cli, tmp_path):
    for name in ("simplified", "with-formulas"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "trial.json").touch()
    (tmp_path / "formulas.json").touch()
    for place in (tmp_path, tmp_path / "formula"):
        error = cli("sample", place).error
        assert error.endswith("this explanation has the stages simplified, with-formulas")
