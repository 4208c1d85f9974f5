"""Several processes train the model that one would."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

LAUNCH = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
# A batch that two processes cannot halve, so that their parts have different weights.
TRAIN = [
    "kan_diffusion",
    "train",
    "moons",
    "--params",
    "400",
    "--steps",
    "40",
    "--batch-size",
    "255",
    "--device",
    "cpu",
]


@pytest.mark.slow
def test_two_processes_train_the_model_of_one(tmp_path: Path) -> None:
    weights = []
    for name, launch in (("one", []), ("two", LAUNCH)):
        words = [sys.executable, "-m", *launch, *TRAIN, "--out", name]
        ended = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.count(f"Run: {name}") == 1  # the second process is silent
        weights.append(load_file(tmp_path / name / "denoiser/diffusion_pytorch_model.safetensors"))
    one, two = weights
    assert one.keys() == two.keys()
    for key, values in one.items():
        torch.testing.assert_close(values, two[key], atol=2e-4, rtol=1e-3)
    curves = [(tmp_path / name / "curves.parquet").exists() for name in ("one", "two")]
    assert curves == [True, True]
