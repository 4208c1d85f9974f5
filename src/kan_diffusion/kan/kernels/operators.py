"""The functions that have a compiled kernel.

Numba is imported, and a kernel compiled, when the first of them is computed.
"""

from __future__ import annotations

from types import ModuleType

from kan_diffusion.kan.kernels.fused import FusedFunction
from kan_diffusion.kan.kernels.operands import SplineOperands, UnitsOperands


def _spline() -> ModuleType:
    from kan_diffusion.kan.kernels import spline

    return spline


def _units() -> ModuleType:
    from kan_diffusion.kan.kernels import units

    return units


SPLINE = FusedFunction("spline", SplineOperands, _spline, num_gradients=3)
"""A layer of B-splines of each edge."""
UNITS = FusedFunction("units", UnitsOperands, _units, num_gradients=7, num_outputs=2)
"""Units with learned functions or SiLU."""
