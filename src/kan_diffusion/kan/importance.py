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

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn

from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.kan.linear import EdgeLayer, KANLinear, layers_of, plain_layers_of, with_layers

Network = TypeVar("Network", bound=nn.Module)

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


def edge_penalty(layers: Sequence[Tensor]) -> Tensor:
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


def sparsity_penalty(network: nn.Module, x: Tensor) -> Tensor:
    """Computes sizes plus entropies of all edges of a network, to be added to its loss.

    Args:
        network: A ``KAN``, a ``KANLinear`` or ``SharedKANLinear``, or an ``nn.Sequential`` of them.
        x: Inputs with shape (*, in_features), at least one; a few hundred are enough, as each
            layer holds (n, out, in) numbers.

    Returns:
        The penalty, a differentiable number.

    Raises:
        KanDiffusionError: The network has other parts, or there is no input.

    Example:
        >>> from kan_diffusion.kan import KAN, sparsity_penalty
        >>> network, x = KAN([2, 3, 1]), torch.rand(100, 2)
        >>> loss = (network(x) - x.sum(1, keepdim=True)).square().mean()
        >>> (loss + 1e-2 * sparsity_penalty(network, x)).backward()
    """
    if x.numel() == 0:
        raise KanDiffusionError("edges are measured on inputs and none is given; give hundreds")
    return edge_penalty(_passed(layers_of(network, EdgeLayer), x)[0])


def _passed(layers: Sequence[EdgeLayer], x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Passes inputs through layers: outputs of their edges, (n, out, in), and units, (n, out)."""
    outputs, units = [], [layers[0]._rows(x)]
    for layer in layers:
        outputs.append(layer.edge_outputs(units[-1]))
        units.append(layer(units[-1]))
    return outputs, units[1:]


@torch.no_grad()
def attribution(layers: Sequence[Tensor], units: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Follows the outputs' variation backward through the network.

    Args:
        layers: Outputs of the edges of each layer, (n, out, in) each, times any factors of the
            units' inputs.
        units: Values of the units that the edges enter, (n, out) each.

    Returns:
        The attribution B of the edges of each layer, with shape (out, in).
    """
    edges: list[Tensor] = []
    score = torch.ones_like(units[-1][0])
    for outputs, entered in zip(reversed(layers), reversed(units), strict=True):
        spread = entered.std(0)
        # A constant unit passes nothing on, even if it has edges that vary and cancel.
        share = score / spread.clamp(min=_TINY) * (spread > _TINY)
        edges.insert(0, outputs.std(0) * share.unsqueeze(-1))
        score = edges[0].sum(0)
    return tuple(edges)


@torch.no_grad()
def pruned(network: Network, x: Tensor, share: float = 0.03) -> Network:
    """Makes a network without edges of little attribution and without units that lose all edges.

    The mean of a removed edge is added to the constant of its output. Edges that are removed
    between units that stay have weights of zero, which are trained like any others.

    Args:
        network: A ``KAN``, a ``KANLinear`` or an ``nn.Sequential`` of them, which is not changed.
        x: Inputs on which edges are measured, with shape (*, in_features), at least two.
        share: Share of an output's variation from which an edge is kept, from 0 to 1.

    Returns:
        The new network, with the inputs and outputs of the old one and at most as many units.

    Raises:
        KanDiffusionError: The network has other parts, or parameters that are made of others; there
            are fewer than two inputs, outputs are not finite, or the share is not from 0 to 1.

    Example:
        >>> from kan_diffusion.kan import KAN, pruned
        >>> small = pruned(KAN([4, 8, 1]), torch.randn(500, 4), share=0.05)
        >>> small.layers[1].in_features <= 8
        True
    """
    if not 0 <= share <= 1:
        raise KanDiffusionError(f"share must be from 0 to 1, not {share}")
    layers = plain_layers_of(network, KANLinear)
    outputs, units = _passed(layers, x)
    if len(units[-1]) < 2 or not bool(units[-1].isfinite().all()):
        raise KanDiffusionError(
            f"edges are measured on at least two inputs with finite outputs, better hundreds; of "
            f"{len(units[-1])} given, {int(units[-1].isfinite().all(1).sum())} are such"
        )
    kept = [edges >= share for edges in attribution(outputs, units)]
    ends = kept[0].new_ones(kept[0].shape[1]), kept[0].new_ones(len(kept[-1]))
    for _ in range(2 * len(kept)):  # what a unit loses, its neighbours lose, up and down
        hidden = [enter.any(1) & leave.any(0) for enter, leave in pairwise(kept)]
        alive = [ends[0], *hidden, ends[1]]
        kept = [k & alive[i + 1][:, None] & alive[i] for i, k in enumerate(kept)]
    for unit in alive:
        unit[0] |= not unit.any()  # a layer has a unit
    parts = []
    for index, (begun, entered) in enumerate(pairwise(alive)):
        constants = torch.where(kept[index], 0, outputs[index].mean(0)).sum(1)
        parts.append(_part(layers[index], kept[index], begun, entered, constants))
    return with_layers(network, parts)


def _part(
    layer: KANLinear, kept: Tensor, inputs: Tensor, outputs: Tensor, constants: Tensor
) -> KANLinear:
    """Makes a layer of the edges between some inputs and outputs, those not kept at zero.

    Args:
        layer: The layer they are of.
        kept: Which edges are kept, (out, in).
        inputs: Which inputs are kept, (in,).
        outputs: Which outputs are kept, (out,).
        constants: What is added to the bias, (out,).
    """
    layer = copy.deepcopy(layer)
    bias = constants if layer.bias is None else layer.bias + constants
    weight = layer.weight.unflatten(1, (layer.in_features, -1)) * kept.unsqueeze(-1)
    is_trained = layer.weight.requires_grad
    layer.weight = nn.Parameter(weight[outputs][:, inputs].flatten(1), is_trained)
    layer.bias = nn.Parameter(bias[outputs], is_trained)
    if layer.scale is not None:
        layer.scale = nn.Parameter(layer.scale[outputs][:, inputs], is_trained)
    basis = layer.basis
    basis.grid_origin, basis.grid_step = basis.grid_origin[inputs], basis.grid_step[inputs]
    basis.in_features = int(inputs.sum())
    layer._set_basis(basis.in_features, basis)
    layer.out_features = int(outputs.sum())
    return layer
