r"""How much the edges of a network matter, measured on data that pass through them.

With :math:`\phi_{o,i}(x^{(s)})` the output of edge i -> o for sample s, less its mean (which is a
bias), the *size* of an edge and of a layer and the *entropy* of a layer are those of Liu et al.
2024 (KAN, arXiv:2404.19756):

.. math:: |\phi_{o,i}| = \mathrm{mean}_s |\phi_{o,i}(x^{(s)})|, \qquad
    |\Phi| = \sum_{o,i} |\phi_{o,i}|, \qquad
    S(\Phi) = -\sum_{o,i} \frac{|\phi_{o,i}|}{|\Phi|} \log \frac{|\phi_{o,i}|}{|\Phi|}.

Sparsifying training adds the sizes and entropies of all layers to its loss. A large edge may lead
to a unit that no later edge uses. The *attribution* therefore goes backward from the outputs (Liu
et al. 2024, KAN 2.0, arXiv:2408.10205): with E the standard deviation of an edge's output and N
that of the unit it enters,

.. math:: B_{o,i} = A_o \frac{E_{o,i}}{N_o}, \qquad A_i = \sum_o B_{o,i},

starting with A = 1 at each output of the network. B is the attribution of an edge, A of a unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Attribution", "attribution", "edge_sizes", "layer_entropy", "sparsity_penalty"]

_TINY = 1e-12


def edge_sizes(outputs: Tensor) -> Tensor:
    """Computes the mean absolute deviations (out, in) of the outputs (n, out, in) of edges."""
    return (outputs - outputs.mean(0, keepdim=True)).abs().mean(0)


def layer_entropy(sizes: Tensor) -> Tensor:
    """Computes the entropy of a layer's sizes (out, in) in nats.

    It is 0 if one edge does everything, and at most the logarithm of the number of edges.
    """
    shares = sizes / sizes.sum().clamp(min=_TINY)
    return -(shares * shares.clamp(min=_TINY).log()).sum()


def sparsity_penalty(layers: Sequence[Tensor]) -> Tensor:
    """Adds up sizes and entropies of all layers: the penalty of sparsifying training.

    Args:
        layers: Outputs of the edges of each layer, (n, out, in) each.

    Returns:
        The penalty, a differentiable number.
    """
    penalty = layers[0].new_zeros(())
    for outputs in layers:
        sizes = edge_sizes(outputs)
        penalty = penalty + sizes.sum() + layer_entropy(sizes)
    return penalty


class Attribution(NamedTuple):
    """How much of the outputs goes back to each edge and unit.

    Attributes:
        edges: B of each layer, with shape (out, in).
        units: A of the inputs with shape (widths[0],), then of each hidden layer's units.
    """

    edges: tuple[Tensor, ...]
    units: tuple[Tensor, ...]


@torch.no_grad()
def attribution(layers: Sequence[Tensor], units: Sequence[Tensor]) -> Attribution:
    """Follows the outputs' variation backward through the network.

    Args:
        layers: Outputs of the edges of each layer, (n, out, in) each, times any factors of the
            units' inputs.
        units: Values of the units that the edges enter, (n, out) each.

    Returns:
        The attribution of every edge, input and hidden unit.
    """
    edges: list[Tensor] = []
    scores = [torch.ones_like(units[-1][0])]
    for outputs, entered in zip(reversed(layers), reversed(units), strict=True):
        spread = entered.std(0)
        # A constant unit passes nothing on, even if it has edges that vary and cancel.
        share = scores[0] / spread.clamp(min=_TINY) * (spread > _TINY)
        edges.insert(0, outputs.std(0) * share.unsqueeze(-1))
        scores.insert(0, edges[0].sum(0))
    return Attribution(tuple(edges), tuple(scores[:-1]))
