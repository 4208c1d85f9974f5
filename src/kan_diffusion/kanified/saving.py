"""Saves and loads networks of diffusers and transformers with their replaced blocks.

The class of a kanified network becomes a subclass: ``KanifiedDiTTransformer2DModel`` is a
``DiTTransformer2DModel`` whose configuration has one more setting, ``kanified``, with the recipes
(:mod:`kan_diffusion.kanified.recipe`). Its constructor calls the original constructor and then
replaces the blocks, so that everything that builds a network from its configuration -
``from_pretrained``, ``EMAModel``, a pipeline - gets the kanified one. The subclasses are made on
demand, by name, in ``kan_diffusion.kanified``, where a pipeline's index refers to them.

The original class ignores the setting: its own ``from_pretrained`` gives the network with the old
activations, and warns of weights that it does not know.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any, Self

from pydantic import TypeAdapter
from torch import nn

from kan_diffusion.errors import KanDiffusionError, RunFolderError, valid_settings
from kan_diffusion.files import read_json
from kan_diffusion.kan.grids import MovingGrids
from kan_diffusion.kanified.blocks import find_blocks
from kan_diffusion.kanified.recipe import Recipe, build, install

__all__ = ["KanifiedModel", "class_of", "class_of_name", "load_kanified", "rebuild", "remember"]

_RECIPES = TypeAdapter(list[Recipe])
_PREFIX = "Kanified"
_HOME = "kan_diffusion.kanified"
_LIBRARIES = {"diffusers": "ModelMixin", "transformers": "PreTrainedModel"}
"""Libraries whose models are saved with a configuration, and the base class of their models."""


def rebuild(module: nn.Module, recipes: Iterable[Recipe | Mapping[str, object]]) -> None:
    """Replaces blocks of a network by their recipes, in place.

    With the recipes of a report and a state dict this restores any kanified network.

    Args:
        module: The network as it was before it was kanified.
        recipes: What to replace, as recipes or as their JSON.

    Raises:
        KanDiffusionError: A recipe is not usable, or the network has no such block.
    """
    blocks = find_blocks(module)
    for recipe in _valid(recipes):
        block = blocks.pop(recipe.path, None)
        if block is None or block.refusal is not None:
            raise KanDiffusionError(
                f"{type(module).__name__} has no block '{recipe.path}' to replace, which its "
                "configuration names; it is of another network"
            )
        install(module, block, build(block, recipe))


def remember(module: nn.Module, recipes: Sequence[Recipe]) -> None:
    """Records recipes in the models of diffusers and transformers whose blocks were replaced.

    Args:
        module: A model, already changed, or a module that holds some, such as a compiled one; other
            modules record nothing.
        recipes: Recipes of the replaced blocks.
    """
    rest = list(recipes)
    for path, part in list(module.named_modules()):  # those that hold others come first
        kind: type = type(part)
        if _library(kind) is None:
            continue
        start = f"{path}." if path else ""
        own = [one for one in rest if one.path.startswith(start)]
        if not own:
            continue
        rest = [one for one in rest if one not in own]
        if not isinstance(part, KanifiedModel):
            part.__class__ = class_of(kind)
        assert isinstance(part, KanifiedModel)
        inside = (one.model_copy(update={"path": one.path.removeprefix(start)}) for one in own)
        part._set_recipes([*part.recipes, *inside])


def load_kanified(folder: str | Path, **options: object) -> nn.Module:
    """Checks and reads a kanified network that ``save_pretrained`` wrote.

    Args:
        folder: The folder.
        **options: Options of its library's ``from_pretrained``, such as ``dtype``.

    Raises:
        RunFolderError: The folder holds no such network, or is damaged.
    """
    path = Path(folder) / str(options.get("subfolder") or "") / "config.json"
    config = read_json(path, "the configuration of a network", "save it again")
    architectures = config.get("architectures")
    name = architectures[0] if isinstance(architectures, list) and architectures else None
    name = str(config.get("_class_name", name))
    found = class_of_name(name)
    if found is None:
        raise RunFolderError(
            f"'{path}' is of class '{name}', which is no kanified network of diffusers or "
            "transformers; read it with its own class, or import the module of your own first"
        )
    network: nn.Module = found.from_pretrained(folder, **options)
    return network


def class_of_name(name: str) -> type[KanifiedModel] | None:
    """Looks up a class such as ``KanifiedDiTTransformer2DModel``; None where there is none.

    Models of other modules than the two libraries are found once these are imported.
    """
    plain = name.removeprefix(_PREFIX)
    if plain == name:
        return None
    import diffusers

    home: ModuleType = diffusers
    if plain not in dir(diffusers):
        import transformers

        home = transformers
    for kind in chain([getattr(home, plain, None)], _imported(plain)):
        if isinstance(kind, type) and _library(kind) is not None:
            return class_of(kind)
    return None


def _imported(name: str) -> Iterator[type]:
    """Yields the models of a name among the modules that are imported, such as one's own."""
    from diffusers import ModelMixin
    from transformers import PreTrainedModel

    kinds: list[type] = [ModelMixin, PreTrainedModel]
    for kind in kinds:  # grows as it goes
        kinds += kind.__subclasses__()
        if kind.__name__ == name and not issubclass(kind, KanifiedModel):
            yield kind


def _library(kind: type) -> str | None:
    """Returns the library whose model a class is, or None."""
    for base in kind.__mro__:
        library = base.__module__.partition(".")[0]
        if _LIBRARIES.get(library) == base.__name__:
            return library
    return None


class KanifiedModel(MovingGrids):
    """Methods that a kanified model of diffusers or transformers adds to its class."""

    @property
    def recipes(self) -> list[Recipe]:
        """Recipes of the replaced blocks, from the configuration."""
        return _valid(getattr(self.config, "kanified", None) or ())

    def _set_recipes(self, recipes: Iterable[Recipe | Mapping[str, object]]) -> None:
        raise NotImplementedError

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Self:  # noqa: ANN401
        """Reads a network that ``save_pretrained`` wrote; a folder is checked before it is read.

        Only safetensors are read.

        Args:
            pretrained_model_name_or_path: Its folder, or its name on the Hugging Face Hub.
            **kwargs: Options of its library, such as ``subfolder``, ``variant`` or ``dtype``.

        Raises:
            RunFolderError: The folder is damaged, or is of another network.
        """
        root = Path(pretrained_model_name_or_path)
        if root.is_dir():
            infix = f".{kwargs['variant']}" if kwargs.get("variant") else ""
            cls._require_sound(root / str(kwargs.get("subfolder") or ""), infix)
        safe = {**kwargs, "use_safetensors": True}
        network: Self = super().from_pretrained(pretrained_model_name_or_path, **safe)  # type: ignore[misc]
        return network

    @classmethod
    def _require_sound(cls, folder: Path, infix: str) -> None:
        """Checks a folder; ``infix`` comes before the ending in the file name of the weights."""
        raise NotImplementedError

    def _note_intervals(self, num_intervals: int) -> None:
        sized = {"grid_size": num_intervals}
        self._set_recipes(recipe.model_copy(update=sized) for recipe in self.recipes)


class _OfDiffusers(KanifiedModel):
    """A kanified model of diffusers; the recipes are an argument of its constructor."""

    def _set_recipes(self, recipes: Iterable[Recipe | Mapping[str, object]]) -> None:
        self.register_to_config(kanified=_json(recipes))  # type: ignore[operator]

    @classmethod
    def _require_sound(cls, folder: Path, infix: str) -> None:
        from kan_diffusion.weights import require_sound

        require_sound(cls, folder, f"diffusion_pytorch_model{infix}")


class _OfTransformers(KanifiedModel):
    """A kanified model of transformers; the recipes are an entry of its configuration."""

    def _set_recipes(self, recipes: Iterable[Recipe | Mapping[str, object]]) -> None:
        vars(self.config)["kanified"] = _json(recipes)

    @classmethod
    def _require_sound(cls, folder: Path, infix: str) -> None:
        from kan_diffusion.weights import require_sound_transformer

        require_sound_transformer(cls, folder, f"model{infix}")


def _valid(recipes: object) -> list[Recipe]:
    """Checks recipes, or their JSON."""
    with valid_settings("kanified"):
        return _RECIPES.validate_python(recipes)


def _json(recipes: Iterable[Recipe | Mapping[str, object]]) -> list[dict[str, object]]:
    """Turns recipes into JSON for the configuration."""
    return [recipe.model_dump(mode="json") for recipe in _valid(recipes)]


@cache
def class_of(kind: type) -> type[KanifiedModel]:
    """Makes the subclass of a diffusers or transformers model that records its replaced blocks."""
    library = _of_diffusers if _library(kind) == "diffusers" else _of_transformers
    home, build = library(kind)
    names = {"__init__": build, "__module__": _HOME, "__doc__": f"A kanified {kind.__name__}."}
    return type(f"{_PREFIX}{kind.__name__}", (home, kind), names)


_Made = tuple[type[KanifiedModel], Callable[..., None]]


def _of_diffusers(kind: type) -> _Made:
    def build(self: _OfDiffusers, *args: object, **settings: Any) -> None:  # noqa: ANN401
        recipes = settings.pop("kanified", ())
        kind.__init__(self, *args, **settings)  # type: ignore[misc]
        rebuild(self, recipes)
        self._set_recipes(recipes)

    known = inspect.signature(kind.__init__)  # type: ignore[misc]
    setting = inspect.Parameter("kanified", inspect.Parameter.KEYWORD_ONLY, default=())
    parameters = sorted([*known.parameters.values(), setting], key=lambda one: one.kind)
    vars(build)["__signature__"] = known.replace(parameters=parameters)  # diffusers reads it
    return _OfDiffusers, build


def _of_transformers(kind: type) -> _Made:
    def build(self: _OfTransformers, config: object, *args: object, **settings: object) -> None:
        kind.__init__(self, config, *args, **settings)  # type: ignore[misc]
        rebuild(self, getattr(config, "kanified", ()))

    return _OfTransformers, build
