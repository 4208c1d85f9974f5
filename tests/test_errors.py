import numpy as np
import pytest
import torch

from helpers import refused
from kan_diffusion.errors import (
    DataError,
    KanDiffusionError,
    NonFiniteLossError,
    RunFolderError,
    require_whole,
    unknown_name,
)


def test_a_misspelt_name_is_answered_with_the_nearest_and_another_with_the_list():
    error = unknown_name("family", "kann", ["mlp", "kan"])
    assert str(error) == "unknown family 'kann', did you mean 'kan'? known: kan, mlp"
    error = unknown_name("process", "quux", iter(["ddpm", "cosine"]))
    assert str(error) == "unknown process 'quux'; known: cosine, ddpm"


def test_a_whole_number_of_any_type_is_one_and_what_is_not_is_named_with_the_range():
    for number in (1, 5, np.int64(3), torch.tensor(2), True):
        require_whole("size", number, 1, 5)
    for value, shown in ((0, "0"), (6000, "6,000"), (2.0, "2.0"), ("3", "'3'"), (None, "None")):
        with refused(f"^size must be a whole number, from 1 to 5, not {shown}; take few$"):
            require_whole("size", value, 1, 5, "; take few")
    with refused("^size must be a whole number, at least 2, not nan$"):
        require_whole("size", float("nan"), 2)


def test_whatever_stands_in_an_error_is_one_line_that_can_be_seen():
    error = DataError("column 'a\nb\x1b[2J\u202e\udcff' is bad; rename it")
    assert str(error) == r"column 'a b\x1b[2J\u202e\udcff' is bad; rename it"
    long = str(DataError(f"column '{'x' * 10**6}' is bad; rename it"))
    assert len(long) < 1000
    assert long.startswith("column 'xxx")
    assert long.endswith("' is bad; rename it")


@pytest.mark.parametrize("kind", [DataError, NonFiniteLossError, RunFolderError])
def test_one_except_clause_catches_them_all(kind):
    assert issubclass(kind, KanDiffusionError)
    assert issubclass(kind, ValueError)
