from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from helpers import refused
from kan_diffusion.errors import DataError
from kan_diffusion.tables.numbers import JumpMap, fit_jumps

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
    z = fitted.forward(numbers, u)
    assert np.isfinite(z).all()
    order = np.lexsort((u, numbers))
    is_jump = fitted.is_jump(numbers)
    assert (np.diff(z[order]) >= (-1e-9 if fitted.rest else -np.inf)).all()
    if fitted.rest is not None or len(fitted.jumps) == len(np.unique(numbers)):
        np.testing.assert_allclose(fitted.inverse(z)[is_jump], numbers[is_jump], rtol=0)
        np.testing.assert_allclose(fitted.inverse(z), numbers, atol=1e-6 * np.ptp(numbers))
    drawn = fitted.inverse(np.linspace(-9, 9, 2001))
    assert (np.diff(drawn) >= 0).all()


@pytest.mark.parametrize("fine", [False, True])
def test_probabilities_of_jumps_and_densities_of_the_rest_add_up_to_one(fine):
    numbers = _heaped() if not fine else _heaped() + (_heaped() % 2500 > 0) * _rng().random(N)
    fitted = fit_jumps(numbers, (0.0, None), fine=fine)

    def density(x):
        z, slope = fitted.with_log_slope(np.atleast_1d(np.asarray(x, float)))
        return np.exp(norm.logpdf(z) + slope)

    jumps = np.array(fitted.jumps, float)
    total = density(jumps).sum()
    np.testing.assert_allclose(density(jumps), fitted.shares, rtol=1e-3)
    if fine:
        ends = np.unique([1e-9, *fitted.rest.x, *(jumps + 1e-9), 1e5])
        total += sum(quad(lambda x: density(x)[0], *ends)[0] for ends in pairwise(ends))
    else:
        # Within a step the density is that of the spline, so many points of each are taken.
        steps = np.setdiff1d(np.arange(0, 60_000.0), jumps)
        grid = (np.arange(16) + 0.5) / 16
        for u in grid:
            z, slope = fitted.with_log_slope(steps, u)
            total += np.exp(norm.logpdf(z) + slope).sum() / len(grid)
    assert total == pytest.approx(1, abs=1e-4)


def test_where_jumps_are_nearly_all_nothing_else_is_drawn():
    numbers = np.repeat([3.0, 8.0, 20.0], [500, 400, 97])
    numbers = np.append(numbers, [11.0, 90.0, 1.0])  # one row each, which may tell whose it is
    fitted = fit_jumps(numbers)
    assert fitted.rest is None
    assert fitted.jumps == (3, 8, 20)
    assert set(fitted.inverse(_rng().normal(size=5000))) == {3.0, 8.0, 20.0}
    back = fitted.inverse(fitted.forward(np.array([1.0, 11.0, 90.0])))
    assert back.tolist() == [3.0, 8.0, 20.0]  # each counts as the jump below, the first as its own


def test_rounded_decimals_of_rare_numbers_are_kept_apart_from_jumps():
    # The steps that are jumps take no room among the others.
    numbers = np.repeat(np.arange(100.0), np.where(np.arange(100) % 2, 9, 200))
    fitted = fit_jumps(numbers, (0.0, 100.0))
    drawn = fitted.inverse(_rng().normal(size=50_000))
    odd, even = (drawn[drawn % 2 == rest] for rest in (1, 0))
    assert len(np.unique(odd)) == len(np.unique(even)) == 50
    assert (drawn % 2 == 1).mean() == pytest.approx(9 / 209, abs=0.005)


def test_jumps_that_do_not_increase_are_refused():
    for parts, words in (
        ({"jumps": (2, 1), "shares": (0.5, 0.5)}, "jumps must increase"),
        ({"jumps": (1, 2), "shares": (0.5,)}, "each needs a share"),
        ({}, "must increase, and each needs"),
        ({"jumps": (1, 2), "shares": (0.9, 0.5)}, "at most 1 together"),
        ({"jumps": (1, 2), "shares": (0.0, 0.5)}, "must be positive"),
    ):
        with pytest.raises(ValueError, match=words):
            JumpMap(**parts)
    with refused("column 'a' has one value", DataError):
        fit_jumps(np.ones(4), fine=True, where="a")
