"""A folder that comes from a stranger runs no code, and what is wrong with it is one line."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from command_line import QUICK, Cli, cli  # noqa: F401
from helpers import refused, seeded
from kan_diffusion.denoisers import MLPDenoiser, build_denoiser
from kan_diffusion.errors import RunFolderError
from kan_diffusion.processes import get_process
from kan_diffusion.sampling import PointDiffusionPipeline
from tiny import reseal

WEIGHTS = "denoiser/diffusion_pytorch_model.safetensors"
INDEX, DENOISER, SCHEDULER = (
    "model_index.json",
    "denoiser/config.json",
    "scheduler/scheduler_config.json",
)

GONE = object()

EVIL = """
from pathlib import Path

Path("ran").touch()
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    denoiser = build_denoiser(
        "mlp", 2, num_train_timesteps=1000, hidden=(8, 8), generator=seeded(0)
    )
    process = get_process("cosine")
    PointDiffusionPipeline(denoiser, process.scheduler()).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the saved pipeline in the working folder, beside a module that must not run."""
    shutil.copytree(saved, tmp_path / "run")
    (tmp_path / "evil.py").write_text(EVIL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path / "run"


def change(path: Path, **settings: object) -> None:
    """Sets entries of a JSON file, or takes them away."""
    content = json.loads(path.read_text()) | settings
    path.write_text(json.dumps({k: value for k, value in content.items() if value is not GONE}))


def refuse(folder: Path, message: str) -> None:
    """Reading a folder fails with one line that matches, and runs nothing."""
    with refused(message, RunFolderError) as caught:
        PointDiffusionPipeline.from_pretrained(folder)
    assert "\n" not in str(caught.value)
    assert not Path("ran").exists()
    assert "evil" not in sys.modules


def test_a_class_of_a_module_nobody_imported_is_not_imported(folder: Path) -> None:
    change(folder / INDEX, denoiser=["evil", "Denoiser"])
    refuse(folder, "'Denoiser' of 'evil', which is not known; .* import evil first")
    change(folder / INDEX, denoiser=["os", "PathLike"])
    refuse(folder, "which is not known")


def test_a_module_in_the_folder_is_not_run(folder: Path) -> None:
    library, _ = json.loads((folder / INDEX).read_text())["denoiser"]
    for name in ("denoiser", "scheduler", "."):
        (folder / name / f"{library}.py").write_text(EVIL)
        (folder / name / "pipeline.py").write_text(EVIL)
    PointDiffusionPipeline.from_pretrained(folder)
    assert not Path("ran").exists()
    change(folder / INDEX, _class_name=["pipeline", "PointDiffusionPipeline"])
    refuse(folder, "not a PointDiffusionPipeline")


class _Bomb:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return eval, ("open('ran', 'w')",)


def test_nothing_is_unpickled(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    with (folder / WEIGHTS).with_name("diffusion_pytorch_model.bin").open("wb") as file:
        pickle.dump(_Bomb(), file)
    refuse(folder, "holds no weights .* can run code and are not read")
    (folder / WEIGHTS).write_bytes(pickle.dumps(_Bomb()))
    refuse(folder, "cannot be read .* train the denoiser again")


def test_no_repository_is_asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: object, **__: object) -> None:
        raise AssertionError("a request was made")

    monkeypatch.setattr("huggingface_hub.file_download.get_hf_file_metadata", asked)
    monkeypatch.setattr("huggingface_hub.file_download.http_get", asked)
    with refused("is no folder of this machine; download", RunFolderError):
        MLPDenoiser.from_pretrained("somebody/denoiser")
    with refused("not the index of a pipeline", RunFolderError):
        PointDiffusionPipeline.from_pretrained("somebody/pipeline")
    change(folder / DENOISER, _name_or_path="somebody/denoiser", _class_name="SomeModel")
    refuse(folder, "of class 'SomeModel', not MLPDenoiser")
    (folder / DENOISER).write_text("{")
    refuse(folder, "not the configuration of a denoiser")


@pytest.mark.parametrize(
    ("file", "settings", "message"),
    [
        (INDEX, {"mean": [0.0]}, "as many numbers|one number for each"),
        (INDEX, {"mean": [0.0, float("nan")]}, "coordinate 2 has mean nan"),
        (INDEX, {"mean": ["a", "b"]}, "could not convert string to float"),
        (INDEX, {"scale": [1.0, 0.0]}, "coordinate 2 has scale 0"),
        (INDEX, {"scale": [1.0, -1.0]}, "coordinate 2 has scale -1"),
        (INDEX, {"columns": ["x", "x"]}, "distinct names"),
        (INDEX, {"columns": [1, 2]}, "distinct names"),
        (INDEX, {"denoiser": GONE}, "does not say what its denoiser is"),
        (INDEX, {"scheduler": 3}, "does not say what its scheduler is"),
        (INDEX, {"scheduler": ["diffusers", "UNet2DModel"]}, "not known"),
        (SCHEDULER, {"num_train_timesteps": 10**9}, "out of range; it is from 1 to 100,000"),
        (SCHEDULER, {"num_train_timesteps": GONE}, "has no 'num_train_timesteps'"),
        (SCHEDULER, {"prediction_type": GONE}, "has no 'prediction_type'"),
        (SCHEDULER, {"beta_schedule": "sinusoid"}, "is not a scheduler .*sinusoid"),
        (SCHEDULER, {"prediction_type": "velocity"}, "prediction_type"),
        (SCHEDULER, {"trained_betas": [0.1, 2.0]}, "trained_betas"),
        (DENOISER, {"hidden": [8] * 200_000}, "200000 hidden layers"),
        (DENOISER, {"hidden": [8, 9]}, "weights .* are not those of 'config.json'"),
        (DENOISER, {"hidden": [8, 0]}, "is no list of widths"),
        (DENOISER, {"hidden": "wide"}, "is no list of widths"),
        (DENOISER, {"data_dim": 10**9}, "data_dim = 1000000000 is out of range"),
        (DENOISER, {"data_dim": 3}, "are not those of"),
        (DENOISER, {"num_train_timesteps": 10**12}, "is out of range"),
        (DENOISER, {"num_time_frequencies": float("inf")}, "is out of range"),
        (DENOISER, {"activation": "evil"}, "evil"),
        (DENOISER, {"secret": 1}, "the setting 'secret', which MLPDenoiser has not"),
    ],
)
def test_wrong_settings_are_named(
    file: str, settings: dict[str, object], message: str, folder: Path
) -> None:
    change(folder / file, **settings)
    refuse(folder, message)


@pytest.mark.parametrize("file", [INDEX, DENOISER, SCHEDULER])
@pytest.mark.parametrize("text", ["", "{}", "[]", "null", "{", "[" * 100_000, "\0", '{"a": 1}'])
def test_json_that_is_something_else_is_named(file: str, text: str, folder: Path) -> None:
    (folder / file).write_text(text)
    refuse(folder, str(Path(file).name))


def test_weights_are_those_of_the_network_all_of_them(folder: Path) -> None:
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


def test_a_family_in_a_run_is_not_imported_but_on_request(
    cli: Cli,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli("train", "moons", *QUICK, "--out", "run").code == 0
    (tmp_path / "evil_family.py").write_text(
        EVIL + "from kan_diffusion.denoisers import FAMILIES\nMINE = FAMILIES['mlp']\n"
    )
    trial = json.loads(Path("run/trial.json").read_text())
    trial["config"]["model"]["family"] = "evil_family:MINE"
    Path("run/trial.json").write_text(json.dumps(trial))
    assert "trial.json' is not what the run wrote" in cli("sample", "run").error
    reseal(Path("run"))  # a stranger's digests are right
    for words in (
        ("sample", "run"),
        ("evaluate", "run"),
        ("explain", "run"),
        ("report", "run"),
    ):
        assert "--import evil_family" in cli(*words).error
        assert "--import evil_family" in cli(*words, "--unverified").error
        assert not Path("ran").exists(), words
    assert cli("sample", "run", "--import", "evil_family").code == 0
    assert Path("ran").exists()
    monkeypatch.delitem(sys.modules, "evil_family")
    assert "no_such_module" in cli("sample", "run", "--import", "no_such_module").error
