from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import sympy
import torch

from helpers import seeded
from kan_diffusion.data import GaussianMixture
from kan_diffusion.data.datasets import Dataset
from kan_diffusion.data.scaling import Standardizer
from kan_diffusion.denoisers.readable import ReadableDenoiser
from kan_diffusion.processes import Process, get_process
from kan_diffusion.symbolic import levels as over_levels
from kan_diffusion.symbolic.context import Context, make_context
from kan_diffusion.symbolic.levels import LevelForm, formula_over_levels, reading_levels
from networks import network

RHO = 0.8
DENSITY = GaussianMixture(torch.zeros(1, 2), covariances=torch.tensor([[[1, RHO], [RHO, 1]]]))
TYPES = ("epsilon", "v_prediction", "sample")


def _process(prediction_type: str) -> Process:
    return get_process("cosine").model_copy(
        update={"prediction_type": prediction_type, "num_timesteps": 200}
    )


def _exact_score(alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of the own and of the other coordinate in the score."""
    below = 1 - RHO**2 * alpha**4
    return -1 / below, RHO * alpha**2 / below


def _network(process: Process) -> ReadableDenoiser:
    """The exact prediction, as nearly as the features of the timestep let it be.

    Along x0 + x1 and x0 - x1 the coordinates do not see each other: two modulated lines.
    """
    line = ("linear", True)
    edges = [[(i, o, *line) for i in range(2) for o in range(2)]] * 2
    time = {"time_encoding": "fourier", "num_time_frequencies": 6}
    denoiser = network(edges, [2], num_train_timesteps=200, modulated=True, **time)
    alpha, sigma = process.levels()
    variances = [alpha**2 * (1 + sign * RHO) + sigma**2 for sign in (1, -1)]
    noise = torch.stack([sigma / variance for variance in variances], -1)
    alpha, sigma = alpha[:, None], sigma[:, None]
    wanted = {
        "epsilon": noise,
        "v_prediction": (noise - sigma) / alpha,
        "sample": (1 - sigma * noise) / alpha,
    }[process.prediction_type]
    time = denoiser.time_features(torch.arange(200), torch.float64)
    columns = torch.cat([time, torch.ones(200, 1, dtype=torch.float64)], -1)
    solution = torch.linalg.lstsq(columns, wanted - 1).solution
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.zero_()
        signs = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
        denoiser.layers[0].slope.copy_(signs / 2)
        denoiser.layers[1].slope.copy_(signs)
        denoiser.modulation.weight[:2] = solution[:-1].T
        denoiser.modulation.bias[:2] = solution[-1]
    return denoiser


def _context(process: Process, density: GaussianMixture = DENSITY, num: int = 50_000) -> Context:
    columns = ("x", "y")[: density.dim]
    unit = Standardizer((0.0,) * density.dim, (1.0,) * density.dim)
    points = density.sample(num, seeded()).float()
    return make_context(Dataset("points", columns, unit, points, density), process, 0)


@pytest.mark.parametrize("prediction_type", TYPES)
def test_the_score_of_a_gaussian_is_found_at_all_levels(
    prediction_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(over_levels, "_BATCHES", 3)
    process = _process(prediction_type)
    denoiser, context = _network(process), _context(process)
    assert context.scores(denoiser).excess < 2e-3
    lines: list[str] = []
    made = formula_over_levels(
        denoiser, context, tolerance=5e-3, on_progress=lambda line, _: lines.append(line)
    )
    assert made is not None
    assert len(lines) == 3
    alpha = np.linspace(0.05, 0.99, 30)
    own, other = _exact_score(alpha)
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


def test_a_formula_may_have_no_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of standard normal data the score is -x at every level: there is nothing to take away."""
    monkeypatch.setattr(over_levels, "_BATCHES", 3)
    normal = GaussianMixture(torch.zeros(1, 1), covariances=torch.ones(1, 1, 1))
    context = _context(_process("epsilon"), normal, 20_000)
    edges = [[(0, 0, "linear", False)]] * 2
    denoiser = network(edges, [1], data_dim=1, num_train_timesteps=200, modulated=True)
    made = formula_over_levels(denoiser, context, tolerance=100.0)
    assert made is not None
    assert [str(expression) for expression in made.expressions()] == ["-x0"]


def test_no_formula_is_better_than_a_bad_one() -> None:
    process = _process("v_prediction")
    context, denoiser = _context(process), _network(process)
    # Curves cannot be written down.
    curved = denoiser.with_edges(
        [dataclasses.replace(e, kind="curve", has_slope=False) for e in denoiser.edges]
    )
    assert formula_over_levels(curved, context, tolerance=1e9) is None


def test_forms_are_their_expressions() -> None:
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


@pytest.mark.parametrize("num_timesteps", [2, 30, 1000])
def test_levels_to_read_are_timesteps_away_from_either_end(num_timesteps: int) -> None:
    process = get_process("cosine").model_copy(update={"num_timesteps": num_timesteps})
    levels = reading_levels(process)
    assert np.array_equal(levels, np.unique(levels))
    assert levels.min() >= 0
    assert levels.max() <= num_timesteps - 1
    if num_timesteps == 1000:
        assert len(levels) == 64
        alpha = process.levels()[0].numpy()[levels]
        assert alpha.min() > 0.02
        assert alpha.max() > 0.99
