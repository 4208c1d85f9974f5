"""Kanified networks are trained in half precision and with checkpoints; tests/all has the rest."""

import copy

import pytest
import torch

from kan_diffusion.kan.functions import BasisLayer
from kanified_networks import gradients, kanify_in_both_ways, loss_of
from picture_networks import change, make, output


@pytest.mark.parametrize("name", ["dit", "encoder"])
def test_autocast_is_as_near_as_it_was(name):
    network, call = make(name)
    plain = copy.deepcopy(network)

    def distance(one):
        with torch.autocast("cpu", torch.bfloat16):
            low = output(one, call)
        return change(output(one, call), low)

    kanify_in_both_ways(network)
    assert distance(network) < max(3 * distance(plain), 0.02)
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(network, call)
    loss.backward()
    for part in network.modules():
        if isinstance(part, BasisLayer):
            for parameter in part.parameters():
                assert parameter.grad.isfinite().all()
                assert parameter.grad.dtype is parameter.dtype


@pytest.mark.parametrize("name", ["dit", "clip"])
def test_gradient_checkpointing_gives_the_same_gradients(name):
    network, call = make(name)
    kanify_in_both_ways(network)
    network.train()
    known = gradients(network, call)
    of_diffusers = hasattr(network, "enable_gradient_checkpointing")
    if of_diffusers:
        network.enable_gradient_checkpointing()
    else:
        network.activation_checkpointing_enable()
    found = gradients(network, call)
    assert (
        network.is_gradient_checkpointing if of_diffusers else network.is_activation_checkpointing
    )
    assert known.keys() == found.keys()
    for name_, gradient in known.items():
        torch.testing.assert_close(found[name_], gradient)
