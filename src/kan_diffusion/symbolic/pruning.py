r"""Fewer and simpler edges: pruning by importance, and straight lines where those will do.

*Pruning* takes away every edge whose attribution (:mod:`kan_diffusion.kan.importance`) is below a
threshold, once and for all or in rounds with fine-tuning between them; what an edge gave on average
stays as a constant, and units that nothing enters or leaves disappear.

*Straightening* asks of each curve, the straightest first, whether the network can do with a line in
its place. A network has many ways to write one function; this one settles on a simple way, before
any formula is looked for: it is part of simplifying, with the loss as its judge, and not a claim
about the curve that was there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kan_diffusion.errors import KanDiffusionError, NonFiniteLossError
from kan_diffusion.symbolic.context import Context
from kan_diffusion.symbolic.library import LIBRARY, LINEAR
from kan_diffusion.symbolic.matching import match_curve
from kan_diffusion.symbolic.readable import CURVE, Edge, ReadableDenoiser

__all__ = ["Pruning", "prune", "prune_in_rounds", "straighten"]

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Pruning:
    """What pruning did.

    Attributes:
        denoiser: What is left.
        edges_before: Number of edges before.
        edges_after: Number of edges left.
        loss_before: Loss before.
        loss_after: Loss of what is left.
    """

    denoiser: ReadableDenoiser
    edges_before: int
    edges_after: int
    loss_before: float
    loss_after: float


@torch.no_grad()
def prune(denoiser: ReadableDenoiser, context: Context, threshold: float) -> Pruning:
    """Takes away the edges whose attribution is below a threshold.

    Args:
        denoiser: The network, which is left as it is.
        context: Where edges are judged.
        threshold: Smallest attribution that stays; the edges into one output of the network have
            about 1 together.

    Returns:
        The pruned network, not trained on, with the change of its loss.

    Raises:
        KanDiffusionError: No edge would be left on the way to some output.
    """
    importance = context.importance(denoiser)
    kept = [
        edge
        for edge in denoiser.edges
        if float(importance.attribution.edges[edge.layer][edge.output, edge.input]) >= threshold
    ]
    fed = {edge.output for edge in kept if edge.layer == len(denoiser.layers) - 1}
    if len(fed) < denoiser.data_dim:
        raise KanDiffusionError(
            f"with a threshold of {threshold:g} no edge is left to an output; prune with a lower "
            "one"
        )
    left = denoiser.with_edges(kept)
    places = {edge.place for edge in kept}
    for edge in denoiser.edges:
        if edge.place not in places:
            constant = importance.outputs[edge.layer][:, edge.output, edge.input].mean()
            left.layers[edge.layer].bias[edge.output] += constant
    left = left.compact()
    return Pruning(
        left,
        len(denoiser.edges),
        len(left.edges),
        context.loss(denoiser),
        context.loss(left),
    )


def prune_in_rounds(
    denoiser: ReadableDenoiser,
    context: Context,
    threshold: float,
    *,
    rounds: int = 3,
    steps: int = 400,
    learning_rate: float = 5e-3,
    on_progress: Progress | None = None,
) -> Pruning:
    """Prunes and fine-tunes until no edge falls below the threshold any more.

    Args:
        denoiser: The network, which is left as it is.
        context: Where edges are judged.
        threshold: Smallest attribution that stays.
        rounds: Most rounds.
        steps: Steps of fine-tuning a round.
        learning_rate: Its peak learning rate.
        on_progress: Told a line a round.

    Returns:
        The pruned and fine-tuned network.
    """
    before, edges_before = context.loss(denoiser), len(denoiser.edges)
    left = denoiser
    for number in range(rounds):
        pruned = prune(left, context, threshold)
        left = pruned.denoiser
        context.tune(left, steps, learning_rate)
        if on_progress is not None:
            on_progress(
                f"pruning round {number + 1}: {pruned.edges_before} edges to {pruned.edges_after}"
            )
        if pruned.edges_after == pruned.edges_before:
            break
    return Pruning(left, edges_before, len(left.edges), before, context.loss(left))


def _bend(samples: tuple[Tensor, Tensor]) -> float:
    """Share of a curve's variance that a straight line leaves."""
    x, y = samples
    matches = match_curve(x.numpy(), y.numpy(), {LINEAR: LIBRARY[LINEAR]})
    return 1 - matches[0].r2 if matches else 0.0


def straighten(
    denoiser: ReadableDenoiser,
    context: Context,
    *,
    tolerance: float,
    steps: int = 300,
    learning_rate: float = 5e-3,
    on_progress: Progress | None = None,
) -> ReadableDenoiser:
    """Puts straight lines in the place of curves, as long as the loss stays.

    Args:
        denoiser: The network, which is left as it is.
        context: Where edges are judged.
        tolerance: By how much the loss may rise in all.
        steps: Steps of fine-tuning a curve.
        learning_rate: Its peak learning rate.
        on_progress: Told a line a curve.

    Returns:
        The network with lines; it may be the one that was given.
    """
    limit = context.loss(denoiser) + tolerance
    current = denoiser
    refused: set[tuple[int, int, int]] = set()
    while True:
        importance = context.importance(current)
        bends = {}
        for edge in current.edges:
            if edge.kind == CURVE and edge.place not in refused:
                samples = (
                    importance.inputs[edge.layer][:, edge.input].double(),
                    importance.outputs[edge.layer][:, edge.output, edge.input].double(),
                )
                weight = float(importance.attribution.edges[edge.layer][edge.output, edge.input])
                bends[edge] = (weight * _bend(samples) ** 0.5, samples)
        if not bends:
            return current
        edge = min(bends, key=lambda e: bends[e][0])
        trial = _with_line(current, edge, bends[edge][1])
        try:
            context.tune(trial, steps, learning_rate)
            loss = context.loss(trial)
        except NonFiniteLossError:
            loss = float("inf")
        if loss <= limit:
            current = trial
        else:
            refused.add(edge.place)
        if on_progress is not None:
            verdict = "straight" if loss <= limit else "stays curved"
            on_progress(f"edge {edge.layer}:{edge.input}-{edge.output} {verdict}")


def _with_line(
    denoiser: ReadableDenoiser, edge: Edge, samples: tuple[Tensor, Tensor]
) -> ReadableDenoiser:
    line = Edge(*edge.place, LINEAR, True)
    trial = denoiser.with_edges([line if e.place == edge.place else e for e in denoiser.edges])
    matches = match_curve(samples[0].numpy(), samples[1].numpy(), {LINEAR: LIBRARY[LINEAR]})
    if matches:
        trial.set_match(line, matches[0])
    return trial
