r"""The diffusion transformer of pictures, with plain or with KAN feed-forwards.

Patches of a picture are tokens. A block has attention among tokens, attention to a context and a
feed-forward, and the timestep scales and shifts it (Peebles and Xie 2023, arXiv:2212.09748; with
one map for all blocks as in PixArt-alpha, Chen et al. 2023, arXiv:2310.00426). The network is
diffusers' ``PixArtTransformer2DModel``, whose feed-forwards have GELU.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import PixArtAlphaTextProjection
from torch import Tensor, nn

from kan_diffusion.denoisers.base import ModelMixin
from kan_diffusion.denoisers.family import Family
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.pictures.denoisers import FeedForwards, PictureDenoiser, picture_family

__all__ = ["TRANSFORMER_FAMILIES", "ModelMixin", "TransformerDenoiser"]

_SMALL = 0.02
"""Initial standard deviation of the weights that map timesteps to scales and shifts."""

_SHIFTS, _GATES = 6, (2, 5)
"""Number of rows of a block's table of scales and shifts, and the rows that are gates."""


class _ToldTimesteps(nn.Module):
    """Embeds timesteps (B,) and adds projected means (B, context_width) of contexts: (B, width).

    It replaces PixArt's embedding of timesteps, and is called in the same way.
    """

    def __init__(self, timesteps: nn.Module, context_width: int, width: int) -> None:
        super().__init__()
        self.timesteps = timesteps
        self.projection = PixArtAlphaTextProjection(context_width, width)

    def forward(
        self, timestep: Tensor, mean: Tensor, batch_size: int, hidden_dtype: torch.dtype
    ) -> Tensor:
        embedded: Tensor = self.timesteps(timestep, None, None, batch_size, hidden_dtype)
        return embedded + self.projection(mean)


class TransformerDenoiser(PictureDenoiser):
    """A diffusion transformer for pictures.

    Args:
        shape: Channels, height and width of a picture.
        hidden: Number of hidden units of the feed-forward of each block.
        num_train_timesteps: Number T of steps of the process.
        num_classes: Number of class labels, 0 for none.
        text_width: Width of embedded prompts, 0 for a model without text.
        feed_forward: ``"mlp"``, ``"grouped"`` or ``"full"``, see :mod:`.pictures`.
        functions: Number of functions that hidden units share; for ``"grouped"``.
        width: Width of a token; a multiple of ``heads``.
        heads: Number of attention heads.
        patch: Side of a patch in pixels; must divide the side of the picture.
        pooled: Whether the mean of the context is added to the embedded timestep.
        draft_patch: Side in pixels of the patches of a draft, the mean picture that the context
            alone tells (:mod:`.draft`); 0 for none.

    Raises:
        KanDiffusionError: The sizes do not fit each other.
    """

    @register_to_config
    def __init__(
        self,
        shape: Sequence[int] = (3, 16, 16),
        hidden: Sequence[int] = (256, 256, 256, 256),
        num_train_timesteps: int = 1000,
        num_classes: int = 0,
        text_width: int = 0,
        feed_forward: FeedForwards = "mlp",
        functions: int = 8,
        width: int = 64,
        heads: int = 4,
        patch: int = 2,
        pooled: bool = False,
        draft_patch: int = 0,
    ) -> None:
        # Slow to import, and points do not need it.
        from diffusers import PixArtTransformer2DModel

        super().__init__()
        self._require_pictures(shape, patch, width / patch**2, draft_patch)
        if width % heads or not hidden:
            raise KanDiffusionError(
                f"a transformer needs a block or more and a width that its {heads} heads divide, "
                f"not {len(hidden)} and {width}"
            )
        network = PixArtTransformer2DModel(
            num_attention_heads=heads,
            attention_head_dim=width // heads,
            in_channels=shape[0] * (2 if draft_patch else 1),
            out_channels=shape[0],
            num_layers=len(hidden),
            cross_attention_dim=width,
            sample_size=shape[1],
            patch_size=patch,
            caption_channels=text_width or width,
            use_additional_conditions=False,
        )
        if pooled:
            timesteps = network.adaln_single
            timesteps.emb = _ToldTimesteps(timesteps.emb, text_width or width, width)
        self._take(network, width, "gelu-approximate")

    def _told(self, mean: Tensor) -> dict[str, object]:
        return {"added_cond_kwargs": {"mean": mean}}

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws fresh parameters from ``generator`` (torch's default one when None)."""
        super().reset_parameters(generator)
        with torch.no_grad():
            for name, table in self.named_parameters():
                if name.endswith("adaln_single.linear.weight"):
                    table.normal_(std=_SMALL, generator=generator)
                elif name.endswith("scale_shift_table"):
                    table.zero_()
                    if len(table) == _SHIFTS:  # a block's table; the output's has no gates
                        table[list(_GATES)] = 1.0


_family = partial(picture_family, TransformerDenoiser)

TRANSFORMER_FAMILIES: tuple[Family, ...] = (
    _family("dit", "DiT", "mlp"),
    _family("dit-kan", "DiT KAN", "kan", feed_forward="grouped"),
    _family("dit-full-kan", "DiT full KAN", "kan", feed_forward="full"),
)
"""Diffusion transformers whose feed-forwards have GELU, shared functions, or full KAN layers."""
