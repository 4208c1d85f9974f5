r"""Denoisers of pictures: diffusers networks that take a picture and a context.

.. math:: (x_t, t, c) \mapsto \mathrm{prediction}, \qquad x_t \in \mathbb{R}^{C \times S \times S},

with c the tokens that attention blocks attend to: an embedded prompt, the learned embedding of a
class label or, in the unconditional model, one zero token. Shorter prompts are padded with zeros,
which are masked in attention and do not count in means. With ``pooled``, the mean of c also goes
through two linear maps and is added to the embedded timestep.

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
from typing import Literal

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention import Attention, BasicTransformerBlock, FeedForward
from diffusers.models.embeddings import PixArtAlphaTextProjection
from torch import Tensor, nn

from kan_diffusion.denoisers.base import Denoiser, DenoiserOutput, ModelMixin
from kan_diffusion.denoisers.family import Family, Range
from kan_diffusion.errors import KanDiffusionError, require_known
from kan_diffusion.kan import KANLinear, LearnedFunctions
from kan_diffusion.kanified.recipe import rebuild
from kan_diffusion.limits import MOST_PARAMETERS, MOST_SIDE

__all__ = [
    "PICTURE_FAMILIES",
    "UNLABELLED",
    "FeedForwards",
    "ModelMixin",
    "PictureDenoiser",
    "TransformerDenoiser",
    "UNetDenoiser",
    "fresh_parameters",
]

UNLABELLED = -1
"""The class label of a picture without a label."""

FeedForwards = Literal["mlp", "grouped", "full"]
"""Feed-forwards as in diffusers, with functions that units share, or with one for each edge."""

_FEED_FORWARDS: Mapping[FeedForwards, Mapping[str, object]] = {
    "mlp": {},
    "grouped": {"kind": "grouped", "grid_size": 8},
    "full": {"kind": "full", "grid_size": 5},
}

_GROUPS = 8
"""Number of groups of channels in the U-Net's group normalisation."""
_SMALL = 0.02
"""Initial standard deviation of the weights that map timesteps to scales and shifts."""
_SHIFTS, _GATES = 6, (2, 5)
"""Number of rows of a block's table of scales and shifts, and the rows that are gates."""


class PictureDenoiser(Denoiser):
    """Base of the denoisers of pictures.

    A subclass registers ``shape``, ``hidden``, ``num_classes``, ``text_width``, ``feed_forward``,
    ``functions`` and ``pooled`` among its settings, calls :meth:`_require_pictures` and
    :meth:`_take`, and defines in :meth:`_of_mean` how its network takes the mean of the context.

    Attributes:
        network: A network of diffusers that is called with a picture, a timestep and a context.
        num_classes: Number of class labels, 0 for none.
        text_width: Width of embedded prompts, 0 for a model without text.
        classes: Embeddings of the class labels; None without classes.
    """

    classes: nn.Embedding | None
    num_classes: int
    text_width: int
    _context_width: int

    @classmethod
    def size_of(cls, shape: tuple[int, ...]) -> dict[str, object]:
        """Returns the shape of pictures, see :meth:`.Denoiser.size_of`."""
        if len(shape) != 3:
            raise KanDiffusionError(
                f"it takes pictures, and samples are points of {' x '.join(map(str, shape))} "
                "coordinates; choose a family of points, such as kan"
            )
        return {"shape": shape}

    @staticmethod
    def _require_pictures(shape: Sequence[int], factor: int, density: float) -> None:
        """Checks a shape before a network with ``density`` values per pixel is built for it."""
        if len(shape) != 3 or min(shape) < 1 or shape[1] != shape[2] or shape[1] % factor:
            raise KanDiffusionError(
                "pictures must be squares of channels x pixels x pixels with a side that "
                f"{factor} divides, not {' x '.join(map(str, shape))}; choose another size"
            )
        values = shape[1] ** 2 * density
        if shape[1] > MOST_SIDE or values > MOST_PARAMETERS:
            raise KanDiffusionError(
                f"pictures of {shape[1]:,} pixels with {values:,.0f} numbers in the widest layer "
                f"are too large; a side has at most {MOST_SIDE:,} pixels, and a layer "
                f"{MOST_PARAMETERS:,} numbers"
            )

    def _take(self, network: nn.Module, width: int, activation: str) -> None:
        """Sets ``network`` and gives each of its blocks the feed-forward that is configured."""
        config = self.config
        require_known("feed_forward", config.feed_forward, _FEED_FORWARDS)
        if config.num_classes and config.text_width:
            raise KanDiffusionError("pictures have classes or prompts; give one of the two")
        self.num_classes, self.text_width = config.num_classes, config.text_width
        self._context_width = config.text_width or width
        parts = network.named_modules()
        blocks = {path: part for path, part in parts if isinstance(part, BasicTransformerBlock)}
        for block, units in zip(blocks.values(), config.hidden, strict=True):
            block.ff = FeedForward(block.dim, inner_dim=units, activation_fn=activation)
        if made := _FEED_FORWARDS[config.feed_forward]:
            recipe = {"functions": config.functions, **made}
            sizes = zip(blocks, config.hidden, strict=True)
            own = [{"path": f"{path}.ff", "hidden": units, **recipe} for path, units in sizes]
            rebuild(network, own)
        self.network = network
        self.classes = nn.Embedding(config.num_classes, width) if config.num_classes else None
        self.reset_parameters()

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one picture: (C, H, W)."""
        channels, height, width = self.config.shape
        return channels, height, width

    @property
    def absent(self) -> dict[str, Tensor]:
        """Name of each possible condition, and the value that marks it as absent for a sample."""
        labels = {"class_labels": torch.tensor(UNLABELLED)} if self.num_classes else {}
        return labels | ({"encoder_hidden_states": torch.zeros(())} if self.text_width else {})

    def require_conditions(self, conditions: Mapping[str, Tensor], num_samples: int) -> None:
        """Checks conditions once before use, see :class:`.Denoiser`.

        ``class_labels`` are integers, -1 where there is no label.
        """
        if "class_labels" in conditions:
            self._require_classes()
        super().require_conditions(conditions, num_samples)
        labels = conditions.get("class_labels")
        if labels is not None:
            if labels.is_floating_point():
                raise KanDiffusionError(
                    f"class labels must be whole numbers, not {labels.dtype}; convert them with "
                    ".long()"
                )
            wrong = labels[(labels < UNLABELLED) | (labels >= self.num_classes)]
            if len(wrong):
                raise KanDiffusionError(
                    f"class label {int(wrong[0])} is unknown to a denoiser of {self.num_classes} "
                    f"classes; labels go from 0 to {self.num_classes - 1}, {UNLABELLED} stands "
                    "for none"
                )
        prompts = conditions.get("encoder_hidden_states")
        if prompts is not None and (prompts.ndim != 3 or prompts.shape[2] != self.text_width):
            raise KanDiffusionError(
                f"encoder_hidden_states must have shape (B, tokens, {self.text_width}), not "
                f"{tuple(prompts.shape)}"
            )

    def _require_classes(self) -> None:
        if not self.num_classes:
            raise KanDiffusionError(
                "this denoiser was built without classes; leave class_labels out or build it with "
                "num_classes"
            )

    def _context(
        self, sample: Tensor, class_labels: Tensor | None, prompts: Tensor | None
    ) -> Tensor:
        """Embedded conditions with shape (B, tokens, width of the context)."""
        if class_labels is not None:
            self._require_classes()
            assert self.classes is not None
            labels = class_labels.expand(len(sample))
            known = self.classes(labels.clamp(min=0))
            return (known * (labels != UNLABELLED)[:, None].to(known.dtype))[:, None]
        if prompts is None:
            return sample.new_zeros(len(sample), 1, self._context_width)
        if not self.text_width:
            raise KanDiffusionError(
                "this denoiser was built without prompts; leave encoder_hidden_states out or build "
                "it with text_width"
            )
        return prompts

    def _of_mean(self, mean: Tensor) -> dict[str, object]:
        """Arguments of the network that add each context's mean (B, width) to the timestep."""
        raise NotImplementedError

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        class_labels: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        return_dict: bool = True,
    ) -> DenoiserOutput | tuple[Tensor, ...]:
        """Predicts for noised pictures (B, C, H, W), as a :class:`.Denoiser` does.

        ``encoder_hidden_states``, with shape (B, tokens, text_width), are zero after the end of a
        prompt and for pictures without one.

        Raises:
            KanDiffusionError: The pictures have another shape, or a condition was given to a
                denoiser that was built without it.
        """
        if sample.shape[1:] != self.sample_shape:
            wanted = ", ".join(map(str, self.sample_shape))
            raise KanDiffusionError(
                f"this denoiser takes pictures with shape (B, {wanted}), not {tuple(sample.shape)}"
            )
        steps = torch.as_tensor(timestep, device=sample.device).reshape(-1).expand(len(sample))
        context = self._context(sample, class_labels, encoder_hidden_states)
        said = (context != 0).any(2).to(context.dtype)
        mean = context.sum(1) / said.sum(1, keepdim=True).clamp(min=1)
        prediction: Tensor = self.network(
            sample,
            timestep=steps,
            encoder_hidden_states=context,
            encoder_attention_mask=said,
            return_dict=False,
            **(self._of_mean(mean) if self.config.pooled else {}),
        )[0]
        return DenoiserOutput(sample=prediction) if return_dict else (prediction,)

    @property
    def flops(self) -> int:
        """Floating-point operations of one forward pass for one picture and one context token."""
        total = 0

        def count(part: nn.Module, _: tuple[object, ...], output: Tensor) -> None:
            nonlocal total
            rows = output.numel() // output.shape[-1]
            if isinstance(part, KANLinear | LearnedFunctions):
                total += rows * part.flops
            elif isinstance(part, nn.Linear):
                total += 2 * rows * part.weight.numel()
            elif isinstance(part, nn.Conv2d):
                total += 2 * output.shape[-1] * output.shape[-2] * part.weight.numel()
            elif isinstance(part, Attention):
                others = 1 if part.is_cross_attention else output.shape[1]
                total += 4 * output.shape[1] * others * part.inner_dim

        counted = KANLinear | LearnedFunctions | nn.Linear | nn.Conv2d | Attention
        parts = [part for part in self.modules() if isinstance(part, counted)]
        handles = [part.register_forward_hook(count) for part in parts]
        parameter = next(self.parameters())
        try:
            with torch.no_grad():
                self(parameter.new_zeros(1, *self.sample_shape), 0)
        finally:
            for handle in handles:
                handle.remove()
        return total

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws fresh parameters from ``generator`` (torch's default one when None)."""
        fresh_parameters(self, generator)


def fresh_parameters(module: nn.Module, generator: torch.Generator | None) -> None:
    """Draws the parameters of a network of any layers from a generator, nearly as torch does.

    Weights are uniform within the inverse square root of their fan-in, and biases zero; embeddings
    are standard normal; normalisations have scale 1 and shift 0.

    Args:
        module: The network.
        generator: Where parameters come from; torch's default generator when None.
    """
    with torch.no_grad():
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
        feed_forward: ``"mlp"``, ``"grouped"`` or ``"full"``, see :data:`FeedForwards`.
        functions: Number of functions that hidden units share; for ``"grouped"``.
        width: Width of a token; a multiple of ``heads``.
        heads: Number of attention heads.
        patch: Side of a patch in pixels; must divide the side of the picture.
        pooled: Whether the mean of the context is added to the embedded timestep.

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
    ) -> None:
        # Slow to import, and only those who build one need it.
        from diffusers import PixArtTransformer2DModel

        super().__init__()
        self._require_pictures(shape, patch, width / patch**2)
        if width % heads or not hidden:
            raise KanDiffusionError(
                f"a transformer needs a block or more and a width that its {heads} heads divide, "
                f"not {len(hidden)} and {width}"
            )
        network = PixArtTransformer2DModel(
            num_attention_heads=heads,
            attention_head_dim=width // heads,
            in_channels=shape[0],
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
            timesteps.emb = _PooledTimesteps(timesteps.emb, text_width or width, width)
        self._take(network, width, "gelu-approximate")

    def _of_mean(self, mean: Tensor) -> dict[str, object]:
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


class UNetDenoiser(PictureDenoiser):
    """A U-Net for pictures.

    Args:
        shape: Channels, height and width of a picture.
        hidden: Number of hidden units of the feed-forward of each transformer block: L on the way
            down, L + 1 on the way up, then the one in the middle; 2 L + 2 in all.
        num_train_timesteps: Number T of steps of the process.
        num_classes: Number of class labels, 0 for none.
        text_width: Width of embedded prompts, 0 for a model without text.
        feed_forward: ``"mlp"``, ``"grouped"`` or ``"full"``, see :data:`FeedForwards`.
        functions: Number of functions that hidden units share; for ``"grouped"``.
        channels: Channels at S, S/2, ... pixels, each a multiple of 8.
        heads: Number of attention heads; must divide the last of the channels.
        pooled: Whether the mean of the context is added to the embedded timestep.

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
    ) -> None:
        from diffusers import UNet2DConditionModel

        super().__init__()
        levels = range(1, MOST_SIDE.bit_length() + 1)
        if len(channels) not in levels or min(channels) < 1 or any(n % _GROUPS for n in channels):
            raise KanDiffusionError(
                f"a U-Net needs {levels[0]} to {levels[-1]} numbers of channels that are multiples "
                f"of {_GROUPS}, not {str(list(channels))[:60]}"
            )
        self._require_pictures(shape, 2 ** (len(channels) - 1), max(channels))
        if channels[-1] % heads or len(hidden) < 4 or len(hidden) % 2:
            raise KanDiffusionError(
                "a U-Net needs an even number of feed-forwards, four or more, and heads that "
                f"divide the last of its channels, not {len(hidden)} and {heads} for "
                f"{channels[-1]}; give another depth or other hidden widths"
            )
        width, lower = channels[-1], len(channels) - 1
        network = UNet2DConditionModel(
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
            encoder_hid_dim=text_width or None,
            encoder_hid_dim_type="text_proj" if text_width else None,
            class_embed_type="projection" if pooled else None,
            projection_class_embeddings_input_dim=(text_width or width) if pooled else None,
            attention_head_dim=heads,  # the number of heads, under the name of their width
        )
        self._take(network, width, "geglu")

    def _of_mean(self, mean: Tensor) -> dict[str, object]:
        return {"class_labels": mean}


def _family(
    denoiser: type[PictureDenoiser],
    name: str,
    title: str,
    kind: Literal["kan", "mlp"],
    **settings: FeedForwards,
) -> Family:
    space = {"learning_rate": Range(5e-4, 1e-2, log=True)}
    return Family(name, denoiser, 4, 3e-3, settings, kind, title, space)


PICTURE_FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        _family(TransformerDenoiser, "dit", "DiT", "mlp"),
        _family(TransformerDenoiser, "dit-kan", "DiT KAN", "kan", feed_forward="grouped"),
        _family(TransformerDenoiser, "dit-full-kan", "DiT full KAN", "kan", feed_forward="full"),
        _family(UNetDenoiser, "unet", "U-Net", "mlp"),
        _family(UNetDenoiser, "unet-kan", "U-Net KAN", "kan", feed_forward="grouped"),
    )
}
"""Families of pictures by name: feed-forwards as in diffusers, with functions that hidden units
share, and with functions of each edge."""
