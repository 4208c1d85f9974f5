r"""Denoisers of pictures: diffusers' diffusion transformer, with plain or with KAN feed-forwards.

Patches of a picture are tokens. Blocks of attention among them, of attention to a context, and of
feed-forward maps are scaled and shifted by the timestep (Peebles and Xie 2023, arXiv:2212.09748;
with one map for all blocks as in PixArt-alpha, Chen et al. 2023, arXiv:2310.00426); the network is
diffusers' ``PixArtTransformer2DModel``. The context is a learned embedding of a class label, or an
embedded prompt; where there is none it is zero, which is the unconditional model.

In the *KAN* the activation of the feed-forwards becomes learned functions that hidden units share;
in the *full KAN* their two linear maps become layers with a function for each edge
(:mod:`kan_diffusion.kanified`). The free size of a family is the number of hidden units of its
feed-forwards, so that all of them have the same attention.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from kan_diffusion.denoisers.base import UNLABELLED, Denoiser, DenoiserOutput, ModelMixin
from kan_diffusion.denoisers.family import Family, Range, Setting, Space
from kan_diffusion.errors import KanDiffusionError, require_known
from kan_diffusion.kan import KANLinear, LearnedFunctions
from kan_diffusion.kanified.saving import rebuild
from kan_diffusion.limits import MOST_PARAMETERS, MOST_SIDE

__all__ = ["TRANSFORMER_FAMILIES", "ModelMixin", "TransformerDenoiser", "fresh_parameters"]

FeedForwards = Literal["mlp", "grouped", "full"]

_FEED_FORWARDS: dict[str, dict[str, object]] = {
    "mlp": {},
    "grouped": {"kind": "grouped", "grid_size": 8},
    "full": {"kind": "full", "grid_size": 5},
}
_SMALL = 0.02
"""Standard deviation of the map from timesteps to scales and shifts."""

_SHIFTS, _GATES = 6, (2, 5)
"""Rows of a block's table of scales and shifts, and those of them that are gates."""


class TransformerDenoiser(Denoiser):
    """A diffusion transformer for pictures.

    Args:
        shape: Channels, height and width of a picture.
        hidden: Number of hidden units of the feed-forward of each block.
        num_train_timesteps: Number T of steps of the process.
        num_classes: Number of class labels, 0 for none.
        text_width: Width of embedded prompts, 0 for a model without text.
        feed_forward: ``"mlp"``, ``"grouped"`` or ``"full"``, see the module.
        functions: Number of functions that hidden units share; for ``"grouped"``.
        width: Numbers of a token; a multiple of ``heads``.
        heads: Number of attention heads.
        patch: Pixels of a patch's side; must divide those of the picture.

    Raises:
        KanDiffusionError: A number does not fit the others.
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
    ) -> None:
        # Slow to import, and points need neither.
        from diffusers import PixArtTransformer2DModel
        from diffusers.models.attention import FeedForward

        super().__init__()
        require_known("feed_forward", feed_forward, _FEED_FORWARDS)
        if len(shape) != 3 or min(shape) < 1 or shape[1] != shape[2] or shape[1] % patch:
            raise KanDiffusionError(
                f"pictures must be squares of channels x pixels x pixels whose side a patch of "
                f"{patch} divides, not {' x '.join(map(str, shape))}; choose another size or patch"
            )
        if shape[1] > MOST_SIDE or (shape[1] // patch) ** 2 * width > MOST_PARAMETERS:
            raise KanDiffusionError(
                f"pictures of {shape[1]:,} pixels in patches of {patch} with tokens of {width:,} "
                f"numbers are too large; a side has at most {MOST_SIDE:,} pixels, and all tokens "
                f"{MOST_PARAMETERS:,} numbers"
            )
        if width % heads or not hidden:
            raise KanDiffusionError(
                f"a transformer needs a block or more and a width that its {heads} heads divide, "
                f"not {len(hidden)} and {width}"
            )
        if num_classes and text_width:
            raise KanDiffusionError("pictures are told classes or prompts; give one of the two")
        self.num_classes, self.text_width = num_classes, text_width
        context = text_width or width
        network = PixArtTransformer2DModel(
            num_attention_heads=heads,
            attention_head_dim=width // heads,
            in_channels=shape[0],
            out_channels=shape[0],
            num_layers=len(hidden),
            cross_attention_dim=width,
            sample_size=shape[1],
            patch_size=patch,
            caption_channels=context,
            use_additional_conditions=False,
        )
        for block, units in zip(network.transformer_blocks, hidden, strict=True):
            block.ff = FeedForward(width, inner_dim=units, activation_fn="gelu-approximate")
        made = _FEED_FORWARDS[feed_forward]
        if made:
            rebuild(
                network,
                [
                    {
                        "path": f"transformer_blocks.{index}.ff",
                        "hidden": units,
                        "functions": functions,
                        **made,
                    }
                    for index, units in enumerate(hidden)
                ],
            )
        self.network = network
        self.classes = nn.Embedding(num_classes, context) if num_classes else None
        self.reset_parameters()

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one picture: (C, H, W)."""
        channels, height, width = self.config.shape
        return channels, height, width

    @property
    def absent(self) -> dict[str, Tensor]:
        """By the name of each condition it may be given: the value of one sample that has none."""
        prompts = {"encoder_hidden_states": torch.zeros(())} if self.text_width else {}
        return {**super().absent, **prompts}

    def require_conditions(self, conditions: Mapping[str, Tensor], num_samples: int) -> None:
        """Checks conditions once, ahead of use, see :class:`.Denoiser`."""
        super().require_conditions(conditions, num_samples)
        prompts = conditions.get("encoder_hidden_states")
        if prompts is not None and (prompts.ndim != 3 or prompts.shape[2] != self.text_width):
            raise KanDiffusionError(
                f"encoder_hidden_states must have shape (B, tokens, {self.text_width}), not "
                f"{tuple(prompts.shape)}"
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
            return sample.new_zeros(len(sample), 1, self.text_width or self.config.width)
        if not self.text_width:
            raise KanDiffusionError(
                "this denoiser was built without prompts; leave encoder_hidden_states out or build "
                "it with text_width"
            )
        return prompts

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        class_labels: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        return_dict: bool = True,
    ) -> DenoiserOutput | tuple[Tensor]:
        """Predicts for noised pictures.

        Args:
            sample: Noised pictures with shape (B, C, H, W).
            timestep: One timestep for all pictures, or one each with shape (B,), from 0 to T - 1.
            class_labels: Labels with shape (B,), -1 where there is none; or None.
            encoder_hidden_states: Embedded prompts with shape (B, tokens, text_width), zero where
                there is none; or None.
            return_dict: Whether to return a :class:`.DenoiserOutput` or a tuple.

        Returns:
            The prediction with shape (B, C, H, W), as ``.sample`` or in a tuple.

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
        prediction: Tensor = self.network(
            sample,
            self._context(sample, class_labels, encoder_hidden_states),
            steps,
            return_dict=False,
        )[0]
        return DenoiserOutput(sample=prediction) if return_dict else (prediction,)

    @property
    def flops(self) -> int:
        """Floating-point operations of one forward pass for one picture with a context of one."""
        from diffusers.models.attention import Attention

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
        with torch.no_grad():
            for name, table in self.named_parameters():
                if name.endswith("adaln_single.linear.weight"):
                    table.normal_(std=_SMALL, generator=generator)
                elif name.endswith("scale_shift_table"):
                    table.zero_()
                    if len(table) == _SHIFTS:  # of a block; that of the output has no gates
                        table[list(_GATES)] = 1.0


def fresh_parameters(module: nn.Module, generator: torch.Generator | None) -> None:
    """Draws the parameters of a network of any layers from a generator, nearly as torch does.

    Maps are uniform up to the square root of their inverse fan-in, without bias at first;
    embeddings are standard normal; normalisations do nothing else at first.

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
            elif isinstance(part, nn.LayerNorm | nn.GroupNorm) and part.elementwise_affine:
                part.weight.fill_(1.0)
                part.bias.zero_()


_SPACE: Space = {"learning_rate": Range(5e-4, 1e-2, log=True)}


def _family(name: str, title: str, kind: Literal["kan", "mlp"], **settings: Setting) -> Family:
    return Family(name, TransformerDenoiser, 4, 3e-3, settings, kind, title, _SPACE)


TRANSFORMER_FAMILIES: tuple[Family, ...] = (
    _family("dit", "DiT", "mlp"),
    _family("dit-kan", "DiT KAN", "kan", feed_forward="grouped"),
    _family("dit-full-kan", "DiT full KAN", "kan", feed_forward="full"),
)
"""Diffusion transformers whose feed-forwards have GELU, shared functions, or full KAN layers."""
