from __future__ import annotations

import pytest

from kan_diffusion.errors import (
    DataError,
    KanDiffusionError,
    NonFiniteLossError,
    RunFolderError,
    unknown_name,
)


def test_a_misspelt_name_is_answered_with_the_nearest() -> None:
    error = unknown_name("family", "kann", ["mlp", "kan"])
    assert str(error) == "unknown family 'kann', did you mean 'kan'? known: kan, mlp"


def test_a_name_like_no_other_gets_the_list_alone() -> None:
    error = unknown_name("process", "quux", iter(["ddpm", "cosine"]))
    assert str(error) == "unknown process 'quux'; known: cosine, ddpm"


@pytest.mark.parametrize("kind", [DataError, NonFiniteLossError, RunFolderError])
def test_one_except_clause_catches_them_all(kind: type[KanDiffusionError]) -> None:
    assert issubclass(kind, KanDiffusionError)
    assert issubclass(kind, ValueError)
