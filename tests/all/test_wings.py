"""The core works without its wings: studies, explanations and reports of points need neither."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import kan_diffusion


def test_points_need_no_wing(tmp_path):
    shutil.copytree(
        Path(kan_diffusion.__file__).parent,
        tmp_path / "kan_diffusion",
        ignore=shutil.ignore_patterns("pictures", "tables", "__pycache__"),
    )

    def call(words):
        done = subprocess.run(
            [sys.executable, "-m", "kan_diffusion", *words.split()],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    call("compare moons --quick --seeds 2 --steps 20 --out study")
    assert "study/report.html" in call("report study")
    readable = "--family readable-kan --params 153 --steps 50 --quick --out run"
    call(f"train two-modes {readable}")
    assert "explanation.html" in call("explain run --num 50 --seconds 2")
    assert "100 rows" in call("sample run --num 100")
    for wing in ("pictures", "tables"):
        assert not (tmp_path / "kan_diffusion" / wing).exists()
