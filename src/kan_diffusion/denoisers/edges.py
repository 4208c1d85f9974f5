"""Edges of a readable layer: learned curves, lines and functions of a library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kan_diffusion.denoisers.library import LINEAR, EdgeFunction, get_functions
from kan_diffusion.kan.linear import KANLinear

__all__ = ["CURVE", "AppliedFunction", "Edge", "EdgeSetting", "Match", "ReadableLayer"]

CURVE = "curve"
"""Kind of an edge that is a learned curve."""

_FUNCTION_FLOPS = 4

_PRECISION = 1e-6
"""Unexplained share below which matches count as equally good."""

EdgeSetting = tuple[int, int, str, bool]
"""An edge as a configuration writes it: input, output, kind, and whether it has a linear part."""


@dataclass(frozen=True)
class Edge:
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


class AppliedFunction(NamedTuple):
    """The function c f(a x + b) of an edge."""

    function: EdgeFunction
    a: float
    b: float
    c: float


class _FunctionEdges(nn.Module):
    """The edges of a layer with the same function of the library, each with its own constants."""

    inputs: Tensor
    outputs: Tensor

    def __init__(self, function: EdgeFunction, edges: Sequence[Edge]) -> None:
        super().__init__()
        self.function = function
        for name, index in (
            ("inputs", [e.input for e in edges]),
            ("outputs", [e.output for e in edges]),
        ):
            self.register_buffer(name, torch.tensor(index), persistent=False)
        self.inner = nn.Parameter(torch.ones(len(edges)))
        self.shift = nn.Parameter(torch.zeros(len(edges)))
        self.outer = nn.Parameter(torch.zeros(len(edges)))

    def forward(self, input: Tensor) -> Tensor:
        """Evaluates c f(a x + b) of each of these edges: (n, edges) from inputs (n, in)."""
        z = torch.addcmul(self.shift, input.index_select(1, self.inputs), self.inner)
        return self.outer * self.function.values(z)


class ReadableLayer(nn.Module):
    """A layer of edges of several kinds, (n, in) -> (n, out).

    Args:
        in_features: Number of inputs.
        out_features: Number of outputs.
        edges: The edges of this layer.
        curves: A KAN layer without a bias that computes the edges of kind ``"curve"``.

    Attributes:
        curves: The KAN layer of the curves; None if no edge is a curve.
        slope: Slopes of the linear edges and linear parts with shape (out, in); 0 elsewhere.
        groups: The edges that are functions, one group per function.
        bias: Constants with shape (out,).
    """

    curve_mask: Tensor
    slope_mask: Tensor

    def __init__(
        self, in_features: int, out_features: int, edges: Sequence[Edge], curves: KANLinear
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.edges = tuple(sorted(edges, key=lambda edge: (edge.output, edge.input)))
        curve_mask = torch.zeros(out_features, in_features)
        slope_mask = torch.zeros(out_features, in_features)
        by_kind: dict[str, list[Edge]] = {}
        for edge in self.edges:
            if edge.kind == CURVE:
                curve_mask[edge.output, edge.input] = 1
            else:
                slope_mask[edge.output, edge.input] = float(edge.has_slope or edge.kind == LINEAR)
                if edge.kind != LINEAR:
                    by_kind.setdefault(edge.kind, []).append(edge)
        self.register_buffer("curve_mask", curve_mask, persistent=False)
        self.register_buffer("slope_mask", slope_mask, persistent=False)
        num_curves = len({edge.place for edge in self.edges if edge.kind == CURVE})
        self.curves = curves if num_curves else None
        self._all_curves = num_curves == in_features * out_features
        self.slope = nn.Parameter(torch.zeros(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        functions = get_functions(by_kind, importing=False)
        self.groups = [_FunctionEdges(functions[kind], part) for kind, part in by_kind.items()]
        self.formulas = nn.ModuleList(self.groups)
        self._row = {
            (edge.input, edge.output): (group, row)
            for group, part in zip(self.groups, by_kind.values(), strict=True)
            for row, edge in enumerate(part)
        }

    @property
    def num_constants(self) -> int:
        """Number of parameters that have an effect."""
        total = self.out_features + int(self.slope_mask.sum()) + 3 * len(self._row)
        if self.curves is not None:
            total += int(self.curve_mask.sum()) * self.curves.features_per_input
        return total

    @property
    def flops(self) -> int:
        """Floating-point operations that one row needs; the implementation may do more.

        A linear edge counts 2, a function 3 + 4, a curve as in a KAN layer.
        """
        total = self.out_features + 2 * int(self.slope_mask.sum())
        total += (3 + _FUNCTION_FLOPS) * len(self._row)
        if self.curves is not None:
            total += int(self.curve_mask.sum()) * self.curves.flops_per_curve
            total += int(self.curve_mask.any(0).sum()) * self.curves.flops_per_input
        return total

    def forward(self, input: Tensor) -> Tensor:
        """Maps (n, in) to (n, out)."""
        output = nn.functional.linear(input, self.slope * self.slope_mask, self.bias)
        if self.curves is not None:
            of_curves = (
                self.curves(input)
                if self._all_curves
                else self.curves.masked(input, self.curve_mask)
            )
            output = output + of_curves
        for group in self.groups:
            output = output.index_add(1, group.outputs, group(input))
        return output

    def edge_outputs(self, input: Tensor) -> Tensor:
        """Evaluates each edge, without the constants: (n, out, in) from inputs (n, in)."""
        outputs = input.unsqueeze(1) * (self.slope * self.slope_mask)
        if self.curves is not None:
            outputs = outputs + self.curves.edge_outputs(input) * self.curve_mask
        rows = torch.arange(len(input), device=input.device)[:, None]
        for group in self.groups:
            places = rows, group.outputs, group.inputs
            outputs = outputs.index_put(places, group(input), accumulate=True)
        return outputs

    @torch.no_grad()
    def slope_of(self, edge: Edge) -> float:
        """Slope of an edge's linear part; 0 where it has none."""
        at = edge.output, edge.input
        return float(self.slope[at] * self.slope_mask[at])

    @torch.no_grad()
    def function_of(self, edge: Edge) -> AppliedFunction | None:
        """The function of an edge without its linear part; None for curves and lines."""
        if (edge.input, edge.output) not in self._row:
            return None
        group, row = self._row[edge.input, edge.output]
        a, b, c = (float(part[row]) for part in (group.inner, group.shift, group.outer))
        return AppliedFunction(group.function, a, b, c)

    @torch.no_grad()
    def set_match(self, edge: Edge, match: Match) -> None:
        """Sets an edge to a match of its kind; the constant d is added to the unit's bias."""
        self.slope[edge.output, edge.input] = match.slope
        self.bias[edge.output] += match.constant
        if (edge.input, edge.output) in self._row:
            group, row = self._row[edge.input, edge.output]
            group.inner[row], group.shift[row], group.outer[row] = match.a, match.b, match.c

    @torch.no_grad()
    def take(self, other: ReadableLayer, outputs: Sequence[int], inputs: Sequence[int]) -> None:
        """Copies another layer's biases, and parameters of all edges of the same kind in both.

        Args:
            other: A layer with curves on the same basis.
            outputs: For each output of this layer, its number in the other.
            inputs: For each input of this layer, its number in the other.
        """
        rows, columns = torch.tensor(outputs), torch.tensor(inputs)
        self.bias.copy_(other.bias[rows])
        self.slope.copy_(other.slope[rows][:, columns] * self.slope_mask)
        if self.curves is not None and other.curves is not None:
            weight = other.curves.weight.view(other.out_features, other.in_features, -1)
            self.curves.weight.copy_(weight[rows][:, columns].flatten(1))
            for name in ("grid_origin", "grid_step"):
                getattr(self.curves.basis, name).copy_(getattr(other.curves.basis, name)[columns])
        for (input, output), (group, row) in self._row.items():
            source, place = other._row.get((inputs[input], outputs[output]), (None, 0))
            if source is not None and source.function.name == group.function.name:
                for name in ("inner", "shift", "outer"):
                    getattr(group, name)[row] = getattr(source, name)[place]

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws fresh curves and sets every line and function to 0."""
        if self.curves is not None:
            self.curves.reset_parameters(generator)
        nn.init.zeros_(self.slope)
        nn.init.zeros_(self.bias)
        for group in self.groups:
            nn.init.ones_(group.inner)
            nn.init.zeros_(group.shift)
            nn.init.zeros_(group.outer)
