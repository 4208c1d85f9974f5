"""Families by name, and denoisers of a family built to a budget.

:data:`FAMILIES` lists the families there are, each defined beside its denoiser. What tuning found
is kept in ``tuned.json`` and laid over them. A family of one's own is named by where it is,
``"package.module:NAME"``, which works in every process without registering anything.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib import resources

import torch

from kan_diffusion.denoisers.base import Denoiser
from kan_diffusion.denoisers.family import Choice, Family, IntRange, Range, Setting
from kan_diffusion.denoisers.kan import KAN_FAMILIES, READABLE_KAN
from kan_diffusion.denoisers.mlp import MLP_FAMILIES
from kan_diffusion.denoisers.rbf_2015 import RBF_2015
from kan_diffusion.denoisers.sizing import (
    BUDGET_TOLERANCE,
    Countable,
    fitted_widths,
    make_denoiser,
    widths_for_budget,
)
from kan_diffusion.denoisers.spline_mlp import SPLINE_MLP
from kan_diffusion.errors import KanDiffusionError, unknown_name
from kan_diffusion.imports import import_object

__all__ = [
    "BUDGET_TOLERANCE",
    "FAMILIES",
    "Choice",
    "Family",
    "IntRange",
    "Range",
    "Setting",
    "build_denoiser",
    "get_family",
    "untuned_family",
    "widths_for_budget",
    "with_tuned",
]


def with_tuned(
    families: Iterable[Family], tuned: Mapping[str, Mapping[str, object]]
) -> dict[str, Family]:
    """Families by name, with what tuning found laid over their own values.

    Args:
        families: The families.
        tuned: For some of their names ``"depth"``, ``"learning_rate"`` and ``"settings"``, each of
            which may be missing; settings that are not named stay the family's own.

    Raises:
        KanDiffusionError: A name or a key is not known.
    """
    by_name = {family.name: family for family in families}
    for name, found in tuned.items():
        if name not in by_name:
            raise unknown_name("tuned family", name, by_name)
        family = by_name[name]
        depth = found.get("depth", family.depth)
        rate = found.get("learning_rate", family.learning_rate)
        settings = found.get("settings", {})
        if (
            found.keys() - {"depth", "learning_rate", "settings"}
            or not isinstance(depth, int)
            or not isinstance(rate, int | float)
            or not isinstance(settings, Mapping)
        ):
            raise KanDiffusionError(
                f"tuned family '{name}' takes a depth, a learning_rate and settings, not {found}"
            )
        # A file has lists where a program has tuples.
        plain = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in settings.items()
        }
        by_name[name] = replace(
            family,
            depth=depth,
            learning_rate=rate,
            settings={**family.settings, **plain},
        )
    return by_name


def _tuned() -> dict[str, dict[str, object]]:
    file = resources.files("kan_diffusion.denoisers").joinpath("tuned.json")
    return json.loads(file.read_text(encoding="utf-8"))


_BUILT_IN = (
    *KAN_FAMILIES,
    *MLP_FAMILIES,
    SPLINE_MLP,
    RBF_2015,
)

FAMILIES: Mapping[str, Family] = with_tuned(_BUILT_IN, _tuned())
"""The families by name, all of which a comparison may have."""

_NOT_COMPARED: Mapping[str, Family] = {READABLE_KAN.name: READABLE_KAN}
"""Families that are there for something else, known by name like the others."""


def get_family(name: str) -> Family:
    """Looks a family up.

    Args:
        name: The name of one of ``FAMILIES``, or ``"package.module:NAME"`` for a :class:`Family`
            that stands under that name in a module that can be imported.

    Raises:
        KanDiffusionError: There is no such family; the message lists those there are, or says what
            is wrong with the module.
    """
    if ":" in name:
        return import_object(name, "family", Family)
    known = {**FAMILIES, **_NOT_COMPARED}
    if name not in known:
        raise unknown_name("family", name, known)
    return known[name]


def untuned_family(name: str) -> Family:
    """A family with the values it was registered with, where a search of its settings begins.

    Raises:
        KanDiffusionError: There is no such family.
    """
    return with_tuned(_BUILT_IN, {}).get(name) or get_family(name)


def build_denoiser(
    family: str,
    data_dim: int,
    *,
    num_train_timesteps: int,
    params: int | None = None,
    hidden: Sequence[int] | None = None,
    depth: int | None = None,
    num_classes: int = 0,
    settings: Mapping[str, Setting] | None = None,
    generator: torch.Generator | None = None,
    flops: int | None = None,
    flops_per_edge: int | None = None,
) -> Denoiser:
    """Builds a denoiser of a family, fitted to a budget or of given widths.

    Exactly one of ``params``, ``flops``, ``flops_per_edge`` and ``hidden`` is given.

    Args:
        family: Name of the family, see :func:`get_family`.
        data_dim: Number of coordinates of a point.
        num_train_timesteps: Number of steps of the process.
        params: Number of trainable parameters to fit, within ``BUDGET_TOLERANCE``.
        hidden: Widths of the hidden layers.
        depth: Number of hidden layers when fitting; the family's own when None.
        num_classes: Number of class labels.
        settings: Settings of the denoiser class that override the family's.
        generator: Where the initial parameters come from; torch's default when None.
        flops: Operations of a forward pass of one point to fit, as this package computes them.
        flops_per_edge: The same where every edge evaluates its functions for itself, see
            :mod:`kan_diffusion.denoisers.flops`.

    Returns:
        A freshly initialised denoiser.

    Raises:
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
    for countable, amount in given:
        hidden = fitted_widths(
            kind,
            data_dim,
            countable,
            amount,
            num_train_timesteps=num_train_timesteps,
            depth=depth,
            num_classes=num_classes,
            settings=options,
        )
    assert hidden is not None
    denoiser = make_denoiser(
        kind,
        data_dim,
        hidden,
        num_train_timesteps=num_train_timesteps,
        num_classes=num_classes,
        settings=options,
    )
    denoiser.reset_parameters(generator)
    return denoiser
