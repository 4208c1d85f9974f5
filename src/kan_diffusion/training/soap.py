r"""SOAP (Vyas et al. 2024, arXiv:2409.11321): Adam in the eigenbases of Shampoo's preconditioners.

With G the gradient of an n by m matrix of parameters and b the decay of all averages, step k does

.. math::
    G' &= Q_L^\top G\, Q_R, \qquad
    M' \leftarrow b M' + (1 - b)\, G', \qquad V' \leftarrow b V' + (1 - b)\, G'^2, \\
    W &\leftarrow W - r\, \frac{\sqrt{1 - b^k}}{1 - b^k}\;
        Q_L \frac{M'}{\sqrt{V'} + 10^{-8}}\, Q_R^\top, \\
    L &\leftarrow b L + (1 - b)\, G G^\top, \qquad R \leftarrow b R + (1 - b)\, G^\top G.

:math:`Q_L, Q_R` begin as the eigenvectors of L and R of a first gradient, which moves no parameter.
Every ten steps they take one step of orthogonal iteration, :math:`Q_L \leftarrow \mathrm{qr}(L\,
Q_L)` with columns in the order of falling eigenvalues; M' follows into the new bases, and the rows
and columns of V' into the new order. Vectors have no bases: theirs is Adam's update with these b.

Small matrices cost calls, not arithmetic. Matrices of one shape are therefore stacked, M' is kept
in the bases instead of being turned into them every step, and the products :math:`G G^\top` of ten
steps are summed by one product when they are needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

_DECAY = 0.95
_EPSILON = 1e-8
_EVERY = 10
"""Steps between two changes of the bases."""


class SOAP(Optimizer):
    """SOAP for the parameters that lie side by side in one vector.

    Args:
        vector: The vector with shape (P,), whose gradient is computed before each step.
        indices: For each parameter the places of its entries in the vector, in the shape of the
            parameter, (n,) or (n, m).
        lr: Learning rate.
    """

    def __init__(self, vector: nn.Parameter, indices: Sequence[Tensor], lr: float) -> None:
        super().__init__([vector], {"lr": lr, "step": 0})
        self._vector = vector
        matrices = [places for places in indices if places.ndim == 2]
        vectors = [places for places in indices if places.ndim != 2]
        shapes = sorted({tuple(places.shape) for places in matrices})
        alike = [[each for each in matrices if tuple(each.shape) == shape] for shape in shapes]
        self._shapes = [(len(own), *shape) for own, shape in zip(alike, shapes, strict=True)]
        stacked = [each.flatten() for own in (*alike, vectors) for each in own]
        # The entries that the optimiser sees: stacks of matrices, then all vectors.
        self._order = torch.cat(stacked).to(vector.device)
        self._ends = list(accumulate((math.prod(shape) for shape in self._shapes), initial=0))

    def _stacks(self, flat: Tensor) -> Iterator[Tensor]:
        """Yields the views (*, k, n, m) of the stacks of matrices in vectors (*, P) of entries."""
        for (start, end), shape in zip(pairwise(self._ends), self._shapes, strict=True):
            yield flat[..., start:end].view(*flat.shape[:-1], *shape)

    def _begin(self, gradient: Tensor) -> None:
        """Sets the state from a first gradient."""
        state = self.state[self._vector]
        state["mean"], state["square"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
        state["recent"] = gradient.new_zeros(_EVERY, len(gradient))
        state["left"] = [(1 - _DECAY) * g @ g.mT for g in self._stacks(gradient)]
        state["right"] = [(1 - _DECAY) * g.mT @ g for g in self._stacks(gradient)]
        state["left_basis"] = [_eigenvectors(each) for each in state["left"]]
        state["right_basis"] = [_eigenvectors(each) for each in state["right"]]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Takes a step by the gradient that has been computed; the first one begins the bases.

        Args:
            closure: None, since a step computes no loss.
        """
        assert self._vector.grad is not None
        gradient = self._vector.grad.index_select(0, self._order)
        state, group = self.state[self._vector], self.param_groups[0]
        count = group["step"]  # of moves with this one; the first call makes none
        group["step"] += 1
        if count == 0:
            self._begin(gradient)
            return
        state["recent"][(count - 1) % _EVERY] = gradient
        projected = gradient.clone()
        bases = list(zip(state["left_basis"], state["right_basis"], strict=True))
        for into, stack, (left, right) in zip(
            self._stacks(projected), self._stacks(gradient), bases, strict=True
        ):
            torch.bmm(left.mT @ stack, right, out=into)
        mean, square = state["mean"], state["square"]
        mean.lerp_(projected, 1 - _DECAY)
        square.mul_(_DECAY).addcmul_(projected, projected, value=1 - _DECAY)
        update = mean / square.sqrt().add_(_EPSILON)
        for stack, (left, right) in zip(self._stacks(update), bases, strict=True):
            torch.bmm(left @ stack, right.mT, out=stack)
        missing = 1 - _DECAY**count
        rate = group["lr"] * math.sqrt(missing) / missing
        self._vector.index_add_(0, self._order, update, alpha=-rate)
        if count % _EVERY == 0:
            self._turn()

    def _turn(self) -> None:
        """Updates the preconditioners by the recent gradients, and turns the bases."""
        state = self.state[self._vector]
        recent: Tensor = state["recent"]
        shares = [math.sqrt((1 - _DECAY) * _DECAY**age) for age in reversed(range(_EVERY))]
        recent = recent * recent.new_tensor(shares).unsqueeze(1)
        stacks = zip(*map(self._stacks, (state["mean"], state["square"], recent)), strict=True)
        for index, (mean, square, gradients) in enumerate(stacks):
            gradients = gradients.transpose(0, 1)
            outer = torch.einsum("ksnm,kspm->knp", gradients, gradients)
            inner = torch.einsum("ksnm,ksnp->kmp", gradients, gradients)
            left, left_order = self._turned("left", index, outer)
            right, right_order = self._turned("right", index, inner)
            before = state["left_basis"][index] @ mean @ state["right_basis"][index].mT
            mean.copy_(left.mT @ before @ right)
            kept = square.take_along_dim(left_order.unsqueeze(2), 1)
            square.copy_(kept.take_along_dim(right_order.unsqueeze(1), 2))
            state["left_basis"][index], state["right_basis"][index] = left, right

    def _turned(self, side: str, index: int, added: Tensor) -> tuple[Tensor, Tensor]:
        """Updates a preconditioner; returns its next basis and the order of the old columns."""
        state = self.state[self._vector]
        average, basis = state[side][index], state[f"{side}_basis"][index]
        average.mul_(_DECAY**_EVERY).add_(added)
        product = average @ basis
        order = (basis * product).sum(1).argsort(-1, descending=True)
        product = product.take_along_dim(order.unsqueeze(1), 2)
        turned = torch.linalg.qr(_decomposable(product))[0].to(product)
        return turned.contiguous(), order


def _decomposable(matrices: Tensor) -> Tensor:
    """Converts to a precision, and on a device, in which torch decomposes matrices."""
    device = matrices.device if matrices.device.type in ("cpu", "cuda") else "cpu"
    return matrices.to(device, torch.promote_types(matrices.dtype, torch.float32))


def _eigenvectors(matrices: Tensor) -> Tensor:
    """Eigenvectors of stacked symmetric matrices (k, n, n), by falling eigenvalues."""
    # What is not finite is for the check of the training loop to report.
    finite = _decomposable(matrices).nan_to_num()
    # Of a gradient of low rank, eigenvalues near zero may be too alike for single precision:
    # LAPACK then says that it does not converge, or gives vectors that are not finite.
    try:
        found = torch.linalg.eigh(finite)[1]
        converged = bool(found.isfinite().all())
    except RuntimeError:
        converged = False
    if not converged:
        found = torch.linalg.eigh(finite.cpu().double())[1]
    return found.flip(-1).to(matrices).contiguous()
