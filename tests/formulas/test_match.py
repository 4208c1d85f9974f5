import numpy as np
import pytest
import sympy
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers import refused
from kan_diffusion.denoisers.library import LIBRARY, LINEAR, EdgeFunction
from kan_diffusion.formulas.match import match_curve

CURVED = [name for name in LIBRARY if name != LINEAR]
NUM = 1000


def _samples(seed, num=NUM):
    return np.random.default_rng(seed).normal(size=num)


def _values(name, x, a, b):
    return LIBRARY[name].values(torch.from_numpy(a * x + b)).numpy()


def _named(matches, name, has_slope):
    return next(m for m in matches if m.name == name and m.has_slope == has_slope)


@pytest.mark.parametrize("name", CURVED)
def test_functions_of_the_library_are_found_again(name):
    # Every second one beside a line.
    with_slope = CURVED.index(name) % 2 == 1
    draw = np.random.default_rng(100)
    x = _samples(0)
    a, b = draw.choice([-1, 1]) * draw.uniform(0.7, 1.8), draw.uniform(-0.5, 0.5)
    if name in ("log", "sqrt"):
        b = 6.0  # away from where they are held
    c, d = draw.choice([-1, 1]) * draw.uniform(0.5, 2), draw.uniform(-1, 1)
    s = draw.choice([-1, 1]) * draw.uniform(0.3, 1) if with_slope else 0.0
    y = c * _values(name, x, a, b) + s * x + d
    only = {name: LIBRARY[name]}
    matches = match_curve(x, y, only)
    best = _named(matches, name, with_slope)
    assert best.r2 > 1 - 1e-6
    # Its constants write the curve, also where there were no samples to fit.
    elsewhere = np.linspace(-2, 2, 101)
    written = best.c * _values(name, elsewhere, best.a, best.b) + best.slope * elsewhere
    expected = c * _values(name, elsewhere, a, b) + s * elsewhere + d
    np.testing.assert_allclose(written + best.constant, expected, atol=3e-3 * np.std(y) + 1e-3)
    if not with_slope:
        assert best.slope == 0
        assert matches[0].cost <= best.cost


@pytest.mark.parametrize("name", ["tanh", "sin", "gaussian", "square", "rational"])
def test_of_all_functions_the_right_one_comes_first(name):
    x = _samples(0)
    y = 1.5 * _values(name, x, 1.3, 0.3) - 0.2
    best = match_curve(x, y)[0]
    assert best.name == name
    assert not best.has_slope
    # Even and odd functions leave the sign of the inside open.
    scale = 1.0 if LIBRARY[name].scaleless else 1.3
    assert abs(best.b / best.a) == pytest.approx(0.3 / 1.3, abs=2e-3)
    assert abs(best.a) == pytest.approx(scale, rel=2e-3)


@given(st.integers(0, 10_000), st.floats(-5, 5), st.floats(0.01, 5), st.floats(-9, 9))
def test_a_line_is_a_line(seed, slope, size, constant):
    slope = size if abs(slope) < 0.01 else slope
    x = _samples(seed, 60)
    best = match_curve(x, slope * x + constant, {n: LIBRARY[n] for n in (LINEAR, "tanh")})[0]
    assert (best.name, best.has_slope, best.complexity) == (LINEAR, True, 1)
    assert best.slope == pytest.approx(slope)
    assert best.constant == pytest.approx(constant, abs=1e-9)
    assert best.c == 0


def test_noise_lowers_the_share_that_is_explained():
    x = _samples(0, 4000)
    y = _values("exp", x, 1.0, 0.2)
    noise = np.random.default_rng(1).normal(size=len(x))
    for ratio in (0.0, 0.3, 1.0):
        noisy = y + ratio * y.std() * noise
        match = _named(match_curve(x, noisy, {"exp": LIBRARY["exp"]}), "exp", False)
        # What can be explained of y + noise is 1 / (1 + ratio^2), and held-out samples say so.
        assert match.r2 == pytest.approx(1 / (1 + ratio**2), abs=0.05)


def test_what_is_none_of_them_has_no_good_match():
    x = np.random.default_rng(0).uniform(-3, 3, 2000)
    wiggly = np.sin(4 * x) + np.sin(7.3 * x + 1) + np.cos(11 * x)
    assert max(match.r2 for match in match_curve(x, wiggly)) < 0.9
    noise = np.random.default_rng(1).normal(size=2000)
    assert max(match.r2 for match in match_curve(x, noise)) < 0.1


def test_matches_are_sorted_by_cost():
    x = _samples(3)
    y = np.tanh(x) + 0.3 * x
    matches = match_curve(x, y)
    assert [m.cost for m in matches] == sorted(m.cost for m in matches)
    assert {m.complexity for m in matches} == {1, 2, 3, 4, 5}
    for match in matches:
        expected = LIBRARY[match.name].complexity + (match.has_slope and match.name != LINEAR)
        assert match.complexity == expected
    # The same samples give the same matches, as a list, too.
    assert match_curve(x.tolist(), y.tolist()) == matches


def test_units_of_the_curve_do_not_matter():
    x = _samples(5)
    y = np.tanh(1.2 * x + 0.4)
    only = {"tanh": LIBRARY["tanh"]}
    for factor, stretch in ((1e-4, 1.0), (1e4, 1.0), (1.0, 1e-3), (1.0, 1e3)):
        match = _named(match_curve(stretch * x, factor * y, only), "tanh", False)
        assert match.r2 > 1 - 1e-6
        assert match.c * np.sign(match.a) == pytest.approx(factor, rel=1e-2)
        assert abs(match.a) == pytest.approx(1.2 / stretch, rel=1e-2)


def test_a_constant_has_no_match():
    x = _samples(6)
    assert match_curve(x, np.full_like(x, 0.1)) == []
    assert match_curve(np.full_like(x, 0.1), x) == []
    # An input that hardly ever is another one.
    rare = np.zeros_like(x)
    rare[-1] = 1
    assert match_curve(rare, x) == []


def test_samples_that_make_functions_overflow_are_no_trouble():
    x = 300 * _samples(7)
    assert match_curve(x, np.abs(x))[0].name == "abs"
    far = x.copy()
    far[-1] = 1e8
    assert match_curve(far, x, {"exp": LIBRARY["exp"], LINEAR: LIBRARY[LINEAR]})


def test_samples_that_cannot_be_matched_are_refused():
    for x, y, message in (
        (np.arange(7.0), np.arange(7.0), "at least 8 samples"),
        (np.arange(9.0), np.arange(8.0), r"not shapes \(9,\) and \(8,\)"),
        (np.zeros((9, 2)), np.zeros((9, 2)), "at least 8 samples"),
        (np.arange(9.0), np.r_[np.arange(8.0), np.nan], "not finite"),
        (np.r_[np.arange(8.0), np.inf], np.arange(9.0), "not finite"),
    ):
        with refused(message):
            match_curve(x, y)


def test_a_function_of_ones_own():
    softplus = torch.nn.functional.softplus
    own = EdgeFunction("softplus", softplus, lambda z: sympy.log(1 + sympy.exp(z)), 3)
    x = _samples(8)
    best = match_curve(x, 0.7 * np.log1p(np.exp(3 * x - 1)), {**LIBRARY, "softplus": own})[0]
    assert best.name == "softplus"
    assert best.r2 > 1 - 1e-6
