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

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple, TypedDict

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from kan_diffusion.denoisers.base import Denoiser
from kan_diffusion.denoisers.edges import CURVE, Edge, EdgeSetting, Match, ReadableLayer
from kan_diffusion.denoisers.features import TimeEncoding
from kan_diffusion.denoisers.network import NetworkDenoiser
from kan_diffusion.denoisers.points import ModelMixin, PointDenoiser
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.kan.bases import Extrapolation
from kan_diffusion.kan.linear import KANLinear

__all__ = [
    "CurveSettings",
    "InputFeature",
    "ModelMixin",
    "ReadableDenoiser",
    "no_edges",
    "readable",
]


class CurveSettings(TypedDict, total=False):
    """Settings of the curves, as :class:`kan_diffusion.KANLinear` takes them."""

    basis: str
    grid_size: int
    order: int
    grid_range: tuple[float, float]
    extrapolation: Extrapolation


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


class ReadableDenoiser(PointDenoiser):
    """A denoiser of readable edges.

    Args:
        data_dim: Number d of coordinates of a point.
        hidden: Widths of the hidden layers.
        edges: For each layer its edges, ``(input, output, kind, has_slope)`` each.
        inputs: Numbers of the input features that the network takes, in order; all when None.
        num_train_timesteps: Number T of steps of the process.
        time_encoding: ``"raw"`` or ``"fourier"``, see :mod:`kan_diffusion.denoisers.features`.
        num_time_frequencies: Number of frequencies of ``"fourier"``.
        num_input_frequencies: Number of frequencies of the points' Fourier features.
        modulated: Whether the timestep scales and shifts the hidden units instead of being an
            input.
        scaled_inputs: Whether, in a modulated denoiser, the timestep scales the inputs, too.
        curves: Settings of the curves; missing ones have the defaults of
            :class:`kan_diffusion.KANLinear`.

    Raises:
        KanDiffusionError: Edges do not fit the widths of the network, or a function is unknown.
    """

    @register_to_config
    def __init__(
        self,
        data_dim: int,
        hidden: Sequence[int],
        edges: Sequence[Sequence[EdgeSetting]],
        inputs: Sequence[int] | None = None,
        num_train_timesteps: int = 1000,
        time_encoding: TimeEncoding = "fourier",
        num_time_frequencies: int = 3,
        num_input_frequencies: int = 0,
        modulated: bool = False,
        scaled_inputs: bool = False,
        curves: CurveSettings | None = None,
    ) -> None:
        super().__init__()
        self._set_inputs(num_input_frequencies)
        of_time = self.time_features.num_features
        num_features = self.num_features + (0 if modulated else of_time)
        kept = list(range(num_features)) if inputs is None else list(inputs)
        self.register_buffer("input_index", torch.tensor(kept, dtype=torch.long), persistent=False)
        widths = [len(kept), *hidden, data_dim]
        if len(edges) != len(widths) - 1:
            raise KanDiffusionError(
                f"a network of widths {widths} has {len(widths) - 1} layers of edges, not "
                f"{len(edges)}"
            )
        layers = []
        for index, (fan_in, fan_out) in enumerate(pairwise(widths)):
            made = [Edge(index, *edge) for edge in edges[index]]
            for edge in made:
                if not (0 <= edge.input < fan_in and 0 <= edge.output < fan_out):
                    raise KanDiffusionError(
                        f"layer {index} has {fan_in} inputs and {fan_out} outputs, and no edge "
                        f"from {edge.input} to {edge.output}"
                    )
            of_curves = KANLinear(fan_in, fan_out, bias=False, **(curves or {}))
            layers.append(ReadableLayer(fan_in, fan_out, made, of_curves))
        self.network = nn.ModuleList(layers)
        self.modulation: nn.Linear | None = None
        if modulated:
            scaled = len(kept) if scaled_inputs else 0
            self.modulation = nn.Linear(of_time, 2 * sum(hidden) + scaled)
            self._reset_modulation()

    @property
    def layers(self) -> list[ReadableLayer]:
        """The layers, inputs first."""
        assert isinstance(self.network, nn.ModuleList)
        return [layer for layer in self.network if isinstance(layer, ReadableLayer)]

    @property
    def edges(self) -> list[Edge]:
        """All edges, layer by layer."""
        return [edge for layer in self.layers for edge in layer.edges]

    @property
    def num_constants(self) -> int:
        """Number of parameters that have an effect: those of absent edges are not counted."""
        of_time = [] if self.modulation is None else list(self.modulation.parameters())
        return sum(p.numel() for p in of_time) + sum(layer.num_constants for layer in self.layers)

    @property
    def flops(self) -> int:
        """Floating-point operations of one forward pass for one point, without absent edges."""
        total = sum(layer.flops for layer in self.layers) + self._input_flops
        if self.modulation is not None:
            code = self.modulation.in_features
            scaled = len(self.input_index) if self.config.scaled_inputs else 0
            total += (4 * code + 3) * sum(self.config.hidden) + (2 * code + 3) * scaled
        return total

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws fresh curves, and sets formulas and modulation back to 0."""
        for layer in self.layers:
            layer.reset_parameters(generator)
        self._reset_modulation()

    def _reset_modulation(self) -> None:
        if self.modulation is not None:
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)

    # Inputs and units

    def time_inputs(self) -> list[InputFeature]:
        """The features of the timestep."""
        if self.config.time_encoding == "raw":
            return [InputFeature(None)]
        octaves = range(self.config.num_time_frequencies)
        return [
            InputFeature(None, wave, 2.0 ** (m - 1)) for wave in ("cos", "sin") for m in octaves
        ]

    def input_features(self) -> list[InputFeature]:
        """The inputs of the network."""
        coordinates, octaves = range(self.data_dim), range(self.config.num_input_frequencies)
        found = [InputFeature(i) for i in coordinates]
        for wave in ("cos", "sin"):
            found += [InputFeature(i, wave, 2.0 ** (m - 2)) for i in coordinates for m in octaves]
        if self.modulation is None:
            found += self.time_inputs()
        return [found[index] for index in self.input_index.tolist()]

    def unit_names(self) -> list[list[str]]:
        """Names of inputs, hidden units and outputs, layer by layer."""
        hidden = [
            [f"h{layer + 1}.{unit}" for unit in range(width)]
            for layer, width in enumerate(self.config.hidden)
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

    def features(self, points: Tensor, steps: Tensor) -> Tensor:
        """Computes the inputs of the network.

        Args:
            points: Noised points with shape (n, d).
            steps: Timesteps with shape (n,) or (1,).

        Returns:
            Inputs with shape (n, in).
        """
        seen = points if self.point_features is None else self.point_features(points)
        return self._select(seen, self.time_features(steps, points.dtype))

    def _select(self, seen: Tensor, time: Tensor) -> Tensor:
        if self.modulation is None:
            seen = torch.cat([seen, time.expand(len(seen), -1)], dim=-1)
        return seen.index_select(1, self.input_index)

    def _predict(self, points: Tensor, steps: Tensor, given: Tensor | None) -> Tensor:
        # ``points`` are already the Fourier features, if the denoiser has any.
        time = self.time_features(steps, points.dtype)
        *_, (_, _, _, prediction) = self._walk(self._select(points, time), steps)
        return prediction

    def modulations(
        self, steps: Tensor
    ) -> tuple[Sequence[Tensor], Sequence[Tensor], Tensor | None]:
        """Computes the factors and shifts of the hidden layers and the factors of the inputs.

        Args:
            steps: Timesteps with shape (n,).

        Returns:
            The factors (one plus the scales) and the shifts of each hidden layer, (n, width) each,
            and the factors of the inputs with shape (n, in), None if inputs are not scaled; empty,
            empty and None if the timestep is an input.
        """
        if self.modulation is None:
            return (), (), None
        found = self.modulation(self.time_features(steps, self.modulation.weight.dtype))
        hidden = list(self.config.hidden)
        total = sum(hidden)
        scale, shift, of_input = found.tensor_split([total, 2 * total], dim=-1)
        scales, shifts = (1 + scale).split(hidden, dim=-1), shift.split(hidden, dim=-1)
        return scales, shifts, 1 + of_input if self.config.scaled_inputs else None

    def _walk(
        self, state: Tensor, steps: Tensor
    ) -> Iterator[tuple[ReadableLayer, Tensor, Tensor, Tensor]]:
        """Goes through the network from the inputs (n, in) on, see :meth:`walk`."""
        scales, shifts, of_input = self.modulations(steps)
        state = state if of_input is None else state * of_input
        for index, layer in enumerate(self.layers):
            output = layer(state)
            factor = output.new_ones(1, layer.out_features)
            if index < len(scales):
                factor = scales[index]
                output = torch.addcmul(shifts[index], output, factor)
            yield layer, state, factor, output
            state = output

    @torch.no_grad()
    def walk(
        self, points: Tensor, steps: Tensor
    ) -> Iterator[tuple[ReadableLayer, Tensor, Tensor, Tensor]]:
        """Goes through the network, layer by layer.

        Args:
            points: Noised points with shape (n, d).
            steps: Timesteps with shape (n,).

        Yields:
            A layer, its inputs (n, in), the factor (n, out) or (1, out) of its outputs, and the
            resulting units (n, out).
        """
        yield from self._walk(self.features(points, steps), steps)

    # Other edges

    def with_edges(self, edges: Sequence[Edge]) -> ReadableDenoiser:
        """Makes the same network with other edges; edges of the same kind keep their parameters.

        Edges that become a formula start at 0; :meth:`set_match` sets their constants.
        """
        return self._rebuilt(edges, {})

    def set_match(self, edge: Edge, match: Match) -> None:
        """Sets a formula's edge to a match; the constant d is added to the unit's bias.

        Args:
            edge: An edge of the match's kind.
            match: The match.
        """
        self.layers[edge.layer].set_match(edge, match)

    def compact(self) -> ReadableDenoiser:
        """Makes the same function without inputs and hidden units that have no effect.

        A unit that no edge leaves is removed; without modulation, so is one that no edge enters: it
        is constant, and the values of its edges are added to the biases of the next layer.

        Returns:
            A network without such units; the network itself if there are none.
        """
        smaller = self._without_idle_unit()
        if smaller is not None:
            return smaller.compact()
        used = sorted({edge.input for edge in self.edges if edge.layer == 0})
        if len(used) in (0, len(self.input_index)):
            return self
        return self._rebuilt(self.edges, {0: used})

    @torch.no_grad()
    def _without_idle_unit(self) -> ReadableDenoiser | None:
        for index, width in enumerate(self.config.hidden):
            for unit in range(width if width > 1 else 0):
                leaving = [e for e in self.edges if e.layer == index + 1 and e.input == unit]
                entering = [e for e in self.edges if e.layer == index and e.output == unit]
                if leaving and (entering or self.modulation is not None):
                    continue
                kept = [other for other in range(width) if other != unit]
                made = self._rebuilt(self.edges, {index + 1: kept})
                if leaving:
                    constant = self.layers[index].bias.unsqueeze(0)
                    given = self.layers[index + 1].edge_outputs(constant)
                    made.layers[index + 1].bias.add_(given[0, :, unit])
                return made
        return None

    @torch.no_grad()
    def _rebuilt(self, edges: Sequence[Edge], kept: Mapping[int, list[int]]) -> ReadableDenoiser:
        """Makes a network with other edges and, in the layers of ``kept``, the kept units alone.

        Layer 0 holds the inputs; the hidden layers follow.
        """
        widths = [len(self.input_index), *self.config.hidden, self.data_dim]
        units = [kept.get(layer, list(range(width))) for layer, width in enumerate(widths)]
        layers: list[list[EdgeSetting]] = [[] for _ in self.layers]
        for e in edges:
            if e.input in units[e.layer] and e.output in units[e.layer + 1]:
                place = units[e.layer].index(e.input), units[e.layer + 1].index(e.output)
                layers[e.layer].append((*place, e.kind, e.has_slope))
        config = {key: value for key, value in self.config.items() if not key.startswith("_")}
        config["edges"] = layers
        config["inputs"] = self.input_index[units[0]].tolist()
        config["hidden"] = [len(part) for part in units[1:-1]]
        made = _placed(ReadableDenoiser(**config), self)
        if self.modulation is not None and made.modulation is not None:
            rows: list[int] = []
            start = 0
            for part, width in zip(units[1:-1], widths[1:-1], strict=True):
                rows += [start + unit for unit in part]
                start += width
            rows += [start + row for row in rows]
            if self.config.scaled_inputs:
                rows += [2 * start + index for index in units[0]]
            made.modulation.weight.copy_(self.modulation.weight[rows])
            made.modulation.bias.copy_(self.modulation.bias[rows])
        for mine, theirs, (inputs, outputs) in zip(
            made.layers, self.layers, pairwise(units), strict=True
        ):
            mine.take(theirs, outputs, inputs)
        return made


def _placed(made: ReadableDenoiser, like: PointDenoiser) -> ReadableDenoiser:
    """Moves a network to the device, the precision and the mode of another one."""
    # nn.Module's own ``to``: that of diffusers warns of float32 modules there might be.
    nn.Module.to(made, device=like.device, dtype=like.dtype)
    return made.train(like.training)


_SHARED = (
    "data_dim",
    "num_train_timesteps",
    "time_encoding",
    "num_time_frequencies",
    "num_input_frequencies",
    "modulated",
    "scaled_inputs",
)


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
        return f"what passes the layers of a residual KAN by is no edge; {train}"
    if denoiser.num_classes:
        return "a denoiser with classes cannot be taken apart; train one without them"
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
        KanDiffusionError: The denoiser is not a KAN with a function for each edge, is residual, or
            has classes.
    """
    if (reason := no_edges(denoiser)) is not None:
        raise KanDiffusionError(reason)
    if isinstance(denoiser, ReadableDenoiser):
        return denoiser
    assert isinstance(denoiser, NetworkDenoiser)
    config, layers = denoiser.config, denoiser.kan_layers
    made = ReadableDenoiser(
        hidden=list(config.hidden),
        edges=[
            [
                (i, o, CURVE, False)
                for o in range(part.out_features)
                for i in range(part.in_features)
            ]
            for part in layers
        ],
        curves={key: config[key] for key in CurveSettings.__annotations__},
        **{key: config[key] for key in _SHARED},
    )
    _placed(made, denoiser)
    if made.modulation is not None:
        modulations = [layer.modulation for layer in denoiser.layers]
        rows = [part[:, kind] for kind in (0, 1) for part in modulations]
        if denoiser.input_scale is not None:
            rows.append(denoiser.input_scale)
        of_time = torch.cat(rows, dim=1)
        made.modulation.weight.copy_(of_time[:-1].T)
        made.modulation.bias.copy_(of_time[-1])
    for mine, theirs in zip(made.layers, layers, strict=True):
        assert mine.curves is not None
        mine.curves.weight.copy_(theirs.edge_weights().flatten(1))
        mine.curves.basis.grid_origin.copy_(theirs.basis.grid_origin)
        mine.curves.basis.grid_step.copy_(theirs.basis.grid_step)
        if theirs.bias is not None:
            mine.bias.copy_(theirs.bias)
    return made.eval()
