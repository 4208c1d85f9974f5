import pytest
import sympy
import torch

from helpers import refused, seeded
from kan_diffusion.data import GaussianMixture
from kan_diffusion.data.datasets import Dataset
from kan_diffusion.data.scaling import Standardizer
from kan_diffusion.denoisers.formula import FormulaDenoiser, formula_denoiser
from kan_diffusion.diffusion.sampling import PointDiffusionPipeline
from kan_diffusion.evaluation.denoising import draw_noised_points, measure_denoising
from kan_diffusion.processes import get_process

X, Y, ALPHA, SIGMA = sympy.symbols("x0 x1 alpha sigma", real=True)
RHO, MEAN, SPREAD = sympy.symbols("rho m s", real=True)

GAUSSIAN = GaussianMixture(torch.zeros(1, 2), covariances=torch.tensor([[[1.0, 0.8], [0.8, 1.0]]]))
TWO_MODES = GaussianMixture(torch.tensor([[-0.8], [0.8]]), variances=0.36)


def _process(prediction_type):
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
each_case = pytest.mark.parametrize("case", CASES)


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


@each_case
def test_samples_have_the_moments_of_the_data(case):
    density, make = CASES[case]
    process = _process("v_prediction")
    pipeline = PointDiffusionPipeline(make(process), process)
    num = 4000
    found = pipeline(num, num_inference_steps=20, generator=seeded(3)).samples.double()
    exact = density.sample(400_000, seeded(4))
    # A variance of 1 from num points has a standard error of sqrt(2 / num) at the most, here
    # where nothing has heavier tails than a Gaussian: five of them, and 2 % for the steps.
    bound = 5 * (2 / num) ** 0.5 + 0.02
    torch.testing.assert_close(found.T.cov(), exact.T.cov(), atol=bound, rtol=0)
    torch.testing.assert_close(found.mean(0), exact.mean(0), atol=bound, rtol=0)


@each_case
def test_constants_are_trained(case):
    density, make = CASES[case]
    process = _process("v_prediction")
    formula = make(process)
    exact = formula.constants.detach().clone()
    draw = draw_noised_points(_dataset(density), process, 4000, seeded(1))
    with torch.no_grad():
        formula.constants.mul_(0.8)
    optimizer = torch.optim.Adam(formula.parameters(), lr=0.02)
    target = make(process)(draw.noised, draw.timesteps).sample.detach()
    for _ in range(80):
        optimizer.zero_grad()
        (formula(draw.noised, draw.timesteps).sample - target).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(formula.constants.detach(), exact, atol=0.01, rtol=0)


def test_expressions_are_the_score_with_its_constants():
    formula = _two_modes(_process("epsilon"))
    (expression,) = formula.expressions()
    function = sympy.lambdify([X, ALPHA, SIGMA], expression)
    points = TWO_MODES.sample(20, seeded(5))
    expected = TWO_MODES.score(points, 0.6, 0.8)[:, 0]
    found = function(points[:, 0].numpy(), 0.6, 0.8)
    torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-6, rtol=1e-6)
    alpha, sigma = torch.tensor([0.6]), torch.tensor([0.8])
    torch.testing.assert_close(
        formula.score(points, alpha, sigma)[:, 0].detach(), expected, atol=1e-6, rtol=1e-6
    )
    (short,) = formula.expressions(digits=2)
    assert {str(n) for n in short.atoms(sympy.Float)} == {"0.80", "0.36"}


def test_a_constant_score_is_one_of_every_point_and_operations_are_counted():
    formula = formula_denoiser([sympy.Integer(2), ALPHA], {}, _process("epsilon"))
    points = torch.zeros(3, 2)
    sigma = formula.sigmas[400]
    expected = torch.stack([-sigma * 2, -sigma * formula.alphas[400]]).float()
    torch.testing.assert_close(formula(points, 400).sample, expected.expand(3, 2))
    # A product of 3 (2), a sum of 3 (2), a power and a function (4 each).
    expression = sympy.Symbol("c", real=True) * X * Y + sympy.tanh(X) + Y**3
    formula = formula_denoiser(
        [expression, X], {sympy.Symbol("c", real=True): 1.0}, _process("epsilon")
    )
    assert formula.flops == 2 + 2 + 4 + 4


def test_a_formula_that_is_none_is_refused():
    process = _process("epsilon").model_dump(mode="json")
    x0 = ["symbol", "x0"]
    for score, message in (
        ([x0, ["symbol", "x2"]], "not part of a formula"),
        ([x0, ["constant", 1]], "not part of a formula"),
        ([x0, ["call", "exec", x0]], "not part of a formula"),
        ([x0], "one expression for each of 2 coordinates, not 1"),
    ):
        with refused(message):
            FormulaDenoiser(data_dim=2, score=score, process=process, num_constants=1)
    with refused(r"the symbol 'x2'.* alpha, sigma, x0, x1"):
        formula_denoiser([X, sympy.Symbol("x2")], {}, _process("epsilon"))
