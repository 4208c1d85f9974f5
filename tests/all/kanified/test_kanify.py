"""What is in the way of a replacement, half precision, and blocks of other forms."""

import torch
from torch import nn

from helpers import randn, refused
from kan_diffusion.kanified import kanify
from picture_networks import change, make, output


def test_what_an_adapter_wraps_is_refused():
    from peft import LoraConfig, inject_adapter_in_model

    network, _ = make("sequential")
    inject_adapter_in_model(LoraConfig(target_modules=["3"], r=2), network)
    with refused(r"'1': '3' is wrapped by an adapter \(peft.*\); merge or unload it"):
        kanify(network, layers="1")


def test_a_decoder_layer_is_found():
    layer = nn.TransformerDecoderLayer(16, 2, 64, activation="gelu", batch_first=True).eval()
    x, memory = torch.randn(2, 5, 16), torch.randn(2, 3, 16)
    before = output(layer, (x, memory))
    kanify(layer, keep_function=True)
    assert change(before, output(layer, (x, memory))) < 1e-3


def test_half_precision_rounds_as_the_activation_did():
    """In bfloat16, no further from the same network in float32 than it was."""
    network, call = make("unet")
    exact = output(network, call)
    call = tuple(x.bfloat16() if x.is_floating_point() else x for x in call)
    plain = network.bfloat16()
    before = change(exact, output(plain, call))
    kanify(plain, keep_function=True)
    after = output(plain, call)
    assert after.dtype is torch.bfloat16
    assert change(exact, after) < 1.5 * before


class ByName(nn.Module):
    """A feed-forward whose parts are called by keyword."""

    def __init__(self):
        super().__init__()
        self.up, self.act, self.down = nn.Linear(8, 64), nn.SiLU(), nn.Linear(64, 3)

    def forward(self, x):
        return self.down(input=self.act(input=self.up(input=x)))


def test_parts_may_be_called_by_keyword():
    network, x = ByName(), randn(64, 8).float()
    before = output(network, (x,))
    kanify(network, keep_function=True)
    assert change(before, output(network, (x,))) < 1e-3
