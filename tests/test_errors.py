import pytest

from kan_diffusion.errors import (
    DataError,
    KanDiffusionError,
    NonFiniteLossError,
    RunFolderError,
    unknown_name,
)


def test_a_misspelt_name_is_answered_with_the_nearest_and_another_with_the_list():
    error = unknown_name("family", "kann", ["mlp", "kan"])
    assert str(error) == "unknown family 'kann', did you mean 'kan'? known: kan, mlp"
    error = unknown_name("process", "quux", iter(["ddpm", "cosine"]))
    assert str(error) == "unknown process 'quux'; known: cosine, ddpm"


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
