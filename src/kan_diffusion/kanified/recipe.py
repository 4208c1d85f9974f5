"""Recipes: the replacement of a block as numbers and names, enough to build it again.

A recipe is JSON in the configuration of a saved network. It is checked like any input, and the
parts built from it fit into the block that it names.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, Self, TypeVar

import torch
from pydantic import Field, model_validator
from torch import nn

from kan_diffusion.errors import KanDiffusionError, require_known
from kan_diffusion.kan import KANLinear
from kan_diffusion.kan.bases import BASES, MAX_ORDER
from kan_diffusion.kanified.blocks import Block, part_of, put
from kan_diffusion.kanified.layers import ActivatedLinear, LearnedActivation
from kan_diffusion.limits import LARGEST_SETTING
from kan_diffusion.settings import Settings

__all__ = ["Kind", "Parts", "Recipe", "build", "install"]

Kind = Literal["grouped", "full"]
"""Learned functions that hidden units share by turns, or a function for each edge."""

_ROWS = 256
"""Number of random inputs on which the outputs of a fresh block are measured and scaled."""

_Layer = TypeVar("_Layer", nn.Linear, KANLinear, LearnedActivation)

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


@dataclass(frozen=True)
class Parts:
    """The parts that replace a block.

    Attributes:
        by_slot: New parts by the names of their slots within the block's owner.
        curves: The learned functions of the hidden units; None for ``"full"``.
    """

    by_slot: dict[str, nn.Module]
    curves: LearnedActivation | None


def build(
    block: Block,
    recipe: Recipe,
    *,
    noise: float = 1e-3,
    generator: torch.Generator | None = None,
    device: torch.device | None = None,
) -> Parts:
    """Makes the parts that replace a block.

    For ``"grouped"`` the linear maps are the block's own if its number of hidden units stays.

    Args:
        block: The block.
        recipe: What to make.
        noise: Standard deviation of the noise added to the coefficients of learned functions.
        generator: Where fresh parameters come from; torch's default generator when None.
        device: Device of the parts; the block's when None.

    Returns:
        The parts, not yet in their place.

    Raises:
        KanDiffusionError: The basis cannot be made or fitted with these settings.
    """
    up, down = block.up, block.down
    device, dtype = device or up.weight.device, up.weight.dtype
    if recipe.kind == "full":

        def layer(inputs: int, outputs: int, bias: bool) -> KANLinear:
            made = KANLinear(
                inputs,
                outputs,
                bias,
                basis=recipe.basis,
                grid_size=recipe.grid_size,
                order=recipe.order,
                grid_range=recipe.grid_range,
                device="meta",
                dtype=dtype,
            )
            return _drawn(made, device, generator)

        first = layer(up.in_features, recipe.hidden, up.bias is not None)
        last = layer(recipe.hidden, down.out_features, down.bias is not None)
        _start_as_wide(block, first, last, generator)
        between = {} if block.joined else {block.slot: nn.Identity()}
        return Parts({block.entry: first, **between, block.last: last}, None)
    by_slot: dict[str, nn.Module] = {}
    if recipe.hidden != block.hidden:
        width = recipe.hidden * (1 + int(block.gated))
        up = _drawn(_like(up, up.in_features, width), device, generator)
        down = _drawn(_like(down, recipe.hidden, down.out_features), device, generator)
        by_slot = {block.first: up, block.last: down}
    curves = LearnedActivation(
        recipe.hidden,
        groups=[unit % recipe.functions for unit in range(recipe.hidden)],
        basis=recipe.basis,
        grid_size=recipe.grid_size,
        order=recipe.order,
        grid_range=recipe.grid_range,
        start=[block.activation],
        noise=noise,
        device="meta",
        dtype=torch.promote_types(dtype, torch.float32),
    )
    _drawn(curves, device, generator)
    part = ActivatedLinear(up, curves, block.gated) if block.joined else curves
    if block.joined:
        by_slot.pop(block.first, None)
    return Parts({**by_slot, block.slot: part}, curves)


@torch.no_grad()
def _start_as_wide(
    block: Block, first: KANLinear, last: KANLinear, generator: torch.Generator | None
) -> None:
    """Scales fresh layers so that outputs for standard normal inputs have the block's variance.

    As drawn, the layers would spread the outputs of a transformer's block several times as wide.
    """
    weight = last.weight
    if weight.is_meta:
        return
    x = torch.empty(_ROWS, first.in_features, dtype=weight.dtype, device=weight.device)
    x.normal_(generator=generator)
    hidden = block.up(x)
    if block.gated:
        values, gates = hidden.chunk(2, dim=-1)
        hidden = values * block.activation(gates)
    else:
        hidden = block.activation(hidden)
    wanted, found = (y.float().var(0).mean() for y in (block.down(hidden), last(first(x))))
    if found > 0:
        weight.mul_((wanted / found).sqrt())


def _like(linear: nn.Linear, inputs: int, outputs: int) -> nn.Linear:
    bias = linear.bias is not None
    return nn.Linear(inputs, outputs, bias, device="meta", dtype=linear.weight.dtype)


def _drawn(layer: _Layer, device: torch.device, generator: torch.Generator | None) -> _Layer:
    """Moves a layer from the meta device to another, with fresh parameters."""
    if device.type == "meta":
        return layer
    layer.to_empty(device=device)
    if not isinstance(layer, nn.Linear):
        layer.reset_parameters(generator)
        return layer
    bound = 1 / math.sqrt(layer.in_features)  # as in torch
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-bound, bound, generator=generator)
    return layer


def install(root: nn.Module, block: Block, parts: Parts) -> Callable[[], None]:
    """Puts parts in place of a block's, in training or evaluation mode like their owner.

    torch's encoder layers have a fast path that only knows ReLU and GELU; it is switched off.

    Args:
        root: The network.
        block: A block of it.
        parts: The parts that take its place.

    Returns:
        A function that puts back what was there.
    """
    owner = block.owner
    held = {slot: part_of(owner, slot) for slot in parts.by_slot}
    flags: list[tuple[nn.Module, str, object]] = []
    if isinstance(owner, nn.TransformerEncoderLayer):
        flags.append((owner, "activation_relu_or_gelu", 0))
        flags += [
            (encoder, "use_nested_tensor", False)
            for encoder in root.modules()
            if isinstance(encoder, nn.TransformerEncoder)
            and any(layer is owner for layer in encoder.layers)
        ]
    before = [(module, name, getattr(module, name)) for module, name, _ in flags]
    for slot, part in parts.by_slot.items():
        put(owner, slot, part.train(owner.training))
    for module, name, value in flags:
        setattr(module, name, value)

    def undo() -> None:
        for slot, part in held.items():
            put(owner, slot, part)
        for module, name, value in before:
            setattr(module, name, value)

    return undo
