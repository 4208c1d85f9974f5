r"""Layers one after another, with residual connections and modulation by the timestep.

With :math:`L_1, \dots, L_n` the hidden layers, :math:`L_{n+1}` the last, a the activation between
them (none in a KAN) and :math:`\tau` the features of the timestep,

.. math:: h_i = f_i(h_{i-1}) \;\text{ or }\; h_{i-1} + f_i(h_{i-1}), \qquad
    f_i(h) = a\big((1 + s_i(\tau)) \odot L_i(h) + b_i(\tau)\big).

*Residual*: from the second hidden layer on, a layer adds its input to its output (He et al. 2016,
arXiv:1512.03385); where their widths differ, the input is cut off or padded with zeros, which takes
no parameters. *Modulated*: the network takes the points and labels alone, and the timestep scales
and shifts the units of each hidden layer (FiLM, Perez et al. 2018, arXiv:1709.07871), in an MLP
before the activation, in a KAN at the output of the layer, which is the input of the next layer's
functions. The timestep may scale the network's inputs, too (as the preconditioning of Karras et al.
2022, arXiv:2206.00364, does by a given rule). One linear map of :math:`\tau`, which starts at zero,
gives all scales and shifts.

*Told*: a linear map of the mask of told blocks, which starts at zero, shifts the first hidden
layer. In an MLP this is the same as the mask as a further input. In a KAN it is cheaper, because
each edge from the mask would need a whole function of a number that is 0 or 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kan_diffusion.denoisers.flops import linear_flops
from kan_diffusion.denoisers.points import ModelMixin, PointDenoiser
from kan_diffusion.errors import KanDiffusionError

__all__ = ["ModelMixin", "Stack", "StackDenoiser"]


def _plus(output: Tensor, input: Tensor) -> Tensor:
    """Adds ``input`` (B, n), cut off or padded with zeros, to ``output`` (B, m)."""
    wide, wanted = input.shape[-1], output.shape[-1]
    if wide > wanted:
        input = input[..., :wanted]
    elif wide < wanted:
        input = nn.functional.pad(input, (0, wanted - wide))
    return output + input


class Stack(nn.Module):
    """Layers with residual connections, modulation or both.

    Args:
        layers: The layers, the last of which is neither modulated nor residual.
        hidden: Widths of the hidden layers, all but the last.
        activation: Activation between the layers; None in a KAN.
        residual: Whether hidden layers after the first add their input to their output.
        num_time_features: Number of features of the timestep that modulate the hidden layers; 0
            for no modulation.
        num_scaled_inputs: Number of inputs if the timestep scales them, too; else 0.
        num_blocks: Number of blocks of coordinates that may be told; 0 for none.

    Attributes:
        layers: The layers.
        modulation: The linear map from features of the timestep to the scales of all hidden units,
            then their shifts, then the scales of the inputs, if they are scaled; or None.
        told: The linear map from the mask of told blocks to shifts of the first layer; or None.

    Raises:
        KanDiffusionError: There is no hidden layer to modulate or shift, or inputs are to be scaled
            without modulation.
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        hidden: Sequence[int],
        *,
        activation: nn.Module | None = None,
        residual: bool = False,
        num_time_features: int = 0,
        num_scaled_inputs: int = 0,
        num_blocks: int = 0,
    ) -> None:
        super().__init__()
        if num_time_features and not hidden:
            raise KanDiffusionError(
                "a modulated denoiser needs at least one hidden layer, or the timestep has no "
                "effect; give hidden one width or more"
            )
        self.layers = nn.ModuleList(layers)
        self.activation = activation
        self.residual = residual
        self.hidden = tuple(hidden)
        self.num_scaled_inputs = num_scaled_inputs
        self.modulation: nn.Linear | None = None
        if num_time_features:
            self.modulation = nn.Linear(num_time_features, 2 * sum(hidden) + num_scaled_inputs)
        elif num_scaled_inputs:
            raise KanDiffusionError(
                "inputs that the timestep scales need modulation; set modulated, too"
            )
        if num_blocks and not hidden:
            raise KanDiffusionError(
                "a denoiser that is told coordinates needs at least one hidden layer; give hidden "
                "one width or more"
            )
        self.told = nn.Linear(num_blocks, hidden[0], bias=False) if num_blocks else None
        self.reset_parameters()

    @property
    def extra_flops(self) -> int:
        """Operations of residual sums and modulation for one point."""
        total = 0
        if self.residual:
            total += sum(map(min, self.hidden, self.hidden[1:]))
        if self.modulation is not None:
            # One plus the scale, the product and, for units, the sum.
            total += linear_flops([self.modulation]) + 3 * sum(self.hidden)
            total += 2 * self.num_scaled_inputs
        if self.told is not None:
            total += linear_flops([self.told]) + self.hidden[0]
        return total

    def reset_parameters(self) -> None:
        """Sets modulation and shifts to zero; the layers stay as they are."""
        if self.modulation is not None:
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)
        if self.told is not None:
            nn.init.zeros_(self.told.weight)

    def modulations(self, time: Tensor) -> tuple[Sequence[Tensor], Sequence[Tensor], Tensor | None]:
        """Computes the factors and shifts of a timestep.

        Args:
            time: Features of the timesteps with shape (B, num_time_features).

        Returns:
            The factors (one plus the scales) and the shifts of each hidden layer, (B, width) each,
            and the factors of the inputs with shape (B, n), None if inputs are not scaled.
        """
        assert self.modulation is not None
        all_of_them = self.modulation(time)
        total = sum(self.hidden)
        scale, shift = all_of_them[..., :total], all_of_them[..., total : 2 * total]
        of_input = 1 + all_of_them[..., 2 * total :] if self.num_scaled_inputs else None
        return (1 + scale).split(self.hidden, dim=-1), shift.split(self.hidden, dim=-1), of_input

    def forward(
        self, input: Tensor, time: Tensor | None = None, told: Tensor | None = None
    ) -> Tensor:
        """Maps (B, n) to (B, m).

        Args:
            input: Inputs of the first layer, with shape (B, n).
            time: Features of the timesteps with shape (B, num_time_features), or (1,
                num_time_features) if all rows share one; ignored without modulation.
            told: 1 for each told block and else 0, with shape (B, num_blocks); None for none told.

        Returns:
            Outputs of the last layer, with shape (B, m).
        """
        scales: Sequence[Tensor] = ()
        shifts: Sequence[Tensor] = ()
        state = input
        if self.modulation is not None and time is not None:
            scales, shifts, of_input = self.modulations(time)
            state = input if of_input is None else input * of_input
        for index in range(len(self.hidden)):
            output = self.layers[index](state)
            if self.told is not None and told is not None and index == 0:
                output = output + self.told(told)
            if scales:
                output = torch.addcmul(shifts[index], output, scales[index])
            if self.activation is not None:
                output = self.activation(output)
            state = _plus(output, state) if self.residual and index else output
        return self.layers[-1](state)


class StackDenoiser(PointDenoiser):
    """Base of the denoisers whose network is a chain of layers, or a :class:`Stack` of them."""

    def _setup_stack(self) -> tuple[int, int]:
        """Prepares the features; returns the numbers of inputs of layers and of modulation."""
        c = self.config
        num_features = self._setup_inputs(
            c.data_dim,
            c.num_train_timesteps,
            c.time_encoding,
            c.num_time_frequencies,
            c.get("num_classes", 0),
            c.num_input_frequencies,
            c.get("blocks", ()),
        )
        num_time_features = self.time_features.num_features if c.modulated else 0
        return num_features - num_time_features - len(self.blocks), num_time_features

    @property
    def stack(self) -> Stack | None:
        """The network if it is a :class:`Stack`, else None."""
        return self.network if isinstance(self.network, Stack) else None

    @property
    def _extra_flops(self) -> int:
        """Operations outside the layers."""
        stack = self.stack
        return self._input_flops + (0 if stack is None else stack.extra_flops)

    def _predict(self, points: Tensor, steps: Tensor, labels: Tensor | None) -> Tensor:
        stack = self.stack
        if stack is None:
            return super()._predict(points, steps, labels)
        time = self.time_features(steps, points.dtype)
        # One timestep for all points is modulated once; any other number must be that of points.
        if len(time) > 1 or stack.modulation is None:
            time = time.expand(len(points), -1)
        parts = [points] if stack.modulation is not None else [points, time]
        told = None
        if labels is not None:
            classes, told = labels.split([self.num_classes, len(self.blocks)], dim=-1)
            parts.append(classes)
        return stack(torch.cat(parts, dim=-1), time, told)
