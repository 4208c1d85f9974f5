r"""``GatedLinear``: a layer of units with gates, a carried state and a modulation.

The layer before gives the values y of the units, beside them their gates q, and its state c. With
a code k of a few numbers (of a timestep, say),

.. math:: z = \Big(1 + S_0 + \sum_j k_j S_j\Big) \odot y + T_0 + \sum_j k_j T_j + c, \qquad
    \mathrm{output} = W \big(f(z) \odot q\big) + \beta.

Here f is SiLU, or one learned function per unit (:mod:`kan_diffusion.kan.functions`), which makes
this a KAN layer. Gates are as in Dauphin et al. 2017 (arXiv:1612.08083), the state is a residual
connection (He et al. 2016, arXiv:1512.03385), and the scales S and shifts T, zero at first, are
those of FiLM (Perez et al. 2018, arXiv:1709.07871), of low rank. On a CPU a layer is one call of a
compiled kernel (:mod:`kan_diffusion.kan.kernels.gated`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn.functional import linear, silu
from torch.nn.modules.module import _has_any_global_hook

from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.kan.functions import LearnedFunctions
from kan_diffusion.kan.grids import MovingGrids
from kan_diffusion.kan.grouped import GroupedKANLinear
from kan_diffusion.kan.inputs import leaf, must_be_called, require_input
from kan_diffusion.kan.kernels.edges import autocasts
from kan_diffusion.kan.kernels.fused import FusedFunction, Step, run

__all__ = ["GatedLinear", "gated_chain"]

_KERNEL = FusedFunction(
    "gated_linear",
    "gated",
    "Tensor input, Tensor? carried, Tensor? code, Tensor? modulation, Tensor? coefficients, "
    "Tensor weight, Tensor? bias, Tensor? origin, Tensor? step",
    "int[] group_of, int order",
    num_gradients=7,
    output_shapes=lambda input, a, b, c, d, weight, *_: (
        (input.shape[0], weight.shape[0]),
        (input.shape[0], weight.shape[1]),
    ),
    num_outputs=2,
)


class GatedLinear(MovingGrids):
    """A linear map of gated units, with a modulation and a residual state.

    Args:
        in_features: Number of units.
        out_features: Size of the last dimension of the output.
        bias: Whether to add a learned constant to each output.
        gated: Whether units have gates.
        rank: Size of the code that modulates the units, beside constants; None for no modulation.
        functions: The learned function of each unit; None for SiLU.
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
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        gated: bool = True,
        rank: int | None = None,
        functions: LearnedFunctions | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if in_features < 1 or out_features < 1:
            raise KanDiffusionError(
                f"a {name} needs at least one input and one output, not {in_features} and "
                f"{out_features}"
            )
        if rank is not None and rank < 0:
            raise KanDiffusionError(f"rank must be at least 0, or None, not {rank}")
        if functions is not None and (functions.in_features, functions.functions) != (
            in_features,
            1,
        ):
            raise KanDiffusionError(
                f"a {name} of {in_features} units needs one function for each, not "
                f"{functions.functions} for {functions.in_features}"
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
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws weights and constants as ``nn.Linear`` does.

        The modulation is set to zero, and the functions are fitted to their start.

        Args:
            generator: Where the draws come from; torch's default generator when None.
        """
        if self.functions is not None:
            self.functions.reset_parameters(generator)
        bound = 1 / math.sqrt(self.in_features)
        for drawn in (self.weight, self.bias):
            if drawn is not None:
                drawn.uniform_(-bound, bound, generator=generator)
        if self.modulation is not None:
            self.modulation.zero_()

    @property
    def flops(self) -> int:
        """Floating-point operations of one forward pass for one row of input; SiLU counts 4."""
        functions = 4 * self.in_features if self.functions is None else self.functions.flops
        constants = self.out_features if self.bias is not None else 0
        return 2 * self.weight.numel() + constants + functions + self.flops_of_states

    @property
    def flops_of_states(self) -> int:
        """Operations of gates, modulation and the carried state for one row of input."""
        modulated = 0 if self.rank is None else 4 * self.rank + 3
        return self.in_features * (modulated + int(self.gated) + 1)

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
        if isinstance(input, Proxy):
            output, state = leaf(self, input, carried, code)
            return output, state
        width = (1 + int(self.gated)) * self.in_features
        require_input(self, input, width)
        if input.ndim != 2:
            raise KanDiffusionError(
                f"input must have shape (N, {width}), not {tuple(input.shape)}; make rows of it"
            )
        if (code is None) != (self.rank is None):
            raise KanDiffusionError(
                f"a layer with rank={self.rank} takes {'no' if code is not None else 'a'} code"
            )
        for name, tensor, size in (("carried", carried, "m"), ("code", code, self.rank)):
            if tensor is None:
                continue
            fits = tensor.ndim == 2 and tensor.shape[0] == input.shape[0]
            if not fits or (name == "code" and tensor.shape[1] != size):
                raise KanDiffusionError(
                    f"{name} must have shape ({len(input)}, {size}), not {tuple(tensor.shape)}"
                )
        step = self.step(input, carried, code)
        if step is not None:
            output, state = run([step], input, carried)
            return output, state
        own = self.modulation, None, self.weight, self.bias
        return self._reference(input, carried, code, *own)

    def step(self, input: Tensor, carried: Tensor | None, code: Tensor | None) -> Step | None:
        """Returns the layer as a step of its kernel, or None if the kernel does not take it.

        The kernel does not take a layer whose functions have hooks or are of another class, so that
        these are called.
        """
        if input.ndim != 2 or autocasts(input):
            return None
        curves: tuple[Tensor | None, ...] = None, None, None
        settings: tuple[tuple[int, ...], int] = (0,) * self.in_features, 0
        if self.functions is not None:
            grid = self.functions.kernel_grid()
            own_call = type(self.functions) is not LearnedFunctions
            if grid is None or own_call or must_be_called(self.functions):
                return None
            *own, order = grid
            curves = self.functions.coefficients, *own
            settings = self.functions.group_of, order
        coefficients, origin, step = curves
        operands = (
            code, self.modulation, coefficients, self.weight, self.bias, origin, step
        )  # fmt: skip
        if not _KERNEL.takes((input, carried, *operands)):
            return None
        return Step(_KERNEL, operands, settings, self._reference)

    def _reference(
        self,
        input: Tensor,
        carried: Tensor | None,
        code: Tensor | None,
        modulation: Tensor | None,
        coefficients: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        *grid: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Computes the layer in torch's own operations, with the parameters given.

        Its functions are called as they are where they have no ``coefficients``.
        """
        state, gate = self._state(input, carried, code, modulation)
        if self.functions is None:
            h = silu(state)
        elif coefficients is None:
            h = self.functions(state)
        else:
            h = self.functions.by_torch(state, coefficients, *grid)
        return linear(h if gate is None else h * gate, weight, bias), state

    def _state(
        self,
        input: Tensor,
        carried: Tensor | None,
        code: Tensor | None,
        modulation: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Computes the state z and the gates."""
        state, gate = input, None
        if self.gated:
            state, gate = input.chunk(2, dim=-1)
        if modulation is not None and code is not None:
            rows = modulation[-1] + torch.einsum("nj,jsu->nsu", code, modulation[:-1])
            state = torch.addcmul(rows[:, 1], state, 1 + rows[:, 0])
        if carried is not None:
            wide = min(self.in_features, carried.shape[1])
            state = state + nn.functional.pad(carried[:, :wide], (0, self.in_features - wide))
        return state, gate

    def extra_repr(self) -> str:
        """The settings that differ between layers, for ``print``."""
        return f"{self.in_features}, {self.out_features}, gated={self.gated}, rank={self.rank}"


def gated_chain(
    layers: Sequence[GatedLinear],
    input: Tensor,
    code: Tensor | None,
    first: GroupedKANLinear | None = None,
) -> Tensor:
    """Applies gated layers one after another, each with the state of the one before.

    If all have a kernel, and none has hooks or its own ``forward``, they are computed in one go.

    Args:
        layers: The layers, each with as many outputs as the next one takes.
        input: Values and gates of the first layer with shape (N, n), or the input of ``first``.
        code: Codes with shape (N, rank); None without a modulation.
        first: The layer that computes values and gates of the first gated layer, or None.

    Returns:
        The output of the last layer.

    Raises:
        KanDiffusionError: The input, the code or the output of a layer does not fit.
    """
    chain = layers if first is None else (first, *layers)
    called = any(
        type(layer) not in (GatedLinear, GroupedKANLinear) or must_be_called(layer)
        for layer in chain
    ) or (not torch.compiler.is_compiling() and _has_any_global_hook())
    if not (called or isinstance(input, Proxy)) and _fit(layers, input, code, first):
        before = [] if first is None else [first.step(input)]
        steps = [*before, *(layer.step(input, None, code) for layer in layers)]
        ready = [step for step in steps if step is not None]
        if len(ready) == len(chain):
            return run(ready, input, *(None,) * (first is None))[0]
    if first is not None:
        input = first(input)
    state: Tensor | None = None
    for layer in layers:
        input, state = layer(input, state, code)
    return input


def _fit(
    layers: Sequence[GatedLinear],
    input: Tensor,
    code: Tensor | None,
    first: GroupedKANLinear | None,
) -> bool:
    """Tells whether all shapes fit; a layer that is called by itself says what does not."""
    width = input.shape[-1] if input.ndim == 2 else -1
    if first is not None:
        if width != first.in_features:
            return False
        width = first.out_features
    codes = None if code is None else tuple(code.shape)
    for layer in layers:
        if width != (1 + int(layer.gated)) * layer.in_features:
            return False
        if codes != (None if layer.rank is None else (input.shape[0], layer.rank)):
            return False
        width = layer.out_features
    return True
