"""Writes what the package computes into ``tests/fixtures``, for the playground's tests.

Denoisers with random weights, their outputs and the gradients of the training loss; levels of the
processes; posterior means of the toys; and a reverse process. Run it again when any of these
changes: ``python playground/fixtures.py``.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

import torch
from torch import Tensor

from kan_diffusion.data.scaling import Standardizer
from kan_diffusion.data.toys import make_toy
from kan_diffusion.denoisers import NetworkDenoiser
from kan_diffusion.diffusion.sampling import PointDiffusionPipeline, make_scheduler
from kan_diffusion.evaluation.metrics import energy_distance
from kan_diffusion.kan import KANLinear
from kan_diffusion.processes import PROCESSES, Process

FOLDER = Path(__file__).parent / "tests" / "fixtures"
ROWS = 12
TOYS = (
    "swiss-roll", "moons", "circles", "s-curve", "checkerboard", "pinwheel", "two-spirals",
    "rings", "eight-gaussians",
)  # fmt: skip

SHARED = {"num_time_frequencies": 4, "modulated": True}
DENOISERS: dict[str, NetworkDenoiser] = {
    "playground-kan": NetworkDenoiser(
        2, (8, 8), edges=True, grid_size=8, grid_range=(-3.0, 3.0), **SHARED
    ),
    "playground-mlp": NetworkDenoiser(2, (15, 15, 16), **SHARED),
}
"""Denoisers of the forms that the page trains."""


def numbers(values: Tensor) -> list[float]:
    """All numbers of a tensor, row by row, in as many digits as float32 has."""
    return [float(f"{value:.9g}") for value in values.detach().double().flatten().tolist()]


def scrambled(denoiser: NetworkDenoiser, generator: torch.Generator) -> NetworkDenoiser:
    """The denoiser with random weights throughout, and grids of its own for every input."""
    for parameter in denoiser.parameters():
        parameter.detach().normal_(0.0, 0.3, generator=generator)
    for layer in denoiser.modules():
        if isinstance(layer, KANLinear):
            layer.basis.grid_origin.add_(0.2 * torch.randn(layer.in_features, generator=generator))
            layer.basis.grid_step.mul_(1 + 0.2 * torch.rand(layer.in_features, generator=generator))
    return denoiser


def page_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a denoiser, or their gradients, by the names that the page gives them."""
    found: dict[str, Tensor] = {}
    modulations = []
    for name, tensor in tensors.items():
        layer, _, rest = name.partition(".")
        number = 0
        if layer == "layers":
            index, _, rest = rest.partition(".")
            number, rest = int(index) + 1, rest.removeprefix("linear.")
        if rest == "modulation":
            modulations.append(tensor)
        else:
            found[f"network.layers.{number}.{rest}"] = tensor
    # All scales, then all shifts.
    of_time = torch.cat([part[:, kind] for kind in (0, 1) for part in modulations], dim=1)
    return found | {
        "network.modulation.weight": of_time[:-1].T,
        "network.modulation.bias": of_time[-1],
    }


def saved(denoiser: NetworkDenoiser, process: Process) -> object:
    """A denoiser as a file of the page."""
    config = denoiser.config
    both = {
        "data_dim": 2, "hidden": list(config.hidden), "num_train_timesteps": 1000,
        "time_encoding": "fourier", "num_time_frequencies": config.num_time_frequencies,
        "num_classes": 0, "num_input_frequencies": 0, "residual": False, "modulated": True,
        "blocks": [],
    }  # fmt: skip
    settings = {"_class_name": "MLPDenoiser", **both, "activation": "silu", "init": "torch"}
    if config.edges:
        settings = {
            "_class_name": "KANDenoiser", **both, "bias": True, "basis": "bspline",
            "grid_size": config.grid_size, "order": 3, "grid_range": list(config.grid_range),
            "extrapolation": "linear", "base_activation": "auto", "edge_scale": False,
            "init": "power-law", "scaled_inputs": False,
        }  # fmt: skip
    weights = {
        name: {
            "shape": list(tensor.shape),
            "float32": base64.b64encode(
                tensor.detach().contiguous().numpy().astype("<f4").tobytes()
            ).decode(),
        }
        for name, tensor in page_tensors(denoiser.state_dict()).items()
    }
    return {
        "format": "kan-diffusion-web",
        "version": 1,
        "denoiser": settings,
        "process": process.model_dump(mode="json"),
        "standardizer": {"mean": [0.0, 0.0], "scale": [1.0, 1.0]},
        "columns": ["x0", "x1"],
        "data": None,
        "weights": weights,
    }


def denoiser_fixture(name: str, denoiser: NetworkDenoiser, generator: torch.Generator) -> object:
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
            key: numbers(gradient)
            for key, gradient in page_tensors(
                {name: parameter.grad for name, parameter in denoiser.named_parameters()}
            ).items()
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
    denoiser = scrambled(NetworkDenoiser(2, (6, 5), **SHARED), generator)
    pipeline = PointDiffusionPipeline(denoiser, process, scheduler=make_scheduler("ddim", process))
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
