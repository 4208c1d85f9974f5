from itertools import pairwise

from hypothesis import assume, given
from hypothesis import strategies as st

from helpers import refused
from kan_diffusion.denoisers.families import BUDGET_TOLERANCE, _widths_for_budget


def _counting(per_edge, inputs, outputs):
    """Counts the parameters of a network with so many for each edge and one bias an output."""

    def count(hidden):
        return sum(a * b * per_edge + b for a, b in pairwise([inputs, *hidden, outputs]))

    return count


counts = st.builds(_counting, st.integers(1, 14), st.integers(3, 20), st.integers(1, 12))


@given(counts, st.integers(2, 5), st.integers(2_000, 300_000))
def test_widths_meet_their_budget_and_stay_nearly_equal(count, depth, budget):
    assume(count((4,) * depth) <= budget)
    widths = _widths_for_budget(count, depth, budget)
    assert len(widths) == depth
    assert abs(count(widths) - budget) <= BUDGET_TOLERANCE * budget
    assert max(widths) <= 4 * min(widths)


@given(counts, st.integers(1, 5), st.integers(20, 30_000))
def test_an_upper_bound_is_kept_and_no_layer_can_be_wider(count, depth, budget):
    assume(count((1,) * depth) <= budget)
    widths = _widths_for_budget(count, depth, budget, at_most=True)
    assert count(widths) <= budget
    for layer in range(depth):
        wider = tuple(width + (index == layer) for index, width in enumerate(widths))
        assert count(wider) > budget


def test_a_count_that_does_not_grow_with_a_layer_is_refused():
    # Such a layer could be widened for ever.
    with refused(r"1,000 FLOPs.* hidden layer 2; give hidden"):
        _widths_for_budget(lambda hidden: 7 * hidden[0], 2, 1_000, unit=" FLOPs")
