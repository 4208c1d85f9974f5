r"""A KAN denoiser whose edges are kept one by one: a learned curve, a formula, or nothing.

An edge i -> o of a layer is absent, or

.. math:: \phi_{o,i}(x) = \begin{cases} \text{the KAN layer's own curve} & \text{(``curve'')} \\
    s\,x & \text{(``linear'')} \\
    c\,f(a x + b) \;[\, + s\,x\,] & \text{(f of a library)}, \end{cases}

and a unit is :math:`h_o = (1 + s_o(\tau))\,(\beta_o + \sum_i \phi_{o,i}(x_i)) + b_o(\tau)`, with
the scales and shifts of a modulated denoiser and without them otherwise. All of it is trained like
any denoiser, so that what is left can make up for what was taken away. Meant for networks that are
small enough to be read: an edge costs far more here than in a KAN layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from kan_diffusion.denoisers.base import ModelMixin
from kan_diffusion.denoisers.edges import CURVE, Edge, EdgeSetting, Match, ReadableLayer, take_part
from kan_diffusion.denoisers.stacks import Stack, StackDenoiser
from kan_diffusion.denoisers.time import TimeEncoding
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.kan.bases import BasisName, Extrapolation
from kan_diffusion.kan.linear import KANLinear

__all__ = ["CURVE", "Edge", "ModelMixin", "ReadableDenoiser", "ReadableLayer"]


class ReadableDenoiser(StackDenoiser):
    """A denoiser of readable edges.

    Args:
        data_dim: Number d of coordinates of a point.
        hidden: Widths of the hidden layers.
        edges: For each layer its edges, ``(input, output, kind, has_slope)`` each.
        inputs: Which of the input features the network takes, in order; all when None.
        num_train_timesteps: Number T of steps of the process.
        time_encoding: ``"raw"`` or ``"fourier"``, see :mod:`kan_diffusion.denoisers.time`.
        num_time_frequencies: Number of frequencies of ``"fourier"``.
        num_input_frequencies: Number of frequencies of the points' Fourier features.
        modulated: Whether the timestep scales and shifts the hidden units instead of being an
            input.
        scaled_inputs: Whether, where modulated, the timestep scales the inputs, too.
        basis: As all that follow, of the curves; see :class:`kan_diffusion.KANLinear`.
        grid_size: Number of intervals of the grid.
        order: Degree of the splines.
        grid_range: Ends of the grid.
        extrapolation: What happens outside the grid.
        base_activation: ``"silu"``, None or ``"auto"``.

    Raises:
        KanDiffusionError: An edge is not one of the network's, or its function is not known.
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
        basis: BasisName = "bspline",
        grid_size: int = 5,
        order: int = 3,
        grid_range: tuple[float, float] = (-2.0, 2.0),
        extrapolation: Extrapolation = "linear",
        base_activation: Literal["silu", "auto"] | None = "auto",
    ) -> None:
        super().__init__()
        num_features = self._setup_inputs(
            data_dim,
            num_train_timesteps,
            time_encoding,
            num_time_frequencies,
            0,
            num_input_frequencies,
        )
        num_time_features = self.time_features.num_features if modulated else 0
        kept = list(range(num_features - num_time_features)) if inputs is None else list(inputs)
        self.register_buffer("input_index", torch.tensor(kept, dtype=torch.long), persistent=False)
        widths = [len(kept), *hidden, data_dim]
        if len(edges) != len(widths) - 1:
            raise KanDiffusionError(
                f"a network of widths {widths} has {len(widths) - 1} layers of edges, not "
                f"{len(edges)}"
            )
        low, high = grid_range
        layers = []
        for index, (fan_in, fan_out) in enumerate(pairwise(widths)):
            made = [Edge(index, i, o, kind, slope) for i, o, kind, slope in edges[index]]
            for edge in made:
                if not (0 <= edge.input < fan_in and 0 <= edge.output < fan_out):
                    raise KanDiffusionError(
                        f"layer {index} has {fan_in} inputs and {fan_out} outputs, and no edge "
                        f"from {edge.input} to {edge.output}"
                    )
            curves = KANLinear(
                fan_in,
                fan_out,
                bias=False,
                basis=basis,
                grid_size=grid_size,
                order=order,
                grid_range=(low, high),
                extrapolation=extrapolation,
                base_activation=base_activation,
            )
            layers.append(ReadableLayer(fan_in, fan_out, made, curves))
        self.network = Stack(
            layers,
            hidden,
            num_time_features=num_time_features,
            num_scaled_inputs=len(kept) if scaled_inputs else 0,
        )

    @property
    def layers(self) -> list[ReadableLayer]:
        """The layers, inputs first."""
        assert isinstance(self.network, Stack)
        return [layer for layer in self.network.layers if isinstance(layer, ReadableLayer)]

    @property
    def edges(self) -> list[Edge]:
        """All edges there are, layer by layer."""
        return [edge for layer in self.layers for edge in layer.edges]

    @property
    def modulation(self) -> nn.Linear | None:
        """The linear map from features of the timestep to scales and shifts of hidden units."""
        assert isinstance(self.network, Stack)
        return self.network.modulation

    @property
    def num_constants(self) -> int:
        """Number of parameters that have an effect: those of absent edges are not counted."""
        modulation = self.modulation
        of_time = 0 if modulation is None else sum(p.numel() for p in modulation.parameters())
        return of_time + sum(layer.num_constants for layer in self.layers)

    @property
    def flops(self) -> int:
        """Floating-point operations of one forward pass for one point, of the edges there are."""
        modulation = self.modulation
        extra = self._input_flops
        if modulation is not None:
            assert isinstance(self.network, Stack)
            extra += self.network.extra_flops
        return sum(layer.flops for layer in self.layers) + extra

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws fresh curves, and takes formulas and modulation back to nothing."""
        for layer in self.layers:
            layer.reset_parameters(generator)
        assert isinstance(self.network, Stack)
        self.network.reset_parameters()

    def features(self, points: Tensor, steps: Tensor) -> Tensor:
        """What the network takes.

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

    def input_names(self) -> list[str]:
        """What the inputs of the network are, in words."""
        names = [f"x{i}" for i in range(self.data_dim)]
        count = self.config.num_input_frequencies
        for wave in ("cos", "sin") if count else ():
            names += [
                f"{wave} {2.0 ** (m - 2):g}π x{i}"
                for i in range(self.data_dim)
                for m in range(count)
            ]
        if self.modulation is None:
            if self.config.time_encoding == "raw":
                names.append("t")
            else:
                octaves = range(self.config.num_time_frequencies)
                names += [
                    f"{wave} {2.0 ** (m - 1):g}π t" for wave in ("cos", "sin") for m in octaves
                ]
        return [names[index] for index in self.input_index.tolist()]

    def unit_names(self) -> list[list[str]]:
        """What inputs, hidden units and outputs are called, layer by layer."""
        hidden = [
            [f"h{layer + 1}.{unit}" for unit in range(width)]
            for layer, width in enumerate(self.config.hidden)
        ]
        return [self.input_names(), *hidden, [f"out{i}" for i in range(self.data_dim)]]

    def input_coordinates(self) -> list[int | None]:
        """Which coordinate of the points each input is of; None for features of the timestep."""
        count = self.config.num_input_frequencies
        coordinates: list[int | None] = list(range(self.data_dim))
        for _ in ("cos", "sin") if count else ():
            coordinates += [i for i in range(self.data_dim) for _ in range(count)]
        if self.modulation is None:
            coordinates += [None] * self.time_features.num_features
        return [coordinates[index] for index in self.input_index.tolist()]

    def num_point_inputs(self) -> int:
        """How many of the inputs come from the points; the others are features of the timestep."""
        of_points = self.data_dim * (1 + 2 * self.config.num_input_frequencies)
        return sum(index < of_points for index in self.input_index.tolist())

    def _predict(self, points: Tensor, steps: Tensor, labels: Tensor | None) -> Tensor:
        # ``points`` are features already, if there are any.
        time = self.time_features(steps, points.dtype)
        input = self._select(points, time)
        if self.modulation is None:
            return self.network(input)
        return self.network(input, time if len(time) == 1 else time.expand(len(points), -1))

    def modulations(
        self, steps: Tensor
    ) -> tuple[Sequence[Tensor], Sequence[Tensor], Tensor | None]:
        """Factors and shifts of the hidden layers and factors of the inputs, as in a ``Stack``.

        Args:
            steps: Timesteps with shape (n,).

        Returns:
            Both empty and None where the timestep is an input.
        """
        modulation = self.modulation
        if modulation is None:
            return (), (), None
        assert isinstance(self.network, Stack)
        return self.network.modulations(self.time_features(steps, modulation.weight.dtype))

    @torch.no_grad()
    def walk(
        self, points: Tensor, steps: Tensor
    ) -> Iterator[tuple[ReadableLayer, Tensor, Tensor, Tensor]]:
        """Goes through the network, layer by layer.

        Args:
            points: Noised points with shape (n, d).
            steps: Timesteps with shape (n,).

        Yields:
            A layer, its inputs (n, in), the factor (n, out) or (1, out) its outputs are scaled
            by, and the units (n, out) they come to.
        """
        state = self.features(points, steps)
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

    # Other edges

    def with_edges(self, edges: Sequence[Edge]) -> ReadableDenoiser:
        """The same network with other edges; what stays as it is keeps its parameters.

        Edges that become a formula start at zero: :meth:`set_match` gives them their constants.
        """
        layers: list[list[EdgeSetting]] = [[] for _ in self.layers]
        for edge in edges:
            layers[edge.layer].append((edge.input, edge.output, edge.kind, edge.has_slope))
        config = {key: value for key, value in self.config.items() if not key.startswith("_")}
        made = self._placed(ReadableDenoiser(**{**config, "edges": layers}))
        made.take_parameters(self)
        return made

    def _placed(self, made: ReadableDenoiser) -> ReadableDenoiser:
        """Another network in this one's precision, where this one is, in its mode."""
        # nn.Module's own: diffusers' warns of what float32 modules it might have.
        nn.Module.to(made, device=self.device, dtype=self.dtype)
        return made.train(self.training)

    @torch.no_grad()
    def take_parameters(self, other: ReadableDenoiser) -> None:
        """Copies the parameters of all edges that are of the same kind in both."""
        if self.modulation is not None and other.modulation is not None:
            self.modulation.load_state_dict(other.modulation.state_dict())
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            if mine.curves is not None and theirs.curves is not None:
                mine.curves.load_state_dict(theirs.curves.state_dict())
            mine.slope.copy_(theirs.slope * mine.slope_mask)
            mine.bias.copy_(theirs.bias)
            known = {
                (*edge.place, edge.kind): (group, index)
                for group in theirs.groups()
                for index, edge in enumerate(group.edges)
            }
            for group in mine.groups():
                for index, edge in enumerate(group.edges):
                    found = known.get((*edge.place, edge.kind))
                    if found is not None:
                        source, at = found
                        for name in ("inner", "shift", "outer"):
                            getattr(group, name)[index] = getattr(source, name)[at]

    @torch.no_grad()
    def set_match(self, edge: Edge, match: Match) -> None:
        """Gives a formula's edge the constants of a match, the constant to the unit's bias.

        Args:
            edge: An edge of the match's kind.
            match: Its constants.
        """
        layer = self.layers[edge.layer]
        layer.slope[edge.output, edge.input] = match.slope
        layer.bias[edge.output] += match.constant
        for group in layer.groups():
            for index, other in enumerate(group.edges):
                if other.place == edge.place:
                    group.inner[index] = match.a
                    group.shift[index] = match.b
                    group.outer[index] = match.c

    @torch.no_grad()
    def compact(self) -> ReadableDenoiser:
        """The same function without inputs and hidden units that have no effect.

        A unit goes when no edge leaves it, or when no edge enters it and the timestep does not
        move it either: then it is a constant, and its edges' values join the biases they feed.

        Returns:
            A network without such units; itself where there are none.
        """
        made = self
        while True:
            smaller = made._without_idle_unit()
            if smaller is None:
                return made._without_idle_inputs()
            made = smaller

    def _without_idle_unit(self) -> ReadableDenoiser | None:
        for index, width in enumerate(self.config.hidden):
            if width == 1:
                continue
            for unit in range(width):
                leaving = [e for e in self.edges if e.layer == index + 1 and e.input == unit]
                entering = [e for e in self.edges if e.layer == index and e.output == unit]
                if leaving and (entering or self.modulation is not None):
                    continue
                made = self._reduced(index, [u for u in range(width) if u != unit])
                if leaving:
                    constant = self.layers[index].bias.unsqueeze(0)
                    given = self.layers[index + 1].edge_outputs(constant)
                    made.layers[index + 1].bias.add_(given[0, :, unit])
                return made
        return None

    def _without_idle_inputs(self) -> ReadableDenoiser:
        used = sorted({edge.input for edge in self.edges if edge.layer == 0})
        width = len(self.input_index)
        if len(used) == width or not used:
            return self
        return self._reduced(-1, used)

    def _reduced(self, hidden: int, kept: list[int]) -> ReadableDenoiser:
        """With the ``kept`` units only of a hidden layer, or inputs where that is -1."""
        place = {old: new for new, old in enumerate(kept)}
        layers: list[list[EdgeSetting]] = [[] for _ in self.layers]
        for e in self.edges:
            input, output = e.input, e.output
            if e.layer == hidden:
                output = place.get(output, -1)
            elif e.layer == hidden + 1:
                input = place.get(input, -1)
            if input >= 0 and output >= 0:
                layers[e.layer].append((input, output, e.kind, e.has_slope))
        config = {key: value for key, value in self.config.items() if not key.startswith("_")}
        config["edges"] = layers
        widths = list(self.config.hidden)
        if hidden < 0:
            config["inputs"] = [int(self.input_index[index]) for index in kept]
        else:
            widths[hidden] = len(kept)
            config["hidden"] = widths
        made = self._placed(ReadableDenoiser(**config))
        if self.modulation is not None and made.modulation is not None:
            rows: list[int] = []
            total = sum(self.config.hidden)
            start = 0
            for index, width in enumerate(self.config.hidden):
                units = kept if index == hidden else range(width)
                rows += [start + unit for unit in units]
                start += width
            rows += [total + row for row in rows]
            if self.config.scaled_inputs:
                inputs = kept if hidden < 0 else range(len(self.input_index))
                rows += [2 * total + index for index in inputs]
            both = torch.tensor(rows)
            made.modulation.weight.copy_(self.modulation.weight[both])
            made.modulation.bias.copy_(self.modulation.bias[both])
        for index, (mine, theirs) in enumerate(zip(made.layers, self.layers, strict=True)):
            rows = kept if index == hidden else list(range(theirs.out_features))
            columns = kept if index == hidden + 1 else list(range(theirs.in_features))
            take_part(mine, theirs, rows, columns)
        return made
