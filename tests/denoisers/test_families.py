from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from kan_diffusion.denoisers import FAMILIES, KANDenoiser, MLPDenoiser, build_denoiser, get_family
from kan_diffusion.denoisers.families import BUDGET_TOLERANCE, widths_for_budget
from kan_diffusion.errors import KanDiffusionError


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("params", "depth"), [(2_300, None), (2_300, 3), (20_000, 2), (4_433, 2)])
@pytest.mark.parametrize("num_classes", [0, 3])
def test_fitted_denoisers_have_the_parameters_asked_for(
    family: str, params: int, depth: int | None, num_classes: int
) -> None:
    denoiser = build_denoiser(
        family, 2, num_train_timesteps=1000, params=params, depth=depth, num_classes=num_classes
    )
    assert abs(denoiser.num_trainable - params) <= BUDGET_TOLERANCE * params
    expected_depth = FAMILIES[family].depth if depth is None else depth
    assert len(denoiser.config.hidden) == expected_depth
    assert denoiser(torch.zeros(3, 2), 0).sample.isfinite().all()
    assert all(parameter.device.type == "cpu" for parameter in denoiser.parameters())


def test_given_widths_and_settings_arrive() -> None:
    denoiser = build_denoiser(
        "kan",
        3,
        num_train_timesteps=250,
        hidden=(4, 5),
        settings={"grid_size": 9, "order": 2, "extrapolation": "clamp"},
    )
    assert isinstance(denoiser, KANDenoiser)
    assert [layer.out_features for layer in denoiser.network.layers] == [4, 5, 3]
    assert {layer.grid_size for layer in denoiser.network.layers} == {9}
    assert {layer.basis.order for layer in denoiser.network.layers} == {2}
    assert denoiser.config.num_train_timesteps == 250
    linear = build_denoiser("mlp", 3, num_train_timesteps=250, hidden=())
    assert isinstance(linear, MLPDenoiser)
    assert linear.num_trainable == 3 * (3 + 6) + 3


def test_a_generator_decides_the_initial_parameters() -> None:
    first, again, other = (
        build_denoiser("kan", 2, num_train_timesteps=10, params=2_300, generator=_generator(seed))
        for seed in (0, 0, 1)
    )
    x = torch.randn(4, 2, generator=_generator(2))
    assert torch.equal(first(x, 3).sample, again(x, 3).sample)
    assert not torch.equal(first(x, 3).sample, other(x, 3).sample)


def test_the_search_for_widths_draws_nothing() -> None:
    # Widths are searched on the meta device: only the one real denoiser takes random numbers.
    state = torch.get_rng_state()
    try:
        fitted = build_denoiser("kan", 2, num_train_timesteps=1000, params=2_300)
        after_fit = torch.get_rng_state()
        torch.set_rng_state(state)
        build_denoiser("kan", 2, num_train_timesteps=1000, hidden=fitted.config.hidden)
        assert torch.equal(torch.get_rng_state(), after_fit)
    finally:
        torch.set_rng_state(state)


def test_an_unknown_family_is_answered_with_the_nearest() -> None:
    with pytest.raises(KanDiffusionError, match="unknown family 'mpl', did you mean 'mlp'"):
        get_family("mpl")
    with pytest.raises(KanDiffusionError, match="known: kan, mlp"):
        build_denoiser("transformer", 2, num_train_timesteps=10, params=2_000)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"params": 10}, r"budget of 10 is too small for the family 'mlp' with 6 hidden layers"),
        ({"params": 10, "depth": 1}, r"with 1 hidden layer: its smallest has 13; raise the budget"),
        ({"params": 50, "depth": 1}, r"within 2% of a budget of 50: the nearest has 46; try .* 46"),
        ({"params": 500, "depth": 0}, "at least 1 hidden layer, not 0"),
        ({}, "either the number of parameters or the hidden widths"),
        ({"params": 500, "hidden": (4,)}, "either the number of parameters or the hidden widths"),
        ({"params": 500, "settings": {"grid_size": 5}}, "family 'mlp': .*'grid_size'"),
        ({"hidden": (4,), "settings": {"hidden": (5,)}}, "family 'mlp': .*'hidden'"),
        ({"hidden": (4,), "settings": {"activation": "rel"}}, "did you mean 'relu'"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_line(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(KanDiffusionError, match=message) as caught:
        build_denoiser("mlp", 2, num_train_timesteps=10, **options)
    assert "\n" not in str(caught.value)
