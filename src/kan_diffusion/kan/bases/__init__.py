"""Basis functions of a KAN's edges, behind one interface."""

from __future__ import annotations

from typing import get_args

import torch

from kan_diffusion.errors import unknown_name
from kan_diffusion.kan.bases.base import Basis, Extrapolation, GridBasis
from kan_diffusion.kan.bases.chebyshev import Chebyshev
from kan_diffusion.kan.bases.fourier import Fourier
from kan_diffusion.kan.bases.rational import Rational
from kan_diffusion.kan.bases.rbf import RBF
from kan_diffusion.kan.bases.spline import MAX_ORDER, BSpline, piece_coefficients

__all__ = [
    "BASES",
    "MAX_ORDER",
    "RBF",
    "BSpline",
    "Basis",
    "BasisName",
    "Chebyshev",
    "Extrapolation",
    "Fourier",
    "GridBasis",
    "Rational",
    "make_basis",
    "piece_coefficients",
]

BASES: dict[str, type[Basis]] = {
    basis.name: basis
    for basis in (
        BSpline,
        RBF,
        Chebyshev,
        Fourier,
        Rational,
    )
}
"""Bases by name. To add one, write a module beside these and add a line here."""

BasisName = str
"""A name in ``BASES``."""


def make_basis(
    name: str,
    in_features: int,
    *,
    grid_size: int,
    order: int,
    grid_range: tuple[float, float],
    extrapolation: Extrapolation,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Basis:
    """Makes a basis by name; settings that the basis does not have are ignored.

    The arguments are those of :class:`~kan_diffusion.kan.linear.KANLinear`.

    Raises:
        KanDiffusionError: There is no such basis, or it cannot be made with these settings.
    """
    if extrapolation not in get_args(Extrapolation):
        raise unknown_name("extrapolation", str(extrapolation), get_args(Extrapolation))
    kind = BASES.get(name)
    if kind is None:
        raise unknown_name("basis", str(name), tuple(BASES))
    if issubclass(kind, BSpline):
        return kind(in_features, grid_size, order, grid_range, extrapolation, device, dtype)
    if issubclass(kind, GridBasis):
        return kind(in_features, grid_size, grid_range, extrapolation, device, dtype)
    return kind(in_features, device=device, dtype=dtype)
