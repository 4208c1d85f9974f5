"""Kanified models of all kinds are saved and read, averaged and put in pipelines."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DistilBertConfig, DistilBertForMaskedLM

from helpers import refused, seeded
from kan_diffusion.errors import RunFolderError
from kan_diffusion.kanified import kanify, load_kanified, save_kanified
from kanified_networks import require_same_after_saving
from picture_networks import output


@pytest.mark.parametrize("kind", ["grouped", "full"])
@pytest.mark.parametrize("name", ["pixart", "unet"])
def test_a_saved_network_is_read_as_it_was(name, kind, tmp_path):
    require_same_after_saving(name, kind, tmp_path)


@pytest.mark.parametrize("kind", ["grouped", "full"])
def test_a_network_with_tied_weights_is_read_as_it_was(kind, tmp_path):
    config = DistilBertConfig(
        vocab_size=20, dim=16, hidden_dim=32, n_layers=1, n_heads=2, max_position_embeddings=8
    )
    network, call = DistilBertForMaskedLM(config).eval(), (torch.tensor([[1, 2, 3]]),)
    kanify(network, kind=kind, generator=seeded())
    save_kanified(network, tmp_path)
    read = load_kanified(tmp_path)
    assert torch.equal(output(read, call), output(network, call))
    assert read.vocab_projector.weight is read.distilbert.embeddings.word_embeddings.weight
    with refused("vocab_projector.bias", RunFolderError):
        file = tmp_path / "model.safetensors"
        save_file({k: v for k, v in load_file(file).items() if k != "vocab_projector.bias"}, file)
        load_kanified(tmp_path)
