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
import quiet
from command_line import call_quietly

LAUNCH = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
# A batch that two processes cannot halve, so that their parts have different weights.
TRAIN = ["train", "moons", "--params", "800", "--steps", "40"]
BATCH = ["--batch-size", "255", "--device", "cpu"]


@pytest.mark.slow
def test_two_processes_train_the_model_of_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call_quietly(*TRAIN, *BATCH, "--out", tmp_path / "one") == 0
    assert capsys.readouterr().out.count("Run: ") == 1
    words = [sys.executable, "-m", *LAUNCH, quiet.__file__, *TRAIN, *BATCH, "--out", "two"]
    ended = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("Run: ") == 1  # the second process is silent
    weights, losses = [], []
    for name in ("one", "two"):
        losses.append(pd.read_parquet(tmp_path / name / "curves.parquet")["loss"].to_numpy())
        weights.append(load_file(tmp_path / name / "denoiser/diffusion_pytorch_model.safetensors"))
    # Sums in another order, which Adam, whose first steps are signs, makes larger.
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)
    for key, values in weights[0].items():
        torch.testing.assert_close(values, weights[1][key], atol=3e-3, rtol=0)


@pytest.mark.slow
def test_two_processes_with_parts_of_batches_train_prompted_pictures_as_one(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    prompted_training.run(one)
    launch = ["accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
    settings = ["--mixed_precision", "no", "--dynamo_backend", "no"]
    script = [prompted_training.__file__, str(two)]
    words = [sys.executable, "-m", *launch, *settings, *script]
    ended = subprocess.run(words, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
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
