"""Commands in a working folder of a stranger's: none of its modules or settings runs."""

import json
import os
import subprocess
import sys

import pytest

from make import study
from mixed_tables import people
from runs import copied

MODULES = ("bottleneck", "numexpr", "pandas", "yaml", "cyclopts", "difflib", "signal", "filelock")
CALLS = """
import json, os, sys
import pytest
from command_line import call_command
from helpers import without_network
from kan_diffusion.study.executors import EXECUTORS
from one_by_one import one_by_one
EXECUTORS["local"] = one_by_one  # workers are for the other test
asked = without_network(pytest.MonkeyPatch())
for words in json.loads(sys.argv[1]):
    code = call_command(*words.split())
    assert code == 0, words
    assert not {"", os.getcwd()} & set(sys.path), words
assert not asked, asked
"""
COMMANDS = (
    "compare study.yaml --workers 1 --device cpu --quick --out study",
    "tune study.yaml --tries 1 --workers 1 --device cpu --out tuning",
    "train rows.csv --family kan --params 400 --steps 3 --quick --out run",
    "sample table",
    "sample captions --num 1 --prompt dark",
    "impute table rows.csv --out filled.csv",
    "evaluate table",
    "explain readable --no-simplify --num 0",
    "report study",
    "sample readable --steps 2 --num 20 --animate moves.gif",
)


@pytest.fixture
def python(tmp_path):
    """Runs Python among modules, settings and a program that leave a mark when they are used."""
    texts = {f"{name}.py": "open('ran', 'a').write(__file__)\n" for name in MODULES}
    texts["ffmpeg"] = "#!/bin/sh\necho ffmpeg >> ran\n"
    texts["matplotlibrc"] = "animation.ffmpeg_path: ./ffmpeg\n"
    texts[".numba_config.yaml"] = "cache_dir: ran\n"
    config = study(models=[{"family": "kan"}], budget={"amount": 600})
    texts |= {"study.yaml": config.to_yaml(), "rows.csv": people(40, 0).to_csv(index=False)}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "ffmpeg").chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

    def run(*words):
        command = [sys.executable, *words]
        ended = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, check=False
        )
        assert ended.returncode == 0, ended.stderr.decode()
        assert not (tmp_path / "ran").exists(), (tmp_path / "ran").read_text()

    return run


def test_no_command_imports_from_it_or_asks_the_network(python, runs, tmp_path):
    for name in ("table", "readable", "captions"):
        copied(runs(name), tmp_path / name)
    python("-P", "-c", CALLS, json.dumps(COMMANDS))


@pytest.mark.parametrize("executor", ["local", "ray"])
def test_python_and_workers_import_nothing_from_it_either(python, executor):
    python("-m", "kan_diffusion", *f"{COMMANDS[0]} --executor {executor}".split())
