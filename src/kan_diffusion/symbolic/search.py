"""Formulas for edges, chosen in context.

Each curve is matched with the functions of a library on samples as they occur. Matches below a
held-out R² are refused, whatever the network could make of them. Of the others the best few are
tried: put in the curve's place, the rest trained on for a little while, and judged by the loss of
the whole denoiser. A curve that no match replaces without the loss rising stays a curve, and the
report says why.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from kan_diffusion.denoisers.edges import Match
from kan_diffusion.denoisers.library import LIBRARY, LINEAR, Library
from kan_diffusion.denoisers.readable import CURVE, Edge, ReadableDenoiser
from kan_diffusion.errors import KanDiffusionError, NonFiniteLossError
from kan_diffusion.symbolic.context import Context, Importance
from kan_diffusion.symbolic.matching import match_curve
from kan_diffusion.symbolic.pruning import edge_names

__all__ = ["EdgeReport", "FormulaSearch", "SearchOptions", "find_formulas"]

_SAME = 3e-5
"""Difference of R² below which two matches of a curve count as one function."""


@dataclass(frozen=True)
class SearchOptions:
    """What formulas are looked for, and how.

    Attributes:
        library: Functions to try.
        min_r2: Held-out R² below which a match is refused.
        max_complexity: Highest complexity of a function; any when None.
        tolerance: By how much the loss may rise for all formulas together.
        candidates: How many matches of a curve are tried.
        steps: Steps of fine-tuning a try.
        learning_rate: Their peak learning rate.
        max_edges: More edges than these are not looked at.
        seconds: Time budget; the curves it does not reach stay as they are.
        price: Loss that one step of complexity is worth when tries are compared.
    """

    library: Library = field(default_factory=lambda: dict(LIBRARY))
    min_r2: float = 0.99
    max_complexity: int | None = None
    tolerance: float = 1e-3
    candidates: int = 3
    steps: int = 300
    learning_rate: float = 5e-3
    max_edges: int = 64
    seconds: float = 600.0
    price: float = 5e-5


@dataclass(frozen=True)
class EdgeReport:
    """What became of an edge.

    Attributes:
        source: The input or unit it leaves, in words.
        target: The unit or output it enters.
        kind: ``"curve"``, ``"linear"`` or the function it is now.
        has_slope: Whether a function has a linear part.
        r2: Held-out R² of the match that was taken, of the best one where none was; None for edges
            that were straight before.
        best: Name of the best match, where none was taken.
        reason: Why it stays a curve; empty where it does not.
        complexity: Of what it is now; 0 for a curve.
    """

    source: str
    target: str
    kind: str
    has_slope: bool
    r2: float | None
    best: str
    reason: str
    complexity: int


@dataclass(frozen=True)
class FormulaSearch:
    """What a search found.

    Attributes:
        denoiser: The network with formulas.
        edges: What became of each edge.
        loss_before: Loss of the network that was given.
        loss_after: Loss now.
    """

    denoiser: ReadableDenoiser
    edges: tuple[EdgeReport, ...]
    loss_before: float
    loss_after: float

    @property
    def num_curves(self) -> int:
        """How many edges stay curves."""
        return sum(edge.kind == CURVE for edge in self.edges)


def _replaced(denoiser: ReadableDenoiser, edge: Edge, match: Match) -> ReadableDenoiser:
    formula = Edge(*edge.place, match.name, match.has_slope)
    made = denoiser.with_edges([formula if e.place == edge.place else e for e in denoiser.edges])
    made.set_match(formula, match)
    return made


def find_formulas(
    denoiser: ReadableDenoiser,
    context: Context,
    options: SearchOptions | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> FormulaSearch:
    """Looks for a formula for every curve of a network.

    Args:
        denoiser: The network, which is left as it is.
        context: Where edges are judged.
        options: What to look for; the defaults when None.
        on_progress: Told a line an edge.

    Raises:
        KanDiffusionError: The network has too many edges.
    """
    options = SearchOptions() if options is None else options
    if len(denoiser.edges) > options.max_edges:
        raise KanDiffusionError(
            f"the network has {len(denoiser.edges)} edges, and formulas are looked for in at most "
            f"{options.max_edges}: prune it first (--prune 0.1 leaves fewer than 0.05; training "
            "with --sparsify 0.001 leaves fewer still) or raise --max-edges"
        )
    until = time.monotonic() + options.seconds
    before = context.loss(denoiser)
    limit = before + options.tolerance
    current = denoiser
    names = edge_names(denoiser)
    notes: dict[tuple[int, int, int], tuple[float | None, str, str]] = {}
    matched: dict[tuple[int, int, int], float] = {}
    while True:
        curves = [e for e in current.edges if e.kind == CURVE and e.place not in notes]
        if not curves:
            break
        importance = context.importance(current)

        def matches_of(edge: Edge, importance: Importance = importance) -> list[Match]:
            samples = importance.samples(edge)
            return match_curve(*samples, options.library, max_complexity=options.max_complexity)

        for edge in curves:
            if time.monotonic() > until:
                notes[edge.place] = None, "", f"the time budget of {options.seconds:g} s was over"
            elif edge.place not in matched:
                matched[edge.place] = max((m.r2 for m in matches_of(edge)), default=1.0)
        curves = [edge for edge in curves if edge.place not in notes]
        if not curves:
            continue
        # The easiest first: what they leave behind is what the others have to make up for.
        edge = max(curves, key=lambda edge: matched[edge.place])
        current, note = _try(current, edge, matches_of(edge), context, options, limit)
        notes[edge.place] = note
        if on_progress is not None:
            kind = next((e.kind for e in current.edges if e.place == edge.place), "constant")
            on_progress(f"edge {' to '.join(names[edge.place])}: {note[2] or kind}")
    reports = []
    for edge in current.edges:
        r2, best, reason = notes.get(edge.place, (None, "", ""))
        complexity = 0
        if edge.kind != CURVE:
            function = options.library.get(edge.kind, LIBRARY.get(edge.kind))
            complexity = 1 if function is None else function.complexity
            complexity += int(edge.has_slope and edge.kind != LINEAR)
        reports.append(
            EdgeReport(*names[edge.place], edge.kind, edge.has_slope, r2, best, reason, complexity)
        )
    return FormulaSearch(current, tuple(reports), before, context.loss(current))


def _distinct(matches: list[Match]) -> list[Match]:
    """Without those that are another way to write an earlier one, as sigmoid is of tanh."""
    kept: list[Match] = []
    for match in matches:
        same = (m for m in kept if m.complexity <= match.complexity)
        if not any(abs(m.r2 - match.r2) < _SAME for m in same):
            kept.append(match)
    return kept


def _try(
    denoiser: ReadableDenoiser,
    edge: Edge,
    matches: list[Match],
    context: Context,
    options: SearchOptions,
    limit: float,
) -> tuple[ReadableDenoiser, tuple[float | None, str, str]]:
    """The network with the best match in the place of a curve, or as it was; R², name, reason."""
    if not matches:
        # It gives a constant, and that is what is left of it.
        made = denoiser.with_edges([e for e in denoiser.edges if e.place != edge.place])
        samples = context.importance(denoiser).samples(edge)
        made.layers[edge.layer].bias.data[edge.output] += float(samples[1].mean())
        return made, (None, "", "")
    best = max(matches, key=lambda match: match.r2)
    good = _distinct([match for match in matches if match.r2 >= options.min_r2])
    good = good[: options.candidates]
    if not good:
        reason = (
            f"stays a curve: the best match, {best.name}, has R² {best.r2:.3f}, below "
            f"{options.min_r2:g}"
        )
        return denoiser, (best.r2, best.name, reason)
    tries: list[tuple[float, float, Match, ReadableDenoiser]] = []
    for match in good:
        made = _replaced(denoiser, edge, match)
        try:
            context.tune(made, options.steps, options.learning_rate)
        except NonFiniteLossError:
            continue
        loss = context.loss(made)
        tries.append((loss + options.price * match.complexity, loss, match, made))
    tries.sort(key=lambda entry: entry[0])
    for _, loss, match, made in tries:
        if loss <= limit:
            return made, (match.r2, "", "")
    reason = (
        f"stays a curve: with the best match, {best.name}, the loss rises by more than "
        f"{options.tolerance:g} in all"
    )
    return denoiser, (best.r2, best.name, reason)
