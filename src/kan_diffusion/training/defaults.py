r"""Default size, steps, batch size and learning rate for a table or for pictures.

With n rows of d coordinates, V = n d values, P parameters and :math:`\eta` the learning rate of the
family, which was tuned at 2,300 parameters,

.. math:: P = 300 \sqrt V, \qquad \eta_P = \eta\, (2300 / P)^{1/4},

with P at most 500,000 and :math:`\eta_P` at most :math:`\eta`. Exponents and factors were measured
on tables from 30 x 5 to 100,000 x 50 (benchmarks/table_defaults.py, results/tables/defaults.json).
A network that is too small costs much more than one that is too large, since training keeps the
weights of the lowest held-out loss. On tables of few rows and many columns, a full KAN does far
better with two hidden layers than with four; ``kan`` does about as well with two.

With N pictures, training sees :math:`64000 \sqrt{N / 20000}` in all, at least 25,000, in batches of
64. This is about what was found for 1,617 digits and for 20,000 scenes, between which the rule
interpolates (docs/search.md). Patches are such that a side has at most 8 tokens. A U-Net halves a
side until it has at most 8 pixels, at least once. Pictures of at most 16 tokens get 250,000
parameters; others get 320,000, and 110,000 more for each halving after the first, about as many as
its convolutions have.
"""

from __future__ import annotations

from dataclasses import dataclass

from kan_diffusion.denoisers import get_family
from kan_diffusion.denoisers.family import Setting
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.training.run import TrainingConfig

__all__ = ["PictureSuggestion", "Suggestion", "num_held_out", "suggested", "suggested_for_pictures"]

_FACTOR = 300
_MOST = 500_000
_TUNED_AT = 2_300
_ENOUGH_HELD_OUT = 50
_MOST_HELD_OUT = 5_000
_FEW_ROWS = 5_000
_SHALLOW = 2
_FEWEST_ROWS = 10
"""Rows below which none is held out: too few would be left to learn from."""
_MOST_TOKENS, _FEW_TOKENS = 8, 16
"""Most tokens of a picture's side, and most tokens of a cheap picture."""
_CHANNELS = 16
"""Channels of a U-Net at full resolution; it has twice as many at lower ones."""
_BATCH_SIZE = 64
_SEEN, _SCENES, _FEWEST_SEEN = 64_000, 20_000, 25_000
"""Pictures that training sees if the data have ``_SCENES`` pictures, and the fewest it sees."""


@dataclass(frozen=True)
class Suggestion:
    """Settings of a denoiser and its training.

    Attributes:
        params: Largest number of trainable parameters.
        depth: Number of hidden layers; the family's own when None.
        steps: Largest number of optimiser steps.
        batch_size: Rows per step.
        learning_rate: Peak learning rate.
        patience: Fraction of the steps without a better held-out loss after which training stops;
            None where no row is held out.
        heldout_rows: Number of rows to hold out of training.
    """

    params: int
    depth: int | None
    steps: int
    batch_size: int
    learning_rate: float
    patience: float | None
    heldout_rows: int


def num_held_out(num_rows: int) -> int:
    """Number of rows to hold out of training, so that it can stop early.

    A tenth, at most 5,000; of few rows up to a fifth, since the loss on ten rows is luck.
    """
    if num_rows < _FEWEST_ROWS:
        return 0
    return min(max(num_rows // 10, min(num_rows // 5, _ENOUGH_HELD_OUT)), _MOST_HELD_OUT)


def suggested(
    num_rows: int, dim: int, family: str = "kan", params: int | None = None
) -> Suggestion:
    """Suggests settings for a table.

    Args:
        num_rows: Number n of rows, those that will be held out included.
        dim: Number d of coordinates of an encoded row.
        family: Name of the family of denoisers.
        params: Number of parameters if it is given; the learning rate follows from it.

    Raises:
        KanDiffusionError: The family is not known, or a number is below 1.
    """
    if min(num_rows, dim) < 1:
        raise KanDiffusionError(
            f"a table has at least one row and one coordinate, not {num_rows:,} and {dim:,}"
        )
    if params is not None and params < 1:
        raise KanDiffusionError(f"params must be at least 1, not {params:,}")
    if params is None:
        params = min(round(_FACTOR * (num_rows * dim) ** 0.5), _MOST)
    kind = get_family(family)
    shallow = kind.kind == "kan" and num_rows < _FEW_ROWS
    heldout = num_held_out(num_rows)
    return Suggestion(
        params=params,
        depth=min(kind.depth, _SHALLOW) if shallow else None,
        steps=3000 if num_rows < _FEW_ROWS else 4000 if num_rows < 50_000 else 6000,
        batch_size=128 if num_rows < 1_000 else 256,
        learning_rate=kind.learning_rate * min(1.0, (_TUNED_AT / params) ** 0.25),
        patience=0.4 if heldout else None,
        heldout_rows=heldout,
    )


@dataclass(frozen=True)
class PictureSuggestion:
    """Settings of a denoiser of pictures, its training and its sampling.

    Attributes:
        params: Number of trainable parameters, without those of a text encoder.
        settings: Settings of the denoiser.
        training: How to train it by flow matching.
        guidance: Strength of classifier-free guidance.
        scheduler: Sampler of flow matching, which evaluates the network once per step.
    """

    params: int
    settings: dict[str, Setting]
    training: TrainingConfig
    guidance: float
    scheduler: str = "flow-euler"


def suggested_for_pictures(num: int, side: int, has_classes: bool = False) -> PictureSuggestion:
    """Suggests settings for pictures.

    Args:
        num: Number N of training pictures.
        side: Pixels of a side.
        has_classes: Whether they have classes, which need less guidance than prompts that compose.
    """
    divisors = [each for each in range(2, side // 2 + 1) if side % each == 0]
    patch = next((each for each in divisors if side // each <= _MOST_TOKENS), 1)
    tokens = (side // patch) ** 2
    channels, pixels = [_CHANNELS], side
    while pixels % 2 == 0 and (pixels > _MOST_TOKENS or pixels == side):
        channels.append(2 * _CHANNELS)
        pixels //= 2
    seen = max(_FEWEST_SEEN, _SEEN * (num / _SCENES) ** 0.5)
    return PictureSuggestion(
        params=250_000 if tokens <= _FEW_TOKENS else 320_000 + 110_000 * max(len(channels) - 2, 0),
        settings={"patch": patch, "channels": tuple(channels), "pooled": True},
        training=TrainingConfig(
            steps=int(round(seen / _BATCH_SIZE, -2)),
            batch_size=_BATCH_SIZE,
            timesteps="logit-normal",
            optimizer="muon",
            learning_rate=1e-2,
            warmup_steps=50,
            ema_decay=0.998,
        ),
        guidance=2.0 if has_classes else 4.0,
    )
