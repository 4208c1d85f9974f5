"""Edges of a readable layer: learned curves, lines and functions of a library."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Unpack

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from kan_diffusion.denoisers.library import LINEAR, EdgeFunction, get_functions
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.kan.linear import EdgeSettings, KANLinear

CURVE = "curve"
"""Kind of an edge that is a learned curve."""

_FUNCTION_FLOPS = 4

_PRECISION = 1e-6
"""Unexplained share below which matches count as equally good."""


class Edge(NamedTuple):
    """An edge of a network.

    Attributes:
        layer: Number of its layer, from 0.
        input: Number of the input or unit it leaves.
        output: Number of the unit or output it enters.
        kind: ``"curve"``, ``"linear"`` or the name of a function.
        has_slope: Whether a function has a linear part beside it.
    """

    layer: int
    input: int
    output: int
    kind: str = CURVE
    has_slope: bool = False

    @property
    def place(self) -> tuple[int, int, int]:
        """Layer, input and output."""
        return self.layer, self.input, self.output


def edges_by_layer(edges: Iterable[Sequence[object]], widths: Sequence[int]) -> list[list[Edge]]:
    """Sorts edges into the layers of a network of some widths, inputs and outputs included.

    Raises:
        KanDiffusionError: The network has no place for an edge.
    """
    layers: list[list[Edge]] = [[] for _ in widths[1:]]
    for edge in (Edge(*given) for given in edges):  # type: ignore[arg-type]
        layer, left, entered = edge.place
        fits = layer in range(len(layers)) and left in range(widths[layer])
        if not (fits and entered in range(widths[layer + 1])):
            raise KanDiffusionError(
                f"a network of widths {list(widths)} has no edge from {left} to {entered} in layer "
                f"{layer}"
            )
        layers[layer].append(edge)
    return layers


@dataclass(frozen=True)
class Match:
    """A function c f(a x + b) + s x + d fitted to a curve.

    Attributes:
        name: Name of f.
        has_slope: Whether there is a linear part.
        a: Factor inside.
        b: Shift inside.
        c: Factor outside.
        slope: Slope s of the linear part.
        constant: Constant d.
        r2: Share of the variance of held-out samples that it explains; at most 1.
        complexity: Complexity of f, one more with a linear part.
    """

    name: str
    has_slope: bool
    a: float
    b: float
    c: float
    slope: float
    constant: float
    r2: float
    complexity: int

    @property
    def cost(self) -> float:
        """Bits of the unexplained share plus the complexity: the lower the better."""
        return math.log2(max(1 - self.r2, 0.0) + _PRECISION) + self.complexity


class ReadableLayer(KANLinear):
    """A KAN layer with lines, functions or nothing in the place of some of its curves.

    Attributes:
        constants: The numbers a, b, c and s of each edge c f(a x + b) + s x, with shape
            (4, out, in), of which an edge uses those of its kind.
    """

    bias: nn.Parameter
    curve_mask: Tensor
    slope_mask: Tensor
    _places: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        edges: Sequence[Edge],
        **curves: Unpack[EdgeSettings],
    ) -> None:
        super().__init__(in_features, out_features, bias=True, **curves)
        self.edges = tuple(sorted(edges, key=lambda edge: (edge.output, edge.input)))
        curve_mask, slope_mask = torch.zeros(2, out_features, in_features, device="cpu")
        for edge in self.edges:
            curve_mask[edge.output, edge.input] = edge.kind == CURVE
            slope_mask[edge.output, edge.input] = edge.has_slope or edge.kind == LINEAR
        applied = sorted(self.edges, key=lambda edge: edge.kind)
        applied = [edge for edge in applied if edge.kind not in (CURVE, LINEAR)]
        kinds = [edge.kind for edge in applied]
        self.functions_by_kind = get_functions(kinds)
        self._counts = [kinds.count(kind) for kind in self.functions_by_kind]
        units = [[edge.output for edge in applied], [edge.input for edge in applied]]
        self.constant("curve_mask", curve_mask)
        self.constant("slope_mask", slope_mask)
        self.constant("_places", torch.tensor(units, device="cpu").long())
        constants = torch.zeros(4, out_features, in_features)
        constants[0] = 1
        self.constants = nn.Parameter(constants)

    @property
    def num_idle(self) -> int:
        """Number of parameters that have no effect."""
        of_curves = int(self.curve_mask.sum()) * self.features_per_input
        of_formulas = int(self.slope_mask.sum()) + 3 * sum(self._counts)
        return self.weight.numel() - of_curves + self.constants.numel() - of_formulas

    @property
    def flops(self) -> int:
        """Operations that one row needs: 2 of a line, 3 + 4 of a function, a curve's as ever."""
        of_curves = int(self.curve_mask.sum()) * self.flops_per_curve
        of_inputs = int(self.curve_mask.any(0).sum()) * self.flops_per_input
        of_formulas = 2 * int(self.slope_mask.sum()) + (3 + _FUNCTION_FLOPS) * sum(self._counts)
        return self.out_features + of_curves + of_inputs + of_formulas

    def _applied(self, input: Tensor) -> Tensor:
        """Evaluates c f(a x + b) of the edges at ``_places``: (n, edges) from inputs (n, in)."""
        outputs, inputs = self._places
        a, b, c = self.constants[:3, outputs, inputs]
        z = torch.addcmul(b, input.index_select(1, inputs), a).split(self._counts, dim=1)
        parts = zip(self.functions_by_kind.values(), z, strict=True)
        return c * torch.cat([function.values(part) for function, part in parts], dim=1)

    def _outputs(self, rows: Tensor) -> Tensor:
        slopes = self.constants[3] * self.slope_mask
        if any(edge.kind == CURVE for edge in self.edges):
            curves = (self.edge_weights() * self.curve_mask.unsqueeze(-1)).flatten(1)
            outputs = self._weighed(rows, curves) + linear(rows, slopes)
        else:
            outputs = linear(rows, slopes, self.bias)
        if self.functions_by_kind:
            outputs = outputs.index_add(1, self._places[0], self._applied(rows))
        return outputs

    def edge_outputs(self, input: Tensor) -> Tensor:
        """Evaluates each edge, without the biases: (n, out, in) from inputs (n, in)."""
        lines = input.unsqueeze(1) * (self.constants[3] * self.slope_mask)
        outputs = super().edge_outputs(input) * self.curve_mask + lines
        if self.functions_by_kind:
            places = torch.arange(len(input), device=input.device)[:, None], *self._places
            outputs = outputs.index_put(places, self._applied(input), accumulate=True)
        return outputs

    @torch.no_grad()
    def formula_of(self, edge: Edge) -> tuple[EdgeFunction | None, float, float, float, float]:
        """Gives f, a, b, c and s of an edge; None for the f of lines and curves, 0 for no s."""
        index = edge.output, edge.input
        a, b, c, s = self.constants[:, *index].tolist()
        return self.functions_by_kind.get(edge.kind), a, b, c, s * float(self.slope_mask[index])

    @torch.no_grad()
    def take(self, other: ReadableLayer, outputs: Sequence[int], inputs: Sequence[int]) -> None:
        """Copies a layer's parameters of these outputs and inputs, and of edges of equal kind."""
        self.bias.copy_(other.bias[outputs])
        self.weight.copy_(other.edge_weights()[outputs][:, inputs].flatten(1))
        self.basis.grid_origin.copy_(other.basis.grid_origin[inputs])
        self.basis.grid_step.copy_(other.basis.grid_step[inputs])
        kinds = {(edge.output, edge.input): edge.kind for edge in other.edges}
        for edge in self.edges:
            index = outputs[edge.output], inputs[edge.input]
            if kinds.get(index) == edge.kind:
                self.constants[:, edge.output, edge.input] = other.constants[:, *index]
