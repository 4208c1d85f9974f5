import json
from pathlib import Path

import numpy as np
import pytest
import torch

from kan_diffusion import PROCESSES
from kan_diffusion.study.run import load_study
from kan_diffusion.web import read_web

FIXTURES = Path(__file__).parents[1] / "playground" / "tests" / "fixtures"


def test_what_the_page_is_held_to_is_what_the_package_computes(tmp_path):
    for fixture in json.loads((FIXTURES / "denoisers.json").read_text("utf-8")):
        path = tmp_path / f"{fixture['name']}.json"
        path.write_text(json.dumps(fixture["saved"]))
        denoiser = read_web(path).pipeline.denoiser
        points = torch.tensor(fixture["points"]).view(-1, 2)
        output = denoiser(points, torch.tensor(fixture["timesteps"])).sample
        target = torch.tensor(fixture["target"]).view(-1, 2)
        loss = PROCESSES["cosine"].loss_of(output, target)
        loss.backward()
        np.testing.assert_allclose(output.detach().flatten(), fixture["output"], atol=2e-6)
        assert loss.item() == pytest.approx(fixture["loss"], rel=1e-6)
        for name, parameter in denoiser.named_parameters():
            wanted = fixture["gradients"][name]
            np.testing.assert_allclose(parameter.grad.flatten(), wanted, atol=2e-5, err_msg=name)


def test_a_run_is_exported_and_sampled_from_its_file(runs, tmp_path, cli):
    file, from_run, from_file = (tmp_path / name for name in ("model.json", "r.npy", "f.npy"))
    run = next(t.folder for t in load_study(runs("study")).trials if t.row["family"] == "mlp")
    assert cli("export", run, "--to", "web", "--out", file).code == 0
    for source, samples in ((run, from_run), (file, from_file)):
        assert cli("sample", source, "--num", 20, "--out", samples).code == 0
    assert from_run.read_bytes() == from_file.read_bytes()
