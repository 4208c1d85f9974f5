"""The operators that have a compiled kernel, declared by their operands.

Numba is imported, and a kernel compiled, when the first of them is computed.
"""

from __future__ import annotations

from torch import Tensor

from kan_diffusion.kan.kernels.fused import FusedFunction, Gradients
from kan_diffusion.kan.kernels.operands import SplineOperands, UnitsOperands


class _Spline(SplineOperands):
    """A layer of B-splines of each edge."""

    def forward(self) -> Tensor:
        """Computes the output (N, out)."""
        from kan_diffusion.kan.kernels import spline

        return spline.forward(self)

    def backward(self, *grads: Tensor | None, for_first: bool = True) -> Gradients:
        """Computes the gradients of x (None unless wanted), weight and bias."""
        from kan_diffusion.kan.kernels import spline

        (grad,) = grads
        assert grad is not None
        return spline.backward(self, grad, for_first)


class _Units(UnitsOperands):
    """Units with learned functions or SiLU."""

    def forward(self) -> tuple[Tensor, Tensor]:
        """Computes output and state."""
        from kan_diffusion.kan.kernels import units

        return units.forward(self)

    def backward(self, *grads: Tensor | None, for_first: bool = True) -> Gradients:
        """Computes the gradients of the first seven operands."""
        from kan_diffusion.kan.kernels import units

        grad, grad_state = grads
        return units.backward(self, grad, grad_state)


SPLINE = FusedFunction("spline", _Spline, num_gradients=3)
UNITS = FusedFunction("units", _Units, num_gradients=7, num_outputs=2)
