"""Basis functions of a KAN's edges, behind one interface."""

from __future__ import annotations

from typing import get_args

import torch

from kan_diffusion.errors import KanDiffusionError, unknown_name
from kan_diffusion.kan.bases.base import Basis, Extrapolation
from kan_diffusion.kan.bases.chebyshev import Chebyshev
from kan_diffusion.kan.bases.rbf import RBF
from kan_diffusion.kan.bases.spline import MAX_ORDER, BSpline, piece_coefficients

__all__ = [
    "BASES",
    "MAX_ORDER",
    "RBF",
    "BSpline",
    "Basis",
    "BasisKind",
    "Chebyshev",
    "Extrapolation",
    "make_basis",
    "piece_coefficients",
]

BASES: dict[str, type[Basis]] = {basis.name: basis for basis in (BSpline, RBF, Chebyshev)}
"""Bases by name. To add one, write a module beside these and add it here."""

BasisKind = str | type[Basis]
"""A name in ``BASES``, or a class of one's own."""


def make_basis(
    kind: BasisKind,
    in_features: int,
    grid_size: int,
    order: int,
    grid_range: tuple[float, float],
    extrapolation: Extrapolation,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Basis:
    """Makes a basis; the arguments are those of :class:`~kan_diffusion.kan.linear.KANLinear`.

    Raises:
        KanDiffusionError: There is no such basis, or it cannot be made with these settings.
    """
    if extrapolation not in get_args(Extrapolation):
        raise unknown_name("extrapolation", str(extrapolation), get_args(Extrapolation))
    if isinstance(kind, str):
        if kind not in BASES:
            raise unknown_name("basis", kind, BASES)
        kind = BASES[kind]
    if not (isinstance(kind, type) and issubclass(kind, Basis)):
        raise KanDiffusionError(
            f"basis must be a name or a class of Basis, not {kind!r}; known: {', '.join(BASES)}"
        )
    return kind(in_features, grid_size, order, grid_range, extrapolation, device, dtype)
