r"""The feed-forward blocks of a network: two linear maps with an activation between them.

.. math:: y = W_2\, a(W_1 x + b_1) + b_2 \qquad \text{or} \qquad
    y = W_2 \big(v \odot a(q)\big) + b_2, \quad (v, q) = W_1 x + b_1,

with gates q in the second form (Shazeer 2020, arXiv:2002.05202). These are recognised as blocks:

* diffusers' ``FeedForward`` with GELU, GEGLU, SwiGLU and its other activations;
* torch's ``TransformerEncoderLayer`` and ``TransformerDecoderLayer``;
* any module whose parts are two linear maps, one activation and dropout, such as ``CLIPMLP``;
* a linear map, an activation and a linear map one after another in an ``nn.Sequential``.

A block is changed slot by slot: the module that owns it and that module's ``forward`` stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, silu

from kan_diffusion.kan.functions import BasisLayer

__all__ = ["Block", "Function", "find_blocks", "put"]

Function = Callable[[Tensor], Tensor]

_BETWEEN = (nn.Dropout, nn.Identity)
_PROBE = 16
"""Numbers on which a module is tried, to tell an activation from one that mixes its inputs."""


@dataclass(frozen=True)
class Block:
    """A feed-forward block.

    Attributes:
        path: Path in the network; in an ``nn.Sequential``, the path of its activation.
        owner: The module that the block belongs to.
        first: Name of the first linear map within the owner.
        slot: Name of the activation within the owner.
        last: Name of the second linear map within the owner.
        activation: The function between them.
        label: Name of the function, with its gates.
        gated: Whether half of the first map's outputs are gates, to which the function applies.
        joined: Whether the slot holds the first map, too.
        embedding: Whether it embeds a timestep or a caption once per call, and is not a layer of
            the network proper.
        obstacle: Why a block of this form cannot be replaced, or None.
    """

    path: str
    owner: nn.Module
    first: str
    slot: str
    last: str
    activation: Function
    label: str
    gated: bool = False
    joined: bool = False
    embedding: bool = False
    obstacle: str | None = None

    @property
    def up(self) -> nn.Linear:
        """The first linear map."""
        return _linear(self.owner.get_submodule(self.first))

    @property
    def down(self) -> nn.Linear:
        """The second linear map."""
        return _linear(self.owner.get_submodule(self.last))

    @property
    def hidden(self) -> int:
        """Number of hidden units."""
        return self.down.in_features

    @property
    def entry(self) -> str:
        """Name of the part that takes the block's input."""
        return self.slot if self.joined else self.first

    @property
    def parts(self) -> dict[str, object]:
        """Linear maps and activation, or what replaced them, by the names of their slots."""
        parts: dict[str, object] = {}
        for name in (self.entry, self.slot, self.last):
            parent, _, last = name.rpartition(".")
            parts[name] = getattr(self.owner.get_submodule(parent), last)  # perhaps no module
        return parts

    @property
    def refusal(self) -> str | None:
        """Why the block cannot be replaced, or None."""
        modules = [part for part in self.parts.values() if isinstance(part, nn.Module)]
        if any(isinstance(part, BasisLayer) for module in modules for part in module.modules()):
            return "it is made of KAN layers already"
        if self.obstacle is not None:
            return self.obstacle
        for name in (self.first, self.last):
            part = self.owner.get_submodule(name)
            kind = type(part)
            if hasattr(part, "base_layer"):
                return (
                    f"'{name}' is wrapped by an adapter ({kind.__module__}.{kind.__name__}); merge "
                    "or unload it, and add adapters afterwards"
                )
            weight = getattr(part, "weight", None)
            if kind is not nn.Linear or type(weight) is not nn.Parameter:
                return (
                    f"'{name}' is a {kind.__module__}.{kind.__name__} and no plain nn.Linear; "
                    "replace blocks before they are quantised or wrapped"
                )
        activation = self.activation
        if isinstance(activation, nn.Module) and any(True for _ in activation.parameters()):
            return f"'{self.label}' is learned already"
        if not _is_activation(activation):
            return f"'{self.label}' is not one function of numbers"
        units = self.up.out_features // (1 + int(self.gated))
        if units != self.hidden:
            return f"'{self.first}' gives {units} units and '{self.last}' takes {self.hidden}"
        return None


def put(owner: nn.Module, name: str, part: object) -> None:
    """Replaces a part, given by its name with dots."""
    parent, _, last = name.rpartition(".")
    holder = owner.get_submodule(parent)
    if not isinstance(part, nn.Module):
        delattr(holder, last)  # the old part is a module, which torch keeps elsewhere
    setattr(holder, last, part)


def find_blocks(module: nn.Module) -> dict[str, Block]:
    """Finds the feed-forward blocks of a network.

    Args:
        module: The network, or a block itself.

    Returns:
        The blocks by path in the order of the network, those that cannot be replaced included.
    """
    return {
        block.path: block
        for path, owner in module.named_modules()
        for block in _blocks_of(path, owner)
    }


def _blocks_of(path: str, owner: nn.Module) -> Iterator[Block]:
    if _is(owner, "diffusers.models.attention", "FeedForward"):
        yield _of_diffusers(path, owner)
    elif isinstance(owner, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
        label = _label(owner.activation)
        yield Block(path, owner, "linear1", "activation", "linear2", owner.activation, label)
    elif isinstance(owner, nn.Sequential):
        yield from _of_sequential(path, owner)
    else:
        yield from _of_parts(path, owner)


def _of_diffusers(path: str, owner: nn.Module) -> Block:
    """Describes a ``FeedForward``, whose first part is a linear map and the activation."""
    part = owner.get_submodule("net.0")
    label = type(part).__name__
    functions: dict[str, Function] = {
        "GELU": partial(gelu, approximate=getattr(part, "approximate", "none")),
        "GEGLU": gelu,
        "SwiGLU": silu,
        "ApproximateGELU": _sigmoid_gelu,
        "LinearActivation": getattr(part, "activation", silu),
    }
    known = _is(part, "diffusers.models.activations", label) and label in functions
    gated = label in ("GEGLU", "SwiGLU")
    if label == "LinearActivation":
        label = _label(functions[label])
    return Block(
        path,
        owner,
        "net.0.proj" if known else "net.0",
        "net.0",
        "net.2",
        functions[type(part).__name__] if known else torch.clone,
        label,
        gated,
        joined=True,
        obstacle=None if known else f"'{label}' is no activation that is known here",
    )


def _of_sequential(path: str, owner: nn.Sequential) -> Iterator[Block]:
    """Finds each activation with a linear map on both sides, dropout left out."""
    # named_children() would give a part that occurs twice, such as one activation, only once.
    named = owner._modules.items()
    parts = [(name, part) for name, part in named if part is not None and not _passes(part)]
    for (first, up), (slot, activation), (last, down) in zip(
        parts, parts[1:], parts[2:], strict=False
    ):
        if _maps(up) and _maps(down) and _is_activation(activation):
            own = f"{path}.{slot}" if path else slot
            function: Function = activation
            yield Block(own, owner, first, slot, last, function, _label(activation))


def _of_parts(path: str, owner: nn.Module) -> Iterator[Block]:
    """Finds two linear maps and an activation, if a module has nothing else."""
    parts = [(name, part) for name, part in owner.named_children() if not _passes(part)]
    maps = [name for name, part in parts if _maps(part)]
    if len(maps) not in (2, 3) or len(parts) != 1 + len(maps):
        return
    ((slot, activation),) = ((name, part) for name, part in parts if name not in maps)
    if not _is_activation(activation):  # asked last, since it calls the part
        return
    function: Function = activation
    yield Block(
        path,
        owner,
        maps[0],
        slot,
        maps[-1],
        function,
        _label(activation),
        embedding=type(owner).__module__.endswith(".embeddings"),
        obstacle="its gates have a linear map of their own" if len(maps) == 3 else None,
    )


def _is(part: nn.Module, module: str, name: str) -> bool:
    """Tells whether a part is an instance of a class, which need not be imported."""
    return any((kind.__module__, kind.__name__) == (module, name) for kind in type(part).__mro__)


def _linear(part: nn.Module) -> nn.Linear:
    assert isinstance(part, nn.Linear)
    return part


def _passes(part: nn.Module) -> bool:
    """Tells whether a part leaves its input as it is, except for dropout."""
    return isinstance(part, _BETWEEN)


def _maps(part: nn.Module) -> bool:
    """Tells whether a part is a linear map of any library."""
    widths = getattr(part, "in_features", None), getattr(part, "out_features", None)
    return all(isinstance(width, int) for width in widths)


def _is_activation(part: object) -> bool:
    """Tells whether a part is an elementwise function, by trying it on a few numbers."""
    if isinstance(part, BasisLayer):
        return True
    if not callable(part) or (isinstance(part, nn.Module) and _maps(part)):
        return False
    few = _PROBE // 4
    x = torch.linspace(-2, 2, _PROBE, device="cpu")
    # Of the same length: torch rounds some functions otherwise where it has no whole vectors.
    other = torch.cat([x[few:] + 1, x[:few]])
    try:
        with torch.no_grad():
            whole, moved = part(x.clone()), part(other)
    except Exception:  # noqa: BLE001  # another module may raise anything at such an input
        return False
    return (
        isinstance(whole, Tensor)
        and whole.shape == x.shape
        and torch.equal(whole[:few], moved[-few:])
        and not torch.equal(whole, x)
    )


def _label(activation: object) -> str:
    return getattr(activation, "__name__", type(activation).__name__)


def _sigmoid_gelu(x: Tensor) -> Tensor:
    """Computes GELU as in ``ApproximateGELU`` of diffusers."""
    return x * torch.sigmoid(1.702 * x)
