"""Untrained models whose reverse processes are drawn."""

import numpy as np
import torch

from helpers import seeded
from kan_diffusion.data.sources import load_dataset
from kan_diffusion.data.toys import ToyData
from kan_diffusion.denoisers.families import build_denoiser
from kan_diffusion.diffusion.sampling import PointDiffusionPipeline, make_scheduler
from kan_diffusion.processes import get_process
from kan_diffusion.report.views import Mover, View
from kan_diffusion.study.tasks import NOTHING_ASKED

ROLL = ToyData(toy="swiss-roll", num_points=10)


def mover(family="mlp", process="cosine", data=ROLL):
    """An untrained model of a toy, in its own units."""
    chosen = get_process(process)
    toy = load_dataset(data)
    denoiser = build_denoiser(
        family, toy.dim, num_train_timesteps=1000, params=600, generator=seeded()
    )
    pipeline = PointDiffusionPipeline(
        denoiser, chosen, toy.standardizer.mean, toy.standardizer.scale, toy.columns
    )
    return Mover(family, family, pipeline, data, source=f"runs/{family}")


def require_frames_from_noise_to_samples(process, scheduler):
    """Checks that the states of a reverse process begin with the noise and end with the samples."""
    model = mover(process=process)
    pipeline = model.pipeline
    pipeline.scheduler = make_scheduler(scheduler, pipeline.process)
    times, states = View().reverse(model, NOTHING_ASKED, 20, 8, seeded(3))
    samples = pipeline(20, 8, generator=seeded(3)).samples
    assert torch.equal(torch.from_numpy(states[-1]), samples)
    noise = torch.randn(20, 2, generator=seeded(3))
    # Heun's method scales the noise up and down again, which rounds.
    start = pipeline.standardizer.invert(noise.double()).numpy()
    np.testing.assert_allclose(states[0], start, rtol=1e-6, atol=1e-5)
    assert (times[0], times[-1]) == (1.0, 0.0)
    assert all(np.diff(times) < 0)
    assert len(states) == len(times)
    if scheduler in ("ddim", "flow-euler", "flow-heun", "ddpm"):
        assert len(times) == 9
