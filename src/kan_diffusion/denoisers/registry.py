"""Families by name, and denoisers of a family built to a budget.

:data:`FAMILIES` lists the families, each defined beside its denoiser. ``tuned.json`` holds the
values that tuning found, which replace those of the definition. A user's family is named by its
place, ``"package.module:NAME"``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib import resources
from typing import Any

import torch

from kan_diffusion.denoisers.base import Denoiser
from kan_diffusion.denoisers.family import Choice, Family, IntRange, Range, Setting
from kan_diffusion.denoisers.gated import GATED_FAMILIES
from kan_diffusion.denoisers.kan import KAN_FAMILIES
from kan_diffusion.denoisers.mlp import MLP_FAMILIES
from kan_diffusion.denoisers.rbf_2015 import RBF_2015
from kan_diffusion.denoisers.sizing import (
    BUDGET_TOLERANCE,
    COUNTABLES,
    Countable,
    widths_for_budget,
)
from kan_diffusion.denoisers.spline_mlp import SPLINE_MLP
from kan_diffusion.denoisers.transformer import TRANSFORMER_FAMILIES
from kan_diffusion.denoisers.unet import UNET_FAMILIES
from kan_diffusion.errors import KanDiffusionError, look_up
from kan_diffusion.imports import find_object, is_place
from kan_diffusion.limits import MOST_LAYERS, MOST_OPERATIONS, MOST_PARAMETERS, MOST_UNITS

__all__ = [
    "BUDGET_TOLERANCE",
    "FAMILIES",
    "PICTURE_FAMILIES",
    "Choice",
    "Family",
    "IntRange",
    "Range",
    "Setting",
    "build_denoiser",
    "get_family",
    "untuned_family",
    "with_tuned",
]


def with_tuned(
    families: Iterable[Family], tuned: Mapping[str, Mapping[str, Any]]
) -> dict[str, Family]:
    """Gives families by name, with tuned values in place of their own.

    Args:
        families: The families.
        tuned: For some of their names ``"depth"``, ``"learning_rate"`` and ``"settings"``; what is
            missing, each setting too, stays the family's own.

    Raises:
        KanDiffusionError: A name is not known.
        TypeError: A key is not an attribute of a family.
    """
    by_name = {family.name: family for family in families}
    for name, found in tuned.items():
        family = look_up("tuned family", name, by_name)
        # JSON has lists where Python has tuples.
        settings = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in found.get("settings", {}).items()
        }
        merged = {**found, "settings": {**family.settings, **settings}}
        by_name[name] = replace(family, **merged)
    return by_name


_BUILT_IN = (
    *GATED_FAMILIES,
    *KAN_FAMILIES,
    *MLP_FAMILIES,
    SPLINE_MLP,
    RBF_2015,
    *TRANSFORMER_FAMILIES,
    *UNET_FAMILIES,
)
"""All families of the package, without tuned values."""

_KNOWN = with_tuned(
    _BUILT_IN, json.loads(resources.files(__package__).joinpath("tuned.json").read_text("utf-8"))
)

FAMILIES: Mapping[str, Family] = {
    name: family for name, family in _KNOWN.items() if family.compared and not family.of_pictures
}
"""Families of points by name, as comparisons use them."""

PICTURE_FAMILIES: Mapping[str, Family] = {
    name: family for name, family in _KNOWN.items() if family.compared and family.of_pictures
}
"""Families of pictures by name, as comparisons use them."""


def get_family(name: str, *, importing: bool = False) -> Family:
    """Looks up a family.

    Args:
        name: The name of a family of the package, or ``"package.module:NAME"`` for a
            :class:`Family` that a module defines.
        importing: Whether to import that module; if not, it must be imported already.

    Raises:
        KanDiffusionError: There is no such family; the message lists all families, or says what is
            wrong with the module.
    """
    if is_place(name):
        return find_object(name, "family", Family, importing=importing)
    return look_up("family", name, {**_KNOWN, **FAMILIES})


def untuned_family(name: str) -> Family:
    """Looks up a family without its tuned values, from which a search starts.

    Raises:
        KanDiffusionError: There is no such family.
    """
    return with_tuned(_BUILT_IN, {}).get(name) or get_family(name)


_FOUND: dict[tuple[object, ...], tuple[int, ...]] = {}
"""Widths found so far, by everything they depend on."""


def _frozen(value: object) -> object:
    """Turns the lists in a value, as read from JSON, into tuples."""
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


def build_denoiser(
    family: str,
    data_dim: int | Sequence[int],
    *,
    num_train_timesteps: int,
    params: int | None = None,
    hidden: Sequence[int] | None = None,
    depth: int | None = None,
    num_classes: int = 0,
    blocks: Sequence[int] = (),
    settings: Mapping[str, Setting] | None = None,
    generator: torch.Generator | None = None,
    flops: int | None = None,
    flops_per_edge: int | None = None,
    at_most: bool = False,
) -> Denoiser:
    """Builds a denoiser of a family, fitted to a budget or of given widths.

    Exactly one of ``params``, ``flops``, ``flops_per_edge`` and ``hidden`` is given.

    Args:
        family: Name of the family, see :func:`get_family`.
        data_dim: Number of coordinates of a point, or channels, height and width of a picture.
        num_train_timesteps: Number of steps of the process.
        params: Number of trainable parameters to fit, within ``BUDGET_TOLERANCE``.
        hidden: Widths of the hidden layers.
        depth: Number of hidden layers when fitting; the family's own when None.
        num_classes: Number of class labels.
        blocks: Widths of the blocks of coordinates that it may be told; empty for none.
        settings: Settings of the denoiser class that override the family's.
        generator: Where the initial parameters come from; torch's default when None.
        flops: Operations to fit, of a forward pass for one sample, as this package counts them.
        flops_per_edge: The same, counted as if every edge evaluated its own functions, see
            :mod:`kan_diffusion.denoisers.flops`.
        at_most: Whether the size to fit is an upper bound: then the nearest size up to it is taken,
            however much smaller.

    Returns:
        A freshly initialised denoiser.

    Raises:
        BudgetError: The family's smallest denoiser of this depth is over the budget.
        KanDiffusionError: Unknown family or setting, no size or more than one, or a budget that
            cannot be met.
    """
    kind = get_family(family)
    budgets: dict[Countable, int | None] = {
        "params": params,
        "flops": flops,
        "flops_per_edge": flops_per_edge,
    }
    given = [(countable, amount) for countable, amount in budgets.items() if amount is not None]
    if len(given) + (hidden is not None) != 1:
        raise KanDiffusionError(
            "give one size of a denoiser: params, flops, flops_per_edge or the hidden widths, not "
            f"{'more than one' if given else 'none'}"
        )
    options = {**kind.settings, **(settings or {})}
    if blocks:
        options["blocks"] = tuple(blocks)
    shape: dict[str, object] = {"data_dim": data_dim}
    if kind.of_pictures == isinstance(data_dim, int):
        fitting = ", ".join(FAMILIES if isinstance(data_dim, int) else PICTURE_FAMILIES)
        theirs, others = ("pictures", "points") if kind.of_pictures else ("points", "pictures")
        raise KanDiffusionError(
            f"family '{kind.name}' is for {theirs}; choose one for {others}: {fitting}"
        )
    if not isinstance(data_dim, int):
        shape = {"shape": tuple(data_dim)}

    def make(widths: Sequence[int]) -> Denoiser:
        if max(widths, default=0) > MOST_UNITS:
            raise KanDiffusionError(
                f"a hidden layer has at most {MOST_UNITS:,} units, and one of family "
                f"'{kind.name}' would have {max(widths):,}; take a smaller size or more layers"
            )
        try:
            return kind.denoiser_class(
                **shape,
                hidden=tuple(widths),
                num_train_timesteps=num_train_timesteps,
                num_classes=num_classes,
                **options,
            )
        except TypeError as error:
            raise KanDiffusionError(f"settings of family '{kind.name}': {error}") from error

    def require_room(widths: Sequence[int]) -> None:
        if len(widths) > MOST_LAYERS:
            raise KanDiffusionError(
                f"a denoiser has at most {MOST_LAYERS} hidden layers, not {len(widths):,}"
            )
        with torch.device("meta"):
            size = make(widths).num_trainable
        if size > MOST_PARAMETERS:
            raise KanDiffusionError(
                f"family '{kind.name}' would have {size:,} parameters with hidden widths "
                f"{', '.join(map(str, widths))}; a denoiser has at most {MOST_PARAMETERS:,}"
            )

    if hidden is None:
        ((countable, amount),) = given
        count, unit = COUNTABLES[countable]
        layers = kind.depth if depth is None else depth
        if not 1 <= layers <= MOST_LAYERS:
            raise KanDiffusionError(
                f"a fitted denoiser has from 1 to {MOST_LAYERS} hidden layers, not {layers:,}"
            )
        if amount > MOST_OPERATIONS:
            raise KanDiffusionError(
                f"a denoiser's size is at most {MOST_OPERATIONS:,}{unit}, not {amount:,}"
            )
        # As text, because a setting of 1 is not a setting of True, though 1 == True.
        written = repr(sorted((name, _frozen(value)) for name, value in options.items()))
        sizes = repr(shape), num_train_timesteps, num_classes
        key = kind.name, kind.denoiser_class, *sizes, written, countable, layers, amount, at_most
        if key not in _FOUND:
            with torch.device("meta"):  # where parameters have shapes and no values
                found = widths_for_budget(
                    lambda widths: count(make(widths)),
                    layers,
                    amount,
                    f"family '{kind.name}'",
                    unit,
                    at_most,
                )
            require_room(found)
            _FOUND[key] = found
        hidden = _FOUND[key]
    else:
        require_room(hidden)
    denoiser = make(hidden)
    denoiser.reset_parameters(generator)
    return denoiser
