r"""One formula for all noise levels: the coefficients as functions of the signal level.

A network that is read at many levels gives, for each coefficient of its score, one number a level.
The search fits these numbers by a function of :math:`\alpha` (which also determines :math:`\sigma`)

.. math:: c\,\alpha^p\,\frac{1 + n \alpha^2}{1 + b \alpha^2 + e \alpha^4}

with p from 0 to 3, and with or without n, b and e. Where all signal is gone, the noised data are
N(0, I) whatever the clean data, so the score is exactly -x. Therefore the coefficient of a point's
own coordinate has c = -1 and p = 0, and all other terms have p >= 1 and vanish there. This keeps
the formula right where a sampler begins.

The search (:mod:`.search`) chooses a form (:mod:`.forms`) for each coefficient. Constants are
fitted to noised points with averaged targets of one half of the training points
(:mod:`.coordinate`), forms are judged on those of the other half, and the other way round. The
constants of the chosen forms are then fitted to all points. The formula is taken if its loss on
points that were not trained on is hardly above the network's.

Coefficients are rational in :math:`\alpha^2` only where :math:`\alpha^2 + \sigma^2 = 1`: for flow
matching there is no such search.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from kan_diffusion.denoisers.formula import SMALLEST_SIGNAL, FormulaDenoiser, formula_denoiser
from kan_diffusion.denoisers.readable import ReadableDenoiser
from kan_diffusion.formulas.averaged import AveragedPoints, draw_averaged
from kan_diffusion.formulas.combination import compose, score_of
from kan_diffusion.formulas.context import Context
from kan_diffusion.formulas.levels.coordinate import CoordinateFormula, first_formula
from kan_diffusion.formulas.levels.search import best_forms
from kan_diffusion.processes import Process
from kan_diffusion.randomness import torch_generator

if TYPE_CHECKING:
    import sympy

_NUM_LEVELS = 64
_SAMPLES = 256
_BATCHES, _SWEEPS = 8, 3
_BATCH = 16_384
"""Number of clean points in an average."""
_NOISED = 4096
"""Noised points from a batch; at little noise each has few clean ones near, so many are needed."""


def _draw(context: Context, clean: Tensor, purpose: str) -> AveragedPoints:
    usable = int((context.process.levels()[0] >= 10 * SMALLEST_SIGNAL).sum())
    return draw_averaged(
        clean,
        context.process,
        (1 if context.is_quick else _BATCHES) * min(_NOISED, len(clean)),
        torch_generator("points for a formula", context.seed, purpose),
        batch=_BATCH,
        num_noised=_NOISED,
        num_timesteps=usable,
    )


def formula_over_levels(
    denoiser: ReadableDenoiser, context: Context, tolerance: float
) -> tuple[FormulaDenoiser | None, bool]:
    """Looks for one formula that holds at all noise levels.

    Args:
        denoiser: A network with formulas in place of curves.
        context: Data, process and judge of the network; the process is none of flow matching. Its
            clock bounds the choice of forms.
        tolerance: Largest rise of the loss over the network's.

    Returns:
        The formula, None where no form that was tried keeps the loss, and whether the search came
        to its end in the time. There is none if a curve depends on the points, or there are fewer
        than two of these.
    """
    process, points = context.process, context.dataset.train
    shares = np.linspace(0.01, 0.98, _NUM_LEVELS)
    timesteps = np.unique((shares * (process.num_timesteps - 1)).round().astype(np.int64))
    alpha, sigma = (level.numpy()[timesteps] for level in process.levels())
    scores = score_of(compose(denoiser, timesteps), process, alpha, sigma)
    if len(points) < 2 or not all(score.is_complete for score in scores):
        return None, True
    # The change of the prediction for a unit change of the score.
    factor = sigma / np.abs(process.noise_coefficients(alpha, sigma)[0])
    clean, noise = context.draw.clean[:_SAMPLES].numpy(), context.draw.noise[-_SAMPLES:].numpy()
    x = alpha[:, None, None] * clean + sigma[:, None, None] * noise
    order = torch.randperm(len(points), generator=torch_generator("halves", context.seed))
    # Forms are not judged on the points that they were fitted to.
    of_one, of_other = order.chunk(2)
    halves = (
        _draw(context, points[of_one], "one half"),
        _draw(context, points[of_other], "the other half"),
    )
    final = _draw(context, points, "final")
    formulas, is_complete = [], True
    for coordinate, score in enumerate(scores):
        now = time.monotonic()
        until = now + (context.until - now) / (len(scores) - coordinate)
        formula = first_formula(coordinate, score, alpha, x, factor)
        sweeps = 1 if context.is_quick else _SWEEPS
        formula = best_forms(formula, halves, process, until, sweeps)
        is_complete &= time.monotonic() < until
        again = replace(formula, constants=formula.constants.copy())
        again.fit(final, process)
        formulas.append(again if again.is_regular else formula)
        what = f"coordinate x{coordinate}: a formula of {len(formula.constants)} constants"
        context.on_progress("levels", what, (coordinate + 1) / len(scores))
    joined = _joined(formulas, process)
    limit, loss = context.loss(denoiser) + tolerance, context.loss(joined)
    say = f"one formula for all levels: loss {loss:.5f}, at most {limit:.5f} is allowed"
    context.on_progress("levels", say, 1.0)
    return joined if loss <= limit else None, is_complete


def _joined(formulas: list[CoordinateFormula], process: Process) -> FormulaDenoiser:
    """Makes one denoiser of the formulas of all coordinates."""
    import sympy

    constants: dict[sympy.Symbol, float] = {}
    expressions = []
    for formula in formulas:
        numbers = range(len(constants), len(constants) + len(formula.constants))
        symbols = [sympy.Symbol(f"c{number}", real=True) for number in numbers]
        constants |= dict(zip(symbols, formula.constants.tolist(), strict=True))
        expressions.append(formula.expression(symbols))
    return formula_denoiser(expressions, constants, process)
