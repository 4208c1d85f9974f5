"""Models of the playground: what the browser writes is what the package computes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import seeded
from kan_diffusion import PROCESSES
from kan_diffusion.web import read_web

FIXTURES = Path(__file__).parents[1] / "playground" / "tests" / "fixtures"


def test_what_the_browser_saved_gives_the_same_here():
    saved = json.loads((FIXTURES / "browser.json").read_text("utf-8"))
    path = FIXTURES / "browser-model.json"
    model = read_web(path)
    points = torch.tensor(saved["points"], dtype=torch.float32)
    steps = torch.tensor(saved["timesteps"])
    output = model.pipeline.denoiser(points, steps, return_dict=False)[0].detach()
    np.testing.assert_allclose(output.numpy(), np.array(saved["output"]), atol=1e-5)
    assert len(model.data.points) >= 10
    drawn = np.array(model.data.points)
    np.testing.assert_allclose(drawn.mean(0), model.pipeline.standardizer.mean, atol=1e-9)
    spread = np.sqrt(drawn.var(0) + model.data.spread**2)
    np.testing.assert_allclose(spread, model.pipeline.standardizer.scale, rtol=1e-9)
    samples = model.pipeline(500, 20, generator=seeded(0)).samples.numpy()
    nearest = np.linalg.norm(samples[:, None] - drawn[None], axis=2).min(1)
    assert np.median(nearest) < 2 * model.data.spread


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
