"""Blocks that are replaced with samples of what reaches them, or wrapped by an adapter."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from helpers import randn, refused
from kan_diffusion.kanified import distill, kanify
from picture_networks import NETWORKS, change, make, output


@pytest.mark.parametrize("name", NETWORKS)
def test_the_change_of_outputs_is_measured_with_samples(name):
    network, call = make(name)
    before = output(network, call)
    _, report = kanify(network, keep_function=True, samples=call)
    moved = change(before, output(network, call))
    assert moved < 1e-3
    assert report.output_error == pytest.approx(moved, rel=0.05, abs=1e-6)


def test_what_an_adapter_wraps_is_refused():
    from peft import LoraConfig, inject_adapter_in_model

    network, _ = make("sequential")
    inject_adapter_in_model(LoraConfig(target_modules=["3"], r=2), network)
    with refused(r"'1': '3' is wrapped by an adapter \(peft.*\); merge or unload it"):
        kanify(network, layers="1")


def test_samples_of_an_encoder_may_be_padded():
    network, (x,) = make("encoder")
    padding = torch.zeros(2, 5, dtype=torch.bool)
    padding[1, 3:] = True
    nested = network.use_nested_tensor
    assert nested
    teacher = copy.deepcopy(network)
    samples = {"src": x, "src_key_padding_mask": padding}
    _, report = kanify(network, keep_function=True, samples=samples)
    assert len(report.replaced) == 2
    assert report.output_error < 1e-3
    assert all(fit.before < 1e-6 for fit in distill(teacher, network, samples, steps=1).fits)
    assert teacher.use_nested_tensor == nested


def test_a_decoder_layer_is_found():
    layer = nn.TransformerDecoderLayer(16, 2, 64, activation="gelu", batch_first=True).eval()
    x, memory = torch.randn(2, 5, 16), torch.randn(2, 3, 16)
    before = output(layer, (x, memory))
    kanify(layer, keep_function=True, samples=(x, memory))
    assert change(before, output(layer, (x, memory))) < 1e-3


class Skipping(nn.Sequential):
    """Parts of which only the first is called."""

    def forward(self, x):
        return self[0](x)


@pytest.mark.parametrize("settings", [{}, {"keep_function": True}, {"kind": "full"}])
def test_blocks_that_the_samples_do_not_reach_stay_and_are_named(settings):
    (first, (x,)), (second, _) = make("sequential"), make("sequential")
    _, report = kanify(Skipping(first, second), layers="*.1", samples=x, **settings)
    assert [one.recipe.path for one in report.replaced] == ["0.1"]
    assert isinstance(second[1], nn.SiLU)
    assert "not replaced: 1.1: the samples do not reach it; give others, or none" in str(report)


def test_rows_of_a_block_are_paired_although_parts_occur_several_times():
    activation, one, other = nn.SiLU(), nn.Linear(8, 8), nn.Linear(8, 8)
    for parts in ([one, one], [one, other, one], [one, other, other]):
        maps = [layer for part in parts for layer in (part, activation)]
        teacher = nn.Sequential(*maps[:-1], nn.ReLU(inplace=True))
        student, x = copy.deepcopy(teacher), randn(64, 8).float()
        kanify(student, keep_function=True, samples=[x, x])
        fits = distill(teacher, student, [x, x[:9]], steps=1).fits
        assert len(fits) == len(parts) - 1
        assert all(fit.before < 1e-6 for fit in fits)


class ByName(nn.Module):
    """A feed-forward whose parts are called by keyword."""

    def __init__(self):
        super().__init__()
        self.up, self.act, self.down = nn.Linear(8, 64), nn.SiLU(), nn.Linear(64, 3)

    def forward(self, x):
        return self.down(input=self.act(input=self.up(input=x)))


def test_parts_may_be_called_by_keyword():
    teacher = ByName()
    student, x = copy.deepcopy(teacher), randn(64, 8).float()
    _, report = kanify(student, keep_function=True, samples=x)
    assert report.output_error < 1e-3
    assert distill(teacher, student, x, steps=1).fits[0].before < 1e-6


def test_half_precision_rounds_as_the_activation_did():
    """In bfloat16, no further from the same network in float32 than it was."""
    network, call = make("unet")
    exact = output(network, call)
    call = tuple(x.bfloat16() if x.is_floating_point() else x for x in call)
    plain = network.bfloat16()
    before = change(exact, output(plain, call))
    _, report = kanify(plain, keep_function=True, samples=call)
    after = output(plain, call)
    assert after.dtype is torch.bfloat16
    assert change(exact, after) < 1.5 * before
    assert report.output_error is not None
    assert report.output_error < 2 * before


class Amplified(nn.Module):
    """The small parts of a block's output, enlarged: it has no function that an error leaves."""

    def __init__(self):
        super().__init__()
        self.block = make("sequential")[0]

    def forward(self, x):
        return (1e6 * self.block(x)).sin()


def test_a_network_whose_outputs_would_change_is_left_as_it_was():
    network, x = Amplified().eval(), randn(100, 8, dtype=torch.float32)
    before, parts = output(network, (x,)), list(network.modules())
    with refused(r"the outputs would change by \d.* more than 0.001"):
        kanify(network, keep_function=True, samples=x)
    assert list(network.modules()) == parts
    assert torch.equal(output(network, (x,)), before)


def test_an_encoder_whose_outputs_would_change_has_its_own_activation_again():
    network, (x,) = make("encoder")
    flags = [layer.activation_relu_or_gelu for layer in network.layers]
    nested = network.use_nested_tensor
    calls = iter([x, "no tensor"])
    network.register_forward_pre_hook(lambda *_: (next(calls),))
    with pytest.raises(AttributeError):
        kanify(network, keep_function=True, samples=x)
    assert [layer.activation_relu_or_gelu for layer in network.layers] == flags
    assert network.use_nested_tensor == nested
    assert all(layer.activation is nn.functional.gelu for layer in network.layers)
