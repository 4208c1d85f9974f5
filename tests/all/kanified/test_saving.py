"""Kanified models of all kinds are saved and read, averaged and put in pipelines."""

from __future__ import annotations

import pickle

import pytest
import torch
from diffusers import EMAModel
from safetensors.torch import load_file, save_file
from transformers import DistilBertConfig, DistilBertForMaskedLM

from helpers import refused, seeded
from kan_diffusion import PictureDiffusionPipeline, build_denoiser, get_process, make_scheduler
from kan_diffusion.errors import RunFolderError
from kan_diffusion.kanified import kanify, load_kanified
from kanified_networks import require_same_after_saving
from picture_networks import make, output


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
    network.save_pretrained(tmp_path)
    read = load_kanified(tmp_path)
    assert torch.equal(output(read, call), output(network, call))
    assert read.vocab_projector.weight is read.distilbert.embeddings.word_embeddings.weight
    with refused("vocab_projector.bias", RunFolderError):
        file = tmp_path / "model.safetensors"
        save_file({k: v for k, v in load_file(file).items() if k != "vocab_projector.bias"}, file)
        load_kanified(tmp_path)


def test_a_model_of_another_module_is_read_once_that_is_imported(tmp_path):
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


@pytest.mark.filterwarnings("ignore:It is deprecated to pass a pretrained model:FutureWarning")
def test_moving_averages_are_saved_and_read(tmp_path):
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
