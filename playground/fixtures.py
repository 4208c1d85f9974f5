"""Writes what the package computes into ``tests/fixtures``, for the playground's tests.

Denoisers with random weights, their outputs and the gradients of the training loss; levels of the
processes; posterior means of the toys; and a model in the playground's format. Run it again when
any of these changes: ``python playground/fixtures.py``.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from kan_diffusion.data import Standardizer
from kan_diffusion.data.toys import make_toy
from kan_diffusion.denoisers.base import Denoiser
from kan_diffusion.denoisers.gated import GatedDenoiser
from kan_diffusion.denoisers.kan import KANDenoiser
from kan_diffusion.denoisers.mlp import MLPDenoiser
from kan_diffusion.evaluation.metrics import energy_distance
from kan_diffusion.kan import KANLinear
from kan_diffusion.processes import PROCESSES, Process
from kan_diffusion.sampling import PointDiffusionPipeline, make_scheduler
from kan_diffusion.web import WebModel, web_json

FOLDER = Path(__file__).parent / "tests" / "fixtures"
ROWS = 12
TOYS = (
    "swiss-roll", "moons", "circles", "s-curve", "checkerboard", "pinwheel", "two-spirals",
    "rings", "eight-gaussians",
)  # fmt: skip

DENOISERS: dict[str, Denoiser] = {
    "playground-kan": KANDenoiser(
        2, (8, 8), grid_size=8, grid_range=(-3.0, 3.0), num_time_frequencies=4, modulated=True
    ),
    "playground-mlp": MLPDenoiser(2, (15, 15, 16), num_time_frequencies=4, modulated=True),
    "plain-kan": KANDenoiser(2, (5, 4), grid_size=4, order=2, extrapolation="clamp"),
    "plain-mlp": MLPDenoiser(2, (7, 6), time_encoding="raw", activation="relu"),
    "residual-kan": KANDenoiser(2, (5, 4), residual=True, base_activation=None, bias=False),
    "readable-kan": KANDenoiser(2, (5,), modulated=True, scaled_inputs=True, grid_size=6),
    "grouped-kan": GatedDenoiser(2, (5, 7, 6)),
    "gated-mlp": GatedDenoiser(2, (5, 4), learned_inputs=False, learned_functions=False),
    "ungated": GatedDenoiser(2, (3, 4), gated=False, residual=False, rank=None, order=2),
    "residual-mlp": MLPDenoiser(2, (6, 7, 5), residual=True, num_input_frequencies=2),
}


def numbers(values: Tensor) -> list[float]:
    """All numbers of a tensor, row by row, in as many digits as float32 has."""
    return [float(f"{value:.9g}") for value in values.detach().double().flatten().tolist()]


def scrambled(denoiser: Denoiser, generator: torch.Generator) -> Denoiser:
    """The denoiser with random weights throughout, and grids of its own for every input."""
    for parameter in denoiser.parameters():
        parameter.detach().normal_(0.0, 0.3, generator=generator)
    for layer in denoiser.modules():
        if isinstance(layer, KANLinear):
            layer.grid_origin.add_(0.2 * torch.randn(layer.in_features, generator=generator))
            layer.grid_step.mul_(1 + 0.2 * torch.rand(layer.in_features, generator=generator))
    return denoiser


def saved(denoiser: Denoiser, process: Process) -> object:
    """A denoiser as a file of the playground."""
    scheduler = make_scheduler(None, process.scheduler())
    return json.loads(web_json(WebModel(PointDiffusionPipeline(denoiser, scheduler), process)))


def denoiser_fixture(name: str, denoiser: Denoiser, generator: torch.Generator) -> object:
    """Weights, inputs, outputs, loss and gradients of one denoiser."""
    process = PROCESSES["cosine"]
    scrambled(denoiser, generator)
    points = 2 * torch.randn(ROWS, 2, generator=generator)
    steps = torch.randint(process.num_timesteps, (ROWS,), generator=generator)
    target = torch.randn(ROWS, 2, generator=generator)
    output = denoiser(points, steps, return_dict=False)[0]
    loss = process.loss_of(output, target)
    loss.backward()
    return {
        "name": name,
        "saved": saved(denoiser, process),
        "points": numbers(points),
        "timesteps": steps.tolist(),
        "target": numbers(target),
        "output": numbers(output),
        "loss": loss.item(),
        "gradients": {
            key: numbers(parameter.grad)
            for key, parameter in denoiser.named_parameters()
            if parameter.grad is not None
        },
    }


def process_fixture(process: Process) -> object:
    """Some levels and coefficients of a process."""
    alpha, sigma = process.levels()
    picks = torch.linspace(0, process.num_timesteps - 2, 9).round().long()
    a, b = process.noise_coefficients(alpha[picks], sigma[picks])
    return {
        "settings": process.model_dump(mode="json"),
        "timesteps": picks.tolist(),
        "alpha": numbers(alpha[picks]),
        "sigma": numbers(sigma[picks]),
        "a": numbers(a),
        "b": numbers(b),
    }


def toy_fixture(name: str, generator: torch.Generator) -> object:
    """Posterior means of a standardised toy."""
    density = make_toy(name)
    standardizer = Standardizer.from_density(density)
    standard = standardizer.rescale(density)
    levels = []
    for alpha, sigma in ((0.999, 0.045), (0.9, 0.436), (0.5, 0.866), (0.05, 0.9987)):
        clean = standard.sample(5, generator)
        noised = alpha * clean + sigma * torch.randn(5, 2, dtype=torch.float64, generator=generator)
        points = torch.cat(
            [noised, 3 * torch.randn(3, 2, dtype=torch.float64, generator=generator)]
        )
        levels.append(
            {
                "alpha": alpha,
                "sigma": sigma,
                "points": numbers(points),
                "means": numbers(standard.posterior_mean(numbers_of(points), alpha, sigma)),
            }
        )
    return {"mean": list(standardizer.mean), "scale": list(standardizer.scale), "levels": levels}


def numbers_of(points: Tensor) -> Tensor:
    """The points as they are written."""
    return torch.tensor(numbers(points), dtype=torch.float64).view(-1, 2)


def sampling_fixture(generator: torch.Generator) -> object:
    """The reverse process of a network from given noise, and distances between samples."""
    process = PROCESSES["cosine"]
    denoiser = scrambled(MLPDenoiser(2, (6, 5)), generator)
    pipeline = PointDiffusionPipeline(denoiser, make_scheduler("ddim", process.scheduler()))
    states: list[Tensor] = []
    seed = torch.Generator().manual_seed(5)
    start = torch.randn(6, 2, generator=torch.Generator().manual_seed(5))
    pipeline(
        6, 20, generator=seed,
        callback_on_step_end=lambda _p, _i, _t, state: states.append(state["sample"].clone()),
    )  # fmt: skip
    x, y = torch.randn(2, 30, 2, dtype=torch.float64, generator=generator)
    return {
        "saved": saved(denoiser, process),
        "start": numbers(start),
        "steps": 20,
        "states": [numbers(state) for state in states],
        "x": numbers(x),
        "y": numbers(y),
        "energy_distance": energy_distance(numbers_of(x), numbers_of(y)),
    }


def main() -> None:
    """Writes all fixtures."""
    generator = torch.Generator().manual_seed(7)
    contents = {
        "denoisers": [denoiser_fixture(*item, generator) for item in DENOISERS.items()],
        "processes": [process_fixture(process) for process in PROCESSES.values()],
        "toys": {name: toy_fixture(name, generator) for name in TOYS},
        "sampling": sampling_fixture(generator),
    }
    FOLDER.mkdir(exist_ok=True)
    for name, content in contents.items():
        (FOLDER / f"{name}.json").write_text(json.dumps(content) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
