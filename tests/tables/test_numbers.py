from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import beta, cauchy, expon, ks_2samp, kstest, lognorm, norm, t, uniform

from helpers import refused
from kan_diffusion.errors import DataError
from kan_diffusion.tables.numbers import JumpMap, decimals, fit_jumps, fit_numbers

RANDOM = np.random.default_rng(0)
SHAPES = [lognorm(2), expon(), t(3), cauchy(), uniform(), beta(0.5, 0.5)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.dist.name)


def fitted(shape):
    """Numbers, an odd count of them, and their map, which knows that they are positive."""
    values = shape.rvs(2001, random_state=0)
    return values, fit_numbers(values, (0.0 if values.min() > 0 else None, None))


def test_noise_of_binary_sums_is_no_decimal():
    values = np.round(RANDOM.normal(8, 2, 1000), 5)
    noisy = np.where(np.arange(1000) < 90, np.nextafter(values, 100), values)
    assert (noisy != values).sum() == 90
    for some in (values, noisy, np.append(noisy, 6.904679999999999)):
        assert decimals(some) == 5
    assert decimals(np.where(np.arange(1000) < 110, np.nextafter(values, 100), values)) != 5
    assert decimals(RANDOM.normal(8, 2, 1000)) is None


@every_shape
def test_the_map_makes_normal_numbers_and_its_inverse_undoes_it(shape):
    values, spline = fitted(shape)
    drawn = spline.inverse(np.random.default_rng(1).normal(size=20_000))
    # 2,000 rows are off by 1.36 / sqrt(2000) = 0.03 in 19 of 20 cases.
    assert ks_2samp(drawn, shape.rvs(20_000, random_state=2)).statistic < 0.045
    z, _ = spline.forward(shape.rvs(20_000, random_state=3))
    assert kstest(z, "norm").statistic < 0.045
    assert np.abs(z).max() < 8
    z = np.linspace(-5, 5, 4001)
    x = spline.inverse(z)
    assert (np.diff(x) >= 0).all()  # it never turns
    np.testing.assert_allclose(spline.forward(x)[0][500:-500], z[500:-500], atol=1e-7)
    # The tail keeps to its side of a bound, without a pile until float64 ends.
    far = spline.inverse(np.linspace(-5 if shape is SHAPES[5] else -9, -3, 50))
    assert values.min() < 0 or (far > 0).all()
    assert len(np.unique(far)) == 50
    # No row is a knot, not even the median, and eight are beyond either end.
    assert not {*spline.x} & {*values}
    assert np.sort(values)[8] < spline.x[0] < spline.x[-1] < np.sort(values)[-9]


@every_shape
def test_the_slope_is_that_of_the_map_and_the_density_of_the_data_integrates_to_one(shape):
    _, spline = fitted(shape)
    z, step = np.linspace(-3.9, 3.9, 1001), 1e-6
    numeric = (spline.inverse(z + step) - spline.inverse(z - step)) / (2 * step)
    _, slopes = spline.forward(spline.inverse(z))
    # Near a bound the numbers are differences from the first knot, with the rounding of that knot.
    rounding = np.spacing(np.abs(spline.x[0])) / (step * numeric)
    assert (np.abs(slopes + np.log(numeric)) <= 1e-4 + rounding).all()
    for knot in spline.x:  # it does not jump
        sides = spline.forward(np.nextafter(knot, [-np.inf, np.inf]))[1]
        assert abs(sides[0] - sides[1]) < 1e-6

    def density(x):
        z, slope = spline.forward(np.array([x]))
        return float(np.exp(norm.logpdf(z) + slope)[0])

    low, high = spline.inverse(np.array([-7.0, 7.0]))
    parts = [quad(density, *ends)[0] for ends in pairwise([low, *spline.x, high])]
    assert sum(parts) == pytest.approx(1, abs=1e-5)


def test_a_mild_shape_is_standardised():
    assert len(fit_numbers(np.linspace(-1, 1, 4000)).x) > 70  # which is not normal, as is known now
    for values in (np.random.default_rng(0).normal(5, 3, 4000), np.linspace(-1, 1, 100)):
        line = fit_numbers(values)
        assert len(line.x) == 2
        expected = (values - values.mean()) / values.std()
        np.testing.assert_allclose(line.forward(values)[0], expected, atol=1e-14)


@pytest.mark.parametrize("powers", [(-15, 15), (-299, 299), (-322, -300)])
def test_columns_over_many_orders_of_magnitude(powers):
    values = np.sort(10 ** np.random.default_rng(0).uniform(*powers, 5000))
    spline = fit_numbers(values, (0.0, None))
    z, slope = spline.forward(values)
    assert np.abs(z).max() < 12
    assert np.isfinite(slope).all()
    if powers == (-15, 15):
        assert (np.diff(z) >= 0).all()
        np.testing.assert_allclose(spline.inverse(z), values, rtol=1e-6)


N = 8000


def _rng(seed=0):
    return np.random.default_rng(seed)


def _heaped(seed=0):
    """Whole numbers of which a few are heaped and the others are rare."""
    rng = _rng(seed)
    numbers = np.floor(rng.gamma(3, 2000, N))
    numbers[: N // 2] = rng.choice([0, 2500, 5000, 7500], N // 2, p=[0.1, 0.4, 0.3, 0.2])
    return numbers


def test_jumps_come_back_exactly_and_as_often_and_the_rest_is_as_spread_as_before():
    for fine in (False, True):
        numbers = _heaped() if not fine else _heaped() + (_heaped() % 2500 > 0) * _rng().random(N)
        fitted = fit_jumps(numbers, (0.0, None), fine=fine)
        assert set(fitted.jumps) == {0, 2500, 5000, 7500}
        drawn = fitted.inverse(_rng(1).normal(size=100_000))
        for jump in fitted.jumps:
            # 4.5 standard errors of a share of 100,000.
            share = (numbers == jump).mean()
            assert abs((drawn == jump).mean() - share) < 4.5 * np.sqrt(share / 100_000)
        others = drawn[~np.isin(drawn, fitted.jumps)]
        real = np.sort(numbers[~np.isin(numbers, fitted.jumps)])
        at = np.unique(np.append(others, real))
        apart = [np.searchsorted(np.sort(side), at, "right") / len(side) for side in (others, real)]
        assert np.abs(apart[0] - apart[1]).max() < 0.03
        assert not fine or not np.isin(others, real).any()


@given(
    st.lists(st.tuples(st.integers(-50, 50), st.integers(1, 40)), min_size=1, max_size=30),
    st.integers(0, 30),
    st.booleans(),
)
def test_any_numbers_become_normal_ones_and_come_back(heaps, scattered, fine):
    numbers = np.repeat(*np.array(heaps).T).astype(float)
    rest = _rng().normal(0, 30, scattered)
    numbers = np.append(numbers, rest if fine else np.floor(rest))
    if len(np.unique(numbers)) < 2:
        return
    fitted = fit_jumps(numbers, fine=fine)
    u = _rng(1).uniform(0.01, 0.99, len(numbers))
    z, _ = fitted.forward(numbers, u)
    assert np.isfinite(z).all()
    order = np.lexsort((u, numbers))
    is_jump = fitted.is_jump(numbers)
    assert (np.diff(z[order]) >= (-np.inf if fitted.is_listed else -1e-9)).all()
    if not fitted.is_listed or len(fitted.jumps) == len(np.unique(numbers)):
        np.testing.assert_allclose(fitted.inverse(z)[is_jump], numbers[is_jump], rtol=0)
        np.testing.assert_allclose(fitted.inverse(z), numbers, atol=1e-6 * np.ptp(numbers))
    drawn = fitted.inverse(np.linspace(-9, 9, 2001))
    assert (np.diff(drawn) >= 0).all()


@pytest.mark.parametrize("side", [-1, 1])
@pytest.mark.parametrize("rest", ["gamma", "normal"])
def test_the_farthest_rows_beside_a_jump_come_back_in_single_precision(rest, side):
    for seed in range(30):
        rng = _rng(seed)
        steps = {"gamma": rng.gamma(3, 5000, 150), "normal": rng.normal(5000, 1000, 150)}[rest]
        steps = side * np.append(np.maximum(np.rint(steps), 1), np.zeros(350))
        fit = fit_jumps(steps, (-0.5, None) if side > 0 else (None, 0.5))
        for generator in (None, rng):
            scores = fit.spread(steps, generator).astype(np.float32)
            assert (fit.inverse(scores.astype(float)) == steps).all()


@pytest.mark.parametrize("fine", [False, True])
def test_probabilities_of_jumps_and_densities_of_the_rest_add_up_to_one(fine):
    numbers = _heaped() if not fine else _heaped() + (_heaped() % 2500 > 0) * _rng().random(N)
    fitted = fit_jumps(numbers, (0.0, None), fine=fine)

    def density(x):
        z, slope = fitted.forward(np.atleast_1d(np.asarray(x, float)))
        return np.exp(norm.logpdf(z) + slope)

    jumps = np.array(fitted.jumps, float)
    total = density(jumps).sum()
    np.testing.assert_allclose(density(jumps), fitted.shares, rtol=1e-3)
    if fine:
        ends = np.unique([1e-9, *fitted.x, *(jumps + 1e-9), 1e5])
        total += sum(quad(lambda x: density(x)[0], *ends)[0] for ends in pairwise(ends))
    else:
        # Within a step the density is that of the spline, so many points of each are taken.
        steps = np.setdiff1d(np.arange(0, 60_000.0), jumps)
        grid = (np.arange(16) + 0.5) / 16
        for u in grid:
            z, slope = fitted.forward(steps, u)
            total += np.exp(norm.logpdf(z) + slope).sum() / len(grid)
    assert total == pytest.approx(1, abs=1e-4)


def test_where_jumps_are_nearly_all_nothing_else_is_drawn():
    numbers = np.repeat([3.0, 8.0, 20.0], [500, 400, 97])
    numbers = np.append(numbers, [11.0, 90.0, 1.0])  # one row each, which may tell whose it is
    fitted = fit_jumps(numbers)
    assert fitted.is_listed
    assert fitted.jumps == (3, 8, 20)
    assert set(fitted.inverse(_rng().normal(size=5000))) == {3.0, 8.0, 20.0}
    back = fitted.inverse(fitted.forward(np.array([1.0, 11.0, 90.0]))[0])
    assert back.tolist() == [3.0, 8.0, 20.0]  # each counts as the jump below, the first as its own


def test_parts_that_do_not_fit_and_columns_without_spread_are_refused():
    for parts, words in (
        ({"x": (0.0, 1.0), "z": (0.0, 1.0, 2.0)}, "2 knots need as many scores, got 3"),
        ({"x": (0.0,), "z": (0.0,)}, "1 knots need as many scores, got 1, and two or none"),
        ({"x": (0.0, 1.0, 1.0), "z": (0.0, 1.0, 2.0)}, "knots and scores must increase"),
        ({"jumps": (2, 1), "shares": (0.5, 0.5)}, "jumps must increase"),
        ({"jumps": (1, 2), "shares": (0.5,)}, "each needs a share"),
        ({}, "must increase, and each needs"),
        ({"jumps": (1, 2), "shares": (0.9, 0.5)}, "at most 1 together"),
        ({"jumps": (1, 2), "shares": (0.0, 0.5)}, "must be positive"),
    ):
        with pytest.raises(ValueError, match=words):
            JumpMap(**parts)
    for values, words in ((np.ones(4), "one value"), (np.array([0, 1e-310]), "a spread below")):
        for fit in (fit_numbers, partial(fit_jumps, fine=True)):
            with refused(f"column 'a' has {words}", DataError):
                fit(values, where="a")
