"""Drafts: what a condition alone tells of a picture, learned beside the prediction."""

import pytest
import torch

from helpers import randn, refused, seeded
from kan_diffusion.denoisers import build_denoiser
from kan_diffusion.devices import make_accelerator
from kan_diffusion.processes import get_process
from kan_diffusion.training import TrainingConfig, train
from kan_diffusion.training.batches import Batch
from kan_diffusion.training.run import TrainingRun

SHAPE = 1, 4, 4
FLOW = get_process("flow")
SMALL = {"dit-kan": {"width": 16, "heads": 2}, "unet-kan": {"channels": (8, 16), "heads": 2}}
each_network = pytest.mark.parametrize("family", SMALL)


def _build(family, draft_patch=2, side=4):
    return build_denoiser(
        family, (1, side, side), num_train_timesteps=1000, num_classes=2, hidden=(6, 6, 6, 6),
        settings={**SMALL[family], "draft_patch": draft_patch}, generator=seeded(1),
    )  # fmt: skip


def _pictures(num=2000):
    """Pictures of two classes: a bright pixel in one of two corners, on either ground."""
    generator = seeded(2)
    labels = torch.randint(2, (num,), generator=generator)
    ground = 0.25 * (torch.randint(2, (num,), generator=generator) * 2 - 1)
    pictures = ground[:, None, None, None].repeat(1, *SHAPE)
    pictures[labels == 0, :, 0, 0] = 1.0
    pictures[labels == 1, :, 3, 3] = 1.0
    return pictures, labels


def test_a_draft_becomes_the_mean_picture_of_what_it_is_told():
    pictures, labels = _pictures()
    denoiser = _build("dit-kan")  # whatever network predicts beside it
    config = TrainingConfig(steps=150, batch_size=64, learning_rate=6e-3, warmup_steps=10)
    train(denoiser, FLOW, pictures, config, seed=3, device="cpu",
          conditions={"class_labels": labels})  # fmt: skip
    told = torch.tensor([0, 1, -1])
    means = torch.stack([pictures[labels == 0].mean(0), pictures[labels == 1].mean(0),
                         pictures.mean(0)])  # fmt: skip
    drafts = [
        denoiser(randn(3, *SHAPE, seed=seed, dtype=torch.float32), timestep, told).draft
        for seed, timestep in ((1, 999), (2, 10))
    ]
    # The means of the two classes are 1 apart in two pixels.
    torch.testing.assert_close(drafts[0], means, atol=0.2, rtol=0)
    assert torch.equal(drafts[0], drafts[1])  # whatever is noised, and how much


@each_network
def test_its_squared_error_is_minimised_beside_the_loss_that_is_recorded(family):
    pictures, labels = _pictures(8)
    noise, timesteps = randn(8, *SHAPE, dtype=torch.float32), torch.arange(8) * 100
    alpha, sigma = (level[timesteps].float()[:, None, None, None] for level in FLOW.levels())
    target = FLOW.target(pictures, noise, alpha, sigma)
    batch = Batch(alpha * pictures + sigma * noise, timesteps, {"class_labels": labels}, target,
                  pictures)  # fmt: skip
    losses = {}
    for patch in (0, 2):
        accelerator = make_accelerator(torch.device("cpu"), "no", None)
        run = TrainingRun(_build(family, patch), FLOW, TrainingConfig(), accelerator)
        output = run.denoiser(batch.noised, timesteps, labels)
        loss, minimised = run.differentiate([(batch, 1.0)])
        run.release()
        torch.testing.assert_close(loss, (output.sample - target).square().mean())
        losses[patch] = minimised - loss
        assert (output.draft is None) == (patch == 0)
    assert losses[0] == 0
    torch.testing.assert_close(losses[2], (output.draft - pictures).square().mean())


@each_network
def test_patches_that_do_not_divide_a_picture_are_refused(family):
    with refused("patches of a draft must divide a side of 4 pixels, not 3"):
        _build(family, draft_patch=3)
    with refused("patches of a draft must divide a side of 4 pixels, not -2"):
        _build(family, draft_patch=-2)
    with refused("numbers in the widest layer are too large"):
        _build(family, draft_patch=1, side=4096)
