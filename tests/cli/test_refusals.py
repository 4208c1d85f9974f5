"""What cannot be is one line with a remedy, and leaves nothing behind."""

import sys

import pytest

from kan_diffusion.data.frames import write_frame
from mixed_tables import people
from runs import PICTURES

REFUSED = """
train moons --family mlp --device abacus -> device 'abacus' cannot be used here
train moons --holdout 0.3 -> 'moons' takes no holdout; leave it out
train moons --describe -> is a toy
train others.csv --columns age -> 'age', which is no kind of a column such as age=number
train others.csv --columns age=number,age=category -> names 'age' twice; keep one
train others.csv --columns jobs=category -> others.csv': there is no column 'jobs'
train {captions}/../pictures --size 9000 -> size = 9000
compare moons --families kan,mpl -> did you mean 'mlp'
sample nowhere -> 'nowhere' holds no finished run
sample {points} --out points.txt -> ending must be .csv, .csv.gz, .tsv,
sample {points} --animate page.html --where mass>1 -> leave --where
sample {points} {points} -> not from 2; with --animate
sample {moons} --where x=1 -> is a model of points, which takes no where; leave it out
sample {moons} --class upper -> is a model of points, which takes no classes
sample {moons} --guidance 2 -> which takes no guidance
sample {moons} --max-seconds 2 -> which takes no max_seconds
sample {moons} --animate page.html --class upper -> which takes no classes
sample {study} -> it is a study; give one of its trials, such as '{study}/trials/
sample {classes} --class drak -> unknown class 'drak', did you mean 'dark'? known: bright, dark
sample {captions} --class dark -> unknown class 'dark'; known: none
impute {moons} others.csv --out filled.csv -> is a model of points, which fills no gaps
evaluate {moons} --out page.html -> is no model of a table; only tables have a page
explain {readable} --library nowhere:NAME -> nowhere
explain {readable} --num 1 -> one sample cannot be judged; draw 2 or more, or 0 for none
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
    (tmp_path / "several" / "one").mkdir(parents=True)
    (tmp_path / "several" / "one" / "study.yaml").touch()
    write_frame(tmp_path / "others.csv", people(12, 0))
    before = {path.name for path in tmp_path.iterdir()}
    words, message = line.format_map(_Runs(runs)).split(" -> ")
    assert message in cli(*words.split()).error
    assert {path.name for path in tmp_path.iterdir()} == before


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
        ("train", run.parent / "pictures", *PICTURES, "--out", tmp_path / "run"),
        ("sample", run, "--prompt", "a dark picture"),
    ):
        assert cli(*words).error == (
            "error: models of pictures need 'transformers'; install it in a clone of the "
            "repository: pip install '.[text]'"
        )


def test_an_explanation_without_a_formula_says_which_stages_it_has(cli, tmp_path):
    for name in ("simplified", "with-formulas"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "trial.json").touch()
    (tmp_path / "formulas.json").touch()
    for place in (tmp_path, tmp_path / "formula"):
        error = cli("sample", place).error
        assert error.endswith("this explanation has the stages simplified, with-formulas")
