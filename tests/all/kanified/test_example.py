"""The example does what it says, on a model of Stable Diffusion's shape made small."""

import runpy
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline

from helpers import randn, seeded
from kan_diffusion.kanified import load_kanified
from picture_networks import change, unet

EXAMPLE = Path(__file__).parents[3] / "examples" / "kanify.py"
OTHERS = ("text_encoder", "tokenizer", "safety_checker", "feature_extractor")


def latents(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    prompt, nothing = randn(2, 1, 5, 16).float()
    drawn = pipeline(
        prompt_embeds=prompt,
        negative_prompt_embeds=nothing,
        num_inference_steps=4,
        guidance_scale=3.0,
        generator=seeded(),
        output_type="latent",
    )
    return drawn.images


def test_a_pipeline_of_the_example_draws_what_it_drew(tmp_path, monkeypatch, capsys):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain = StableDiffusionPipeline(
            vae=AutoencoderKL(block_out_channels=(8,), norm_num_groups=8, latent_channels=4),
            unet=unet()[0],
            scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
            requires_safety_checker=False,
            **dict.fromkeys(OTHERS),
        )
    plain.save_pretrained(tmp_path / "plain")
    before = latents(plain)
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), str(tmp_path / "plain"), str(tmp_path / "kan")])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert "down_blocks.0.attentions.0.transformer_blocks.0.ff" in capsys.readouterr().out
    network = load_kanified(tmp_path / "kan")
    parts = {"unet": network, **dict.fromkeys(OTHERS)}
    read = StableDiffusionPipeline.from_pretrained(tmp_path / "plain", **parts)
    assert 0 < change(before, latents(read)) < 1e-3
