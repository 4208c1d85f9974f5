"""The example does what it says, on a model of Stable Diffusion's shape made small."""

import runpy
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from helpers import seeded
from kan_diffusion.kanified import load_kanified
from picture_networks import change, unet

EXAMPLE = Path(__file__).parents[3] / "examples" / "kanify.py"


def small_pipeline():
    words = ["<|startoftext|>", "<|endoftext|>"]
    letters = [chr(ord("a") + i) + end for end in ("", "</w>") for i in range(26)]
    vocabulary = {word: place for place, word in enumerate([*letters, *words])}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=16)
    text = CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=len(letters),
        eos_token_id=len(letters) + 1,
        pad_token_id=len(letters) + 1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return StableDiffusionPipeline(
            vae=AutoencoderKL(block_out_channels=(8,), norm_num_groups=8, latent_channels=4),
            text_encoder=CLIPTextModel(text),
            tokenizer=tokenizer,
            unet=unet()[0],
            scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


def latents(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    drawn = pipeline(
        "a small red circle",
        num_inference_steps=4,
        guidance_scale=3.0,
        generator=seeded(),
        output_type="latent",
    )
    return drawn.images


def test_a_pipeline_of_the_example_draws_what_it_drew(tmp_path, monkeypatch, capsys):
    plain = small_pipeline()
    plain.save_pretrained(tmp_path / "plain")
    before = latents(plain)
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), str(tmp_path / "plain"), str(tmp_path / "kan")])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert "down_blocks.0.attentions.0.transformer_blocks.0.ff" in capsys.readouterr().out
    network = load_kanified(tmp_path / "kan")
    read = StableDiffusionPipeline.from_pretrained(tmp_path / "plain", unet=network)
    assert 0 < change(before, latents(read)) < 1e-3
