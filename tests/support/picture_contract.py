"""What every family of denoisers of pictures does, whichever way it is told its conditions."""

import pytest
import torch
from diffusers.models.attention import FeedForward

from helpers import assert_same_state, randn, seeded
from kan_diffusion.denoisers import build_denoiser, get_family
from kan_diffusion.kan import KANLinear
from kan_diffusion.kanified import LearnedActivation
from kan_diffusion.pictures.denoisers import TransformerDenoiser, UNetDenoiser

SHAPE = 3, 8, 8
SMALL = {
    TransformerDenoiser: {"width": 16, "heads": 2},
    UNetDenoiser: {"channels": (8, 16), "heads": 2},
}
HIDDEN = {TransformerDenoiser: (9, 8), UNetDenoiser: (9, 8, 7, 6)}
KINDS = {"dit-kan": LearnedActivation, "unet-kan": LearnedActivation, "dit-full-kan": KANLinear}
"""The layers of KANs in the feed-forwards of each family that has any."""

FEW = [("dit-kan", {}), ("unet-kan", {"pooled": True})]
OTHERS = [("dit", {"pooled": True}), ("dit-full-kan", {}), ("unet", {})]


def build(family, shape=SHAPE, **options):
    """A small denoiser of pictures."""
    kind = get_family(family).denoiser_class
    options = {"hidden": HIDDEN[kind], "generator": seeded(1), **options}
    settings = {**SMALL[kind], **options.pop("settings", {})}
    settings |= {"num_classes": options.pop("num_classes", 0)}
    made = build_denoiser(family, shape, num_train_timesteps=100, settings=settings, **options)
    return made.eval()


def pictures(num=4, shape=SHAPE):
    return randn(num, *shape, dtype=torch.float32)


class PictureContract:
    def test_it_is_fitted_to_a_size_and_its_feed_forwards_are_its_own(self, family, told):
        depth = len(HIDDEN[get_family(family).denoiser_class])
        params = 20_000 if family.startswith("dit") else 60_000
        made = build(family, hidden=None, depth=depth, params=params, settings=told)
        assert made.num_trainable == pytest.approx(params, rel=0.02)
        blocks = [part for part in made.modules() if isinstance(part, FeedForward)]
        assert len(blocks) == depth
        for block in blocks:
            kinds = {type(part) for part in block.modules()} & {LearnedActivation, KANLinear}
            assert kinds == ({KINDS[family]} if family in KINDS else set())

    def test_pictures_are_of_any_usual_size_and_mode(self, family, told):
        for shape in ((1, 8, 8), (4, 16, 16)):
            x = pictures(2, shape)
            for options, given in (
                ({}, {}),
                ({"num_classes": 2}, {"class_labels": torch.tensor([0, 1])}),
                ({"settings": {"text_width": 6}}, {"encoder_hidden_states": pictures(2, (3, 6))}),
            ):
                options = {**options, "settings": {**told, **options.get("settings", {})}}
                made = build(family, shape, **options)
                prediction = made(x, 5, **given).sample
                assert prediction.shape == x.shape
                assert not given or not torch.allclose(prediction, made(x, 5).sample)

    def test_a_saved_one_is_read_as_it_was_and_its_parameters_are_the_generators(
        self, family, told, tmp_path
    ):
        made, same, other = (
            build(family, num_classes=3, settings=told, generator=seeded(seed))
            for seed in (1, 1, 2)
        )
        assert_same_state(made, same)
        made.save_pretrained(tmp_path)
        loaded = type(made).from_pretrained(tmp_path)
        assert_same_state(loaded, made)
        given = pictures(), torch.tensor([0, 9, 50, 99]), torch.tensor([0, 2, -1, 1])
        assert torch.equal(loaded(*given).sample, made(*given).sample)
        assert not torch.allclose(other(*given).sample, made(*given).sample)

    def test_every_picture_is_told_its_own_timestep_and_class(self, family, told):
        made = build(family, num_classes=3, settings=told)
        x, steps, labels = pictures(), torch.tensor([0, 30, 60, 99]), torch.tensor([0, 2, -1, 1])
        together = made(x, steps, labels).sample
        for row in range(4):
            label = None if labels[row] < 0 else labels[row : row + 1]
            alone = made(x[row : row + 1], int(steps[row]), label).sample
            torch.testing.assert_close(together[row : row + 1], alone)
        plain = made(x, 30).sample
        for label in range(3):
            assert not torch.allclose(made(x, 30, torch.full((4,), label)).sample, plain)
        assert torch.equal(made(x, 30, torch.full((4,), -1)).sample, plain)

    def test_no_prompt_is_one_of_zeros_and_zeros_behind_one_are_not_attended_to(self, family, told):
        made, x = build(family, settings={"text_width": 6, **told}), pictures()

        def drawn(prompts, x=x):
            return made(x, 30, encoder_hidden_states=prompts).sample

        plain = made(x, 30).sample
        for tokens in (1, 5):
            nothing = drawn(x.new_zeros(4, tokens, 6))
            torch.testing.assert_close(nothing, plain, atol=1e-5, rtol=1e-4)
        prompts = pictures(shape=(3, 6))
        prompts[1, 2:] = 0
        said = drawn(prompts)
        assert not torch.allclose(said, plain)
        torch.testing.assert_close(drawn(torch.cat([prompts, x.new_zeros(4, 5, 6)], dim=1)), said)
        torch.testing.assert_close(drawn(prompts[1:2, :2], x[1:2]), said[1:2])

    def test_all_parameters_are_trained_and_all_of_the_picture_is_seen(self, family, told):
        made, x = build(family, settings={"text_width": 6, **told}), pictures().requires_grad_()
        said = made(x, 30, encoder_hidden_states=pictures(shape=(3, 6))).sample
        said[:, :, 0, 0].square().sum().backward()
        assert (x.grad != 0).all()
        for name, parameter in made.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name
