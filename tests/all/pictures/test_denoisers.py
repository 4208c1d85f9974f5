import pytest

from picture_contract import OTHERS, PictureContract


@pytest.mark.parametrize(("family", "told"), OTHERS)
class TestPictureFamily(PictureContract):
    pass
