"""The matrix products of a KAN alone: every layer is fed with ready features.

A KAN layer with G intervals and cubic splines multiplies (N, in * (1 + G + 3)) features by a packed
weight. Here each ``nn.Linear`` of that shape gets random features that were prepared outside the
measured time, and the backward pass starts from a ready gradient of every layer's output, so that
nothing but the products (and biases) is measured. The features are leaf tensors that require a
gradient in all layers but the first: a KAN's product has to return the gradient of its features so
that it can go on to the layer below, and below the first layer nobody asks for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import nn

from baselines.contender import ORDER, Case, Contender

__all__ = ["GEMM", "GemmWorkload"]


class GemmWorkload:
    """One product a layer, forward and backward, layers independent of each other."""

    def __init__(self, case: Case, device: torch.device) -> None:
        width = 1 + case.grid_size + ORDER
        self._layers = nn.ModuleList(
            nn.Linear(fan_in * width, fan_out) for fan_in, fan_out in pairwise(case.widths)
        ).to(device)
        self._device = device
        self.load(case.batch)

    def load(self, batch: int) -> None:
        """Draws features between 0 and 1, and gradients."""
        generator = torch.Generator().manual_seed(batch)
        self._features, self._gradients = [], []
        for layer in self._layers:
            features = torch.rand(batch, layer.in_features, generator=generator).to(self._device)
            self._features.append(features.requires_grad_(bool(self._gradients)))  # not the first
            # Small, as the gradients of a mean over many rows are.
            gradient = torch.randn(batch, layer.out_features, generator=generator) / batch
            self._gradients.append(gradient.to(self._device))

    def parameters(self) -> Iterable[nn.Parameter]:
        """Weights and biases of all layers."""
        return list(self._layers.parameters())

    def forward_backward(self) -> None:
        """Multiplies in every layer, then goes back through all of them."""
        for features in self._features:
            features.grad = None
        outputs = [
            layer(features) for layer, features in zip(self._layers, self._features, strict=True)
        ]
        torch.autograd.backward(outputs, self._gradients)


GEMM = Contender(
    "gemm",
    "GEMMs alone",
    "`nn.Linear` with the KAN's very same GEMM shapes, fed with ready features.",
    GemmWorkload,
    patient=True,
)
