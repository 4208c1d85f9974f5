"""Autoencoders and text encoders that are read from folders, as parts of a pipeline."""

import pytest
import torch

from helpers import randn, seeded
from kan_diffusion import (
    LatentCodec,
    PictureCodec,
    PictureDiffusionPipeline,
    build_denoiser,
    get_process,
    read_vae,
)
from kan_diffusion.pictures.prompts import read_text_encoder
from picture_networks import autoencoder, save_clip

FLOW = get_process("flow")


def _denoiser(shape, **settings):
    settings = {"width": 8, "heads": 2, **settings}
    options = {"num_train_timesteps": 1000, "hidden": (8,), "generator": seeded(0)}
    return build_denoiser("dit-kan", shape, settings=settings, **options)


def _latents(folder):
    autoencoder().save_pretrained(folder)
    codec = LatentCodec(PictureCodec(size=16), read_vae(folder))
    pixels = randn(20, 3, 16, 16, dtype=torch.float32).clamp(-1, 1)
    latents = codec.from_pixels(pixels)
    assert latents.shape == (20, *codec.shape) == (20, 2, 8, 8)
    with torch.no_grad():
        means = codec.vae.encode(pixels).latent_dist.mode()
        torch.testing.assert_close(latents, 0.4 * (means - 0.3))
        torch.testing.assert_close(codec.to_pixels(latents), codec.vae.decode(means).sample)
    return PictureDiffusionPipeline(_denoiser(codec.shape), FLOW, vae=codec.vae), ()


def _prompts(folder):
    encoder, tokenizer = read_text_encoder(save_clip(folder), ["ab a"])
    denoiser = _denoiser((1, 4, 4), text_width=8)
    return PictureDiffusionPipeline(denoiser, FLOW, encoder, tokenizer, mode="L"), ("ab",)


@pytest.mark.parametrize("make", [_latents, _prompts])
def test_a_pipeline_with_a_pretrained_part_draws_the_same_when_it_is_read(make, tmp_path):
    pipeline, asked = make(tmp_path / "part")
    pipeline.save_pretrained(tmp_path / "pipeline")
    loaded = PictureDiffusionPipeline.from_pretrained(tmp_path / "pipeline")
    options = {"output_type": "pt", "num_inference_steps": 2}
    ours, theirs = (
        each(*asked, generator=seeded(1), **options).images for each in (pipeline, loaded)
    )
    # Weights from a file lie at other addresses, which may change the order of a sum.
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
