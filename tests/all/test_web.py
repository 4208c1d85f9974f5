"""Models of the playground: written to the bit, and what is refused."""

import base64
import json

import numpy as np
import pandas as pd
import pytest
import torch

from helpers import assert_same_state, refused, scrambled, seeded
from kan_diffusion import PROCESSES, PointDiffusionPipeline, make_scheduler
from kan_diffusion.denoisers.gated import GatedDenoiser
from kan_diffusion.denoisers.kan import KANDenoiser
from kan_diffusion.denoisers.mlp import MLPDenoiser
from kan_diffusion.denoisers.spline_mlp import SplineMLPDenoiser
from kan_diffusion.errors import RunFolderError
from kan_diffusion.kan import KANLinear
from kan_diffusion.web import WebData, WebModel, read_web, web_json


def made(denoiser, process="cosine", data=None):
    """The denoiser with random weights, as a model."""
    for parameter in denoiser.parameters():
        parameter.detach().normal_(0, 0.3, generator=seeded(1))
    for layer in denoiser.modules():
        if isinstance(layer, KANLinear):
            scrambled(layer)
    scheduler = make_scheduler(None, PROCESSES[process].scheduler())
    pipeline = PointDiffusionPipeline(denoiser, scheduler, [1.5, -2.0], [3.0, 1e-3], ["a", "b"])
    return WebModel(pipeline, PROCESSES[process], data)


def written(tmp_path, model):
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
def test_models_come_back_to_the_bit(tmp_path, make, process):
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


def test_damaged_files_are_refused_in_a_line(tmp_path):
    path = written(tmp_path, made(MLPDenoiser(2, (5, 4))))
    content = json.loads(path.read_text())
    for damage, message in (
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
    ):
        path.write_text(json.dumps({**content, **damage}))
        with refused(message) as caught:
            read_web(path)
        assert path.name in str(caught.value)
    for numbers, message in (
        (b"???", "damaged"),
        (np.full(5, np.inf, "<f4").tobytes(), "infinite"),
        (np.zeros(4, "<f4").tobytes(), "damaged"),
        (b"12345", "damaged"),
    ):
        coded = "???" if numbers == b"???" else base64.b64encode(numbers).decode()
        content["weights"]["network.0.bias"]["float32"] = coded
        path.write_text(json.dumps(content))
        with refused(message, RunFolderError):
            read_web(path)
    path.write_bytes(path.read_bytes()[:300])
    for file in (path, tmp_path / "missing.json", tmp_path):
        with refused("a model of the playground", RunFolderError):
            read_web(file)


def test_what_the_page_cannot_show_is_said():
    scheduler = make_scheduler(None, PROCESSES["cosine"].scheduler())
    for denoiser, message in (
        (KANDenoiser(2, (3,), basis="rbf"), "basis = 'rbf'"),
        (SplineMLPDenoiser(2, (3,)), "not a SplineMLPDenoiser"),
        (KANDenoiser(3, (3,)), "two coordinates, not 3"),
        (MLPDenoiser(2, (3,), num_classes=2), "no models with classes; train one without"),
        (MLPDenoiser(2, (3,), blocks=(1, 1)), "blocks"),
        (KANDenoiser(2, (3,), extrapolation="zero"), "extrapolation = 'zero'"),
    ):
        model = WebModel(PointDiffusionPipeline(denoiser, scheduler), PROCESSES["cosine"])
        with refused(message) as caught:
            web_json(model)
        assert "train one" in str(caught.value)


def test_commands_write_and_read_models(tmp_path, cli):
    run, file = tmp_path / "run", tmp_path / "model.json"
    words = ("--family", "mlp", "--params", 300, "--steps", 5, "--device", "cpu")
    assert cli("train", "moons", *words, "--out", run).code == 0
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
