"""The edges of a readable layer, one by one: learned curves, lines, functions of a library."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kan_diffusion.denoisers.library import LINEAR, EdgeFunction, get_functions
from kan_diffusion.kan.linear import KANLinear

__all__ = ["CURVE", "Edge", "EdgeSetting", "Match", "ReadableLayer", "take_part"]

CURVE = "curve"
"""The kind of an edge that is what was learned."""

_FUNCTION_FLOPS = 4

_PRECISION = 1e-6
"""Unexplained share below which matches count as equally good."""


@dataclass(frozen=True)
class Edge:
    """An edge that is there.

    Attributes:
        layer: Its layer, from 0.
        input: The input or unit it leaves.
        output: The unit or output it enters.
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
    """How well a function describes a curve.

    Attributes:
        name: Of the function.
        has_slope: Whether there is a linear part beside it.
        a: Factor inside.
        b: Shift inside.
        c: Factor outside.
        slope: The linear part s.
        constant: The constant d.
        r2: Share of the variance of held-out samples that is explained; at most 1.
        complexity: Of the function, one more with a linear part.
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
        """Bits that the unexplained share takes, plus the complexity: the lower the better."""
        return math.log2(max(1 - self.r2, 0.0) + _PRECISION) + self.complexity


EdgeSetting = tuple[int, int, str, bool]
"""Input, output, kind and whether there is a linear part: an edge as a configuration has it."""


class _Formulas(nn.Module):
    """The edges of a layer that are one function of the library."""

    inputs: Tensor
    outputs: Tensor

    def __init__(self, function: EdgeFunction, edges: Sequence[Edge]) -> None:
        super().__init__()
        self.function = function
        self.edges = tuple(edges)
        for name in ("inputs", "outputs"):
            index = torch.tensor([getattr(edge, name[:-1]) for edge in edges])
            self.register_buffer(name, index, persistent=False)
        self.inner = nn.Parameter(torch.ones(len(edges)))
        self.shift = nn.Parameter(torch.zeros(len(edges)))
        self.outer = nn.Parameter(torch.zeros(len(edges)))

    def forward(self, input: Tensor) -> Tensor:
        """C f(a x + b) of each of these edges: (n, edges) from inputs (n, in)."""
        z = torch.addcmul(self.shift, input.index_select(1, self.inputs), self.inner)
        return self.outer * self.function.values(z)


class ReadableLayer(nn.Module):
    """A layer of edges of several kinds, (n, in) -> (n, out).

    Args:
        in_features: Number of inputs.
        out_features: Number of outputs.
        edges: The edges there are, of this layer.
        curves: A layer whose curves the edges of kind ``"curve"`` are; it has no bias.

    Attributes:
        curves: That layer; None where no edge is a curve.
        slope: Slopes of the linear edges and linear parts with shape (out, in); 0 elsewhere.
        formulas: The functions' edges, by function.
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
        self.curves = curves if bool(curve_mask.any()) else None
        self._all_curves = bool(curve_mask.all())
        self.slope = nn.Parameter(torch.zeros(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        functions = get_functions(by_kind, importing=False)
        self.formulas = nn.ModuleList(
            _Formulas(functions[kind], of_kind) for kind, of_kind in by_kind.items()
        )

    def groups(self) -> Iterator[_Formulas]:
        """The functions' edges, by function."""
        for group in self.formulas:
            assert isinstance(group, _Formulas)
            yield group

    @property
    def num_constants(self) -> int:
        """Number of parameters that have an effect."""
        total = self.out_features + int(self.slope_mask.sum())
        total += 3 * sum(len(group.edges) for group in self.groups())
        if self.curves is not None:
            total += int(self.curve_mask.sum()) * self.curves.features_per_input
        return total

    @property
    def flops(self) -> int:
        """Floating-point operations for one row, as this layer needs them and not as it does them.

        A linear edge counts 2, a function 3 and 4 for itself, a curve as in a KAN layer.
        """
        total = self.out_features + 2 * int(self.slope_mask.sum())
        total += (3 + _FUNCTION_FLOPS) * sum(len(group.edges) for group in self.groups())
        if self.curves is not None:
            total += int(self.curve_mask.sum()) * self.curves.flops_per_curve
            total += int(self.curve_mask.any(0).sum()) * self.curves.flops_per_input
        return total

    def forward(self, input: Tensor) -> Tensor:
        """Maps (n, in) to (n, out)."""
        output = nn.functional.linear(input, self.slope * self.slope_mask, self.bias)
        if self.curves is not None:
            output = output + self._curves(input)
        for group in self.groups():
            output = output.index_add(1, group.outputs, group(input))
        return output

    def _curves(self, input: Tensor) -> Tensor:
        assert self.curves is not None
        if self._all_curves:
            return self.curves(input)
        return self.curves.masked(input, self.curve_mask)

    def edge_outputs(self, input: Tensor) -> Tensor:
        """What each edge adds to its output, constants left out: (n, out, in)."""
        outputs = input.unsqueeze(1) * (self.slope * self.slope_mask)
        if self.curves is not None:
            outputs = outputs + self.curves.edge_outputs(input) * self.curve_mask
        for group in self.groups():
            outputs = outputs.index_put(
                (
                    torch.arange(len(input), device=input.device)[:, None],
                    group.outputs,
                    group.inputs,
                ),
                group(input),
                accumulate=True,
            )
        return outputs

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws fresh curves and sets every formula to nothing."""
        if self.curves is not None:
            self.curves.reset_parameters(generator)
        nn.init.zeros_(self.slope)
        nn.init.zeros_(self.bias)
        for group in self.groups():
            nn.init.ones_(group.inner)
            nn.init.zeros_(group.shift)
            nn.init.zeros_(group.outer)


def take_part(
    mine: ReadableLayer, theirs: ReadableLayer, rows: list[int], columns: list[int]
) -> None:
    """Copies the parameters of some outputs and inputs of a layer."""
    mine.slope.copy_(theirs.slope[rows][:, columns])
    mine.bias.copy_(theirs.bias[rows])
    if mine.curves is not None and theirs.curves is not None:
        packed = theirs.curves.weight.view(theirs.out_features, theirs.in_features, -1)
        mine.curves.weight.copy_(packed[rows][:, columns].flatten(1))
        for name in ("grid_origin", "grid_step"):
            getattr(mine.curves.grid, name).copy_(getattr(theirs.curves.grid, name)[columns])
    known = {
        (edge.input, edge.output, edge.kind): (group, index)
        for group in theirs.groups()
        for index, edge in enumerate(group.edges)
    }
    for group in mine.groups():
        for index, edge in enumerate(group.edges):
            source, at = known[columns[edge.input], rows[edge.output], edge.kind]
            for name in ("inner", "shift", "outer"):
                getattr(group, name)[index] = getattr(source, name)[at]
