import subprocess
import sys

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file

from command_line import call_command

# A batch that two processes cannot halve, so that their parts have different weights.
WORDS = ["train", "moons", "--params", "800", "--steps", "40", "--batch-size", "255"]
WORDS += ["--moments", "0", "--device", "cpu", "--quick"]


def test_two_processes_of_torchrun_train_the_model_of_one(tmp_path):
    assert call_command(*WORDS, "--out", tmp_path / "one") == 0
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    ended = subprocess.run(
        [sys.executable, "-m", *launch, "-m", "kan_diffusion", *WORDS, "--out", "two"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("Run: two") == 1  # the second process is silent
    weights, losses = [], []
    for name in ("one", "two"):
        losses.append(pd.read_parquet(tmp_path / name / "curves.parquet")["loss"].to_numpy())
        weights.append(load_file(tmp_path / name / "denoiser/diffusion_pytorch_model.safetensors"))
    # Sums in another order, which Adam, whose first steps are signs, makes larger.
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)
    for key, values in weights[0].items():
        torch.testing.assert_close(values, weights[1][key], atol=3e-3, rtol=0)
