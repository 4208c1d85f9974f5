"""Text encoders of CLIP, read from folders."""

import shutil

import pytest
import torch

from helpers import assert_same_state, randn, refused, seeded
from kan_diffusion import TrainingConfig, build_denoiser, get_process, make_scheduler, train
from kan_diffusion.errors import RunFolderError
from kan_diffusion.picture_pipeline import PictureDiffusionPipeline
from kan_diffusion.text import PromptedDenoiser, embed, read_text_encoder, tokenize, unknown_words
from picture_networks import save_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("clip"))


def test_a_pretrained_text_encoder_is_read_from_a_folder_of_clip_or_of_a_pipeline(clip, tmp_path):
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


def test_padding_is_embedded_as_zeros_although_pads_are_ends_too(clip):
    encoder, tokenizer = read_text_encoder(clip)
    tokens = tokenize(tokenizer, ["ab A b", "ab", ""])
    with torch.no_grad():
        told, states = embed(encoder, tokenizer, tokens), encoder(tokens).last_hidden_state
    for one, state, length in zip(told, states, (5, 3, 2), strict=True):
        assert torch.equal(one[:length], state[:length])
        assert not one[length:].any()


def test_a_pretrained_text_encoder_is_part_of_the_pipeline_and_is_not_trained(clip, tmp_path):
    encoder, tokenizer = read_text_encoder(clip, ["ab a"])
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    settings = {"width": 8, "heads": 2, "text_width": 8}
    options = {"num_train_timesteps": 1000, "hidden": (8,), "settings": settings}
    denoiser = build_denoiser("dit-kan", (1, 4, 4), generator=seeded(2), **options)
    joint = PromptedDenoiser(denoiser, encoder, tokenizer, frozen=True)
    process, samples = get_process("flow"), randn(4, 1, 4, 4, dtype=torch.float32)
    conditions = {"input_ids": tokenize(tokenizer, ["a", "b", "ab", ""])}
    config = TrainingConfig(steps=3, batch_size=4)
    train(joint, process, samples, config, seed=0, conditions=conditions, device="cpu")
    assert_same_state(encoder, before)
    joint.train()
    assert not encoder.training
    scheduler = make_scheduler(None, process.scheduler())
    pipeline = PictureDiffusionPipeline(denoiser, scheduler, encoder, tokenizer, mode="L")
    pipeline.save_pretrained(tmp_path)
    loaded = PictureDiffusionPipeline.from_pretrained(tmp_path)
    ours, theirs = (
        each("ab", output_type="pt", generator=seeded(4)).images for each in (pipeline, loaded)
    )
    # Weights from a file lie at other addresses, which may change the order of a sum.
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


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
def test_a_folder_of_no_text_encoder_is_refused(damage, message, clip, tmp_path):
    folder = shutil.copytree(clip, tmp_path / "clip")
    damage(folder)
    with refused(message, RunFolderError):
        read_text_encoder(folder)
