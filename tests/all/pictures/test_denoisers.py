import importlib
import sys

import pytest

from commands import context
from picture_contract import OTHERS, PictureContract


@pytest.mark.parametrize("family", OTHERS)
class TestPictureFamily(PictureContract):
    pass


def _import_first():
    for name in [name for name in sys.modules if name.startswith("kan_diffusion")]:
        del sys.modules[name]
    for name in ("denoisers", "pipeline"):
        importlib.import_module(f"kan_diffusion.pictures.{name}")


def test_the_wing_may_be_imported_before_the_core():
    child = context.Process(target=_import_first)
    child.start()
    child.join()
    assert child.exitcode == 0
