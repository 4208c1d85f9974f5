"""Kanified models are saved, read and checked."""

import json

import pytest
import torch

from helpers import refused
from kan_diffusion.errors import RunFolderError
from kan_diffusion.kanified import kanify, load_kanified, rebuild, save_kanified
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
    save_kanified(network, tmp_path)
    recipes = json.loads((tmp_path / "kanified.json").read_text())["blocks"]
    assert [recipe["kind"] for recipe in recipes] == ["grouped", "full"]
    assert torch.equal(output(load_kanified(tmp_path), call), output(network, call))


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
    with refused("takes a model of diffusers or transformers .* not this TransformerEncoder"):
        save_kanified(network, "anywhere")


def _damaged(file, change):
    def damage(folder):
        content = json.loads((folder / file).read_text())
        change(content)
        (folder / file).write_text(json.dumps(content))

    return damage


def _recipe(key, value):
    return _damaged("kanified.json", lambda content: content["blocks"][0].update({key: value}))


DAMAGE = [
    (_recipe("grid_size", 9), "the weights in .* are not those of 'config.json'"),
    (_recipe("hidden", 99_999), "the weights in .* are not those of 'config.json'"),
    (_recipe("hidden", 10**12), "hidden"),
    (_recipe("path", "nowhere"), "no block 'nowhere' to replace"),
    (_recipe("basis", "os.system"), "unknown basis 'os.system'"),
    (_recipe("code", "print()"), "unknown key 'code'"),
    (_damaged("kanified.json", dict.clear), "kanified"),
    (lambda folder: (folder / "kanified.json").unlink(), "recipes of a kanified network"),
    (
        _damaged("config.json", lambda c: c.update(_class_name="os", architectures=["os"])),
        "'os' is no model of diffusers that is imported",
    ),
]


@pytest.mark.parametrize("name", ["dit", "clip"])
def test_a_folder_is_checked_before_its_weights_are_read(name, tmp_path):
    _, _, folder = saved(tmp_path, name, match=None)
    kept = {file: (folder / file).read_text() for file in ("config.json", "kanified.json")}
    for damage, reason in DAMAGE:
        damage(folder)
        with refused(reason, RunFolderError):
            load_kanified(folder)
        for file, text in kept.items():
            (folder / file).write_text(text)


def test_only_safetensors_are_read(tmp_path):
    network, _, folder = saved(tmp_path, "dit")
    weights = folder / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    torch.save(network.state_dict(), folder / "diffusion_pytorch_model.bin")
    with refused("holds no weights", RunFolderError):
        load_kanified(folder)
