"""Kanified networks are compiled and adapted."""

import runpy
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model, inject_adapter_in_model

from helpers import refused
from kan_diffusion.kanified import kanify, load_kanified
from picture_networks import change, gradients, in_both_ways, loss_of, make, output

EXAMPLE = Path(__file__).parents[3] / "examples" / "kanify.py"


def test_a_compiled_network_does_the_same():
    """As TorchDynamo and AOTAutograd have it; what Inductor makes of layers, tests/kan has."""
    network, call = make("dit")
    in_both_ways(network)
    known = gradients(network, call)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*call)[0], network(*call)[0])
    found = gradients(compiled, call)
    found = {name.removeprefix("_orig_mod."): gradient for name, gradient in found.items()}
    torch.testing.assert_close(found, known)


def test_adapters_train_on_the_linear_maps_that_stay():
    network, call = make("unet")
    kanify(network, keep_function=True)
    before = output(network, call)
    network.add_adapter(LoraConfig(r=2, target_modules=["to_q", "net.0.proj", "net.2"]))
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    assert sum("net.0.proj.lora" in name for name in trained) == 8
    assert all("lora" in name for name in trained)
    torch.testing.assert_close(output(network, call), before)  # an adapter starts at zero
    found = gradients(network, call)
    assert found.keys() <= trained.keys()
    assert any(gradient.any() for gradient in found.values())


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_adapters_of_peft_may_train_the_functions_too():
    network, call = make("clip")
    kanify(network)
    targets = {"target_modules": ["q_proj", "fc1", "fc2"], "modules_to_save": ["activation_fn"]}
    adapted = get_peft_model(network, LoraConfig(r=2, **targets))
    trained = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert any("activation_fn" in name and name.endswith("coefficients") for name in trained)
    assert any("fc1.lora_A" in name for name in trained)
    loss_of(adapted, call).backward()


def test_what_an_adapter_wraps_is_refused():
    network, _ = make("sequential")
    inject_adapter_in_model(LoraConfig(target_modules=["3"], r=2), network)
    with refused(r"'1': '3' is a peft.* and no plain nn.Linear; merge adapters first"):
        kanify(network, layers="1")


def test_the_example_writes_a_network_that_does_what_it_did(tmp_path, monkeypatch, capsys):
    network, call = make("unet")
    network.save_pretrained(tmp_path / "plain" / "unet")
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), str(tmp_path / "plain"), str(tmp_path / "kan")])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert "down_blocks.0.attentions.0.transformer_blocks.0.ff" in capsys.readouterr().out
    found = load_kanified(tmp_path / "kan")
    assert 0 < change(output(network, call), output(found, call)) < 1e-3
