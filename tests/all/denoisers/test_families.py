import pytest

from family_contract import OTHERS, FamilyContract


@pytest.mark.parametrize("family", OTHERS)
class TestFamily(FamilyContract):
    pass
