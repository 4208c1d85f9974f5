"""Recipes: the replacement of a block as numbers and names, enough to build it again.

A recipe is JSON beside a saved network. It is checked like any input, and the parts built from it
fit into the block that it names.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from kan_diffusion.errors import KanDiffusionError, require_known
from kan_diffusion.kan import KANLinear, LearnedFunctions
from kan_diffusion.kan.bases import BASES, MAX_ORDER
from kan_diffusion.kan.functions import BasisLayer
from kan_diffusion.kanified.blocks import Block, put
from kan_diffusion.limits import LARGEST_SETTING
from kan_diffusion.settings import Settings

__all__ = ["ActivatedLinear", "Kind", "LearnedActivation", "Recipe", "build", "install"]

Kind = Literal["grouped", "full"]
"""Learned functions that hidden units share by turns, or a function for each edge."""

_ROWS = 256
"""Number of random inputs on which the outputs of a fresh block are measured and scaled."""

_Size = Annotated[int, Field(ge=1, le=LARGEST_SETTING)]
_Units = Annotated[int, Field(ge=1, le=1_000_000)]
_End = Annotated[float, Field(ge=-LARGEST_SETTING, le=LARGEST_SETTING)]


class Recipe(Settings):
    """The replacement of one block.

    Attributes:
        path: Path of the block in the network.
        kind: ``"grouped"`` or ``"full"``.
        hidden: Number of hidden units.
        basis: Basis of the learned functions, by name in ``BASES``.
        functions: Number of functions that the hidden units share by turns; for ``"grouped"``.
        grid_size: Number of intervals of the grid.
        order: Degree of the splines.
        grid_range: Ends of the grid at the start, for the inputs of the hidden units
            (``"grouped"``) or the block's inputs and the hidden units (``"full"``).
    """

    path: str
    kind: Kind
    hidden: _Units
    basis: str = "bspline"
    functions: _Size = 8
    grid_size: _Size = 8
    order: Annotated[int, Field(ge=1, le=MAX_ORDER)] = 3
    grid_range: tuple[_End, _End] = (-3.0, 3.0)

    @model_validator(mode="after")
    def _known_and_in_order(self) -> Self:
        require_known("basis", self.basis, BASES)
        low, high = self.grid_range
        if not low < high:
            raise KanDiffusionError(
                f"grid_range must be two numbers, the lower first, not ({low:g}, {high:g})"
            )
        return self


class LearnedActivation(LearnedFunctions):
    """One learned function for each unit, shared in groups: (*, units) -> (*, units)."""

    def forward(self, input: Tensor) -> Tensor:
        """Applies the functions in float32 or more; the output has the dtype of the input."""
        return super().forward(input).to(input.dtype)


class ActivatedLinear(nn.Module):
    """A linear map and learned functions of its outputs: the first part of a ``FeedForward``.

    Args:
        proj: The linear map.
        functions: The functions, one for each unit.
        gated: Whether the map gives values, then gates; functions of the gates then multiply the
            values.
    """

    def __init__(self, proj: nn.Linear, functions: LearnedActivation, gated: bool) -> None:
        super().__init__()
        self.proj = proj
        self.functions = functions
        self.gated = gated

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Maps (*, in_features) to (*, units)."""
        hidden_states = self.proj(hidden_states)
        if not self.gated:
            return self.functions(hidden_states)
        values, gates = hidden_states.chunk(2, dim=-1)
        return values * self.functions(gates)

    def extra_repr(self) -> str:
        """The settings that differ between layers, for ``print``."""
        return f"gated={self.gated}"


def build(
    block: Block,
    recipe: Recipe,
    *,
    noise: float = 1e-3,
    generator: torch.Generator | None = None,
    device: torch.device | None = None,
) -> dict[str, nn.Module]:
    """Makes the parts that replace a block.

    For ``"grouped"`` the linear maps are the block's own if its number of hidden units stays.

    Args:
        block: The block.
        recipe: What to make.
        noise: Standard deviation of the noise added to the coefficients of learned functions.
        generator: Where fresh parameters come from; torch's default generator when None.
        device: Device of the parts; the block's when None.

    Returns:
        The new parts by the names of their slots within the block's owner, not yet in place.

    Raises:
        KanDiffusionError: The basis cannot be made or fitted with these settings.
    """
    up, down = block.up, block.down
    # A network that a library builds before it reads the weights keeps its buffers in memory, and
    # so do parts that are built as it was.
    place = None if device is None and up.weight.is_meta else "meta"
    device, dtype = device or up.weight.device, up.weight.dtype
    grid = recipe.model_dump(include={"basis", "grid_size", "order", "grid_range"})
    if recipe.kind == "full":
        shared: dict[str, Any] = {"device": place, "dtype": dtype, **grid}
        first = KANLinear(up.in_features, recipe.hidden, up.bias is not None, **shared)
        last = KANLinear(recipe.hidden, down.out_features, down.bias is not None, **shared)
        for layer in (first, last):
            _draw(layer, device, generator)
        if device.type != "meta":
            _spread_as(block, first, last, generator)
        between = {} if block.joined else {block.slot: nn.Identity()}
        return {block.entry: first, **between, block.last: last}
    parts: dict[str, nn.Module] = {}
    if recipe.hidden != block.hidden:
        width = recipe.hidden * (1 + int(block.gated))
        up = _like(up, up.in_features, width)
        down = _like(down, recipe.hidden, down.out_features)
        parts = {block.first: up, block.last: down}
        for part in parts.values():
            _draw(part, device, generator)
    curves = LearnedActivation(
        recipe.hidden,
        groups=min(recipe.functions, recipe.hidden),
        initial=[block.activation],
        noise=noise,
        device=place,
        dtype=torch.promote_types(dtype, torch.float32),
        **grid,
    )
    _draw(curves, device, generator)
    if not block.joined:
        return {**parts, block.slot: curves}
    parts.pop(block.first, None)
    return {**parts, block.slot: ActivatedLinear(up, curves, block.gated)}


@torch.no_grad()
def _spread_as(
    block: Block, first: KANLinear, last: KANLinear, generator: torch.Generator | None
) -> None:
    """Scales fresh layers so that outputs for standard normal inputs have the block's variance.

    As drawn, the layers would spread the outputs of a transformer's block several times as wide.
    """
    x = first.weight.new_empty(_ROWS, first.in_features).normal_(generator=generator)
    hidden = block.up(x)
    if block.gated:
        values, gates = hidden.chunk(2, dim=-1)
        hidden = values * block.activation(gates)
    else:
        hidden = block.activation(hidden)
    wanted, found = (y.float().var(0).mean() for y in (block.down(hidden), last(first(x))))
    if found > 0:
        last.weight.mul_((wanted / found).sqrt())


def _like(linear: nn.Linear, inputs: int, outputs: int) -> nn.Linear:
    bias = linear.bias is not None
    return nn.Linear(inputs, outputs, bias, device="meta", dtype=linear.weight.dtype)


@torch.no_grad()
def _draw(part: nn.Module, device: torch.device, generator: torch.Generator | None) -> None:
    """Moves a part to a device, with fresh parameters unless that is the meta device."""
    if device.type == "meta":
        if not next(part.parameters()).is_meta:
            part.to(device)
        return
    part.to_empty(device=device)
    if isinstance(part, BasisLayer):
        part.reset_parameters(generator)
        return
    for parameter in part.parameters():
        bound = 1 / math.sqrt(part.get_parameter("weight").shape[1])  # as in torch
        parameter.uniform_(-bound, bound, generator=generator)


def install(root: nn.Module, block: Block, parts: dict[str, nn.Module]) -> None:
    """Puts parts in place of a block's, in training or evaluation mode like their owner.

    torch's encoder layers have a fast path that only knows ReLU and GELU; it is switched off.

    Args:
        root: The network.
        block: A block of it.
        parts: The parts that take its place, by slot.
    """
    owner = block.owner
    for slot, part in parts.items():
        put(owner, slot, part.train(owner.training))
    if isinstance(owner, nn.TransformerEncoderLayer):
        owner.activation_relu_or_gelu = 0
        for encoder in root.modules():
            if isinstance(encoder, nn.TransformerEncoder) and owner in list(encoder.layers):
                encoder.use_nested_tensor = False
