import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import refused
from kan_diffusion.denoisers import FAMILIES, get_family
from kan_diffusion.training import TrainingConfig
from kan_diffusion.training.defaults import suggested

rows = st.integers(1, 10_000_000)
dims = st.integers(1, 2_000)


@given(num_rows=rows, dim=dims, family=st.sampled_from(sorted(FAMILIES)))
def test_a_suggestion_can_be_trained(num_rows, dim, family):
    table = suggested(num_rows, dim, family)
    config = TrainingConfig(
        steps=table.steps,
        batch_size=table.batch_size,
        learning_rate=table.learning_rate,
        patience=table.patience,
    )
    assert config.learning_rate <= get_family(family).learning_rate
    assert 0 <= table.heldout_rows <= num_rows // 5
    assert (table.patience is None) == (table.heldout_rows == 0)


@given(num_rows=rows, dim=dims, more=st.integers(1, 1000))
def test_more_data_never_make_a_network_or_its_training_smaller(num_rows, dim, more):
    few = suggested(num_rows, dim)
    for many in (suggested(num_rows * more, dim), suggested(num_rows, dim * more)):
        assert many.params >= few.params
        assert many.steps >= few.steps
        assert many.batch_size >= few.batch_size
        assert many.heldout_rows >= few.heldout_rows
        assert many.learning_rate <= few.learning_rate


def test_the_learning_rate_follows_from_a_size_that_is_given():
    small, large = (suggested(1000, 10, params=params) for params in (2_000, 36_800))
    assert (small.params, large.params) == (2_000, 36_800)
    assert small.learning_rate == get_family("kan").learning_rate
    assert large.learning_rate == pytest.approx(small.learning_rate / 2)


@pytest.mark.parametrize(("num_rows", "dim"), [(0, 3), (3, 0)])
def test_a_table_of_nothing_is_refused(num_rows, dim):
    with refused("at least one row and one coordinate"):
        suggested(num_rows, dim)
