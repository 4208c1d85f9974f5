"""Trains denoisers of pictures from nothing, draws what prompts ask for, and judges it.

    python benchmarks/pictures.py digits
    python benchmarks/pictures.py shapes --families dit dit-kan dit-full-kan --seeds 3

Each family is trained by flow matching with a text encoder of its own, at equally many parameters,
steps and batches; all families of a seed see the same batches and draw from the same noise. What is
finished is in ``results/pictures/runs.jsonl`` and not run again; contact sheets lie beside it.
Seconds are processor time of one thread, so that other programs on the machine count little.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from PIL import Image

from kan_diffusion import (
    PictureDiffusionPipeline,
    PromptedDenoiser,
    TrainingConfig,
    build_denoiser,
    get_process,
    load_dataset,
    make_scheduler,
    make_text_encoder,
    make_tokenizer,
    score_scenes,
    tokenize,
    train,
)
from kan_diffusion.data.pictures import Dataset
from kan_diffusion.data.shapes import caption, draw_scenes
from kan_diffusion.evaluation.reading import ClassJudge
from kan_diffusion.files import whole_file, write_text
from kan_diffusion.randomness import numpy_generator, stream_seed, torch_generator
from kan_diffusion.report.images import contact_sheet

DRAWN = 500
"""Pictures that are judged, of each kind of prompts."""

SHOWN = 10
"""Prompts of a contact sheet."""


@dataclass(frozen=True)
class Recipe:
    """How a data set is trained on.

    Attributes:
        params: Parameters of a denoiser, its text encoder left out.
        steps: Training steps.
        batch_size: Pictures a step.
        learning_rate: Peak learning rate.
        guidance: Strengths of guidance that are judged.
    """

    params: int
    steps: int
    batch_size: int
    learning_rate: float
    guidance: tuple[float, ...]


RECIPES = {
    "digits": Recipe(250_000, 1000, 64, 3e-3, (1.0, 2.0)),
    "shapes": Recipe(320_000, 6000, 32, 3e-3, (2.0, 4.0)),
}


def trained(
    data: Dataset, family: str, seed: int, recipe: Recipe
) -> tuple[PictureDiffusionPipeline, dict[str, object]]:
    """A pipeline trained on prompts, and what its training took."""
    assert data.captions is not None
    tokenizer = make_tokenizer(data.captions)
    encoder = make_text_encoder(tokenizer, generator=torch_generator("text", seed))
    process = get_process("flow")
    denoiser = build_denoiser(
        family,
        data.codec.shape,
        num_train_timesteps=process.num_timesteps,
        params=recipe.params,
        settings={"text_width": encoder.config.hidden_size},
        generator=torch_generator("parameters", seed),
    )
    model = PromptedDenoiser(denoiser, encoder, tokenizer)
    config = TrainingConfig(
        steps=recipe.steps,
        batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        timesteps="logit-normal",
        warmup_steps=50,
        ema_decay=0.998,
    )
    result = train(
        model,
        process,
        data.train,
        config,
        seed=stream_seed("training", seed),
        conditions={"input_ids": tokenize(tokenizer, data.captions)},
        device="cpu",
    )
    pipeline = PictureDiffusionPipeline(
        denoiser.eval(),
        make_scheduler(None, process.scheduler()),
        encoder.eval(),
        tokenizer,
        mode=data.codec.mode,
    )
    took = {
        "parameters": denoiser.num_trainable,
        "with text": model.num_trainable,
        "cpu_seconds": result.cpu_seconds,
        "loss": float(result.losses[-len(result.losses) // 10 :].mean()),
    }
    return pipeline, took


def drawn(pipeline: PictureDiffusionPipeline, prompts: list[str], guidance: float) -> torch.Tensor:
    """Samples of prompts, from the same noise for all models."""
    samples = pipeline(
        prompts, guidance_scale=guidance, generator=torch_generator("drawn"), output_type="pt"
    ).images
    assert isinstance(samples, torch.Tensor)
    return samples


def judged(data: Dataset, pipeline: PictureDiffusionPipeline, guidance: float) -> dict[str, object]:
    """How far pictures are as asked."""
    if data.has_oracle:
        scores = {}
        for which in ("seen", "held-out"):
            scenes = draw_scenes(DRAWN, numpy_generator("judged", which), 1, which)
            prompts = [caption(scene) for scene in scenes]
            scores[which] = asdict(score_scenes(drawn(pipeline, prompts, guidance), prompts, 1))
        return scores
    assert data.class_labels is not None
    assert data.heldout_class_labels is not None
    judge = ClassJudge.fit(data.train, data.class_labels, data.heldout, data.heldout_class_labels)
    labels = torch.arange(DRAWN) % len(data.classes)
    prompts = [f"a {data.classes[label]}" for label in labels.tolist()]
    return asdict(judge.score(drawn(pipeline, prompts, guidance), labels))


def sheet(data: Dataset, pipeline: PictureDiffusionPipeline, guidance: float) -> Image.Image:
    """A contact sheet: a column a prompt, four pictures each."""
    if data.has_oracle:
        scenes = draw_scenes(SHOWN, numpy_generator("shown"), 1, "held-out")
        prompts = [caption(scene) for scene in scenes]
    else:
        prompts = [f"a {name}" for name in data.classes[:SHOWN]]
    each = {"num_images_per_prompt": 4, "guidance_scale": guidance}
    pictures = pipeline(prompts, generator=torch_generator("shown"), **each).images
    return contact_sheet([pictures[row::4] for row in range(4)])


def main() -> None:
    """Trains and judges what is not yet in the file of results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", choices=RECIPES)
    parser.add_argument("--families", nargs="+", default=["dit", "dit-kan"])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, help="training steps, if not those of the recipe")
    parser.add_argument("--out", type=Path, default=Path("results/pictures"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    recipe = RECIPES[given.data]
    if given.steps:
        recipe = replace(recipe, steps=given.steps)
    path = given.out / "runs.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for seed in range(given.seeds):
        for family in given.families:
            key = {"data": given.data, "family": family, "seed": seed, **asdict(recipe)}
            key["guidance"] = list(recipe.guidance)
            if any(all(row.get(name) == value for name, value in key.items()) for row in rows):
                continue
            data = load_dataset(given.data, seed=seed)
            pipeline, took = trained(data, family, seed, recipe)
            scores = {f"{scale:g}": judged(data, pipeline, scale) for scale in recipe.guidance}
            rows.append({**key, **took, "scores": scores})
            write_text(path, "".join(f"{json.dumps(row)}\n" for row in rows))
            with whole_file(given.out / f"{given.data}-{family}.png") as temporary:
                sheet(data, pipeline, recipe.guidance[-1]).save(temporary, "PNG")
            print(json.dumps(rows[-1]), flush=True)


if __name__ == "__main__":
    main()
