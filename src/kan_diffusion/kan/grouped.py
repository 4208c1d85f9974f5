r"""``GroupedKANLinear``: a KAN layer whose edges are weighted sums of a few shared functions.

.. math:: y_o = \beta_o + \sum_i \phi_{o,i}(x_i), \qquad
    \phi_{o,i}(x) = \sum_{r \le R} a_{o,i,r}\, f_{\gamma(i),r}(x),

with the learned functions f of :mod:`kan_diffusion.kan.functions`, R for each group of inputs. An
edge has R parameters, where an edge of :class:`~kan_diffusion.kan.linear.KANLinear` has G + k. With
R = G + k and one group per input the two layers are the same; with R = 1 each input has one learned
function, as a unit of an MLP has its activation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.kan.bases import BasisName, Extrapolation
from kan_diffusion.kan.functions import LearnedFunctions, Start
from kan_diffusion.kan.grids import WeightedEdges
from kan_diffusion.kan.kernels.edges import autocasts
from kan_diffusion.kan.kernels.fused import Step, run

__all__ = ["GroupedKANLinear"]


class GroupedKANLinear(WeightedEdges, LearnedFunctions):
    """A KAN layer whose edges share a few learned functions, used where ``nn.Linear`` would be.

    Args:
        in_features: Size of the last dimension of the input.
        out_features: Size of the last dimension of the output.
        bias: Whether to add a learned constant to each output.
        functions: Number R of functions per input, at most as many as the basis has.
        groups: Number of groups that share functions, to which inputs are assigned by turns; or the
            group of each input, counted from 0; or None for one group per input.
        basis: Basis of the learned functions, by name in ``BASES``.
        grid_size: Number G of intervals of the grid, or the size that the basis has instead.
        order: Degree k of the splines, 1 to 5.
        grid_range: Ends of the grid, the same for every group at the start.
        extrapolation: What happens outside the grid, see :mod:`kan_diffusion.kan.bases.base`.
        start: The functions that the learned ones start as, see
            :class:`~kan_diffusion.kan.functions.LearnedFunctions`.
        noise: Standard deviation of the noise added to each coefficient at the start.
        rate: Learning rate of the coefficients relative to that of other parameters, see
            :class:`~kan_diffusion.kan.functions.LearnedFunctions`.
        device: Device of the parameters.
        dtype: Floating dtype of the parameters.

    Attributes:
        coefficients: Coefficients of the functions with shape (R, groups, functions of the basis).
        weight: Weights a of the functions with shape (out, in * R), those of an input side by side.
        bias: Constants with shape (out,), or None.

    Raises:
        KanDiffusionError: A size, a range or a name is not usable; there are more functions than
            the basis has; the groups do not divide the inputs; or the basis cannot be fitted to the
            start.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        functions: int = 1,
        groups: int | Sequence[int] | None = None,
        basis: BasisName = "bspline",
        grid_size: int = 8,
        order: int = 3,
        grid_range: tuple[float, float] = (-3.0, 3.0),
        extrapolation: Extrapolation = "linear",
        start: Start = "silu",
        noise: float = 1e-3,
        rate: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            in_features,
            functions,
            groups,
            basis=basis,
            grid_size=grid_size,
            order=order,
            grid_range=grid_range,
            extrapolation=extrapolation,
            start=start,
            noise=noise,
            rate=rate,
            device=device,
            dtype=dtype,
        )
        if out_features < 1:
            raise KanDiffusionError(
                f"a GroupedKANLinear needs at least one output, not {out_features}"
            )
        self.out_features = out_features
        new = self.coefficients.new_empty
        self.weight = nn.Parameter(new(out_features, in_features * functions))
        self.bias = nn.Parameter(new(out_features)) if bias else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Fits the functions to their start and draws weights and constants as ``nn.Linear`` does.

        Args:
            generator: Where the draws come from; torch's default generator when None.
        """
        super().reset_parameters(generator)
        bound = 1 / math.sqrt(self.in_features * self.functions)
        self.weight.uniform_(-bound, bound, generator=generator)
        if self.bias is not None:
            self.bias.uniform_(-bound, bound, generator=generator)

    @property
    def flops(self) -> int:
        """Floating-point operations of one forward pass for one row of input."""
        constants = self.out_features if self.bias is not None else 0
        return super().flops + 2 * self.weight.numel() + constants

    def _outputs(self, rows: Tensor) -> Tensor:
        step = self.step(rows)
        if step is None:
            return linear(super()._outputs(rows), self.weight, self.bias)
        return run([step], rows)[0]

    def step(self, x: Tensor) -> Step | None:
        """Returns the layer as a step of its kernel, or None if the kernel does not take x."""
        return None if autocasts(x) else self._step(x, self.weight, self.bias)

    def _features(self, rows: Tensor) -> Tensor:
        return super()._outputs(rows).unflatten(1, (self.in_features, self.functions))

    def _features_of(self, i: int, x: Tensor) -> Tensor:
        group = self.group_of[i]
        values = self.basis.one_input(group)(x)[:, 0]
        return values @ self.coefficients[:, group].T.to(values.dtype)

    def _edge_weights(self) -> Tensor:
        return self.weight.view(self.out_features, self.in_features, self.functions)

    def extra_repr(self) -> str:
        """The settings that differ between layers, for ``print``."""
        return (
            f"{self.in_features}, {self.out_features}, functions={self.functions}, "
            f"groups={self.groups}, bias={self.bias is not None}"
        )
