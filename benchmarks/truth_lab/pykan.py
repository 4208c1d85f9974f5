r"""A KAN denoiser at one noise level: a plain KAN of the points, for tools that know no time.

With the timestep fixed, what it does are constants: features of it that are inputs become a part of
the first layer's biases, the scales and shifts of a modulated denoiser become a part of weights and
biases. Where the timestep scales the inputs, the KAN takes the scaled ones.
"""

from __future__ import annotations

import io
import time
import warnings
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kan_diffusion.denoisers.edges import CURVE
from kan_diffusion.denoisers.readable import ReadableDenoiser
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.kan.convert import random_states_kept, to_pykan
from kan_diffusion.kan.linear import KANLinear
from kan_diffusion.kan.network import KAN

__all__ = ["PykanFormula", "at_level", "pykan_formula"]

PYKAN_LIBRARY = ("x", "x^2", "tanh", "sin", "exp", "abs", "gaussian")


@torch.no_grad()
def at_level(denoiser: ReadableDenoiser, timestep: int) -> tuple[KAN, Tensor]:
    """The network at one level.

    Args:
        denoiser: A network whose edges are all there and curves, as
            :func:`kan_diffusion.denoisers.readable.readable` makes it.
        timestep: The level.

    Returns:
        A KAN that maps the inputs that come from the points, times the factors returned with it, to
        the prediction; and these factors with shape (inputs,).

    Raises:
        KanDiffusionError: Edges are missing or formulas.
    """
    layers = [layer.curves for layer in denoiser.layers]
    if any(edge.kind != CURVE for edge in denoiser.edges) or any(
        curves is None or not bool(layer.curve_mask.all())
        for curves, layer in zip(layers, denoiser.layers, strict=True)
    ):
        raise KanDiffusionError(
            "a plain KAN has all edges and all of them curves; give the network as it was trained"
        )
    config = denoiser.config
    inputs = denoiser.input_features()
    of_points = [i for i, feature in enumerate(inputs) if feature.coordinate is not None]
    widths = [len(of_points), *config.hidden, denoiser.data_dim]
    made = KAN(widths, **(config.curves or {})).to(denoiser.dtype)
    step = torch.tensor([timestep])
    scales, shifts, of_inputs = denoiser.modulations(step)
    nowhere = torch.zeros(1, denoiser.data_dim, dtype=denoiser.dtype)
    time_features = denoiser.features(nowhere, step)
    for number, (mine, theirs) in enumerate(zip(made.layers, denoiser.layers, strict=True)):
        assert isinstance(mine, KANLinear)
        assert theirs.curves is not None
        kept = of_points if number == 0 else list(range(theirs.in_features))
        packed = theirs.curves.weight.view(theirs.out_features, theirs.in_features, -1)
        bias = theirs.bias.clone()
        if number == 0:
            rest = [i for i in range(theirs.in_features) if i not in of_points]
            bias += theirs.edge_outputs(time_features)[0][:, rest].sum(-1)
        factor = torch.ones_like(bias)
        if number < len(scales):
            factor = scales[number][0]
            bias = bias * factor + shifts[number][0]
        mine.weight.copy_((packed[:, kept] * factor[:, None, None]).flatten(1))
        assert mine.bias is not None
        mine.bias.copy_(bias)
        for name in ("grid_origin", "grid_step"):
            getattr(mine.grid, name).copy_(getattr(theirs.curves.grid, name)[kept])
    factors = nowhere.new_ones(len(of_points)) if of_inputs is None else of_inputs[0]
    return made, factors


@dataclass(frozen=True)
class PykanFormula:
    """What pykan's own search made of a network at one level.

    Attributes:
        formulas: Its formulas for the prediction's coordinates, in the scaled inputs x_1, x_2, ...
        prediction: Its prediction at the points it was given, with shape (n, d).
        seconds: Wall-clock time the search took.
    """

    formulas: tuple[str, ...]
    prediction: np.ndarray
    seconds: float


def pykan_formula(
    network: KAN, inputs: Tensor, library: tuple[str, ...] = PYKAN_LIBRARY
) -> PykanFormula:
    """Runs pykan's symbolic search on a network.

    Every edge becomes the function pykan finds best, whatever its fit; nothing is trained after it.

    Args:
        network: The network.
        inputs: Points as they occur, with shape (n, in).
        library: Names of pykan's functions to try.

    Raises:
        KanDiffusionError: pykan is not installed, or cannot have this network.
    """
    model = to_pykan(network)
    started = time.perf_counter()
    with ExitStack() as around:
        around.enter_context(random_states_kept())
        around.enter_context(redirect_stdout(io.StringIO()))  # it prints every edge
        around.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        model(inputs)
        model.auto_symbolic(lib=list(library), verbose=0)
        formulas, _ = model.symbolic_formula()
        with torch.no_grad():
            prediction = model(inputs).double().numpy()
    seconds = time.perf_counter() - started
    return PykanFormula(tuple(str(f) for f in formulas), prediction, seconds)
