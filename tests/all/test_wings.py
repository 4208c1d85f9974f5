"""The core works without its wings: studies, explanations and reports of points need neither."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import kan_diffusion
import one_by_one

COMMANDS = (
    "compare moons --quick --seeds 2 --steps 20 --out study",
    "report study",
    "train two-modes --family readable-kan --params 153 --steps 50 --quick --out run",
    "explain run --num 50 --seconds 2",
    "sample run --num 100",
)
PROGRAM = """
import sys
from kan_diffusion.cli import main
from kan_diffusion.study.executors import EXECUTORS
from one_by_one import one_by_one

EXECUTORS["local"] = one_by_one  # workers do the same, and import it all once more
for words in sys.argv[1:]:
    sys.argv = ["kan-diffusion", *words.split()]
    try:
        main()
    except SystemExit as stop:
        assert not stop.code, words
"""


def test_points_need_no_wing(tmp_path):
    package = tmp_path / "kan_diffusion"
    taken_off = shutil.ignore_patterns("pictures", "tables")  # kernels stay compiled
    shutil.copytree(Path(kan_diffusion.__file__).parent, package, ignore=taken_off)
    path = os.pathsep.join([str(tmp_path), str(Path(one_by_one.__file__).parent)])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *COMMANDS],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for said in ("study/report.html", "explanation.html", "100 rows"):
        assert said in done.stdout
    assert not (package / "pictures").exists()
    assert not (package / "tables").exists()
