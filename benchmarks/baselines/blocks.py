"""Feed-forward blocks of a picture transformer, as diffusers has them and kanified.

A batch of pictures of 64 tokens each, (N, 64, width): all have as many parameters.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from diffusers.models.attention import FeedForward

from baselines.contender import Case, Contender, NetworkWorkload
from kan_diffusion.kanified import kanify

__all__ = ["BLOCKS", "BLOCK_CONTENDERS", "TOKENS"]

TOKENS = 64
BLOCKS = ("gelu", "geglu")
"""Activations of the plain blocks, which the others are compared with."""

_KINDS: dict[Literal["grouped", "full"] | None, str] = {
    None: "as diffusers has it",
    "grouped": "whose hidden units share learned functions",
    "full": "of two layers with a function for each edge",
}


class _TokensWorkload(NetworkWorkload):
    """A block that is trained on the squared error to noise, token by token."""

    def load(self, batch: int) -> None:
        """Draws tokens and noise."""
        super().load(batch * TOKENS)
        self._input = self._input.unflatten(0, (batch, TOKENS)).requires_grad_()
        self._wanted = self._wanted.unflatten(0, (batch, TOKENS))


def _build(
    activation: str, kind: Literal["grouped", "full"] | None, case: Case, device: torch.device
) -> NetworkWorkload:
    width, hidden, _ = case.widths
    block = FeedForward(width, activation_fn=activation, inner_dim=hidden).to(device)
    if kind is not None:
        kanify(block, kind=kind)
    return _TokensWorkload(block, case, device)


BLOCK_CONTENDERS = tuple(
    Contender(
        activation if kind is None else f"{activation}-{kind}",
        activation.upper() if kind is None else f"{activation.upper()}, {kind}",
        f"A feed-forward block with {activation.upper()} {what}.",
        partial(_build, activation, kind),
        patient=True,
    )
    for activation in BLOCKS
    for kind, what in _KINDS.items()
)
