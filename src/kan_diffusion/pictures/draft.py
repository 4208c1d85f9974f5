r"""A draft of a picture: the mean picture of a prompt, without any noise.

.. math:: d(c) \approx E[x_0 \mid c], \qquad \text{minimising } E\,\lVert d(c) - x_0 \rVert^2,

with c the embedded prompt. A learned query for each patch of pixels attends to c, so that a patch
can ask for what the prompt says about its place (DETR's object queries, Carion et al. 2020,
arXiv:2005.12872, with a patch for an object). A denoiser takes the draft as further channels beside
the noised picture; at the last timestep, where all is noise, the draft is what it has to predict.
The draft has a loss of its own at every step of training, because its part in the denoiser's loss
is small, and noise hides it: which of two things stands left hardly changes a squared error.
"""

from __future__ import annotations

from diffusers.models.attention import Attention, FeedForward
from torch import Tensor, nn

__all__ = ["DRAFT_WIDTH", "Draft"]

_HEADS, _HEAD_WIDTH = 4, 16
DRAFT_WIDTH = _HEADS * _HEAD_WIDTH
"""Numbers per patch of a draft."""
_MASKED = -10_000.0
"""Added to the logits of tokens behind the end of a prompt, as diffusers does."""


class Draft(nn.Module):
    """Draws the mean picture of each context.

    Args:
        channels: Channels of a picture.
        side: Pixels of a side.
        patch: Side of a patch in pixels; must divide the side of the picture.
        context_width: Width of the tokens of a context.
    """

    def __init__(self, channels: int, side: int, patch: int, context_width: int) -> None:
        super().__init__()
        self._across = side // patch
        self.queries = nn.Embedding(self._across**2, DRAFT_WIDTH)
        self.attention = Attention(DRAFT_WIDTH, context_width, _HEADS, dim_head=_HEAD_WIDTH)
        self.norm = nn.LayerNorm(DRAFT_WIDTH)
        self.ff = FeedForward(DRAFT_WIDTH, inner_dim=2 * DRAFT_WIDTH, activation_fn="gelu")
        self.norm_out = nn.LayerNorm(DRAFT_WIDTH)
        self.to_pixels = nn.Linear(DRAFT_WIDTH, channels * patch**2)
        self.unpatch = nn.PixelShuffle(patch)

    def forward(self, context: Tensor, said: Tensor) -> Tensor:
        """Draws drafts.

        Args:
            context: Embedded prompts with shape (B, tokens, context_width).
            said: 1 where a token belongs to the prompt and 0 behind it, with shape (B, tokens).

        Returns:
            Drafts with shape (B, C, S, S), in the units of the pictures.
        """
        queries = self.queries.weight.repeat(len(context), 1, 1)
        masked = _MASKED * (1 - said)[:, None]
        patches = queries + self.attention(queries, context, attention_mask=masked)
        patches = patches + self.ff(self.norm(patches))
        pixels = self.to_pixels(self.norm_out(patches)).transpose(1, 2)
        drafts: Tensor = self.unpatch(pixels.unflatten(2, (self._across, self._across)))
        return drafts
