r"""Functions of a library for the curves of a network, chosen in context.

A curve is matched with a function f on samples as they occur. For given a and b the best c, s and d
of

.. math:: y \approx c\,f(a x + b) + s x + d

are a linear least-squares problem, so only a and b are searched: on a grid laid over the samples,
then by Levenberg-Marquardt from its best points (variable projection; Golub and Pereyra 1973). Half
of the samples are fitted; :math:`R^2` is computed on the other half, so more freedom alone does not
make a function better.

Matches below a held-out R² are refused, however well the network could adapt to them. The best few
of the others are tried: each takes the curve's place, the rest is fine-tuned for a short while, and
the loss of the whole denoiser decides. A curve stays a curve if every match makes the loss rise,
and the report says why.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import least_squares

from kan_diffusion.denoisers.edges import CURVE, Edge, Match
from kan_diffusion.denoisers.library import LIBRARY, LINEAR, EdgeFunction, Library
from kan_diffusion.denoisers.readable import ReadableDenoiser
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.formulas.context import Context, keep_edges

Array = NDArray[np.float64]
Place = tuple[int, int, int]
"""Layer, input and output of an edge."""

_GRID_SAMPLES = 400
_SCALES = np.geomspace(0.15, 12.0, 14)
_SHIFTS = np.linspace(-2.0, 2.0, 13)
_FAR_SHIFTS = np.array([-9.0, -6.0, -4.0, -3.0, -2.5, 2.5, 3.0, 4.0, 6.0, 9.0])
"""Shifts for functions without symmetry: the ends of log and sqrt may be far from all samples."""
_REFINED = 2
_HUGE = 1e100
"""Absolute values of a function from here on count as overflow."""
_LARGEST = 30.0
"""Largest c f in standard deviations of the curve: two large parts that cancel explain nothing."""
_PRICE = 5e-5
"""Loss that a step of complexity must save when tries are compared."""
_SAME = 3e-5
"""Difference of R² below which two matches of a curve count as one function."""


def _line(x: Array, has_slope: bool) -> Array:
    """Builds the columns of s and d."""
    return np.stack([x, np.ones_like(x)] if has_slope else [np.ones_like(x)], axis=-1)


def _columns(function: EdgeFunction, x: Array, a: float, b: float, has_slope: bool) -> Array:
    """Builds the columns of c, s and d."""
    with torch.no_grad():
        values = function.values(torch.from_numpy(a * x + b)).numpy()
    return np.c_[values, _line(x, has_slope)]


def _solve(columns: Array, y: Array) -> Array:
    return np.asarray(np.linalg.lstsq(columns, y, rcond=1e-10)[0], dtype=np.float64)


def _grid(function: EdgeFunction, x: Array, y: Array, has_slope: bool) -> list[tuple[float, float]]:
    """Searches a grid for the best pairs (a, b)."""
    centre, spread = float(x.mean()), float(x.std())
    scales = (_SCALES if function.parity else np.concatenate([_SCALES, -_SCALES])) / spread
    if function.scaleless:
        scales = np.ones(1)
    shifts = _SHIFTS if function.parity else np.concatenate([_SHIFTS, _FAR_SHIFTS])
    a = np.repeat(scales, len(shifts))
    b = -a * np.tile(centre + spread * shifts, len(scales))
    if function.shiftless:
        a, b = scales, np.zeros_like(scales)
    with torch.no_grad():
        z = torch.from_numpy(a[:, None] * x + b[:, None])
        values = function.values(z).numpy()
    usable = (np.abs(values) < _HUGE).all(1)
    a, b, values = a[usable], b[usable], values[usable]
    if len(a) == 0:
        return []
    # Project the other columns out of both sides: then one column is left to fit.
    q, _ = np.linalg.qr(_line(x, has_slope))
    rest = y - q @ (q.T @ y)
    values = values - (values @ q) @ q.T
    power = (values**2).sum(1)
    gain = np.where(power > 1e-9 * len(x), (values @ rest) ** 2 / np.maximum(power, 1e-300), 0)
    order = np.argsort(-gain)[:_REFINED]
    return [(float(a[k]), float(b[k])) for k in order]


def _refine(
    function: EdgeFunction, x: Array, y: Array, start: tuple[float, float], has_slope: bool
) -> tuple[float, float]:
    """Refines a pair (a, b) by Levenberg-Marquardt, where the function leaves a or b free."""
    scale = 1 / float(x.std())
    first = np.array([start[0] / scale, start[1]])
    free = np.array([not function.scaleless, not function.shiftless])

    def place(p: Array) -> tuple[float, float]:
        full = first.copy()
        full[free] = p
        return float(full[0] * scale), float(full[1])

    def residuals(p: Array) -> Array:
        columns = _columns(function, x, *place(p), has_slope)
        if not (np.abs(columns) < _HUGE).all():  # false for NaN, too
            return np.full_like(y, 1e6)
        answer: Array = columns @ _solve(columns, y) - y
        return answer

    try:
        return place(least_squares(residuals, first[free], method="lm", max_nfev=60).x)
    except (ValueError, np.linalg.LinAlgError):
        return start


def _r2(predicted: Array, y: Array) -> float:
    variance = float(((y - y.mean()) ** 2).mean())
    with np.errstate(over="ignore", invalid="ignore"):  # far from where the function was fitted
        return 1 - float(((y - predicted) ** 2).mean()) / max(variance, 1e-300)


def _match(
    function: EdgeFunction, fitted: tuple[Array, Array], judged: tuple[Array, Array], slope: bool
) -> Match | None:
    """Fits c f(a x + b) + s x + d; a line if f itself is linear."""
    x, y = fitted
    if function.name == LINEAR:
        s, d = (float(value) for value in _solve(_line(x, True), y))
        r2 = _r2(s * judged[0] + d, judged[1])
        line = Match(LINEAR, True, 1.0, 0.0, 0.0, s, d, r2, function.complexity)
        return line if math.isfinite(r2) else None
    few = slice(None, _GRID_SAMPLES)
    best: Match | None = None
    for start in _grid(function, x[few], y[few], slope):
        a, b = _refine(function, x[few], y[few], start, slope)
        columns = _columns(function, x, a, b, slope)
        if not (np.abs(columns) < _HUGE).all():
            continue
        solution = _solve(columns, y)
        if abs(solution[0]) * columns[:, 0].std() > _LARGEST * y.std():
            continue
        r2 = _r2(_columns(function, judged[0], a, b, slope) @ solution, judged[1])
        if math.isfinite(r2) and (best is None or r2 > best.r2):
            c, s, d = float(solution[0]), float(solution[1]) if slope else 0.0, float(solution[-1])
            complexity = function.complexity + int(slope)
            best = Match(function.name, slope, a, b, c, s, d, r2, complexity)
    return best


def match_curve(
    x: Sequence[float] | Array,
    y: Sequence[float] | Array,
    library: Library = LIBRARY,
) -> list[Match]:
    """Matches a curve with every function of a library, with and without a linear part.

    Args:
        x: Samples of the input as they occur, in random order, with shape (n,), n at least 8.
        y: The curve at them, with shape (n,).
        library: Functions to try.

    Returns:
        The matches, the lowest cost first; none where x or y does not vary.

    Raises:
        KanDiffusionError: There are too few samples, or some are not finite.
    """
    x = np.asarray(x, dtype=np.float64)
    y = np.asarray(y, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape or len(x) < 8:
        raise KanDiffusionError(
            f"a curve needs at least 8 samples of x and as many of y, not shapes {x.shape} and "
            f"{y.shape}"
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise KanDiffusionError("a curve to match has samples that are not finite; leave them out")
    half = len(x) // 2
    if x[:half][:_GRID_SAMPLES].std() < 1e-9 or y.std() < 1e-12:
        return []
    fitted, judged = (x[:half], y[:half]), (x[half:], y[half:])
    matches = [
        _match(function, fitted, judged, slope)
        for function in library.values()
        for slope in ((False,) if function.name == LINEAR else (False, True))
    ]
    return sorted((m for m in matches if m is not None), key=lambda match: match.cost)


@dataclass(frozen=True)
class ExplainOptions:
    """Settings of an explanation.

    Attributes:
        library: Functions to try.
        min_r2: Held-out R² below which a match is refused.
        tolerance: Largest rise of the loss by straight lines, and by all formulas of one search.
        candidates: Number of matches of a curve that are tried in the network.
        steps: Steps of fine-tuning for each try.
        prune: Attribution below which edges are removed; None leaves the network as it is, and no
            formulas are looked for.
        max_edges: Largest number of edges of a network that formulas are looked for in.
        seconds: Time budget of the whole search, from the first line to the last noise level; half
            of it for edges.
        tune_steps: Steps of training after each stage.
        num_samples: Number of points to generate from each stage and judge; 0 for none.
    """

    library: Library = field(default_factory=lambda: dict(LIBRARY))
    min_r2: float = 0.99
    tolerance: float = 1e-3
    candidates: int = 3
    steps: int = 300
    prune: float | None = 0.05
    max_edges: int = 64
    seconds: float = 600.0
    tune_steps: int = 1000
    num_samples: int = 5000


@dataclass(frozen=True)
class EdgeReport:
    """Outcome of the search for one edge.

    Attributes:
        source: Name of the input or unit it leaves.
        target: Name of the unit or output it enters.
        kind: ``"curve"``, ``"linear"`` or the function it is now.
        has_slope: Whether a function has a linear part.
        r2: Held-out R² of the match that was taken, or of the best one if none was; None for edges
            that were straight before.
        reason: Reason why it stays a curve; empty where it does not.
    """

    source: str
    target: str
    kind: str
    has_slope: bool
    r2: float | None
    reason: str


def find_formulas(
    denoiser: ReadableDenoiser,
    context: Context,
    options: ExplainOptions | None = None,
    before: Sequence[EdgeReport] = (),
) -> tuple[ReadableDenoiser, tuple[EdgeReport, ...]]:
    """Looks for a formula for every curve of a network.

    Args:
        denoiser: The network, which is left as it is.
        context: Data, process and judge of the network. Curves that are not reached in its time
            stay.
        options: Settings of the search; the defaults when None.
        before: Outcome of an earlier search, for edges that are formulas already.

    Returns:
        The network with formulas, and the outcome for each of its edges.
    """
    options = options or ExplainOptions()
    limit = context.loss(denoiser) + options.tolerance
    current, names = denoiser, denoiser.edge_names()
    earlier = {(edge.source, edge.target): edge.r2 for edge in before}
    notes: dict[Place, tuple[float | None, str]] = {}  # R² and reason, as in a report
    best_r2: dict[Place, float] = {}

    def matches_of(edge: Edge) -> list[Match]:
        return match_curve(*importance.samples(edge), options.library)

    while curves := [e for e in current.edges if e.kind == CURVE and e.place not in notes]:
        importance = context.importance(current)
        for edge in curves:
            if context.is_over:
                notes[edge.place] = (None, "not tried: the time budget was over")
            elif edge.place not in best_r2:
                best_r2[edge.place] = max((m.r2 for m in matches_of(edge)), default=1.0)
        curves = [edge for edge in curves if edge.place not in notes]
        if curves:
            # The easiest first: the curves that remain make up for what its match misses.
            edge = max(curves, key=lambda edge: best_r2[edge.place])
            current, r2, reason = _try(current, edge, matches_of(edge), context, options, limit)
            notes[edge.place] = r2, reason
            kind = next((e.kind for e in current.edges if e.place == edge.place), "constant")
            what = f"edge {' to '.join(names[edge.place])}: {reason or kind}"
            context.on_progress("formulas", what, 1 - (len(curves) - 1) / max(len(best_r2), 1))
    reports = []
    for edge in current.edges:
        ends = names[edge.place]
        r2, reason = notes.get(edge.place, (earlier.get(ends), ""))
        reports.append(EdgeReport(*ends, edge.kind, edge.has_slope, r2, reason))
    return current, tuple(reports)


def _distinct(matches: list[Match]) -> list[Match]:
    """Drops matches that are another way to write an earlier one, as sigmoid is for tanh."""
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
    options: ExplainOptions,
    limit: float,
) -> tuple[ReadableDenoiser, float | None, str]:
    """Replaces a curve by the best match, or leaves the network as it is."""
    if not matches:  # the curve is a constant
        others = [e for e in denoiser.edges if e.place != edge.place]
        return keep_edges(denoiser, context.importance(denoiser), others), None, ""
    good = _distinct([match for match in matches if match.r2 >= options.min_r2])
    good = good[: options.candidates]
    tries = []
    for match in good:
        formula = Edge(*edge.place, match.name, match.has_slope)
        made = denoiser.with_edges([formula if e == edge else e for e in denoiser.edges])
        made.set_match(formula, match)
        loss = context.tuned_loss(made, options.steps, 5e-3)
        tries.append((loss + _PRICE * match.complexity, loss, match, made))
    for _, loss, match, made in sorted(tries, key=lambda entry: entry[0]):
        if loss <= limit:
            return made, match.r2, ""
    best = max(good or matches, key=lambda match: match.r2)
    share = math.floor(1000 * best.r2) / 1000  # rounded up it might seem to be enough
    why = f"the best match, {best.name}, has R² {share:.3f}, below {options.min_r2:g}"
    if good:
        rise = f"the loss rises by more than {options.tolerance:g} in all"
        why = f"with the best match that was tried, {best.name}, {rise}"
    return denoiser, best.r2, f"stays a curve: {why}"
