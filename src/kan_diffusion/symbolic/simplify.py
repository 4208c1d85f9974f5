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

import torch

from kan_diffusion.denoisers.edges import CURVE, Edge
from kan_diffusion.denoisers.library import LIBRARY, LINEAR
from kan_diffusion.denoisers.readable import ReadableDenoiser
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.symbolic.context import Context, Importance, Progress
from kan_diffusion.symbolic.match import match_curve

__all__ = ["drop_idle", "prune", "prune_in_rounds", "straighten"]

_ONLY_LINES = {LINEAR: LIBRARY[LINEAR]}


@torch.no_grad()
def prune(denoiser: ReadableDenoiser, context: Context, threshold: float) -> ReadableDenoiser:
    """Takes away the edges whose attribution is below a threshold.

    Args:
        denoiser: The network, which is left as it is.
        context: Data, process and judge of the network.
        threshold: Smallest attribution that stays; the edges into one output of the network have
            about 1 together.

    Returns:
        The pruned network, not trained on.

    Raises:
        KanDiffusionError: No edge would be left on the way to some output.
    """
    importance = context.importance(denoiser)
    kept = [edge for edge in denoiser.edges if importance.share(edge) >= threshold]
    if not _reaches_all_outputs(denoiser, kept):
        raise KanDiffusionError(
            f"with a threshold of {threshold:g} no edge is left on the way to some output; prune "
            "with a lower one"
        )
    return _with_constants(denoiser, importance, kept).compact()


def _reaches_all_outputs(denoiser: ReadableDenoiser, kept: list[Edge]) -> bool:
    """Tells whether edges lead from some input to every output."""
    reached = set(range(len(denoiser.input_index)))
    for layer in range(len(denoiser.layers)):
        reached = {e.output for e in kept if e.layer == layer and e.input in reached}
    return len(reached) == denoiser.data_dim


@torch.no_grad()
def _with_constants(
    denoiser: ReadableDenoiser, importance: Importance, kept: list[Edge]
) -> ReadableDenoiser:
    """Keeps some of the edges; the mean of each other one joins the bias of its output."""
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
) -> ReadableDenoiser:
    """Prunes and fine-tunes until no edge falls below the threshold any more.

    Args:
        denoiser: The network, which is left as it is.
        context: Data, process and judge of the network.
        threshold: Smallest attribution that stays.
        rounds: Largest number of rounds.
        steps: Steps of fine-tuning after each round.
        learning_rate: Peak learning rate of the fine-tuning.
        on_progress: Told of every round.

    Returns:
        The pruned and fine-tuned network.

    Raises:
        KanDiffusionError: No edge would be left on the way to some output.
    """
    left = denoiser
    for number in range(rounds):
        before = len(left.edges)
        left = prune(left, context, threshold)
        context.tune(left, steps, learning_rate)
        if on_progress is not None:
            what = f"round {number + 1}: {before} edges to {len(left.edges)}"
            on_progress(what, (number + 1) / rounds)
        if len(left.edges) == before:
            break
    return left


class _Attempts:
    """Changes of a network, each of which stays if the loss stays below a limit.

    Attributes:
        current: The network with the changes that stayed.
    """

    def __init__(
        self,
        denoiser: ReadableDenoiser,
        context: Context,
        tolerance: float,
        learning_rate: float,
        on_progress: Progress | None,
    ) -> None:
        self.current = denoiser
        self._context = context
        self._limit = context.loss(denoiser) + tolerance
        self._learning_rate = learning_rate
        self._tell = on_progress or (lambda what, done: None)

    def make(self, changed: ReadableDenoiser | None, steps: int) -> bool:
        """Trains a changed network on, keeps it if its loss allows it, and tells which."""
        if changed is None:
            return False
        good = self._context.tuned_loss(changed, steps, self._learning_rate) <= self._limit
        if good:
            self.current = changed
        return good

    def tell(self, what: str, outcome: str, done: float) -> None:
        """Tells the outcome of an attempt and the share of the work that is done."""
        self._tell(f"{what}: {outcome}", done)


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
        context: Data, process and judge of the network.
        tolerance: Largest rise of the loss in all.
        steps: Steps of fine-tuning for each curve.
        learning_rate: Peak learning rate of the fine-tuning.
        on_progress: Told of every layer and curve.

    Returns:
        The network with lines; it may be the one that was given.
    """
    attempts = _Attempts(denoiser, context, tolerance, learning_rate, on_progress)
    count, total = len(denoiser.layers), len(denoiser.edges)
    for layer in dict.fromkeys([count - 1, 0, *range(1, count - 1)]):
        curves = [e for e in attempts.current.edges if e.layer == layer and e.kind == CURVE]
        if len(curves) > 1:
            good = attempts.make(_with_lines(attempts.current, context, curves), 4 * steps)
            attempts.tell(f"layer {layer}", "straight" if good else "stays curved", 0.0)
    refused: set[tuple[int, int, int]] = set()
    while curves := [
        e for e in attempts.current.edges if e.kind == CURVE and e.place not in refused
    ]:
        importance = context.importance(attempts.current)
        effects = {edge: _effect_of_line(importance, edge) for edge in curves}
        edge = min(effects, key=effects.__getitem__)
        name = " to ".join(attempts.current.edge_names()[edge.place])
        good = attempts.make(_with_lines(attempts.current, context, [edge]), steps)
        attempts.tell(
            f"edge {name}", "straight" if good else "stays curved", 1 - (len(curves) - 1) / total
        )
        if not good:
            refused.add(edge.place)
    return attempts.current


def _effect_of_line(importance: Importance, edge: Edge) -> float:
    """Estimates how much of the outputs a line in the place of a curve would change."""
    matches = match_curve(*importance.samples(edge), _ONLY_LINES)
    unexplained = 1 - matches[0].r2 if matches else 0.0
    return importance.share(edge) * unexplained**0.5


def _with_lines(
    denoiser: ReadableDenoiser, context: Context, edges: list[Edge]
) -> ReadableDenoiser:
    """Puts the best straight line in the place of some curves."""
    importance = context.importance(denoiser)
    lines = {edge.place: Edge(*edge.place, LINEAR, True) for edge in edges}
    changed = denoiser.with_edges([lines.get(edge.place, edge) for edge in denoiser.edges])
    for edge in edges:
        x, y = importance.samples(edge)
        matches = match_curve(x, y, _ONLY_LINES)
        for match in matches:
            changed.set_match(lines[edge.place], match)
        if not matches:  # the curve is a constant
            changed.layers[edge.layer].bias.data[edge.output] += float(y.mean())
    return changed


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
        context: Data, process and judge of the network.
        tolerance: Largest rise of the loss in all.
        steps: Steps of fine-tuning for each edge.
        learning_rate: Peak learning rate of the fine-tuning.
        on_progress: Told of every edge.

    Returns:
        The smaller network; it may be the one that was given.
    """
    attempts = _Attempts(denoiser, context, tolerance, learning_rate, on_progress)
    refused: set[tuple[int, int, int]] = set()
    while asked := [e for e in attempts.current.edges if e.place not in refused]:
        current = attempts.current
        importance = context.importance(current)
        edge = min(asked, key=importance.share)
        kept = [e for e in current.edges if e.place != edge.place]
        changed = None
        if _reaches_all_outputs(current, kept):
            changed = _with_constants(current, importance, kept)
        refused.add(edge.place)
        good = attempts.make(changed, steps)
        if good:
            attempts.current = attempts.current.compact()
            refused.clear()  # units have other numbers, and others may be idle now
        attempts.tell(
            f"edge {' to '.join(current.edge_names()[edge.place])}",
            "dropped" if good else "stays",
            len(refused) / len(attempts.current.edges),
        )
    return attempts.current
