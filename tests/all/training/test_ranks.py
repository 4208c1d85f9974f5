import socket

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file

from command_line import call_command
from commands import Running

# A batch that two processes cannot halve, so that their parts have different weights.
WORDS = ["train", "moons", "--params", "800", "--steps", "40", "--batch-size", "255"]
WORDS += ["--moments", "0", "--device", "cpu", "--quick"]


def test_two_processes_as_torchrun_starts_them_train_the_model_of_one(tmp_path):
    assert call_command(*WORDS, "--out", tmp_path / "one") == 0
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    outputs, running = [tmp_path / "out-0", tmp_path / "out-1"], []
    for rank, out in enumerate(outputs):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"}
        words = *WORDS, "--out", tmp_path / "two"
        environment = {**shared, **own}
        running.append(Running(*words, folder=tmp_path, environment=environment, out=out))
    said = [each.wait(300) for each in running]
    assert [each.process.exitcode for each in running] == [0, 0], said
    assert f"Run: {tmp_path / 'two'}" in outputs[0].read_text()
    assert outputs[1].read_text() == said[1] == ""  # the second process is silent
    weights, losses = [], []
    for name in ("one", "two"):
        losses.append(pd.read_parquet(tmp_path / name / "curves.parquet")["loss"].to_numpy())
        weights.append(load_file(tmp_path / name / "denoiser/diffusion_pytorch_model.safetensors"))
    # Sums in another order, which Adam, whose first steps are signs, makes larger.
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)
    for key, values in weights[0].items():
        torch.testing.assert_close(values, weights[1][key], atol=3e-3, rtol=0)
