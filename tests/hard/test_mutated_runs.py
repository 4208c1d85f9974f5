"""Run folders in which something is wrong: one line that says so, or a right result.

Each case takes a finished run, changes one thing in one of its files (a bit, a length, a value, a
key, the kind of file) and gives it to a command. With `make test-hard` all of them run, and a
few in `make test`.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import numpy as np
import pytest

from command_line import call_quietly
from commands import Ended, run_command

NUM_HARD, NUM_ALWAYS = 520, 12
NUM_POINTS = 20

RUN_COMMANDS: tuple[tuple[str, ...], ...] = (
    ("sample", "run", "--num", str(NUM_POINTS), "--steps", "3", "--out", "samples.npy"),
    ("evaluate", "run"),
    ("report", "run", "--out", "page"),
)

VALUES: tuple[object, ...] = (
    None, True, 0, -1, 0.5, 1e308, -1e308, math.nan, math.inf, 10**9, 10**12, 10**30, "", "x",
    "../../x", "os:system", "$x$", "x" * 100_000, [], {}, [[]], [0] * 100_000, {"a": {"b": {}}},
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


def _change_json(path: Path, random: Random) -> str:
    content = json.loads(path.read_text())
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
    path.write_text(json.dumps(content))
    return f"{kind} {'.'.join(map(str, place))} in"


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


def mutate(run: Path, random: Random) -> str:
    """Changes one file of a folder, and says how."""
    files = sorted(path for path in run.rglob("*") if path.is_file())
    path = random.choice(files)
    ways: tuple[Callable[[Path, Random], str], ...] = ANY
    if path.suffix == ".json":
        ways = (*ANY, _rewrite, *(_change_json,) * 25)
    change = random.choice(ways)(path, random)
    return f"{change} {path.relative_to(run)}"


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


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    words = "train moons --family kan --params 400 --steps 30 --batch-size 64 --out"
    assert call_quietly(*words.split(), folder / "run") == 0
    return folder


def _numbers(hard: int, always: int) -> list[object]:
    return [
        number if number < always else pytest.param(number, marks=pytest.mark.hard)
        for number in range(hard)
    ]


@pytest.mark.parametrize("number", _numbers(NUM_HARD, NUM_ALWAYS))
def test_a_changed_run_is_answered_in_one_line_or_rightly(
    number: int, finished: Path, tmp_path: Path
) -> None:
    random = Random(number)
    shutil.copytree(finished / "run", tmp_path / "run")
    change = mutate(tmp_path / "run", random)
    words = random.choice(RUN_COMMANDS)
    if random.random() < 0.5:
        words = (*words, "--unverified")
    ended = run_command(*words, folder=tmp_path)
    print(change, ended, sep="\n")
    ended.require_answer()
    if ended.code == 0:
        require_right(ended, tmp_path)
