"""Recipes: the replacement of a block as numbers and names, enough to build it again.

The folder of a kanified network holds what the library's own ``save_pretrained`` writes, and beside
it the recipes as JSON. Reading builds the network from its configuration, replaces the blocks of
the recipes, and then loads the weights. The library's own ``from_pretrained`` knows nothing of the
recipes: it would build the network with its old activations.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from huggingface_hub import constants
from pydantic import Field
from torch import Tensor, nn

from kan_diffusion.errors import KanDiffusionError, RunFolderError, valid_settings
from kan_diffusion.files import read_json, write_json
from kan_diffusion.kan import KANLinear, LearnedFunctions
from kan_diffusion.kan.functions import BasisLayer, draw_linear
from kan_diffusion.kanified.blocks import Block, Function, find_blocks
from kan_diffusion.limits import LARGEST_SETTING, MOST_PARAMETERS
from kan_diffusion.settings import Settings
from kan_diffusion.weights import SavedNetwork

Slot = tuple[nn.Module, str]
"""A module, and the name of a part of it."""
_FILE, _REMEDY = "kanified.json", "save it again with save_kanified"
_BY_HAND = "save the recipes of its report and its state dict"
_MOST_PARAMETERS = 100 * MOST_PARAMETERS  # others' networks are larger than denoisers of points
_Size = Annotated[int, Field(ge=1, le=LARGEST_SETTING)]


class Recipe(Settings):
    """The replacement of one block.

    Attributes:
        path: Path of the block in the network.
        kind: ``"grouped"`` (learned functions that hidden units share by turns) or ``"full"`` (a
            function for each edge).
        hidden: Number of hidden units.
        functions: Number of functions that the hidden units share by turns; for ``"grouped"``.
        grid_size: Number of intervals of the grid.
        grid_range: Ends of the grid at the start, for the inputs of the hidden units
            (``"grouped"``) or the block's inputs and the hidden units (``"full"``).

    Example:
        >>> from kan_diffusion.kanified import Recipe, rebuild
        >>> layer = torch.nn.TransformerEncoderLayer(16, 2, 64)
        >>> rebuild(layer, [Recipe(path="", kind="grouped", hidden=64)])
        >>> type(layer.activation).__name__
        'LearnedFunctions'
    """

    path: str
    kind: Literal["grouped", "full"]
    hidden: _Size
    functions: _Size = 8
    grid_size: _Size = 8
    grid_range: tuple[float, float] = (-3.0, 3.0)

    @property
    def grid(self) -> dict[str, Any]:
        """The settings of the learned functions' grid."""
        return self.model_dump(include={"grid_size", "grid_range"})


class ActivatedLinear(nn.Module):
    """A linear map and learned functions of its outputs: the first part of a ``FeedForward``.

    Args:
        proj: The linear map; in a gated one of values, then gates.
        functions: The functions, one for each unit, or for its gate.
        gated: Whether functions of the gates multiply the values.
    """

    def __init__(self, proj: nn.Linear, functions: Function, gated: bool) -> None:
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


def build(
    block: Block, recipe: Recipe, device: torch.device | str | None, noise: float = 1e-3
) -> dict[Slot, nn.Module]:
    """Makes the parts that replace a block; linear maps that stay are the block's own."""
    up, down, hidden, grid = block.up, block.down, recipe.hidden, recipe.grid
    factory: dict[str, Any] = {"device": device, "dtype": up.weight.dtype}
    first, middle, last = ((block.owner, slot) for slot in block.slots)
    full = recipe.kind == "full"
    if full or hidden != block.hidden:
        kind: Any = partial(KANLinear, **grid) if full else nn.Linear
        wide = hidden if full else hidden * (1 + int(block.gated))
        up = kind(up.in_features, wide, up.bias is not None, **factory)
        down = kind(hidden, down.out_features, down.bias is not None, **factory)
    if full:
        return {middle: nn.Identity(), first: up, last: down}
    factory["dtype"] = torch.promote_types(block.up.weight.dtype, torch.float32)
    shared: dict[str, Any] = {"groups": min(recipe.functions, hidden), "noise": noise}
    curves = LearnedFunctions(hidden, initial=[block.activation], **shared, **grid, **factory)
    if first == middle:
        return {middle: ActivatedLinear(up, curves, block.gated), last: down}
    return {first: up, middle: curves, last: down}


@torch.no_grad()
def draw(block: Block, parts: Mapping[Slot, nn.Module], generator: torch.Generator | None) -> None:
    """Moves parts for a block from the meta device to the block's, with values from a generator.

    Layers with a function for each edge, which would spread the outputs of a transformer's block
    several times as wide, are scaled: for normal inputs the outputs have the block's variance.
    """
    device = block.up.weight.device
    if device.type == "meta":
        return
    for module in [module for part in parts.values() for module in part.modules()]:
        if isinstance(module, BasisLayer):
            module.to_empty(device=device)
            module.reset_parameters(generator)
        elif isinstance(module, nn.Linear) and module.weight.is_meta:
            module.to_empty(device=device)
            draw_linear(module.weight, module.bias, generator)
    first, last = (parts[block.owner, block.slots[slot]] for slot in (0, 2))
    if isinstance(last, KANLinear):
        x = last.weight.new_empty(256, block.up.in_features).normal_(generator=generator)
        plain = block.down(ActivatedLinear(block.up, block.activation, block.gated)(x))
        wanted, power = (y.float().var(0).mean() for y in (plain, last(first(x))))
        if power > 0:
            last.weight.mul_((wanted / power).sqrt())


def install(module: nn.Module, parts: Mapping[Slot, nn.Module], recipes: Iterable[Recipe]) -> None:
    """Puts parts in their slots, in training or evaluation mode like their owners.

    The network remembers the recipes, beside earlier ones. The fast path of torch's encoder layers,
    which only knows ReLU and GELU, is switched off.
    """
    for (owner, slot), part in parts.items():
        parent, _, name = slot.rpartition(".")
        setattr(owner.get_submodule(parent), name, part.train(owner.training))
        if isinstance(owner, nn.TransformerEncoderLayer):
            owner.activation_relu_or_gelu = 0
    owners = {owner for owner, _ in parts}
    for encoder in module.modules():
        if isinstance(encoder, nn.TransformerEncoder) and owners & set(encoder.layers):
            encoder.use_nested_tensor = False
    module.kanified = [*vars(module).get("kanified", []), *recipes]  # type: ignore[assignment]


def rebuild(module: nn.Module, recipes: Iterable[Recipe | Mapping[str, object]]) -> None:
    """Replaces blocks of a network by their recipes, in place.

    With the recipes of a report and a state dict this restores any kanified network.

    Args:
        module: The network as it was before it was kanified.
        recipes: What to replace, as recipes or as their JSON.

    Raises:
        KanDiffusionError: A recipe is not usable, or the network has no such block.
    """
    with valid_settings("kanified"):
        valid = [Recipe.model_validate(recipe) for recipe in recipes]
    for recipe in valid:
        block = find_blocks(module).get(recipe.path)
        if block is None or block.refusal is not None:
            raise KanDiffusionError(
                f"{type(module).__name__} has no block '{recipe.path}' to replace, which a recipe "
                "names; it is of another network"
            )
        # A library builds a network before it reads the weights, and says where buffers are.
        device = None if block.up.weight.is_meta else block.up.weight.device
        install(module, build(block, recipe, device), [recipe])


def save_kanified(network: nn.Module, folder: str | Path) -> None:
    """Saves a kanified network of diffusers or transformers, and checks that it can be read.

    Args:
        network: The network that ``kanify`` returned.
        folder: Folder to write.

    Raises:
        KanDiffusionError: The network was not kanified, has no ``save_pretrained``, or is not what
            its class builds from its configuration.
    """
    recipes = vars(network).get("kanified") if isinstance(network, nn.Module) else None
    save = getattr(network, "save_pretrained", None)
    if recipes is None or save is None:
        raise KanDiffusionError(
            f"save_kanified takes a model of diffusers or transformers that kanify returned, not "
            f"this {type(network).__name__}; {_BY_HAND}"
        )
    # Transformers writes the tensors of some classes under the names of older versions.
    renames = "save_original_format" in inspect.signature(save).parameters
    save(folder, **({"save_original_format": False} if renames else {}))
    blocks = [recipe.model_dump(mode="json") for recipe in recipes]
    write_json(Path(folder) / _FILE, {"blocks": blocks})
    with _offline():
        _saved(Path(folder), _BY_HAND).check()


def load_kanified(folder: str | Path, dtype: torch.dtype | None = None) -> nn.Module:
    """Checks and reads a network that :func:`save_kanified` wrote.

    Only JSON and safetensors are read, nothing is fetched from a hub, and a model of your own is
    found once its module is imported.

    Args:
        folder: The folder.
        dtype: Dtype of the network; as saved when None.

    Returns:
        The network in evaluation mode.

    Raises:
        RunFolderError: The folder holds no such network, or is damaged.
    """
    with _offline():
        network = _saved(Path(folder), _REMEDY).load()
    return network if dtype is None else network.to(dtype)


@contextmanager
def _offline() -> Iterator[None]:
    """Has the hub's library refuse all requests, whatever a network's class asks it for."""
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _saved(root: Path, remedy: str) -> SavedNetwork[nn.Module]:
    """The folder of a kanified network, its recipes read."""
    recipes = read_json(root / _FILE, "the recipes of a kanified network", remedy)
    named = read_json(root / "config.json", "the configuration of a network", remedy)
    kind, of_diffusers = _model_class(named), "_class_name" in named

    def build(config: dict[str, Any]) -> tuple[str, Callable[[], nn.Module]]:
        def made() -> nn.Module:
            if of_diffusers:
                network: nn.Module = kind.from_config(config)
            else:
                network = kind(kind.config_class.from_dict(config))
            rebuild(network, recipes.get("blocks", []))
            return network

        return kind.__name__, made

    stem = "diffusion_pytorch_model" if of_diffusers else "model"
    return SavedNetwork(root, stem, build, remedy, _MOST_PARAMETERS)


def _model_class(config: Mapping[str, Any]) -> Any:  # noqa: ANN401  # of either library
    """Finds the class of a model among those that are imported.

    Raises:
        RunFolderError: There is none of its name.
    """
    if "_class_name" in config:
        import diffusers as library

        name, kinds = config["_class_name"], [library.ModelMixin]
    else:
        import transformers as library

        architectures = config.get("architectures")
        name = architectures[0] if isinstance(architectures, list) and architectures else None
        kinds = [library.PreTrainedModel]
    with suppress(ImportError, RuntimeError):  # a class that needs what is not installed
        getattr(library, str(name), None)  # imports it if it is the library's own
    for kind in kinds:  # grows as it goes
        kinds += kind.__subclasses__()
        if kind.__name__ == name and kind is not kinds[0]:
            return kind
    raise RunFolderError(
        f"'{name}' is no model of {library.__name__} that is imported; import the module of your "
        "own first"
    )
