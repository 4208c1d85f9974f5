"""Trains a small denoiser of pictures with prompts, for one process or several to run alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from kan_diffusion import (
    PromptedDenoiser,
    TrainingConfig,
    build_denoiser,
    get_process,
    make_text_encoder,
    make_tokenizer,
    tokenize,
    train,
)
from kan_diffusion.ranks import leads
from kan_diffusion.training import TrainingResult

CAPTIONS = ("a bright picture", "a dark picture")
STEPS, KEPT = 6, 4


def trained(**options: object) -> tuple[PromptedDenoiser, TrainingResult]:
    """A fresh denoiser trained for a few steps on batches that no two or four processes halve."""
    given = {"checkpoint": options.pop("checkpoint", None), "resume": options.pop("resume", False)}
    tokenizer = make_tokenizer(CAPTIONS)
    generator = torch.Generator().manual_seed(0)
    encoder = make_text_encoder(tokenizer, width=8, depth=1, heads=2, generator=generator)
    denoiser = build_denoiser(
        "dit-kan",
        (1, 4, 4),
        num_train_timesteps=1000,
        hidden=(8,),
        settings={"width": 8, "heads": 2, "text_width": 8},
        generator=generator,
    )
    model = PromptedDenoiser(denoiser, encoder, tokenizer)
    brightness = torch.tensor([0.7, -0.7]).repeat(25)[:, None, None, None]
    samples = brightness + 0.1 * torch.randn(50, 1, 4, 4, generator=generator)
    config = TrainingConfig(
        steps=STEPS, batch_size=15, warmup_steps=2, checkpoint_every=KEPT, **options
    )
    prompts = {"input_ids": tokenize(tokenizer, [CAPTIONS[i % 2] for i in range(50)])}
    result = train(
        model,
        get_process("flow"),
        samples,
        config,
        seed=3,
        conditions=prompts,
        device="cpu",
        **given,
    )
    return model, result


def run(folder: Path, **options: object) -> None:
    """Trains in each precision and once more from a checkpoint; the first process writes it all."""
    kept = folder / "state.safetensors"
    made: dict[str, Tensor] = {}
    for name, more in {
        "whole": {"checkpoint": kept},
        "resumed": {"checkpoint": kept, "resume": True},
        "bf16": {"mixed_precision": "bf16"},
    }.items():
        model, result = trained(**options, **more)
        made |= {f"{name}.{key}": value for key, value in model.state_dict().items()}
        made[f"{name}.losses"] = torch.from_numpy(np.array(result.losses))
        made[f"{name}.from"] = torch.tensor(result.resumed_from)
    if leads():
        save_file({name: value.contiguous() for name, value in made.items()}, folder / "made.st")
