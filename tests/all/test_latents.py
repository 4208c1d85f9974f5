"""Latents of an autoencoder as samples: there and back, in a pipeline, and what is refused."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from safetensors.torch import load_file, save_file

from helpers import assert_same_state, randn, refused, seeded
from kan_diffusion import (
    LatentCodec,
    PictureCodec,
    PictureDiffusionPipeline,
    TrainingConfig,
    build_denoiser,
    get_process,
    make_scheduler,
    read_vae,
    train,
)
from kan_diffusion.errors import RunFolderError
from picture_networks import autoencoder

PICTURES = PictureCodec(size=16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vae")
    autoencoder().save_pretrained(folder)
    return folder


def _samples(num=20):
    return randn(num, *PICTURES.shape, dtype=torch.float32).clamp(-1, 1)


def test_latents_are_the_scaled_means_and_pixels_those_of_the_decoder(folder):
    vae = AutoencoderKL.from_pretrained(folder).eval()
    codec = LatentCodec(PICTURES, read_vae(folder))
    samples = _samples()
    latents = codec.from_pixels(samples)
    assert latents.shape == (20, *codec.shape) == (20, 2, 8, 8)
    with torch.no_grad():
        means = vae.encode(samples).latent_dist.mode()
        torch.testing.assert_close(latents, 0.4 * (means - 0.3))
        torch.testing.assert_close(codec.to_pixels(latents), vae.decode(means).sample)
    pictures = PICTURES.decode(samples)
    torch.testing.assert_close(codec.encode(pictures), codec.from_pixels(PICTURES.encode(pictures)))
    drawn = codec.decode(latents[:2])
    assert [(one.mode, one.size) for one in drawn] == [("RGB", (16, 16))] * 2
    codec.vae.register_to_config(shift_factor=None)  # as some files have it
    torch.testing.assert_close(codec.from_pixels(samples), 0.4 * means)


def test_latents_are_decoded_where_the_autoencoder_is(monkeypatch):
    codec = LatentCodec(PICTURES, autoencoder().to("meta"))

    def decode(latents):
        assert latents.device == codec.vae.device
        return SimpleNamespace(sample=_samples(len(latents)))

    monkeypatch.setattr(codec.vae, "decode", decode)
    pixels = codec.to_pixels(randn(20, *codec.shape))
    assert pixels.shape == (20, 3, 16, 16)


def test_a_pipeline_of_latents_is_trained_saved_and_read_with_its_autoencoder(folder, tmp_path):
    codec = LatentCodec(PICTURES, read_vae(folder))
    before = {name: value.clone() for name, value in codec.vae.state_dict().items()}
    denoiser = build_denoiser(
        "dit-kan",
        codec.shape,
        num_train_timesteps=1000,
        hidden=(8,),
        settings={"width": 8, "heads": 2},
        generator=seeded(0),
    )
    process = get_process("flow")
    config = TrainingConfig(steps=2, batch_size=4)
    train(denoiser, process, codec.from_pixels(_samples()), config, seed=0, device="cpu")
    assert_same_state(codec.vae, before)
    scheduler = make_scheduler(None, process.scheduler())
    with refused("are samples of shape .3, 8, 8., and the denoiser's are .2, 8, 8."):
        PictureDiffusionPipeline(denoiser, scheduler)
    pipeline = PictureDiffusionPipeline(denoiser, scheduler, vae=codec.vae)
    pipeline.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["vae"] == ["diffusers", "AutoencoderKL"]
    loaded = PictureDiffusionPipeline.from_pretrained(tmp_path)
    by_name = DiffusionPipeline.from_pretrained(tmp_path)

    def drawn(each):
        latents = []
        options = {"num_images_per_prompt": 3, "num_inference_steps": 2}
        samples = each(
            output_type="pt",
            callback_on_step_end=lambda *given: latents.append(given[3]["sample"]),
            generator=seeded(1),
            **options,
        ).images
        torch.testing.assert_close(samples, codec.to_pixels(latents[-1]).clamp(-1, 1))
        images = np.stack(each(generator=seeded(1), **options).images)
        assert np.array_equal(images, np.stack(PICTURES.decode(samples)))
        return samples

    # The last bits of sums may differ, by which a colour between two is rounded up or down.
    for other in (loaded, by_name):
        torch.testing.assert_close(drawn(pipeline), drawn(other), atol=1e-4, rtol=0)
    (tmp_path / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with refused("other formats can run code", RunFolderError):
        PictureDiffusionPipeline.from_pretrained(tmp_path)


def test_files_with_the_former_names_of_attention_are_read_too(folder, tmp_path):
    vae = read_vae(folder)
    former = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(folder / "diffusion_pytorch_model.safetensors")
    for new, old in former.items():
        tensors = {name.replace(f".{new}.", f".{old}."): value for name, value in tensors.items()}
    save_file(tensors, tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    assert_same_state(read_vae(tmp_path), vae)


def test_a_folder_of_no_autoencoder_is_refused(folder, tmp_path):
    autoencoder().save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    as_saved = config.read_text()
    for now, then, message in (
        (as_saved, "{}", "is of class None, not AutoencoderKL; give a folder of diffusers"),
        ('"latent_channels": 2', '"latent_channels": 3', "are not those"),
        ('"latent_channels": 2', '"latent_channels": 2e9', "out of range"),
        ('"DownEncoder', '"Unknown', "is no AutoencoderKL"),
        ('"layers_per_block": 1', '"layers_per_block": 9999999', "speaks of 9,999,999 layers and"),
    ):
        config.write_text(as_saved.replace(now, then))
        with refused(message, RunFolderError):
            read_vae(tmp_path)
    with refused("No such file", RunFolderError):
        read_vae(tmp_path / "missing")


def test_an_autoencoder_of_other_pictures_is_refused():
    with refused("takes 3 channels and pictures of mode L have 1; choose another mode"):
        LatentCodec(PictureCodec(size=16, mode="L"), autoencoder())
    with refused("one latent of 2 x 2 pixels, which do not divide pictures of 15"):
        LatentCodec(PictureCodec(size=15), autoencoder())
