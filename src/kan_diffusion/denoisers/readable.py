r"""A KAN denoiser whose edges are separate: each a learned curve, a formula, or absent.

An edge i -> o of a layer is absent, or

.. math:: \phi_{o,i}(x) = \begin{cases} \text{the KAN layer's own curve} & \text{(``curve'')} \\
    s\,x & \text{(``linear'')} \\
    c\,f(a x + b) \;[\, + s\,x\,] & \text{(f of a library)}, \end{cases}

and a unit is :math:`h_o = (1 + s_o(\tau))\,(\beta_o + \sum_i \phi_{o,i}(x_i)) + b_o(\tau)`, where
only a modulated denoiser has the scales s and shifts b. It is trained like any denoiser, so that
the remaining edges can make up for removed ones. It is meant for networks that are small enough to
be read: an edge costs far more here than in a KAN layer.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise, product
from typing import Any, NamedTuple

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from kan_diffusion.denoisers.base import Denoiser
from kan_diffusion.denoisers.edges import Edge, Match, ReadableLayer
from kan_diffusion.denoisers.features import TimeEncoding
from kan_diffusion.denoisers.network import NetworkDenoiser
from kan_diffusion.denoisers.points import ModelMixin, PointDenoiser
from kan_diffusion.errors import KanDiffusionError

__all__ = ["InputFeature", "ModelMixin", "ReadableDenoiser", "no_edges", "readable"]

_CURVES = ("basis", "grid_size", "order", "grid_range", "extrapolation")
"""Settings of a network's curves."""


class InputFeature(NamedTuple):
    """An input of a network: a coordinate or the time, or their cosine or sine.

    Attributes:
        coordinate: Number of the coordinate; None for the time.
        wave: ``"cos"``, ``"sin"``, or empty for the number itself.
        frequency: Factor within the wave, in units of pi.
    """

    coordinate: int | None
    wave: str = ""
    frequency: float = 0.0

    @property
    def name(self) -> str:
        """The feature in words, such as ``"cos 0.5π x1"``."""
        number = "t" if self.coordinate is None else f"x{self.coordinate}"
        return f"{self.wave} {self.frequency:g}π {number}" if self.wave else number


def _waves(of: Iterable[int | None], octaves: range) -> list[InputFeature]:
    """Waves of coordinates or the time, in the order of :mod:`kan_diffusion.denoisers.features`."""
    return [InputFeature(i, wave, 2.0**m) for wave in ("cos", "sin") for i in of for m in octaves]


class ReadableDenoiser(PointDenoiser):
    """A denoiser of readable edges.

    Args:
        data_dim: Number d of coordinates of a point.
        hidden: Widths of the hidden layers.
        edges: The edges, ``(layer, input, output, kind, has_slope)`` each.
        inputs: Numbers of the input features that the network takes, in order; all when None.
        num_train_timesteps: Number T of steps of the process.
        time_encoding: ``"raw"`` or ``"fourier"``, see :mod:`kan_diffusion.denoisers.features`.
        num_time_frequencies: Number of frequencies of ``"fourier"``.
        num_input_frequencies: Number of frequencies of the points' Fourier features.
        modulated: Whether the timestep scales and shifts the hidden units instead of being an
            input.
        scaled_inputs: Whether, in a modulated denoiser, the timestep scales the inputs, too.
        curves: Settings of the curves, as :class:`kan_diffusion.KANLinear` takes them.

    Attributes:
        input_scale: Scales of the inputs for each number of a timestep's code, (codes, in); empty
            if inputs are not scaled.

    Raises:
        KanDiffusionError: Edges do not fit the widths of the network, or a function is unknown.
    """

    network: nn.ModuleList
    input_index: Tensor

    @register_to_config
    def __init__(
        self,
        data_dim: int,
        hidden: Sequence[int],
        edges: Sequence[Edge],
        inputs: Sequence[int] | None = None,
        num_train_timesteps: int = 1000,
        time_encoding: TimeEncoding = "fourier",
        num_time_frequencies: int = 3,
        num_input_frequencies: int = 0,
        modulated: bool = False,
        scaled_inputs: bool = False,
        curves: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self._set_inputs(num_input_frequencies)
        of_time = self.time_features.num_features
        num_features = self.num_features + (0 if modulated else of_time)
        kept = list(range(num_features)) if inputs is None else list(inputs)
        self.register_buffer("input_index", torch.tensor(kept, dtype=torch.long), persistent=False)
        widths = [len(kept), *hidden, data_dim]
        made = [Edge(*edge) for edge in edges]
        for layer, left, entered in (edge.place for edge in made):
            fits = layer in range(len(hidden) + 1) and left in range(widths[layer])
            if not (fits and entered in range(widths[layer + 1])):
                raise KanDiffusionError(
                    f"a network of widths {widths} has no edge from {left} to {entered} in layer "
                    f"{layer}"
                )
        codes = of_time + 1 if modulated else 0
        self.input_scale = nn.Parameter(torch.zeros(codes if scaled_inputs else 0, len(kept)))
        self.network = nn.ModuleList()
        for index, (fan_in, fan_out) in enumerate(pairwise(widths)):
            own = [edge for edge in made if edge.layer == index]
            scaled = codes if index < len(hidden) else 0
            self.network.append(ReadableLayer(fan_in, fan_out, own, curves or {}, scaled))

    @property
    def layers(self) -> list[ReadableLayer]:
        """The layers, inputs first."""
        return [layer for layer in self.network if isinstance(layer, ReadableLayer)]

    @property
    def edges(self) -> list[Edge]:
        """All edges, layer by layer."""
        return [edge for layer in self.layers for edge in layer.edges]

    @property
    def num_trainable(self) -> int:
        """Number of parameters that have an effect: those of absent edges are not counted."""
        return self.input_scale.numel() + sum(layer.num_constants for layer in self.layers)

    @property
    def flops(self) -> int:
        """Floating-point operations of one forward pass for one point, without absent edges."""
        codes, inputs = self.input_scale.shape
        scaled = (2 * codes + 1) * inputs if codes else 0
        return self._input_flops + scaled + sum(layer.flops for layer in self.layers)

    # Inputs and units

    def time_inputs(self) -> list[InputFeature]:
        """The features of the timestep."""
        if self.config.time_encoding == "raw":
            return [InputFeature(None)]
        return _waves([None], range(-1, self.config.num_time_frequencies - 1))

    def input_features(self) -> list[InputFeature]:
        """The inputs of the network."""
        coordinates = range(self.data_dim)
        found = [InputFeature(i) for i in coordinates]
        found += _waves(coordinates, range(-2, self.config.num_input_frequencies - 2))
        found += [] if self.config.modulated else self.time_inputs()
        return [found[index] for index in self.input_index.tolist()]

    def unit_names(self) -> list[list[str]]:
        """Names of inputs, hidden units and outputs, layer by layer."""
        hidden = [
            [f"h{layer}.{unit}" for unit in range(width)]
            for layer, width in enumerate(self.config.hidden, start=1)
        ]
        inputs = [feature.name for feature in self.input_features()]
        return [inputs, *hidden, [f"out{i}" for i in range(self.data_dim)]]

    def edge_names(self) -> dict[tuple[int, int, int], tuple[str, str]]:
        """Names of the two units that each edge connects, by its place."""
        units = self.unit_names()
        return {
            edge.place: (units[edge.layer][edge.input], units[edge.layer + 1][edge.output])
            for edge in self.edges
        }

    def time_code(self, steps: Tensor, dtype: torch.dtype) -> Tensor:
        """Gives timesteps (n,) as modulations take them: features and a one, (n, codes)."""
        time = self.time_features(steps, dtype)
        return torch.cat([time, torch.ones_like(time[:, :1])], dim=-1)

    def input_factors(self, code: Tensor) -> Tensor:
        """Factors (one plus the scales) of the inputs, (n, in), of codes (n, codes)."""
        return 1 + code[:, : len(self.input_scale)] @ self.input_scale

    def _features(self, sample: Tensor) -> Tensor:
        return sample  # ``walk`` takes points

    def _predict(self, points: Tensor, steps: Tensor, mask: Tensor | None) -> Tensor:
        *_, (_, _, _, prediction) = self.walk(points, steps)
        return prediction

    def walk(
        self, points: Tensor, steps: Tensor
    ) -> Iterator[tuple[ReadableLayer, Tensor, Tensor, Tensor]]:
        """Goes through the network, layer by layer.

        Args:
            points: Noised points with shape (n, d).
            steps: Timesteps with shape (n,) or (1,).

        Yields:
            A layer, its inputs (n, in), the factors (n, out) or (1, out) of its outputs, and the
            resulting units (n, out).
        """
        code = self.time_code(steps, points.dtype)
        seen = super()._features(points)
        if not self.config.modulated:
            seen = torch.cat([seen, code[:, :-1].expand(len(seen), -1)], dim=-1)
        state = seen.index_select(1, self.input_index)
        if len(self.input_scale):
            state = state * self.input_factors(code)
        for layer in self.layers:
            factor, shift = layer.modulations(code)
            output = torch.addcmul(shift, layer(state), factor)
            yield layer, state, factor, output
            state = output

    # Other edges

    @torch.no_grad()
    def with_edges(
        self, edges: Sequence[Edge], kept: Mapping[int, Sequence[int]] | None = None
    ) -> ReadableDenoiser:
        """Makes the same network with other edges; edges of the same kind keep their parameters.

        Edges that become a formula start at 0; :meth:`set_match` sets their constants.

        Args:
            edges: The edges, by this network's numbers of units.
            kept: Numbers of the units that stay, for layers that lose some, with their edges. Layer
                0 holds the inputs; the hidden layers follow.
        """
        widths = [len(self.input_index), *self.config.hidden, self.data_dim]
        units = [list((kept or {}).get(layer, range(width))) for layer, width in enumerate(widths)]
        config = {key: value for key, value in self.config.items() if not key.startswith("_")}
        config["edges"] = [
            edge._replace(
                input=units[edge.layer].index(edge.input),
                output=units[edge.layer + 1].index(edge.output),
            )
            for edge in edges
            if edge.input in units[edge.layer] and edge.output in units[edge.layer + 1]
        ]
        config["inputs"] = self.input_index[units[0]].tolist()
        config["hidden"] = [len(part) for part in units[1:-1]]
        # nn.Module's own ``to``: that of diffusers warns of float32 modules there might be.
        made = nn.Module.to(ReadableDenoiser(**config), self.device, self.dtype)
        made.input_scale.copy_(self.input_scale[:, units[0]])
        for index, layer in enumerate(made.layers):
            layer.take(self.layers[index], units[index + 1], units[index])
        return made.train(self.training)

    @torch.no_grad()
    def set_match(self, edge: Edge, match: Match) -> None:
        """Sets an edge to a match of its kind; the constant d is added to the unit's bias."""
        layer, found = self.layers[edge.layer], (match.a, match.b, match.c, match.slope)
        layer.constants[:, edge.output, edge.input] = layer.constants.new_tensor(found)
        layer.bias[edge.output] += match.constant

    @torch.no_grad()
    def compact(self) -> ReadableDenoiser:
        """Makes the same function without inputs and hidden units that have no effect.

        A unit that no edge leaves is removed; without modulation, so is one that no edge enters: it
        is constant, and the values of its edges are added to the biases of the next layer.

        Returns:
            A network without such units; the network itself if there are none.
        """
        for index, width in enumerate(self.config.hidden):
            entered = {edge.output for edge in self.edges if edge.layer == index}
            left = {edge.input for edge in self.edges if edge.layer == index + 1}
            needed = left if self.config.modulated else left & entered
            idle = [unit for unit in range(width) if unit not in needed]
            if idle and width > 1:
                unit = idle[0]
                kept = [other for other in range(width) if other != unit]
                made = self.with_edges(self.edges, {index + 1: kept})
                given = self.layers[index + 1].edge_outputs(self.layers[index].bias.unsqueeze(0))
                made.layers[index + 1].bias.add_(given[0, :, unit])
                return made.compact()
        used = sorted({edge.input for edge in self.edges if edge.layer == 0})
        if len(used) in (0, len(self.input_index)):
            return self
        return self.with_edges(self.edges, {0: used})


def no_edges(denoiser: Denoiser) -> str | None:
    """The reason why a denoiser cannot be taken apart; None if it can."""
    if isinstance(denoiser, ReadableDenoiser):
        return None
    train = "train family 'readable-kan', 'full-kan' or 'modulated-kan'"
    config = denoiser.config if isinstance(denoiser, NetworkDenoiser) else None
    if config is None or not (config.edges or config.learned_functions):
        return f"only KANs have edges to read; {train}"
    if not config.edges:
        return (
            "edges of gated layers are weighted sums of a few functions, times gates, which are "
            f"not read one at a time; {train}"
        )
    if config.residual:
        return f"what a residual state adds is no edge; {train}"
    return None


@torch.no_grad()
def readable(denoiser: Denoiser) -> ReadableDenoiser:
    """Takes a KAN denoiser apart: the same function of noised samples, all of its edges curves.

    The network cannot be given ``observed`` coordinates, whether or not the denoiser can.

    Args:
        denoiser: The denoiser, which is left as it is.

    Returns:
        The network in eval mode; the denoiser itself where it is readable already.

    Raises:
        KanDiffusionError: The denoiser is not a KAN with a function for each edge, or is residual.
    """
    if (reason := no_edges(denoiser)) is not None:
        raise KanDiffusionError(reason)
    if isinstance(denoiser, ReadableDenoiser):
        return denoiser
    assert isinstance(denoiser, NetworkDenoiser)
    config, layers = denoiser.config, denoiser.kan_layers
    known = inspect.signature(ReadableDenoiser).parameters
    settings = {key: config[key] for key in known if key in config}
    settings["curves"] = {key: config[key] for key in _CURVES}
    settings["edges"] = [
        Edge(index, *ends)
        for index, part in enumerate(layers)
        for ends in product(range(part.in_features), range(part.out_features))
    ]
    made = nn.Module.to(ReadableDenoiser(**settings), denoiser.device, denoiser.dtype)
    if denoiser.input_scale is not None:
        made.input_scale.copy_(denoiser.input_scale)
    for mine, theirs in zip(made.layers, layers, strict=True):
        mine.weight.copy_(theirs.edge_weights().flatten(1))
        mine.basis.load_state_dict(theirs.basis.state_dict())
        if theirs.bias is not None:
            mine.bias.copy_(theirs.bias)
    # There, a layer modulates its inputs: they are the outputs of the layer before.
    for mine, after in zip(made.layers, denoiser.layers, strict=False):
        if after.modulation is not None:
            mine.modulation.copy_(after.modulation)
    return made.eval()
