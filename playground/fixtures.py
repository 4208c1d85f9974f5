"""Writes what the package computes into ``tests/fixtures.json``, for the playground's tests.

Denoisers with random weights, their outputs and the gradients of the training loss; levels of the
process; posterior means of the toys; and a reverse process. Run it again when any of these changes:
``python playground/fixtures.py``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from kan_diffusion.data.scaling import Standardizer
from kan_diffusion.data.toys import make_toy
from kan_diffusion.denoisers import NetworkDenoiser
from kan_diffusion.diffusion.sampling import PointDiffusionPipeline, make_scheduler
from kan_diffusion.evaluation.metrics import energy_distance
from kan_diffusion.processes import PROCESSES

FILE = Path(__file__).parent / "tests" / "fixtures.json"
PROCESS = PROCESSES["cosine"]
TOYS = (
    "swiss-roll", "moons", "circles", "s-curve", "checkerboard", "pinwheel", "two-spirals",
    "rings", "eight-gaussians",
)  # fmt: skip


def numbers(values: Tensor) -> list[float]:
    """Returns all numbers of a tensor, row by row, in as many digits as float32 has."""
    return [float(f"{value:.9g}") for value in values.detach().double().flatten().tolist()]


def make_denoiser(kind: str, generator: torch.Generator) -> NetworkDenoiser:
    """Returns a small network of a form that the page trains, with random weights throughout."""
    hidden = (5, 6) if kind == "kan" else (5, 6, 6)
    edges = {"edges": True, "grid_size": 8, "grid_range": (-3.0, 3.0)} if kind == "kan" else {}
    denoiser = NetworkDenoiser(2, hidden, num_time_frequencies=4, modulated=True, **edges)
    for parameter in denoiser.parameters():
        parameter.detach().normal_(0.0, 0.3, generator=generator)
    return denoiser


def page_vector(denoiser: NetworkDenoiser, tensors: Mapping[str, Tensor]) -> Tensor:
    """Returns parameters, or their gradients by the same names, in the order of the page.

    For each layer: weights of the inputs, of their splines, and the bias, each with the outputs
    side by side. Then the map from the timestep to all scales and all shifts, with its bias.
    """
    parts, modulations = [], []
    for index in range(len(denoiser.config.hidden) + 1):
        name = "first" if index == 0 else f"layers.{index - 1}"
        if index > 0:
            modulations.append(tensors[f"{name}.modulation"])
            name = f"{name}.linear" if denoiser.config.edges else name
        weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
        num_functions = 12 if denoiser.config.edges else 1
        by_input = weight.view(len(bias), -1, num_functions).permute(1, 2, 0)
        parts += [by_input[:, 0], by_input[:, 1:], bias]
    of_time = torch.cat([part[:, kind] for kind in (0, 1) for part in modulations], dim=1)
    return torch.cat([part.flatten() for part in (*parts, of_time)])


def network_fixture(denoiser: NetworkDenoiser) -> dict[str, object]:
    """Returns settings and parameters of a denoiser as the page has them."""
    kind = "kan" if denoiser.config.edges else "mlp"
    return {
        "settings": {"kind": kind, "hidden": list(denoiser.config.hidden)},
        "parameters": numbers(page_vector(denoiser, dict(denoiser.named_parameters()))),
    }


def denoiser_fixture(kind: str, generator: torch.Generator) -> dict[str, object]:
    """Returns a denoiser with inputs, outputs, loss and gradients."""
    denoiser = make_denoiser(kind, generator)
    points = 2 * torch.randn(12, 2, generator=generator)
    steps = torch.randint(PROCESS.num_timesteps, (len(points),), generator=generator)
    target = torch.randn(len(points), 2, generator=generator)
    output = denoiser(points, steps, return_dict=False)[0]
    loss = PROCESS.loss_of(output, target)
    named = dict(denoiser.named_parameters())
    gradients = torch.autograd.grad(loss, list(named.values()))
    return {
        **network_fixture(denoiser),
        "points": numbers(points),
        "timesteps": steps.tolist(),
        "target": numbers(target),
        "output": numbers(output),
        "loss": loss.item(),
        "gradients": numbers(page_vector(denoiser, dict(zip(named, gradients, strict=True)))),
    }


def process_fixture() -> dict[str, object]:
    """Returns some levels of the process."""
    alpha, sigma = PROCESS.levels()
    picks = torch.linspace(0, PROCESS.num_timesteps - 1, 10).round().long()
    return {
        "timesteps": picks.tolist(),
        "alpha": numbers(alpha[picks]),
        "sigma": numbers(sigma[picks]),
    }


def toy_fixture(name: str, generator: torch.Generator) -> dict[str, object]:
    """Returns posterior means of a standardised toy, at its noised points and at distant ones."""
    density = make_toy(name)
    standardizer = Standardizer.from_density(density)
    standard = standardizer.rescale(density)
    levels = []
    for alpha, sigma in ((0.999, 0.045), (0.9, 0.436), (0.5, 0.866), (0.05, 0.9987)):
        eps, distant = torch.randn(2, 5, 2, dtype=torch.float64, generator=generator)
        points = torch.cat([alpha * standard.sample(5, generator) + sigma * eps, 3 * distant])
        points = torch.tensor(numbers(points), dtype=torch.float64).view(-1, 2)
        means = numbers(standard.posterior_mean(points, alpha, sigma))
        levels.append({"alpha": alpha, "sigma": sigma, "points": numbers(points), "means": means})
    return {"mean": list(standardizer.mean), "scale": list(standardizer.scale), "levels": levels}


def sampling_fixture(generator: torch.Generator) -> dict[str, object]:
    """Returns the reverse process of a network from given noise, and a distance of samples."""
    denoiser = make_denoiser("kan", generator)
    pipeline = PointDiffusionPipeline(denoiser, PROCESS, scheduler=make_scheduler("ddim", PROCESS))
    states: list[Tensor] = []

    def keep(_pipeline: object, _step: int, _timestep: object, state: dict[str, Tensor]) -> None:
        states.append(state["sample"].clone())

    pipeline(6, 20, generator=torch.Generator().manual_seed(5), callback_on_step_end=keep)
    start = torch.randn(6, 2, generator=torch.Generator().manual_seed(5))
    x, y = torch.randn(2, 30, 2, dtype=torch.float64, generator=generator).float().double()
    return {
        **network_fixture(denoiser),
        "start": numbers(start),
        "states": [numbers(state) for state in states],
        "x": numbers(x),
        "y": numbers(y),
        "energy_distance": energy_distance(x, y),
    }


def fixtures() -> dict[str, object]:
    """Returns all fixtures, the same ones every time."""
    generator = torch.Generator().manual_seed(7)
    return {
        "denoisers": [denoiser_fixture(kind, generator) for kind in ("kan", "mlp")],
        "process": process_fixture(),
        "toys": {name: toy_fixture(name, generator) for name in TOYS},
        "sampling": sampling_fixture(generator),
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(fixtures()) + "\n", encoding="utf-8")
