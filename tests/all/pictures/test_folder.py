import numpy as np
import pytest

from kan_diffusion.data.sources import load_dataset
from kan_diffusion.errors import DataError
from kan_diffusion.pictures.sources import FolderData
from picture_folders import write_noise

FORMS = [("png", "RGBA"), ("png", "P"), ("jpg", "RGB"), ("gif", "P"), ("tiff", "RGB")]


@pytest.mark.parametrize(("form", "mode"), [*FORMS, ("webp", "RGB"), ("bmp", "RGB")])
def test_damaged_pictures_are_read_or_refused_in_a_line(tmp_path, form, mode):
    rng = np.random.default_rng(0)
    for index in range(9):
        write_noise(tmp_path / f"{index}.png", index)
    damaged = tmp_path / f"x.{form}"
    write_noise(damaged, 9, mode, (24, 24))
    whole = damaged.read_bytes()
    outcomes = set()
    for trial in range(40):
        content = bytearray(whole)
        if trial % 2:
            del content[rng.integers(len(content)) :]
        for place in rng.integers(min(200, len(content) or 1), size=3):
            content[place : place + 1] = rng.bytes(1)
        damaged.write_bytes(content)
        try:
            read = load_dataset(FolderData(pictures=str(tmp_path), size=8))
            assert read.shape == (3, 8, 8)
            outcomes.add("read")
        except DataError as error:
            outcomes.add(str(error)[: len(damaged.name) + 2])
    assert f"'{damaged.name}'" in outcomes <= {"read", f"'{damaged.name}'"}
