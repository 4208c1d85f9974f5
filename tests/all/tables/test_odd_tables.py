import pytest

from odd_tables import QUICKLY_LEARNED, TABLES, require_learned_drawn_and_filled


@pytest.mark.parametrize("name", sorted(TABLES.keys() - {*QUICKLY_LEARNED}))
def test_odd_tables_are_learned_drawn_and_filled(name):
    require_learned_drawn_and_filled(TABLES[name]())
