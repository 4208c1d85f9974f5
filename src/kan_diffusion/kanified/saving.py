"""Saves and loads kanified networks of diffusers and transformers.

A folder holds what the library's own ``save_pretrained`` writes, and beside it the recipes
(:mod:`kan_diffusion.kanified.recipe`). Reading builds the network from its configuration, replaces
the blocks of the recipes, and then loads the weights. The library's own ``from_pretrained`` knows
nothing of the recipes: it would build the network with its old activations.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file
from torch import nn

from kan_diffusion.errors import KanDiffusionError, RunFolderError, valid_settings
from kan_diffusion.files import read_json, write_json
from kan_diffusion.kanified.blocks import find_blocks
from kan_diffusion.kanified.recipe import Recipe, build, install

__all__ = ["load_kanified", "rebuild", "save_kanified"]

_RECIPES = TypeAdapter(list[Recipe])
_FILE = "kanified.json"
_REMEDY = "save it again with save_kanified"
_STEMS = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}
"""Names of the files of weights of the two libraries, without their endings."""


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
        valid = _RECIPES.validate_python(recipes)
    blocks = find_blocks(module)
    for recipe in valid:
        block = blocks.pop(recipe.path, None)
        if block is None or block.refusal is not None:
            raise KanDiffusionError(
                f"{type(module).__name__} has no block '{recipe.path}' to replace, which a recipe "
                "names; it is of another network"
            )
        install(module, block, build(block, recipe))
    remember(module, valid)


def remember(module: nn.Module, recipes: Iterable[Recipe]) -> None:
    """Records recipes of blocks that were replaced in a network, beside earlier ones."""
    module.kanified = [*recipes_of(module), *recipes]  # type: ignore[assignment]


def recipes_of(module: nn.Module) -> list[Recipe]:
    """Returns the recipes of the blocks that were replaced in a network."""
    recipes: list[Recipe] = vars(module).get("kanified", [])
    return recipes


def save_kanified(network: nn.Module, folder: str | Path) -> None:
    """Saves a kanified network of diffusers or transformers.

    Args:
        network: The network that ``kanify`` returned.
        folder: Folder to write.

    Raises:
        KanDiffusionError: The network was not kanified, or has no ``save_pretrained``.
    """
    recipes, save = recipes_of(network), getattr(network, "save_pretrained", None)
    if not recipes or save is None:
        raise KanDiffusionError(
            f"save_kanified takes a model of diffusers or transformers that kanify returned, not "
            f"this {type(network).__name__}; save the recipes of its report and its state dict"
        )
    save(folder)
    write_json(Path(folder) / _FILE, {"blocks": _RECIPES.dump_python(recipes, mode="json")})


def load_kanified(folder: str | Path, dtype: torch.dtype | None = None) -> nn.Module:
    """Checks and reads a network that :func:`save_kanified` wrote.

    Only JSON and safetensors are read, and a model of your own is found once its module is
    imported.

    Args:
        folder: The folder.
        dtype: Dtype of the network; as saved when None.

    Returns:
        The network in evaluation mode.

    Raises:
        RunFolderError: The folder holds no such network, or is damaged.
    """
    from kan_diffusion.weights import require_saved, saved_files

    root = Path(folder)
    config = read_json(root / "config.json", "the configuration of a network", _REMEDY)
    recipes = read_json(root / _FILE, "the recipes of a kanified network", _REMEDY).get(
        "blocks", []
    )
    architectures = config.get("architectures")
    name = architectures[0] if isinstance(architectures, list) and architectures else None
    library = "diffusers" if "_class_name" in config else "transformers"
    kind = _model(library, str(config.get("_class_name", name)))

    def made() -> nn.Module:
        if library == "diffusers":
            network: nn.Module = kind.from_config(config)
        else:
            network = kind(kind.config_class.from_dict(config))
        rebuild(network, recipes)
        return network

    stem = _STEMS[library]
    require_saved(kind, made, root, stem, _REMEDY)
    network = made()
    for file in saved_files(root, stem):
        network.load_state_dict(load_file(file), strict=False)  # each has some of the tensors
    if dtype is not None:
        network.to(dtype)
    return network.eval()


def _model(library: str, name: str) -> Any:  # noqa: ANN401  # of either library
    """Finds a model's class, of the library or among the modules that are imported.

    Raises:
        RunFolderError: There is none.
    """
    kinds: list[type]
    if library == "diffusers":
        import diffusers as home

        kinds = [home.ModelMixin]
    else:
        import transformers as home

        kinds = [home.PreTrainedModel]
    getattr(home, name, None)  # imports it if it is the library's own
    for kind in kinds:  # grows as it goes
        kinds += kind.__subclasses__()
        if kind.__name__ == name:
            return kind
    raise RunFolderError(
        f"'{name}' is no model of {library} that is imported; import the module of your own first"
    )
