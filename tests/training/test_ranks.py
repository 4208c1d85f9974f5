"""Several processes train the model that one would."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import prompted_training
from command_line import call_quietly
from two_processes import in_two_processes

# A batch that two processes cannot halve, so that their parts have different weights.
TRAIN = ["train", "moons", "--params", "800", "--steps", "40"]
BATCH = ["--batch-size", "255", "--device", "cpu"]


def _train(folder: Path) -> None:
    assert call_quietly(*TRAIN, *BATCH, "--out", folder) == 0


def test_two_processes_train_the_model_of_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _train(tmp_path / "one")
    assert capsys.readouterr().out.count("Run: ") == 1
    said = in_two_processes(tmp_path, _train, tmp_path / "two")
    assert said.count("Run: ") == 1  # the second process is silent
    weights, losses = [], []
    for name in ("one", "two"):
        losses.append(pd.read_parquet(tmp_path / name / "curves.parquet")["loss"].to_numpy())
        weights.append(load_file(tmp_path / name / "denoiser/diffusion_pytorch_model.safetensors"))
    # Sums in another order, which Adam, whose first steps are signs, makes larger.
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)
    for key, values in weights[0].items():
        torch.testing.assert_close(values, weights[1][key], atol=3e-3, rtol=0)


@pytest.mark.slow
def test_torchrun_starts_two_processes_that_train_together(tmp_path: Path) -> None:
    np.save(tmp_path / "points.npy", np.random.default_rng(0).normal(size=(60, 2)))
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = ["train", "points.npy", "--family", "mlp", "--params", "400", "--steps", "5"]
    words += ["--moments", "0", "--device", "cpu", "--out", "run"]
    ended = subprocess.run(
        [sys.executable, "-m", *launch, "-m", "kan_diffusion", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("Run: run") == 1  # the second process is silent
    assert len(pd.read_parquet(tmp_path / "run" / "curves.parquet")) == 5


def _train_in_parts(folder: Path) -> None:
    prompted_training.run(folder, accumulation_steps=2)


def test_two_processes_with_parts_of_batches_train_prompted_pictures_as_one(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    prompted_training.run(one)
    in_two_processes(tmp_path, _train_in_parts, two)
    alone, together = (load_file(folder / "made.st") for folder in (one, two))
    for made in (alone, together):
        assert made["resumed.from"] == prompted_training.KEPT
        for name in made:
            if name.startswith("whole.") and name != "whole.from":
                assert torch.equal(made[name], made[name.replace("whole", "resumed")]), name
    for kind, rtol in (("whole", 1e-5), ("bf16", 1e-2)):
        losses = f"{kind}.losses"
        torch.testing.assert_close(together[losses], alone[losses], rtol=rtol, atol=0)
    assert not torch.equal(alone["bf16.losses"], alone["whole.losses"])
