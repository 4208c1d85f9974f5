r"""Updates of the parameters in a training step: clipping, an optimiser and the moving average.

With g the gradient of the loss at the parameters :math:`\theta`, step k = 0, 1, ... computes

.. math::
    g &\leftarrow g \min(1,\; c / \lVert g \rVert), \\
    \theta &\leftarrow \theta + r \odot \big(\mathrm{optimiser}(\theta, g) - \theta\big), \\
    \bar\theta &\leftarrow d_k \bar\theta + (1 - d_k)\, \theta, \qquad
    d_k = \min\!\big(d,\; (1 + k) / (10 + k)\big), \quad d_0 = 0,

the average with the warm-up of ``diffusers.training_utils.EMAModel``. The rates r are 1, except for
coefficients of learned functions with another ``rate``
(:class:`~kan_diffusion.kan.functions.LearnedFunctions`): coefficients are several times as large as
the weights of a linear map, and an optimiser that moves all numbers alike bends splines slowly.

A small network has dozens of small tensors, and the time of an operation on a small tensor is that
of the call, not of the arithmetic. :class:`ParameterVector` therefore lays the parameters side by
side in one vector, of which they are views during training: each line above is then one call.

The optimisers, with G the gradient of a matrix of parameters and m, v moving averages of their
argument and of its square:

- ``adam`` (Kingma & Ba 2015, arXiv:1412.6980): :math:`m(g) / \sqrt{v(g)}`, for the whole vector;
- ``soap`` (Vyas et al. 2024, arXiv:2409.11321): the same in the bases of the eigenvectors of
  :math:`m(G G^\top)` and :math:`m(G^\top G)` (:mod:`kan_diffusion.training.soap`);
- ``muon`` (Jordan et al. 2024): :math:`0.2 \sqrt{\max(n, m)}\; U V^\top` for the singular value
  decomposition :math:`U S V^\top` of the momentum of an n by m matrix, computed by five
  Newton-Schulz iterations for all matrices of one shape together and scaled to the size of Adam's
  updates (Liu et al. 2025, arXiv:2502.16982); vectors as with Adam.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.interrupts import interrupts_wait
from kan_diffusion.kan.functions import BasisLayer
from kan_diffusion.limits import MOST_STEPS
from kan_diffusion.settings import Settings
from kan_diffusion.training.config import OptimizerName, Step, TrainingConfig
from kan_diffusion.training.soap import SOAP

_ALIGNMENT = 64
"""Bytes at multiples of which a parameter starts, for the vector units to load it at full speed."""


class ParameterVector:
    """The trainable parameters of a module, laid side by side in one vector.

    The parameters stay the same objects, but their values are views of the vector until
    :meth:`release`, and :meth:`collect_gradients` moves their gradients into that of the vector.
    The few entries that fill the gaps between parameters are zero and stay zero.

    Args:
        module: The module, already on the device it is trained on.

    Attributes:
        vector: The vector that an optimiser updates, with shape (P,).
        gradient: Its gradient, with shape (P,).
        rates: Factor of the learning rate of each entry, with shape (P,); None if all are 1.

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
        self.gradient = torch.zeros_like(self.vector)
        self._gradients = self.split(self.gradient)
        self._row = self.gradient.unsqueeze(0)
        self.vector.grad = self.gradient
        self._views = self.split(self.vector.detach())
        for parameter, view in self._pairs():
            view.copy_(parameter.detach())
            parameter.data = view
            parameter.grad = None
        rates = {
            id(part.coefficients): part.rate
            for part in module.modules()
            if isinstance(part, BasisLayer) and part.coefficients is not None and part.rate != 1
        }
        self.rates: Tensor | None = None
        if rates:
            self.rates = torch.zeros_like(self.gradient)
            for parameter, part in zip(self._parameters, self.split(self.rates), strict=True):
                part.fill_(rates.get(id(parameter), 1.0))

    def _pairs(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        return zip(self._parameters, self._views, strict=True)

    def _trainable(self) -> list[nn.Parameter]:
        return [parameter for parameter in self._module.parameters() if parameter.requires_grad]

    def matrices(self) -> list[nn.Parameter]:
        """The parameters as vectors and matrices, in the memory of the vector.

        Optimisers of matrices take these. Dimensions after the first are flattened into one; the
        gradients are in the memory of the vector's gradient.
        """
        parts = []
        for view, gradient in zip(self._views, self._gradients, strict=True):
            part = nn.Parameter(_as_matrix(view))
            part.grad = _as_matrix(gradient)
            parts.append(part)
        return parts

    def indices(self) -> list[Tensor]:
        """The index of each entry of the parameters in the vector, shaped like :meth:`matrices`."""
        return [_as_matrix(part) for part in self.split(torch.arange(len(self.vector)))]

    def split(self, vector: Tensor) -> list[Tensor]:
        """Views of a vector with shape (P,), each with the shape of its parameter."""
        return [
            vector[start : start + parameter.numel()].view(parameter.shape)
            for start, parameter in zip(self._starts, self._parameters, strict=True)
        ]

    def collect_gradients(self) -> None:
        """Moves the parameters' gradients into the vector's; a missing gradient counts as zero."""
        pairs = zip(self._gradients, self._parameters, strict=True)
        present = [(view, each.grad) for view, each in pairs if each.grad is not None]
        self.gradient.zero_()
        if present:
            torch._foreach_copy_([view for view, _ in present], [grad for _, grad in present])
        for parameter in self._parameters:
            parameter.grad = None

    def clip_gradient(self, max_norm: float) -> None:
        """Scales the vector's gradient down to a norm of ``max_norm``, where it is larger."""
        self._row.renorm_(2, 0, max_norm)

    @contextmanager
    def at_rates(self) -> Iterator[None]:
        """Multiplies changes of the vector within the block by the rates."""
        if self.rates is None:
            yield
            return
        values = self.vector.detach()
        before = values.clone()
        yield
        torch.lerp(before, values, self.rates, out=values)

    @contextmanager
    def lent(self, values: Tensor) -> Iterator[None]:
        """Gives the parameters a copy of values with shape (P,), and later their own ones back.

        Raises:
            KanDiffusionError: Parameters were added, replaced or taken away meanwhile.
        """
        for parameter, part in zip(self._parameters, self.split(values), strict=True):
            parameter.data = part.clone()
        try:
            yield
        finally:
            with interrupts_wait():
                for parameter, view in self._pairs():
                    parameter.data = view
        if list(map(id, self._trainable())) != list(map(id, self._parameters)):
            raise KanDiffusionError(
                f"the parameters of {type(self._module).__name__} were replaced while it is "
                "trained; change a copy of it (copy.deepcopy)"
            )

    def release(self) -> None:
        """Makes the parameters ordinary tensors again, each with memory of its own."""
        for parameter, view in self._pairs():
            parameter.data = view.clone()
            parameter.grad = None


def _as_matrix(tensor: Tensor) -> Tensor:
    """A view of a tensor as a vector or a matrix, whose columns are all but the first dimension."""
    return tensor.flatten(max(min(tensor.ndim, 2) - 1, 0))


class Plan(Settings):
    """The steps of a run, of which the learning rate is a function.

    The run is planned with ``total`` steps. When their number is corrected at a step, what is left
    of the plan is spread evenly over the steps that are left, so the rate does not jump.

    Attributes:
        total: Steps of the plan.
        steps: Steps of the run.
        since: Step of the last correction.
        done: Steps of the plan that were done then.
    """

    total: int = Field(ge=1, le=MOST_STEPS)
    steps: Step
    since: Step = 0
    done: float = Field(0.0, ge=0, le=MOST_STEPS)

    def position(self, step: int) -> float:
        """Steps of the plan that are done after ``step`` steps."""
        ahead = (self.total - self.done) / max(self.steps - self.since, 1)
        return self.done + (step - self.since) * ahead

    def corrected(self, step: int, steps: int) -> Plan:
        """The plan of a run that takes ``steps`` steps, as is known after ``step``."""
        return Plan(total=self.total, steps=steps, since=step, done=self.position(step))


def learning_rate(config: TrainingConfig, plan: Plan, step: int) -> float:
    """The learning rate of a step, by the share of the plan that is done."""
    peak, done = config.learning_rate, plan.position(step)
    warm = min(config.warmup_steps, plan.total // 4)
    if done < warm:
        return peak * (done / warm)
    if config.schedule == "constant":
        return peak
    return peak * float((1 + np.cos(np.pi * ((done - warm) / (plan.total - warm)))) / 2)


def update_average(average: Tensor, values: Tensor, decay: float, count: int) -> None:
    """Updates an exponential moving average (EMA) of ``count`` vectors by another one, in place."""
    decay = min(decay, (1 + count) / (10 + count)) if count else 0.0
    average.lerp_(values, 1 - decay)


def make_optimizer(
    name: OptimizerName, weights: ParameterVector, learning_rate: float
) -> Optimizer:
    """Makes the optimiser of all parameters, by its name.

    Args:
        name: Its name.
        weights: The parameters.
        learning_rate: Learning rate, in the size that suits Adam.
    """
    if name == "adam":
        return torch.optim.Adam([weights.vector], lr=learning_rate, fused=True)
    if name == "soap":
        return SOAP(weights.vector, weights.indices(), lr=learning_rate)
    from pytorch_optimizer import Muon  # takes seconds

    parts = weights.matrices()
    groups = [
        {"params": [part for part in parts if part.ndim == 2], "use_muon": True},
        {"params": [part for part in parts if part.ndim == 1], "use_muon": False},
    ]
    return Muon(
        [group for group in groups if group["params"]],
        lr=learning_rate,
        use_adjusted_lr=True,
        adamw_lr=learning_rate,
        adamw_betas=(0.9, 0.999),
        adamw_eps=1e-8,
    )
