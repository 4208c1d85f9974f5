from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from helpers import randn, refused, seeded
from kan_diffusion.denoisers import Denoiser, KANDenoiser, MLPDenoiser
from kan_diffusion.denoisers.stacks import Stack

T = 100
HIDDEN = (6, 4, 4, 7)
"""Narrower, alike and wider."""

each_class = pytest.mark.parametrize("kind", [KANDenoiser, MLPDenoiser])


def _denoiser(kind: type[Denoiser], **settings: object) -> Denoiser:
    denoiser = kind(3, hidden=HIDDEN, num_train_timesteps=T, **settings).double()
    denoiser.reset_parameters(seeded(0))
    return denoiser


def _modulate(denoiser: Denoiser) -> torch.nn.Linear:
    """Gives the modulation something to do, and returns it."""
    modulation = denoiser.stack.modulation
    with torch.no_grad():
        for parameter in modulation.parameters():
            parameter.normal_(0, 0.3, generator=seeded(3))
    return modulation


def _batch() -> tuple[Tensor, Tensor, Tensor]:
    points = randn(5, 3, seed=1)
    return points, torch.tensor([0, 7, 50, 98, 99]), torch.tensor([0, 1, -1, 1, 0])


def _by_hand(denoiser: Denoiser, residual: bool, modulated: bool) -> Tensor:
    """The forward pass, row by row and unit by unit."""
    points, steps, labels = _batch()
    if denoiser.point_features is not None:
        points = denoiser.point_features(points)
    activation: Callable[[Tensor], Tensor] = lambda x: x  # noqa: E731
    if isinstance(denoiser, MLPDenoiser):
        activation = torch.nn.functional.silu
    *layers, last = denoiser.stack.layers
    modulation, scaled = denoiser.stack.modulation, denoiser.config.get("scaled_inputs")
    rows = []
    for point, step, label in zip(points, steps, labels, strict=True):
        time = denoiser.time_features(step.reshape(1), torch.float64)[0]
        onehot = torch.zeros(2, dtype=torch.float64)
        if label >= 0:
            onehot[label] = 1
        state = torch.cat([point, onehot] if modulated else [point, time, onehot])
        total, place = sum(HIDDEN), 0
        if modulated:
            moved = torch.stack([row @ time for row in modulation.weight]) + modulation.bias
            assert len(moved) == 2 * total + (len(state) if scaled else 0)
            if scaled:
                state = state * (1 + moved[2 * total :])
        for index, layer in enumerate(layers):
            output = layer(state.unsqueeze(0))[0]
            width = len(output)
            if modulated:
                scale, shift = (moved[start : start + width] for start in (place, total + place))
                output = torch.stack(
                    [y * (1 + a) + b for y, a, b in zip(output, scale, shift, strict=True)]
                )
                place += width
            output = activation(output)
            if residual and index:
                identity = torch.zeros(width, dtype=torch.float64)
                shared = min(width, len(state))
                identity[:shared] = state[:shared]
                output = output + identity
            state = output
        rows.append(last(state.unsqueeze(0))[0])
    return torch.stack(rows)


KINDS = [
    (kind, settings)
    for kind in (KANDenoiser, MLPDenoiser)
    for settings in ({"residual": True}, {"modulated": True}, {"residual": True, "modulated": True})
] + [
    (KANDenoiser, {"modulated": True, "scaled_inputs": True, **settings})
    for settings in ({}, {"num_input_frequencies": 2}, {"residual": True})
]


@pytest.mark.parametrize(("kind", "settings"), KINDS)
def test_a_stack_is_what_is_written(kind: type[Denoiser], settings: dict[str, object]) -> None:
    denoiser = _denoiser(kind, num_classes=2, **settings)
    residual, modulated = (settings.get(name, False) for name in ("residual", "modulated"))
    if modulated:
        _modulate(denoiser)
    points, steps, labels = _batch()
    expected = _by_hand(denoiser, residual, modulated)
    torch.testing.assert_close(denoiser(points, steps, labels).sample, expected)
    # A timestep for all is modulated once, and is the same.
    for step in (7, 7.0, 7.5):
        each = denoiser(points, torch.full((5,), step), labels).sample
        torch.testing.assert_close(denoiser(points, step, labels).sample, each)


@pytest.mark.parametrize(("kind", "settings"), [each for each in KINDS if each[1].get("modulated")])
def test_modulation_is_absent_at_the_start_and_learned_from_there(
    kind: type[Denoiser], settings: dict[str, object]
) -> None:
    denoiser = _denoiser(kind, **settings)
    points, steps, _ = _batch()
    seen = points if denoiser.point_features is None else denoiser.point_features(points)
    stack = denoiser.stack
    at_start = stack(seen)
    assert torch.equal(denoiser(points, steps).sample, at_start)
    output = denoiser(points, steps).sample
    output.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in stack.modulation.parameters())
    of_inputs = stack.modulation.weight.grad[2 * sum(HIDDEN) :]
    assert len(of_inputs) == stack.num_scaled_inputs
    assert bool((of_inputs != 0).any(1).all())
    _modulate(denoiser)
    assert not torch.allclose(denoiser(points, steps).sample, at_start)
    denoiser.reset_parameters(seeded(0))
    assert torch.equal(denoiser(points, steps).sample, at_start)


@each_class
def test_where_the_layers_give_nothing_the_first_passes_through(kind: type[Denoiser]) -> None:
    denoiser = _denoiser(kind, residual=True)
    first, *middle, last = denoiser.stack.layers
    with torch.no_grad():
        for layer in middle:
            for parameter in layer.parameters():
                parameter.zero_()
    points, steps, _ = _batch()
    time = denoiser.time_features(steps, points.dtype)
    state = first(torch.cat([points, time], dim=-1))
    if kind is MLPDenoiser:
        state = torch.nn.functional.silu(state)
    # Cut to the narrowest of the layers between, then filled up with zeros.
    passed = torch.nn.functional.pad(state[:, : min(HIDDEN[1:])], (0, HIDDEN[-1] - HIDDEN[2]))
    torch.testing.assert_close(denoiser(points, steps).sample, last(passed))


@each_class
def test_plain_denoisers_keep_their_names_and_their_draws(kind: type[Denoiser]) -> None:
    plain, residual = _denoiser(kind), _denoiser(kind, residual=True)
    assert plain.stack is None
    assert isinstance(residual.stack, Stack)
    assert residual.num_trainable == plain.num_trainable
    if kind is KANDenoiser:
        assert "network.layers.0.weight" in plain.state_dict()
    else:
        assert set(plain.state_dict()) == {
            f"network.{2 * layer}.{name}" for layer in range(5) for name in ("weight", "bias")
        }
    for one, two in zip(plain.parameters(), residual.parameters(), strict=True):
        assert torch.equal(one, two)


def test_timesteps_that_are_not_as_many_as_the_points_are_an_error() -> None:
    denoiser = MLPDenoiser(3, hidden=(4,), modulated=True)
    with pytest.raises(RuntimeError, match="expand"):
        denoiser(torch.zeros(1, 3), torch.arange(6))


@pytest.mark.parametrize("frequencies", [0, 2])
def test_operations_of_scaled_inputs_are_counted(frequencies: int) -> None:
    scaled, plain = (
        _denoiser(
            KANDenoiser, modulated=True, scaled_inputs=each, num_input_frequencies=frequencies
        )
        for each in (True, False)
    )
    inputs = 3 * (1 + 2 * frequencies)
    # A row of the modulation more for each input, its bias, one plus the scale and the product.
    features = scaled.time_features.num_features
    extra = inputs * (2 * features + 1) + 2 * inputs
    assert scaled.flops - plain.flops == extra
    assert scaled.num_trainable - plain.num_trainable == inputs * (features + 1)


def test_scaled_inputs_need_modulation() -> None:
    for make in (
        lambda: KANDenoiser(2, hidden=HIDDEN, scaled_inputs=True),
        lambda: KANDenoiser(2, hidden=HIDDEN, scaled_inputs=True, residual=True),
        lambda: Stack([torch.nn.Linear(2, 2)], [], num_scaled_inputs=2),
    ):
        with refused("need modulation; set modulated"):
            make()
