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

import numpy as np
import torch
from numpy.typing import NDArray

from kan_diffusion.denoisers.library import LIBRARY, LINEAR
from kan_diffusion.denoisers.readable import CURVE, Edge, ReadableDenoiser
from kan_diffusion.errors import KanDiffusionError, NonFiniteLossError
from kan_diffusion.symbolic.context import Context, Importance
from kan_diffusion.symbolic.matching import match_curve

__all__ = ["Pruning", "drop_idle", "edge_names", "prune", "prune_in_rounds", "straighten"]

Progress = Callable[[str], None]
Samples = NDArray[np.float64]

_ONLY_LINES = {LINEAR: LIBRARY[LINEAR]}


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
    if not _reaches_all_outputs(denoiser, kept):
        raise KanDiffusionError(
            f"with a threshold of {threshold:g} no edge is left on the way to some output; prune "
            "with a lower one"
        )
    left = _with_constants(denoiser, importance, kept).compact()
    return Pruning(
        left,
        len(denoiser.edges),
        len(left.edges),
        context.loss(denoiser),
        context.loss(left),
    )


def _reaches_all_outputs(denoiser: ReadableDenoiser, kept: list[Edge]) -> bool:
    """Whether edges lead from some input to every output."""
    reached = set(range(len(denoiser.input_index)))
    for layer in range(len(denoiser.layers)):
        reached = {e.output for e in kept if e.layer == layer and e.input in reached}
    return len(reached) == denoiser.data_dim


@torch.no_grad()
def _with_constants(
    denoiser: ReadableDenoiser, importance: Importance, kept: list[Edge]
) -> ReadableDenoiser:
    """The network with some of its edges; what the others gave on average stays in the biases."""
    left = denoiser.with_edges(kept)
    places = {edge.place for edge in kept}
    for edge in denoiser.edges:
        if edge.place not in places:
            constant = importance.outputs[edge.layer][:, edge.output, edge.input].mean()
            left.layers[edge.layer].bias[edge.output] += constant
    return left


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


def _bend(x: Samples, y: Samples) -> float:
    """Share of a curve's variance that a straight line leaves."""
    matches = match_curve(x, y, _ONLY_LINES)
    return 1 - matches[0].r2 if matches else 0.0


def straighten(
    denoiser: ReadableDenoiser,
    context: Context,
    *,
    tolerance: float,
    steps: int = 300,
    learning_rate: float = 1e-2,
    on_progress: Progress | None = None,
) -> ReadableDenoiser:
    """Puts straight lines in the place of curves, as long as the loss stays.

    Whole layers are tried first, the last one and the first one before those between them, with
    four times the steps; then one curve after another, the straightest first.

    Args:
        denoiser: The network, which is left as it is.
        context: Where edges are judged.
        tolerance: By how much the loss may rise in all.
        steps: Steps of fine-tuning a curve.
        learning_rate: Its peak learning rate.
        on_progress: Told a line a layer and a curve.

    Returns:
        The network with lines; it may be the one that was given.
    """
    limit = context.loss(denoiser) + tolerance
    current = denoiser

    def attempt(edges: list[Edge], steps: int, what: str) -> bool:
        nonlocal current
        trial = _with_lines(current, context, edges)
        try:
            context.tune(trial, steps, learning_rate)
            good = context.loss(trial) <= limit
        except NonFiniteLossError:
            good = False
        if good:
            current = trial
        if on_progress is not None:
            on_progress(f"{what}: {'straight' if good else 'stays curved'}")
        return good

    count = len(denoiser.layers)
    for layer in dict.fromkeys([count - 1, 0, *range(1, count - 1)]):
        curves = [edge for edge in current.edges if edge.layer == layer and edge.kind == CURVE]
        if len(curves) > 1:
            attempt(curves, 4 * steps, f"layer {layer}")
    refused: set[tuple[int, int, int]] = set()
    while True:
        curves = [e for e in current.edges if e.kind == CURVE and e.place not in refused]
        if not curves:
            return current
        importance = context.importance(current)

        def effect(edge: Edge, importance: Importance = importance) -> float:
            """How much of the outputs a line would change."""
            share = importance.attribution.edges[edge.layer][edge.output, edge.input]
            return float(share) * _bend(*importance.samples(edge)) ** 0.5

        edge = min(curves, key=effect)
        if not attempt([edge], steps, "edge " + " to ".join(edge_names(current)[edge.place])):
            refused.add(edge.place)


def _with_lines(
    denoiser: ReadableDenoiser, context: Context, edges: list[Edge]
) -> ReadableDenoiser:
    """The network with the best straight line in the place of some curves."""
    importance = context.importance(denoiser)
    lines = {edge.place: Edge(*edge.place, LINEAR, True) for edge in edges}
    trial = denoiser.with_edges([lines.get(edge.place, edge) for edge in denoiser.edges])
    for edge in edges:
        x, y = importance.samples(edge)
        matches = match_curve(x, y, _ONLY_LINES)
        for match in matches:
            trial.set_match(lines[edge.place], match)
        if not matches:  # it gives a constant
            trial.layers[edge.layer].bias.data[edge.output] += float(y.mean())
    return trial


def drop_idle(
    denoiser: ReadableDenoiser,
    context: Context,
    *,
    tolerance: float,
    steps: int = 200,
    learning_rate: float = 5e-3,
    on_progress: Progress | None = None,
) -> ReadableDenoiser:
    """Takes edges away one after another, the least important first, as long as the loss stays.

    Args:
        denoiser: The network, which is left as it is.
        context: Where edges are judged.
        tolerance: By how much the loss may rise in all.
        steps: Steps of fine-tuning an edge.
        learning_rate: Its peak learning rate.
        on_progress: Told a line an edge.

    Returns:
        The smaller network; it may be the one that was given.
    """
    limit = context.loss(denoiser) + tolerance
    current = denoiser
    refused: set[tuple[str, ...]] = set()
    while True:
        importance = context.importance(current)
        shares = importance.attribution.edges
        names = edge_names(current)
        asked = [e for e in current.edges if names[e.place] not in refused]
        if not asked:
            return current
        edge = min(asked, key=lambda e: float(shares[e.layer][e.output, e.input]))
        what = " to ".join(names[edge.place])
        refused.add(names[edge.place])
        kept = [e for e in current.edges if e.place != edge.place]
        good = False
        if _reaches_all_outputs(current, kept):
            left = _with_constants(current, importance, kept)
            try:
                context.tune(left, steps, learning_rate)
                good = context.loss(left) <= limit
            except NonFiniteLossError:
                good = False
        if good:
            current = left.compact()
            refused.clear()  # units have other numbers, and others may be idle now
        if on_progress is not None:
            on_progress(f"edge {what}: {'dropped' if good else 'stays'}")


def edge_names(denoiser: ReadableDenoiser) -> dict[tuple[int, int, int], tuple[str, str]]:
    """What each edge connects, in words."""
    units = denoiser.unit_names()
    return {
        edge.place: (units[edge.layer][edge.input], units[edge.layer + 1][edge.output])
        for edge in denoiser.edges
    }
