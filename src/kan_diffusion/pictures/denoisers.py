r"""Base of the denoisers of pictures: diffusers networks that take a picture and a context.

.. math:: (x_t, t, c) \mapsto \mathrm{prediction}, \qquad x_t \in \mathbb{R}^{C \times S \times S},

with c the tokens that attention blocks attend to: an embedded prompt, the learned embedding of a
class label or, in the unconditional model, one zero token. Shorter prompts are padded with zeros,
which are masked in attention and do not count in means. With ``pooled``, the mean of c also goes
through two linear maps and is added to the embedded timestep. With ``draft_patch``, the network
also takes a mean picture that is drawn from c alone (:mod:`.draft`).

The widths of the blocks' feed-forwards are the free size of a family, so that all families of one
architecture have the same attention and convolutions. In a *KAN*, learned functions that hidden
units share replace the activation of a feed-forward; in a *full KAN*, layers with a function for
each edge replace its two linear maps (:mod:`kan_diffusion.kanified`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from diffusers.models.attention import Attention, BasicTransformerBlock, FeedForward
from torch import Tensor, nn

from kan_diffusion.denoisers.base import UNLABELLED, Denoiser, DenoiserOutput
from kan_diffusion.denoisers.family import Family, Range, Setting
from kan_diffusion.errors import KanDiffusionError, require_known
from kan_diffusion.kan import KANLinear, LearnedFunctions
from kan_diffusion.kanified.recipe import rebuild
from kan_diffusion.limits import MOST_PARAMETERS, MOST_SIDE
from kan_diffusion.pictures.draft import DRAFT_WIDTH, Draft

__all__ = ["FeedForwards", "PictureDenoiser", "fresh_parameters", "picture_family"]

FeedForwards = Literal["mlp", "grouped", "full"]
"""Feed-forwards as in diffusers, with functions that units share, or with one for each edge."""

_FEED_FORWARDS: Mapping[FeedForwards, Mapping[str, object]] = {
    "mlp": {},
    "grouped": {"kind": "grouped", "grid_size": 8},
    "full": {"kind": "full", "grid_size": 5},
}


class PictureDenoiser(Denoiser):
    """Base of the denoisers of pictures.

    A subclass registers ``shape``, ``hidden``, ``num_classes``, ``text_width``, ``feed_forward``,
    ``functions``, ``pooled`` and ``draft_patch`` among its settings, calls
    :meth:`_require_pictures` and :meth:`_take`, and defines in :meth:`_told` how its network takes
    the mean of the context.

    Attributes:
        network: A network of diffusers that is called with a picture, a timestep and a context.
        num_classes: Number of class labels, 0 for none.
        text_width: Width of embedded prompts, 0 for a model without text.
        classes: Embeddings of the class labels; None without classes.
        draft: Draws what the context alone tells of a picture; None without.
    """

    classes: nn.Embedding | None
    draft: Draft | None
    text_width: int
    _context_width: int

    @staticmethod
    def _require_pictures(
        shape: Sequence[int], factor: int, density: float, draft_patch: int
    ) -> None:
        """Checks that a shape is that of a picture, and not too large, before a network is built.

        Args:
            shape: Channels, height and width.
            factor: A number that must divide the side.
            density: Number of values per pixel in the widest layer.
            draft_patch: Side of the patches of a draft in pixels, or 0.

        Raises:
            KanDiffusionError: The shape is not a square that ``factor`` and ``draft_patch`` divide,
                or is too large.
        """
        if len(shape) != 3 or min(shape) < 1 or shape[1] != shape[2] or shape[1] % factor:
            raise KanDiffusionError(
                "pictures must be squares of channels x pixels x pixels with a side that "
                f"{factor} divides, not {' x '.join(map(str, shape))}; choose another size"
            )
        if draft_patch < 0 or (draft_patch and shape[1] % draft_patch):
            raise KanDiffusionError(
                f"patches of a draft must divide a side of {shape[1]} pixels, not {draft_patch}; "
                "choose another side, or 0 for no draft"
            )
        drafted = DRAFT_WIDTH / draft_patch**2 if draft_patch else 0
        values = shape[1] ** 2 * max(density, drafted)
        if shape[1] > MOST_SIDE or values > MOST_PARAMETERS:
            raise KanDiffusionError(
                f"pictures of {shape[1]:,} pixels with {values:,.0f} numbers in the widest layer "
                f"are too large; a side has at most {MOST_SIDE:,} pixels, and a layer "
                f"{MOST_PARAMETERS:,} numbers"
            )

    def _take(self, network: nn.Module, width: int, activation: str) -> None:
        """Sets ``network`` and rebuilds its feed-forwards as configured.

        Args:
            network: The network, with a transformer block for each number of ``hidden``.
            width: Width of the network's context without text.
            activation: Activation of plain feed-forwards, by its name in diffusers.

        Raises:
            KanDiffusionError: The kind of feed-forwards is unknown, or both classes and text are
                asked for.
        """
        config = self.config
        require_known("feed_forward", config.feed_forward, _FEED_FORWARDS)
        if config.num_classes and config.text_width:
            raise KanDiffusionError("pictures are told classes or prompts; give one of the two")
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
        channels, side, _ = config.shape
        patch = config.draft_patch
        self.draft = Draft(channels, side, patch, self._context_width) if patch else None
        self.reset_parameters()

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one picture: (C, H, W)."""
        channels, height, width = self.config.shape
        return channels, height, width

    @property
    def absent(self) -> dict[str, Tensor]:
        """Name of each possible condition, and the value that marks it as absent for a sample."""
        prompts = {"encoder_hidden_states": torch.zeros(())} if self.text_width else {}
        return {**super().absent, **prompts}

    def require_conditions(self, conditions: Mapping[str, Tensor], num_samples: int) -> None:
        """Checks conditions once before use, see :class:`.Denoiser`."""
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
            return sample.new_zeros(len(sample), 1, self._context_width)
        if not self.text_width:
            raise KanDiffusionError(
                "this denoiser was built without prompts; leave encoder_hidden_states out or build "
                "it with text_width"
            )
        return prompts

    def _told(self, mean: Tensor) -> dict[str, object]:
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
        """Computes the prediction for noised pictures.

        Args:
            sample: Noised pictures with shape (B, C, H, W).
            timestep: One timestep for all pictures, or one each with shape (B,), from 0 to T - 1.
            class_labels: Labels with shape (B,), -1 where there is none; or None.
            encoder_hidden_states: Embedded prompts with shape (B, tokens, text_width), zero after
                the end of a prompt and for samples without one; or None.
            return_dict: Whether to return a :class:`.DenoiserOutput` or a tuple.

        Returns:
            The prediction with shape (B, C, H, W), as ``.sample`` or in a tuple, and with a draft
            also that, as ``.draft`` or after it.

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
        told = self._told(mean) if self.config.pooled else {}
        draft = None if self.draft is None else self.draft(context, said)
        prediction: Tensor = self.network(
            sample if draft is None else torch.cat([sample, draft], dim=1),
            timestep=steps,
            encoder_hidden_states=context,
            encoder_attention_mask=said,
            return_dict=False,
            **told,
        )[0]
        parts = (prediction,) if draft is None else (prediction, draft)
        return DenoiserOutput(*parts) if return_dict else parts

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


def picture_family(
    denoiser: type[PictureDenoiser],
    name: str,
    title: str,
    kind: Literal["kan", "mlp"],
    **settings: Setting,
) -> Family:
    """Makes a family of pictures with the depth, learning rate and search space that all share."""
    space = {"learning_rate": Range(5e-4, 1e-2, log=True)}
    return Family(name, denoiser, 4, 3e-3, settings, kind, title, space)
