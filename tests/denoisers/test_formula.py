import json

import numpy as np
import pytest
import sympy
import torch

from helpers import refused, seeded
from kan_diffusion.data.densities import GaussianMixture
from kan_diffusion.denoisers.formula import FormulaDenoiser, formula_denoiser
from kan_diffusion.processes import get_process

X, Y, ALPHA = sympy.symbols("x0 x1 alpha", real=True)
RHO = sympy.Symbol("rho", real=True)
C = sympy.symbols("c0:3", real=True)
VALUES = dict(zip(C, (0.75, -1.25, 2.125), strict=True))
COSINE = get_process("cosine")


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_the_formula_of_a_gaussian_is_its_exact_denoiser_and_is_saved(prediction_type, tmp_path):
    process = COSINE.model_copy(update={"prediction_type": prediction_type})
    density = GaussianMixture([[0.0, 0.0]], covariances=[[[1.0, 0.8], [0.8, 1.0]]])
    # The score of N(0, [[1, rho], [rho, 1]]), noised: minus the inverse covariance times x.
    off = ALPHA**2 * RHO
    below = 1 - off**2  # alpha^2 + sigma^2 is 1
    score = [(off * Y - X) / below, (off * X - Y) / below]
    formula = formula_denoiser(score, {RHO: 0.8}, process)
    formula.save_pretrained(tmp_path)
    loaded = FormulaDenoiser.from_pretrained(tmp_path)
    assert (loaded.process, loaded.flops) == (process, formula.flops)
    assert loaded.expressions() == formula.expressions()
    points, steps = density.sample(50, seeded(2)), torch.arange(50) * 20
    alpha, sigma = (level[steps] for level in process.levels())
    mean = density.posterior_mean(points, alpha, sigma)
    expected = process.prediction_of_mean(mean, points, alpha, sigma)
    found = loaded.double()(points, steps).sample
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    # Between two timesteps the prediction hardly changes, and it does so steadily.
    low, middle, high = (formula(points, step).sample for step in (300, 300.5, 301))
    torch.testing.assert_close(middle, (low + high) / 2, atol=1e-4, rtol=1e-4)
    # Beyond the last timestep it is as there.
    far, last = (formula(points, step).sample for step in (1003.0, 999))
    assert torch.equal(far, last)


def test_at_pure_noise_flow_matching_predicts_as_one_step_before():
    x, alpha, sigma = (sympy.Symbol(name, real=True) for name in ("x0", "alpha", "sigma"))
    formula = formula_denoiser([-x / (alpha**2 + sigma**2)], {}, get_process("flow")).double()
    points = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    last, before = (formula(points, timestep).sample for timestep in (999, 998))
    torch.testing.assert_close(last, before, atol=5e-3, rtol=0)


def test_a_constant_score_is_one_of_every_point_and_operations_are_counted():
    formula = formula_denoiser([sympy.Integer(2), ALPHA], {}, get_process("ddpm"))
    alpha, sigma = formula.levels[:, 400]
    expected = torch.stack([-sigma * 2, -sigma * alpha]).float()
    torch.testing.assert_close(formula(torch.zeros(3, 2), 400).sample, expected.expand(3, 2))
    # A product of 3 (2), a sum of 3 (2), a power and a function (4 each).
    expression = C[0] * X * Y + sympy.tanh(X) + Y**3
    assert formula_denoiser([expression, X], {C[0]: 1.0}, COSINE).flops == 2 + 2 + 4 + 4


PLACES, LEVELS = np.random.default_rng(0).uniform([[-2], [0.1]], [[2], [1]], (2, 40))


def _evaluated(formula):
    x, alpha = torch.from_numpy(PLACES), torch.from_numpy(LEVELS)
    return formula.score(x.unsqueeze(1), alpha, torch.ones(1))[:, 0].detach().numpy()


def _by_sympy(expression):
    function = sympy.lambdify([X, ALPHA, *C], expression, modules=["scipy", "numpy"])
    return np.broadcast_to(function(PLACES, LEVELS, *VALUES.values()), 40)


EXPRESSIONS = [
    *(getattr(sympy, name)(X / 2) for name in ("Abs", "sign", "tan", "sinh", "cosh")),
    *(getattr(sympy, name)(X / 2) for name in ("acos", "asin", "atan", "erf")),
    C[0] * X + sympy.tanh(C[1] * X - C[2] * ALPHA**2) - sympy.exp(-X),
    sympy.Max(X, ALPHA, C[1]) * sympy.Min(X**3, 0.731) + sympy.Rational(1, 3),
    sympy.log(1 + (X - C[2]) ** 2) / (2 + sympy.cos(ALPHA * X) ** 2),
    (1 + X**2) ** sympy.tanh(sympy.sin(C[1] * X) - 1 / (1 + ALPHA)),
    sympy.sqrt(2 + sympy.sin(sympy.exp(-(X**2)))) * X * ALPHA * C[0] * -4,
]


def test_an_expression_is_evaluated_comes_back_and_has_gradients():
    for expression in EXPRESSIONS:
        formula = formula_denoiser([expression], VALUES, COSINE)
        formula.register_to_config(score=json.loads(json.dumps(formula.config.score)))
        expected = _by_sympy(expression)
        np.testing.assert_allclose(_evaluated(formula), expected, rtol=1e-9, atol=1e-9)
        (back,) = formula.expressions()
        assert back.free_symbols <= {X, ALPHA}
        np.testing.assert_allclose(_by_sympy(back), expected, rtol=1e-9, atol=1e-9)
    expression = C[0] * sympy.tanh(C[1] * X) / (1 + C[2] * ALPHA**2)
    formula = formula_denoiser([expression], VALUES, COSINE).double()
    x = torch.tensor([[0.3], [-0.8]], dtype=torch.float64, requires_grad=True)
    levels = torch.tensor([0.5, 0.9]), torch.ones(1)
    operands = x, formula.constants
    assert torch.autograd.gradcheck(lambda x, _: formula.score(x, *levels), operands)


def _nested(depth):
    tree = "x0"
    for _ in range(depth):
        tree = ["tanh", tree]
    return tree


DAMAGED = [
    ["__import__", "os"],
    ["tanh"],
    ["log", "x0", 2.0],
    [["symbol", "tanh"], "x0"],
    ["Pow", "x0"],
    float("nan"),
    ["constant", 3],
    ["constant", -1],
    ["constant", "0"],
    ["Mul", 2.0, "x2"],
    "__import__('os')",
    [],
    {"Add": ["x0", 1.0]},
    _nested(200),
    _nested(50_000),
]


def test_what_a_formula_cannot_have_is_refused_and_deep_ones_are_not():
    given = {"process": COSINE.model_dump(mode="json"), "num_constants": 3}
    for tree in DAMAGED:
        with refused("a formula cannot have .* it can have finite numbers, alpha, sigma, x0"):
            FormulaDenoiser(data_dim=1, score=[tree], **given)
    with refused("one expression for each of 2 coordinates, not 1"):
        FormulaDenoiser(data_dim=2, score=["x0"], **given)
    for expression, what in (
        (sympy.gamma(X), "'gamma'"),
        (sympy.Piecewise((X, X > 0), (0, True)), "'Piecewise'"),
        (sympy.I * X, "'I'"),
        (sympy.oo, "'oo'"),
        (sympy.nan, "'nan'"),
        (Y, "'x1'"),
        (C[0], "'c0'"),
    ):
        with refused(f"a formula cannot have .*{what}"):
            formula_denoiser([expression], {}, COSINE)
    with refused("constant c0 of a formula is 1e[+]39; scale the formula"):
        formula_denoiser([C[0] * X], {C[0]: 1e39}, COSINE)
    deep = FormulaDenoiser(data_dim=1, score=[_nested(140)], **given)
    x = torch.from_numpy(PLACES)
    for _ in range(140):
        x = x.tanh()
    np.testing.assert_allclose(_evaluated(deep), x.numpy())
    assert deep.expressions()[0].has(sympy.tanh)
