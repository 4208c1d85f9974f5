"""Kanified models are saved, read and checked."""

import json

import pytest
import torch
from huggingface_hub import constants, hf_hub_download
from safetensors.torch import load_file, save_file
from transformers import (
    DINOv3ViTConfig,
    DINOv3ViTModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    ViTConfig,
    ViTModel,
)

from helpers import refused
from kan_diffusion.errors import RunFolderError
from kan_diffusion.kanified import kanify, load_kanified, rebuild, save_kanified
from picture_networks import change, in_both_ways, make, output


class Mine(DistilBertForMaskedLM):
    """A model of one's own, whose first and last weights are tied."""


class Fetching(Mine):
    """A model that takes a part of itself from a hub."""

    def __init__(self, config):
        super().__init__(config)
        hf_hub_download("somebody/part", "config.json")


def mine():
    sizes = {"dim": 16, "hidden_dim": 32, "n_layers": 2, "n_heads": 2}
    config = DistilBertConfig(vocab_size=20, max_position_embeddings=8, **sizes)
    return Mine(config).eval(), (torch.tensor([[1, 2, 3]]),)


def of_pictures(name):
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 32, "image_size": 8, "patch_size": 4}
    kinds = {"vit": (ViTModel, ViTConfig), "dino": (DINOv3ViTModel, DINOv3ViTConfig)}
    kind, config = kinds[name]
    return kind(config(**sizes)).eval(), (torch.randn(2, 3, 8, 8),)


@pytest.mark.parametrize("name", ["dit", "unet", "clip", "mine", "vit", "dino"])
def test_a_saved_network_is_read_as_it_was_whole_and_in_half_precision(name, tmp_path):
    network, call = make(name) if name in ("dit", "unet", "clip") else mine()
    if name in ("vit", "dino"):
        network, call = of_pictures(name)
    in_both_ways(network)
    save_kanified(network, tmp_path)
    expected, read = output(network, call), load_kanified(tmp_path)
    assert type(read) is type(network)
    assert torch.equal(output(read, call), expected)
    assert len(list(read.parameters())) == len(list(network.parameters()))  # tied ones once
    half = load_kanified(tmp_path, dtype=torch.bfloat16)
    low = output(half, tuple(x.bfloat16() if x.is_floating_point() else x for x in call))
    assert low.dtype is torch.bfloat16
    assert change(expected, low) < 0.03


def test_a_network_fetches_nothing_and_is_no_larger_than_its_files(tmp_path, monkeypatch, no_net):
    network, _ = mine()
    save_kanified(kanify(network, keep_function=True)[0], tmp_path)
    config = tmp_path / "config.json"
    whole = json.loads(config.read_text())
    config.write_text(json.dumps({**whole, "architectures": ["Fetching"]}))
    with refused("is no Fetching .* cannot find", RunFolderError):
        load_kanified(tmp_path)
    assert no_net == []
    assert not constants.HF_HUB_OFFLINE
    config.write_text(json.dumps(whole))
    monkeypatch.setattr("kan_diffusion.kanified.recipe._MOST_PARAMETERS", 1000)
    with refused("is no Mine .it has [0-9,]+ parameters, more than 1,000", RunFolderError):
        load_kanified(tmp_path)


@pytest.mark.parametrize("name", ["encoder", "sequential"])
def test_any_module_is_rebuilt_from_its_recipes_as_json(name):
    network, call = make(name)
    last = "layers.1" if name == "encoder" else "4"
    recipes = kanify(network, layers=last)[1].recipes  # its maps get narrower
    recipes += kanify(network, kind="full")[1].recipes
    recipes = json.loads(json.dumps([recipe.model_dump(mode="json") for recipe in recipes]))
    other, _ = make(name, seed=1)
    rebuild(other, recipes)
    other.load_state_dict(network.state_dict())
    assert torch.equal(output(other, call), output(network, call))
    with refused(f"Linear has no block '{last}' to replace"):
        rebuild(torch.nn.Linear(2, 2), recipes)
    with refused(
        f"takes a model of diffusers or transformers .* not this {type(network).__name__}"
    ):
        save_kanified(network, "anywhere")


def test_a_network_that_its_configuration_does_not_build_is_noticed_when_it_is_saved(tmp_path):
    network, _ = mine()
    network.vocab_projector = torch.nn.Linear(16, 30)
    with refused("'vocab_projector.bias' is .30,. there .*; save the recipes of its report"):
        save_kanified(kanify(network)[0], tmp_path)


def _recipe(key, value):
    return "kanified.json", lambda content: content["blocks"][0].update({key: value})


def _config(**entries):
    return "config.json", lambda content: content.update(entries)


def _layers(count):
    keys = {"num_layers", "num_hidden_layers"}
    return "config.json", lambda content: content.update(dict.fromkeys(keys & {*content}, count))


DAMAGE = [
    (*_recipe("grid_size", 9), "the weights in .* are not those of 'config.json'"),
    (*_recipe("hidden", 10**12), "kanified: hidden = 1000000000000"),
    (*_recipe("path", "nowhere"), "no block 'nowhere' to replace"),
    (*_recipe("grid_range", [1, 1]), "grid_range must be two finite numbers"),
    (*_recipe("code", "print()"), "unknown key 'code'"),
    ("kanified.json", dict.clear, "the weights in .* are not those of 'config.json'"),
    (*_config(_class_name="os", architectures=["os"]), "'os' is no model of diffusers that is im"),
    (*_config(_class_name="ModelMixin"), "'ModelMixin' is no model of diffusers that is imported"),
    (*_layers(10**9), "num_.*layers = 1000000000 is out of range"),
    (*_layers(100), "it has more than 300 modules"),
    (*_config(nested={"attn_implementation": "somebody/attention"}),
     "nested.attn_implementation = 'somebody/attention' may be code from elsewhere"),
]  # fmt: skip


@pytest.mark.parametrize("name", ["dit", "clip"])
def test_a_folder_is_checked_before_its_weights_are_read(name, tmp_path, monkeypatch):
    monkeypatch.setattr("kan_diffusion.weights._MOST_PARTS", 300)  # each takes time to build
    network, _ = make(name)
    save_kanified(kanify(network, keep_function=True)[0], tmp_path)
    for file, damage, reason in DAMAGE:
        text = (tmp_path / file).read_text()
        content = json.loads(text)
        damage(content)
        (tmp_path / file).write_text(json.dumps(content))
        with refused(reason, RunFolderError):
            load_kanified(tmp_path)
        (tmp_path / file).write_text(text)
    (weights,) = tmp_path.glob("*.safetensors")
    tensors = load_file(weights)
    missing, _ = tensors.popitem()
    save_file(tensors, weights)
    with refused(f"not those of 'config.json': '{missing}' is missing", RunFolderError):
        load_kanified(tmp_path)
    weights.unlink()
    torch.save(network.state_dict(), weights.with_suffix(".bin"))  # no other format is read
    with refused("holds no weights", RunFolderError):
        load_kanified(tmp_path)
    (tmp_path / "kanified.json").unlink()
    with refused("recipes of a kanified network", RunFolderError):
        load_kanified(tmp_path)
