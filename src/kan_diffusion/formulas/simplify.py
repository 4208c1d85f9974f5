r"""Fewer and simpler edges: pruning by importance, and straight lines where these suffice.

*Pruning* removes every edge whose attribution (:mod:`kan_diffusion.kan.importance`) is below a
threshold, at once or in rounds with fine-tuning between them. The mean value of a removed edge
stays as a constant, and units without effect disappear.

*Straightening* tries a line in place of each curve, the straightest first, and keeps it if the loss
allows. A network has many ways to write one function; straightening settles on a simple one before
formulas are looked for. It is a simplification with the loss as its judge, and not a claim about
the curve that was there.
"""

from __future__ import annotations

from functools import partial

from kan_diffusion.denoisers.edges import CURVE, Edge
from kan_diffusion.denoisers.library import LIBRARY, LINEAR
from kan_diffusion.denoisers.readable import ReadableDenoiser
from kan_diffusion.formulas.context import Context, Importance, keep_edges
from kan_diffusion.formulas.match import Place, match_curve

_ONLY_LINES = {LINEAR: LIBRARY[LINEAR]}
_STEPS_A_LINE = 300
"""Steps of fine-tuning for each curve."""


def prune(
    denoiser: ReadableDenoiser, context: Context, threshold: float, rounds: int = 0
) -> ReadableDenoiser:
    """Removes the edges whose attribution is below a threshold.

    Args:
        denoiser: The network, which is left as it is.
        context: Data, process and judge of the network.
        threshold: Smallest attribution that stays; the attributions of the edges into one output
            of the network add up to about 1. It is halved until edges lead to every output.
        rounds: Largest number of rounds, each followed by fine-tuning; they end where no edge is
            below the threshold. 0 prunes once, without further training.
    """
    for number in range(1, max(rounds, 1) + 1):
        importance = context.importance(denoiser)
        smallest, kept = threshold, _of_share(denoiser, importance, threshold)
        while smallest and not _reaches_all_outputs(denoiser, kept):
            smallest /= 2
            kept = _of_share(denoiser, importance, smallest)
        before, denoiser = len(denoiser.edges), keep_edges(denoiser, importance, kept).compact()
        if rounds:
            context.tune(denoiser, 400, 5e-3)
            what = f"round {number}: {before} edges to {len(denoiser.edges)}"
            context.on_progress("pruning", what, number / rounds)
        if len(denoiser.edges) == before:
            break
    return denoiser


def _of_share(denoiser: ReadableDenoiser, importance: Importance, smallest: float) -> list[Edge]:
    return [edge for edge in denoiser.edges if importance.share(edge) >= smallest]


def _reaches_all_outputs(denoiser: ReadableDenoiser, kept: list[Edge]) -> bool:
    """Tells whether edges lead from some input to every output."""
    reached = set(range(denoiser.kan_layers[0].in_features))
    for layer in range(len(denoiser.kan_layers)):
        reached = {e.output for e in kept if e.layer == layer and e.input in reached}
    return len(reached) == denoiser.data_dim


def straighten(denoiser: ReadableDenoiser, context: Context, tolerance: float) -> ReadableDenoiser:
    """Replaces curves by straight lines where the loss stays within a tolerance.

    Whole layers are tried first, with four times the steps: the last, the first, then those between
    them. Single curves follow, the straightest first.

    Args:
        denoiser: The network, which is left as it is.
        context: Data, process and judge of the network, and how long it may take.
        tolerance: Largest total rise of the loss.

    Returns:
        The network with lines; it may be the one that was given.
    """
    current, limit = denoiser, context.loss(denoiser) + tolerance

    def turns_straight(edges: list[Edge], steps: int, name: str, done: float) -> bool:
        nonlocal current
        changed = _with_lines(current, context, edges)
        is_good = context.tuned_loss(changed, steps, 1e-2) <= limit
        current = changed if is_good else current
        context.on_progress("lines", f"{name}: {'straight' if is_good else 'stays curved'}", done)
        return is_good

    count, total = len(denoiser.kan_layers), len(denoiser.edges)
    for layer in dict.fromkeys([count - 1, 0, *range(1, count - 1)]):
        curves = [e for e in current.edges if e.layer == layer and e.kind == CURVE]
        if len(curves) > 1:
            turns_straight(curves, 4 * _STEPS_A_LINE, f"layer {layer}", 0.0)
    refused: set[Place] = set()
    while curves := [e for e in current.edges if e.kind == CURVE and e.place not in refused]:
        if context.is_over:
            break
        importance = context.importance(current)
        edge = min(curves, key=partial(_effect_of_line, importance))
        name = f"edge {' to '.join(current.edge_names()[edge.place])}"
        if not turns_straight([edge], _STEPS_A_LINE, name, 1 - (len(curves) - 1) / total):
            refused.add(edge.place)
    return current


def _effect_of_line(importance: Importance, edge: Edge) -> float:
    """Estimates how much a line in place of a curve would change the outputs."""
    matches = match_curve(*importance.samples(edge), _ONLY_LINES)
    unexplained = 1 - matches[0].r2 if matches else 0.0
    return importance.share(edge) * unexplained**0.5


def _with_lines(
    denoiser: ReadableDenoiser, context: Context, edges: list[Edge]
) -> ReadableDenoiser:
    importance = context.importance(denoiser)
    lines = {edge.place: Edge(*edge.place, LINEAR, True) for edge in edges}
    changed = denoiser.with_edges([lines.get(edge.place, edge) for edge in denoiser.edges])
    for edge in edges:
        x, y = importance.samples(edge)
        matches = match_curve(x, y, _ONLY_LINES)
        for match in matches:
            changed.set_match(lines[edge.place], match)
        if not matches:  # the curve is a constant
            changed.kan_layers[edge.layer].bias.data[edge.output] += float(y.mean())
    return changed


def drop_idle(denoiser: ReadableDenoiser, context: Context, tolerance: float) -> ReadableDenoiser:
    """Removes edges one by one, the least important first, where the loss stays within a tolerance.

    Args:
        denoiser: The network, which is left as it is.
        context: Data, process and judge of the network, and how long it may take.
        tolerance: Largest total rise of the loss.

    Returns:
        The smaller network; it may be the one that was given.
    """
    current, limit = denoiser, context.loss(denoiser) + tolerance
    asked: set[Place] = set()
    while edges := [edge for edge in current.edges if edge.place not in asked]:
        if context.is_over:
            break
        importance = context.importance(current)
        edge = min(edges, key=importance.share)
        name = " to ".join(current.edge_names()[edge.place])
        kept = [other for other in current.edges if other != edge]
        asked.add(edge.place)
        outcome = "stays"
        if _reaches_all_outputs(current, kept):
            changed = keep_edges(current, importance, kept)
            if context.tuned_loss(changed, 200, 5e-3) <= limit:
                current, outcome = changed.compact(), "dropped"
                asked.clear()  # units are renumbered, and other edges may be idle now
        context.on_progress("edges", f"edge {name}: {outcome}", len(asked) / len(current.edges))
    return current
