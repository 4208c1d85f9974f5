"""Checks saved networks before anything is allocated.

The folder of a network holds ``config.json``, the arguments of its class, and its parameters and
buffers as safetensors. Both are input: they may be damaged, or come from a stranger. The class is
built on torch's meta device, which allocates nothing, and the names and shapes of all its tensors
must match the file's. The files that were checked are then those that are read: an index of shards
beside them, by which a library would choose others, is not looked at.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

from kan_diffusion.errors import KanDiffusionError, RunFolderError
from kan_diffusion.files import read_json, require_tensors
from kan_diffusion.limits import LARGEST_SETTING, MOST_LAYERS, MOST_PARAMETERS, MOST_SAVED_ENTRIES

Network = TypeVar("Network", bound=nn.Module)
Shape = tuple[int, ...]

_MOST_PARTS = 30_000
"""Modules of a network, many times those of the largest."""

REMEDY = "train it again"
"""What errors say to do about a denoiser."""

_OF_AVERAGES = {"decay", "inv_gamma", "min_decay", "optimization_step", "power"}
_OF_AVERAGES |= {"update_after_step", "use_ema_warmup"}
"""Keys that diffusers' ``EMAModel`` writes beside the settings of the averaged model."""


@dataclass(frozen=True)
class SavedNetwork(Generic[Network]):
    """The folder of a network: its configuration, and its weights as safetensors.

    Attributes:
        folder: The folder.
        stem: Name of the file of weights without its ending, with which the names of shards begin.
        build: Given the configuration, the name of the network's class and a function that builds
            it.
        remedy: What to do, for errors.
        most: Largest number of parameters.
    """

    folder: Path
    stem: str
    build: Callable[[dict[str, Any]], tuple[str, Callable[[], Network]]]
    remedy: str = REMEDY
    most: int = MOST_PARAMETERS

    def check(self) -> Callable[[], Network]:
        """Checks that the saved tensors are those of the network, built on the meta device.

        Returns:
            Builds the network, with weights that are not the saved ones.

        Raises:
            RunFolderError: A number in the configuration is out of range, the network cannot be
                built or is too large, or the weights are missing or of another network.
        """
        path = self.folder / "config.json"
        config = read_json(path, "the configuration of a network", self.remedy)
        _require_bounds(config, path)
        name, made = self.build(config)
        parts = count(1)

        def counted(*_: object) -> None:
            if next(parts) > _MOST_PARTS:  # each takes time, on any device
                raise KanDiffusionError(f"it has more than {_MOST_PARTS:,} modules")

        try:
            with torch.device("meta"), register_module_module_registration_hook(counted):
                network = made()
            for what, tensors, bound in (
                ("parameters", network.parameters(), self.most),
                ("numbers in buffers", network.buffers(), MOST_PARAMETERS),
            ):
                if (size := sum(tensor.numel() for tensor in tensors)) > bound:
                    raise KanDiffusionError(f"it has {size:,} {what}, more than {bound:,}")
        except Exception as error:  # another library's class may raise anything
            if isinstance(error.__cause__, ImportError):  # it says what to install
                raise
            raise RunFolderError(f"'{path}' is no {name} ({error}); {self.remedy}") from error
        self._require_same(network.state_dict(keep_vars=True))
        return made

    def _require_same(self, state: Mapping[str, Tensor]) -> None:
        """Compares the tensors of a network with the saved ones."""
        saved = self._shapes()
        # Of tensors that a network has under several names, one name is saved.
        named = {id(tensor) for name, tensor in state.items() if name in saved}
        expected = {
            name: tuple(tensor.shape)
            for name, tensor in state.items()
            if name in saved or id(tensor) not in named
        }
        for name in sorted(expected.keys() | saved.keys()):
            if expected.get(name) != saved.get(name):
                there, wanted = saved.get(name, "missing"), expected.get(name, "unknown")
                raise RunFolderError(
                    f"the weights in '{self.folder}' are not those of 'config.json': '{name}' is "
                    f"{there} there and {wanted} here; {self.remedy}"
                )

    def _files(self) -> list[Path]:
        """Finds the files of saved tensors; others than safetensors are none."""
        patterns = f"{self.stem}.safetensors", f"{self.stem}-*-of-*.safetensors"
        files = [file for pattern in patterns for file in sorted(self.folder.glob(pattern))]
        if not files:
            raise RunFolderError(
                f"'{self.folder}' holds no weights ({patterns[0]}); other formats can run code and "
                "are not read"
            )
        return files

    def _shapes(self) -> dict[str, Shape]:
        """Reads the shapes of saved tensors by name from the headers of their files."""
        shapes: dict[str, Shape] = {}
        for file in self._files():
            try:
                require_tensors(file)
                with safe_open(file, framework="pt") as tensors:
                    for name in tensors.keys():  # noqa: SIM118  # it is no dictionary
                        if name in shapes:
                            raise RunFolderError(f"'{file}' has '{name}', which is in another file")
                        shapes[name] = tuple(tensors.get_slice(name).get_shape())
            except (OSError, SafetensorError, RuntimeError) as error:  # of torch, which maps it
                raise RunFolderError(f"'{file}' cannot be read ({error}); {self.remedy}") from error
        return shapes

    def load(self) -> Network:
        """Reads the network after checking it.

        Returns:
            The network in evaluation mode, its tensors in the dtypes that were saved.

        Raises:
            RunFolderError: As by :meth:`check`, or weights are damaged or not finite.
        """
        made = self.check()
        with torch.random.fork_rng(devices=[]):  # its first weights do not matter
            network = made()
        state = network.state_dict(keep_vars=True)
        try:
            for file in self._files():
                for name, tensor in load_file(file).items():
                    if tensor.is_complex() or not bool(tensor.isfinite().all()):
                        raise ValueError(f"infinite, complex or no numbers in '{name}'")
                    if tensor.is_floating_point() != state[name].is_floating_point():
                        raise ValueError(f"'{name}' is {tensor.dtype}")
                    state[name].data = tensor  # tied parameters stay one
        except (OSError, SafetensorError, RuntimeError, ValueError) as error:
            raise RunFolderError(
                f"the weights in '{self.folder}' cannot be used ({error}); {self.remedy}"
            ) from error
        return network.eval()


def denoiser_settings(kind: type, config: Mapping[str, object], path: Path) -> dict[str, Any]:
    """Checks that a configuration is that of a denoiser of a class.

    Returns:
        The arguments of the class.

    Raises:
        RunFolderError: The configuration is of another class, or has settings that the class has
            not, or too many layers.
    """
    if config.get("_class_name") != kind.__name__:
        raise RunFolderError(
            f"'{path}' is of class {config.get('_class_name')!r}, not {kind.__name__}; {REMEDY}"
        )
    names = [name for name in config if not name.startswith("_") and name not in _OF_AVERAGES]
    if unknown := sorted(set(names) - inspect.signature(kind).parameters.keys()):
        raise RunFolderError(
            f"'{path}' has the setting '{unknown[0]}', which {kind.__name__} has not; {REMEDY}"
        )
    if isinstance(hidden := config.get("hidden"), list) and len(hidden) > MOST_LAYERS:
        raise RunFolderError(
            f"'{path}' has {len(hidden):,} hidden layers, more than {MOST_LAYERS}; {REMEDY}"
        )
    return {name: config[name] for name in names}


def _require_bounds(settings: Mapping[str, object], path: Path) -> None:
    """Refuses numbers and lists too large for any network, before one is built from them.

    Also refuses implementations of a layer, other than two, that a library may fetch and run.
    """
    waiting = list(settings.items())
    for number, (name, value) in enumerate(waiting):  # grows as it goes
        if number == MOST_SAVED_ENTRIES:
            raise RunFolderError(f"'{path}' has more than {MOST_SAVED_ENTRIES:,} settings")
        if isinstance(value, list):
            waiting += [(name, entry) for entry in value]
        elif isinstance(value, dict):
            waiting += [(f"{name}.{key}", entry) for key, entry in value.items()]
        elif isinstance(value, int | float) and not abs(value) <= LARGEST_SETTING:
            raise RunFolderError(
                f"'{path}': {name} = {value} is out of range; no setting is larger than "
                f"{LARGEST_SETTING:,}"
            )
        elif "_implementation" in name and value not in (None, "eager", "sdpa"):
            raise RunFolderError(
                f"'{path}': {name} = '{value}' may be code from elsewhere; take 'eager' or 'sdpa'"
            )
