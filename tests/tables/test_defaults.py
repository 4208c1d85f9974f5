import pytest
from hypothesis import given
from hypothesis import strategies as st

from kan_diffusion.denoisers import FAMILIES, get_family
from kan_diffusion.training.config import num_held_out
from make import suggested

ROWS, DIMS = st.integers(1, 10_000_000), st.integers(1, 2_000)


@given(num_rows=ROWS, dim=DIMS, more=st.integers(1, 1000), family=st.sampled_from([*FAMILIES]))
def test_a_suggestion_can_be_trained_and_grows_with_the_data(num_rows, dim, more, family):
    few, heldout = suggested(num_rows, dim, family), num_held_out(num_rows)
    assert few.training.learning_rate <= get_family(family).learning_rate
    assert 0 <= heldout <= num_rows // 5
    assert (few.training.patience is None) == (heldout == 0)
    for many in (suggested(num_rows * more, dim, family), suggested(num_rows, dim * more, family)):
        assert many.params >= few.params
        for setting in ("steps", "batch_size"):
            assert getattr(many.training, setting) >= getattr(few.training, setting)
        assert many.sampling.steps >= few.sampling.steps
        assert many.training.learning_rate <= few.training.learning_rate


def test_small_tables_are_learned_as_briefly_as_before_and_no_table_without_end():
    small, large = suggested(1_999, 10), suggested(10_000_000, 2_000)
    settings = small.training.steps, small.training.batch_size, small.sampling.steps
    assert settings == (3000, 256, 20)
    assert small.params == round(300 * (1_999 * 10) ** 0.5)
    large_steps = large.training.steps, large.training.batch_size
    assert (*large_steps, large.params) == (24_000, 512, 250_000)


def test_the_learning_rate_follows_from_a_size_that_is_given():
    small, large = (suggested(1000, 10, params=params) for params in (2_000, 36_800))
    assert (small.params, large.params) == (2_000, 36_800)
    assert small.training.learning_rate == get_family("kan").learning_rate
    assert large.training.learning_rate == pytest.approx(small.training.learning_rate / 2)
