"""Untrained models whose reverse processes are drawn."""

from helpers import seeded
from kan_diffusion.data.sources import load_dataset
from kan_diffusion.data.toys import ToyData
from kan_diffusion.denoisers.families import build_denoiser
from kan_diffusion.diffusion.sampling import PointDiffusionPipeline
from kan_diffusion.processes import get_process
from kan_diffusion.report.views import Mover

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
