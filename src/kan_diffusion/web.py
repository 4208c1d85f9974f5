r"""Models of the playground: one JSON file that the browser and Python read and write alike.

It holds everything that defines a model of points in the plane,

.. math:: (\text{settings of the denoiser},\; \theta,\; (\alpha_t, \sigma_t)_t,\;
    \text{mean},\; \text{scale}),

as JSON: the denoiser's diffusers configuration with its class under ``_class_name``; each tensor of
its state dict by name, as a shape and the base64 of little-endian float32 numbers, row by row; the
settings of the :class:`~kan_diffusion.processes.Process`; the standardisation; and, where they are
known, the toy or the drawn points that it was trained on. ``version`` is raised when older files
could be misread. Round trips keep every bit of float32 weights.

A file is input and may come from a stranger. It is checked like a run folder: sizes and shapes are
compared with a network on torch's meta device before anything is built.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import AllowInfNan, Field, JsonValue
from torch import Tensor

from kan_diffusion.data.scaling import Standardizer
from kan_diffusion.denoisers.base import Denoiser
from kan_diffusion.denoisers.gated import GatedDenoiser
from kan_diffusion.denoisers.kan import KANDenoiser
from kan_diffusion.denoisers.mlp import MLPDenoiser
from kan_diffusion.errors import KanDiffusionError, RunFolderError, valid_settings
from kan_diffusion.files import json_bytes, read_json
from kan_diffusion.processes import Process
from kan_diffusion.sampling import PointDiffusionPipeline, make_scheduler
from kan_diffusion.settings import Settings
from kan_diffusion.weights import require_fit

__all__ = ["WebData", "WebModel", "read_web", "web_json"]

_FORMAT, _VERSION = "kan-diffusion-web", 1
_WHAT, _REMEDY = "a model of the playground", "save it there again"
_CLASSES: dict[str, type[Denoiser]] = {
    kind.__name__: kind for kind in (KANDenoiser, GatedDenoiser, MLPDenoiser)
}
_MOST_DRAWN = 10_000

_Number = Annotated[float, AllowInfNan(False)]
_Pair = tuple[_Number, _Number]


class WebData(Settings):
    """The training data of a model of the playground.

    Attributes:
        toy: Name of a toy of this package; None for a drawing.
        points: Drawn points with shape (n, 2), in the data's own units.
        spread: Standard deviation of the brush about each drawn point, in the same units.
    """

    toy: str | None = None
    points: tuple[_Pair, ...] = Field((), max_length=_MOST_DRAWN)
    spread: float = Field(0.0, ge=0, allow_inf_nan=False)


@dataclass(frozen=True)
class WebModel:
    """A model in a file of the playground.

    Attributes:
        pipeline: The denoiser with the sampler of its process and its standardisation.
        process: The noising process it was trained for.
        data: The training data, where they are known.
    """

    pipeline: PointDiffusionPipeline
    process: Process
    data: WebData | None = None


class _Tensor(Settings):
    shape: tuple[int, ...]
    float32: str


class _Standardizer(Settings):
    mean: _Pair
    scale: _Pair


class _File(Settings):
    format: Literal["kan-diffusion-web"]
    version: Literal[1]
    denoiser: dict[str, JsonValue]
    process: Process
    standardizer: _Standardizer
    columns: tuple[str, str]
    data: WebData | None = None
    weights: dict[str, _Tensor]


def web_json(model: WebModel) -> bytes:
    """Writes a model in the format that the playground reads.

    Args:
        model: A KAN of B-splines, a gated network or an MLP, of two coordinates.

    Returns:
        The content of a JSON file.

    Raises:
        KanDiffusionError: The playground cannot show such a model; the message says which it can.
    """
    if type(model.pipeline) is not PointDiffusionPipeline:
        raise KanDiffusionError(
            "the playground shows models of points, not of the rows of a table; train one of a "
            "toy, or open the file of points in the playground"
        )
    denoiser = model.pipeline.denoiser
    settings = {
        key: value for key, value in dict(denoiser.config).items() if not key.startswith("_")
    }
    _require_shown(type(denoiser).__name__, denoiser.data_dim, settings)
    standardizer = model.pipeline.standardizer
    weights = {
        name: {
            "shape": list(tensor.shape),
            "float32": base64.b64encode(
                tensor.detach().cpu().float().numpy().astype("<f4").tobytes()
            ).decode(),
        }
        for name, tensor in denoiser.state_dict().items()
    }
    return json_bytes(
        {
            "format": _FORMAT,
            "version": _VERSION,
            "denoiser": {"_class_name": type(denoiser).__name__, **settings},
            "process": model.process.model_dump(mode="json"),
            "standardizer": {"mean": standardizer.mean, "scale": standardizer.scale},
            "columns": model.pipeline.columns,
            "data": None if model.data is None else model.data.model_dump(mode="json"),
            "weights": weights,
        }
    )


def _require_shown(name: str, dim: int, settings: Mapping[str, object]) -> None:
    """Checks that the playground can show a denoiser.

    Raises:
        KanDiffusionError: It cannot.
    """
    remedy = "train one of a toy of two coordinates with '--family kan' or '--family mlp'"
    if name not in _CLASSES:
        raise KanDiffusionError(
            f"the playground shows KANs of B-splines, gated networks and MLPs, not a {name}; "
            f"{remedy}"
        )
    if dim != 2:
        raise KanDiffusionError(
            f"the playground shows points of two coordinates, not {dim}; {remedy}"
        )
    if settings.get("num_classes"):
        raise KanDiffusionError(
            "the playground shows no models with classes; train one without --conditional"
        )
    wanted: dict[str, tuple[object, ...]] = {
        "blocks": ([], ()),
        "basis": ("bspline",),
        "edge_scale": (False,),
        "extrapolation": ("linear", "clamp"),
    }
    for key, known in wanted.items():
        if key in settings and settings[key] not in known:
            raise KanDiffusionError(
                f"the playground shows no denoiser with {key} = {settings[key]!r}; {remedy}"
            )


def read_web(path: Path) -> WebModel:
    """Reads a model that the playground saved, or that :func:`web_json` wrote.

    Args:
        path: The JSON file.

    Raises:
        RunFolderError: The file is missing, damaged, of another version or of another model.
        KanDiffusionError: A setting in it is wrong.
    """
    content = read_json(path, _WHAT, _REMEDY)
    if content.get("format") != _FORMAT:
        raise RunFolderError(
            f"'{path}' is not {_WHAT}: its format is {content.get('format')!r}; give a file that "
            "the playground or 'kan-diffusion export' wrote"
        )
    if content.get("version") != _VERSION:
        raise RunFolderError(
            f"'{path}' is of version {content.get('version')!r} of the playground's format and "
            f"this package reads version {_VERSION}; use the playground that comes with it"
        )
    with valid_settings(f"'{path}'"):
        file = _File.model_validate(content)
    name = file.denoiser.get("_class_name")
    if not isinstance(name, str) or name not in _CLASSES:
        raise RunFolderError(
            f"'{path}': a denoiser of class {str(name)[:80]!r} is none of "
            f"{', '.join(_CLASSES)}; {_REMEDY}"
        )
    shapes = {key: tensor.shape for key, tensor in file.weights.items()}
    settings = require_fit(_CLASSES[name], file.denoiser, shapes, path, _REMEDY)
    weights = {key: _values(key, tensor, path) for key, tensor in file.weights.items()}
    # Its initial parameters, replaced below, must not come from the global generator.
    with torch.random.fork_rng(devices=[]):
        denoiser = _CLASSES[name](**settings)
    _require_shown(name, denoiser.data_dim, settings)
    denoiser.load_state_dict(weights)
    try:
        standardizer = Standardizer(file.standardizer.mean, file.standardizer.scale)
        scheduler = make_scheduler(None, file.process.scheduler())
        if denoiser.time_features.num_train_timesteps != file.process.num_timesteps:
            raise KanDiffusionError(
                f"the denoiser knows {denoiser.time_features.num_train_timesteps} timesteps and "
                f"the process has {file.process.num_timesteps}"
            )
        pipeline = PointDiffusionPipeline(
            denoiser.eval(), scheduler, standardizer.mean, standardizer.scale, file.columns
        )
    except KanDiffusionError as error:
        raise RunFolderError(f"'{path}': {error}; {_REMEDY}") from error
    return WebModel(pipeline, file.process, file.data)


def _values(name: str, tensor: _Tensor, path: Path) -> Tensor:
    """Decodes the numbers of a saved tensor.

    Raises:
        RunFolderError: They are damaged or not finite.
    """
    try:
        raw = base64.b64decode(tensor.float32, validate=True)
        numbers = np.frombuffer(raw, "<f4").astype(np.float32)
        values = torch.from_numpy(numbers).view(tensor.shape)
    except (binascii.Error, ValueError, RuntimeError) as error:
        raise RunFolderError(
            f"'{path}': the numbers of '{name}' are damaged ({error}); {_REMEDY}"
        ) from error
    if not bool(values.isfinite().all()):
        raise RunFolderError(
            f"'{path}': the numbers of '{name}' are infinite or no numbers; {_REMEDY}"
        )
    return values
