"""What every family of denoisers of pictures does."""

import pytest
import torch
from diffusers.models.attention import FeedForward

from helpers import assert_same_state, randn, seeded
from kan_diffusion.denoisers import build_denoiser
from kan_diffusion.kan import KANLinear, LearnedFunctions

SHAPE = 3, 8, 8
SMALL = {"dit": {"width": 16}, "unet": {"channels": (8, 16)}}
HIDDEN = {"dit": (9, 8), "unet": (9, 8, 7, 6)}
WORDS = {"words": "a b c d", "prompt_length": 6}
KINDS = {"dit-kan": LearnedFunctions, "unet-kan": LearnedFunctions, "dit-full-kan": KANLinear}
"""The layers of KANs in the feed-forwards of each family that has any."""

FEW, OTHERS = ["dit-kan", "unet-kan"], ["dit", "dit-full-kan", "unet"]


def build(family, shape=SHAPE, **options):
    """A small denoiser of pictures."""
    kind = family.split("-")[0]
    options = {"hidden": HIDDEN[kind], "generator": seeded(1), **options}
    settings = {**SMALL[kind], **WORDS, **options.pop("settings", {})}
    made = build_denoiser(family, shape, num_train_timesteps=100, settings=settings, **options)
    return made.eval()


def pictures(num=4, shape=SHAPE):
    return randn(num, *shape, dtype=torch.float32)


class PictureContract:
    def test_it_is_fitted_to_a_size_and_its_feed_forwards_are_its_own(self, family):
        depth = len(HIDDEN[family.split("-")[0]])
        params = 20_000 if family.startswith("dit") else 60_000
        made = build(family, hidden=None, depth=depth, params=params)
        assert made.num_trainable == pytest.approx(params, rel=0.02)
        more = sum(parameter.numel() for parameter in made.text_encoder.parameters())
        assert sum(p.numel() for p in made.parameters()) == made.num_trainable + more
        blocks = [part for part in made.modules() if isinstance(part, FeedForward)]
        assert len(blocks) == depth
        for block in blocks:
            kinds = {type(part) for part in block.modules()} & {LearnedFunctions, KANLinear}
            assert kinds == ({KINDS[family]} if family in KINDS else set())

    @pytest.mark.parametrize("shape", [(1, 8, 8), (4, 16, 16)])
    def test_pictures_are_of_any_usual_size_and_mode(self, family, shape):
        made, x = build(family, shape), pictures(2, shape)
        assert made(x, 5).sample.shape == x.shape

    def test_a_saved_one_is_read_as_it_was_and_its_parameters_are_the_generators(
        self, family, tmp_path
    ):
        made, same, other = (build(family, generator=seeded(seed)) for seed in (1, 1, 2))
        assert_same_state(made, same)
        made.save_pretrained(tmp_path)
        loaded = type(made).from_pretrained(tmp_path)
        assert_same_state(loaded, made)
        assert loaded.vocabulary == made.vocabulary
        x, steps, told = pictures(), torch.tensor([0, 9, 50, 99]), made.vocabulary.tokens("abcd")
        assert torch.equal(loaded(x, steps, told).sample, made(x, steps, told).sample)
        assert not torch.allclose(other(x, steps, told).sample, made(x, steps, told).sample)

    def test_every_picture_is_told_its_own_timestep_and_prompt(self, family):
        made, x, steps = build(family), pictures(), torch.tensor([0, 30, 60, 99])
        tokens = made.vocabulary.tokens(["a", "b c d", "", "b c"])
        together = made(x, steps, tokens).sample
        for row in range(4):
            alone = made(x[row : row + 1], int(steps[row]), tokens[row : row + 1]).sample
            torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-4)
        plain = made(x, steps).sample
        torch.testing.assert_close(together[2], plain[2])
        for row in (0, 1, 3):
            assert not torch.allclose(together[row], plain[row])

    def test_padding_is_not_attended_to(self, family):
        short, long = (build(family, settings={"prompt_length": n}) for n in (6, 9))
        parts = dict(short.named_parameters())
        with torch.no_grad():
            for name, parameter in long.named_parameters():
                rows = parts[name]  # of longer prompts more places are embedded
                parameter[tuple(map(slice, rows.shape))] = rows
        x = pictures(3)
        one, other = (
            made(x, 30, made.vocabulary.tokens(["a b", "c", "d a b c"])).sample
            for made in (short, long)
        )
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)

    def test_all_parameters_are_trained_and_all_of_the_picture_is_seen(self, family):
        made, x = build(family), pictures().requires_grad_()
        told = made.vocabulary.tokens(["a b c d"] * 4)
        made(x, 30, told).sample[:, :, 0, 0].square().sum().backward()
        assert (x.grad != 0).all()
        for name, parameter in made.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name
