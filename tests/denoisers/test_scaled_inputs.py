"""Inputs that the timestep scales, in modulated KAN denoisers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from helpers import randn, refused, seeded
from kan_diffusion.denoisers import KANDenoiser
from kan_diffusion.denoisers.stacks import Stack

T = 50
HIDDEN = (4, 3)


def _denoiser(**settings: object) -> KANDenoiser:
    settings = {"modulated": True, "scaled_inputs": True, **settings}
    made = KANDenoiser(2, hidden=HIDDEN, num_train_timesteps=T, **settings).double()
    made.reset_parameters(seeded(0))
    return made


def _move(denoiser: KANDenoiser) -> None:
    with torch.no_grad():
        for parameter in denoiser.stack.modulation.parameters():
            parameter.normal_(0, 0.3, generator=seeded(3))


def _batch() -> tuple[Tensor, Tensor]:
    return randn(5, 2, seed=1), torch.tensor([0, 7, 25, 48, 49])


@pytest.mark.parametrize("settings", [{}, {"num_input_frequencies": 2}, {"residual": True}])
def test_inputs_are_scaled_unit_by_unit(settings: dict[str, object]) -> None:
    denoiser = _denoiser(**settings)
    _move(denoiser)
    points, steps = _batch()
    seen = points if denoiser.point_features is None else denoiser.point_features(points)
    weight, bias = (p.detach() for p in denoiser.stack.modulation.parameters())
    total, rows = sum(HIDDEN), []
    for point, step in zip(seen, steps, strict=True):
        time = denoiser.time_features(step.reshape(1), torch.float64)[0]
        moved = [float(row @ time + shift) for row, shift in zip(weight, bias, strict=True)]
        assert len(moved) == 2 * total + len(point)
        state = torch.stack([p * (1 + s) for p, s in zip(point, moved[2 * total :], strict=True)])
        start = 0
        for index, width in enumerate(HIDDEN):
            before = state
            state = denoiser.stack.layers[index](state[None])[0]
            scale = torch.tensor(moved[start : start + width])
            shift = torch.tensor(moved[total + start : total + start + width])
            state = state * (1 + scale) + shift
            if settings.get("residual") and index:
                state = state + before[:width]
            start += width
        rows.append(denoiser.stack.layers[-1](state[None])[0])
    torch.testing.assert_close(denoiser(points, steps).sample, torch.stack(rows))
    each = denoiser(points, torch.full((5,), 7)).sample
    torch.testing.assert_close(denoiser(points, 7).sample, each)


def test_it_starts_as_the_network_without_and_learns_from_there() -> None:
    scaled, plain = _denoiser(), _denoiser(scaled_inputs=False)
    points, steps = _batch()
    assert torch.equal(scaled(points, steps).sample, plain(points, steps).sample)
    scaled(points, steps).sample.square().mean().backward()
    of_inputs = scaled.stack.modulation.weight.grad[2 * sum(HIDDEN) :]
    assert len(of_inputs) == 2
    assert bool((of_inputs.abs().amax(1) > 0).all())
    _move(scaled)
    assert not torch.equal(scaled(points, steps).sample, plain(points, steps).sample)
    scaled.reset_parameters(seeded(0))
    assert torch.equal(scaled(points, steps).sample, plain(points, steps).sample)


def test_it_is_saved_and_loaded(tmp_path: Path) -> None:
    denoiser = _denoiser().float()
    _move(denoiser)
    denoiser.save_pretrained(tmp_path)
    loaded = KANDenoiser.from_pretrained(tmp_path)
    points, steps = _batch()
    points = points.float()
    assert loaded.config.scaled_inputs
    assert torch.equal(loaded(points, steps).sample, denoiser(points, steps).sample)


@pytest.mark.parametrize("frequencies", [0, 2])
def test_its_operations_are_counted(frequencies: int) -> None:
    scaled = _denoiser(num_input_frequencies=frequencies)
    plain = _denoiser(num_input_frequencies=frequencies, scaled_inputs=False)
    inputs = 2 * (1 + 2 * frequencies)
    # A row of the modulation more for each input, its bias, one plus the scale and the product.
    features = scaled.time_features.num_features
    extra = inputs * (2 * features + 1) + 2 * inputs
    assert scaled.flops - plain.flops == extra
    assert scaled.num_trainable - plain.num_trainable == inputs * (features + 1)


def test_it_needs_modulation() -> None:
    for make in (
        lambda: KANDenoiser(2, hidden=HIDDEN, scaled_inputs=True),
        lambda: KANDenoiser(2, hidden=HIDDEN, scaled_inputs=True, residual=True),
        lambda: Stack([torch.nn.Linear(2, 2)], [], num_scaled_inputs=2),
    ):
        with refused("need modulation; set modulated"):
            make()
