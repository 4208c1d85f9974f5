import pytest
from hypothesis import given
from hypothesis import strategies as st

from kan_diffusion.denoisers import FAMILIES, get_family
from kan_diffusion.training.run import num_held_out
from make import suggested

rows = st.integers(1, 10_000_000)
dims = st.integers(1, 2_000)


@given(num_rows=rows, dim=dims, family=st.sampled_from(sorted(FAMILIES)))
def test_a_suggestion_can_be_trained(num_rows, dim, family):
    training, heldout = suggested(num_rows, dim, family).training, num_held_out(num_rows)
    assert training.learning_rate <= get_family(family).learning_rate
    assert 0 <= heldout <= num_rows // 5
    assert (training.patience is None) == (heldout == 0)


@given(num_rows=rows, dim=dims, more=st.integers(1, 1000))
def test_more_data_never_make_a_network_or_its_training_smaller(num_rows, dim, more):
    few = suggested(num_rows, dim)
    for many in (suggested(num_rows * more, dim), suggested(num_rows, dim * more)):
        assert many.params >= few.params
        assert many.training.steps >= few.training.steps
        assert many.training.batch_size >= few.training.batch_size
        assert many.learning_rate <= few.learning_rate


def test_the_learning_rate_follows_from_a_size_that_is_given():
    small, large = (suggested(1000, 10, params=params) for params in (2_000, 36_800))
    assert (small.params, large.params) == (2_000, 36_800)
    assert small.learning_rate == get_family("kan").learning_rate
    assert large.learning_rate == pytest.approx(small.learning_rate / 2)
