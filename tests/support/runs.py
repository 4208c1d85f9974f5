"""Runs that tests share: each is trained once a session, by whichever worker needs it first.

A test that changes a run copies it (:func:`copied`); all others read it where it is.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock

from command_line import call_command
from kan_diffusion.study.run import run_study
from make import study
from mixed_tables import people
from one_by_one import one_by_one
from picture_folders import write_pictures

BRIEFLY = ("--steps", "20", "--batch-size", "64", "--device", "cpu")
MLP = ("--family", "mlp", "--params", "400", *BRIEFLY)
READABLE = ("two-modes", "--family", "readable-kan", "--params", "150", "--sparsify", "0.001")
READABLE += (*BRIEFLY, "--moments", "2")
PICTURES = ("--steps", "3", "--batch-size", "8", "--size", "8", "--device", "cpu")
PICTURES += ("--family", "dit", "--depth", "1", "--params", "100000")


def _points(folder: Path) -> Path:
    points = np.random.default_rng(0).normal([100.0, -0.5], [10.0, 0.01], (60, 2))
    pd.DataFrame(points, columns=["mass", "age"]).to_csv(folder / "points.csv", index=False)
    return folder / "points.csv"


def _people(folder: Path) -> Path:
    people(300, 0).to_csv(folder / "people.csv", index=False)
    return folder / "people.csv"


TRAINED = {
    # An MLP on ``points.csv``, 60 rows of mass and age that lie far from zero.
    "points": (_points, *MLP),
    # A KAN on the two moons, recorded at three moments.
    "moons": ("moons", "--params", "600", *BRIEFLY, "--moments", "2"),
    # A readable KAN on two modes, recorded at three moments.
    "readable": READABLE,
    # An MLP on ``people.csv``, 300 rows of mixed columns with gaps.
    "table": (_people, *MLP),
    # Transformers on bright and dark ``pictures`` with captions and in two classes.
    "captions": (lambda folder: write_pictures(folder / "pictures", "captions"), *PICTURES),
    "classes": (lambda folder: write_pictures(folder / "pictures", "classes"), *PICTURES),
}
"""Data, or what writes them into a folder, and options of runs by name; "study" is one, too."""


def train_run(name: str, folder: Path) -> None:
    """Trains a run into ``folder / "run"``, with its data beside it."""
    if name == "study":  # a KAN and an MLP on two toys with two seeds, and its ``study.yaml``
        data = [{"toy": toy, "num_points": 200} for toy in ("moons", "circles")]
        config = study(seeds=2, data=data)
        (folder / "study.yaml").write_text(config.to_yaml())
        run_study(config, folder / "run", executor=one_by_one)
        return
    data, *options = TRAINED[name]
    data = data(folder) if callable(data) else data
    assert call_command("train", data, *options, "--quick", "--out", folder / "run") == 0


def _listed(run: Path) -> str:
    """The files of a run with their sizes."""
    files = [path for path in sorted(run.rglob("*")) if path.is_file()]
    return "\n".join(f"{path.relative_to(run)} {path.stat().st_size}" for path in files)


def shared_runs(tmp_path_factory):
    """Makes what gives the folder of a run by its name, beside which its data lie."""
    root = tmp_path_factory.getbasetemp()
    if root.name.startswith("popen-gw"):  # one of several workers, which share the folder above
        root = root.parent

    def made(name: str) -> Path:
        folder = root / "shared-runs" / name
        folder.parent.mkdir(exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not (folder / "done").exists():
                shutil.rmtree(folder, ignore_errors=True)  # where training failed, for a test
                folder.mkdir()
                train_run(name, folder)
                (folder / "done").write_text(_listed(folder / "run"))
            left = _listed(folder / "run")
        assert left == (folder / "done").read_text(), f"a test has changed the run '{name}'"
        return folder / "run"

    return made


def copied(run: Path, to: Path) -> Path:
    """Copies a run, to be changed at will."""
    return Path(shutil.copytree(run, to))
