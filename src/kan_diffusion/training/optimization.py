r"""Updates of the parameters in a training step: clipping, Adam and the moving average.

With g the gradient of the loss at the parameters :math:`\theta`, step k = 0, 1, ... computes

.. math::
    g &\leftarrow g \min(1,\; c / \lVert g \rVert), \\
    \theta &\leftarrow \mathrm{Adam}(\theta, g), \\
    \bar\theta &\leftarrow d_k \bar\theta + (1 - d_k)\, \theta, \qquad
    d_k = \min\!\big(d,\; (1 + k) / (10 + k)\big), \quad d_0 = 0,

the average with the warm-up of ``diffusers.training_utils.EMAModel``. A small network has dozens of
small tensors, and an operation on a small tensor costs its call rather than its arithmetic.
:class:`ParameterVector` therefore lays the parameters side by side in one vector, of which they are
views as long as they are trained: each line above is then one call.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from diffusers.optimization import get_scheduler
from torch import Tensor, nn

from kan_diffusion.errors import KanDiffusionError

__all__ = ["ParameterVector", "WeightAverage", "learning_rates"]

_ALIGNMENT = 64
"""Bytes at multiples of which a parameter starts, for the vector units to load it at full speed."""


class ParameterVector:
    """The trainable parameters of a module, laid side by side in one vector.

    They stay the objects they were, but their values are views of the vector until
    :meth:`release`, and :meth:`collect_gradients` moves their gradients into its own. The few
    entries that fill the gaps between them are zero and stay zero.

    Args:
        module: The module, already on the device it is trained on.

    Attributes:
        vector: What an optimiser is given, with shape (P,).

    Raises:
        KanDiffusionError: The module has no trainable parameters, or some of different dtypes.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._parameters = self._trainable()
        name = type(module).__name__
        if not self._parameters:
            raise KanDiffusionError(
                f"{name} has no trainable parameters; unfreeze some with requires_grad_()"
            )
        dtypes = sorted({str(parameter.dtype) for parameter in self._parameters})
        if len(dtypes) > 1:
            raise KanDiffusionError(
                f"{name} has parameters of {' and '.join(dtypes)}, and training needs one dtype; "
                "convert it with .float()"
            )
        first = self._parameters[0]
        block = max(1, _ALIGNMENT // first.element_size())
        self._starts: list[int] = []
        size = 0
        for parameter in self._parameters:
            self._starts.append(size)
            size += -(-parameter.numel() // block) * block
        self.vector = nn.Parameter(torch.zeros(size, dtype=first.dtype, device=first.device))
        self._gradient = torch.zeros_like(self.vector)
        self._gradients = self.split(self._gradient)
        self._row = self._gradient.unsqueeze(0)
        self.vector.grad = self._gradient
        self._views = self.split(self.vector.detach())
        for parameter, view in zip(self._parameters, self._views, strict=True):
            view.copy_(parameter.detach())
            parameter.data = view
            parameter.grad = None

    def _trainable(self) -> list[nn.Parameter]:
        return [parameter for parameter in self._module.parameters() if parameter.requires_grad]

    def __len__(self) -> int:
        return len(self._parameters)

    def split(self, vector: Tensor) -> list[Tensor]:
        """Views of a vector with shape (P,), each with the shape of its parameter."""
        return [
            vector[start : start + parameter.numel()].view(parameter.shape)
            for start, parameter in zip(self._starts, self._parameters, strict=True)
        ]

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """The vector with shape (P,) whose :meth:`split` gives these parts."""
        vector = torch.zeros_like(self._gradient)
        for view, part in zip(self.split(vector), parts, strict=True):
            view.copy_(part)
        return vector

    def collect_gradients(self) -> None:
        """Moves the gradients of the parameters into that of the vector; none counts as zero."""
        gradients = [parameter.grad for parameter in self._parameters]
        present = [gradient for gradient in gradients if gradient is not None]
        if len(present) == len(gradients):
            torch._foreach_copy_(self._gradients, present)
        else:
            for view, gradient in zip(self._gradients, gradients, strict=True):
                view.zero_() if gradient is None else view.copy_(gradient)
        for parameter in self._parameters:
            parameter.grad = None

    def clip_gradient(self, max_norm: float) -> None:
        """Scales the vector's gradient down to a norm of ``max_norm``, where it is larger."""
        self._row.renorm_(2, 0, max_norm)

    @contextmanager
    def lent(self, values: Tensor) -> Iterator[None]:
        """Gives the parameters values with shape (P,), copied; their own come back afterwards.

        Raises:
            KanDiffusionError: Parameters were added, replaced or taken away meanwhile.
        """
        for parameter, part in zip(self._parameters, self.split(values), strict=True):
            parameter.data = part.clone()
        try:
            yield
        finally:
            for parameter, view in zip(self._parameters, self._views, strict=True):
                parameter.data = view
        if list(map(id, self._trainable())) != list(map(id, self._parameters)):
            raise KanDiffusionError(
                f"the parameters of {type(self._module).__name__} were replaced while it is "
                "trained; change a copy of it (copy.deepcopy)"
            )

    def release(self) -> None:
        """Makes the parameters ordinary tensors again, each with memory of its own."""
        for parameter, view in zip(self._parameters, self._views, strict=True):
            parameter.data = view.clone()
            parameter.grad = None


class WeightAverage:
    """Exponential moving average (EMA) of a vector.

    Args:
        vector: What is averaged, with shape (P,).
        decay: Largest decay d.

    Attributes:
        values: The average, with shape (P,).
        num_updates: How many vectors it is an average of.
    """

    def __init__(self, vector: Tensor, decay: float) -> None:
        self._vector = vector.detach()
        self.decay = decay
        self.values = self._vector.clone()
        self.num_updates = 0

    def update(self) -> None:
        """Takes the vector as it is now into the average."""
        count = self.num_updates
        decay = min(self.decay, (1 + count) / (10 + count)) if count else 0.0
        self.values.lerp_(self._vector, 1 - decay)
        self.num_updates = count + 1


def learning_rates(
    optimizer: torch.optim.Optimizer,
    schedule: Literal["cosine", "constant"],
    peak: float,
    warmup_steps: int,
    steps: int,
) -> np.ndarray:
    """The learning rate of every step, with shape (steps,): known before the first.

    Args:
        optimizer: An optimiser; diffusers' schedules want to be shown one.
        schedule: What follows the warm-up: decay to zero, or the peak.
        peak: The largest learning rate.
        warmup_steps: Steps of linear rise from zero, at most a quarter of all.
        steps: Number of steps.
    """
    made = get_scheduler(
        "constant_with_warmup" if schedule == "constant" else "cosine",
        optimizer,
        num_warmup_steps=min(warmup_steps, steps // 4),
        num_training_steps=steps,
    )
    factor = made.lr_lambdas[0]
    return peak * np.array([factor(step) for step in range(steps)])
