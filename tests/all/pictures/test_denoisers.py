import subprocess
import sys

import pytest

from picture_contract import OTHERS, PictureContract


@pytest.mark.parametrize("family", OTHERS)
class TestPictureFamily(PictureContract):
    pass


def test_the_wing_may_be_imported_before_the_core():
    program = "import kan_diffusion.pictures.denoisers, kan_diffusion.pictures.pipeline"
    subprocess.run([sys.executable, "-c", program], check=True)
