r"""``GatedLinear``: a layer of units with gates, a carried state and a modulation.

The layer before gives the values y of the units, beside them their gates q, and its state c. With
a code k of a few numbers (of a timestep, say),

.. math:: z = \Big(1 + S_0 + \sum_j k_j S_j\Big) \odot y + T_0 + \sum_j k_j T_j + c, \qquad
    \mathrm{output} = W \big(f(z) \odot q\big) + \beta.

Here f is SiLU, or one learned function per unit (:mod:`kan_diffusion.kan.functions`), which makes
this a KAN layer. Gates are as in Dauphin et al. 2017 (arXiv:1612.08083), the state is a residual
connection (He et al. 2016, arXiv:1512.03385), and the scales S and shifts T, zero at first, are
those of FiLM (Perez et al. 2018, arXiv:1709.07871), of low rank. On a CPU a layer is one call of a
compiled kernel (:mod:`kan_diffusion.kan.kernels.units`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad, silu

from kan_diffusion.errors import KanDiffusionError, require_whole
from kan_diffusion.kan.functions import LearnedFunctions, draw_linear, require_input
from kan_diffusion.kan.kernels.fused import autocasts
from kan_diffusion.kan.kernels.internals import has_hooks
from kan_diffusion.kan.kernels.operators import UNITS
from kan_diffusion.kan.piecewise import evaluate


def modulate(
    values: Tensor, carried: Tensor | None, code: Tensor | None, modulation: Tensor | None
) -> Tensor:
    """Computes the state z of units.

    Args:
        values: Values y of the units, with shape (N, n).
        carried: The state of the layer before with shape (N, m), cut off or padded with zeros if m
            is not n; or None.
        code: Codes with shape (N, rank), or (1, rank) if all rows share one.
        modulation: Scales and shifts for each number of a code, then the constant ones, with shape
            (rank + 1, 2, n); None for no modulation.

    Returns:
        States with shape (N, n).
    """
    state = values
    if modulation is not None and code is not None:
        rows = modulation[-1] + torch.einsum("nj,jsu->nsu", code, modulation[:-1])
        state = torch.addcmul(rows[:, 1], state, 1 + rows[:, 0])
    if carried is not None:
        width = values.shape[1]
        wide = min(width, carried.shape[1])
        state = state + pad(carried[:, :wide], (0, width - wide))
    return state


class GatedLinear(nn.Module):
    """A linear map of gated units, with a modulation and a residual state.

    Args:
        in_features: Number of units.
        out_features: Size of the last dimension of the output.
        bias: Whether to add a learned constant to each output.
        gated: Whether units have gates.
        rank: Size of the code that modulates the units, beside constants; None for no modulation.
        functions: The learned function of each unit, or another activation; None for SiLU.
        device: Device of the parameters.
        dtype: Floating dtype of the parameters.

    Attributes:
        weight: Weights with shape (out, in).
        bias: Constants with shape (out,), or None.
        modulation: Scales and shifts for each number of a code, then the constant ones, with shape
            (rank + 1, 2, in); or None.

    Raises:
        KanDiffusionError: A size or the rank is not usable, or there is not one function for each
            unit.

    Example:
        >>> from kan_diffusion.kan import GatedLinear, LearnedFunctions
        >>> layer = GatedLinear(32, 16, rank=3, functions=LearnedFunctions(32))
        >>> output, state = layer(torch.rand(10, 64), code=torch.rand(10, 3))  # values and gates
        >>> output.shape, state.shape
        (torch.Size([10, 16]), torch.Size([10, 32]))
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        gated: bool = True,
        rank: int | None = None,
        functions: nn.Module | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        require_whole("in_features", in_features)
        require_whole("out_features", out_features)
        if rank is not None:
            require_whole("rank", rank, 0)
        if isinstance(functions, LearnedFunctions):
            sizes = functions.in_features, functions.functions
            if sizes != (in_features, 1):
                raise KanDiffusionError(
                    f"a GatedLinear of {in_features} units needs one function for each, not "
                    f"{sizes[1]} for {sizes[0]}"
                )
        self.in_features = in_features
        self.out_features = out_features
        self.gated = gated
        self.rank = rank
        self.functions = functions

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape, device=device, dtype=dtype))

        self.weight = parameter(out_features, in_features)
        self.bias = parameter(out_features) if bias else None
        self.modulation = None if rank is None else parameter(rank + 1, 2, in_features)
        self._draw()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws weights and constants as ``nn.Linear`` does.

        The modulation is set to zero, and the functions are fitted to their start.

        Args:
            generator: Where the draws come from; torch's default generator when None.
        """
        if isinstance(self.functions, LearnedFunctions):
            self.functions.reset_parameters(generator)
        self._draw(generator)

    def _draw(self, generator: torch.Generator | None = None) -> None:
        draw_linear(self.weight, self.bias, generator)
        if self.modulation is not None:
            nn.init.zeros_(self.modulation)

    @property
    def flops(self) -> int:
        """Floating-point operations of one forward pass for one row of input, without a state.

        SiLU counts 4, another activation 1.
        """
        functions = 4 * self.in_features
        if self.functions is not None:
            functions = int(getattr(self.functions, "flops", self.in_features))
        constants = self.out_features if self.bias is not None else 0
        modulation = 0 if self.rank is None else 4 * self.rank + 3
        units = self.in_features * (modulation + int(self.gated))
        return 2 * self.weight.numel() + constants + functions + units

    def forward(
        self, input: Tensor, carried: Tensor | None = None, code: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Computes the output and the state.

        Args:
            input: Values with shape (N, in_features); in a gated layer, values and gates side by
                side with shape (N, 2 in_features).
            carried: The state of the layer before with shape (N, m), or None for zero; if m is not
                in_features, it is cut off or padded with zeros.
            code: Codes with shape (N, rank); None without a modulation.

        Returns:
            The output with shape (N, out_features) and the state z with shape (N, in_features).

        Raises:
            KanDiffusionError: An input has another shape, or is not floating-point.
        """
        self._require(input, carried, code)
        functions, order = self.functions, 0
        curves: tuple[Tensor | None, ...] = None, None, None
        # Of plain SiLU and a linear map, torch's own operations are as fast.
        fused = functions is None and (self.gated or self.rank is not None)
        # Hooks of the functions have to see them.
        if type(functions) is LearnedFunctions and not has_hooks(functions):
            fused, order = True, functions.basis.order
            curves = functions.coefficients, *functions.basis.grid
        states = input, carried, code, self.modulation
        operands = *states, curves[0], self.weight, self.bias, *curves[1:]
        return UNITS(operands, (order, True), self._by_torch, fused and not autocasts(input))

    def _require(self, input: Tensor, carried: Tensor | None, code: Tensor | None) -> None:
        """Checks the shapes of all inputs."""
        width = (1 + self.gated) * self.in_features
        require_input(self, input, width)
        if input.ndim != 2:
            raise KanDiffusionError(
                f"input must have shape (N, {width}), not {tuple(input.shape)}; make rows of it"
            )
        if (code is None) != (self.rank is None):
            raise KanDiffusionError(
                f"a layer with rank={self.rank} takes {'no' if code is not None else 'a'} code"
            )
        rows = input.shape[0]
        for name, given, size in (("carried", carried, None), ("code", code, self.rank)):
            if given is not None and (
                given.ndim != 2 or given.shape[0] != rows or size not in (None, given.shape[1])
            ):
                shape = f"({rows}, {'m' if size is None else size})"
                raise KanDiffusionError(f"{name} must have shape {shape}, not {tuple(given.shape)}")

    def _by_torch(
        self, input: Tensor, carried: Tensor | None, code: Tensor | None, *operands: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Computes the layer in torch's own operations, with the parameters given.

        Its functions are called as they are where they have no ``coefficients``.
        """
        modulation, coefficients, weight, bias, *grid = operands
        values, gates = input.chunk(2, dim=-1) if self.gated else (input, None)
        state = modulate(values, carried, code, modulation)
        if self.functions is None:
            h = silu(state)
        elif coefficients is None:
            h = self.functions(state)
        else:
            functions = self.functions
            h = evaluate(state, coefficients, functions.basis, grid, functions.group)  # type: ignore[arg-type]
        assert weight is not None
        return linear(h if gates is None else h * gates, weight, bias), state

    def extra_repr(self) -> str:
        """The settings that differ between layers, for ``print``."""
        return f"{self.in_features}, {self.out_features}, gated={self.gated}, rank={self.rank}"
