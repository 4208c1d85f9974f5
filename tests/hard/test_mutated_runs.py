"""Damaged folders of runs and studies: one line that says so, or a right result.

Each case takes a finished run or study, changes one thing in one of its files (a bit, a length, a
value, a key, a shape, the kind of file) and gives it to a command: as it is, which must be refused
where the command reads the file; with ``--unverified``; or with digests that are right again, as a
stranger's would be. With `make test-hard` all of them run and draw the pictures of their pages;
`make test` runs a few, whose pictures are empty.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from command_line import call_quietly
from commands import Ended, run_command
from kan_diffusion.files import CHECKSUMS
from kan_diffusion.study.folder import RESULT
from kan_diffusion.study.run import run_study
from one_by_one import OneByOne
from tiny import reseal, tiny_study

NUM_RUNS, NUM_STUDIES, NUM_ALWAYS = 320, 240, 8
NUM_POINTS = 20

SAMPLE = ("--num", str(NUM_POINTS), "--steps", "3", "--out", "samples.npy")
LOOK = ("--no-simplify", "--num", "0", "--out", "explained")
RUN_COMMANDS: tuple[tuple[str, ...], ...] = (
    *(("sample", "run", *SAMPLE),) * 3,
    *(("evaluate", "run"),) * 2,
    ("explain", "run", *LOOK),
    ("report", "run", "--out", "page"),
)

VALUES: tuple[object, ...] = (
    None, True, 0, -1, 0.5, 1e308, -1e308, math.nan, math.inf, 10**9, 10**12, 10**30, "", "x",
    "..", "~", "../../x", "a\0b", "os:system", "$x$", "x" * 100_000, [], {}, [[]], [0] * 100_000,
    {"a": {"b": {}}},
)  # fmt: skip
TEXTS = ("", "{}", "[]", "null", "3", "{", "[" * 100_000, "\0\0", '{"a": NaN}', "a: *b")


def _places(content: object, place: tuple[object, ...] = ()) -> Iterator[tuple[object, ...]]:
    """Ways to every value in JSON content."""
    if place:
        yield place
    items = content.items() if isinstance(content, dict) else ()
    if isinstance(content, list):
        items = list(enumerate(content))[:3]
    for key, value in items:
        yield from _places(value, (*place, key))


def _change_value(path: Path, random: Random) -> str:
    is_json = path.suffix == ".json"
    content = json.loads(path.read_text()) if is_json else yaml.safe_load(path.read_text())
    place = random.choice(list(_places(content)))
    holder = content
    for key in place[:-1]:
        holder = holder[key]
    kind = random.choice(("replace", "replace", "replace", "remove", "rename"))
    if kind == "replace":
        holder[place[-1]] = value = random.choice(VALUES)
        kind = f"{str(value)[:20]} for"
    else:
        value = holder.pop(place[-1])
        if kind == "rename" and isinstance(holder, dict):
            holder[f"{place[-1]}_"] = value
    path.write_text(json.dumps(content) if is_json else yaml.safe_dump(content, sort_keys=False))
    return f"{kind} {'.'.join(map(str, place))} in"


def _change_tensor(path: Path, random: Random) -> str:
    tensors = load_file(path)
    name = random.choice(sorted(tensors))
    tensor = tensors[name].clone()
    changed: dict[str, torch.Tensor | None] = {
        "NaN in": tensor.index_fill(0, torch.tensor([0]), math.nan),
        "infinity in": tensor.index_fill(0, torch.tensor([0]), math.inf),
        "a row less in": tensor[1:].clone(),
        "one axis of": tensor.reshape(-1).clone(),
        "one axis more in": tensor[None].clone(),
        "whole numbers for": tensor.long(),
        "no": None,
    }
    how = random.choice(list(changed))
    tensors.pop(name)
    if (made := changed[how]) is not None:
        tensors[name] = made
    save_file(tensors, path)
    return f"{how} {name} in"


def _change_table(path: Path, random: Random) -> str:
    table = pd.read_parquet(path)
    name = random.choice(list(table.columns))
    changed: dict[str, pd.DataFrame] = {
        "no": table.drop(columns=name),
        "NaN in": table.assign(**{name: math.nan}),
        "words in": table.assign(**{name: "x"}),
        "lists in": table.assign(**{name: [[1.0, 2.0]] * len(table)}),
        "the rows reversed in": table[::-1],
        "no rows in": table[:0],
    }
    how = random.choice(list(changed))
    changed[how].to_parquet(path, index=False)
    return f"{how} {name} in"


def _flip(path: Path, random: Random) -> str:
    content = bytearray(path.read_bytes())
    place = random.randrange(len(content))
    content[place] ^= 1 << random.randrange(8)
    path.write_bytes(content)
    return f"a bit of byte {place} of"


def _cut(path: Path, random: Random) -> str:
    content = path.read_bytes()
    path.write_bytes(content[: random.randrange(len(content))])
    return "the end of"


def _lengthen(path: Path, random: Random) -> str:
    with path.open("ab") as file:
        file.write(random.randbytes(random.randrange(1, 1000)))
    return "more bytes at the end of"


def _garble(path: Path, random: Random) -> str:
    path.write_bytes(random.randbytes(random.randrange(2000)))
    return "random bytes for"


def _rewrite(path: Path, random: Random) -> str:
    text = random.choice(TEXTS)
    path.write_text(text)
    return f"{text[:20]!r} for"


def _delete(path: Path, random: Random) -> str:
    path.unlink()
    return "no"


def _folder(path: Path, random: Random) -> str:
    path.unlink()
    path.mkdir()
    return "a folder for"


def _pipe(path: Path, random: Random) -> str:
    path.unlink()
    os.mkfifo(path)
    return "a named pipe for"


def _loop(path: Path, random: Random) -> str:
    path.unlink()
    path.symlink_to(path.name)
    return "a link to itself for"


def _swap(path: Path, random: Random) -> str:
    other = random.choice([p for p in path.parent.iterdir() if p.is_file()])
    path.write_bytes(other.read_bytes())
    return f"the content of {other.name} for"


ANY = (_flip, _flip, _cut, _lengthen, _garble, _delete, _folder, _pipe, _loop, _swap)
WAYS: dict[str, tuple[Callable[[Path, Random], str], ...]] = {
    ".json": (_rewrite, *(_change_value,) * 25),
    ".yaml": (_rewrite, *(_change_value,) * 25),
    ".safetensors": (_change_tensor,) * 10,
    ".parquet": (_change_table,) * 10,
}


def mutate(run: Path, random: Random) -> str:
    """Changes one file of a folder, and says how."""
    files = sorted(path for path in run.rglob("*") if path.is_file() and path.stat().st_size)
    path = random.choice(files)
    ways: tuple[Callable[[Path, Random], str], ...] = (*ANY, *WAYS.get(path.suffix, ()))
    change = random.choice(ways)(path, random)
    return f"{change} {path.relative_to(run)}"


def _state(folder: Path) -> dict[Path, bytes | None]:
    """The content of each file; None of what is none any more."""
    return {
        path.relative_to(folder): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if path.is_file() or path.is_symlink() or path.is_fifo()
    }


def require_right(ended: Ended, folder: Path) -> None:
    """Checks what a command that succeeded has made."""
    match ended.words[0]:
        case "sample":
            points = np.load(folder / "samples.npy")
            assert points.shape == (NUM_POINTS, 2), ended
            assert np.isfinite(points).all(), ended
        case "evaluate":
            assert "excess" in ended.out, ended
        case "report":
            assert len((folder / "page" / "report.html").read_text()) > 20_000, ended
        case "compare":
            assert len((folder / "study" / "report.html").read_text()) > 20_000, ended
            rows = pd.read_parquet(folder / "study" / "results.parquet")
            assert rows["name"].tolist() == ["KAN", "MLP"], ended
        case "explain":
            assert len((folder / "explained" / "explanation.html").read_text()) > 20_000, ended


def require_answer(
    words: tuple[str, ...], place: Path, random: Random, reads: Path, *, pictures: bool
) -> None:
    """Changes a file below a folder and checks how a command answers.

    Args:
        words: The command.
        place: The folder it is given in.
        random: Source of the change.
        reads: Folder below which the command reads all files.
        pictures: Whether the pictures of its pages are drawn.
    """
    before = _state(reads)
    change = mutate(random.choice([place, reads]) if reads != place else place, random)
    trust = random.choice(("as it is", "unverified", "digests are right"))
    if trust == "unverified":
        words = (*words, "--unverified")
    elif trust == "digests are right":
        for sums in sorted(place.rglob(CHECKSUMS)):
            if sums.is_file():
                with suppress(OSError, ValueError, IndexError):  # the list itself was changed
                    reseal(sums.parent)
    after = _state(reads)
    ended = run_command(*words, folder=place, pictures=pictures)
    print(change, trust, ended, sep="\n")
    ended.require_answer()
    if ended.code == 0:
        require_right(ended, place)
        assert trust != "as it is" or before == after, f"{change} went unnoticed: {ended}"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    words = "train moons --family full-kan --params 400 --steps 30 --batch-size 64 --out"
    assert call_quietly(*words.split(), folder / "run") == 0
    return folder


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two models with a budget of time, whose file lies beside its folder."""
    folder = tmp_path_factory.mktemp("study")
    config = tiny_study(
        data=[{"toy": "moons", "num_points": 200}],
        models=[
            {"name": name, "family": family, "params": 300, "learning_rate": 0.01}
            for name, family in (("KAN", "full-kan"), ("MLP", "mlp"))
        ],
        budgets=[{"match": "time", "amount": 0.1}],
    ).pinned()
    (folder / "given.yaml").write_text(config.to_yaml())
    run_study(config, folder / "study", executor=OneByOne(workers=1, device="cpu"))
    return folder


def _numbers(count: int) -> list[object]:
    return [
        number if number < NUM_ALWAYS else pytest.param(number, marks=pytest.mark.hard)
        for number in range(count)
    ]


@pytest.mark.parametrize("number", _numbers(NUM_RUNS))
def test_a_changed_run_is_answered_in_one_line_or_rightly(
    number: int, finished: Path, tmp_path: Path
) -> None:
    random = Random(number)
    shutil.copytree(finished / "run", tmp_path / "run")
    words, reads = random.choice(RUN_COMMANDS), tmp_path / "run"
    require_answer(words, tmp_path, random, reads, pictures=number >= NUM_ALWAYS)


@pytest.mark.parametrize("number", _numbers(NUM_STUDIES))
def test_a_changed_study_is_answered_in_one_line_or_rightly(
    number: int, study: Path, tmp_path: Path
) -> None:
    random = Random(number)
    shutil.copytree(study, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "study"
    trial = min(t for t in (folder / "trials").iterdir() if "KAN" in (t / RESULT).read_text())
    name = str(trial.relative_to(tmp_path))
    words, reads = random.choice(
        [
            (("report", "study", "--out", "page"), folder),
            (("compare", "given.yaml", "--out", "study", "--workers", "1"), folder / "trials"),
            (("explain", name, *LOOK), trial),
            (("sample", name, *SAMPLE), trial),
        ]
    )
    require_answer(words, tmp_path, random, reads, pictures=number >= NUM_ALWAYS)
