"""Kanified models are saved, read and checked."""

import json

import pytest
import torch
from torch import nn

from helpers import refused
from kan_diffusion.errors import RunFolderError
from kan_diffusion.kanified import kanify, load_kanified, rebuild
from kanified_networks import require_same_after_saving, saved
from picture_networks import make, output


@pytest.mark.parametrize("name", ["dit", "clip"])
def test_a_saved_network_is_read_as_it_was(name, tmp_path):
    for kind in ("grouped", "full"):
        require_same_after_saving(name, kind, tmp_path / kind)


def test_what_is_replaced_later_is_added(tmp_path):
    network, call = make("pixart")
    kanify(network, layers="*.0.ff")
    kanify(network, layers="*.1.ff", kind="full")
    assert [recipe.kind for recipe in network.recipes] == ["grouped", "full"]
    network.save_pretrained(tmp_path)
    assert torch.equal(output(load_kanified(tmp_path), call), output(network, call))


def test_models_within_others_are_noted_with_their_own_paths(tmp_path):
    network, call = make("dit")
    text, tokens = make("clip")
    kanify(nn.ModuleDict({"denoiser": torch.compile(network, backend="eager"), "text": text}))
    for part, given, name in ((network, call, "dit"), (text, tokens, "clip")):
        assert all(recipe.path in dict(part.named_modules()) for recipe in part.recipes)
        assert len(part.recipes) == 2
        part.save_pretrained(tmp_path / name)
        assert torch.equal(output(load_kanified(tmp_path / name), given), output(part, given))


def test_any_module_is_rebuilt_from_the_recipes_of_its_report():
    network, call = make("encoder")
    _, report = kanify(network, kind="full")
    recipes = json.loads(json.dumps([recipe.model_dump(mode="json") for recipe in report.recipes]))
    other, _ = make("encoder", seed=1)
    rebuild(other, recipes)
    other.load_state_dict(network.state_dict())
    assert torch.equal(output(other, call), output(network, call))
    with refused("Sequential has no block 'layers.0' to replace"):
        rebuild(make("sequential")[0], recipes)


def _config(change):
    def damage(folder):
        path = folder / "config.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return damage


def _recipe(key, value):
    return _config(lambda content: content["kanified"][0].update({key: value}))


def _class(name):
    return _config(lambda content: content.update({"_class_name": name, "architectures": [name]}))


DAMAGE = [
    (_recipe("grid_size", 9), "the weights in .* are not those of 'config.json'"),
    (_recipe("hidden", 99_999), "the weights in .* are not those of 'config.json'"),
    (_recipe("hidden", 10**12), "out of range"),
    (_recipe("path", "nowhere"), "no block 'nowhere' to replace"),
    (_recipe("basis", "os.system"), "unknown basis 'os.system'"),
    (_recipe("code", "print()"), "unknown key 'code'"),
    (_config(lambda content: content.pop("kanified")), "are not those of 'config.json'"),
    (_config(lambda content: content.update(kanified=3)), "kanified"),
    (_class("DiTTransformer2DModel"), "no kanified network"),
]


@pytest.mark.parametrize("name", ["dit", "clip"])
def test_a_folder_is_checked_before_its_weights_are_read(name, tmp_path):
    _, _, folder = saved(tmp_path, name, match=None)
    config = (folder / "config.json").read_text()
    for damage, reason in DAMAGE:
        damage(folder)
        with refused(reason, RunFolderError):
            load_kanified(folder)
        (folder / "config.json").write_text(config)


def test_only_safetensors_are_read(tmp_path):
    network, _, folder = saved(tmp_path, "dit")
    weights = folder / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    torch.save(network.state_dict(), folder / "diffusion_pytorch_model.bin")
    with refused("holds no weights", RunFolderError):
        load_kanified(folder)
