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

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from kan_diffusion.denoisers.base import Denoiser
from kan_diffusion.denoisers.edges import Edge, Match, ReadableLayer
from kan_diffusion.denoisers.formula import FormulaDenoiser
from kan_diffusion.denoisers.network import ModelMixin, NetworkDenoiser
from kan_diffusion.errors import KanDiffusionError

__all__ = ["InputFeature", "ModelMixin", "ReadableDenoiser", "no_edges", "readable"]


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


class ReadableDenoiser(NetworkDenoiser):
    """A denoiser of readable edges, as :func:`readable` makes it.

    Its arguments are those of :class:`NetworkDenoiser`, with ``kept_edges``.

    Raises:
        KanDiffusionError: Edges do not fit the widths of the network, or a function is unknown.

    Example:
        >>> from kan_diffusion.denoisers import NetworkDenoiser
        >>> from kan_diffusion.denoisers.readable import readable
        >>> network = readable(NetworkDenoiser(1, [2], time_encoding="raw", edges=True))
        >>> network.edge_names()[0, 0, 1]
        ('x0', 'h1.1')
    """

    @property
    def kan_layers(self) -> list[ReadableLayer]:  # type: ignore[override]
        """The layers, inputs first."""
        return [layer for layer in super().kan_layers if isinstance(layer, ReadableLayer)]

    @property
    def edges(self) -> list[Edge]:
        """All edges, layer by layer."""
        return [edge for layer in self.kan_layers for edge in layer.edges]

    @property
    def num_trainable(self) -> int:
        """Number of parameters that have an effect: those of absent edges are not counted."""
        return super().num_trainable - sum(layer.num_idle for layer in self.kan_layers)

    # Inputs and units

    def time_inputs(self) -> list[InputFeature]:
        """The features of the timestep."""
        if self.config.time_encoding == "raw":
            return [InputFeature(None)]
        return _waves([None], range(-1, self.config.num_time_frequencies - 1))

    def input_features(self) -> list[InputFeature]:
        """The inputs of the network."""
        coordinates = range(self.data_dim)
        features = [InputFeature(i) for i in coordinates]
        features += _waves(coordinates, range(-2, self.num_input_frequencies - 2))
        features += [] if self.config.modulated else self.time_inputs()
        kept = self.config.kept_inputs
        return features if kept is None else [features[index] for index in kept]

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

    @property
    def unit_modulations(self) -> list[Tensor | None]:
        """Scales and shifts of each layer's outputs by a timestep's code: (codes, 2, out) or None.

        A code is the features of the timestep, and a one.
        """
        return [*(cast("Tensor | None", layer.modulation) for layer in self.layers), None]

    def modulations(self, steps: Tensor, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
        """Computes by what the timestep scales and shifts inputs and units.

        Args:
            steps: Timesteps with shape (n,).
            dtype: Dtype of the result.

        Returns:
            Factors and shifts, (n, width) or (1, width) each, of the inputs and of the outputs of
            each layer.
        """
        time = self.time_features(steps, dtype)
        code = torch.cat([time, torch.ones_like(time[:, :1])], dim=-1)
        scale = self.input_scale
        of_inputs = None if scale is None else torch.stack([scale, torch.zeros_like(scale)], 1)
        widths = [*(layer.in_features for layer in self.kan_layers), self.data_dim]
        found = []
        for width, weight in zip(widths, [of_inputs, *self.unit_modulations], strict=True):
            factor, shift = code.new_zeros(2, 1, width)
            if weight is not None:
                factor, shift = (code @ weight.flatten(1)).chunk(2, dim=1)
            found.append((1 + factor, shift))
        return found

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
        state, _ = self._inputs(points, steps)
        _, *of_outputs = self.modulations(steps, points.dtype)
        for layer, (factor, shift) in zip(self.kan_layers, of_outputs, strict=True):
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
        inputs = list(self.config.kept_inputs or range(self.kan_layers[0].in_features))
        widths = [len(inputs), *self.config.hidden, self.data_dim]
        units = [list((kept or {}).get(layer, range(width))) for layer, width in enumerate(widths)]
        renumbered = [
            edge._replace(
                input=units[edge.layer].index(edge.input),
                output=units[edge.layer + 1].index(edge.output),
            )
            for edge in edges
            if edge.input in units[edge.layer] and edge.output in units[edge.layer + 1]
        ]
        network = _rebuilt(
            self,
            hidden=[len(part) for part in units[1:-1]],
            kept_edges=renumbered,
            kept_inputs=[inputs[unit] for unit in units[0]],
        )
        # nn.Module's own ``to``: that of diffusers warns of float32 modules there might be.
        nn.Module.to(network, self.device, self.dtype)
        if network.input_scale is not None and self.input_scale is not None:
            network.input_scale.copy_(self.input_scale[:, units[0]])
        for index, layer in enumerate(network.kan_layers):
            layer.take(self.kan_layers[index], units[index + 1], units[index])
        modulations = zip(network.unit_modulations, self.unit_modulations, units[1:], strict=True)
        for mine, theirs, kept_units in modulations:
            if mine is not None and theirs is not None:
                mine.copy_(theirs[..., kept_units])
        return network.train(self.training)

    @torch.no_grad()
    def set_match(self, edge: Edge, match: Match) -> None:
        """Sets an edge to a match of its kind; the constant d is added to the unit's bias."""
        layer, values = self.kan_layers[edge.layer], (match.a, match.b, match.c, match.slope)
        layer.constants[:, edge.output, edge.input] = layer.constants.new_tensor(values)
        layer.bias[edge.output] += match.constant

    @torch.no_grad()
    def compact(self) -> ReadableDenoiser:
        """Makes the same function without inputs and hidden units that have no effect.

        A unit that no edge leaves is removed; without modulation, so is one that no edge enters: it
        is constant, and the values of its edges are added to the biases of the next layer.

        Returns:
            A network without such units; the network itself if there are none.
        """
        for index, layer in enumerate(self.kan_layers):
            needed = {edge.input for edge in layer.edges}
            if index and not self.config.modulated:
                needed &= {edge.output for edge in self.kan_layers[index - 1].edges}
            kept = sorted(needed) or [0]
            idle = [unit for unit in range(layer.in_features) if unit not in kept]
            if idle:
                smaller = self.with_edges(self.edges, {index: kept})
                if index:
                    bias = self.kan_layers[index - 1].bias.unsqueeze(0)
                    smaller.kan_layers[index].bias.add_(layer.edge_outputs(bias)[0, :, idle].sum(1))
                return smaller.compact()
        return self


def _rebuilt(denoiser: NetworkDenoiser, **changed: object) -> ReadableDenoiser:
    """Builds a readable network with the settings of a denoiser, but for some.

    ``from_config`` of diffusers takes arguments that were given by position for defaults.
    """
    settings = {key: value for key, value in denoiser.config.items() if not key.startswith("_")}
    return ReadableDenoiser(**{**settings, **changed})


def no_edges(denoiser: Denoiser) -> str | None:
    """The reason why a denoiser cannot be taken apart; None if it can."""
    if isinstance(denoiser, ReadableDenoiser):
        return None
    if isinstance(denoiser, FormulaDenoiser):
        return "a formula has no edges that are left to be read; explain its network"
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
    edges = [
        Edge(index, *ends)
        for index, part in enumerate(denoiser.kan_layers)
        for ends in product(range(part.in_features), range(part.out_features))
    ]
    network = _rebuilt(denoiser, observable=False, kept_edges=edges)
    nn.Module.to(network, denoiser.device, denoiser.dtype)
    network.load_state_dict(denoiser.state_dict(), strict=False)
    for mine, theirs in zip(network.kan_layers, denoiser.kan_layers, strict=True):
        mine.weight.copy_(theirs.edge_weights().flatten(1))  # with their scales
    return network.eval()
