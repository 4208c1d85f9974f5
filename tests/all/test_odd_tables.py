"""More tables that other generators stumble over."""

import pytest

import odd_tables


@pytest.mark.parametrize(
    "make",
    [
        odd_tables.thousand_categories,
        odd_tables.two_hundred_columns,
        odd_tables.hundred_bits,
        odd_tables.one_column,
        odd_tables.strange_names,
        odd_tables.duplicates,
        odd_tables.many_gaps,
        odd_tables.heavy_tails,
        odd_tables.clocks,
    ],
)
def test_odd_tables_are_learned_drawn_and_filled(make):
    odd_tables.require_learned_drawn_and_filled(make())
