from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from helpers import refused
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.tables.transforms import Spline, fit_levels, fit_numbers

SHAPES = {
    "lognormal": stats.lognorm(2),
    "exponential": stats.expon(),
    "student": stats.t(3),
    "cauchy": stats.cauchy(),
    "uniform": stats.uniform(),
    "arcsine": stats.beta(0.5, 0.5),
}


def _draw(shape, num, seed=0):
    return SHAPES[shape].rvs(num, random_state=seed)


def _fit(values):
    return fit_numbers(values, 0.0 if values.min() > 0 else None)


def _fitted(shape, num=2000):
    spline = _fit(_draw(shape, num))
    assert isinstance(spline, Spline)
    return spline


@pytest.mark.parametrize("shape", SHAPES)
def test_the_map_makes_normal_numbers_and_its_inverse_undoes_it(shape):
    spline = _fitted(shape)
    drawn = spline.inverse(np.random.default_rng(1).normal(size=20_000))
    # 2,000 rows are off by 1.36 / sqrt(2000) = 0.03 in 19 of 20 cases.
    assert stats.ks_2samp(drawn, _draw(shape, 20_000, seed=2)).statistic < 0.045
    z = spline.forward(_draw(shape, 20_000, seed=3))
    assert stats.kstest(z, "norm").statistic < 0.045
    assert np.abs(z).max() < 8
    z = np.linspace(-5, 5, 4001)
    x = spline.inverse(z)
    assert (np.diff(x) >= 0).all()  # it never turns
    np.testing.assert_allclose(spline.forward(x)[500:-500], z[500:-500], atol=1e-7)


@pytest.mark.parametrize("shape", ["lognormal", "cauchy", "arcsine"])
def test_the_slope_is_that_of_the_map_and_does_not_jump(shape):
    spline = _fitted(shape)
    z = np.linspace(-3.9, 3.9, 1001)
    step = 1e-6
    numeric = (spline.inverse(z + step) - spline.inverse(z - step)) / (2 * step)
    np.testing.assert_allclose(spline.log_slope(spline.inverse(z)), -np.log(numeric), atol=1e-4)
    for knot in spline.x:
        sides = spline.log_slope(np.nextafter(knot, [-np.inf, np.inf]))
        assert abs(sides[0] - sides[1]) < 1e-6


@pytest.mark.parametrize("shape", ["exponential", "student", "uniform"])
def test_the_density_of_the_data_integrates_to_one(shape):
    spline = _fitted(shape)

    def density(x):
        point = np.array([x])
        return float(np.exp(stats.norm.logpdf(spline.forward(point)) + spline.log_slope(point))[0])

    low, high = spline.inverse(np.array([-7.0, 7.0]))
    parts = [integrate.quad(density, *ends)[0] for ends in pairwise([low, *spline.x, high])]
    assert sum(parts) == pytest.approx(1, abs=1e-5)


def test_a_mild_shape_is_standardised():
    for values in (np.random.default_rng(0).normal(5, 3, 4000), np.linspace(-1, 1, 100)):
        line = fit_numbers(values)
        assert len(line.x) == 2
        expected = (values - values.mean()) / values.std()
        np.testing.assert_allclose(line.forward(values), expected, atol=1e-14)


@pytest.mark.parametrize("orders", [30, 598])
def test_columns_over_many_orders_of_magnitude(orders):
    values = 10 ** np.random.default_rng(0).uniform(-orders / 2, orders / 2, 5000)
    spline = fit_numbers(values, 0.0)
    z = spline.forward(values)
    assert np.abs(z).max() < 12
    assert np.isfinite(spline.log_slope(values)).all()
    if orders < 100:
        assert (np.diff(z[np.argsort(values)]) >= 0).all()
        np.testing.assert_allclose(spline.inverse(z), values, rtol=1e-6)


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=60, unique=True),
    st.integers(1, 30),
)
def test_any_numbers_with_any_repetitions(values, copies):
    numbers = np.repeat(np.array(values), np.arange(len(values)) % copies + 1)
    if np.ptp(numbers) < 1e-9 * np.abs(numbers).max() + 1e-290:
        return
    transform = fit_numbers(numbers)
    z = transform.forward(numbers)
    assert np.isfinite(z).all()
    back = transform.inverse(z)
    np.testing.assert_allclose(back, numbers, atol=1e-6 * np.ptp(numbers))
    assert np.isfinite(transform.log_slope(numbers)).all()


def test_the_tail_keeps_to_its_side_of_a_bound_without_a_pile():
    spline = _fitted("exponential", 500)
    far = spline.inverse(np.linspace(-9, -3, 50))
    assert (far > 0).all()
    assert len(np.unique(far)) == 50


def test_no_row_of_the_data_is_a_knot():
    for shape in SHAPES:
        values = _draw(shape, 300)
        spline = _fit(values)
        assert not set(spline.x) & set(values)
        assert spline.x[0] > np.sort(values)[8]
        assert spline.x[-1] < np.sort(values)[-9]


@given(st.lists(st.integers(1, 1000), min_size=3, max_size=60))
def test_normal_numbers_give_each_level_in_its_frequency(counts):
    frequencies = np.array(counts) / sum(counts)
    spline = fit_levels(frequencies)
    edges = spline.forward(np.arange(1.0, len(counts)))
    if len(counts) <= 20:
        np.testing.assert_allclose(stats.norm.cdf(edges), np.cumsum(frequencies)[:-1], atol=1e-6)
    middle = np.arange(len(counts)) + 0.5
    np.testing.assert_allclose(spline.inverse(spline.forward(middle)), middle, atol=1e-6)
    assert spline.inverse(np.array([-40.0]))[0] >= -1e-9
    assert spline.inverse(np.array([40.0]))[0] <= len(counts) + 1e-9


def test_knots_that_do_not_increase_and_constant_columns_are_refused():
    for make, words in (
        (lambda: Spline(x=(0.0, 1.0), z=(0.0, 1.0, 2.0)), "2 knots need as many scores, got 3"),
        (lambda: Spline(x=(0.0, 1.0, 1.0), z=(0.0, 1.0, 2.0)), "must increase"),
        (lambda: Spline(x=(0.0, 1.0), z=(1.0, 0.0)), "must increase"),
    ):
        with pytest.raises(ValueError, match=words):
            make()
    for values, words in ((np.ones(5), "one value"), (np.array([0, 1e-310]), "a spread below")):
        with refused(f"column 'a' has {words}", KanDiffusionError):
            fit_numbers(values, where="a")
