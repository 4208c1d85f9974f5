from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import pytest
import torch
from diffusers.configuration_utils import register_to_config
from hypothesis import assume, given
from hypothesis import strategies as st

from helpers import refused
from kan_diffusion.denoisers import FAMILIES, Family, PointDenoiser, build_denoiser
from kan_diffusion.denoisers.sizing import BUDGET_TOLERANCE, widths_for_budget
from kan_diffusion.errors import KanDiffusionError


class _Count:
    """Parameters of a network with so many for each edge and one bias an output."""

    def __init__(self, per_edge: int, inputs: int, outputs: int) -> None:
        self._per_edge, self._inputs, self._outputs = per_edge, inputs, outputs

    def __call__(self, hidden: Sequence[int]) -> int:
        widths = [self._inputs, *hidden, self._outputs]
        return sum(a * b * self._per_edge + b for a, b in itertools.pairwise(widths))


@given(
    st.integers(1, 14),
    st.integers(3, 20),
    st.integers(1, 12),
    st.integers(2, 5),
    st.integers(2_000, 300_000),
)
def test_widths_meet_their_budget_and_stay_nearly_equal(
    per_edge: int, inputs: int, outputs: int, depth: int, budget: int
) -> None:
    count = _Count(per_edge, inputs, outputs)
    assume(count((4,) * depth) <= budget)
    widths = widths_for_budget(count, depth, budget)
    assert len(widths) == depth
    assert abs(count(widths) - budget) <= 0.02 * budget
    assert max(widths) <= 4 * min(widths)


@given(st.integers(1, 14), st.integers(1, 20), st.integers(1, 12), st.integers(20, 100_000))
def test_one_hidden_layer_gets_the_nearest_width_there_is(
    per_edge: int, inputs: int, outputs: int, budget: int
) -> None:
    count = _Count(per_edge, inputs, outputs)
    nearest = min(range(1, budget + 2), key=lambda width: abs(count((width,)) - budget))
    miss = abs(count((nearest,)) - budget)
    if count((1,)) > budget or miss > BUDGET_TOLERANCE * budget:
        with pytest.raises(KanDiffusionError):
            widths_for_budget(count, 1, budget)
    else:
        assert abs(count(widths_for_budget(count, 1, budget)) - budget) == miss


@given(
    st.integers(1, 14),
    st.integers(1, 20),
    st.integers(1, 12),
    st.integers(1, 5),
    st.integers(20, 30_000),
)
def test_an_upper_bound_is_kept_and_no_layer_can_be_wider(
    per_edge: int, inputs: int, outputs: int, depth: int, budget: int
) -> None:
    count = _Count(per_edge, inputs, outputs)
    ones = (1,) * depth
    if count(ones) > budget:
        with refused(f"a budget of {budget:,} is too small .* smallest has {count(ones):,};"):
            widths_for_budget(count, depth, budget, at_most=True)
        return
    widths = widths_for_budget(count, depth, budget, at_most=True)
    assert count(widths) <= budget
    for layer in range(depth):
        wider = tuple(width + (index == layer) for index, width in enumerate(widths))
        assert count(wider) > budget
    if depth == 1:
        assert count(widths) == max(
            number for width in range(1, budget) if (number := count((width,))) <= budget
        )


def test_a_count_that_does_not_grow_with_a_layer_is_refused() -> None:
    # Such a layer could be widened for ever.
    with refused(r"1,000 FLOPs.* hidden layer 2; give hidden"):
        widths_for_budget(lambda hidden: 7 * hidden[0], 2, 1_000, unit=" FLOPs")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_count_of_every_family_grows_with_every_width(family: str) -> None:
    def counts(hidden: Sequence[int]) -> list[int]:
        denoiser = build_denoiser(family, 3, num_train_timesteps=10, hidden=hidden)
        return [getattr(denoiser, name) for name in ("num_trainable", "flops", "flops_per_edge")]

    widths = (9, 8, 9)[: FAMILIES[family].depth]
    before = counts(widths)
    for layer in range(len(widths)):
        wider = tuple(width + (index == layer) for index, width in enumerate(widths))
        assert all(after > count for after, count in zip(counts(wider), before, strict=True))


@pytest.mark.parametrize("family", ["kan", "modulated-kan", "mlp", "spline-mlp", "rbf-2015"])
@pytest.mark.parametrize(
    ("countable", "amount"), [("flops", 6_000), ("flops", 40_000), ("flops_per_edge", 90_000)]
)
def test_operations_are_fitted_as_parameters_are(family: str, countable: str, amount: int) -> None:
    denoiser = build_denoiser(family, 3, num_train_timesteps=100, **{countable: amount})
    assert abs(getattr(denoiser, countable) - amount) <= BUDGET_TOLERANCE * amount


@pytest.mark.parametrize("family", ["kan", "mlp"])
@pytest.mark.parametrize(("params", "depth"), [(2_300, 3), (20_000, 2), (4_433, 2)])
def test_depth_and_classes_are_fitted_with(family: str, params: int, depth: int) -> None:
    options = {"params": params, "depth": depth, "num_classes": 3}
    denoiser = build_denoiser(family, 2, num_train_timesteps=1000, **options)
    assert abs(denoiser.num_trainable - params) <= BUDGET_TOLERANCE * params
    assert len(denoiser.config.hidden) == depth


class _Counted(PointDenoiser):
    """A linear layer in and one out; counts how often it is built."""

    built = 0

    @register_to_config
    def __init__(
        self,
        data_dim: int,
        hidden: Sequence[int] = (4,),
        num_train_timesteps: int = 10,
        num_classes: int = 0,
        bias: bool = True,
        ends: Sequence[float] = (),
    ) -> None:
        super().__init__()
        type(self).built += 1
        num_inputs = self._setup_inputs(data_dim, num_train_timesteps, "raw", 1, num_classes)
        self.network = torch.nn.Sequential(
            torch.nn.Linear(num_inputs, hidden[0], bias), torch.nn.Linear(hidden[0], data_dim)
        )

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Leaves torch's own."""


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Sequence[int], bool]]:
    """Fits a family; gives its widths, and whether they were searched."""

    def fit(family: Family, params: int = 2_000, **options: object) -> tuple[Sequence[int], bool]:
        monkeypatch.setitem(FAMILIES, family.name, family)
        before = _Counted.built
        fitted = build_denoiser(family.name, 2, num_train_timesteps=10, params=params, **options)
        assert _Counted.built - before < 30
        return fitted.config.hidden, _Counted.built - before > 1

    return fit


COUNTED = Family("counted", _Counted, depth=1, learning_rate=1e-2)


def test_widths_are_searched_once_for_all_that_would_be_built_alike(searches) -> None:
    found, searched = searches(COUNTED)
    assert searched
    assert searches(COUNTED) == (found, False)
    alike = Family("counted", _Counted, depth=1, learning_rate=2e-2)
    assert searches(alike) == (found, False)
    for options in ({"params": 2_100}, {"num_classes": 3}, {"settings": {"bias": False}}):
        other, searched = searches(COUNTED, **options)
        assert searched
        assert other != found


def test_lists_and_tuples_are_one_setting_but_true_and_one_are_two(searches) -> None:
    family = Family("true-or-one", _Counted, depth=1, learning_rate=1e-2)
    as_list, _ = searches(family, settings={"ends": [-3.0, 3.0]})
    assert searches(family, settings={"ends": (-3.0, 3.0)}) == (as_list, False)
    assert searches(family, settings={"bias": True})[1]
    assert searches(family, settings={"bias": 1})[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"hidden": (10**7, 10**7)},
            "at most 1,000,000 units, and one of family 'kan' would have 10,000,000",
        ),
        ({"hidden": (8,) * 101}, "at most 100 hidden layers, not 101"),
        ({"params": 2300, "depth": 10**9}, "from 1 to 100 hidden layers, not 1,000,000,000"),
        ({"params": 10**9}, "would have 1,000,.* parameters .* at most 100,000,000"),
        ({"flops": 10**15}, "at most 1,000,000,000,000 FLOPs"),
        ({"hidden": (8,), "settings": {"grid_size": 10**9}}, "at most 100,000,000"),
    ],
)
def test_what_no_machine_has_room_for_is_refused_before_it_is_made(options, words: str) -> None:
    for _ in range(2):  # also when its widths are known already
        with refused(words), torch.device("meta"):
            build_denoiser("kan", 2, num_train_timesteps=1000, **options)
