import time

import pytest

from gaussian_levels import PROCESS, formula, noised
from kan_diffusion.formulas.levels.search import best_forms


def roles(found):
    return [slot.role for slot in found.forms]


def test_a_variance_is_found_and_an_offset_is_not():
    halves = noised(0, 0.5), noised(1, 0.5)
    found = best_forms(formula(0.5, 0.3), halves, PROCESS, time.monotonic() + 60)
    assert roles(found) == ["diagonal outside"]
    assert found.constants == pytest.approx([-0.5], abs=0.05)


def test_a_search_that_is_out_of_time_gives_what_it_has():
    first, halves = formula(0.5, 0.3), (noised(0, 0.5), noised(1, 0.5))
    given = best_forms(first, halves, PROCESS, time.monotonic())
    assert roles(given) == roles(first)
    assert given.forms == first.forms
