"""Runs that tests share: each is trained once a session, by whichever worker needs it first.

A test that changes a run copies it (:func:`copied`); all others read it where it is.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
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

BRIEFLY = ("--steps", "20", "--batch-size", "64", "--device", "cpu", "--quick")
PICTURES = ("--steps", "3", "--batch-size", "8", "--size", "8", "--device", "cpu")
PICTURES += ("--family", "dit", "--depth", "1", "--params", "100000", "--quick")


def _train(*words: object) -> None:
    assert call_command("train", *words) == 0


def _points(folder: Path) -> None:
    """An MLP on ``points.csv``, 60 rows of mass and age that lie far from zero."""
    points = np.random.default_rng(0).normal([100.0, -0.5], [10.0, 0.01], (60, 2))
    pd.DataFrame(points, columns=["mass", "age"]).to_csv(folder / "points.csv", index=False)
    _train(
        folder / "points.csv", "--family", "mlp", "--params", 400, *BRIEFLY, "--out", folder / "run"
    )


def _moons(folder: Path) -> None:
    """A KAN on the two moons, recorded at three moments."""
    _train("moons", "--params", 600, *BRIEFLY, "--moments", 2, "--out", folder / "run")


def _readable(folder: Path) -> None:
    """A readable KAN on two modes, recorded at three moments."""
    words = ("two-modes", "--family", "readable-kan", "--params", 150, "--sparsify", 0.001)
    _train(*words, *BRIEFLY, "--moments", 2, "--out", folder / "run")


def _table(folder: Path) -> None:
    """An MLP on ``people.csv``, 300 rows of mixed columns with gaps."""
    people(300, 0).to_csv(folder / "people.csv", index=False)
    _train(
        folder / "people.csv", "--family", "mlp", "--params", 400, *BRIEFLY, "--out", folder / "run"
    )


def _captions(folder: Path) -> None:
    """A transformer on bright and dark ``pictures`` with captions."""
    _train(write_pictures(folder / "pictures", "captions"), *PICTURES, "--out", folder / "run")


def _classes(folder: Path) -> None:
    """A transformer on bright and dark ``pictures`` in two classes."""
    _train(write_pictures(folder / "pictures", "classes"), *PICTURES, "--out", folder / "run")


def _study(folder: Path) -> None:
    """A KAN and an MLP on two toys with two seeds; its settings are in ``study.yaml``."""
    config = study(seeds=2, data=[{"toy": toy, "num_points": 200} for toy in ("moons", "circles")])
    (folder / "study.yaml").write_text(config.to_yaml())
    run_study(config, folder / "run", executor=one_by_one)


TRAINED: Mapping[str, Callable[[Path], None]] = {
    "points": _points,
    "moons": _moons,
    "readable": _readable,
    "table": _table,
    "captions": _captions,
    "classes": _classes,
    "study": _study,
}


def _listed(run: Path) -> str:
    """The files of a run with their sizes."""
    files = [path for path in sorted(run.rglob("*")) if path.is_file()]
    return "\n".join(f"{path.relative_to(run)} {path.stat().st_size}" for path in files)


def shared_runs(tmp_path_factory):
    """Makes what gives the folder of a run by its name in `TRAINED`; its data lie beside it."""
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
                TRAINED[name](folder)
                (folder / "done").write_text(_listed(folder / "run"))
            left = _listed(folder / "run")
        assert left == (folder / "done").read_text(), f"a test has changed the run '{name}'"
        return folder / "run"

    return made


def copied(run: Path, to: Path) -> Path:
    """Copies a run, to be changed at will."""
    return Path(shutil.copytree(run, to))
