"""Kanified models are saved, read, averaged and put in pipelines."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DiTPipeline, DiTTransformer2DModel, EMAModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import DistilBertConfig, DistilBertForMaskedLM

import kan_diffusion.kanified as kanified
from helpers import refused, seeded
from kan_diffusion import PictureDiffusionPipeline, build_denoiser, get_process, make_scheduler
from kan_diffusion.errors import RunFolderError
from kan_diffusion.kanified import kanify, load_kanified, rebuild
from picture_networks import change, make, output

SAVED = ("dit", "pixart", "unet", "clip")


def saved(tmp_path: Path, name: str, **settings: object) -> tuple[nn.Module, tuple, Path]:
    network, call = make(name)
    kanify(network, generator=seeded(), **settings)
    network.save_pretrained(tmp_path / name)
    return network, call, tmp_path / name


@pytest.mark.parametrize("kind", ["grouped", "full"])
@pytest.mark.parametrize("name", SAVED)
def test_a_saved_network_is_read_as_it_was(name: str, kind: str, tmp_path: Path) -> None:
    plain = type(make(name)[0])
    network, call, folder = saved(tmp_path, name, kind=kind)
    assert isinstance(network, plain)
    read = load_kanified(folder)
    assert type(read) is type(network)
    assert type(read) is getattr(kanified, f"Kanified{plain.__name__}")
    assert torch.equal(output(read, call), output(network, call))
    again = copy.deepcopy(read)
    assert torch.equal(output(again, call), output(network, call))
    assert not list(folder.rglob("*.bin"))
    half = load_kanified(folder, dtype=torch.bfloat16)
    low = output(half, tuple(x.bfloat16() if x.is_floating_point() else x for x in call))
    assert low.dtype is torch.bfloat16
    assert change(output(network, call), low) < 0.03


@pytest.mark.parametrize("name", ["dit", "clip"])
def test_the_plain_class_warns_of_weights_it_does_not_know(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = type(make(name)[0])
    _, _, folder = saved(tmp_path, name, match=None)
    plain.from_pretrained(folder)
    said = caplog.text + capsys.readouterr().err
    assert "coefficients" in said


def test_a_refined_network_is_read_as_it_is(tmp_path: Path) -> None:
    network, call = make("dit")
    kanify(network)
    network.refine(16)
    network.save_pretrained(tmp_path)
    read = load_kanified(tmp_path)
    assert read.transformer_blocks[0].ff.net[0].functions.grid_size == 16
    assert torch.equal(output(read, call), output(network, call))


def test_what_is_replaced_later_is_added(tmp_path: Path) -> None:
    network, call = make("pixart")
    kanify(network, layers="*.0.ff")
    kanify(network, layers="*.1.ff", kind="full")
    assert [recipe.kind for recipe in network.recipes] == ["grouped", "full"]
    network.save_pretrained(tmp_path)
    assert torch.equal(output(load_kanified(tmp_path), call), output(network, call))


@pytest.mark.parametrize("kind", ["grouped", "full"])
def test_a_network_with_tied_weights_is_read_as_it_was(kind: str, tmp_path: Path) -> None:
    config = DistilBertConfig(
        vocab_size=20, dim=16, hidden_dim=32, n_layers=1, n_heads=2, max_position_embeddings=8
    )
    network, call = DistilBertForMaskedLM(config).eval(), (torch.tensor([[1, 2, 3]]),)
    kanify(network, kind=kind, generator=seeded())
    network.save_pretrained(tmp_path)
    read = load_kanified(tmp_path)
    assert torch.equal(output(read, call), output(network, call))
    assert read.vocab_projector.weight is read.distilbert.embeddings.word_embeddings.weight
    with refused("vocab_projector.bias", RunFolderError):
        file = tmp_path / "model.safetensors"
        save_file({k: v for k, v in load_file(file).items() if k != "vocab_projector.bias"}, file)
        load_kanified(tmp_path)


def test_a_model_of_another_module_is_read_once_that_is_imported(tmp_path: Path) -> None:
    settings = {"width": 16, "heads": 2}
    network = build_denoiser(
        "dit", (1, 8, 8), num_train_timesteps=1000, hidden=(32,), settings=settings,
        generator=seeded(),
    )  # fmt: skip
    kanify(network, generator=seeded())
    call = torch.randn(2, 1, 8, 8, generator=seeded()), torch.tensor([3, 500])
    scheduler = make_scheduler(None, get_process("flow").scheduler())
    PictureDiffusionPipeline(network, scheduler, mode="L").save_pretrained(tmp_path)
    pipeline = PictureDiffusionPipeline.from_pretrained(tmp_path)
    for read in (load_kanified(tmp_path / "denoiser"), pipeline.denoiser):
        assert type(read) is type(network)
        assert torch.equal(output(read, call), output(network, call))
    assert isinstance(pickle.loads(pickle.dumps(network)), type(network))


def test_models_within_others_are_noted_with_their_own_paths(tmp_path: Path) -> None:
    network, call = make("dit")
    text, tokens = make("clip")
    kanify(nn.ModuleDict({"denoiser": torch.compile(network, backend="eager"), "text": text}))
    for part, given, name in ((network, call, "dit"), (text, tokens, "clip")):
        assert all(recipe.path in dict(part.named_modules()) for recipe in part.recipes)
        assert len(part.recipes) == 2
        part.save_pretrained(tmp_path / name)
        assert torch.equal(output(load_kanified(tmp_path / name), given), output(part, given))


def test_any_module_is_rebuilt_from_the_recipes_of_its_report() -> None:
    network, call = make("encoder")
    _, report = kanify(network, kind="full")
    recipes = json.loads(json.dumps([recipe.model_dump(mode="json") for recipe in report.recipes]))
    other, _ = make("encoder", seed=1)
    rebuild(other, recipes)
    other.load_state_dict(network.state_dict())
    assert torch.equal(output(other, call), output(network, call))
    with refused("Sequential has no block 'layers.0' to replace"):
        rebuild(make("sequential")[0], recipes)


def test_a_pipeline_is_saved_and_read_with_its_kanified_network(tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    network, call = make("dit")
    with torch.random.fork_rng(devices=[]):
        vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=8, latent_channels=3)
    pipeline = DiTPipeline(network, vae, DDIMScheduler())
    pipeline.transformer, _ = kanify(pipeline.transformer)
    assert pipeline.transformer is network
    pipeline.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["transformer"] == ["kan_diffusion.kanified", "KanifiedDiTTransformer2DModel"]
    read = DiTPipeline.from_pretrained(tmp_path)
    assert torch.equal(output(read.transformer, call), output(network, call))


@pytest.mark.filterwarnings("ignore:It is deprecated to pass a pretrained model:FutureWarning")
def test_moving_averages_are_saved_and_read(tmp_path: Path) -> None:
    network, call = make("dit")
    kanify(network)
    average = EMAModel(
        network.parameters(), model_cls=type(network), model_config=network.config, decay=0.5
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1)
    average.step(network.parameters())
    average.save_pretrained(tmp_path)
    read = EMAModel.from_pretrained(tmp_path, model_cls=type(network))
    for one, other in zip(read.shadow_params, average.shadow_params, strict=True):
        assert torch.equal(one, other)
    average.copy_to(network.parameters())
    assert torch.equal(output(load_kanified(tmp_path), call), output(network, call))


def test_the_class_survives_a_pickle_of_another_process() -> None:
    network, call = make("dit")
    kanify(network)
    assert torch.equal(output(pickle.loads(pickle.dumps(network)), call), output(network, call))


def _config(change: Callable[[dict], None]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "config.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return damage


def _recipe(key: str, value: object) -> Callable[[Path], None]:
    return _config(lambda content: content["kanified"][0].update({key: value}))


def _class(name: str) -> Callable[[Path], None]:
    return _config(lambda content: content.update({"_class_name": name, "architectures": [name]}))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_recipe("grid_size", 9), "the weights in .* are not those of 'config.json'"),
        (_recipe("hidden", 99_999), "the weights in .* are not those of 'config.json'"),
        (_recipe("hidden", 10**12), "out of range"),
        (_recipe("path", "nowhere"), "no block 'nowhere' to replace"),
        (_recipe("basis", "os.system"), "unknown basis 'os.system'"),
        (_recipe("code", "print()"), "unknown key 'code'"),
        (_config(lambda content: content.pop("kanified")), "are not those of 'config.json'"),
        (_config(lambda content: content.update(kanified=3)), "kanified"),
        (_class("KanifiedDDPMPipeline"), "no kanified network"),
        (_class("DiTTransformer2DModel"), "no kanified network"),
    ],
)
@pytest.mark.parametrize("name", ["dit", "clip"])
def test_a_folder_is_checked_before_its_weights_are_read(
    name: str, damage: Callable[[Path], None], reason: str, tmp_path: Path
) -> None:
    _, _, folder = saved(tmp_path, name, match=None)
    damage(folder)
    with refused(reason, RunFolderError):
        load_kanified(folder)


def test_only_safetensors_are_read(tmp_path: Path) -> None:
    network, _, folder = saved(tmp_path, "dit")
    weights = folder / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    torch.save(network.state_dict(), folder / "diffusion_pytorch_model.bin")
    with refused("holds no weights", RunFolderError):
        load_kanified(folder)


def test_other_names_are_none_of_the_module() -> None:
    for name in ("KanifiedUNet", "KanifiedDDPMPipeline", "Kanified", "DiTTransformer2DModel"):
        with pytest.raises(AttributeError, match=f"no attribute '{name}'"):
            getattr(kanified, name)
    assert issubclass(kanified.KanifiedDiTTransformer2DModel, DiTTransformer2DModel)
    assert DDPMPipeline.__name__ not in dir(kanified)
