import json

import numpy as np
import pytest
import sympy
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers import refused, seeded
from kan_diffusion.data import GaussianMixture
from kan_diffusion.data.datasets import Dataset
from kan_diffusion.data.scaling import Standardizer
from kan_diffusion.denoisers.formula import FormulaDenoiser, formula_denoiser
from kan_diffusion.evaluation.denoising import draw_noised_points, measure_denoising
from kan_diffusion.processes import get_process

X, Y, ALPHA, SIGMA = sympy.symbols("x0 x1 alpha sigma", real=True)
RHO, MEAN, SPREAD = sympy.symbols("rho m s", real=True)
C = sympy.symbols("c0:3", real=True)
VALUES = (0.75, -1.25, 2.125)

GAUSSIAN = GaussianMixture(torch.zeros(1, 2), covariances=torch.tensor([[[1.0, 0.8], [0.8, 1.0]]]))
TWO_MODES = GaussianMixture(torch.tensor([[-0.8], [0.8]]), variances=0.36)


def _process(prediction_type="epsilon"):
    return get_process("cosine").model_copy(update={"prediction_type": prediction_type})


def _gaussian(process):
    """The score of N(0, [[1, rho], [rho, 1]]), noised: minus the inverse covariance times x."""
    off = ALPHA**2 * RHO
    below = 1 - off**2  # alpha^2 + sigma^2 is 1
    return formula_denoiser([(off * Y - X) / below, (off * X - Y) / below], {RHO: 0.8}, process)


def _two_modes(process):
    variance = ALPHA**2 * SPREAD**2 + SIGMA**2
    towards = ALPHA * MEAN * sympy.tanh(ALPHA * MEAN * X / variance)
    return formula_denoiser([(towards - X) / variance], {MEAN: 0.8, SPREAD: 0.6}, process)


CASES = {"gaussian": (GAUSSIAN, _gaussian), "two modes": (TWO_MODES, _two_modes)}


def _dataset(density):
    return Dataset(
        name="exact",
        columns=tuple("xy"[: density.dim]),
        standardizer=Standardizer((0.0,) * density.dim, (1.0,) * density.dim),
        train=density.sample(100, seeded(0)).float(),
        density=density,
    )


@pytest.mark.parametrize(
    ("case", "prediction_type"),
    [("gaussian", "epsilon"), ("two modes", "v_prediction"), ("gaussian", "sample")],
)
def test_the_exact_constants_alone_have_no_excess_and_are_saved(case, prediction_type, tmp_path):
    density, make = CASES[case]
    process = _process(prediction_type)
    formula = make(process)
    formula.save_pretrained(tmp_path)
    loaded = FormulaDenoiser.from_pretrained(tmp_path)
    points, steps = density.sample(50, seeded(2)).float(), torch.arange(50) * 20
    assert torch.equal(loaded(points, steps).sample, formula(points, steps).sample)
    assert loaded.expressions() == formula.expressions()
    assert (loaded.process, loaded.flops) == (process, formula.flops)
    draw = draw_noised_points(_dataset(density), process, 5000, seeded(1))
    scores = measure_denoising(loaded.double(), draw, process)
    assert 0 <= scores.excess < 1e-9
    assert scores.heldout_loss == pytest.approx(scores.floor, rel=1e-4)
    with torch.no_grad():
        formula.constants.mul_(0.9)
    assert measure_denoising(formula, draw, process).excess > 1e-4


def test_fractional_timesteps_lie_between_whole_ones():
    process = _process("v_prediction")
    formula = _two_modes(process)
    points = TWO_MODES.sample(50, seeded(2)).float()
    last = process.num_timesteps - 1
    for step in (0, 300, last):
        whole = formula(points, step).sample
        torch.testing.assert_close(formula(points, float(step)).sample, whole)
    assert bool(formula(points, last + 3.0).sample.isfinite().all())
    # Between two timesteps the prediction hardly changes, and it does so steadily.
    low, middle, high = (formula(points, step).sample for step in (300, 300.5, 301))
    torch.testing.assert_close(middle, (low + high) / 2, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(formula(points, torch.full((50,), 300)).sample, low)


@pytest.mark.parametrize("case", CASES)
def test_constants_are_trained(case):
    density, make = CASES[case]
    process = _process("v_prediction")
    formula = make(process)
    exact = formula.constants.detach().clone()
    draw = draw_noised_points(_dataset(density), process, 4000, seeded(1))
    target = formula(draw.noised, draw.timesteps).sample.detach()
    with torch.no_grad():
        formula.constants.mul_(0.8)
    optimizer = torch.optim.Adam(formula.parameters(), lr=0.02)
    for _ in range(80):
        optimizer.zero_grad()
        (formula(draw.noised, draw.timesteps).sample - target).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(formula.constants.detach(), exact, atol=0.01, rtol=0)


def test_a_constant_score_is_one_of_every_point_and_operations_are_counted():
    formula = formula_denoiser([sympy.Integer(2), ALPHA], {}, _process())
    alpha, sigma = formula.levels[:, 400]
    expected = torch.stack([-sigma * 2, -sigma * alpha]).float()
    torch.testing.assert_close(formula(torch.zeros(3, 2), 400).sample, expected.expand(3, 2))
    # A product of 3 (2), a sum of 3 (2), a power and a function (4 each).
    expression = C[0] * X * Y + sympy.tanh(X) + Y**3
    assert formula_denoiser([expression, X], {C[0]: 1.0}, _process()).flops == 2 + 2 + 4 + 4


# Expressions

leaves = (
    st.sampled_from([X, ALPHA, *C])
    | st.integers(-4, 4).map(sympy.Integer)
    | st.floats(-3, 3, allow_subnormal=False).map(lambda value: sympy.Float(round(value, 3)))
)
FUNCTIONS = (
    *(sympy.tanh, sympy.sin, sympy.cos, sympy.Abs, sympy.atan, sympy.erf),
    *(lambda z: sympy.exp(-(z**2)), lambda z: 1 / (1 + z**2), lambda z: z**3),
    *(lambda z: sympy.log(1 + z**2), lambda z: sympy.sqrt(2 + sympy.sin(z))),
)
OPERATIONS = (
    *(sympy.Add, sympy.Mul, sympy.Max, sympy.Min, lambda a, b: a - b),
    *(lambda a, b: a / (2 + b**2), lambda a, b: (1 + a**2) ** sympy.tanh(b)),
)
of_one, of_two = st.sampled_from(FUNCTIONS), st.sampled_from(OPERATIONS)
expressions = st.recursive(
    leaves,
    lambda inner: (
        st.tuples(of_one, inner).map(lambda p: p[0](p[1]))
        | st.tuples(of_two, inner, inner).map(lambda p: p[0](p[1], p[2]))
    ),
    max_leaves=8,
)


def _made(expression):
    return formula_denoiser([expression], dict(zip(C, VALUES, strict=True)), _process())


def _points():
    generator = np.random.default_rng(0)
    return generator.uniform(-2, 2, 40), generator.uniform(0.1, 1, 40)


def _evaluated(formula):
    x, alpha = (torch.from_numpy(values) for values in _points())
    return formula.score(x.unsqueeze(1), alpha, torch.ones(1))[:, 0].detach().numpy()


def _by_sympy(expression):
    function = sympy.lambdify([X, ALPHA, *C], expression, modules=["scipy", "numpy"])
    return np.broadcast_to(function(*_points(), *VALUES), 40)


@given(expressions)
def test_an_expression_is_evaluated_and_comes_back(expression):
    formula = _made(expression)
    formula.register_to_config(score=json.loads(json.dumps(formula.config.score)))
    expected = _by_sympy(expression)
    np.testing.assert_allclose(_evaluated(formula), expected, rtol=1e-9, atol=1e-9)
    (back,) = formula.expressions()
    assert back.free_symbols <= {X, ALPHA}
    np.testing.assert_allclose(_by_sympy(back), expected, rtol=1e-9, atol=1e-9)


def test_functions_are_those_of_sympy_and_symbols_of_ones_own_stand_for_constants():
    for name in ("Abs", "sign", "tan", "sinh", "cosh", "acos", "asin"):
        expression = getattr(sympy, name)(X / 2)
        np.testing.assert_allclose(_evaluated(_made(expression)), _by_sympy(expression))
    expression = C[0] * X + sympy.tanh(C[1] * X - C[2] * ALPHA**2) - sympy.exp(-X)
    numbers = dict(zip(C, map(sympy.Float, VALUES), strict=True))
    assert _made(expression).expressions() == [expression.subs(numbers)]


def test_gradients_reach_points():
    formula = _made(C[0] * sympy.tanh(C[1] * X) / (1 + C[2] * ALPHA**2))
    x = torch.tensor([[0.3], [-0.8]], dtype=torch.float64, requires_grad=True)
    alpha, sigma = torch.tensor([0.5, 0.9]), torch.ones(1)
    assert torch.autograd.gradcheck(lambda x: formula.score(x, alpha, sigma), x)


def _nested(depth):
    tree = "x0"
    for _ in range(depth):
        tree = ["tanh", tree]
    return tree


DAMAGED = [
    ["__import__", "os"],
    ["eval", "__import__('os').system('true')"],
    ["tanh"],
    ["log", "x0", 2.0],
    [["symbol", "tanh"], "x0"],
    ["Add"],
    ["Pow", "x0"],
    ["Pow", "x0", 2.0, 3.0],
    None,
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


def test_what_a_formula_cannot_have_is_refused():
    process = _process()
    given = {"process": process.model_dump(mode="json"), "num_constants": 3}
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
        (sympy.zoo, "'zoo'"),
        (Y, "'x1'"),
        (C[0], "'c0'"),
    ):
        with refused(f"a formula cannot have .*{what}"):
            formula_denoiser([expression], {}, process)


def test_a_deep_formula_is_evaluated_and_written():
    given = {"process": _process().model_dump(mode="json"), "num_constants": 0}
    formula = FormulaDenoiser(data_dim=1, score=[_nested(140)], **given)
    x = torch.from_numpy(_points()[0])
    for _ in range(140):
        x = x.tanh()
    np.testing.assert_allclose(_evaluated(formula), x.numpy())
    assert formula.expressions()[0].has(sympy.tanh)
