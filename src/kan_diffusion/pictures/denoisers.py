r"""Denoisers of pictures: diffusers networks that take a picture and a context.

.. math:: (x_t, t, c) \mapsto \mathrm{prediction}, \qquad x_t \in \mathbb{R}^{C \times S \times S},

with c the tokens that attention blocks attend to, an embedded prompt
(:mod:`kan_diffusion.pictures.prompts`); a model that was trained without captions only knows the
empty one. Shorter prompts are padded with zeros, which are masked in attention and do not count in
means. The mean of c also goes through two linear maps and is added to the embedded timestep.

*Transformer*: patches of a picture are tokens. A block has attention among tokens, attention to the
context and a feed-forward with GELU, and the timestep scales and shifts it (Peebles and Xie 2023,
arXiv:2212.09748; with one map for all blocks as in PixArt-alpha, Chen et al. 2023,
arXiv:2310.00426). The network is diffusers' ``PixArtTransformer2DModel``.

*U-Net*: residual blocks of convolutions, which the timestep scales and shifts, work at S, S/2, ...
pixels on the way down and again, with skip connections, on the way up (Ronneberger et al. 2015,
arXiv:1505.04597; Dhariwal and Nichol 2021, arXiv:2105.05233). At the lowest resolution, a
transformer block follows each of them and attends to all pixels and to the context (Rombach et al.
2022, arXiv:2112.10752): L on the way down, one in the middle and L + 1 on the way up. The network
is diffusers' ``UNet2DConditionModel``, whose feed-forwards have gates (GEGLU).

The widths of the blocks' feed-forwards are the free size of a family, so that all families of one
architecture have the same attention and convolutions. In a *KAN*, learned functions that hidden
units share replace the activation of a feed-forward; in a *full KAN*, layers with a function for
each edge replace its two linear maps (:mod:`kan_diffusion.kanified`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Literal

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention import Attention, BasicTransformerBlock, FeedForward
from diffusers.models.embeddings import PixArtAlphaTextProjection
from torch import Tensor, nn

from kan_diffusion.denoisers.base import Denoiser, DenoiserOutput, ModelMixin
from kan_diffusion.denoisers.families import Family, Range
from kan_diffusion.errors import KanDiffusionError, require_known
from kan_diffusion.kan import KANLinear, LearnedFunctions
from kan_diffusion.kanified.recipe import rebuild
from kan_diffusion.limits import MOST_PARAMETERS, MOST_SIDE
from kan_diffusion.pictures.prompts import TEXT_WIDTH, TextEncoder, Vocabulary

__all__ = ["PICTURE_FAMILIES", "ModelMixin", "PictureDenoiser"]

_FEED_FORWARDS: Mapping[str, Mapping[str, object]] = {
    "mlp": {},
    "grouped": {"kind": "grouped", "functions": 8, "grid_size": 8},
    "full": {"kind": "full", "grid_size": 5},
}

_GROUPS, _HEAD = 8, 16
"""Groups of channels in the U-Net's normalisation, and width of an attention head."""
_SMALL = 0.02
"""Initial standard deviation of the weights that map timesteps to scales and shifts."""


class PictureDenoiser(Denoiser):
    """A denoiser of pictures that takes prompts.

    Args:
        shape: Channels, height and width of a picture.
        hidden: Number of hidden units of the feed-forward of each transformer block; in a U-Net L
            on the way down, L + 1 on the way up, then the one in the middle, 2 L + 2 in all.
        num_train_timesteps: Number T of steps of the process.
        words: Words of prompts, see :class:`.Vocabulary`; empty if nothing can be asked for.
        prompt_length: Number L of tokens of a prompt, two more than it may have words.
        architecture: ``"dit"`` for the transformer, ``"unet"`` for the U-Net.
        feed_forward: ``"mlp"`` as in diffusers, ``"grouped"`` with functions that hidden units
            share, or ``"full"`` with one for each edge.
        width: Width of a token of the transformer, a multiple of 16; a head takes 16.
        patch: Side of a patch of the transformer in pixels; must divide the side of the picture.
        channels: Channels of the U-Net at S, S/2, ... pixels, each a multiple of 8 and the last,
            the width of its tokens, of 16.

    Attributes:
        network: A network of diffusers that is called with a picture, a timestep and a context.
        vocabulary: Words of prompts.
        text_encoder: Embeds prompts.

    Raises:
        KanDiffusionError: The sizes do not fit each other.
    """

    @register_to_config
    def __init__(
        self,
        shape: Sequence[int] = (3, 16, 16),
        hidden: Sequence[int] = (128, 128, 128, 128),
        num_train_timesteps: int = 1000,
        words: str = "",
        prompt_length: int = 2,
        architecture: Literal["dit", "unet"] = "unet",
        feed_forward: Literal["mlp", "grouped", "full"] = "mlp",
        width: int = 64,
        patch: int = 2,
        channels: Sequence[int] = (16, 32),
    ) -> None:
        super().__init__()
        require_known("architecture", architecture, ["dit", "unet"])
        require_known("feed_forward", feed_forward, _FEED_FORWARDS)
        self.vocabulary = Vocabulary(words, prompt_length)
        if architecture == "unet":
            activation, self.network = "geglu", _unet(shape, hidden, channels)
        else:
            activation = "gelu-approximate"
            self.network = _transformer(shape, hidden, width, patch)
        parts = self.network.named_modules()
        blocks = {path: part for path, part in parts if isinstance(part, BasicTransformerBlock)}
        for block, units in zip(blocks.values(), hidden, strict=True):
            block.ff = FeedForward(block.dim, inner_dim=units, activation_fn=activation)
        if recipe := _FEED_FORWARDS[feed_forward]:
            sizes = zip(blocks, hidden, strict=True)
            recipes = [{"path": f"{path}.ff", "hidden": units, **recipe} for path, units in sizes]
            rebuild(self.network, recipes)
        self.text_encoder = TextEncoder(self.vocabulary)
        self.reset_parameters()

    @classmethod
    def size_of(cls, shape: tuple[int, ...]) -> dict[str, object]:
        """Returns the shape of pictures, see :meth:`.Denoiser.size_of`."""
        if len(shape) != 3:
            raise KanDiffusionError(
                f"it takes pictures, and samples are points of {' x '.join(map(str, shape))} "
                "coordinates; choose a family of points, such as kan"
            )
        return {"shape": shape}

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one picture: (C, H, W)."""
        return tuple(self.config.shape)

    @property
    def num_trainable(self) -> int:
        """Number of trainable parameters but for the text encoder's: what budgets count."""
        return sum(p.numel() for p in self.network.parameters() if p.requires_grad)

    @property
    def absent(self) -> dict[str, Tensor]:
        """``input_ids`` of the empty prompt."""
        return {"input_ids": self.vocabulary.tokens([""])[0]}

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        input_ids: Tensor | None = None,
        return_dict: bool = True,
    ) -> DenoiserOutput | tuple[Tensor, ...]:
        """Predicts for noised pictures (B, C, H, W), as a :class:`.Denoiser` does.

        ``input_ids``, with shape (B, L), are the tokens of prompts; without, nothing is asked for.

        Raises:
            KanDiffusionError: The pictures have another shape.
        """
        if sample.shape[1:] != self.sample_shape:
            wanted = ", ".join(map(str, self.sample_shape))
            raise KanDiffusionError(
                f"this denoiser takes pictures with shape (B, {wanted}), not {tuple(sample.shape)}"
            )
        if input_ids is None:
            input_ids = self.absent["input_ids"].to(sample.device).expand(len(sample), -1)
        prediction = self._predict(sample, timestep, self.text_encoder(input_ids))
        return DenoiserOutput(sample=prediction) if return_dict else (prediction,)

    def _predict(self, sample: Tensor, timestep: Tensor | float, context: Tensor) -> Tensor:
        """Predicts for noised pictures, given embedded conditions (B, tokens, width)."""
        steps = torch.as_tensor(timestep, device=sample.device).reshape(-1).expand(len(sample))
        said = (context != 0).any(2).to(context.dtype)
        mean = context.sum(1) / said.sum(1, keepdim=True).clamp(min=1)
        of_unet = self.config.architecture == "unet"
        prediction: Tensor = self.network(
            sample,
            timestep=steps,
            encoder_hidden_states=context,
            encoder_attention_mask=said,
            return_dict=False,
            **({"class_labels": mean} if of_unet else {"added_cond_kwargs": {"mean": mean}}),
        )[0]
        return prediction

    @property
    def flops(self) -> int:
        """Floating-point operations of one forward pass for one picture and one context token."""
        counts: list[int] = []

        def count(part: nn.Module, _: tuple[object, ...], output: Tensor) -> None:
            counts.append(_operations(part, output))

        new = next(self.parameters()).new_zeros
        with ExitStack() as hooks, torch.no_grad():
            for part in self.network.modules():
                hooks.enter_context(part.register_forward_hook(count))
            self._predict(new(1, *self.sample_shape), 0, new(1, 1, TEXT_WIDTH))
        return sum(counts)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws fresh parameters, nearly as torch does; the text encoder's come last.

        Weights are uniform within the inverse square root of their fan-in, and biases zero;
        embeddings are standard normal; normalisations have scale 1 and shift 0.

        Args:
            generator: Where parameters come from; torch's default generator when None.
        """
        _reset(self.network, generator)
        with torch.no_grad():
            for name, table in self.network.named_parameters():
                if name.endswith("adaln_single.linear.weight"):
                    table.normal_(std=_SMALL, generator=generator)
                elif name.endswith("scale_shift_table"):
                    table.zero_()
                    table[2::3] = 1.0  # a block's two gates; the output's two rows are none
        self.reset_text_encoder(generator)

    def reset_text_encoder(self, generator: torch.Generator | None = None) -> None:
        """Draws fresh parameters of the text encoder alone."""
        _reset(self.text_encoder, generator)


def _operations(part: nn.Module, output: Tensor) -> int:
    """Counts the operations of a layer without those of its parts."""
    if isinstance(part, KANLinear | LearnedFunctions):
        return output.numel() // output.shape[-1] * part.flops
    if isinstance(part, nn.Linear | nn.Conv2d):
        return 2 * output.numel() * part.weight[0].numel()
    if isinstance(part, Attention):
        others = 1 if part.is_cross_attention else output.shape[1]
        return 4 * output.shape[1] * others * part.inner_dim
    return 0


@torch.no_grad()
def _reset(module: nn.Module, generator: torch.Generator | None) -> None:
    for part in module.modules():
        if isinstance(part, KANLinear | LearnedFunctions):
            part.reset_parameters(generator)
        elif isinstance(part, nn.Linear | nn.Conv2d):
            bound = part.weight[0].numel() ** -0.5
            part.weight.uniform_(-bound, bound, generator=generator)
            if part.bias is not None:
                part.bias.zero_()
        elif isinstance(part, nn.Embedding):
            part.weight.normal_(generator=generator)
        elif isinstance(part, nn.LayerNorm | nn.GroupNorm) and part.weight is not None:
            part.weight.fill_(1.0)
            part.bias.zero_()


class _PooledTimesteps(nn.Module):
    """Embeds timesteps (B,) and adds projected means (B, 64) of contexts: (B, width).

    It replaces PixArt's embedding of timesteps, and is called in the same way.
    """

    def __init__(self, timesteps: nn.Module, width: int) -> None:
        super().__init__()
        self.timesteps = timesteps
        self.projection = PixArtAlphaTextProjection(TEXT_WIDTH, width)

    def forward(
        self, timestep: Tensor, mean: Tensor, batch_size: int, hidden_dtype: torch.dtype
    ) -> Tensor:
        embedded: Tensor = self.timesteps(timestep, None, None, batch_size, hidden_dtype)
        return embedded + self.projection(mean)


def _require_pictures(shape: Sequence[int], factor: int, density: float) -> None:
    """Checks a shape before a network with ``density`` values per pixel is built for it."""
    fits = len(shape) == 3 and min(shape) >= 1 and shape[1] == shape[2] <= MOST_SIDE
    if not fits or shape[1] % factor or shape[1] ** 2 * density > MOST_PARAMETERS:
        raise KanDiffusionError(
            "pictures must be squares of channels x pixels x pixels with a side of at most "
            f"{MOST_SIDE:,} that {factor} divides, and layers of at most {MOST_PARAMETERS:,} "
            f"numbers, not {' x '.join(map(str, shape))}; choose another size"
        )


def _transformer(shape: Sequence[int], hidden: Sequence[int], width: int, patch: int) -> nn.Module:
    # Slow to import, and only those who build one need it.
    from diffusers import PixArtTransformer2DModel

    _require_pictures(shape, patch, width / patch**2)
    if width % _HEAD or not hidden:
        raise KanDiffusionError(
            f"a transformer needs a block or more and a width that is a multiple of {_HEAD}, not "
            f"{len(hidden)} and {width}"
        )
    network = PixArtTransformer2DModel(
        num_attention_heads=width // _HEAD,
        attention_head_dim=_HEAD,
        in_channels=shape[0],
        out_channels=shape[0],
        num_layers=len(hidden),
        cross_attention_dim=width,
        sample_size=shape[1],
        patch_size=patch,
        caption_channels=TEXT_WIDTH,
        use_additional_conditions=False,
    )
    timesteps = network.adaln_single
    timesteps.emb = _PooledTimesteps(timesteps.emb, width)
    return network


def _unet(shape: Sequence[int], hidden: Sequence[int], channels: Sequence[int]) -> nn.Module:
    from diffusers import UNet2DConditionModel

    most = MOST_SIDE.bit_length()  # a side that is halved so often has one pixel
    fits = 0 < len(channels) <= most and min(channels) > 0 and not channels[-1] % _HEAD
    if not fits or any(number % _GROUPS for number in channels):
        raise KanDiffusionError(
            f"a U-Net needs 1 to {most} numbers of channels that are multiples of {_GROUPS}, the "
            f"last of {_HEAD}, not {str(list(channels))[:60]}"
        )
    _require_pictures(shape, 2 ** (len(channels) - 1), max(channels))
    if len(hidden) < 4 or len(hidden) % 2:
        raise KanDiffusionError(
            "a U-Net needs an even number of feed-forwards, four or more, not "
            f"{len(hidden)}; give another depth or other hidden widths"
        )
    width, lower = channels[-1], len(channels) - 1
    return UNet2DConditionModel(
        sample_size=shape[1],
        in_channels=shape[0],
        out_channels=shape[0],
        down_block_types=(*["DownBlock2D"] * lower, "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", *["UpBlock2D"] * lower),
        block_out_channels=tuple(channels),
        layers_per_block=(len(hidden) - 2) // 2,
        norm_num_groups=_GROUPS,
        resnet_time_scale_shift="scale_shift",
        cross_attention_dim=width,
        encoder_hid_dim=TEXT_WIDTH,
        encoder_hid_dim_type="text_proj",
        class_embed_type="projection",
        projection_class_embeddings_input_dim=TEXT_WIDTH,
        attention_head_dim=width // _HEAD,  # the number of heads, under the name of their width
    )


PICTURE_FAMILIES: dict[str, Family] = {
    name: Family(
        name,
        PictureDenoiser,
        depth=4,
        learning_rate=3e-3,
        settings={"architecture": name.split("-")[0], "feed_forward": feed_forward},
        kind="mlp" if feed_forward == "mlp" else "kan",
        title=title,
        space={"learning_rate": Range(5e-4, 1e-2, log=True)},
    )
    for name, title, feed_forward in (
        ("dit", "DiT", "mlp"),
        ("dit-kan", "DiT KAN", "grouped"),
        ("dit-full-kan", "DiT full KAN", "full"),
        ("unet", "U-Net", "mlp"),
        ("unet-kan", "U-Net KAN", "grouped"),
    )
}
"""Families of pictures by name."""
