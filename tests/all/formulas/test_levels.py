import pytest

from gaussian_levels import require_the_score_is_found


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample"])
def test_the_score_of_a_gaussian_is_found_at_all_levels(prediction_type):
    require_the_score_is_found(prediction_type, "full")
