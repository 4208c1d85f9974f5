"""Studies of all families."""

from helpers import refused
from kan_diffusion.denoisers.registry import FAMILIES
from kan_diffusion.study.named import study_for


def test_all_families_but_those_that_cannot_be_fitted(caplog):
    assert [model.family for model in study_for("moons", families=["all"]).models] == list(FAMILIES)
    some = study_for("mixture-32d", 800, families=["all"])
    assert 0 < len(some.models) < len(FAMILIES)
    assert caplog.text.count("left out: ") == len(FAMILIES) - len(some.models)
    with refused("no family has that size on 'mixture-32d': a budg"):
        study_for("mixture-32d", 40, families=["all"])
    # What was asked for by name is not left out in silence: building it says what is wrong.
    asked = study_for("mixture-32d", 40, families=["kan"])
    assert [model.family for model in asked.models] == ["kan"]
