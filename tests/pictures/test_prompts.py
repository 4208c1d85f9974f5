import numpy as np
import pytest
import torch

from helpers import assert_same_state, randn, refused, seeded
from kan_diffusion import TrainingConfig, build_denoiser, get_process, train
from kan_diffusion.errors import RunFolderError
from kan_diffusion.pictures.pipeline import PictureDiffusionPipeline
from kan_diffusion.pictures.prompts import (
    PromptedDenoiser,
    embed,
    make_text_encoder,
    make_tokenizer,
    tokenize,
    unknown_words,
)

CAPTIONS = ("a bright picture", "a dark picture", "Dark, it is")
SHAPE = 1, 4, 4
SETTINGS = {"width": 8, "heads": 2}
FLOW = get_process("flow")


def _denoiser(family="dit-kan", shape=SHAPE, **options):
    given = {"num_train_timesteps": 1000, "hidden": (8,), "settings": SETTINGS, **options}
    return build_denoiser(family, shape, generator=seeded(2), **given)


def _parts():
    tokenizer = make_tokenizer(CAPTIONS)
    encoder = make_text_encoder(tokenizer, width=8, depth=1, heads=2, generator=seeded(1))
    return _denoiser(settings={**SETTINGS, "text_width": 8}), encoder, tokenizer


def _pipeline(denoiser, encoder, tokenizer):
    return PictureDiffusionPipeline(denoiser, FLOW, encoder.eval(), tokenizer, mode="L")


@pytest.fixture(scope="module")
def untrained():
    """A pipeline with no parameter at a special value."""
    parts = _parts()
    for part in parts[:2]:
        for number, parameter in enumerate(part.parameters()):
            parameter.detach().add_(0.2 * randn(*parameter.shape, seed=number))
    return _pipeline(*parts)


def _train(steps, **options):
    """Parts trained on bright and dark pictures, which their captions alone tell apart."""
    denoiser, encoder, tokenizer = parts = _parts()
    brightness = torch.tensor([0.7, -0.7]).repeat(50)
    samples = brightness[:, None, None, None] + 0.1 * randn(100, *SHAPE, dtype=torch.float32)
    prompts = {"input_ids": tokenize(tokenizer, [CAPTIONS[i % 2] for i in range(100)])}
    rates = {"learning_rate": 1e-2, "ema_decay": 0.98, "checkpoint_every": 3}
    config = TrainingConfig(steps=steps, batch_size=32, **rates)
    joint = PromptedDenoiser(denoiser, encoder, tokenizer)
    given = {"seed": 3, "conditions": prompts, "device": "cpu", **options}
    return parts, train(joint, FLOW, samples, config, **given)


def _means(pipeline, *prompt, **options):
    given = {"num_images_per_prompt": 16, "generator": seeded(4), "guidance_scale": 1.0, **options}
    samples = pipeline(*prompt, output_type="pt", **given).images
    return samples.mean((1, 2, 3))


def test_it_draws_what_is_asked_both_when_nothing_is_and_nothing_of_the_negative_prompt():
    trained = _pipeline(*_train(250)[0])
    bright, dark = _means(trained, ["a bright picture", "a dark picture"]).split(16)
    assert (bright > 0.3).float().mean() > 0.9
    assert (dark < -0.3).float().mean() > 0.9
    for nothing in ("", None):
        means = _means(trained, nothing, num_images_per_prompt=64)
        assert 0.2 < (means > 0).float().mean() < 0.8
        assert means.abs().mean() > 0.2
    away = _means(trained, "", negative_prompt="a dark picture", guidance_scale=3.0)
    assert (away > 0.3).float().mean() > 0.9


def test_an_empty_prompt_is_none_and_the_denoiser_is_called_once_a_step(untrained):
    calls = []
    hook = untrained.denoiser.register_forward_hook(lambda *_: calls.append(None))
    nothing = _means(untrained, None, guidance_scale=None, num_inference_steps=4)
    without = len(calls)
    empty = _means(untrained, "", guidance_scale=None, num_inference_steps=4)
    hook.remove()
    assert torch.equal(nothing, empty)
    assert len(calls) == 3 * without
    options = {"guidance_scale": 3.0, "num_images_per_prompt": 3}
    said = _means(untrained, "a dark picture", negative_prompt="", **options)
    assert torch.equal(said, _means(untrained, "a dark picture", **options))
    assert not torch.equal(said, _means(untrained, "", **options))


def test_pictures_are_those_of_the_samples(untrained):
    options = {"num_images_per_prompt": 2, "num_inference_steps": 4}
    pictures = untrained("a dark picture", generator=seeded(1), **options).images
    samples = untrained("a dark picture", generator=seeded(1), output_type="pt", **options).images
    levels = np.stack([np.array(picture) for picture in pictures])
    expected = ((samples[:, 0].double() + 1) * 127.5).round().numpy()
    assert np.array_equal(levels, expected)
    assert {picture.mode for picture in pictures} == {"L"}


def test_a_saved_pipeline_draws_the_same(untrained, tmp_path):
    untrained.save_pretrained(tmp_path)
    loaded = PictureDiffusionPipeline.from_pretrained(tmp_path)
    assert torch.equal(_means(loaded, "a dark picture"), _means(untrained, "a dark picture"))
    assert loaded.process == FLOW
    config = tmp_path / "text_encoder" / "config.json"
    as_saved, size = config.read_text(), '"vocab_size": 11'
    # Neither is built before it is compared with the weights.
    for path, content, message in (
        (
            config,
            as_saved.replace(size, '"vocab_size": 9000000'),
            r"not those of .*token_embedding.* \(11, 8\) there and \(9000000, 8\)",
        ),
        (
            config,
            as_saved.replace(size, '"vocab_size": 90000000000'),
            "vocab_size = 90000000000 is out of range",
        ),
        (tmp_path / "tokenizer" / "tokenizer.json", "{}", "the tokenizer in .* cannot be read"),
        (config.with_name("model.safetensors"), "no weights", "model.safetensors' cannot be read"),
    ):
        path.write_text(content)
        with refused(message, RunFolderError):
            PictureDiffusionPipeline.from_pretrained(tmp_path)
        config.write_text(as_saved)


def test_training_of_both_parts_goes_on_to_the_same_bits(tmp_path):
    def stop(*_):
        raise RuntimeError

    kept = {"checkpoint": tmp_path / "state.safetensors", "resume": True}
    with pytest.raises(RuntimeError):
        _train(9, moments=[7], on_moment=stop, **kept)
    resumed, result = _train(9, **kept)
    assert result.resumed_from == 6
    for one, other in zip(resumed[:2], _train(9)[0], strict=False):
        assert_same_state(one, other)


def test_padding_is_embedded_as_zeros_and_the_end_of_a_prompt_is_not():
    _, encoder, tokenizer = _parts()
    tokens = tokenize(tokenizer, ["a dark picture", "dark", ""])
    with torch.no_grad():
        told, states = embed(encoder, tokenizer, tokens), encoder(tokens).last_hidden_state
    for one, state, length in zip(told, states, (5, 3, 2), strict=True):
        assert torch.equal(one[:length], state[:length])
        assert not one[length:].any()


def test_every_word_is_known_and_told_apart_whatever_its_case_and_commas():
    tokenizer = make_tokenizer(CAPTIONS)
    special = {"<pad>", "<unknown>", "<start>", "<end>"}
    words = {"a", "bright", "picture", "dark", ",", "it", "is"}
    assert tokenizer.get_vocab().keys() == special | words
    wordings = ["A DARK picture", "a dark  picture", "a dark, picture"]
    one, same, other = tokenize(tokenizer, wordings)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert tokenizer.decode(one, skip_special_tokens=True) == "a dark picture"
    many = [f"word{index}" for index in range(30_100)]
    assert make_tokenizer([" ".join(many), "a"]).get_vocab().keys() > set(many)


def test_unknown_words_are_said_with_the_nearest_known():
    tokenizer = make_tokenizer(CAPTIONS)
    said = unknown_words(tokenizer, ["a Drak picture", "a dark xylophone", "drak, a bright"])
    assert said == [
        "'Drak' was never seen; nearest known: dark",
        "'xylophone' was never seen; no known word is near",
        "'drak' was never seen; nearest known: dark",
    ]
    assert unknown_words(tokenizer, ["", *CAPTIONS]) == []


def test_what_cannot_be_asked_is_refused(untrained):
    for prompt, options, message in (
        (("dark " * 30,), {}, "has 32 tokens and 14 fit; say it in fewer words"),
        ((), {"class_labels": 0}, "trained without classes"),
        ((["a", "b"],), {"negative_prompt": ["a"] * 3}, "one for each of 2 prompts, not 3"),
        (([],), {}, "prompt is a list of none; give one prompt or more"),
        ((), {"guidance_scale": 2.0}, "and no prompt is given; leave guidance out or give one"),
        (
            (),
            {"class_labels": 0, "negative_prompt": "dark"},
            "ask with a prompt or with class_labels, not with both",
        ),
        (("a",), {"output_type": "latent"}, "output_type must be"),
        (("a",), {"num_images_per_prompt": 0}, "at least 1, not 0"),
    ):
        with refused(message):
            untrained(*prompt, **options)
    plain = PictureDiffusionPipeline(_denoiser("dit"), FLOW, mode="L")
    with refused("trained without text"):
        plain("a dark picture")


def test_parts_that_do_not_belong_together_are_refused():
    denoiser, encoder, tokenizer = _parts()
    short = make_text_encoder(make_tokenizer(["a"]), width=8, heads=2)
    wide = make_text_encoder(tokenizer, width=16, depth=1, heads=2)
    joint = PromptedDenoiser(denoiser, encoder, tokenizer)
    wrong = {"input_ids": torch.zeros(2, 4).long()}
    for make, message in (
        (lambda: PromptedDenoiser(denoiser, short, tokenizer), "makes 14 of 11; give the two that"),
        (
            lambda: PromptedDenoiser(_denoiser("dit"), encoder, tokenizer),
            "takes prompts of width 0",
        ),
        (lambda: joint.require_conditions(wrong, 2), r"must have shape \(B, 14\), not \(2, 4\)"),
        (lambda: _pipeline(denoiser, wide, tokenizer), "of width 8, not of the text encoder's 16"),
        (
            lambda: PictureDiffusionPipeline(denoiser, FLOW, encoder, mode="L"),
            "together with its tokenizer",
        ),
        (
            lambda: PictureDiffusionPipeline(denoiser, FLOW, encoder, tokenizer),
            "of mode RGB are samples of shape .3, 4, 4.",
        ),
    ):
        with refused(message):
            make()


def test_classes_are_asked_by_name_or_number():
    denoiser = _denoiser("dit", settings={"num_classes": 2})
    process = get_process("cosine")
    pipeline = PictureDiffusionPipeline(denoiser, process, mode="L", classes=("cat", "dog"))
    for names in ((), ("cat",), ("cat", "dog", "cow")):
        with refused(f"has 2 classes, and {len(names)} are named; give a name for each"):
            PictureDiffusionPipeline(denoiser, process, mode="L", classes=names)

    def drawn(asked, scale=3.0):
        given = {"class_labels": asked, "generator": seeded(1), "guidance_scale": scale}
        return pipeline(output_type="pt", num_inference_steps=3, **given).images

    assert torch.equal(drawn("dog"), drawn(1))
    assert torch.equal(drawn(["cat", 1]), drawn([0, "dog"]))
    assert not torch.allclose(drawn("dog"), drawn("dog", 1.0))
    with refused("class 'cow' is unknown; known: cat, dog"):
        drawn("cow")
    with refused("class 2 is unknown"):
        drawn(2)
