import math

import pytest
import torch

from helpers import assert_same_state, randn, refused, seeded
from kan_diffusion import TrainingConfig, build_denoiser, get_process, train
from kan_diffusion.errors import RunFolderError
from kan_diffusion.pictures.codec import decode
from kan_diffusion.pictures.pipeline import PictureDiffusionPipeline
from kan_diffusion.pictures.prompts import Vocabulary
from kan_diffusion.training.callbacks import Snapshots

CAPTIONS = ("a bright picture", "a dark picture", "Dark, it is")
SHAPE = 1, 4, 4
KNOWN = Vocabulary.of(CAPTIONS)
FLOW = get_process("flow")


def _denoiser():
    settings = {"width": 16, "words": KNOWN.words, "prompt_length": KNOWN.length}
    given = {"num_train_timesteps": 1000, "hidden": (8,), "settings": settings}
    return build_denoiser("dit-kan", SHAPE, generator=seeded(2), **given)


@pytest.fixture(scope="module")
def untrained():
    """A pipeline with no parameter at a special value."""
    denoiser = _denoiser()
    for number, parameter in enumerate(denoiser.parameters()):
        parameter.detach().add_(0.2 * randn(*parameter.shape, seed=number))
    return PictureDiffusionPipeline(denoiser, FLOW)


def _train(steps, **options):
    """A denoiser trained on bright and dark pictures, which their captions alone tell apart."""
    denoiser = _denoiser()
    brightness = torch.tensor([0.7, -0.7]).repeat(50)
    samples = brightness[:, None, None, None] + 0.1 * randn(100, *SHAPE, dtype=torch.float32)
    prompts = {"input_ids": KNOWN.tokens([CAPTIONS[i % 2] for i in range(100)])}
    rates = {"learning_rate": 1e-2, "ema_decay": 0.98, "checkpoint_every": 3}
    config = TrainingConfig(steps=steps, batch_size=32, **rates)
    given = {"seed": 3, "conditions": prompts, "device": "cpu", **options}
    return denoiser, train(denoiser, FLOW, samples, config, **given)


def _means(pipeline, *prompt, **options):
    given = {"num_images_per_prompt": 16, "generator": seeded(4), "guidance_scale": 1.0, **options}
    samples = pipeline(*prompt, output_type="pt", **given).images
    return samples.mean((1, 2, 3))


def test_it_draws_what_is_asked_and_both_when_nothing_is():
    trained = PictureDiffusionPipeline(_train(250)[0], FLOW)
    bright, dark = _means(trained, ["a bright picture", "a dark picture"]).split(16)
    assert (bright > 0.3).float().mean() > 0.9
    assert (dark < -0.3).float().mean() > 0.9
    for nothing in ("", None):
        means = _means(trained, nothing, num_images_per_prompt=64)
        assert 0.2 < (means > 0).float().mean() < 0.8
        assert means.abs().mean() > 0.2


def test_an_empty_prompt_is_none_and_the_denoiser_is_called_once_a_step(untrained):
    calls = []
    hook = untrained.denoiser.register_forward_hook(lambda *_: calls.append(None))
    nothing = _means(untrained, None, guidance_scale=None, num_inference_steps=4)
    without = len(calls)
    empty = _means(untrained, "", guidance_scale=1.0, num_inference_steps=4)
    assert len(calls) == 2 * without
    _means(untrained, "dark", guidance_scale=None, num_inference_steps=4)
    hook.remove()
    assert len(calls) == 4 * without  # guided
    assert torch.equal(nothing, empty)


def test_pictures_are_those_of_the_samples(untrained):
    pictures, samples = (
        untrained("a dark picture", 4, generator=seeded(1), output_type=kind).images
        for kind in ("pil", "pt")
    )
    assert pictures == decode(samples)
    assert {picture.mode for picture in pictures} == {"L"}


def test_a_saved_pipeline_draws_the_same_and_knows_the_same_words(untrained, tmp_path):
    untrained.save_pretrained(tmp_path)
    loaded = PictureDiffusionPipeline.from_pretrained(tmp_path)
    assert torch.equal(_means(loaded, "a dark picture"), _means(untrained, "a dark picture"))
    assert (loaded.process, loaded.denoiser.vocabulary) == (FLOW, KNOWN)
    config = tmp_path / "denoiser" / "config.json"
    as_saved = config.read_text()
    # Nothing is built before it is compared with the weights.
    for old, new, message in (
        ("a dark picture ,", "a dark ,", r"token_embedding.* \(11, 64\) there and \(10, 64\)"),
        ('"prompt_length": 14', '"prompt_length": 90000000000', "90000000000 is out of range"),
    ):
        assert old in as_saved
        config.write_text(as_saved.replace(old, new))
        with refused(message, RunFolderError):
            PictureDiffusionPipeline.from_pretrained(tmp_path)


def test_training_with_prompts_goes_on_to_the_same_bits(tmp_path):
    def stop(*_):
        raise RuntimeError

    kept = {"checkpoint": tmp_path / "state.safetensors", "resume": True}
    with pytest.raises(RuntimeError):
        _train(9, callbacks=[Snapshots([7], stop)], **kept)
    resumed, result = _train(9, **kept)
    assert result.resumed_from == 6
    assert_same_state(resumed, _train(9)[0])


def test_words_are_known_whatever_their_case_and_others_are_said_with_the_nearest():
    assert KNOWN.words.split()[:4] == ["a", "dark", "picture", ","]  # the most frequent first
    assert {*KNOWN.words.split()} == {"a", "bright", "picture", "dark", ",", "it", "is"}
    wordings = ["A DARK picture", "a dark  picture", "ａ dark picture", "a dark, picture"]
    one, same, wide, other = KNOWN.tokens(wordings)
    assert torch.equal(one, same)
    assert torch.equal(one, wide)
    assert not torch.equal(one, other)
    # There is room for other captions, whose words are not learned.
    more = Vocabulary.of(["ab a"], ["ab " * 30, "b"])
    assert more.tokens(["ab " * 30]).shape == (1, 32)
    assert more.unknown(["b", "ab a"]) == ["'b' was never seen; nearest known: ab"]
    assert KNOWN.unknown(["a Drak picture", "a xylophone", "drak", *CAPTIONS]) == [
        "'drak' was never seen; nearest known: dark",
        "'xylophone' was never seen; no known word is near",
    ]


def test_what_cannot_be_asked_is_refused(untrained):
    for prompt, options, message in (
        ("dark " * 30, {}, "has 32 tokens and 14 fit; say it in fewer words"),
        ([], {}, "prompt is a list without a text"),
        (["a", None], {}, r"a text or a list of texts, not \['a', None\]"),
        (7, {}, "a text or a list of texts, not 7"),
        ("a", {"num_images_per_prompt": -1}, "num_images_per_prompt must be .* 1, not -1"),
        ("a", {"num_images_per_prompt": 2.5}, "num_images_per_prompt must be .* 1, not 2.5"),
        ("a", {"guidance_scale": math.nan}, "guidance_scale must be a finite number, not nan"),
        ("a", {"guidance_scale": "3"}, "guidance_scale must be a finite number, not '3'"),
        ("a", {"output_type": "jpg"}, "'pil' or 'pt', not 'jpg'"),
    ):
        with refused(message):
            untrained(prompt, **options)
    with refused("the prompt 'cat' has 3 tokens and 2 fit; give no prompt, since no picture"):
        Vocabulary.of([""] * 3).tokens(["cat"])
