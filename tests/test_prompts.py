"""Prompts, text encoders trained along, and the pipeline that draws what is asked."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers import assert_same_state, randn, refused, seeded
from kan_diffusion import TrainingConfig, build_denoiser, get_process, make_scheduler, train
from kan_diffusion.errors import RunFolderError
from kan_diffusion.picture_pipeline import PictureDiffusionPipeline
from kan_diffusion.text import (
    PromptedDenoiser,
    embed,
    make_text_encoder,
    make_tokenizer,
    read_text_encoder,
    tokenize,
    unknown_words,
)
from picture_networks import save_clip

CAPTIONS = ("a bright picture", "a dark picture", "Dark, it is")
SHAPE = 1, 4, 4
SETTINGS = {"width": 8, "heads": 2, "text_width": 8}


def _parts() -> tuple:
    tokenizer = make_tokenizer(CAPTIONS)
    encoder = make_text_encoder(tokenizer, width=8, depth=1, heads=2, generator=seeded(1))
    options = {"num_train_timesteps": 1000, "hidden": (8,), "settings": SETTINGS}
    denoiser = build_denoiser("dit-kan", SHAPE, generator=seeded(2), **options)
    return denoiser, encoder, tokenizer


def _train(frozen: bool = False, steps: int = 250, **options: object):
    """Bright and dark pictures, told apart by their captions alone."""
    denoiser, encoder, tokenizer = _parts()
    joint = PromptedDenoiser(denoiser, encoder, tokenizer, frozen=frozen)
    brightness = torch.tensor([0.7, -0.7]).repeat(50)
    samples = brightness[:, None, None, None] + 0.1 * randn(100, *SHAPE, dtype=torch.float32)
    tokens = tokenize(tokenizer, [CAPTIONS[i % 2] for i in range(100)])
    config = TrainingConfig(
        steps=steps, batch_size=32, learning_rate=1e-2, ema_decay=0.98, checkpoint_every=3
    )
    process = get_process("flow")
    given = {"seed": 3, "device": "cpu", "conditions": {"input_ids": tokens}, **options}
    result = train(joint, process, samples, config, **given)
    scheduler = make_scheduler(None, process.scheduler())
    pipeline = PictureDiffusionPipeline(denoiser, scheduler, encoder.eval(), tokenizer, mode="L")
    return pipeline, result


@pytest.fixture(scope="module")
def trained() -> PictureDiffusionPipeline:
    return _train()[0]


def _means(pipeline: PictureDiffusionPipeline, *prompt: object, **options: object) -> Tensor:
    given = {"num_images_per_prompt": 16, "generator": seeded(4), "guidance_scale": 1.0, **options}
    samples = pipeline(*prompt, output_type="pt", **given).images
    return samples.mean((1, 2, 3))


def test_it_draws_what_is_asked_and_both_when_nothing_is(trained: PictureDiffusionPipeline) -> None:
    bright, dark = _means(trained, ["a bright picture", "a dark picture"]).split(16)
    assert (bright > 0.3).float().mean() > 0.9
    assert (dark < -0.3).float().mean() > 0.9
    for nothing in ("", None):
        means = _means(trained, nothing, num_images_per_prompt=64)
        assert 0.2 < (means > 0).float().mean() < 0.8
        assert means.abs().mean() > 0.2


def test_guidance_leads_away_from_the_negative_prompt(trained: PictureDiffusionPipeline) -> None:
    away = _means(trained, "", negative_prompt="a dark picture", guidance_scale=3.0)
    assert (away > 0.3).float().mean() > 0.9


def test_without_a_prompt_the_denoiser_is_called_once_a_step(
    trained: PictureDiffusionPipeline,
) -> None:
    calls: list[None] = []
    hook = trained.denoiser.register_forward_hook(lambda *_: calls.append(None))
    nothing = _means(trained, None, guidance_scale=None, num_inference_steps=4)
    without = len(calls)
    empty = _means(trained, "", guidance_scale=None, num_inference_steps=4)
    hook.remove()
    assert torch.equal(nothing, empty)
    assert len(calls) == 3 * without


def test_an_empty_prompt_is_none(trained: PictureDiffusionPipeline) -> None:
    options = {"guidance_scale": 3.0, "num_images_per_prompt": 3}
    said = _means(trained, "a dark picture", negative_prompt="", **options)
    assert torch.equal(said, _means(trained, "a dark picture", **options))


def test_pictures_are_those_of_the_samples(trained: PictureDiffusionPipeline) -> None:
    options = {"num_images_per_prompt": 2, "num_inference_steps": 4}
    pictures = trained("a dark picture", generator=seeded(1), **options).images
    samples = trained("a dark picture", generator=seeded(1), output_type="pt", **options).images
    levels = np.stack([np.array(picture) for picture in pictures])
    expected = ((samples[:, 0].double() + 1) * 127.5).round().numpy()
    assert np.array_equal(levels, expected)
    assert {picture.mode for picture in pictures} == {"L"}


def test_a_saved_pipeline_draws_the_same(trained: PictureDiffusionPipeline, tmp_path: Path) -> None:
    trained.save_pretrained(tmp_path)
    loaded = PictureDiffusionPipeline.from_pretrained(tmp_path)
    assert torch.equal(_means(loaded, "a dark picture"), _means(trained, "a dark picture"))
    assert loaded.flow
    config = tmp_path / "text_encoder" / "config.json"
    as_saved, weights = config.read_text(), tmp_path / "text_encoder" / "model.safetensors"

    def refuses(message: str) -> None:
        with refused(message, RunFolderError):
            PictureDiffusionPipeline.from_pretrained(tmp_path)

    # Neither is built before it is compared with the weights.
    config.write_text(as_saved.replace('"vocab_size": 11', '"vocab_size": 9000000'))
    refuses(
        r"weights in .* are not those of .*token_embedding.* \(11, 8\) there and \(9000000, 8\)"
    )
    config.write_text(as_saved.replace('"vocab_size": 11', '"vocab_size": 90000000000'))
    refuses("vocab_size = 90000000000 is out of range")
    config.write_text(as_saved)
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{}")
    refuses("the tokenizer in .* cannot be read")
    weights.write_bytes(b"no weights")
    refuses("model.safetensors' cannot be read")


class StoppedError(Exception):
    """Raised in the middle of a run."""


def test_a_folder_is_read_without_the_parts_of_an_older_pipeline(tmp_path: Path) -> None:
    denoiser, encoder, tokenizer = _parts()
    scheduler = make_scheduler(None, get_process("flow").scheduler())
    PictureDiffusionPipeline(denoiser, scheduler, encoder, tokenizer, "L").save_pretrained(tmp_path)
    plain = build_denoiser(
        "dit", SHAPE, num_train_timesteps=1000, hidden=(8,), settings={"width": 8, "heads": 2}
    )
    PictureDiffusionPipeline(plain, scheduler, mode="L").save_pretrained(tmp_path)
    loaded = PictureDiffusionPipeline.from_pretrained(tmp_path)
    assert loaded.text_encoder is None
    assert len(loaded(num_images_per_prompt=2, num_inference_steps=1).images) == 2


def test_training_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    def stop(*_: object) -> None:
        raise StoppedError

    kept = {"steps": 9, "checkpoint": tmp_path / "state.safetensors", "resume": True}
    whole = _train(steps=9)[0]
    with pytest.raises(StoppedError):
        _train(**kept, moments=[7], on_moment=stop)
    resumed, result = _train(**kept)
    assert result.resumed_from == 6
    for part in ("denoiser", "text_encoder"):
        for one, other in zip(
            getattr(whole, part).parameters(), getattr(resumed, part).parameters(), strict=True
        ):
            assert torch.equal(one, other)


def test_a_frozen_encoder_stays_as_it_is() -> None:
    pipeline, _ = _train(frozen=True, steps=3)
    _, fresh, _ = _parts()
    for one, other in zip(pipeline.text_encoder.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip"))


def test_a_pretrained_text_encoder_is_read_from_a_folder_of_clip_or_of_a_pipeline(
    clip: Path, tmp_path: Path
) -> None:
    from transformers import CLIPModel

    encoder, tokenizer = read_text_encoder(clip)
    tokens = tokenize(tokenizer, ["ab A b", ""])
    start, end = 5, 6
    assert tokens[0, :6].tolist() == [start, 4, 2, 3, end, end]
    assert tokens.shape == (2, 20)
    whole = CLIPModel.from_pretrained(clip).eval()
    with torch.no_grad():
        states = encoder(tokens).last_hidden_state
        assert torch.equal(states, whole.text_model(tokens).last_hidden_state)
    assert unknown_words(tokenizer, ["ab a", ""]) == []
    encoder.save_pretrained(tmp_path / "text_encoder")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    again, same = read_text_encoder(tmp_path, ["ab a"])
    with torch.no_grad():
        fewer = tokenize(same, ["ab A b", ""])
        assert torch.equal(fewer, tokens[:, : 4 + 8])
        shorter = again(fewer).last_hidden_state  # what is left of a word does not see the padding
        torch.testing.assert_close(shorter, states[:, : 4 + 8])


def test_padding_is_embedded_as_zeros_and_the_end_of_a_prompt_is_not(clip: Path) -> None:
    _, own, words = _parts()
    for encoder, tokenizer, prompts, lengths in (
        (own, words, ["a dark picture", "dark", ""], [5, 3, 2]),
        (*read_text_encoder(clip), ["ab A b", "ab", ""], [5, 3, 2]),  # pads are ends, too
    ):
        tokens = tokenize(tokenizer, prompts)
        with torch.no_grad():
            told, states = embed(encoder, tokenizer, tokens), encoder(tokens).last_hidden_state
        for one, state, length in zip(told, states, lengths, strict=True):
            assert torch.equal(one[:length], state[:length])
            assert not one[length:].any()


def test_a_pretrained_text_encoder_is_part_of_the_pipeline_and_is_not_trained(
    clip: Path, tmp_path: Path
) -> None:
    encoder, tokenizer = read_text_encoder(clip, ["ab a"])
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    options = {"num_train_timesteps": 1000, "hidden": (8,), "settings": SETTINGS}
    denoiser = build_denoiser("dit-kan", SHAPE, generator=seeded(2), **options)
    joint = PromptedDenoiser(denoiser, encoder, tokenizer, frozen=True)
    config = TrainingConfig(steps=3, batch_size=4)
    tokens = tokenize(tokenizer, ["a", "b", "ab", ""])
    process, samples = get_process("flow"), randn(4, *SHAPE, dtype=torch.float32)
    conditions = {"input_ids": tokens}
    train(joint, process, samples, config, seed=0, conditions=conditions, device="cpu")
    assert_same_state(encoder, before)
    joint.train()
    assert not encoder.training
    scheduler = make_scheduler(None, process.scheduler())
    pipeline = PictureDiffusionPipeline(denoiser, scheduler, encoder, tokenizer, mode="L")
    pipeline.save_pretrained(tmp_path)
    loaded = PictureDiffusionPipeline.from_pretrained(tmp_path)
    assert torch.equal(_means(loaded, "ab"), _means(pipeline, "ab"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "No such file or directory.; give a folder of CLIP"),
        (lambda folder: (folder / "vocab.json").unlink(), "holds no tokenizer .* beside its text"),
        (lambda folder: (folder / "vocab.json").write_text("{}"), "the tokenizer in .* cannot be"),
        (lambda folder: (folder / "model.safetensors").unlink(), "other formats can run code"),
        (
            lambda folder: (folder / "config.json").write_text('{"model_type": "t5"}'),
            "is of no CLIP text model; give a folder of CLIP, or one with",
        ),
        (
            lambda folder: (folder / "config.json").write_text('{"model_type": "clip"}'),
            "is of no CLIP text model",
        ),
    ],
)
def test_a_folder_of_no_text_encoder_is_refused(
    damage: Callable[[Path], object], message: str, clip: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(clip, tmp_path / "clip")
    damage(folder)
    with refused(message, RunFolderError):
        read_text_encoder(folder)


def test_words_are_told_apart_whatever_their_case_and_commas() -> None:
    tokenizer = make_tokenizer(CAPTIONS)
    assert sorted(tokenizer.get_vocab()) == sorted(
        [
            "<pad>",
            "<unknown>",
            "<start>",
            "<end>",
            "a",
            "bright",
            "picture",
            "dark",
            ",",
            "it",
            "is",
        ]
    )
    wordings = ["A DARK picture", "a dark  picture", "a dark, picture"]
    one, same, other = tokenize(tokenizer, wordings)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert tokenizer.decode(one, skip_special_tokens=True) == "a dark picture"


def test_every_word_of_a_caption_is_known() -> None:
    words = [f"word{index}" for index in range(30_100)]
    tokenizer = make_tokenizer([" ".join(words[:15_050]), " ".join(words[15_050:])])
    assert tokenizer.get_vocab().keys() > set(words)


def test_unknown_words_are_said_with_the_nearest_known() -> None:
    tokenizer = make_tokenizer(CAPTIONS)
    said = unknown_words(tokenizer, ["a Drak picture", "a dark xylophone", "drak, a bright"])
    assert said == [
        "'Drak' was never seen; nearest known: dark",
        "'xylophone' was never seen; no known word is near",
        "'drak' was never seen; nearest known: dark",
    ]
    assert unknown_words(tokenizer, ["", *CAPTIONS]) == []


def test_what_cannot_be_asked_is_refused(trained: PictureDiffusionPipeline) -> None:
    with refused("has 32 tokens and 14 fit; say it in fewer words"):
        trained("dark " * 30)
    with refused("trained without classes"):
        trained(class_labels=0)
    with refused("one for each of 2 prompts, not 3"):
        trained(["a", "b"], negative_prompt=["a", "b", "c"])
    with refused("prompt is a list of none; give one prompt or more"):
        trained([])
    with refused("and no prompt is given; leave guidance out or give one"):
        trained(guidance_scale=2.0)
    with refused("ask with a prompt or with class_labels, not with both"):
        trained(class_labels=0, negative_prompt="dark")
    with refused("output_type must be"):
        trained("a", output_type="latent")
    with refused("at least 1, not 0"):
        trained("a", num_images_per_prompt=0)
    denoiser, encoder, tokenizer = _parts()
    scheduler = make_scheduler(None, get_process("flow").scheduler())
    with refused("makes 14 of 11; give the two that belong together"):
        short = make_text_encoder(make_tokenizer(["a"]), width=8, heads=2)
        PromptedDenoiser(denoiser, short, tokenizer)
    wide = make_text_encoder(tokenizer, width=16, depth=1, heads=2)
    with refused("takes prompts of width 8, not of the text encoder's 16"):
        PictureDiffusionPipeline(denoiser, scheduler, wide, tokenizer, mode="L")
    with refused("together with its tokenizer"):
        PictureDiffusionPipeline(denoiser, scheduler, encoder, mode="L")
    with refused("of mode RGB are samples of shape .3, 4, 4."):
        PictureDiffusionPipeline(denoiser, scheduler, encoder, tokenizer)
    plain = PictureDiffusionPipeline(
        build_denoiser("dit", SHAPE, num_train_timesteps=1000, hidden=(8,)), scheduler, mode="L"
    )
    with refused("trained without text"):
        plain("a dark picture")
    with refused("takes prompts of width 0"):
        PromptedDenoiser(plain.denoiser, encoder, tokenizer)
    with refused(r"input_ids must have shape \(B, 14\), not \(2, 4\)"):
        PromptedDenoiser(denoiser, encoder, tokenizer).require_conditions(
            {"input_ids": torch.zeros(2, 4).long()}, 2
        )


def test_classes_are_asked_by_name_or_number() -> None:
    options = {"num_train_timesteps": 1000, "hidden": (8,), "num_classes": 2}
    settings = {"width": 8, "heads": 2}
    denoiser = build_denoiser("dit", SHAPE, settings=settings, generator=seeded(0), **options)
    scheduler = make_scheduler(None, get_process("cosine").scheduler())
    pipeline = PictureDiffusionPipeline(denoiser, scheduler, mode="L", classes=("cat", "dog"))
    for names in ((), ("cat",), ("cat", "dog", "cow")):
        with refused(f"has 2 classes, and {len(names)} are named; give a name for each"):
            PictureDiffusionPipeline(denoiser, scheduler, mode="L", classes=names)

    def drawn(asked: object, scale: float = 3.0) -> Tensor:
        given = {"class_labels": asked, "generator": seeded(1), "guidance_scale": scale}
        return pipeline(output_type="pt", num_inference_steps=3, **given).images

    assert torch.equal(drawn("dog"), drawn(1))
    assert torch.equal(drawn(["cat", 1]), drawn([0, "dog"]))
    assert not torch.allclose(drawn("dog"), drawn("dog", 1.0))
    with refused("class 'cow' is unknown; known: cat, dog"):
        drawn("cow")
    with refused("class 2 is unknown"):
        drawn(2)
