import pytest
import torch

from helpers import randn, seeded
from kan_diffusion.denoisers import KANDenoiser, MLPDenoiser

T = 100
HIDDEN = (6, 4, 4, 7)  # narrower, alike and wider


def _denoiser(kind, **settings):
    denoiser = kind(3, hidden=HIDDEN, num_train_timesteps=T, **settings).double()
    denoiser.reset_parameters(seeded(0))
    return denoiser


def _modulate(denoiser):
    with torch.no_grad():
        for parameter in denoiser.stack.modulation.parameters():
            parameter.normal_(0, 0.3, generator=seeded(3))


def _batch():
    points = randn(5, 3, seed=1)
    return points, torch.tensor([0, 7, 50, 98, 99]), torch.tensor([0, 1, -1, 1, 0])


def _by_hand(denoiser, residual, modulated):
    """The forward pass, row by row and unit by unit."""
    points, steps, labels = _batch()
    if denoiser.point_features is not None:
        points = denoiser.point_features(points)
    activation = lambda x: x  # noqa: E731
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
    (KANDenoiser, {"residual": True, "modulated": True}),
    (KANDenoiser, {"modulated": True, "scaled_inputs": True, "num_input_frequencies": 2}),
    (MLPDenoiser, {"residual": True}),
    (MLPDenoiser, {"modulated": True}),
]


@pytest.mark.parametrize(("kind", "settings"), KINDS)
def test_a_stack_is_what_is_written(kind, settings):
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


@pytest.mark.parametrize(("kind", "settings"), [each for each in KINDS if "modulated" in each[1]])
def test_modulation_is_absent_at_the_start_and_learned_from_there(kind, settings):
    denoiser = _denoiser(kind, **settings)
    points, steps, _ = _batch()
    seen = points if denoiser.point_features is None else denoiser.point_features(points)
    stack = denoiser.stack
    at_start = stack(seen)
    output = denoiser(points, steps).sample
    assert torch.equal(output, at_start)
    output.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in stack.modulation.parameters())
    of_inputs = stack.modulation.weight.grad[2 * sum(HIDDEN) :]
    assert len(of_inputs) == stack.num_scaled_inputs
    assert bool((of_inputs != 0).any(1).all())
    _modulate(denoiser)
    assert not torch.allclose(denoiser(points, steps).sample, at_start)
    denoiser.reset_parameters(seeded(0))
    assert torch.equal(denoiser(points, steps).sample, at_start)
