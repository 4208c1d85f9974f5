r"""The feed-forward blocks of a network: two linear maps with an activation between them.

.. math:: y = W_2\, a(W_1 x + b_1) + b_2 \qquad \text{or} \qquad
    y = W_2 \big(v \odot a(q)\big) + b_2, \quad (v, q) = W_1 x + b_1,

with gates q in the second form (Shazeer 2020, arXiv:2002.05202). These are recognised as blocks:

* diffusers' ``FeedForward`` with GELU, GEGLU, SwiGLU and its other activations;
* torch's ``TransformerEncoderLayer`` and ``TransformerDecoderLayer``;
* any module whose parts are two linear maps, one activation and dropout, such as ``CLIPMLP``, if
  its forward pass, where it can be followed, applies them one after the other;
* a linear map, an activation and a linear map one after another in an ``nn.Sequential``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from operator import attrgetter
from typing import Any

import torch
from diffusers.models import activations
from diffusers.models.attention import FeedForward
from torch import Tensor, fx, nn
from torch.nn.functional import gelu, silu

from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.kan.functions import BasisLayer

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Block:
    """A feed-forward block, which is changed slot by slot: its owner and that ``forward`` stay.

    Attributes:
        path: Path in the network; in an ``nn.Sequential``, the path of its activation.
        owner: The module that the block belongs to.
        slots: Names within the owner of first linear map, activation and second linear map; the
            first two are the same where one part is map and activation.
        up: The first linear map.
        activation: The function between them.
        down: The second linear map.
        gated: Whether half of the first map's outputs are gates, to which the function applies.
        obstacle: Why a block of this form cannot be replaced, or None.

    Example:
        >>> from kan_diffusion.kanified import find_blocks
        >>> blocks = find_blocks(torch.nn.TransformerEncoderLayer(16, 2, 64))
        >>> [(block.hidden, block.label) for block in blocks.values()]
        [(64, 'relu')]
    """

    path: str
    owner: nn.Module
    slots: tuple[str, str, str]
    up: nn.Linear
    activation: Function
    down: nn.Linear
    gated: bool = False
    obstacle: str | None = None

    @property
    def hidden(self) -> int:
        """Number of hidden units."""
        return self.down.in_features

    @property
    def label(self) -> str:
        """Name of the function, with its gates."""
        part = attrgetter(self.slots[1])(self.owner)
        return getattr(part, "__name__", type(part).__name__)

    @property
    def embedding(self) -> bool:
        """Whether it embeds a timestep or a caption once per call, outside the network proper."""
        return type(self.owner).__module__.endswith(".embeddings")

    @property
    def refusal(self) -> str | None:
        """Why the block cannot be replaced, or None."""
        if any(isinstance(part, BasisLayer) for part in (self.up, self.activation, self.down)):
            return "it is made of KAN layers already"
        if self.obstacle is not None:
            return self.obstacle
        for name, part in ((self.slots[0], self.up), (self.slots[2], self.down)):
            if type(part) is not nn.Linear or type(part.weight) is not nn.Parameter:
                return (
                    f"'{name}' is a {type(part).__module__}.{type(part).__name__} and no plain "
                    "nn.Linear; merge adapters first, and quantise or wrap blocks afterwards"
                )
        if isinstance(self.activation, nn.Module) and list(self.activation.parameters()):
            return f"'{self.label}' is learned already"
        units = self.up.out_features // (1 + int(self.gated))
        if units != self.hidden:
            return f"'{self.slots[0]}' gives {units} units, '{self.slots[2]}' takes {self.hidden}"
        return None


def find_blocks(module: nn.Module) -> dict[str, Block]:
    """Finds the feed-forward blocks of a network.

    Args:
        module: The network, or a block itself.

    Returns:
        The blocks by path in the order of the network, those that cannot be replaced included.

    Raises:
        KanDiffusionError: It is no module.
    """
    if not isinstance(module, nn.Module):
        raise KanDiffusionError(f"a torch.nn.Module has blocks, a {type(module).__name__} has none")
    blocks: list[Block] = []
    for path, owner in module.named_modules():
        if isinstance(owner, FeedForward):
            blocks.append(_of_diffusers(path, owner))
            continue
        named: Mapping[str, Any] = owner._modules  # parts that occur twice, too
        is_of_torch = isinstance(owner, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer)
        if is_of_torch:
            named = {name: getattr(owner, name) for name in ("linear1", "activation", "linear2")}
        passing = nn.Dropout | nn.Identity | None
        parts = [(name, part) for name, part in named.items() if not isinstance(part, passing)]
        maps = [one for one in parts if _maps(one[1])]
        triples, obstacle, chain = [], None, isinstance(owner, nn.Sequential)
        if chain:
            triples = list(zip(parts, parts[1:], parts[2:], strict=False))
        elif len(maps) in (2, 3) and len(parts) == len(maps) + 1:
            (other,) = (one for one in parts if one not in maps)
            triples = [(maps[0], other, maps[-1])]
            if len(maps) == 3:
                obstacle = "its gates have a linear map of their own"
            elif not is_of_torch:
                obstacle = _misuse(owner, maps[0][0], other[0], maps[1][0])
        for (first, up), (slot, middle), (last, down) in triples:
            if _maps(up) and _maps(down) and _is_activation(middle):
                block_path = f"{path}.{slot}".removeprefix(".") if chain else path
                slots = first, slot, last
                blocks.append(Block(block_path, owner, slots, up, middle, down, obstacle=obstacle))
    return {block.path: block for block in blocks}


def _of_diffusers(path: str, owner: FeedForward) -> Block:
    """Describes a ``FeedForward``, whose first part is a linear map and the activation."""
    part = owner.net[0]
    functions = {
        activations.GELU: partial(gelu, approximate=getattr(part, "approximate", "none")),
        activations.GEGLU: gelu,
        activations.SwiGLU: silu,
        activations.ApproximateGELU: _sigmoid_gelu,
        activations.LinearActivation: getattr(part, "activation", silu),
    }
    name, known = type(part).__name__, type(part) in functions
    return Block(
        path,
        owner,
        ("net.0", "net.0", "net.2"),
        getattr(part, "proj", part),
        functions[type(part)] if known else getattr(part, "functions", part),
        owner.net[2],
        gated=isinstance(part, activations.GEGLU | activations.SwiGLU),
        obstacle=None if known else f"'{name}' is no activation that is known here",
    )


class _Parts(fx.Tracer):
    """Follows a forward pass from part to part."""

    def is_leaf_module(self, *_: object, **_named: object) -> bool:
        """Enters no part."""
        return True


def _misuse(owner: nn.Module, *slots: str) -> str | None:
    """Says that a forward pass, if it can be followed, does not call parts one after the other."""
    try:
        graph = _Parts().trace(owner)
    except Exception:  # noqa: BLE001  # a forward pass may do anything
        return None
    calls = [node for node in graph.nodes if node.op == "call_module" and node.target in slots]
    is_chain = [node.target for node in calls] == [*slots]
    for before, after in pairwise(calls):
        sources = {after}
        for node in reversed(graph.nodes):
            sources |= {*node.all_input_nodes} if node in sources else set()
        is_chain &= before in sources
    if is_chain:
        return None
    up, activation, down = slots
    return f"its forward pass does not apply '{down}' to '{activation}' of '{up}'"


def _maps(part: object) -> bool:
    """Tells whether a part is a linear map of any library."""
    widths = getattr(part, "in_features", None), getattr(part, "out_features", None)
    return all(isinstance(width, int) for width in widths)


def _is_activation(part: Any) -> bool:  # noqa: ANN401  # of any library
    """Tells whether a part is an elementwise function, by trying it on a few numbers."""
    if isinstance(part, BasisLayer):
        return True
    x = torch.linspace(-2, 2, 16, device="cpu")
    # Of the same length: torch rounds some functions otherwise where it has no whole vectors.
    other = torch.cat([x[4:] + 1, x[:4]])
    try:
        with torch.no_grad():
            whole, moved = part(x.clone()), part(other)
        alone = whole.shape == x.shape and torch.equal(whole[:4], moved[-4:])
        return alone and not torch.equal(whole, x)
    except Exception:  # noqa: BLE001  # another module may raise anything at such an input
        return False


def _sigmoid_gelu(x: Tensor) -> Tensor:
    """Computes GELU as in ``ApproximateGELU`` of diffusers."""
    return x * torch.sigmoid(1.702 * x)
