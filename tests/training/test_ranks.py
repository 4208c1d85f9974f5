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

LAUNCH = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
# A batch that two processes cannot halve, so that their parts have different weights.
TRAIN = ["kan_diffusion", "train", "moons", "--params", "800", "--steps", "40"]
BATCH = ["--batch-size", "255", "--device", "cpu"]


@pytest.mark.slow
def test_two_processes_train_the_model_of_one(tmp_path: Path) -> None:
    weights, losses = [], []
    for name, launch in (("one", []), ("two", LAUNCH)):
        words = [sys.executable, "-m", *launch, *TRAIN, *BATCH, "--out", name]
        ended = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.count(f"Run: {name}") == 1  # the second process is silent
        losses.append(pd.read_parquet(tmp_path / name / "curves.parquet")["loss"].to_numpy())
        weights.append(load_file(tmp_path / name / "denoiser/diffusion_pytorch_model.safetensors"))
    # Sums in another order, which Adam, whose first steps are signs, makes larger.
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)
    for key, values in weights[0].items():
        torch.testing.assert_close(values, weights[1][key], atol=3e-3, rtol=0)
