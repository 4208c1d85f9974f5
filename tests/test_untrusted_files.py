"""A folder that comes from a stranger runs no code, and what is wrong with it is one line."""

import json
import pickle
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file

from helpers import assert_same_state, refused
from kan_diffusion.denoisers import NetworkDenoiser
from kan_diffusion.diffusion.sampling import PointDiffusionPipeline
from kan_diffusion.errors import RunFolderError
from make import denoiser, process

pytestmark = pytest.mark.usefixtures("no_net")

WEIGHTS = "denoiser/diffusion_pytorch_model.safetensors"
INDEX, DENOISER = "model_index.json", "denoiser/config.json"
PROCESS = process().model_dump(mode="json")
GONE = object()
EVIL = """
from pathlib import Path

Path("ran").touch()
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A saved pipeline in the working folder, beside a module that must not run."""
    pipeline = PointDiffusionPipeline(denoiser(), process())
    pipeline.save_pretrained(tmp_path / "run")
    (tmp_path / "evil.py").write_text(EVIL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path / "run"


def change(path, **settings):
    """Sets entries of a JSON file, or takes them away."""
    content = json.loads(path.read_text()) | settings
    path.write_text(json.dumps({k: value for k, value in content.items() if value is not GONE}))


def refuse(folder, message):
    """Reading a folder fails with one line that matches, and runs nothing."""
    with refused(message, RunFolderError):
        PointDiffusionPipeline.from_pretrained(folder)
    assert not Path("ran").exists()
    assert "evil" not in sys.modules


def test_no_module_is_imported_and_none_in_the_folder_is_run(folder):
    index = (folder / INDEX).read_text()
    library, _ = json.loads(index)["denoiser"]
    for name in ("denoiser", "."):
        (folder / name / f"{library}.py").write_text(EVIL)
        (folder / name / "pipeline.py").write_text(EVIL)
    PointDiffusionPipeline.from_pretrained(folder)
    assert not Path("ran").exists()
    for settings, message in (
        (
            {"denoiser": ["evil", "Denoiser"]},
            "'Denoiser' of 'evil', .* known; .* import evil first",
        ),
        ({"denoiser": ["os", "PathLike"]}, "which is not known"),
        ({"_class_name": ["pipeline", "PointDiffusionPipeline"]}, "not a PointDiffusionPipeline"),
    ):
        (folder / INDEX).write_text(index)
        change(folder / INDEX, **settings)
        refuse(folder, message)


class _Bomb:
    def __reduce__(self):
        return eval, ("open('ran', 'w')",)


def require_same(denoiser, weights):
    assert_same_state(denoiser, {name: weights[name] for name in denoiser.state_dict()})


def test_nothing_is_unpickled(folder, monkeypatch):
    def unpickled(*_, **__):
        Path("ran").touch()
        raise AssertionError("something was unpickled")

    for name in ("torch.load", "pickle.load", "pickle.loads", "pickle.Unpickler"):
        monkeypatch.setattr(name, unpickled)
    # An index of shards says which files hold the weights, and may name a file of another kind.
    weights = load_file(folder / WEIGHTS)
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, "evil.bin")}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    (folder / "denoiser" / "evil.bin").write_bytes(pickle.dumps(_Bomb()))
    for kind, path in (
        (PointDiffusionPipeline, folder),
        (DiffusionPipeline, folder),
        (NetworkDenoiser, folder / "denoiser"),
    ):
        read = kind.from_pretrained(path)
        require_same(getattr(read, "denoiser", read), weights)
    assert not Path("ran").exists()
    save_file({"another": torch.zeros(1)}, folder / WEIGHTS.replace(".s", "-00001-of-00001.s"))
    refuse(folder, "'another' is .1,. there and unknown here")
    save_file(weights, folder / WEIGHTS.replace(".s", "-00001-of-00001.s"))
    refuse(folder, "which is in another file")
    (folder / WEIGHTS).unlink()
    require_same(PointDiffusionPipeline.from_pretrained(folder).denoiser, weights)
    (folder / WEIGHTS.replace(".s", "-00001-of-00001.s")).unlink()
    (folder / WEIGHTS).with_suffix(".bin").write_bytes(pickle.dumps(_Bomb()))
    refuse(folder, "holds no weights .* can run code and are not read")
    (folder / WEIGHTS).write_bytes(pickle.dumps(_Bomb()))
    refuse(folder, "cannot be read .* train it again")


def test_no_repository_is_asked(folder, no_net):
    with refused("is no folder of this machine; download", RunFolderError):
        NetworkDenoiser.from_pretrained("somebody/denoiser")
    with refused("not the index of a pipeline", RunFolderError):
        PointDiffusionPipeline.from_pretrained("somebody/pipeline")
    change(folder / DENOISER, _name_or_path="somebody/denoiser")
    PointDiffusionPipeline.from_pretrained(folder)
    change(folder / DENOISER, _class_name="SomeModel")
    refuse(folder, "of class 'SomeModel', not NetworkDenoiser")
    assert no_net == []


WRONG = {
    INDEX: [
        ({"mean": [0.0]}, "as many numbers|one number for each"),
        ({"mean": [0.0, float("nan")]}, "coordinate 2 has mean nan"),
        ({"mean": ["a", "b"]}, "could not convert string to float"),
        ({"scale": [1.0, 0.0]}, "coordinate 2 has mean .* and scale 0;"),
        ({"columns": ["x", "x"]}, "distinct names"),
        ({"columns": [1, 2]}, "distinct names"),
        ({"denoiser": GONE}, "does not name its denoiser"),
        ({"denoiser": ["diffusers", "UNet2DModel"]}, "not known"),
        ({"process": 3}, "the process in .* has no 'beta_end'"),
        ({"process": {**PROCESS, "num_timesteps": 10**9}}, "num_timesteps.* 100000"),
        ({"process": {k: v for k, v in PROCESS.items() if k != "loss"}}, "has no 'loss'"),
        ({"process": {**PROCESS, "schedule": "sinusoid"}}, "schedule = 'sinusoid'"),
        ({"process": {**PROCESS, "prediction_type": "velocity"}}, "prediction_type"),
        ({"process": {**PROCESS, "secret": 1}}, "secret"),
    ],
    DENOISER: [
        ({"hidden": [8] * 200_000}, "200,000 hidden layers, more than 100"),
        ({"hidden": [8, 9]}, "weights .* are not those of 'config.json'"),
        ({"hidden": [8, 0]}, "are not those of|is no NetworkDenoiser"),
        ({"data_dim": 10**9}, "data_dim = 1000000000 is out of range"),
        ({"data_dim": 3}, "are not those of"),
        ({"hidden": [10_000, 10_000, 10_000]}, "has 200,.* parameters, more than 100,000,000"),
        ({"num_train_timesteps": 10**12}, "is out of range"),
        ({"num_time_frequencies": float("inf")}, "is out of range"),
        ({"activation": "evil"}, "evil"),
        ({"secret": 1}, "the setting 'secret', which NetworkDenoiser has not"),
    ],
}


@pytest.mark.parametrize("file", WRONG)
def test_wrong_settings_are_named(folder, file):
    path = folder / file
    whole = path.read_text()
    for settings, message in WRONG[file]:
        path.write_text(whole)
        change(path, **settings)
        refuse(folder, message)
    for text in ("", "{}", "[]", "null", "{", "[" * 100_000, "\0", '{"a": 1}'):
        path.write_text(text)
        refuse(folder, path.name)


def test_weights_are_those_of_the_network_all_of_them(folder):
    weights = load_file(folder / WEIGHTS)
    name = next(iter(weights))
    for changed in (
        {key: value for key, value in weights.items() if key != name},
        weights | {"another": torch.zeros(1)},
        weights | {name: weights[name][:1].clone()},
    ):
        save_file(changed, folder / WEIGHTS)
        refuse(folder, "are not those of 'config.json'")
    save_file(weights, folder / WEIGHTS)
    PointDiffusionPipeline.from_pretrained(folder)
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-8])
    refuse(folder, "cannot be read")
