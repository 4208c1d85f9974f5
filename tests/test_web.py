"""Models of the playground: what the browser and Python write is one format, to the bit."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from command_line import QUICK, Cli, cli  # noqa: F401
from helpers import assert_same_state, refused, scrambled, seeded
from kan_diffusion import PROCESSES, PointDiffusionPipeline, make_scheduler
from kan_diffusion.denoisers.base import Denoiser
from kan_diffusion.denoisers.gated import GatedDenoiser
from kan_diffusion.denoisers.kan import KANDenoiser
from kan_diffusion.denoisers.mlp import MLPDenoiser
from kan_diffusion.denoisers.spline_mlp import SplineMLPDenoiser
from kan_diffusion.errors import KanDiffusionError, RunFolderError
from kan_diffusion.kan import KANLinear
from kan_diffusion.web import WebData, WebModel, read_web, web_json

FIXTURES = Path(__file__).parents[1] / "playground" / "tests" / "fixtures"
BROWSER = FIXTURES / "browser.json"
"""A KAN that the page trained on a drawing and saved, with what it gave there."""


def made(denoiser: Denoiser, process: str = "cosine", data: WebData | None = None) -> WebModel:
    """The denoiser with random weights, as a model."""
    for parameter in denoiser.parameters():
        parameter.detach().normal_(0, 0.3, generator=seeded(1))
    for layer in denoiser.modules():
        if isinstance(layer, KANLinear):
            scrambled(layer)
    scheduler = make_scheduler(None, PROCESSES[process].scheduler())
    pipeline = PointDiffusionPipeline(denoiser, scheduler, [1.5, -2.0], [3.0, 1e-3], ["a", "b"])
    return WebModel(pipeline, PROCESSES[process], data)


def written(tmp_path: Path, model: WebModel) -> Path:
    path = tmp_path / "model.json"
    path.write_bytes(web_json(model))
    return path


@pytest.mark.parametrize(
    ("make", "process"),
    [
        (lambda: KANDenoiser(2, (4, 3), grid_size=6, modulated=True), "cosine"),
        (lambda: KANDenoiser(2, (4,), order=2, bias=False, residual=True), "flow"),
        (lambda: MLPDenoiser(2, (5, 4), num_input_frequencies=2), "ddpm"),
        (lambda: GatedDenoiser(2, (5, 4)), "cosine"),
        (lambda: MLPDenoiser(2, (5,), num_train_timesteps=250), "notebook"),
    ],
)
def test_models_come_back_to_the_bit(
    tmp_path: Path, make: Callable[[], Denoiser], process: str
) -> None:
    data = WebData(points=((0.1, 0.2), (-1 / 3, 1e-9)), spread=0.04)
    model = made(make(), process, data)
    before = torch.get_rng_state()
    again = read_web(written(tmp_path, model))
    assert torch.equal(torch.get_rng_state(), before)
    assert_same_state(again.pipeline.denoiser, model.pipeline.denoiser)
    assert again.process == model.process
    assert again.data == data
    assert again.pipeline.standardizer == model.pipeline.standardizer
    assert again.pipeline.columns == ("a", "b")
    assert web_json(again) == web_json(model)
    one, two = (each.pipeline(50, 5, generator=seeded(3)).samples for each in (model, again))
    assert torch.equal(one, two)


def test_what_the_browser_saved_gives_the_same_here() -> None:
    saved = json.loads(BROWSER.read_text("utf-8"))
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


def test_what_the_page_is_held_to_is_what_the_package_computes(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"version": 2}, "version 2 of the playground's format and this package reads version 1"),
        ({"format": "other"}, "its format is 'other'"),
        ({"more": 1}, "unknown key 'more'"),
        ({"process": {"name": "cosine", "num_timesteps": 10**9}}, "process.num_timesteps"),
        ({"process": {"name": "short", "num_timesteps": 10}}, "knows 1000 timesteps"),
        ({"standardizer": {"mean": [0, 0], "scale": [1, 0]}}, "coordinate 2 has scale 0"),
        ({"standardizer": {"mean": [0, float("nan")], "scale": [1, 1]}}, "standardizer.mean"),
        ({"columns": ["a", "a"]}, "distinct names"),
        ({"columns": ["a"]}, "columns"),
        (
            {"denoiser": {"_class_name": "Popen"}},
            "'Popen' is none of KANDenoiser, GatedDenoiser, MLPDenoiser",
        ),
        ({"denoiser": {"_class_name": ["x"]}}, "is none of"),
        ({"denoiser": {"_class_name": "MLPDenoiser", "data_dim": 2, "evil": 1}}, "'evil'"),
        (
            {"denoiser": {"_class_name": "MLPDenoiser", "data_dim": 2, "hidden": [10**8]}},
            "out of range",
        ),
        (
            {"denoiser": {"_class_name": "MLPDenoiser", "data_dim": 2, "hidden": [10**6, 10**6]}},
            "the weights in",
        ),
        ({"weights": {}}, "hidden layers and there are weights of 0 tensors"),
    ],
)
def test_damaged_files_are_refused_in_a_line(
    tmp_path: Path, damage: dict[str, object], message: str
) -> None:
    path = written(tmp_path, made(MLPDenoiser(2, (5, 4))))
    path.write_text(json.dumps({**json.loads(path.read_text()), **damage}))
    with refused(message) as caught:
        read_web(path)
    assert path.name in str(caught.value)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ("???", "damaged"),
        (base64.b64encode(np.full(5, np.inf, "<f4").tobytes()).decode(), "infinite"),
        (base64.b64encode(np.zeros(4, "<f4").tobytes()).decode(), "damaged"),
        (base64.b64encode(b"12345").decode(), "damaged"),
    ],
)
def test_damaged_numbers_are_refused(tmp_path: Path, numbers: str, message: str) -> None:
    path = written(tmp_path, made(MLPDenoiser(2, (5, 4))))
    content = json.loads(path.read_text())
    content["weights"]["network.0.bias"]["float32"] = numbers
    path.write_text(json.dumps(content))
    with refused(message, RunFolderError):
        read_web(path)


def test_missing_and_torn_files_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, made(MLPDenoiser(2, (5,))))
    path.write_bytes(path.read_bytes()[:300])
    for file in (path, tmp_path / "missing.json", tmp_path):
        with refused("a model of the playground", RunFolderError):
            read_web(file)


@pytest.mark.parametrize(
    ("denoiser", "message"),
    [
        (KANDenoiser(2, (3,), basis="rbf"), "basis = 'rbf'"),
        (SplineMLPDenoiser(2, (3,)), "not a SplineMLPDenoiser"),
        (KANDenoiser(3, (3,)), "two coordinates, not 3"),
        (MLPDenoiser(2, (3,), num_classes=2), "no models with classes; train one without"),
        (MLPDenoiser(2, (3,), blocks=(1, 1)), "blocks"),
        (KANDenoiser(2, (3,), extrapolation="zero"), "extrapolation = 'zero'"),
    ],
)
def test_what_the_page_cannot_show_is_said(denoiser: Denoiser, message: str) -> None:
    scheduler = make_scheduler(None, PROCESSES["cosine"].scheduler())
    model = WebModel(PointDiffusionPipeline(denoiser, scheduler), PROCESSES["cosine"])
    with refused(message, KanDiffusionError) as caught:
        web_json(model)
    assert "train one" in str(caught.value)


def test_commands_write_and_read_models(tmp_path: Path, cli: Cli) -> None:  # noqa: F811
    run, file = tmp_path / "run", tmp_path / "model.json"
    assert cli("train", "moons", *QUICK, "--out", run).code == 0
    assert cli("export", run, "--to", "web", "--out", file).code == 0
    model = read_web(file)
    assert model.data == WebData(toy="moons")
    from_run, from_file = tmp_path / "run.npy", tmp_path / "file.npy"
    assert cli("sample", run, "--num", 20, "--out", from_run).code == 0
    assert cli("sample", file, "--num", 20, "--out", from_file).code == 0
    assert from_run.read_bytes() == from_file.read_bytes()
    assert cli("sample", file, "--num", 7).code == 0
    assert len(pd.read_csv(tmp_path / "samples.csv")) == 7
    assert "exists" in cli("export", run, "--to", "web", "--out", file).error
    assert "unknown format of --to 'onnx'" in cli("export", run, "--to", "onnx").error
    assert "not a model of the playground" in cli("sample", tmp_path / "no.json").error
