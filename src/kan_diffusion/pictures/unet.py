r"""The U-Net of pictures, with plain or with KAN feed-forwards.

Residual blocks of convolutions, which the timestep scales and shifts, work at S, S/2, ... pixels on
the way down and again, with skip connections, on the way up (Ronneberger et al. 2015,
arXiv:1505.04597; Dhariwal and Nichol 2021, arXiv:2105.05233). At the lowest resolution, a
transformer block follows each of them and attends to all pixels and to a context (Rombach et al.
2022, arXiv:2112.10752). There are L transformer blocks on the way down, one in the middle and L + 1
on the way up. The network is diffusers' ``UNet2DConditionModel``, whose feed-forwards have gates
(GEGLU).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from diffusers.configuration_utils import register_to_config
from torch import Tensor

from kan_diffusion.denoisers.base import ModelMixin
from kan_diffusion.denoisers.family import Family
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.limits import MOST_SIDE
from kan_diffusion.pictures.denoisers import FeedForwards, PictureDenoiser, picture_family

__all__ = ["UNET_FAMILIES", "ModelMixin", "UNetDenoiser"]

_GROUPS = 8
"""Number of groups of channels in group normalisation."""


class UNetDenoiser(PictureDenoiser):
    """A U-Net for pictures.

    Args:
        shape: Channels, height and width of a picture.
        hidden: Number of hidden units of the feed-forward of each transformer block: L on the way
            down, L + 1 on the way up, then the one in the middle; 2 L + 2 in all.
        num_train_timesteps: Number T of steps of the process.
        num_classes: Number of class labels, 0 for none.
        text_width: Width of embedded prompts, 0 for a model without text.
        feed_forward: ``"mlp"``, ``"grouped"`` or ``"full"``, see :mod:`.pictures`.
        functions: Number of functions that hidden units share; for ``"grouped"``.
        channels: Channels at S, S/2, ... pixels, each a multiple of 8.
        heads: Number of attention heads; must divide the last of the channels.
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
        hidden: Sequence[int] = (128, 128, 128, 128),
        num_train_timesteps: int = 1000,
        num_classes: int = 0,
        text_width: int = 0,
        feed_forward: FeedForwards = "mlp",
        functions: int = 8,
        channels: Sequence[int] = (16, 32),
        heads: int = 2,
        pooled: bool = False,
        draft_patch: int = 0,
    ) -> None:
        # Slow to import, and points do not need it.
        from diffusers import UNet2DConditionModel

        super().__init__()
        levels = range(1, MOST_SIDE.bit_length() + 1)
        if len(channels) not in levels or min(channels) < 1 or any(n % _GROUPS for n in channels):
            raise KanDiffusionError(
                f"a U-Net needs {levels[0]} to {levels[-1]} numbers of channels that are multiples "
                f"of {_GROUPS}, not {str(list(channels))[:60]}"
            )
        self._require_pictures(shape, 2 ** (len(channels) - 1), max(channels), draft_patch)
        if channels[-1] % heads or len(hidden) < 4 or len(hidden) % 2:
            raise KanDiffusionError(
                "a U-Net needs an even number of feed-forwards, four or more, and heads that "
                f"divide the last of its channels, not {len(hidden)} and {heads} for "
                f"{channels[-1]}; give another depth or other hidden widths"
            )
        width, lower = channels[-1], len(channels) - 1
        network = UNet2DConditionModel(
            sample_size=shape[1],
            in_channels=shape[0] * (2 if draft_patch else 1),
            out_channels=shape[0],
            down_block_types=(*["DownBlock2D"] * lower, "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", *["UpBlock2D"] * lower),
            block_out_channels=tuple(channels),
            layers_per_block=(len(hidden) - 2) // 2,
            norm_num_groups=_GROUPS,
            resnet_time_scale_shift="scale_shift",
            cross_attention_dim=width,
            encoder_hid_dim=text_width or None,
            encoder_hid_dim_type="text_proj" if text_width else None,
            class_embed_type="projection" if pooled else None,
            projection_class_embeddings_input_dim=(text_width or width) if pooled else None,
            attention_head_dim=heads,  # the number of heads, under the name of their width
        )
        self._take(network, width, "geglu")

    def _told(self, mean: Tensor) -> dict[str, object]:
        return {"class_labels": mean}


_family = partial(picture_family, UNetDenoiser)

UNET_FAMILIES: tuple[Family, ...] = (
    _family("unet", "U-Net", "mlp"),
    _family("unet-kan", "U-Net KAN", "kan", feed_forward="grouped"),
)
"""U-Nets whose feed-forwards have GELU at their gates, or functions that units share."""
