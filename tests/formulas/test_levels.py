import itertools
import time

import numpy as np
import pytest
import sympy
import torch

from gaussian_levels import (
    PROCESS,
    RHO,
    context_of,
    exact_network,
    exact_score,
    formula,
    noised,
)
from kan_diffusion.data.densities import GaussianMixture
from kan_diffusion.formulas.levels import formula_over_levels
from kan_diffusion.formulas.levels.forms import LevelForm
from kan_diffusion.formulas.levels.search import best_forms
from networks import network


def test_the_score_of_a_gaussian_is_found_at_all_levels():
    denoiser, context = exact_network(), context_of()
    assert context.scores(denoiser).excess < 2e-3
    lines = []
    context.on_progress = lambda *what: lines.append(what)
    made, is_complete = formula_over_levels(denoiser, context, 5e-3)
    assert made is not None
    assert is_complete
    assert len(lines) == 3
    alpha = np.linspace(0.05, 0.99, 30)
    own, other = exact_score(alpha)
    points = torch.eye(2, dtype=torch.float64)
    for a, expected_own, expected_other in zip(alpha, own, other, strict=True):
        levels = torch.tensor([a]), torch.tensor([(1 - a**2) ** 0.5])
        with torch.no_grad():
            score = made.score(points, *levels).numpy()
        expected = np.array([[expected_own, expected_other], [expected_other, expected_own]])
        np.testing.assert_allclose(score, expected, atol=0.02 * np.abs(expected).max())
    # And by its constants: the correlation, and its square with alpha to the fourth.
    sizes = np.abs(made.constants.detach().numpy())
    for expected in (RHO, RHO**2):
        assert np.abs(sizes / expected - 1).min() < 0.02
    assert context.scores(made).excess < context.scores(denoiser).excess + 1e-3


def test_a_formula_may_have_no_constants():
    """Of standard normal data the score is -x at every level: there is nothing to take away."""
    normal = GaussianMixture(torch.zeros(1, 1), covariances=torch.ones(1, 1, 1))
    process = PROCESS.model_copy(update={"prediction_type": "epsilon"})
    context = context_of(normal, 4_000, process)
    edges = [[(0, 0, "linear", False)]] * 2
    denoiser = network(edges, [1], data_dim=1, num_train_timesteps=200, modulated=True)
    made, _ = formula_over_levels(denoiser, context, 100.0)
    assert made is not None
    assert [str(expression) for expression in made.expressions()] == ["-x0"]


def test_a_variance_is_found_and_an_offset_is_not_and_out_of_time_nothing_changes():
    first, halves = formula(0.5, 0.3), (noised(0, 0.5), noised(1, 0.5))
    given = best_forms(first, halves, PROCESS, time.monotonic())
    assert given.forms == first.forms
    found = best_forms(first, halves, PROCESS, time.monotonic() + 60)
    assert [slot.role for slot in found.forms] == ["diagonal outside"]
    assert found.constants == pytest.approx([-0.5], abs=0.05)


def test_no_formula_is_better_than_a_bad_one():
    context, denoiser = context_of(num=4_000), exact_network()
    # Curves cannot be written down.
    curved = denoiser.with_edges(
        [e._replace(kind="curve", has_slope=False) for e in denoiser.edges]
    )
    assert formula_over_levels(curved, context, 1e9) == (None, True)


def test_forms_are_their_expressions():
    symbol = sympy.Symbol("alpha", real=True)
    alpha = np.linspace(0.05, 1, 20)
    powers = [(False, 0), (False, 1), (False, 3), (True, 0)]
    for (own, power), numerator, below in itertools.product(
        powers, (False, True), ((), (2,), (4,), (2, 4))
    ):
        form = LevelForm(own, power, numerator, below)
        numbers = np.array([0.7, -0.3, 0.4, 0.2])[: form.size]
        assert form.size == (not own) + numerator + len(below)
        expression = form.expression(symbol, [sympy.Float(n) for n in numbers])
        expected = [float(expression.subs(symbol, a)) for a in alpha]
        np.testing.assert_allclose(form.values(alpha, numbers), expected, rtol=1e-9)
    c, n, b, e = 0.7, -0.3, 0.4, 0.2
    by_hand = c * alpha**3 * (1 + n * alpha**2) / (1 + b * alpha**2 + e * alpha**4)
    form = LevelForm(False, 3, True, (2, 4))
    np.testing.assert_allclose(form.values(alpha, np.array([c, n, b, e])), by_hand)
    # A point's own coordinate: -x where all signal is gone, and other terms vanish there.
    assert LevelForm(True, 0, True, (2, 4)).values(np.zeros(1), np.array([n, b, e])) == -1
    assert LevelForm(False, 1, False, (2,)).values(np.zeros(1), np.array([c, b])) == 0
