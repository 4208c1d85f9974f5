"""Damaged folders of runs and studies: one line that says so, or a right result.

Each case takes a finished run or study, changes one thing in one of its files (a bit, a length, a
value, a key, a shape, the kind of file) and gives it to a command: as it is, which must be refused
where the command reads the file; or with digests that are right again, as a stranger's would be.
"""

import json
import math
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from random import Random

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from commands import run_command
from kan_diffusion.study.run import run_study
from make import EVALUATION, contents, reseal, study
from one_by_one import one_by_one
from runs import copied

NUM_POINTS = 20
SAMPLE = ("--num", NUM_POINTS, "--steps", "3", "--out", "samples.npy")
EXPLAIN = ("--no-simplify", "--num", "0", "--out", "page")
PAGES = {
    "report": "page/report.html",
    "compare": "study/report.html",
    "explain": "page/explanation.html",
}

VALUES = (
    None, True, 0, -1, 0.5, 1e308, -1e308, math.nan, math.inf, 10**9, 10**12, 10**30, "", "x",
    "..", "~", "../../x", "a\0b", "os:system", "$x$", "x" * 100_000, [], {}, [[]], [0] * 100_000,
    {"a": {"b": {}}},
)  # fmt: skip
TEXTS = ("", "{}", "[]", "null", "3", "{", "[" * 100_000, "\0\0", '{"a": NaN}', "a: *b")


def _places(content, place=()):
    """Ways to every value in JSON content."""
    if place:
        yield place
    few = content[:3] if isinstance(content, list) else []
    for key, value in content.items() if isinstance(content, dict) else enumerate(few):
        yield from _places(value, (*place, key))


def _change_value(path, random):
    is_json = path.suffix == ".json"
    content = json.loads(path.read_text()) if is_json else yaml.safe_load(path.read_text())
    *way, last = random.choice(list(_places(content)))
    holder = content
    for key in way:
        holder = holder[key]
    kind = random.choice((*["another value for"] * 3, "no", "another name for"))
    if kind == "another value for":
        holder[last] = random.choice(VALUES)
    else:
        value = holder.pop(last)
        if kind == "another name for" and isinstance(holder, dict):
            holder[f"{last}_"] = value
    path.write_text(json.dumps(content) if is_json else yaml.safe_dump(content, sort_keys=False))
    return f"{kind} {'.'.join(map(str, [*way, last]))} in"


def _change_tensor(path, random):
    tensors = load_file(path)
    name = random.choice(sorted(tensors))
    tensor, first = tensors.pop(name), torch.tensor([0])
    how, made = random.choice((
        ("NaN in", tensor.index_fill(0, first, math.nan)),
        ("infinity in", tensor.index_fill(0, first, math.inf)),
        ("a row less in", tensor[1:].clone()),
        ("one axis of", tensor.reshape(-1).clone()),
        ("one axis more in", tensor[None].clone()),
        ("whole numbers for", tensor.long()),
        ("no", None),
    ))  # fmt: skip
    save_file(tensors if made is None else {**tensors, name: made}, path)
    return f"{how} {name} in"


def _change_table(path, random):
    table = pd.read_parquet(path)
    name = random.choice(list(table.columns))
    how, made = random.choice((
        ("no", table.drop(columns=name)),
        ("NaN in", table.assign(**{name: math.nan})),
        ("words in", table.assign(**{name: "x"})),
        ("lists in", table.assign(**{name: [[1.0, 2.0]] * len(table)})),
        ("the rows reversed in", table[::-1]),
        ("no rows in", table[:0]),
    ))  # fmt: skip
    made.to_parquet(path, index=False)
    return f"{how} {name} in"


def _change_bytes(path, random):
    content = path.read_bytes()
    place = random.randrange(len(content))
    flipped = bytes([content[place] ^ 1 << random.randrange(8)])
    text = random.choice(TEXTS)
    other = random.choice(sorted(p for p in path.parent.iterdir() if p.is_file()))
    how, made = random.choice((
        (f"a bit of byte {place} of", content[:place] + flipped + content[place + 1 :]),
        ("the end of", content[:place]),
        ("more bytes at the end of", content + random.randbytes(random.randrange(1, 1000))),
        ("random bytes for", random.randbytes(random.randrange(2000))),
        (f"the content of {other.name} for", other.read_bytes()),
        (f"{text[:20]} for", text.encode()),
    ))  # fmt: skip
    path.write_bytes(made)
    return how


def _change_kind(path, random):
    path.unlink()
    how, make = random.choice((
        ("no", lambda: None),
        ("a folder for", path.mkdir),
        ("a named pipe for", lambda: os.mkfifo(path)),
        ("a link to itself for", lambda: path.symlink_to(path.name)),
    ))  # fmt: skip
    make()
    return how


ANY = [_change_bytes] * 6 + [_change_kind] * 4
WAYS = {
    ".json": [_change_value] * 25,
    ".yaml": [_change_value] * 25,
    ".safetensors": [_change_tensor] * 10,
    ".parquet": [_change_table] * 10,
}


def _change(folder, random):
    """Changes one file of a folder, and says how."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    path = random.choice(files)
    how = random.choice(ANY + WAYS.get(path.suffix, []))(path, random)
    return f"{how} {path.relative_to(folder)}"


def _require_right(ended, folder):
    """Checks what a command that succeeded has made."""
    command = ended.words[0]
    if command == "sample":
        points = np.load(folder / "samples.npy")
        assert len(points) == NUM_POINTS, ended
        assert np.isfinite(points).all(), ended
    elif command == "evaluate":
        assert "excess" in ended.out, ended
    else:
        assert len((folder / PAGES[command]).read_text()) > 20_000, ended
    if command == "compare":
        rows = pd.read_parquet(folder / "study" / "results.parquet")
        assert list(rows["name"]) == ["KAN", "MLP"], ended


def _require_answer(words, place, random, reads):
    """Changes a file in a folder, or below that which a command reads; checks how it answers."""
    before = contents(reads)
    change = _change(random.choice([place, reads]), random)
    trust = random.choice(("as it is", "digests are right", "digests are right"))
    if trust == "digests are right":
        for folder in sorted(path for path in (place, *place.rglob("*")) if path.is_dir()):
            with suppress(OSError, ValueError, AttributeError, TypeError):  # no such JSON is left
                reseal(folder)
    noticed = contents(reads) != before
    ended = run_command(*words, folder=place)
    print(change, trust, ended, sep="\n")
    ended.require_answer()
    if ended.code == 0:
        _require_right(ended, place)
        assert trust != "as it is" or not noticed, f"{change} went unnoticed: {ended}"


@pytest.mark.parametrize("number", range(50))
def test_a_changed_run_is_answered_in_one_line_or_rightly(number, runs, tmp_path):
    random, run = Random(number), copied(runs("readable"), tmp_path / "run")
    words = random.choice([
        *[("sample", "run", *SAMPLE)] * 3,
        *[("evaluate", "run")] * 2,
        ("explain", "run", *EXPLAIN),
        ("report", "run", "--out", "page"),
    ])  # fmt: skip
    _require_answer(words, tmp_path, random, run)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study whose page has few figures, in a folder beside its file."""
    folder = tmp_path_factory.mktemp("finished")
    config = study(
        data=[{"toy": "moons", "num_points": 200}], evaluation={**EVALUATION, "moments": []}
    )
    (folder / "study.yaml").write_text(config.to_yaml())
    run_study(config, folder / "study", executor=one_by_one)
    return folder


@pytest.mark.parametrize("number", range(30))
def test_a_changed_study_is_answered_in_one_line_or_rightly(number, finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    random, folder = Random(number), tmp_path / "study"
    trial = min((folder / "trials").iterdir())
    words, reads = random.choice([
        (("report", "study", "--out", "page"), folder),
        (("compare", "study.yaml", "--out", "study", "--workers", "1"), folder / "trials"),
        (("sample", trial.relative_to(tmp_path), *SAMPLE), trial),
    ])  # fmt: skip
    _require_answer(words, tmp_path, random, reads)


def test_a_family_in_a_run_is_not_imported_but_on_request(cli, runs, tmp_path, monkeypatch):
    run = copied(runs("moons"), tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil_family.py").write_text(
        "from pathlib import Path\nPath('ran').touch()\n"
        "from kan_diffusion.denoisers import FAMILIES\nMINE = FAMILIES['kan']\n"
    )
    trial = json.loads((run / "trial.json").read_text())
    trial["config"]["model"]["family"] = "evil_family:MINE"
    (run / "trial.json").write_text(json.dumps(trial))
    assert "trial.json' is not what the run wrote" in cli("sample", "run").error
    reseal(run)  # a stranger's digests are right
    for command in ("sample", "evaluate", "explain", "report"):
        assert "import evil_family first" in cli(command, "run").error
        assert not Path("ran").exists(), command
    assert cli("sample", "run", "--import", "evil_family").code == 0
    assert Path("ran").exists()
    monkeypatch.delitem(sys.modules, "evil_family")
    assert "no_such_module" in cli("sample", "run", "--import", "no_such_module").error
