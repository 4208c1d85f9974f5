"""Commands in a working folder of a stranger's: none of its modules or settings runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import command_line
from make import study
from mixed_tables import people
from runs import copied

MODULES = ("bottleneck", "numexpr", "pandas", "yaml", "typer", "difflib", "signal", "filelock")
CALLS = """
import json, os, sys
import pytest
from command_line import call_command, without_network
asked = without_network(pytest.MonkeyPatch())
for words in json.loads(sys.argv[1]):
    code = call_command(*words)
    assert code == 0 or ".mp4" in words[-1], words
    assert not {"", os.getcwd()} & set(sys.path), words
assert not asked, asked
"""


@pytest.fixture
def folder(tmp_path):
    """A folder with modules, settings and a program that leave a mark when they are used."""
    texts = {f"{name}.py": "open('ran', 'a').write(__file__)\n" for name in MODULES}
    texts["ffmpeg"] = "#!/bin/sh\necho ffmpeg >> ran\n"
    texts["matplotlibrc"] = "animation.ffmpeg_path: ./ffmpeg\n"
    texts[".numba_config.yaml"] = "cache_dir: ran\n"
    models, budgets = [{"family": "kan"}], [{"amount": 600}]
    texts["study.yaml"] = study(models=models, budgets=budgets).to_yaml()
    texts["rows.csv"] = people(40, 0).to_csv(index=False)
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "ffmpeg").chmod(0o755)
    return tmp_path


def _run(folder, *words):
    path = [str(Path(command_line.__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    command = [sys.executable, *words]
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr.decode()
    assert not (folder / "ran").exists(), (folder / "ran").read_text()


def test_no_command_imports_from_it_or_asks_the_network(folder, runs):
    for name in ("table", "readable", "captions"):
        copied(runs(name), folder / name)
    calls = (
        "compare study.yaml --workers 1 --device cpu --quick --out study",
        "tune study.yaml --tries 1 --workers 1 --device cpu --out tuning",
        "train rows.csv --family kan --params 400 --steps 3 --quick --out run",
        "sample table",
        "sample captions --num 1 --prompt dark",
        "impute table rows.csv --out filled.csv",
        "evaluate table",
        "explain readable --no-formulas --num 0",
        "report study",
        "sample readable --steps 2 --num 20 --animate moves.mp4",
    )
    _run(folder, "-P", "-c", CALLS, json.dumps([words.split() for words in calls]))


@pytest.mark.parametrize("executor", ["local", "ray"])
def test_python_and_workers_import_nothing_from_it_either(folder, executor):
    if executor == "ray":
        pytest.importorskip("ray")
    words = f"compare study.yaml --workers 1 --executor {executor} --device cpu --quick --out run"
    _run(folder, "-m", "kan_diffusion", *words.split())
