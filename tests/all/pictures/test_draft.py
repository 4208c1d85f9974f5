import torch

from helpers import randn, seeded
from kan_diffusion.processes import get_process
from kan_diffusion.training import TrainingConfig, train
from picture_contract import build


def test_a_draft_becomes_the_mean_picture_of_what_it_is_told():
    labels = torch.randint(2, (2000,), generator=seeded(2))
    ground = 0.25 * (torch.randint(2, (2000,), generator=seeded(3)) * 2 - 1)
    pictures = ground[:, None, None, None].repeat(1, 1, 4, 4)
    pictures[labels == 0, :, 0, 0] = 1.0
    pictures[labels == 1, :, 3, 3] = 1.0
    denoiser = build("dit-kan", (1, 4, 4), num_classes=2, settings={"draft_patch": 2})
    config = TrainingConfig(steps=150, batch_size=64, learning_rate=6e-3, warmup_steps=10)
    process = get_process("flow").model_copy(update={"num_timesteps": 100})
    told = {"class_labels": labels}
    train(denoiser, process, pictures, config, seed=3, device="cpu", conditions=told)
    means = torch.stack([pictures[labels == label].mean(0) for label in (0, 1)])
    drafts = [
        denoiser(randn(2, 1, 4, 4, seed=seed, dtype=torch.float32), step, torch.arange(2)).draft
        for seed, step in ((1, 99), (2, 10))
    ]
    # The means of the two classes are 1 apart in two pixels.
    torch.testing.assert_close(drafts[0], means, atol=0.2, rtol=0)
    assert torch.equal(drafts[0], drafts[1])  # whatever is noised, and how much
